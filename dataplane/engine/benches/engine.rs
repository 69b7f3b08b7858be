//! What a packet costs the engine alone, through its public API, in bursts of 32 on [`wire::HeapBuf`]s.
//!
//! Only the calls of [`engine::Worker::process`] are timed, not the refilling of buffers. HeapBuf has no prefetch
//! instruction, so with many flows these figures are worse than the dataplane's; that is what `make bench` measures.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A bench.
#![allow(missing_docs)] // criterion's macros make public functions.

mod rig;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{Counters, Limits, Planner, Ticks};
use rig::{BURST, Burst, Kind, Rig};

/// Times `iterations` bursts, taking their frames from `frames` in turn.
fn time_bursts(rig: &mut Rig, frames: &[Vec<u8>], iterations: u64) -> Duration {
    let mut burst = Burst::new();
    let (mut at, mut spent) = (0, Duration::ZERO);
    for _ in 0..iterations {
        at = burst.load(frames, at);
        let start = Instant::now();
        rig.worker.process(rig.now, black_box(&mut burst.packets), &mut burst.verdicts);
        spent += start.elapsed();
    }
    black_box(&burst.verdicts);
    spent
}

/// Parse, look up, translate: the steady state.
fn translate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("translate");
    group.throughput(Throughput::Elements(BURST as u64));
    for flows in [1, 1000, 100_000, 1_000_000] {
        let mut rig = Rig::established(Kind::PLAINEST, flows);
        for (name, both) in [("inbound", false), ("both", true)] {
            let frames = rig.data_frames(both, (2 * flows as usize).clamp(1024, 1 << 20));
            group.bench_function(BenchmarkId::new(name, flows), |bencher| {
                bencher.iter_custom(|iterations| {
                    let before = rig.forwarded();
                    let spent = time_bursts(&mut rig, &frames, iterations);
                    assert!(rig.forwarded() > before);
                    spent
                });
            });
        }
    }
    group.finish();
}

/// What is refused early: at the parser, and after a lookup that finds nothing.
fn refuse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("refuse");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut rig = Rig::established(Kind::PLAINEST, 1000);
    for (name, frame) in [("parse", rig::cut_frame()), ("parse_and_lookup", rig::foreign_frame())] {
        let frames = vec![frame; BURST];
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| time_bursts(&mut rig, &frames, iterations));
        });
    }
    group.finish();
}

/// New connections: every packet is a SYN of a new client. When the table is full, all connections expire, untimed.
fn admit(criterion: &mut Criterion) {
    const ROOM: u32 = 200_000;
    let mut group = criterion.benchmark_group("admit");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut rig = Rig::empty(Kind::PLAINEST, &Kind::PLAINEST.spec(), ROOM + 1024);
    let frames: Vec<Vec<u8>> = (0..ROOM).map(|n| Kind::PLAINEST.first_frame(n)).collect();
    group.bench_function("syn", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let bursts = left.min(u64::from(ROOM) / BURST as u64);
                spent += time_bursts(&mut rig, &frames, bursts);
                expire_all(&mut rig);
                left -= bursts;
            }
            spent
        });
    });
    group.finish();
}

fn expire_all(rig: &mut Rig) {
    rig.now = rig.now.plus(Ticks::from_secs(300));
    while rig.worker.connections() > 0 {
        rig.worker.housekeep(rig.now);
    }
}

/// What the main thread does for a configuration: 20,000 services with 100,000 real servers at once, and a change of the
/// weight of one of them.
fn plan(criterion: &mut Criterion) {
    let spec = Kind::PLAINEST.spec_of(20_000, 5);
    let limits = Limits { services_max: 40_000, reals_max: 200_000, pairs_max: 400_000 };
    let counters = vec![Arc::new(Counters::new(limits.services_max, limits.reals_max, limits.pairs_max))];
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    group.bench_function("20k services", |bencher| {
        bencher.iter_with_large_drop(|| Planner::new(limits, counters.clone()).plan(&spec).expect("it fits"));
    });
    let (mut planner, mut changed) = (Planner::new(limits, counters), spec);
    let _updates = planner.plan(&changed).expect("it fits");
    group.bench_function("one weight of 20k services", |bencher| {
        bencher.iter_with_large_drop(|| {
            changed.services[0].reals[0].weight ^= 3;
            planner.plan(&changed).expect("it fits")
        });
    });
    group.finish();
}

/// Not timed: how much memory a connection takes.
fn memory(_criterion: &mut Criterion) {
    let worker = Rig::empty(Kind::PLAINEST, &Kind::PLAINEST.spec(), 1_000_000).worker;
    let bytes = worker.table_bytes() as f64 / f64::from(worker.connections_max());
    println!("memory: {bytes:.1} bytes per connection, record and index");
}

criterion_group!(benches, translate, refuse, admit, plan, memory);
criterion_main!(benches);
