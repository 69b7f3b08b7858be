//! Full tables, exhausted ports, changes of configuration and routes, several workers.

use super::*;

#[test]
fn a_full_table_gives_up_embryonic_connections_and_never_established_ones() {
    let mut rig = Rig::with(4, service(&[(REAL, 1)]));
    rig.open(1);
    rig.open(2);
    rig.inbound(&syn(3));
    rig.inbound(&syn(4));
    rig.inbound(&syn(5)); // in place of 3
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 1);
    rig.inbound(&syn(4)); // still there
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 1);
    let lport = rig.inbound(&syn(3)).header.src_port.get(); // in place of 4
    rig.outbound(&syn_ack(lport));
    rig.inbound(&ack(3));
    let lport = rig.inbound(&syn(6)).header.src_port.get(); // in place of 5
    rig.outbound(&syn_ack(lport));
    rig.inbound(&ack(6));
    // Four established connections: nothing may be given up.
    assert_eq!(rig.send(CLIENT_SIDE, &syn(7).to_vec()).0, Verdict::Drop(DropReason::TableFull));
    for port in [1, 2, 3, 6] {
        rig.inbound(&ack(port));
    }
    assert_eq!(rig.states(), [ConnState::Established; 4]);
}

/// Else whoever sends fast enough fills any table, although what it opened is long over.
#[test]
fn as_many_connections_end_as_full_bursts_open() {
    const TURNS_PER_TICK: u32 = 5;
    let timeouts = Timeouts::default().with(ConnState::SynRecv, Ticks::from_secs(1));
    let spec = ServiceSpec { timeouts, ..service(&[(REAL, 1)]) };
    // What comes in the second that they live for, and in the time by which they end late.
    let mut rig = Rig::with(2 * 100 * TURNS_PER_TICK * BURST_LEN_MAX as u32, spec);
    let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
    for turn in 0..300 * TURNS_PER_TICK {
        rig.now = Ticks(100 + turn / TURNS_PER_TICK);
        let mut packets: Vec<HeapBuf> = (0..BURST_LEN_MAX as u32)
            .map(|n| turn * BURST_LEN_MAX as u32 + n)
            .map(|n| TcpFrame {
                src: u32be((u32::from(CLIENT) + (n >> 15)).into()),
                ..syn(1024 + (n & 0x7fff) as u16)
            })
            .map(|syn| HeapBuf::from_frame(&syn.to_vec()).on_port(CLIENT_SIDE.0))
            .collect();
        rig.worker.process(rig.now, &mut packets, &mut verdicts);
        rig.worker.housekeep_after::<HeapBuf>(rig.now, || true);
    }
    assert_eq!(
        rig.event(Counter::ConnectionsCreated),
        u64::from(300 * TURNS_PER_TICK) * BURST_LEN_MAX as u64
    );
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 0, "the table was full");
}

/// Memory may be as slow as it likes: packets wait for one connection more than there is time for.
#[test]
fn upkeep_ends_no_connection_after_its_time_but_always_one() {
    const OPENED: u16 = 100;
    // 16 are fetched together, then each but the first one asks once more.
    for (answered, expected) in [(0, 1), (1, 1), (16, 1), (20, 5), (31, 16)] {
        let mut rig = Rig::with(1000, service(&[(REAL, 1)]));
        for port in 1..=OPENED {
            rig.open(port);
        }
        let ended = Ticks::from_secs(3600);
        rig.now = rig.now.plus(ended);
        // What else a turn looks at is over.
        let Worker { traffic, table, counters, .. } = &mut rig.worker;
        while traffic.sweep(rig.now, table.used_mut(), counters) > 0 {}
        let mut left = u32::from(OPENED);
        // Until the first of the 16 lists is empty.
        while left > u32::from(OPENED) - 5 {
            let mut yes = answered;
            let seen = rig.worker.housekeep_after::<HeapBuf>(rig.now, || {
                yes -= 1;
                yes >= 0
            });
            assert_eq!((seen as u32, left - rig.worker.connections()), (expected, expected), "{answered}");
            left = rig.worker.connections();
        }
        while rig.worker.housekeep_after::<HeapBuf>(rig.now, || false) > 0 {}
        assert_eq!(rig.worker.connections(), 0);
    }
}

#[test]
fn a_change_of_configuration_ends_no_connection_after_its_time_but_always_one() {
    let mut rig = Rig::with(1000, service(&[(REAL, 1)]));
    for port in 1..=10 {
        rig.open(port);
    }
    let mut spec = service(&[(REAL, 0)]);
    spec.reals[0].end_connections = true;
    rig.configure(vec![spec]);
    for left in (0..10).rev() {
        assert_eq!(rig.worker.housekeep_after::<HeapBuf>(rig.now, || false), 1);
        assert_eq!(rig.worker.connections(), left);
    }
    assert_eq!(rig.worker.housekeep_after::<HeapBuf>(rig.now, || false), 0);
}

#[test]
fn exhausted_local_ports_refuse_newcomers_and_harm_nobody() {
    let spec = ServiceSpec { local_ports: (2000, 2001), ..service(&[(REAL, 1)]) };
    let mut rig = Rig::with(100, spec);
    rig.open(1);
    rig.open(2);
    assert_eq!(rig.send(CLIENT_SIDE, &syn(3).to_vec()).0, Verdict::Drop(DropReason::LocalPortsExhausted));
    assert_eq!(rig.counters.pair(crate::PairId(0)).exhausted.get(), 1);
    assert_eq!(rig.counters.pair(crate::PairId(0)).in_use.get(), 2);
    assert_eq!(rig.worker.connections(), 2);
    rig.inbound(&ack(1));
    rig.inbound(&ack(2));
}

#[test]
fn one_real_server_and_one_local_address_have_as_many_connections_as_there_are_ports() {
    let mut rig = Rig::with(1 << 16, service(&[(REAL, 1)]));
    let mut taken = vec![false; 1 << 16];
    for port in 1024..=65535 {
        let out = rig.inbound(&syn(port));
        assert_eq!((out.ip.src, out.ip.dst), (u32be(LIP), u32be(REAL)));
        let local = out.header.src_port.get();
        assert!(!std::mem::replace(&mut taken[usize::from(local)], true), "{local} twice");
    }
    assert_eq!(rig.worker.connections(), 64_512);
    assert_eq!(rig.send(CLIENT_SIDE, &syn(1).to_vec()).0, Verdict::Drop(DropReason::LocalPortsExhausted));
    assert_eq!(rig.dropped(DropReason::LocalPortsExhausted), 1);
    assert_eq!(rig.counters.pair(crate::PairId(0)).exhausted.get(), 1);
    assert_eq!(rig.counters.pair(crate::PairId(0)).in_use.get(), 64_512);
    // What there is goes on.
    for port in [1024, 40_000, 65535] {
        assert_eq!(rig.inbound(&ack(port)).ip.src, u32be(LIP));
    }
    assert_eq!(rig.worker.connections(), 64_512);
}

#[test]
fn the_same_local_port_serves_different_real_servers() {
    let other = Ipv4Addr::new(10, 2, 0, 12);
    let spec = ServiceSpec { local_ports: (2000, 2000), ..service(&[(REAL, 1), (other, 1)]) };
    let mut rig = Rig::with(100, spec);
    rig.fib.set_neighbour(SERVER_SIDE, other.into(), Some(REAL_MAC));
    rig.apply_fib();
    let a = rig.inbound(&syn(1));
    let b = rig.inbound(&syn(2));
    assert_eq!((a.header.src_port, b.header.src_port), (U16::new(2000), U16::new(2000)));
    assert_ne!(a.ip.dst, b.ip.dst);
}

#[test]
fn real_servers_in_turn_and_local_addresses_in_turn_make_all_pairs() {
    let other = Ipv4Addr::new(10, 2, 0, 12);
    let second: IpAddr = [10, 2, 0, 201].into();
    let mut spec = ServiceSpec { local_ports: (2000, 2000), ..service(&[(REAL, 1), (other, 1)]) };
    spec.locals.push(second);
    let mut rig = Rig::with(100, spec);
    rig.fib.set_neighbour(SERVER_SIDE, other.into(), Some(REAL_MAC));
    rig.apply_fib();
    let mut pairs: Vec<_> =
        (1..=4).map(|port| rig.inbound(&syn(port))).map(|out| (out.ip.src, out.ip.dst)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    assert_eq!(pairs.len(), 4);
}

#[test]
fn local_addresses_take_turns_when_there_are_fewer_of_them_too() {
    let with = |hosts: &[u8]| ServiceSpec {
        locals: hosts.iter().map(|host| [10, 2, 0, *host].into()).collect(),
        ..service(&[(REAL, 1)])
    };
    let mut rig = Rig::with(100, with(&[201, 202, 203]));
    rig.inbound(&syn(1));
    rig.inbound(&syn(2));
    rig.configure(vec![with(&[201, 202])]);
    let turns = [3, 4, 5].map(|port| rig.inbound(&syn(port)).ip.src.to_bytes()[3]);
    assert_eq!(turns, [201, 202, 201]);
}

#[test]
fn connections_outlive_their_real_server_and_their_service() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    rig.configure(vec![service(&[(Ipv4Addr::new(10, 2, 0, 12), 1)])]);
    rig.inbound(&ack(5555));
    rig.configure(vec![]);
    rig.inbound(&ack(5555));
    rig.outbound(&from_real(lport));
    assert_eq!(rig.send(CLIENT_SIDE, &syn(6).to_vec()).0, Verdict::Punt(PuntClass::Local));
    rig.pass(901);
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn another_port_range_never_gives_a_port_twice() {
    let range = |ports| ServiceSpec { local_ports: ports, ..service(&[(REAL, 1)]) };
    let mut rig = Rig::with(100, range((2000, 2003)));
    let mut seen: Vec<u16> = (1..=3).map(|port| rig.open(port)).collect();
    rig.configure(vec![range((2000, 2004))]);
    seen.extend((4..=5).map(|port| rig.open(port)));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[test]
fn an_unknown_next_hop_is_resolved_and_a_new_mac_takes_effect_at_once() {
    let mut rig = Rig::new();
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), None);
    rig.apply_fib();
    let (verdict, _) = rig.send(CLIENT_SIDE, &syn(5555).to_vec());
    assert_eq!(verdict, Verdict::Resolve(SERVER_SIDE));
    assert_eq!(rig.worker.take_wanted().as_slice(), [(SERVER_SIDE, IpAddr::from(REAL))]);
    assert!(rig.worker.take_wanted().is_empty());
    let moved = MacAddr([2, 0, 0, 0, 2, 2]);
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), Some(moved));
    rig.apply_fib();
    assert_eq!(rig.inbound(&syn(5555)).eth.dst, moved);
}

#[test]
fn a_new_route_moves_living_connections() {
    let mut rig = Rig::new();
    let lport = rig.open(5555);
    let gateway: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 254);
    let mac = MacAddr([2, 0, 0, 0, 2, 0xfe]);
    rig.fib.set_neighbour(SERVER_SIDE, gateway.into(), Some(mac));
    rig.fib.set_route(CLIENT.into(), 32, Route { via: Some(gateway.into()), port: SERVER_SIDE });
    rig.apply_fib();
    let (verdict, out) = rig.send(SERVER_SIDE, &from_real(lport).to_vec());
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
    assert_eq!(TcpView::new(&out).eth.dst, mac);
    rig.fib.remove_route(CLIENT.into(), 32);
    rig.fib.remove_route([10, 1, 0, 0].into(), 24);
    rig.apply_fib();
    let (verdict, _) = rig.send(SERVER_SIDE, &from_real(lport).to_vec());
    assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
}

#[test]
fn ip_options_are_carried_along() {
    let mut rig = Rig::new();
    rig.open(5555);
    let mut frame = TcpFrame { payload: b"x".to_vec(), ..from_client(5555) }.to_vec();
    // Four NOPs as IP options.
    frame.splice(34..34, [1; 4]);
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&46u16.to_be_bytes()[..]);
    frame[16..18].copy_from_slice(&45u16.to_be_bytes()[..]);
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
    let (verdict, out) = rig.send(CLIENT_SIDE, &frame);
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
    let out = TcpView::new(&out);
    assert_eq!((out.payload.as_slice(), out.toa()), (b"x".as_slice(), Some((CLIENT.into(), 5555))));
}

/// Whoever sends it would have the real server send packets on to a host of their choice.
#[test]
fn packets_that_want_to_go_on_elsewhere_are_dropped() {
    let mut rig = Rig::new();
    rig.open(5555);
    let routed = |pointer| {
        let mut frame = TcpFrame { payload: b"x".to_vec(), ..from_client(5555) }.to_vec();
        // A loose source route over one host, and the end of the options.
        frame.splice(34..34, [131, 7, pointer, 10, 2, 0, 66, 0]);
        frame[14] = 0x47;
        frame[16..18].copy_from_slice(&49u16.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::internet(&frame[14..42]);
        frame[24..26].copy_from_slice(&sum.to_bytes());
        frame
    };
    assert_eq!(rig.send(CLIENT_SIDE, &routed(4)).0, Verdict::Drop(DropReason::SourceRouted));
    assert_eq!(rig.send(CLIENT_SIDE, &routed(8)).0, Verdict::Forward(SERVER_SIDE), "it has been everywhere");
}

#[test]
fn ethernet_padding_stays_outside_the_packet() {
    let mut rig = Rig::new();
    rig.open(5555);
    let out = rig.inbound(&TcpFrame { pad: true, ..from_client(5555) });
    assert_eq!((out.ip.total_len.get(), out.payload.len()), (48, 0));
}

#[test]
fn replies_and_requests_have_the_same_owner_for_any_number_of_workers() {
    let limits = Limits { services_max: 1, reals_max: 1, pairs_max: 1 };
    for workers in 1..=8u16 {
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::new(1, 1, 1))).collect();
        let mut planner = Planner::new(limits, counters.clone());
        let spec = Spec { generation: 1, services: vec![service(&[(REAL, 1)])] };
        let mut fib = Rig::new().fib;
        let fib = Arc::new(fib.build());
        let mut gateway: Vec<Worker> = planner
            .plan(&spec)
            .unwrap()
            .into_iter()
            .enumerate()
            .map(|(i, mut update)| {
                let config = WorkerConfig {
                    id: WorkerId(i as u16),
                    workers,
                    connections_max: 1000,
                    limits,
                    secret: [7, 8],
                    punt_per_second: 1000,
                    now: Ticks(0),
                };
                let mut worker = Worker::new(&config, counters[i].clone(), counters.clone());
                worker.apply(&mut update);
                worker.apply(&mut Update::of_fib(fib.clone()));
                worker
            })
            .collect();
        for client_port in 1000..1050 {
            let mut owners = [0usize; 2];
            let mut lport = 0;
            for (step, port) in [(0, CLIENT_SIDE), (1, SERVER_SIDE)] {
                let frame = if step == 0 { syn(client_port).to_vec() } else { syn_ack(lport).to_vec() };
                let receiver = usize::from(client_port) % usize::from(workers);
                let mut packets = [HeapBuf::from_frame(&frame).on_port(port.0)];
                let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
                gateway[receiver].process(Ticks(1), &mut packets, &mut verdicts);
                owners[step] = receiver;
                if let Verdict::HandOver(owner) = verdicts[0] {
                    owners[step] = owner.index();
                    gateway[owner.index()].process_handed_over(Ticks(1), &mut packets, &mut verdicts);
                }
                assert!(matches!(verdicts[0], Verdict::Forward(_)), "{:?}", verdicts[0]);
                lport = TcpView::new(packets[0].data()).header.src_port.get();
            }
            assert_eq!(owners[0], owners[1], "{workers} workers");
        }
    }
}

#[test]
fn an_unknown_next_hop_is_resolved_for_what_must_be_cut_too() {
    let mut rig = Rig::new();
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), None);
    rig.apply_fib();
    let long = TcpFrame { payload: vec![0; 1500], flags_fragment: U16::ZERO, ..syn(5555) };
    let (verdict, _) = rig.send(CLIENT_SIDE, &long.to_vec());
    assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(rig.worker.take_wanted().as_slice(), [(SERVER_SIDE, IpAddr::from(REAL))]);
}
