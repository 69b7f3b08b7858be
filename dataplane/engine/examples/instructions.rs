//! The engine's steady state, or its opening of connections, for counting instructions: run it under callgrind with
//! collection switched on inside [`process_burst`] only, and divide by the packets that it prints. `tollgate-bench` does
//! that.
//!
//! ```text
//! valgrind --tool=callgrind --collect-atstart=no '--toggle-collect=*process_burst*' \
//!     instructions fullnat tcp ipv4 both 1000 3000
//! ```
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A tool of the bench.

#[path = "../benches/rig/mod.rs"]
mod rig;

use std::hint::black_box;
use std::ops::Range;

use engine::snapshot::Mode;
use engine::{Ticks, Worker};
use rig::{BURST, Burst, Kind, Rig};

/// What the counted packets are.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    /// Of open connections, from clients.
    Inbound,
    /// Of open connections, from clients and real servers.
    Both,
    /// The first of their connections.
    New,
    /// The same, into a table that is full of unanswered ones.
    Full,
    /// The same, to 20,000 services, each of which has had a connection before.
    Many,
}

/// Services of [`Traffic::Many`], with a real server each.
const SERVICES: u32 = 20_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let [mode, proto, family, traffic, flows, bursts] = words[..] else {
        panic!("usage: instructions MODE PROTOCOL FAMILY TRAFFIC FLOWS BURSTS")
    };
    let kind = kind(mode, proto, family);
    let traffics = [
        ("inbound", Traffic::Inbound),
        ("both", Traffic::Both),
        ("new", Traffic::New),
        ("full", Traffic::Full),
        ("many", Traffic::Many),
    ];
    let traffic = one_of("traffic", traffic, &traffics);
    let both = traffic == Traffic::Both;
    assert!(!(both && kind.is_one_way()), "real servers answer clients themselves in this mode");
    let flows: u32 = flows.parse().expect("flows: a number");
    let bursts: usize = bursts.parse().expect("bursts: a number");

    let count = (bursts * BURST) as u32;
    let (mut rig, frames) = match traffic {
        Traffic::Inbound | Traffic::Both => {
            let rig = Rig::established(kind, flows);
            let frames = rig.data_frames(both, (4 * flows as usize).clamp(4096, 1 << 20));
            (rig, frames)
        }
        Traffic::New => (Rig::with_room(kind, flows, count), first_frames(kind, flows..flows + count)),
        Traffic::Full => {
            let mut rig = Rig::empty(kind, &kind.spec(), flows);
            rig.open((0..flows).map(|n| kind.first_frame(n)));
            (rig, first_frames(kind, flows..flows + count))
        }
        Traffic::Many => {
            let mut rig = Rig::empty(kind, &kind.spec_of(SERVICES, 1), 2 * (SERVICES + count));
            let frame = |n: u32| kind.first_frame_to(n, n.wrapping_mul(7919) % SERVICES);
            rig.open((0..SERVICES).map(frame));
            (rig, (SERVICES..SERVICES + count).map(frame).collect())
        }
    };
    let mut burst = Burst::new();
    let mut at = 0;
    for _ in 0..bursts {
        at = burst.load(&frames, at);
        run_burst(&mut rig.worker, rig.now, &mut burst);
        assert!(burst.all_forwarded(), "{:?}", burst.verdicts);
    }
    println!("packets {}", bursts * burst.packets.len());
}

fn first_frames(kind: Kind, clients: Range<u32>) -> Vec<Vec<u8>> {
    clients.map(|n| kind.first_frame(n)).collect()
}

fn kind(mode: &str, proto: &str, family: &str) -> Kind {
    let modes = [("fullnat", Mode::FullNat), ("nat", Mode::Nat), ("dr", Mode::Dr), ("tun", Mode::Tun)];
    let families = [("ipv4", (false, false)), ("ipv6", (true, true)), ("nat64", (true, false))];
    let (client_is_v6, real_is_v6) = one_of("family", family, &families);
    Kind {
        mode: one_of("mode", mode, &modes),
        is_udp: one_of("protocol", proto, &[("tcp", false), ("udp", true)]),
        client_is_v6,
        real_is_v6,
    }
}

fn one_of<T: Copy>(what: &str, given: &str, known: &[(&str, T)]) -> T {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let found = known.iter().find(|(name, _)| *name == given);
    found.unwrap_or_else(|| panic!("{what} `{given}` is none of {names:?}")).1
}

/// As the dataplane does (see `dpdk::cpu`): by the code for x86-64-v3. Counts of other code are not comparable.
#[cfg(target_arch = "x86_64")]
fn run_burst(worker: &mut Worker, now: Ticks, burst: &mut Burst) {
    use std::arch::is_x86_feature_detected as has;
    let v3 = has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe")
        && has!("popcnt");
    assert!(v3, "instructions are counted of code for x86-64-v3, which this CPU does not have");
    // SAFETY: the CPU has every feature that `process_burst` is compiled with.
    unsafe { process_burst(worker, now, burst) }
}

#[cfg(not(target_arch = "x86_64"))]
fn run_burst(worker: &mut Worker, now: Ticks, burst: &mut Burst) {
    process_burst(worker, now, burst);
}

/// What is measured: one burst through the engine.
#[inline(never)]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe,popcnt"))]
fn process_burst(worker: &mut Worker, now: Ticks, burst: &mut Burst) {
    worker.process(now, black_box(&mut burst.packets), &mut burst.verdicts);
}
