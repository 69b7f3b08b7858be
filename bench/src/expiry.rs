//! Whether packets wait while very many connections end: a million of them run out within about a second, under full load of
//! others, and the worker's own counters say how many turns of its loop took long, and in how many of them upkeep did.
//!
//! The connections are opened as fast as the feeder can, so they run out as fast. The gateway is not stopped for it: after
//! a stop everything is slow for some milliseconds, whatever it does. Between the gateways a thread alone writes to as much
//! memory as the connections have, which tells what of the long turns is the machine's.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::Timeouts;

use crate::case::{Case, FLOWS, Family, Mode, Proto, Traffic};
use crate::flows::{Flows, Opening};
use crate::gateway::{Gateway, LongTurns, memory_mib};
use crate::machine::{HugePages, MEASURED_CPU};
use crate::report::{Row, Spread, THREAD, TOLLGATE};
use crate::rested::{self, Rested};
use crate::throughput::{Plan, Replay};

/// Connections that end, and those that the load keeps alive.
const ENDING: u32 = 1_000_000;
/// Time after which a silent connection expires: all must be open before the first ends.
const TIMEOUT_S: u32 = 10;
/// Gateways, one after the other, whose connections end.
const ROUNDS: usize = 7;

/// What is told of the turns while connections end, and in as long without.
const TURNS: [[&str; 2]; 3] = [
    ["expiry_stall, turns over 20 µs", "expiry_stall, none ends, turns over 20 µs"],
    ["expiry_stall, turns over 50 µs", "expiry_stall, none ends, turns over 50 µs"],
    ["expiry_stall, turns over 100 µs", "expiry_stall, none ends, turns over 100 µs"],
];
/// And of their upkeep.
const UPKEEPS: [[&str; 2]; 2] = [
    ["expiry_stall, upkeep over 20 µs", "expiry_stall, none ends, upkeep over 20 µs"],
    ["expiry_stall, upkeep over 50 µs", "expiry_stall, none ends, upkeep over 50 µs"],
];
/// And of a thread alone, while it writes to memory and in as long without.
const GAPS: [[&str; 2]; 3] = [
    [
        "expiry_stall, a thread alone writes as much, gaps over 20 µs",
        "expiry_stall, a thread alone, gaps over 20 µs",
    ],
    [
        "expiry_stall, a thread alone writes as much, gaps over 50 µs",
        "expiry_stall, a thread alone, gaps over 50 µs",
    ],
    [
        "expiry_stall, a thread alone writes as much, gaps over 100 µs",
        "expiry_stall, a thread alone, gaps over 100 µs",
    ],
];
/// Of those over 50 µs while it writes.
const AT_PAGES: &str = "expiry_stall, a thread alone writes as much, gaps over 50 µs at a new 2 MiB";
const IN_HUGE_PAGES: &str = "expiry_stall, a thread alone, of its memory in huge pages";

/// What one round showed.
struct Round {
    /// From the first end that was seen until all had ended.
    took: Duration,
    ending: LongTurns,
    without: LongTurns,
    /// After the gateway.
    alone: rested::Turn,
}

/// Lets the connections end.
///
/// # Errors
/// When a gateway does not start or answer, or the connections do not end.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let Some(case) = Case::new(Mode::Fullnat, Proto::Udp, Family::Ipv4, Traffic::Inbound) else {
        return Ok(Vec::new());
    };
    let mut flows = Flows::new(Case { flows: ENDING, ..case })?;
    flows.timeouts = Timeouts { udp_s: TIMEOUT_S, ..Timeouts::default() };
    let replay = Replay::write(&plan.dir, [flows.first_frames(FLOWS)])?;
    let _pages = HugePages::reserve(memory_mib(replay.frames) + 64)?;
    let setup = plan.setup(&flows, replay.device("net_pcap"), replay.frames);
    let mut rested = Rested::start(ENDING)?;
    let rounds: Vec<Round> = (0..ROUNDS)
        .map(|_| round(Gateway::with_connections(&setup, Opening::Whole)?, &mut rested))
        .collect::<Result<_>>()?;
    Ok(rows(&flows.case, &rounds))
}

/// The turns while a gateway's connections end, and after that in as long without; the same of a thread alone, whose memory
/// has rested as long as the gateway lived.
fn round(mut gateway: Gateway, rested: &mut Rested) -> Result<Round> {
    let before = gateway.until_fewer_than(ENDING.into())?;
    let took = gateway.drain(FLOWS.into())?;
    let after = gateway.long_turns()?;
    gateway.go_on(took)?;
    let without = gateway.long_turns()?.since(&after);
    // It must have ended: it has the same CPU.
    drop(gateway);
    Ok(Round { took, ending: after.since(&before), without, alone: rested.turn(took)? })
}

/// Rounds of the calls alone: each call's least time of so many is free of what interrupts a machine now and then.
const CALL_ROUNDS: u32 = 7;
/// What the example's last line tells, and its name here.
const CALLS: [(&str, &str); 3] = [
    ("p50_us", "expiry, one call alone, least of 7 rounds, p50"),
    ("p99.9_us", "expiry, one call alone, least of 7 rounds, p99.9"),
    ("max_us", "expiry, one call alone, least of 7 rounds, longest of all"),
];

/// Times the calls that end a million connections, without a gateway around them.
///
/// # Errors
/// When the example fails.
pub(crate) fn calls(program: &Path) -> Result<Vec<Row>> {
    let Some(case) = Case::new(Mode::Fullnat, Proto::Udp, Family::Ipv4, Traffic::Inbound) else {
        return Ok(Vec::new());
    };
    let counts = [ENDING, CALL_ROUNDS].map(|count| count.to_string());
    let output = Command::new("taskset")
        .args(["-c", &MEASURED_CPU.to_string()])
        .arg(program)
        .args(["fullnat", "udp"])
        .args(counts)
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    let case = Case { flows: ENDING, ..case };
    let row = |(key, detail)| {
        let us = told(&text, key).with_context(|| format!("{} told no {key}: {text}", program.display()))?;
        let rounds = CALL_ROUNDS as usize;
        let row = Row::new("latency", TOLLGATE, &case, "µs", Spread::exactly(us));
        Ok(Row { detail: Some(detail), windows: rounds, ..row })
    };
    CALLS.into_iter().map(row).collect()
}

/// The figure behind `key` in the last line.
fn told(text: &str, key: &str) -> Option<f64> {
    let mut words = text.lines().last()?.split_whitespace().skip_while(|word| *word != key);
    words.nth(1)?.parse().ok()
}

fn rows(case: &Case, rounds: &[Round]) -> Vec<Row> {
    let row = |dut, detail, unit, value: &dyn Fn(&Round) -> f64| {
        let values: Vec<f64> = rounds.iter().map(value).collect();
        let row = Row::new("latency", dut, case, unit, Spread::of(&values));
        Row { detail: Some(detail), windows: rounds.len(), ..row }
    };
    let took = "expiry_stall, time until all have ended";
    let mut rows = vec![row(TOLLGATE, took, "ms", &|round| round.took.as_secs_f64() * 1e3)];
    for (at, [ending, without]) in TURNS.into_iter().enumerate() {
        rows.push(row(TOLLGATE, ending, "turns", &|round| round.ending.all[at] as f64));
        rows.push(row(TOLLGATE, without, "turns", &|round| round.without.all[at] as f64));
    }
    for (at, [ending, without]) in UPKEEPS.into_iter().enumerate() {
        rows.push(row(TOLLGATE, ending, "turns", &|round| round.ending.upkeep[at] as f64));
        rows.push(row(TOLLGATE, without, "turns", &|round| round.without.upkeep[at] as f64));
    }
    for (at, [writing, without]) in GAPS.into_iter().enumerate() {
        rows.push(row(THREAD, writing, "gaps", &|round| round.alone.writing.all[at] as f64));
        rows.push(row(THREAD, without, "gaps", &|round| round.alone.without.all[at] as f64));
    }
    rows.push(row(THREAD, AT_PAGES, "gaps", &|round| round.alone.writing.at_pages[1] as f64));
    rows.push(row(THREAD, IN_HUGE_PAGES, "%", &|round| round.alone.huge_share * 1e2));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_example_counts() {
        let text = "round 0: calls 9 p50_us 4.09 max_us 59.44\nleast of each call: calls 9 p50_us 3.92 max_us 5.20\n";
        assert_eq!((told(text, "p50_us"), told(text, "max_us")), (Some(3.92), Some(5.2)));
        assert_eq!((told(text, "p99_us"), told("", "max_us")), (None, None));
    }
}
