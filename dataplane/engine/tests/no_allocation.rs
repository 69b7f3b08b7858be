//! A worker never allocates: not for a connection's first packet, its last, or any between.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper of tests may panic")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use engine::fib::{FibPort, Route};
use engine::snapshot::{Mode, Scheduler};
use engine::tcp::Timeouts;
use engine::{
    BURST_LEN_MAX, Counter, Counters, FibBuilder, Limits, Planner, PortId, RealSpec, ServiceSpec, Spec,
    Ticks, Update, Verdict, Worker, WorkerConfig, WorkerId,
};
use wire::build::TcpFrame;
use wire::tcp::flags;
use wire::{HeapBuf, MacAddr, U16, U32, ipv4};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const REAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
const LIMITS: Limits = Limits { services_max: 1, reals_max: 1, pairs_max: 1 };

fn gateway() -> (Worker, Arc<Counters>, Planner, Spec) {
    let counters = Arc::new(Counters::new(1, 1, 1));
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
    let spec = Spec {
        generation: 1,
        services: vec![ServiceSpec {
            protocol: 6,
            virtual_: (VIP, 80).into(),
            also: Vec::new(),
            scheduler: Scheduler::Wlc,
            flags: Default::default(),
            toa: Some(254),
            timeouts: Timeouts::default(),
            locals: vec![[10, 2, 0, 200].into()],
            local_ports: (1024, 65535),
            options: Default::default(),
            sorry: None,
            reals: vec![RealSpec::new((REAL, 80).into(), Mode::FullNat, 1)],
        }],
    };
    let mut fib = FibBuilder::default();
    fib.set_port(PortId(0), FibPort { mac: GATEWAY, mtu: 1500 });
    fib.set_route(Ipv4Addr::UNSPECIFIED.into(), 0, Route { via: None, port: PortId(0) });
    fib.set_neighbour(PortId(0), REAL.into(), Some(MacAddr([2, 0, 0, 0, 0, 2])));
    worker.apply(&mut Update::of_fib(Arc::new(fib.build())));
    for mut update in planner.plan(&spec).unwrap() {
        worker.apply(&mut update);
    }
    (worker, counters, planner, spec)
}

fn frames(bits: u8, seq: u32) -> Vec<HeapBuf> {
    (0..32)
        .map(|i| TcpFrame {
            eth_dst: GATEWAY,
            src: ipv4::addr(Ipv4Addr::new(10, 1, 0, 9)),
            dst: ipv4::addr(VIP),
            src_port: U16::new(40_000 + i),
            dst_port: U16::new(80),
            seq: U32::new(seq),
            flags: bits,
            payload: if bits & flags::SYN == 0 { vec![1; 10] } else { vec![] },
            ..TcpFrame::default()
        })
        .map(|frame| HeapBuf::from_frame(&frame.to_vec()))
        .collect()
}

#[test]
fn packets_expiry_and_configuration_changes_allocate_nothing() {
    let (mut worker, counters, mut planner, mut spec) = gateway();
    let mut syns = frames(flags::SYN, 1);
    let mut data = frames(flags::ACK, 2);
    let mut ends = frames(flags::RST, 2);
    let mut garbage = vec![HeapBuf::from_frame(&[0xff; 70]), HeapBuf::from_frame(&[])];
    spec.generation = 2;
    let mut updates = planner.plan(&spec).unwrap();
    let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
    let mut listed = Vec::with_capacity(200);

    let info = allocation_counter::measure(|| {
        for burst in [&mut syns, &mut data, &mut garbage, &mut ends] {
            worker.process(Ticks(10), burst, &mut verdicts);
        }
        for update in &mut updates {
            worker.apply(update);
        }
        worker.export(Ticks(10), &engine::ConnFilter::default(), 0, 1000, &mut listed);
        for second in 1..200 {
            worker.housekeep(Ticks::from_secs(second));
        }
    });

    assert_eq!(info.count_total, 0, "{info:?}");
    assert_eq!(listed.len(), 32);
    assert_eq!(counters.event(Counter::Forwarded).get(), 96);
    assert_eq!(counters.event(Counter::ConnectionsExpired).get(), 32);
    assert_eq!(worker.generation(), 2);
}
