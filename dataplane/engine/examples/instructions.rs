//! The engine's steady state, for counting instructions: run it under callgrind with collection switched on inside
//! [`process_burst`] only, and divide by the packets that it prints. `tollgate-bench` does that.
//!
//! ```text
//! valgrind --tool=callgrind --collect-atstart=no '--toggle-collect=*process_burst*' instructions 1000 both 3000
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A tool of the bench.

#[path = "../benches/rig/mod.rs"]
mod rig;

use std::hint::black_box;

use engine::{Ticks, Worker};
use rig::{Burst, Rig};

fn main() {
    let mut args = std::env::args().skip(1);
    let flows: u32 = args.next().map_or(1000, |text| text.parse().expect("flows: a number"));
    let traffic = args.next().unwrap_or_else(|| "both".to_owned());
    let bursts: usize = args.next().map_or(3000, |text| text.parse().expect("bursts: a number"));
    assert!(["inbound", "both"].contains(&traffic.as_str()), "traffic: inbound or both");

    let mut rig = Rig::established(flows);
    let frames = rig.data_frames(traffic == "both", (4 * flows as usize).clamp(4096, 1 << 20));
    let mut burst = Burst::new();
    let mut at = 0;
    for _ in 0..bursts {
        at = burst.load(&frames, at);
        process_burst(&mut rig.worker, rig.now, &mut burst);
        assert!(burst.all_forwarded(), "{:?}", burst.verdicts);
    }
    println!("packets {}", bursts * burst.packets.len());
}

/// What is measured: one burst through the engine.
#[inline(never)]
fn process_burst(worker: &mut Worker, now: Ticks, burst: &mut Burst) {
    worker.process(now, black_box(&mut burst.packets), &mut burst.verdicts);
}
