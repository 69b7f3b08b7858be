//! Cycles and cache misses per packet, by perf, where the machine has hardware counters for us; most virtual machines have
//! none.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::on_both_cpus;

/// What is counted, as perf calls it, and the unit of the row.
const EVENTS: [(&str, &str); 3] = [
    ("cycles", "cycles/packet"),
    ("instructions", "instructions/packet"),
    ("cache-misses", "cache misses/packet"),
];

/// How often an event happened, and in how much CPU time it was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Count {
    /// Of the row.
    pub(crate) unit: &'static str,
    /// Events per nanosecond of CPU time.
    pub(crate) per_ns: f64,
}

/// Whether there are counters; tells when there are none.
pub(crate) fn is_available() -> bool {
    let counted = Command::new("perf").args(["stat", "-x,", "-e", "cycles", "true"]).output();
    let available = counted.is_ok_and(|output| read(&String::from_utf8_lossy(&output.stderr)).len() == 1);
    if !available {
        println!(
            "cycles and cache misses are not counted: perf is not installed or finds no hardware counters"
        );
    }
    available
}

/// Counts the events of these threads for so long, on a machine that has counters.
///
/// # Errors
/// When perf fails.
pub(crate) fn count(threads: &[u32], length: Duration) -> Result<Vec<Count>> {
    let events: Vec<&str> = EVENTS.iter().map(|(event, _)| *event).collect();
    let threads: Vec<String> = threads.iter().map(u32::to_string).collect();
    let output = on_both_cpus(Path::new("perf"))
        .args(["stat", "-x,", "-e", &events.join(","), "-t", &threads.join(",")])
        .args(["sleep", &length.as_secs_f64().to_string()])
        .output()
        .context("running perf")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf: {said}");
    Ok(read(&said))
}

/// Reads `perf stat -x,`: count, unit, event, nanoseconds in which it was counted, and more.
fn read(said: &str) -> Vec<Count> {
    let counts = said.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let event = fields.get(2)?.split(':').next()?;
        let (_, unit) = EVENTS.iter().find(|(name, _)| *name == event)?;
        let (events, ns): (f64, f64) = (fields.first()?.parse().ok()?, fields.get(3)?.parse().ok()?);
        (ns > 0.0).then_some(Count { unit, per_ns: events / ns })
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_counted_is_read() {
        let said = "1500,,cycles:u,500,100.00,,\n<not supported>,,cache-misses,0,100.00,,\n\n7,msec,task-clock,7,1,,\n";
        assert_eq!(read(said), [Count { unit: "cycles/packet", per_ns: 3.0 }]);
    }
}
