//! Bars of text, and the line for the history of figures.

use std::fmt::Write as _;

use super::{Row, TOLLGATE};
use crate::case::FLOWS;
use crate::machine;

/// Characters of the longest bar.
const BAR_LEN: f64 = 50.0;

/// Throughput of every mode beside testpmd's, and of the first mode by number of flows.
pub(super) fn charts(rows: &[Row]) -> String {
    let short =
        |row: &&Row| row.bench == "throughput" && row.workers == 1 && row.frame_bytes < super::SHORT_MAX;
    let rows: Vec<&Row> = rows.iter().filter(short).collect();
    let plain = |row: &Row| (row.mode, row.family) == (Some("fullnat"), "ipv4") && row.traffic == "both";
    let usual = rows.iter().filter(|row| row.flows == FLOWS);
    let usual = usual.filter(|row| row.dut == TOLLGATE || (plain(row) && row.proto == "udp"));
    let mut text =
        bars("Mpps of one worker, shortest frames, 1 000 flows", usual.map(|row| (label(row), row.value)));
    let mut by_flows: Vec<&Row> = rows.into_iter().filter(|row| plain(row) && row.proto == "udp").collect();
    by_flows.retain(|row| row.dut == TOLLGATE || row.dut == "testpmd-macswap");
    by_flows.sort_by_key(|row| row.flows);
    let named =
        by_flows.iter().map(|row| (format!("{:>10} {}", super::thousands(row.flows), row.dut), row.value));
    text += &bars("Mpps of one worker by flows, FULLNAT UDP over IPv4, both directions", named);
    text
}

fn label(row: &Row) -> String {
    if row.dut == TOLLGATE { row.name() } else { row.dut.to_owned() }
}

fn bars(title: &str, figures: impl Iterator<Item = (String, f64)>) -> String {
    let figures: Vec<(String, f64)> = figures.collect();
    let most = figures.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if figures.is_empty() || most <= 0.0 {
        return String::new();
    }
    let width = figures.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = format!("\n{title}:\n\n```\n");
    for (label, value) in figures {
        let bar = "█".repeat((value / most * BAR_LEN).round().max(1.0) as usize);
        let _ = writeln!(text, "{label:width$} {bar} {value:.1}");
    }
    text + "```\n"
}

/// The main figures in one line.
pub(super) fn history(rows: &[Row]) -> String {
    let of = |bench: &str, name: &str, flows: Option<u32>| {
        let is = |row: &&Row| {
            (row.bench, row.dut, row.workers) == (bench, TOLLGATE, 1)
                && row.name() == name
                && flows.is_none_or(|flows| row.flows == flows)
                && row.frame_bytes < super::SHORT_MAX
        };
        rows.iter().find(is)
    };
    let ratio = |name, flows| of("throughput", name, Some(flows)).and_then(|row| row.ratio_macswap);
    let value = |bench, name| of(bench, name, None).map(|row| row.value);
    let figures = [
        ("TCP 1 k", ratio("fullnat-tcp-ipv4-both", FLOWS), 3),
        ("UDP 1 k", ratio("fullnat-udp-ipv4-both", FLOWS), 3),
        ("UDP 1 M", ratio("fullnat-udp-ipv4-both", 1_000_000), 3),
        ("IPv6 TCP 1 k", ratio("fullnat-tcp-ipv6-both", FLOWS), 3),
        ("DR TCP 1 k", ratio("dr-tcp-ipv4-inbound", FLOWS), 3),
        ("TUN TCP 1 k", ratio("tun-tcp-ipv4-inbound", FLOWS), 3),
        ("k SYN/s", value("new_connections", "fullnat-tcp-ipv4-inbound").map(|value| value / 1e3), 0),
        ("instructions, TCP both", value("engine_instructions", "fullnat-tcp-ipv4-both"), 0),
    ];
    if figures.iter().all(|(_, figure, _)| figure.is_none()) {
        return String::new();
    }
    let mut text =
        "\nFor the history (ratios to macswap; FULLNAT where nothing is said):\n\n| Commit".to_owned();
    figures.iter().for_each(|(name, ..)| text += &format!(" | {name}"));
    text += &format!(" |\n{}|\n| {}", "|---".repeat(figures.len() + 1), machine::commit());
    for (_, figure, digits) in figures {
        text += &figure.map_or(" | –".to_owned(), |figure| format!(" | {figure:.digits$}"));
    }
    text + " |\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Family, Mode, Proto, Traffic};
    use crate::report::Spread;

    fn row(dut: &'static str, mpps: f64) -> Row {
        let case = Case::new(Mode::Fullnat, Proto::Udp, Family::Ipv4, Traffic::Both).unwrap();
        Row {
            ratio_macswap: Some(mpps / 60.0),
            ..Row::new("throughput", dut, &case, "Mpps", Spread::exactly(mpps))
        }
    }

    #[test]
    fn the_longest_bar_is_the_greatest_figures() {
        let text = charts(&[row(TOLLGATE, 15.0), row("testpmd-macswap", 60.0)]);
        let bar = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().matches('█').count();
        assert_eq!((bar("testpmd-macswap"), bar("fullnat-udp-ipv4-both")), (50, 13));
        assert_eq!(charts(&[]), "");
    }

    #[test]
    fn the_history_has_what_was_measured_and_dashes() {
        let text = history(&[row(TOLLGATE, 15.0)]);
        assert!(text.trim_end().ends_with("| – | 0.250 | – | – | – | – | – | – |"), "{text}");
        assert_eq!(history(&[]), "");
    }
}
