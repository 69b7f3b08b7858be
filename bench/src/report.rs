//! Results: rows for machines, tables for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// Several measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Middle value.
    pub(crate) median: f64,
    /// Least.
    pub(crate) min: f64,
    /// Greatest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Spread { median, min: end(sorted.first()), max: end(sorted.last()) }
    }

    /// Of a figure that was taken once because it is the same every time.
    pub(crate) fn exactly(value: f64) -> Spread {
        Spread { median: value, min: value, max: value }
    }
}

/// One object of results.json.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// throughput, memory, engine_instructions.
    pub(crate) bench: &'static str,
    /// tollgate, testpmd-io, testpmd-macswap.
    pub(crate) dut: &'static str,
    /// Forwarding mode; `None` for testpmd.
    pub(crate) mode: Option<&'static str>,
    /// tcp or udp.
    pub(crate) proto: &'static str,
    /// ipv4 or ipv6.
    pub(crate) family: &'static str,
    /// inbound or both.
    pub(crate) traffic: &'static str,
    /// Connections.
    pub(crate) flows: u32,
    /// Length on the wire, with the FCS.
    pub(crate) frame_bytes: u32,
    /// Workers.
    pub(crate) workers: u16,
    /// The median.
    pub(crate) value: f64,
    /// Of `value`, `min` and `max`.
    pub(crate) unit: &'static str,
    /// The median, again, under its name.
    pub(crate) median: f64,
    /// Least.
    pub(crate) min: f64,
    /// Greatest.
    pub(crate) max: f64,
    /// Median over the windows of this device's rate to that of testpmd macswap in the window beside it.
    pub(crate) ratio_macswap: Option<f64>,
    /// Median, least and greatest of that ratio.
    pub(crate) ratio_macswap_spread: Option<Spread>,
    /// How many windows or runs.
    pub(crate) windows: usize,
    /// Least share of a window in which the forwarding thread had its CPU; below 1, others used the machine.
    pub(crate) cpu_share: Option<f64>,
    /// Nanoseconds per packet at the median rate.
    pub(crate) ns_per_packet: Option<f64>,
    /// Whether the gateway forwarded and sent every packet that it received in all windows.
    pub(crate) all_forwarded: Option<bool>,
    /// Packets that the gateway dropped in all windows.
    pub(crate) dropped: Option<u64>,
}

impl Row {
    /// A row about FULLNAT TCP over IPv4 with one worker.
    pub(crate) fn new(bench: &'static str, dut: &'static str, unit: &'static str, spread: Spread) -> Row {
        Row {
            bench,
            dut,
            mode: (dut == TOLLGATE).then_some("fullnat"),
            proto: "tcp",
            family: "ipv4",
            traffic: "inbound",
            flows: 0,
            frame_bytes: 64,
            workers: 1,
            value: spread.median,
            unit,
            median: spread.median,
            min: spread.min,
            max: spread.max,
            ratio_macswap: None,
            ratio_macswap_spread: None,
            windows: 1,
            cpu_share: None,
            ns_per_packet: None,
            all_forwarded: None,
            dropped: None,
        }
    }
}

/// Our own device under test.
pub(crate) const TOLLGATE: &str = "tollgate";

/// Writes results.json and table.md.
///
/// # Errors
/// Of the file system.
pub(crate) fn write(dir: &Path, machine: &str, rows: &[Row]) -> Result<()> {
    let json = serde_json::to_string_pretty(rows).context("encoding the results")?;
    fs::write(dir.join("results.json"), json + "\n").context("writing results.json")?;
    fs::write(dir.join("table.md"), markdown(machine, rows)).context("writing table.md")
}

/// The tables of docs/benchmarks.md.
pub(crate) fn markdown(machine: &str, rows: &[Row]) -> String {
    let mut text = format!("Machine: {machine}\n\n");
    text += "| FULLNAT TCP, 64-byte frames, one worker | Flows | Tollgate Mpps | ns/packet | macswap Mpps | io Mpps | \
             Ratio to macswap: median (min–max) | Windows | CPU share | All forwarded |\n|---|---|---|---|---|---|---|---|---|---|\n";
    for row in rows.iter().filter(|row| row.bench == "throughput" && row.dut == TOLLGATE) {
        let other = |dut: &str| {
            let found = rows.iter().find(|r| {
                r.bench == row.bench && r.dut == dut && (r.flows, r.traffic) == (row.flows, row.traffic)
            });
            found.map_or("–".to_owned(), |r| format!("{:.1}", r.value))
        };
        let ratio = row.ratio_macswap_spread.unwrap_or(Spread::exactly(f64::NAN));
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.0} | {} | {} | {:.3} ({:.3}–{:.3}) | {} | {:.2} | {} |",
            row.traffic,
            thousands(row.flows),
            row.value,
            row.ns_per_packet.unwrap_or(f64::NAN),
            other("testpmd-macswap"),
            other("testpmd-io"),
            ratio.median,
            ratio.min,
            ratio.max,
            row.windows,
            row.cpu_share.unwrap_or(f64::NAN),
            match row.all_forwarded {
                Some(true) => "yes, 0 drops".to_owned(),
                _ => format!("NO, {} drops", row.dropped.unwrap_or(0)),
            }
        );
    }
    text += "\n| Other figures | Traffic | Flows | Value |\n|---|---|---|---|\n";
    for row in rows.iter().filter(|row| row.bench != "throughput") {
        let name = match row.bench {
            "engine_instructions" => "Engine only, callgrind",
            _ => "Connection record and index",
        };
        let flows = thousands(row.flows);
        let _ = writeln!(text, "| {name} | {} | {flows} | {:.1} {} |", row.traffic, row.value, row.unit);
    }
    text
}

fn thousands(n: u32) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert!((Spread::of(&[4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_row_has_the_keys_that_readers_expect() {
        let row =
            serde_json::to_value(Row::new("memory", TOLLGATE, "bytes", Spread::exactly(146.0))).unwrap();
        for key in ["bench", "dut", "mode", "proto", "family", "traffic", "flows", "frame_bytes", "workers"] {
            assert!(row.get(key).is_some(), "{key}");
        }
        for key in ["value", "unit", "median", "min", "max", "ratio_macswap"] {
            assert!(row.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(
            (thousands(1), thousands(1000), thousands(1_000_000)),
            ("1".into(), "1 000".into(), "1 000 000".into())
        );
    }
}
