//! Whether packets wait while very many connections end: a million of them run out at once, under full load of others, and
//! the worker's own counters say how many turns of its loop took long.
//!
//! The gateway is stopped until their time is up, so that all are due when it goes on: no rate of expiry is worse.

use std::time::Duration;

use anyhow::{Result, ensure};
use api::Timeouts;

use crate::case::{Case, FLOWS, Family, Mode, Proto, Traffic};
use crate::flows::{Flows, Opening};
use crate::gateway::{Gateway, LongTurns, memory_mib};
use crate::machine::HugePages;
use crate::report::{Row, Spread, TOLLGATE};
use crate::throughput::{Plan, Replay};

/// Connections that end, and those that the load keeps alive.
const ENDING: u32 = 1_000_000;
/// Time after which a silent connection expires: all must be open before the first ends.
const TIMEOUT_S: u32 = 40;
/// Beyond the timeout: the wheel's precision, and a connection's last packet may be the last of all.
const MARGIN: Duration = Duration::from_secs(2);

/// What is told of the turns while connections end, and in as long without.
const DETAILS: [(&str, &str); 3] = [
    ("expiry_stall, turns over 20 µs", "expiry_stall, none ends, turns over 20 µs"),
    ("expiry_stall, turns over 50 µs", "expiry_stall, none ends, turns over 50 µs"),
    ("expiry_stall, turns over 100 µs", "expiry_stall, none ends, turns over 100 µs"),
];

/// Lets the connections end.
///
/// # Errors
/// When the gateway does not start or answer, or the connections do not end.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let Some(case) = Case::new(Mode::Fullnat, Proto::Udp, Family::Ipv4, Traffic::Inbound) else {
        return Ok(Vec::new());
    };
    let mut flows = Flows::new(Case { flows: ENDING, ..case })?;
    flows.timeouts = Timeouts { udp_s: TIMEOUT_S, ..Timeouts::default() };
    let replay = Replay::write(&plan.dir, [flows.first_frames(FLOWS)])?;
    let _pages = HugePages::reserve(memory_mib(replay.frames) + 64)?;
    let setup = plan.setup(&flows, replay.device("net_pcap"), replay.frames);
    let mut gateway = Gateway::with_connections(&setup, Opening::Whole)?;
    let wait = Duration::from_secs(TIMEOUT_S.into()) + MARGIN;
    let (took, ending) = turns(&mut gateway, wait, |gateway| gateway.drain(FLOWS.into()))?;
    let ((), without) = turns(&mut gateway, MARGIN, |gateway| gateway.go_on(took))?;
    Ok(rows(&flows.case, took, &ending, &without))
}

/// Stops the gateway for so long; what it then does, and how many turns took long in that.
fn turns<T>(
    gateway: &mut Gateway,
    stop: Duration,
    work: impl FnOnce(&mut Gateway) -> Result<T>,
) -> Result<(T, LongTurns)> {
    let before = gateway.long_turns()?;
    gateway.halt()?;
    std::thread::sleep(stop);
    let done = work(gateway)?;
    let mut turns = gateway.long_turns()?.since(&before);
    // The turn in which it was stopped was a long one.
    ensure!(turns.0.iter().all(|count| *count > 0), "the stop was no long turn: {turns:?}");
    turns.0.iter_mut().for_each(|count| *count -= 1);
    Ok((done, turns))
}

fn rows(case: &Case, took: Duration, ending: &LongTurns, without: &LongTurns) -> Vec<Row> {
    let row = |detail, unit, value| Row {
        detail: Some(detail),
        ..Row::new("latency", TOLLGATE, case, unit, Spread::exactly(value))
    };
    let mut rows = vec![row("expiry_stall, time until all have ended", "ms", took.as_secs_f64() * 1e3)];
    for (at, (with_ending, with_none)) in DETAILS.into_iter().enumerate() {
        rows.push(row(with_ending, "turns", ending.0[at] as f64));
        rows.push(row(with_none, "turns", without.0[at] as f64));
    }
    rows
}
