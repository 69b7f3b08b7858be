//! How long the engine's housekeeping keeps a worker from its packets while very many connections end at once.
//!
//! ```text
//! expiry fullnat tcp 1000000 5
//! ```
//!
//! Opens the connections, lets all of them run out at the same time, and calls [`engine::Worker::housekeep`] until they are
//! gone, with a burst of packets of no connection between the calls; that many times over. Prints the calls' times in each
//! round, and then those of the least disturbed ones: all rounds do the same, call for call, so what takes long in one round
//! only is the machine's, and the least time that any round needed for a call is ours.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A tool of the bench.

#[path = "../benches/rig/mod.rs"]
mod rig;

use std::time::Instant;

use engine::Ticks;
use engine::snapshot::Mode;
use rig::{Burst, Kind, Rig, TIMEOUT_S};

/// Groups that records are scattered over: neighbours in a list are so many records apart, on average.
const GROUPS: u32 = 100;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let &[mode, proto, flows, rounds] = &words[..] else {
        panic!("usage: expiry MODE PROTOCOL FLOWS ROUNDS")
    };
    let mode = match mode {
        "fullnat" => Mode::FullNat,
        "dr" => Mode::Dr,
        other => panic!("mode `{other}` is neither fullnat nor dr"),
    };
    let is_udp = match proto {
        "tcp" => false,
        "udp" => true,
        other => panic!("protocol `{other}` is neither tcp nor udp"),
    };
    let flows: u32 = flows.parse().expect("flows: a number");
    let rounds: u32 = rounds.parse().expect("rounds: a number");
    let mut least: Vec<u64> = Vec::new();
    for round in 0..rounds {
        let mut rig = Rig::established(Kind { mode, is_udp, ..Kind::PLAINEST }, flows);
        rig.scatter(GROUPS);
        rig.open_first(flows);
        let times = end_all(&mut rig);
        report(&format!("round {round}"), &times);
        if least.is_empty() {
            least = times;
        } else {
            assert_eq!(least.len(), times.len(), "rounds differ");
            least.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
        }
    }
    report("least of each call", &least);
}

/// Nanoseconds of each call.
fn end_all(rig: &mut Rig) -> Vec<u64> {
    let mut burst = Burst::new();
    let frames = [rig::foreign_frame()];
    rig.now = rig.now.plus(Ticks::from_secs(TIMEOUT_S));
    let mut times = Vec::with_capacity(rig.inbound.len());
    while rig.worker.connections() > 0 {
        burst.load(&frames, 0);
        rig.worker.process(rig.now, &mut burst.packets, &mut burst.verdicts);
        let start = Instant::now();
        rig.worker.housekeep(rig.now);
        times.push(start.elapsed().as_nanos() as u64);
    }
    times
}

fn report(name: &str, times: &[u64]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    let over_50_us = times.iter().filter(|ns| **ns > 50_000).count();
    println!(
        "{name}: calls {} total_ms {:.1} p50_us {:.2} p99_us {:.2} p99.9_us {:.2} max_us {:.2} over_50_us {over_50_us}",
        times.len(),
        times.iter().sum::<u64>() as f64 / 1e6,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
