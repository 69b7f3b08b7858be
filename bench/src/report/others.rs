//! Tables of everything but throughput.

use std::fmt::Write as _;

use super::{Row, TOLLGATE, thousands};

fn head(columns: &[&str]) -> String {
    format!("\n| {} |\n{}|\n", columns.join(" | "), "|---".repeat(columns.len()))
}

fn of<'a>(rows: &'a [Row], bench: &'static str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.bench == bench)
}

/// New connections per second.
pub(super) fn new_connections(rows: &[Row]) -> String {
    let columns = [
        "New connections",
        "Mode",
        "Protocol",
        "Family",
        "Per second: median (min–max)",
        "CPU share",
        "Core share",
        "Drops",
    ];
    let mut text = String::new();
    for row in of(rows, "new_connections") {
        if text.is_empty() {
            text = head(&columns);
        }
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.0} k ({:.0}–{:.0}) | {:.2} | {} | {} |",
            row.detail.unwrap_or_default(),
            row.mode.unwrap_or_default(),
            row.proto,
            row.family,
            row.value / 1e3,
            row.min / 1e3,
            row.max / 1e3,
            row.cpu_share.unwrap_or(f64::NAN),
            row.core_share.map_or("–".to_owned(), |share| format!("{share:.2}")),
            row.dropped.unwrap_or(0)
        );
    }
    text
}

/// Latency.
pub(super) fn latency(rows: &[Row]) -> String {
    let columns = [
        "Latency",
        "Device",
        "Protocol",
        "Frame",
        "Median (min–max)",
        "More than macswap",
        "CPU share",
        "Core share",
    ];
    let share = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{share:.3}"));
    let mut text = String::new();
    for row in of(rows, "latency") {
        if text.is_empty() {
            text = head(&columns);
        }
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} ({:.2}–{:.2}) {} | {} | {} | {} |",
            row.detail.unwrap_or_default(),
            row.dut,
            row.proto,
            row.frame_bytes,
            row.value,
            row.min,
            row.max,
            row.unit,
            added(row, rows).map_or("–".to_owned(), |more| format!("{more:.2} {}", row.unit)),
            share(row.cpu_share),
            share(row.core_share)
        );
    }
    text
}

/// What our own latency has beyond testpmd's under the same load, however our worker idles.
fn added(row: &Row, rows: &[Row]) -> Option<f64> {
    let load = |row: &Row| {
        let mut parts = row.detail?.split(", ");
        Some((parts.next()?, parts.last()?))
    };
    let wanted = load(row).filter(|_| row.dut == TOLLGATE)?;
    let base = of(rows, "latency").find(|other| other.dut != TOLLGATE && load(other) == Some(wanted))?;
    Some(row.value - base.value)
}

/// What users would see: one line per figure, one column per device.
pub(super) fn end_to_end(rows: &[Row]) -> String {
    let rows: Vec<&Row> = of(rows, "end_to_end").collect();
    let (mut duts, mut figures) = (Vec::new(), Vec::new());
    for row in &rows {
        if !duts.contains(&row.dut) {
            duts.push(row.dut);
        }
        if !figures.contains(&(row.detail, row.unit)) {
            figures.push((row.detail, row.unit));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut columns = vec!["End to end: median (min–max)"];
    columns.extend(&duts);
    let mut text = head(&columns);
    for (detail, unit) in figures {
        let _ = write!(text, "| {}, {unit} |", detail.unwrap_or_default());
        for dut in &duts {
            let found = rows.iter().find(|row| (row.dut, row.detail, row.unit) == (*dut, detail, unit));
            let cell = found.map_or("–".to_owned(), |row| {
                format!("{} ({}–{})", short(row.value), short(row.min), short(row.max))
            });
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// Instructions, cycles and memory.
pub(super) fn figures(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| ["counters", "engine_instructions", "memory"].contains(&row.bench)) {
        if text.is_empty() {
            text = head(&["Other figures", "Mode", "Protocol", "Family", "Traffic", "Flows", "Value"]);
        }
        let name = match (row.bench, row.detail) {
            ("engine_instructions", _) => "Engine only, callgrind".to_owned(),
            ("counters", _) => "Worker, perf".to_owned(),
            (_, detail) => format!("Memory, {}", detail.unwrap_or_default()),
        };
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {:.1} {} |",
            row.mode.unwrap_or_default(),
            row.proto,
            row.family,
            row.traffic,
            thousands(row.flows),
            row.value,
            row.unit
        );
    }
    text
}
