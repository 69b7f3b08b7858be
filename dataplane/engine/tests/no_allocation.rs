//! A worker never allocates: not for a connection's first packet, its last, or any between; for no protocol, no family
//! and no ICMP error.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper of tests may panic")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use engine::fib::{FibPort, Route};
use engine::snapshot::{Mode, Scheduler};
use engine::tcp::Timeouts;
use engine::{
    BURST_LEN_MAX, Counter, Counters, FibBuilder, Limits, Planner, PortId, RealSpec, ServiceSpec, Spec,
    Ticks, Update, Verdict, Worker, WorkerConfig, WorkerId,
};
use wire::build::{Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6};
use wire::build::{icmp_error_frame, icmpv6_error_frame};
use wire::tcp::flags;
use wire::{HeapBuf, MacAddr, U16, U32, ipv4};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 100);
const REAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
const REAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 11);
const LIMITS: Limits = Limits { services_max: 8, reals_max: 8, pairs_max: 8 };
const FLOWS: u16 = 8;

/// Services by protocol and family; the real servers of the second TCP pair are of the other family.
fn services() -> Vec<ServiceSpec> {
    let (vips, reals): ([IpAddr; 2], [IpAddr; 2]) = ([VIP.into(), VIP6.into()], [REAL.into(), REAL6.into()]);
    let service = |protocol, port, wide: usize, real: usize| ServiceSpec {
        protocol,
        virtual_: SocketAddr::new(vips[wide], port),
        also: Vec::new(),
        scheduler: Scheduler::Wlc,
        flags: Default::default(),
        toa: Some(254),
        timeouts: Timeouts::default(),
        locals: vec![[10, 2, 0, 200].into(), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 200).into()],
        local_ports: (1024, 65535),
        options: Default::default(),
        sorry: None,
        reals: vec![RealSpec::new(SocketAddr::new(reals[real], 80), Mode::FullNat, 1)],
    };
    let of_port = |port, other: usize| {
        [ipv4::PROTO_TCP, ipv4::PROTO_UDP]
            .into_iter()
            .flat_map(move |protocol| [0, 1].map(|wide| service(protocol, port, wide, wide ^ other)))
    };
    of_port(80, 0).chain(of_port(81, 1)).collect()
}

fn gateway() -> (Worker, Arc<Counters>, Planner, Spec) {
    let counters = Arc::new(Counters::new(LIMITS.services_max, LIMITS.reals_max, LIMITS.pairs_max));
    let config = WorkerConfig {
        id: WorkerId(0),
        workers: 1,
        connections_max: 100,
        limits: LIMITS,
        secret: [3, 4],
        punt_per_second: 100,
        now: Ticks(0),
    };
    let mut worker = Worker::new(&config, counters.clone(), vec![counters.clone()]);
    let mut planner = Planner::new(LIMITS, vec![counters.clone()]);
    let spec = Spec { generation: 1, services: services() };
    let mut fib = FibBuilder::default();
    fib.set_port(PortId(0), FibPort { mac: GATEWAY, mtu: 1500 });
    for (any, hosts) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), [IpAddr::from(REAL), CLIENT.into()]),
        (Ipv6Addr::UNSPECIFIED.into(), [REAL6.into(), CLIENT6.into()]),
    ] {
        fib.set_route(any, 0, Route { via: None, port: PortId(0) });
        for host in hosts {
            fib.set_neighbour(PortId(0), host, Some(MacAddr([2, 0, 0, 0, 0, 2])));
        }
    }
    worker.apply(&mut Update::of_fib(Arc::new(fib.build())));
    for mut update in planner.plan(&spec).unwrap() {
        worker.apply(&mut update);
    }
    (worker, counters, planner, spec)
}

/// TCP of either family with these control bits, from every client to every service.
fn segments(bits: u8, seq: u32) -> Vec<HeapBuf> {
    let frame = |(i, port)| TcpFrame {
        eth_dst: GATEWAY,
        src: ipv4::addr(CLIENT),
        dst: ipv4::addr(VIP),
        src_port: U16::new(40_000 + i),
        dst_port: U16::new(port),
        seq: U32::new(seq),
        flags: bits,
        payload: if bits & flags::SYN == 0 { vec![1; 10] } else { vec![] },
        ..TcpFrame::default()
    };
    let wide = |tcp| TcpFrame6 { src: CLIENT6.octets(), dst: VIP6.octets(), tcp, hop_limit: 64 };
    let frames = flows().flat_map(|flow| [frame(flow).to_vec(), wide(frame(flow)).to_vec()]);
    frames.map(|frame| HeapBuf::from_frame(&frame)).collect()
}

fn flows() -> impl Iterator<Item = (u16, u16)> {
    (0..FLOWS).flat_map(|i| [(i, 80), (i, 81)])
}

fn datagrams() -> Vec<HeapBuf> {
    let narrow =
        Ipv4Base { eth_dst: GATEWAY, src: ipv4::addr(CLIENT), dst: ipv4::addr(VIP), ..Ipv4Base::default() };
    let wide =
        Ipv6Base { eth_dst: GATEWAY, src: CLIENT6.octets(), dst: VIP6.octets(), ..Ipv6Base::default() };
    let frames = flows().flat_map(|(i, port)| {
        let (src_port, dst_port, payload) = (U16::new(40_000 + i), U16::new(port), vec![7; 20]);
        let v4 = UdpFrame { ip: narrow, src_port, dst_port, payload: payload.clone(), ..UdpFrame::default() };
        let v6 = UdpFrame6 { ip: wide, src_port, dst_port, payload, ..UdpFrame6::default() };
        [v4.to_vec(), v6.to_vec()]
    });
    frames.map(|frame| HeapBuf::from_frame(&frame)).collect()
}

/// ICMP errors about packets of both families that clients got, and about nothing.
fn errors() -> Vec<HeapBuf> {
    let rest = U32::new(1400);
    let frames = flows().flat_map(|(i, port)| {
        let ports = (U16::new(port), U16::new(40_000 + i));
        let ip = Ipv4Base { src: ipv4::addr(VIP), dst: ipv4::addr(CLIENT), ..Ipv4Base::default() };
        let v4 = UdpFrame { ip, src_port: ports.0, dst_port: ports.1, ..UdpFrame::default() }.to_vec();
        let ip = Ipv6Base { src: VIP6.octets(), dst: CLIENT6.octets(), ..Ipv6Base::default() };
        let v6 = UdpFrame6 { ip, src_port: ports.0, dst_port: ports.1, ..UdpFrame6::default() }.to_vec();
        let to4 = Ipv4Base { eth_dst: GATEWAY, dst: ipv4::addr(VIP), ..Ipv4Base::default() };
        let to6 = Ipv6Base { eth_dst: GATEWAY, dst: VIP6.octets(), ..Ipv6Base::default() };
        [
            icmp_error_frame(to4, (3, 4, rest), &v4[14..]).unwrap(),
            icmpv6_error_frame(to6, (2, 0, rest), &v6[14..]).unwrap(),
        ]
    });
    frames.map(|frame| HeapBuf::from_frame(&frame)).collect()
}

#[test]
fn packets_expiry_and_configuration_changes_allocate_nothing() {
    let (mut worker, counters, mut planner, mut spec) = gateway();
    let mut bursts = [
        segments(flags::SYN, 1),
        segments(flags::ACK, 2),
        datagrams(),
        datagrams(),
        errors(),
        vec![HeapBuf::from_frame(&[0xff; 70]), HeapBuf::from_frame(&[])],
        segments(flags::RST, 2),
    ];
    let flows = u64::from(FLOWS) * 4;
    spec.generation = 2;
    let mut updates = planner.plan(&spec).unwrap();
    let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
    let mut listed = Vec::with_capacity(200);

    let info = allocation_counter::measure(|| {
        for burst in &mut bursts {
            worker.process(Ticks(10), burst, &mut verdicts);
        }
        for update in &mut updates {
            worker.apply(update);
        }
        worker.export(Ticks(10), &engine::ConnFilter::default(), 0, 1000, &mut listed);
        for second in 1..400 {
            worker.housekeep(Ticks::from_secs(second));
        }
    });

    assert_eq!(info.count_total, 0, "{info:?}");
    assert_eq!(listed.len() as u64, 2 * flows);
    // Three bursts of segments, two of datagrams, one of errors.
    assert_eq!(counters.event(Counter::Forwarded).get(), 6 * flows);
    assert_eq!(counters.event(Counter::IcmpErrors).get(), flows);
    assert_eq!(counters.event(Counter::ConnectionsExpired).get(), 2 * flows);
    assert_eq!(worker.generation(), 2);
}

#[test]
fn resetting_connections_allocates_nothing() {
    let (mut worker, counters, mut planner, mut spec) = gateway();
    spec.generation = 2;
    for service in spec.services.iter_mut().filter(|service| service.virtual_.port() == 80) {
        service.options.reset_on_expiry = true;
        service.reals[0].mode = Mode::Dr;
    }
    planner.plan(&spec).unwrap().iter_mut().for_each(|update| worker.apply(update));
    let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
    for (flags, seq) in [(flags::SYN, 1), (flags::ACK, 2)] {
        worker.process(Ticks(10), &mut segments(flags, seq), &mut verdicts);
    }
    spec.services.iter_mut().for_each(|service| service.reals[0].end_connections = true);
    let mut updates = planner.plan(&spec).unwrap();
    let mut packets: Vec<_> = (0..100).map(|_| HeapBuf::with_room(&[], 128, 128)).collect();
    let mut late = segments(flags::ACK, 2);

    let info = allocation_counter::measure(|| {
        updates.iter_mut().for_each(|update| worker.apply(update));
        while worker.housekeep(Ticks(20)) > 0 {}
        assert!(worker.resets_waiting() > 0);
        for packet in &mut packets {
            let _ = worker.write_reset(packet);
        }
        worker.process(Ticks(30), &mut late, &mut verdicts);
    });

    assert_eq!(info.count_total, 0, "{info:?}");
    // Of each connection of both families one to either side, and the answer to what came late.
    assert_eq!(counters.event(Counter::ResetsSent).get(), 3 * u64::from(FLOWS) * 2);
}
