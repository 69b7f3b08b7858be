mod steps;

use super::*;
use crate::counters::Counters;
use crate::snapshot::{Scheduler, SchedulerFlags, Tunnel, TunnelKind};
use crate::tcp::Timeouts;

const LIMITS: Limits = Limits { services_max: 2, reals_max: 4, pairs_max: 8 };

fn planner() -> (Planner, Vec<Arc<Counters>>) {
    let counters: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(2, 4, 8))).collect();
    (Planner::new(LIMITS, counters.clone()), counters)
}

fn endpoint(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 2, 0, last], port))
}

fn service(vport: u16, reals: &[u8]) -> ServiceSpec {
    ServiceSpec {
        protocol: 6,
        virtual_: SocketAddr::from(([10, 1, 0, 100], vport)),
        also: Vec::new(),
        scheduler: Scheduler::Wlc,
        flags: SchedulerFlags::default(),
        toa: None,
        timeouts: Timeouts::default(),
        locals: vec![[10, 2, 0, 200].into()],
        local_ports: (1024, 65535),
        options: Default::default(),
        sorry: None,
        reals: reals.iter().map(|last| RealSpec::new(endpoint(*last, 80), Mode::FullNat, 1)).collect(),
    }
}

fn listen(ports: (u16, u16)) -> Listen {
    Listen { protocol: 6, address: service(80, &[]).virtual_.ip(), ports }
}

fn plan(planner: &mut Planner, services: Vec<ServiceSpec>) -> Result<Vec<Update>, PlanError> {
    planner.plan(&Spec { generation: 1, services })
}

#[test]
fn slots_stay_where_they_are_while_things_come_and_go() {
    let (mut planner, _) = planner();
    plan(&mut planner, vec![service(80, &[1, 2])]).unwrap();
    let vip = service(80, &[]).virtual_;
    let before = planner.real_id(6, vip, endpoint(2, 80));
    plan(&mut planner, vec![service(80, &[2, 3])]).unwrap();
    assert_eq!(planner.real_id(6, vip, endpoint(2, 80)), before);
    assert_eq!(planner.real_id(6, vip, endpoint(1, 80)), None);
}

#[test]
fn only_new_pairs_bring_port_sets() {
    let (mut planner, _) = planner();
    let first = plan(&mut planner, vec![service(80, &[1, 2])]).unwrap();
    assert_eq!(first.iter().map(|update| update.port_sets.len()).collect::<Vec<_>>(), [2, 2]);
    let second = plan(&mut planner, vec![service(80, &[1, 2, 3])]).unwrap();
    assert_eq!(second[0].port_sets.len(), 1);
}

#[test]
fn services_with_the_same_real_server_and_local_address_share_a_pair() {
    let (mut planner, _) = planner();
    plan(&mut planner, vec![service(80, &[1]), service(81, &[1])]).unwrap();
    assert_eq!(planner.pairs().count(), 1);
}

#[test]
fn a_slot_is_not_reused_while_connections_remember_it() {
    let (mut planner, counters) = planner();
    plan(&mut planner, vec![service(80, &[1, 2, 3, 4])]).unwrap();
    let vip = service(80, &[]).virtual_;
    let old = planner.real_id(6, vip, endpoint(1, 80)).unwrap();
    counters[1].real(old).held.add(1);
    counters[1].real(old).packets[0].add(7);
    let full = plan(&mut planner, vec![service(80, &[5, 2, 3, 4])]);
    assert_eq!(full.err(), Some(PlanError::TooMany { what: "real servers", wanted: 5, limit: 4 }));
    // It left, and what is left alone comes back where it was.
    plan(&mut planner, vec![service(80, &[2, 3, 4])]).unwrap();
    plan(&mut planner, vec![service(80, &[1, 2, 3, 4])]).unwrap();
    assert_eq!(planner.real_id(6, vip, endpoint(1, 80)), Some(old));
    // Without connections the slot is free for another.
    plan(&mut planner, vec![service(80, &[2, 3, 4])]).unwrap();
    counters[1].real(old).held.sub(1);
    plan(&mut planner, vec![service(80, &[5, 2, 3, 4])]).unwrap();
    assert_eq!(planner.real_id(6, vip, endpoint(5, 80)), Some(old));
    assert_eq!(counters[1].real(old).packets[0].get(), 0, "the next tenant starts from 0");
}

#[test]
fn with_twice_the_slots_each_change_can_replace_everything_that_has_no_connections() {
    let (mut planner, counters) = planner();
    let vip = service(80, &[]).virtual_;
    for reals in [[1, 2], [3, 4], [5, 6], [1, 2]] {
        plan(&mut planner, vec![service(80, &reals)]).unwrap();
    }
    let busy = planner.real_id(6, vip, endpoint(1, 80)).unwrap();
    counters[0].real(busy).held.add(1);
    plan(&mut planner, vec![service(80, &[3, 4])]).unwrap();
    assert!(plan(&mut planner, vec![service(80, &[5, 6])]).is_err(), "one slot of four is remembered");
    counters[0].real(busy).held.sub(1);
    plan(&mut planner, vec![service(80, &[5, 6])]).unwrap();
}

#[test]
fn a_slot_is_never_given_away_by_the_change_that_takes_its_tenant_away() {
    let (mut planner, _) = planner();
    plan(&mut planner, vec![service(80, &[1, 2])]).unwrap();
    let vip = service(80, &[]).virtual_;
    let old = [1, 2].map(|last| planner.real_id(6, vip, endpoint(last, 80)).unwrap());
    plan(&mut planner, vec![service(80, &[3, 4])]).unwrap();
    for last in [3, 4] {
        assert!(!old.contains(&planner.real_id(6, vip, endpoint(last, 80)).unwrap()));
    }
}

#[test]
fn a_refused_plan_changes_nothing() {
    let (mut planner, _) = planner();
    plan(&mut planner, vec![service(80, &[1])]).unwrap();
    assert!(plan(&mut planner, vec![service(80, &[2]), service(81, &[3, 4, 5, 6])]).is_err());
    let vip = service(80, &[]).virtual_;
    assert!(planner.real_id(6, vip, endpoint(1, 80)).is_some());
    assert!(planner.real_id(6, vip, endpoint(2, 80)).is_none());
}

#[test]
fn contradictions_are_refused_by_name() {
    let (mut planner, _) = planner();
    let base = || service(80, &[1]);
    let vip = base().virtual_;
    let cases = [
        (vec![base(), base()], PlanError::DuplicateService(vip)),
        (vec![service(80, &[1, 1])], PlanError::DuplicateReal { service: vip, real: endpoint(1, 80) }),
        (vec![ServiceSpec { locals: vec![vip.ip()], ..base() }], PlanError::VirtualIsLocal(vip.ip())),
        (
            vec![ServiceSpec { locals: vec![], ..base() }],
            PlanError::NoLocalAddress { service: vip, real: endpoint(1, 80) },
        ),
        (
            vec![base(), ServiceSpec { also: vec![listen((75, 85))], ..service(90, &[2]) }],
            PlanError::ListenTwice(service(90, &[]).virtual_, vip, vip),
        ),
        (
            vec![
                ServiceSpec { also: vec![listen((1, 50))], ..service(90, &[2]) },
                ServiceSpec { also: vec![listen((1, u16::MAX))], ..service(91, &[3]) },
                service(20, &[1]),
            ],
            PlanError::ListenTwice(
                service(90, &[]).virtual_,
                service(20, &[]).virtual_,
                service(20, &[]).virtual_,
            ),
        ),
        (
            vec![ServiceSpec { local_ports: (9, 8), ..base() }],
            PlanError::PortRange { service: vip, first: 9, last: 8 },
        ),
    ];
    for (services, error) in cases {
        assert_eq!(plan(&mut planner, services).err(), Some(error));
    }
}

#[test]
fn weights_of_servers_that_are_down_do_not_count() {
    let (mut planner, _) = planner();
    let mut spec = service(80, &[1, 2, 3]);
    for (real, weight) in spec.reals.iter_mut().zip([6, 4, 100]) {
        real.weight = weight;
    }
    spec.reals[2].up = false;
    let updates = plan(&mut planner, vec![spec]).unwrap();
    let snapshot = updates[0].snapshot.as_ref().unwrap();
    let service = snapshot.services().next().unwrap();
    assert_eq!((service.weight_max, service.weight_gcd), (600, 200));
}

#[test]
fn what_a_scheduler_looks_up_is_shared_with_the_next_snapshot_until_it_would_differ() {
    let (mut planner, _) = planner();
    let mut lookup = |weight| {
        let mut spec = ServiceSpec { scheduler: Scheduler::Mh, ..service(80, &[1, 2]) };
        spec.reals[0].weight = weight;
        let updates = plan(&mut planner, vec![spec]).unwrap();
        updates[0].snapshot.as_ref().unwrap().services().next().unwrap().lookup.clone()
    };
    let (first, same, other) = (lookup(1), lookup(1), lookup(2));
    assert!(Arc::ptr_eq(&first, &same));
    assert_ne!(first, other);
}

#[test]
fn workers_get_memory_for_destinations_when_a_scheduler_needs_it_and_give_it_back() {
    let (mut planner, _) = planner();
    let mut memories = |scheduler| {
        let spec = ServiceSpec { scheduler, ..service(80, &[1]) };
        let updates = plan(&mut planner, vec![spec]).unwrap();
        let of = |update: &Update| update.memories.iter().map(|(_, new)| new.is_some()).collect::<Vec<_>>();
        assert_eq!(of(&updates[0]), of(&updates[1]));
        of(&updates[0])
    };
    assert!(memories(Scheduler::Wlc).is_empty());
    assert_eq!(memories(Scheduler::Lblc), [true]);
    assert!(memories(Scheduler::Lblcr).is_empty(), "both remember the same");
    assert_eq!(memories(Scheduler::Wlc), [false]);
}

#[test]
fn a_ranking_comes_with_many_servers_and_a_new_one_whenever_they_change() {
    let limits = Limits { services_max: 1, reals_max: 100, pairs_max: 100 };
    let counters: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(1, 100, 100))).collect();
    let mut planner = Planner::new(limits, counters);
    let mut memories = |servers: u8, weight| {
        let all: Vec<u8> = (0..servers).collect();
        let mut spec = service(80, &all);
        spec.reals[0].weight = weight;
        let updates = plan(&mut planner, vec![spec]).unwrap();
        updates[1].memories.iter().map(|(_, new)| new.is_some()).collect::<Vec<_>>()
    };
    assert!(memories(31, 1).is_empty(), "few are all looked at");
    assert_eq!(memories(32, 1), [true]);
    assert!(memories(32, 1).is_empty(), "nothing has changed");
    assert_eq!(memories(32, 2), [true]);
    assert_eq!(memories(33, 2), [true]);
    assert_eq!(memories(31, 2), [false]);
}

#[test]
fn modes_that_cannot_reach_a_real_server_are_refused() {
    let (mut planner, _) = planner();
    let tunnel = |source: &str| Tunnel { kind: TunnelKind::Ipip, source: source.parse().unwrap() };
    let with = |real: &str, mode, tunnel| {
        let real = RealSpec { tunnel, ..RealSpec::new(real.parse().unwrap(), mode, 1) };
        vec![ServiceSpec { reals: vec![real], ..service(80, &[]) }]
    };
    let impossible = [
        with("[2001:db8::1]:80", Mode::Nat, None),
        with("[2001:db8::1]:80", Mode::Dr, None),
        with("10.2.0.1:81", Mode::Dr, None),
        with("10.2.0.1:81", Mode::Tun, Some(tunnel("10.2.0.200"))),
        with("10.2.0.1:80", Mode::Tun, None),
        with("[2001:db8::1]:80", Mode::Tun, Some(tunnel("10.2.0.200"))),
    ];
    for services in impossible {
        let error = plan(&mut planner, services.clone()).err();
        assert!(matches!(error, Some(PlanError::ModeImpossible { .. })), "{services:?}: {error:?}");
    }
    let possible = [
        with("10.2.0.1:81", Mode::Nat, None),
        with("10.2.0.1:80", Mode::Dr, None),
        with("10.2.0.1:0", Mode::Dr, None),
        with("[2001:db8::1]:80", Mode::Tun, Some(tunnel("2001:db8::2"))),
    ];
    for services in possible {
        plan(&mut planner, services).unwrap();
    }
}

#[test]
fn an_address_changes_sides_only_when_no_connection_remembers_it() {
    let (mut planner, counters) = planner();
    plan(&mut planner, vec![service(80, &[1])]).unwrap();
    let vip = service(80, &[]).virtual_;
    let real = planner.real_id(6, vip, endpoint(1, 80)).unwrap();
    let pair = planner.pairs().next().unwrap().id;
    counters[0].real(real).held.add(1);
    counters[0].pair(pair).in_use.add(1);
    let swapped = || {
        let swapped = ServiceSpec {
            virtual_: SocketAddr::from(([10, 2, 0, 200], 80)),
            locals: vec![vip.ip()],
            ..service(80, &[1])
        };
        vec![swapped]
    };
    plan(&mut planner, vec![]).unwrap();
    assert!(matches!(plan(&mut planner, swapped()).err(), Some(PlanError::VirtualIsLocal(_))));
    counters[0].real(real).held.sub(1);
    counters[0].pair(pair).in_use.sub(1);
    plan(&mut planner, swapped()).unwrap();
}

#[test]
fn a_slot_is_not_reused_while_templates_remember_it() {
    let (mut planner, counters) = planner();
    plan(&mut planner, vec![service(80, &[1, 2, 3, 4])]).unwrap();
    let old = planner.real_id(6, service(80, &[]).virtual_, endpoint(1, 80)).unwrap();
    // Made by one worker and, later, removed by another.
    counters[0].persistent(old).add(1);
    plan(&mut planner, vec![service(80, &[2, 3, 4])]).unwrap();
    assert!(plan(&mut planner, vec![service(80, &[2, 3, 4, 5])]).is_err());
    counters[1].persistent(old).sub(1);
    plan(&mut planner, vec![service(80, &[2, 3, 4, 5])]).unwrap();
    assert!(counters.iter().all(|page| page.persistent(old).get() == 0));
}
