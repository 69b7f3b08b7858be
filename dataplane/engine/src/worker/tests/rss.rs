//! Several workers behind a NIC whose hash they know.

use std::net::SocketAddr;

use proptest::test_runner::TestCaseResult;

use super::dealt::{self, first, protocol};
use super::families::{Case, Packet};
use super::*;
use crate::rss;

/// Workers and the NIC in front of them.
struct Gateway {
    workers: dealt::Gateway,
    rss: Arc<Rss>,
}

impl Gateway {
    fn new(services: Vec<ServiceSpec>, rss: Rss, workers: u16) -> Gateway {
        Gateway::with_room(100, services, rss, workers)
    }

    /// Each worker has room for so many connections.
    fn with_room(connections_max: u32, services: Vec<ServiceSpec>, rss: Rss, workers: u16) -> Gateway {
        let rss = Arc::new(rss);
        let known = || Some(rss.clone());
        let of_nic =
            (|planner: Planner| planner.with_rss(known()), |worker: Worker| worker.with_rss(known()));
        let mut gateway = Gateway { workers: dealt::Gateway::new(workers, connections_max, of_nic), rss };
        gateway.configure(services);
        gateway
    }

    fn configure(&mut self, services: Vec<ServiceSpec>) {
        self.workers.configure(services).unwrap();
    }

    /// Where the NIC brings a packet.
    fn receiver(&self, packet: &Packet) -> usize {
        self.rss.worker_of(protocol(packet), packet.src, packet.dst).unwrap().index()
    }

    /// Receives a packet where the NIC brings it, and forwards it.
    fn pass(&mut self, port: PortId, packet: &Packet) -> (usize, Vec<u8>) {
        self.workers.forward(self.receiver(packet), port, packet)
    }

    fn sum(&self, event: Counter) -> u64 {
        self.workers.sum(event)
    }
}

fn case_and_nic() -> impl Strategy<Value = (Case, u16, Rss)> {
    (prop::sample::select(Case::all()), 1u16..=64)
        .prop_flat_map(|(case, workers)| (Just(case), Just(workers), rss::tests::any_rss(workers)))
}

#[test]
fn the_nic_brings_every_packet_to_its_owner() {
    for workers in 1..=64 {
        for (real_v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut cases = Case::all();
            cases.retain(|case| (case.real_v6, case.udp) == (real_v6, udp));
            let inputs = (prop::sample::select(cases), rss::tests::any_rss(workers), 1..=u16::MAX - 4);
            rss::tests::check(1, inputs, |(case, rss, port)| {
                packets_reach_their_owners(case, workers, rss, port)
            });
        }
    }
}

fn packets_reach_their_owners(case: Case, workers: u16, rss: Rss, port: u16) -> TestCaseResult {
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
    Ok(())
}

proptest! {
    #[test]
    fn a_nic_that_hashes_otherwise_is_made_up_for_and_counted(
        (case, workers, rss) in case_and_nic(), port: u16, at: [usize; 2],
    ) {
        prop_assume!(case.mode == Mode::FullNat);
        let mut gateway = Gateway::new(vec![case.spec()], rss, workers);
        let there = first(case, port.max(1));
        let at = at.map(|at| at % usize::from(workers));
        let (owner, _, out) = gateway.workers.receive(at[0], CLIENT_SIDE, &there.frame());
        prop_assert_eq!(owner, gateway.receiver(&there));
        let answer = case.answered(&Packet::read(&out));
        let (same, verdict, _) = gateway.workers.receive(at[1], SERVER_SIDE, &answer.frame());
        prop_assert_eq!((same, verdict), (owner, Verdict::Forward(CLIENT_SIDE)));
        let misdirected = at.iter().filter(|at| **at != owner).count() as u64;
        prop_assert_eq!(gateway.sum(Counter::Misdirected), misdirected);
        prop_assert_eq!(gateway.sum(Counter::HandedOver), misdirected);
    }
}

/// A NIC with the key of its default.
fn nic(workers: u16) -> Rss {
    let table: Vec<u16> = (0..128).map(|index| index % workers).collect();
    let key: Vec<u8> = (0..40).map(|index: u8| index.wrapping_mul(97) ^ 0x5a).collect();
    Rss::new(&key, &table, workers, rss::Hashed::ALL).unwrap()
}

/// Four workers behind it.
fn four_workers(services: Vec<ServiceSpec>) -> Gateway {
    Gateway::new(services, nic(4), 4)
}

/// Towards one real server, from one local address.
#[test]
fn the_workers_together_have_as_many_connections_as_there_are_ports() {
    const PORTS: u32 = 64_512;
    let case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: false };
    for workers in [2, 4] {
        let mut gateway = Gateway::with_room(PORTS, vec![case.spec()], nic(workers), workers);
        let mut taken = vec![false; 1 << 16];
        // The NIC does not give every worker exactly as many clients as it has ports.
        for client in 0..2 * PORTS {
            let port = 1024 + (client & 0x7fff) as u16;
            let src = SocketAddr::new([10, 1, (client >> 15) as u8, 9].into(), port);
            let syn = Packet { src, ..first(case, port) };
            let (at, verdict, out) =
                gateway.workers.receive(gateway.receiver(&syn), CLIENT_SIDE, &syn.frame());
            if verdict == Verdict::Drop(DropReason::LocalPortsExhausted) {
                continue;
            }
            assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
            let there = Packet::read(&out);
            assert_eq!(gateway.receiver(&case.answered(&there)), at);
            let local = there.src.port();
            assert!(!std::mem::replace(&mut taken[usize::from(local)], true), "{local} twice");
        }
        let pair = crate::PairId(0);
        assert!((1024..=65535).all(|port| taken[port]), "{workers} workers have not all ports");
        assert_eq!(gateway.workers.sum_of(|counters| counters.pair(pair).in_use.get()), PORTS.into());
        assert_eq!(gateway.workers.sum_of(|counters| counters.pair(pair).exhausted.get()), PORTS.into());
        assert_eq!(gateway.sum(Counter::ConnectionsCreated), PORTS.into());
    }
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
        let (last, verdict, _) = gateway.workers.receive(at, CLIENT_SIDE, &to_gateway.frame());
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
        let (last, verdict, _) = gateway.workers.receive(at, CLIENT_SIDE, &fragment);
        assert_eq!((last, verdict), (owner, Verdict::Forward(SERVER_SIDE)));

        let error = icmp_unreachable(&out);
        let (last, verdict, _) = gateway.workers.receive(at, SERVER_SIDE, &error);
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
