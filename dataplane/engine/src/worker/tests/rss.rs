//! Several workers behind a NIC whose hash they know.

use std::net::SocketAddr;

use super::families::{Case, Packet, two_families};
use super::*;
use crate::rss;

struct Gateway {
    workers: Vec<Worker>,
    counters: Vec<Arc<Counters>>,
    planner: Planner,
    rss: Arc<Rss>,
}

impl Gateway {
    fn new(services: Vec<ServiceSpec>, rss: Rss, workers: u16) -> Gateway {
        let limits = Limits { services_max: 2, reals_max: 4, pairs_max: 4 };
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::new(2, 4, 4))).collect();
        let rss = Arc::new(rss);
        let planner = Planner::new(limits, counters.clone()).with_rss(Some(rss.clone()));
        let mut fib = Rig::new().fib;
        two_families(&mut fib);
        let fib = Arc::new(fib.build());
        let worker = |id: u16| {
            let config = WorkerConfig {
                id: WorkerId(id),
                workers,
                connections_max: 100,
                limits,
                secret: [7, 8],
                punt_per_second: 1000,
                now: Ticks(0),
            };
            let mut worker = Worker::new(&config, counters[usize::from(id)].clone(), counters.clone())
                .with_rss(Some(rss.clone()));
            worker.apply(&mut Update::of_fib(fib.clone()));
            worker
        };
        let workers = (0..workers).map(worker).collect();
        let mut gateway = Gateway { workers, counters, planner, rss };
        gateway.configure(services);
        gateway
    }

    fn configure(&mut self, services: Vec<ServiceSpec>) {
        let updates = self.planner.plan(&Spec { generation: 1, services }).unwrap();
        for (worker, mut update) in self.workers.iter_mut().zip(updates) {
            worker.apply(&mut update);
        }
    }

    /// Where the NIC brings a packet.
    fn receiver(&self, packet: &Packet) -> usize {
        let protocol = if packet.udp { 17 } else { 6 };
        self.rss.worker_of(protocol, packet.src, packet.dst).unwrap().index()
    }

    /// Receives a frame at a worker: who has the last word, and what comes out.
    fn receive(&mut self, at: usize, port: PortId, frame: &[u8]) -> (usize, Verdict, Vec<u8>) {
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

    /// Receives a packet where the NIC brings it, and forwards it.
    fn pass(&mut self, port: PortId, packet: &Packet) -> (usize, Vec<u8>) {
        let (last, verdict, out) = self.receive(self.receiver(packet), port, &packet.frame());
        assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?} of {packet:?}");
        (last, out)
    }

    fn sum(&self, event: Counter) -> u64 {
        self.counters.iter().map(|counters| counters.event(event).get()).sum()
    }
}

fn first(case: Case, port: u16) -> Packet {
    Packet { flags: if case.udp { 0 } else { flags::SYN }, ..case.sent(port) }
}

fn case_and_nic() -> impl Strategy<Value = (Case, u16, Rss)> {
    (prop::sample::select(Case::all()), 1u16..=64)
        .prop_flat_map(|(case, workers)| (Just(case), Just(workers), rss::tests::any_rss(workers)))
}

proptest! {
    #[test]
    fn the_nic_brings_every_packet_to_its_owner((case, workers, rss) in case_and_nic(), port in 1u16..=u16::MAX - 4) {
        let mut gateway = Gateway::new(vec![case.spec()], rss, workers);
        for port in port..port + 4 {
            let (owner, there) = gateway.pass(CLIENT_SIDE, &first(case, port));
            if case.mode.is_one_way() {
                continue;
            }
            let answer = case.answered(&Packet::read(&there));
            let (same, back) = gateway.pass(SERVER_SIDE, &answer);
            prop_assert_eq!(owner, same);
            let back = Packet::read(&back);
            prop_assert_eq!((back.src, back.dst), (case.virtual_(), case.client(port)));
        }
        prop_assert_eq!(gateway.sum(Counter::Misdirected), 0);
        // Replies to clients name no address of ours: they are found by the client, wherever they arrive.
        if case.mode != Mode::Nat {
            prop_assert_eq!(gateway.sum(Counter::HandedOver), 0);
        }
    }

    #[test]
    fn a_nic_that_hashes_otherwise_is_made_up_for_and_counted(
        (case, workers, rss) in case_and_nic(), port: u16, at: [usize; 2],
    ) {
        prop_assume!(case.mode == Mode::FullNat);
        let mut gateway = Gateway::new(vec![case.spec()], rss, workers);
        let there = first(case, port.max(1));
        let at = at.map(|at| at % usize::from(workers));
        let (owner, _, out) = gateway.receive(at[0], CLIENT_SIDE, &there.frame());
        prop_assert_eq!(owner, gateway.receiver(&there));
        let answer = case.answered(&Packet::read(&out));
        let (same, verdict, _) = gateway.receive(at[1], SERVER_SIDE, &answer.frame());
        prop_assert_eq!((same, verdict), (owner, Verdict::Forward(CLIENT_SIDE)));
        let misdirected = at.iter().filter(|at| **at != owner).count() as u64;
        prop_assert_eq!(gateway.sum(Counter::Misdirected), misdirected);
        prop_assert_eq!(gateway.sum(Counter::HandedOver), misdirected);
    }
}

/// Four workers and the key of a NIC's default.
fn four_workers(services: Vec<ServiceSpec>) -> Gateway {
    let table: Vec<u16> = (0..128).map(|index| index % 4).collect();
    let key: Vec<u8> = (0..40).map(|index: u8| index.wrapping_mul(97) ^ 0x5a).collect();
    Gateway::new(services, Rss::new(&key, &table, 4, rss::Hashed::ALL).unwrap(), 4)
}

#[test]
fn a_service_that_gets_a_real_server_in_nat_keeps_its_connections() {
    let case = |mode| Case { mode, client_v6: false, real_v6: false, udp: true };
    let (fullnat, nat) = (case(Mode::FullNat), case(Mode::Nat));
    let mut gateway = four_workers(vec![fullnat.spec()]);
    let old: Vec<_> = (2000..2040)
        .map(|port| {
            let (owner, out) = gateway.pass(CLIENT_SIDE, &first(fullnat, port));
            (port, owner, Packet::read(&out))
        })
        .collect();
    gateway.configure(vec![nat.spec()]);
    for (port, owner, there) in &old {
        assert_eq!(gateway.pass(CLIENT_SIDE, &fullnat.sent(*port)).0, *owner);
        assert_eq!(gateway.pass(SERVER_SIDE, &fullnat.answered(there)).0, *owner);
    }
    for port in 3000..3040 {
        let (owner, out) = gateway.pass(CLIENT_SIDE, &first(nat, port));
        let there = Packet::read(&out);
        assert_eq!(there.src, nat.client(port));
        assert_eq!(gateway.pass(SERVER_SIDE, &nat.answered(&there)).0, owner);
    }
    // And back: those in NAT are still found.
    gateway.configure(vec![fullnat.spec()]);
    for port in 3000..3040 {
        gateway.pass(CLIENT_SIDE, &nat.sent(port));
    }
    assert_eq!(gateway.sum(Counter::ConnectionsCreated), 80);
    assert_eq!(gateway.sum(Counter::Misdirected), 0);
}

#[test]
fn packets_for_the_kernel_stay_where_they_arrive() {
    let case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: false };
    let mut gateway = four_workers(vec![case.spec()]);
    let to_gateway = Packet { dst: SocketAddr::new([10, 1, 0, 1].into(), 22), ..case.sent(4000) };
    for at in 0..4 {
        let (last, verdict, _) = gateway.receive(at, CLIENT_SIDE, &to_gateway.frame());
        assert_eq!((last, verdict), (at, Verdict::Punt(PuntClass::Local)));
    }
}

#[test]
fn errors_and_fragments_find_the_owner_wherever_the_nic_brings_them() {
    let case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: true };
    let mut gateway = four_workers(vec![case.spec()]);
    for port in 2000..2020 {
        let (owner, out) = gateway.pass(CLIENT_SIDE, &first(case, port));
        let (at, whole) = (usize::from(port) % 4, case.sent(port).frame());
        let mut fragment = whole.clone();
        // More fragments follow; the header's checksum follows by RFC 1624.
        fragment[20] |= 0x20;
        let was = u16::from_be_bytes([fragment[24], fragment[25]]);
        let (sum, carry) = was.overflowing_sub(0x2000);
        fragment[24..26].copy_from_slice(&(sum - u16::from(carry)).to_be_bytes());
        let (last, verdict, _) = gateway.receive(at, CLIENT_SIDE, &fragment);
        assert_eq!((last, verdict), (owner, Verdict::Forward(SERVER_SIDE)));

        let error = icmp_unreachable(&out);
        let (last, verdict, _) = gateway.receive(at, SERVER_SIDE, &error);
        assert_eq!((last, verdict), (owner, Verdict::Forward(CLIENT_SIDE)));
    }
    assert_eq!(gateway.sum(Counter::IcmpErrors), 20);
    assert_eq!(gateway.sum(Counter::Misdirected), 0);
}

/// What a real server answers to a frame at whose port nobody listens.
fn icmp_unreachable(frame: &[u8]) -> Vec<u8> {
    let mut message = [&[icmp::TYPE_UNREACHABLE, 3, 0, 0, 0, 0, 0, 0], &frame[14..]].concat();
    let sum = checksum::internet(&message);
    message[2..4].copy_from_slice(&sum.to_bytes());
    let (src, dst, protocol) = (u32be(REAL), u32be(LIP), ipv4::PROTO_ICMP);
    let base = Ipv4Base { eth_dst: GATEWAY_MAC, src, dst, protocol, ..Ipv4Base::default() };
    base.frame(&message)
}
