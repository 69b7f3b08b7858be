//! Several workers, each with local addresses of its own, behind a NIC that brings replies to them by flow rules and
//! everything else anywhere.

use std::collections::HashSet;

use proptest::test_runner::TestCaseResult;

use super::families::{Case, Packet, two_families};
use super::*;
use crate::deal::TooFew;
use crate::plan::PlanError;
use crate::rss::tests::check;

/// Several workers, and what plans for them.
pub(super) struct Gateway {
    workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    planner: Planner,
}

impl Gateway {
    /// `of_nic` tells the planner and each worker what NIC there is.
    pub(super) fn new(
        workers: u16,
        connections_max: u32,
        of_nic: (impl Fn(Planner) -> Planner, impl Fn(Worker) -> Worker),
    ) -> Self {
        let limits = Limits { services_max: 2, reals_max: 4, pairs_max: 600 };
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::new(2, 4, 600))).collect();
        let planner = of_nic.0(Planner::new(limits, counters.clone()));
        let mut fib = Rig::new().fib;
        two_families(&mut fib);
        let fib = Arc::new(fib.build());
        let worker = |id: u16| {
            let config = WorkerConfig {
                id: WorkerId(id),
                workers,
                connections_max,
                limits,
                secret: [7, 8],
                punt_per_second: 1000,
                now: Ticks(0),
            };
            let worker = Worker::new(&config, counters[usize::from(id)].clone(), counters.clone());
            let mut worker = of_nic.1(worker);
            worker.apply(&mut Update::of_fib(fib.clone()));
            worker
        };
        Gateway { workers: (0..workers).map(worker).collect(), counters, planner }
    }

    /// Behind a NIC that takes flow rules.
    fn dealt(workers: u16, too_few: TooFew) -> Gateway {
        Gateway::new(workers, 100, (|planner: Planner| planner.with_dealt_locals(too_few), |worker| worker))
    }

    pub(super) fn configure(&mut self, services: Vec<ServiceSpec>) -> Result<(), PlanError> {
        let updates = self.planner.plan(&Spec { generation: 1, services })?;
        for (worker, mut update) in self.workers.iter_mut().zip(updates) {
            worker.apply(&mut update);
        }
        Ok(())
    }

    /// Where a flow rule brings a packet; `None`: there is none for it.
    fn by_rule(&self, packet: &Packet) -> Option<usize> {
        let rules = self.planner.dealt_locals();
        let mut rules = rules.iter().filter(|rule| (rule.0, rule.1) == (protocol(packet), packet.dst.ip()));
        rules.next().map(|rule| rule.2.index())
    }

    /// Receives a frame at a worker: who has the last word, which, and what comes out.
    pub(super) fn receive(&mut self, at: usize, port: PortId, frame: &[u8]) -> (usize, Verdict, Vec<u8>) {
        let mut packets = [HeapBuf::with_room(frame, 128, 64).on_port(port.0)];
        let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
        self.workers[at].process(Ticks(1), &mut packets, &mut verdicts);
        let mut last = at;
        while let Verdict::HandOver(to) = verdicts[0] {
            assert_ne!(last, to.index());
            last = to.index();
            self.workers[last].process_handed_over(Ticks(1), &mut packets, &mut verdicts);
        }
        (last, verdicts[0], packets[0].to_vec())
    }

    /// Receives a packet at a worker and forwards it: who has the last word, and the frame that comes out.
    pub(super) fn forward(&mut self, at: usize, port: PortId, packet: &Packet) -> (usize, Vec<u8>) {
        let (last, verdict, out) = self.receive(at, port, &packet.frame());
        assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?} of {packet:?}");
        (last, out)
    }

    /// The same where what comes out is in no tunnel.
    fn pass(&mut self, at: usize, port: PortId, packet: &Packet) -> (usize, Packet) {
        let (last, out) = self.forward(at, port, packet);
        (last, Packet::read(&out))
    }

    pub(super) fn sum(&self, event: Counter) -> u64 {
        self.sum_of(|counters| counters.event(event).get())
    }

    pub(super) fn sum_of(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(|counters| count(counters)).sum()
    }
}

pub(super) fn protocol(packet: &Packet) -> u8 {
    if packet.udp { ipv4::PROTO_UDP } else { ipv4::PROTO_TCP }
}

/// What opens a connection of this case from a port.
pub(super) fn first(case: Case, port: u16) -> Packet {
    Packet { flags: if case.udp { 0 } else { flags::SYN }, ..case.sent(port) }
}

/// The case's service with so many local addresses.
fn spec(case: Case, locals: usize) -> ServiceSpec {
    let local = |number: usize| -> IpAddr {
        match case.real_v6 {
            false => [10, 2, 1, number as u8].into(),
            true => [0x2001, 0xdb8, 2, 0, 0, 0, 1, number as u16].into(),
        }
    };
    ServiceSpec { locals: (1..=locals).map(local).collect(), ..case.spec() }
}

fn fullnat() -> impl Strategy<Value = Case> {
    let all: Vec<Case> = Case::all().into_iter().filter(|case| case.mode == Mode::FullNat).collect();
    prop::sample::select(all)
}

#[test]
fn rules_bring_every_reply_to_its_owner() {
    for workers in 1..=64 {
        for (real_v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = any::<bool>().prop_map(move |client_v6| Case {
                mode: Mode::FullNat,
                client_v6,
                real_v6,
                udp,
            });
            let inputs = (case, 0usize..70, 1..=u16::MAX - 8, any::<usize>());
            check(1, inputs, |(case, extra, port, at)| replies_are_brought(case, workers, extra, port, at));
        }
    }
}

fn replies_are_brought(case: Case, workers: u16, extra: usize, port: u16, at: usize) -> TestCaseResult {
    let mut gateway = Gateway::dealt(workers, TooFew::Refuse);
    gateway.configure(vec![spec(case, usize::from(workers) + extra)]).unwrap();
    let mut handed_over = 0;
    for port in port..port + 8 {
        let at = at.wrapping_add(port.into()) % usize::from(workers);
        let (owner, there) = gateway.pass(at, CLIENT_SIDE, &first(case, port));
        handed_over += u64::from(owner != at);
        let answer = case.answered(&there);
        let by_rule = gateway.by_rule(&answer).unwrap();
        prop_assert_eq!(by_rule, owner);
        let (same, back) = gateway.pass(by_rule, SERVER_SIDE, &answer);
        prop_assert_eq!(owner, same);
        prop_assert_eq!((back.src, back.dst), (case.virtual_(), case.client(port)));
    }
    prop_assert_eq!(gateway.sum(Counter::Misdirected), 0);
    prop_assert_eq!(gateway.sum(Counter::HandedOver), handed_over);
    Ok(())
}

proptest! {
    #[test]
    fn a_reply_that_no_rule_brought_is_handed_over_and_counted(
        case in fullnat(), workers in 1u16..=64, port in 1u16..=u16::MAX, at: usize,
    ) {
        let mut gateway = Gateway::dealt(workers, TooFew::Refuse);
        gateway.configure(vec![spec(case, workers.into())]).unwrap();
        let at = at % usize::from(workers);
        let (owner, there) = gateway.pass(at, CLIENT_SIDE, &first(case, port));
        let before = gateway.sum(Counter::HandedOver);
        let (same, back) = gateway.pass(at, SERVER_SIDE, &case.answered(&there));
        prop_assert_eq!((same, back.dst), (owner, case.client(port)));
        prop_assert_eq!(gateway.sum(Counter::HandedOver) - before, u64::from(owner != at));
        prop_assert_eq!(gateway.sum(Counter::Misdirected), u64::from(owner != at));
    }

    #[test]
    fn with_too_few_addresses_all_workers_share_them(case in fullnat(), workers in 2u16..=64, port: u16) {
        let mut gateway = Gateway::dealt(workers, TooFew::Share);
        gateway.configure(vec![spec(case, 1)]).unwrap();
        prop_assert!(gateway.planner.dealt_locals().is_empty());
        prop_assert_eq!(gateway.planner.shared_locals(), 1);
        let (owner, there) = gateway.pass(0, CLIENT_SIDE, &first(case, port.max(1)));
        let (same, _) = gateway.pass(0, SERVER_SIDE, &case.answered(&there));
        prop_assert_eq!(owner, same);
        prop_assert_eq!(gateway.sum(Counter::Misdirected), 0);
    }
}

#[test]
fn a_service_with_fewer_addresses_than_workers_is_refused_and_changes_nothing() {
    let case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: false };
    let mut gateway = Gateway::dealt(3, TooFew::Refuse);
    gateway.configure(vec![spec(case, 3)]).unwrap();
    let before = gateway.planner.dealt_locals();
    assert_eq!(before.len(), 3);
    let refused = gateway.configure(vec![spec(case, 2)]).unwrap_err();
    assert!(matches!(refused, PlanError::TooFewLocals { workers: 3, missing: 1, .. }), "{refused}");
    assert_eq!(gateway.planner.dealt_locals(), before);
    gateway.pass(0, CLIENT_SIDE, &first(case, 2000));
}

#[test]
fn an_address_that_leaves_keeps_its_rule_while_its_connections_live() {
    let case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: false };
    let mut gateway = Gateway::dealt(2, TooFew::Refuse);
    let old = spec(case, 2);
    gateway.configure(vec![old.clone()]).unwrap();
    let (owner, there) = gateway.pass(0, CLIENT_SIDE, &first(case, 2000));
    let new = ServiceSpec { locals: vec![[10, 2, 1, 3].into(), [10, 2, 1, 4].into()], ..old.clone() };
    gateway.configure(vec![new.clone()]).unwrap();
    assert_eq!(gateway.planner.dealt_locals().len(), 4);
    let answer = case.answered(&there);
    assert_eq!(gateway.by_rule(&answer), Some(owner));
    assert_eq!(gateway.pass(owner, SERVER_SIDE, &answer).0, owner);
    for worker in &mut gateway.workers {
        (0..200).for_each(|turn| {
            worker.housekeep(Ticks(1_000_000 + turn));
        });
    }
    assert_eq!(gateway.sum(Counter::ConnectionsExpired), 1);
    gateway.configure(vec![new.clone()]).unwrap();
    let left: HashSet<IpAddr> = gateway.planner.dealt_locals().into_iter().map(|rule| rule.1).collect();
    assert_eq!(left, new.locals.into_iter().collect());
}
