//! Results: rows for machines, tables for people.

mod chart;
mod others;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::case::{Case, FLOWS};

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
    /// throughput, new_connections, engine_instructions, memory, latency, end_to_end, and counters: perf's.
    pub(crate) bench: &'static str,
    /// tollgate, testpmd-io, testpmd-macswap, testpmd-5tswap, nftables, haproxy, nginx-stream, direct, thread.
    pub(crate) dut: &'static str,
    /// What of several figures of this kind, e.g. "p99, idle".
    pub(crate) detail: Option<&'static str>,
    /// Forwarding mode, for testpmd that of the case whose packets it was given; `None` for other balancers.
    pub(crate) mode: Option<&'static str>,
    /// tcp or udp.
    pub(crate) proto: &'static str,
    /// ipv4, ipv6, or nat64: IPv6 clients and IPv4 real servers.
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
    /// Least share of a core that a forwarding thread had between windows; below 1, others used the core's other
    /// hyperthread.
    pub(crate) core_share: Option<f64>,
    /// Nanoseconds per packet at the median rate.
    pub(crate) ns_per_packet: Option<f64>,
    /// Whether the gateway forwarded and sent every packet that it received in all windows.
    pub(crate) all_forwarded: Option<bool>,
    /// Packets that the gateway dropped in all windows.
    pub(crate) dropped: Option<u64>,
}

impl Row {
    /// A row about a case with one worker.
    pub(crate) fn new(
        bench: &'static str,
        dut: &'static str,
        case: &Case,
        unit: &'static str,
        spread: Spread,
    ) -> Row {
        Row {
            bench,
            dut,
            detail: None,
            mode: (dut == TOLLGATE || dut.starts_with("testpmd")).then_some(case.mode.name()),
            proto: case.proto.name(),
            family: case.family.name(),
            traffic: case.traffic.name(),
            flows: case.flows,
            frame_bytes: case.frame_bytes,
            workers: case.workers,
            value: spread.median,
            unit,
            median: spread.median,
            min: spread.min,
            max: spread.max,
            ratio_macswap: None,
            ratio_macswap_spread: None,
            windows: 1,
            cpu_share: None,
            core_share: None,
            ns_per_packet: None,
            all_forwarded: None,
            dropped: None,
        }
    }

    /// The case's name, e.g. `fullnat-tcp-ipv4-both`.
    pub(crate) fn name(&self) -> String {
        [self.mode.unwrap_or(self.dut), self.proto, self.family, self.traffic].join("-")
    }
}

/// Our own device under test.
pub(crate) const TOLLGATE: &str = "tollgate";
/// No device, but a thread of the bench in its place.
pub(crate) const THREAD: &str = "thread";

/// Writes results.json and table.md.
///
/// # Errors
/// Of the file system.
pub(crate) fn write(dir: &Path, machine: &str, rows: &[Row]) -> Result<()> {
    let json = serde_json::to_string_pretty(rows).context("encoding the results")?;
    fs::write(dir.join("results.json"), json + "\n").context("writing results.json")?;
    fs::write(dir.join("table.md"), markdown(machine, rows)).context("writing table.md")
}

/// Frames up to this length on the wire are the shortest of their kind.
const SHORT_MAX: u32 = 100;

/// The tables of docs/benchmarks.md.
pub(crate) fn markdown(machine: &str, rows: &[Row]) -> String {
    let mut text = format!("Machine: {machine}\n");
    let ours: Vec<&Row> =
        rows.iter().filter(|row| row.bench == "throughput" && row.dut == TOLLGATE).collect();
    let (single, several): (Vec<&Row>, Vec<&Row>) = ours.into_iter().partition(|row| row.workers == 1);
    let short = |row: &&Row| row.frame_bytes <= SHORT_MAX;
    let usual: Vec<&Row> = single.iter().copied().filter(|row| short(row) && row.flows == FLOWS).collect();
    let long: Vec<&Row> = single.iter().copied().filter(|row| !short(row)).collect();
    let title = format!("Shortest frames, {} flows", thousands(FLOWS));
    text += &table(&title, &usual, rows);
    text += &table(&format!("Frames of more than {SHORT_MAX} bytes"), &long, rows);
    text += &table("Shortest frames by number of flows", &by_flows(&single), rows);
    text += &table("Two workers", &several, rows);
    text += &scaling(&several, &single);
    text += &others::new_connections(rows);
    text += &others::latency(rows);
    text += &others::end_to_end(rows);
    text += &others::figures(rows);
    text += &chart::charts(rows);
    text += &chart::history(rows);
    text
}

/// How much more several workers do than one does in the same case.
fn scaling(several: &[&Row], single: &[&Row]) -> String {
    let kind = |row: &Row| (row.mode, row.proto, row.family, row.traffic, row.flows, row.frame_bytes);
    let mut text = String::new();
    for row in several {
        if let Some(one) = single.iter().find(|one| kind(one) == kind(row)) {
            let (factor, workers) = (row.value / one.value, row.workers);
            let _ = writeln!(
                text,
                "\n{}, {} flows: {workers} workers do {factor:.2} times what one does.",
                row.name(),
                thousands(row.flows)
            );
        }
    }
    text
}

/// Rows of short frames that were measured with several numbers of flows, those numbers ascending.
fn by_flows<'a>(rows: &[&'a Row]) -> Vec<&'a Row> {
    let kind = |row: &Row| (row.mode, row.proto, row.family, row.traffic);
    let is_short = |row: &&&Row| row.frame_bytes <= SHORT_MAX;
    let mut kinds = Vec::new();
    for row in rows.iter().filter(is_short).filter(|row| row.flows != FLOWS) {
        if !kinds.contains(&kind(row)) {
            kinds.push(kind(row));
        }
    }
    let mut swept = Vec::new();
    for wanted in kinds {
        let of_kind = rows.iter().filter(is_short).filter(|row| kind(row) == wanted);
        let mut of_kind: Vec<&Row> = of_kind.copied().collect();
        of_kind.sort_by_key(|row| row.flows);
        swept.append(&mut of_kind);
    }
    swept
}

/// A table of throughput; nothing if there are no rows. `all` has the other devices' rows.
fn table(title: &str, ours: &[&Row], all: &[Row]) -> String {
    if ours.is_empty() {
        return String::new();
    }
    let columns = [
        title,
        "Protocol",
        "Family",
        "Traffic",
        "Flows",
        "Frame",
        "Tollgate Mpps",
        "ns/packet",
        "macswap Mpps",
        "5tswap Mpps",
        "io Mpps",
        "Ratio to macswap: median (min–max)",
        "CPU share",
        "Core share",
        "All forwarded",
    ];
    let mut text = format!("\n| {} |\n{}|\n", columns.join(" | "), "|---".repeat(columns.len()));
    for row in ours {
        let ratio = row.ratio_macswap_spread.unwrap_or(Spread::exactly(f64::NAN));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {:.2} | {:.0} | {} | {} | {} | {:.3} ({:.3}–{:.3}) | {:.2} | {:.2} | {} |",
            row.mode.unwrap_or_default(),
            row.proto,
            row.family,
            row.traffic,
            thousands(row.flows),
            row.frame_bytes,
            row.value,
            row.ns_per_packet.unwrap_or(f64::NAN),
            beside(row, "testpmd-macswap", all),
            beside(row, "testpmd-5tswap", all),
            beside(row, "testpmd-io", all),
            ratio.median,
            ratio.min,
            ratio.max,
            row.cpu_share.unwrap_or(f64::NAN),
            row.core_share.unwrap_or(f64::NAN),
            match row.all_forwarded {
                Some(true) => "yes, 0 drops".to_owned(),
                _ => format!("NO, {} drops", row.dropped.unwrap_or(0)),
            }
        );
    }
    text
}

/// What another device did with the same packets in the same run: its row follows ours.
fn beside(row: &Row, dut: &str, all: &[Row]) -> String {
    let of_case = all.iter().skip_while(|other| !std::ptr::eq(*other, row)).skip(1);
    let mut others = of_case.take_while(|other| other.dut != TOLLGATE);
    others.find(|other| other.dut == dut).map_or("–".to_owned(), |other| format!("{:.1}", other.value))
}

pub(crate) fn thousands(n: u32) -> String {
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

    use crate::case::{Family, Mode, Proto, Traffic};

    fn row(dut: &'static str, flows: u32, frame_bytes: u32, mpps: f64) -> Row {
        let case = Case::new(Mode::Dr, Proto::Udp, Family::Ipv4, Traffic::Inbound).unwrap();
        let case = Case { flows, ..case.with_frames(frame_bytes) };
        Row::new("throughput", dut, &case, "Mpps", Spread::exactly(mpps))
    }

    #[test]
    fn a_row_has_the_keys_that_readers_expect() {
        let row = serde_json::to_value(row(TOLLGATE, 1, 64, 1.0)).unwrap();
        for key in ["bench", "dut", "mode", "proto", "family", "traffic", "flows", "frame_bytes", "workers"] {
            assert!(row.get(key).is_some(), "{key}");
        }
        for key in ["value", "unit", "median", "min", "max", "ratio_macswap"] {
            assert!(row.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn every_row_is_in_a_table_beside_the_others_of_its_case() {
        let rows = [
            row(TOLLGATE, FLOWS, 64, 1.25),
            row("testpmd-macswap", FLOWS, 64, 2.0),
            row(TOLLGATE, FLOWS, 1400, 3.5),
            row("testpmd-macswap", FLOWS, 1400, 4.0),
            row(TOLLGATE, 1, 64, 5.5),
            row("testpmd-macswap", 1, 64, 6.0),
        ];
        let text = markdown("any", &rows);
        let tables: Vec<&str> = text.split("\n\n").skip(1).take(3).collect();
        let figures = |table: &str| -> Vec<String> {
            let lines = table.lines().skip(2);
            lines.map(|line| line.split(" | ").nth(6).unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(
            tables.iter().map(|t| figures(t)).collect::<Vec<_>>(),
            [vec!["1.25"], vec!["3.50"], vec!["5.50", "1.25"]]
        );
        assert!(tables[1].contains("| 3.50 | NaN | 4.0 | – | – |"), "{}", tables[1]);
    }

    #[test]
    fn added_latency_is_that_beyond_testpmd_under_the_same_load() {
        let latency =
            |dut, detail, us| Row { bench: "latency", detail: Some(detail), ..row(dut, 1000, 64, us) };
        let text = others::latency(&[
            latency(TOLLGATE, "idle, p50", 0.9),
            latency(TOLLGATE, "half loaded, idle = \"pause\", p50", 3.0),
            latency(TOLLGATE, "idle, idle = \"adaptive\", p99", 7.0),
            latency("testpmd-macswap", "idle, p50", 0.5),
            latency("testpmd-macswap", "half loaded, p50", 0.75),
        ]);
        let added: Vec<&str> = text.lines().skip(3).filter_map(|line| line.split(" | ").nth(5)).collect();
        assert_eq!(added, ["0.40 Mpps", "2.25 Mpps", "–", "–", "–"], "{text}");
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(
            (thousands(1), thousands(1000), thousands(1_000_000)),
            ("1".into(), "1 000".into(), "1 000 000".into())
        );
    }
}
