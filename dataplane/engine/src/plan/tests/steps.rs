//! A plan made of what changes is the plan made of everything.

use proptest::prelude::*;

use super::*;
use crate::addr::Endpoint;
use crate::snapshot::{Options, Persistence};
use crate::time::Ticks;

const MANY: Limits = Limits { services_max: 100, reals_max: 1000, pairs_max: 1000 };
/// Services may be at either side's addresses, so that they can contradict each other.
const ADDRESSES: [[u8; 4]; 4] = [[10, 1, 0, 100], [10, 1, 0, 101], [10, 2, 0, 200], [10, 2, 0, 201]];
const PORTS: std::ops::Range<u16> = 78..85;

fn many() -> Planner {
    let counters =
        (0..2).map(|_| Arc::new(Counters::new(MANY.services_max, MANY.reals_max, MANY.pairs_max))).collect();
    Planner::new(MANY, counters)
}

fn real() -> impl Strategy<Value = RealSpec> {
    let tunnel = Tunnel { kind: TunnelKind::Ipip, source: [10, 2, 0, 250].into() };
    (1u8..5, 0..8, 0u16..3, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        move |(last, mode, weight, up, end_connections)| {
            let (mode, tunnel) = match mode {
                0 => (Mode::Nat, None),
                1 => (Mode::Tun, Some(tunnel)),
                _ => (Mode::FullNat, None),
            };
            // Any port will do for modes that cannot change it.
            let port = if tunnel.is_some() { 0 } else { 80 };
            RealSpec { tunnel, up, end_connections, ..RealSpec::new(endpoint(last, port), mode, weight) }
        },
    )
}

fn options() -> impl Strategy<Value = Options> {
    (any::<[bool; 2]>(), prop::bool::weighted(0.02)).prop_map(
        |([expire_nodest_conn, reset_on_expiry], is_persistent)| Options {
            expire_nodest_conn,
            reset_on_expiry,
            persistence: is_persistent
                .then_some(Persistence { timeout: Ticks::from_secs(60), prefix_len: 32 }),
            ..Options::default()
        },
    )
}

fn any_service() -> impl Strategy<Value = ServiceSpec> {
    let scheduler = prop::sample::select(vec![Scheduler::Rr, Scheduler::Wlc, Scheduler::Sh, Scheduler::Lblc]);
    let local = prop_oneof![9 => 2..4usize, 1 => 0..2usize];
    let vip = prop_oneof![15 => 0..2usize, 1 => 2..4usize];
    let range = prop::option::weighted(0.2, (PORTS, 0u16..2));
    let reals = prop::collection::vec(real(), 0..4);
    let sorry = prop::option::weighted(0.1, real());
    (vip, PORTS, range, scheduler, local, options(), sorry, reals).prop_map(
        |(vip, vport, range, scheduler, local, options, sorry, mut reals)| {
            reals.sort_by_key(|real| real.real);
            reals.dedup_by_key(|real| real.real);
            let also = |(first, more)| Listen {
                protocol: 6,
                address: ADDRESSES[vip].into(),
                ports: (first, first + more),
            };
            ServiceSpec {
                virtual_: SocketAddr::from((ADDRESSES[vip], vport)),
                also: range.into_iter().map(also).collect(),
                scheduler,
                locals: vec![ADDRESSES[local].into()],
                options,
                sorry,
                reals,
                ..service(80, &[])
            }
        },
    )
}

/// What is done to the services from one plan to the next.
#[derive(Debug, Clone)]
enum Step {
    Add(ServiceSpec),
    Remove(prop::sample::Index),
    /// The first becomes the second at the same address and port.
    Change(prop::sample::Index, ServiceSpec),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_service().prop_map(Step::Add),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
        2 => (any::<prop::sample::Index>(), any_service()).prop_map(|(at, to)| Step::Change(at, to)),
    ]
}

fn after(services: &[ServiceSpec], step: Step) -> Vec<ServiceSpec> {
    let mut services = services.to_vec();
    match step {
        Step::Add(service) => services.push(service),
        Step::Remove(at) if !services.is_empty() => drop(services.remove(at.index(services.len()))),
        Step::Change(at, to) if !services.is_empty() => {
            let service = at.get(&services).clone();
            let at = at.index(services.len());
            services[at] = ServiceSpec { virtual_: service.virtual_, also: service.also, ..to };
        }
        Step::Remove(_) | Step::Change(..) => {}
    }
    services
}

/// All that a snapshot says, without the numbers of slots.
#[derive(Debug, PartialEq)]
struct Said {
    services: Vec<Service>,
    /// By service: whether its connections are reset when they end.
    resets: Vec<bool>,
    /// By real server: whether its connections end, and its tunnel.
    reals: Vec<(bool, Option<Tunnel>)>,
    /// By endpoint: whether anybody listens there, and who.
    listeners: Vec<Option<Option<Endpoint>>>,
    /// By address: whether it is local, and virtual.
    sides: Vec<(bool, bool)>,
    is_persistent: bool,
}

fn said(planner: &Planner, spec: &Spec, snapshot: &Snapshot) -> Said {
    let mut services: Vec<&Service> = snapshot.services().collect();
    services.sort_by_key(|service| service.virtual_.to_socket_addr());
    check_slots(planner, &services);
    let reals = services.iter().flat_map(|service| service.reals.iter().chain(&service.sorry)).map(|real| {
        let tunnel = snapshot.wrapper(real.id).filter(|_| real.mode == Mode::Tun);
        (snapshot.has_ended(real.id), tunnel.map(|wrapper| wrapper.tunnel))
    });
    let endpoints = ADDRESSES.iter().flat_map(|address| PORTS.map(|port| SocketAddr::from((*address, port))));
    let name = |id| snapshot.service(id).map(|service| service.virtual_);
    let addresses = ADDRESSES.iter().map(|address| IpAddr::from(*address).into());
    Said {
        resets: services.iter().map(|service| snapshot.resets(service.id)).collect(),
        reals: reals.collect(),
        listeners: endpoints.map(|at| snapshot.find_id(6, at.into()).map(name)).collect(),
        sides: addresses
            .map(|address| (snapshot.locals.contains(address), snapshot.virtuals.contains(address)))
            .collect(),
        is_persistent: spec.services.iter().any(|service| service.options.persistence.is_some())
            && snapshot.templates.is_some(),
        services: services.into_iter().cloned().map(without_slots).collect(),
    }
}

/// Slots are those that the planner tells, and of pairs one for each pair.
fn check_slots(planner: &Planner, services: &[&Service]) {
    let pairs: HashMap<PairId, (IpAddr, SocketAddr)> =
        planner.pairs().map(|pair| (pair.id, (pair.local, pair.real))).collect();
    assert_eq!(pairs.len(), planner.pairs().count(), "no two pairs have the same slot");
    for service in services {
        let virtual_ = service.virtual_.to_socket_addr();
        assert_eq!(planner.service_id(6, virtual_), Some(service.id));
        for real in service.reals.iter().chain(&service.sorry) {
            let endpoint = real.endpoint.to_socket_addr();
            assert_eq!(planner.real_id(6, virtual_, endpoint), Some(real.id));
            for (local, pair) in &real.locals {
                assert_eq!(pairs.get(pair), Some(&(local.to_ip(), endpoint)));
            }
        }
    }
}

fn without_slots(mut service: Service) -> Service {
    (service.id, service.tenant) = (ServiceId(0), 0);
    for real in service.reals.iter_mut().chain(&mut service.sorry) {
        real.id = RealId(0);
        real.locals.iter_mut().for_each(|(_, pair)| *pair = PairId(0));
    }
    service
}

fn snapshot(planner: &mut Planner, spec: &Spec) -> Result<Arc<Snapshot>, PlanError> {
    Ok(planner.plan(spec)?.remove(0).snapshot.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_plan_step_by_step_is_the_plan_from_scratch(steps in prop::collection::vec(step(), 1..12)) {
        let mut planner = many();
        let mut planned = Vec::new();
        for step in steps {
            let wanted = Spec { generation: 1, services: after(&planned, step) };
            let mut other = many();
            match (snapshot(&mut planner, &wanted), snapshot(&mut other, &wanted)) {
                (Ok(_), Ok(fresh)) => {
                    // What left is forgotten by the plan after that.
                    let settled = snapshot(&mut planner, &wanted).unwrap();
                    prop_assert_eq!(said(&planner, &wanted, &settled), said(&other, &wanted, &fresh));
                    prop_assert_eq!(planner.pairs().count(), other.pairs().count());
                    planned = wanted.services;
                }
                // What is about to leave still has its address.
                (Err(PlanError::VirtualIsLocal(_)), Ok(_)) => {}
                (stepped, fresh) => prop_assert_eq!(stepped.err(), fresh.err()),
            }
        }
    }
}

#[test]
fn a_change_of_one_service_keeps_the_others_as_they_are() {
    let mut planner = many();
    let mut services = vec![service(80, &[1, 2]), service(81, &[1, 2])];
    let find = |update: &Update, port| {
        let snapshot = update.snapshot.clone().unwrap();
        let id = snapshot.find_id(6, service(port, &[]).virtual_.into()).unwrap();
        snapshot.services[id.index()].clone().unwrap()
    };
    let before = plan(&mut planner, services.clone()).unwrap();
    services[0].reals[0].weight = 7;
    let after = plan(&mut planner, services).unwrap();
    assert!(Arc::ptr_eq(&find(&before[0], 81), &find(&after[0], 81)));
    assert_eq!((find(&before[0], 80).reals[0].weight, find(&after[0], 80).reals[0].weight), (1, 7));
}
