//! Instructions per packet of the engine alone, counted by callgrind: repeatable on a busy machine.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;

use crate::case::{Case, Family, Mode, Proto, Traffic};
use crate::machine;
use crate::report::{Row, Spread, TOLLGATE};

/// Bursts of 32 packets in a count; the figure is the same to a tenth of an instruction from 300 on.
const BURSTS: u32 = 1000;

/// What is counted: steady traffic of every mode, protocol and family, and the opening of connections.
pub(crate) fn cases() -> Vec<Case> {
    use Family::{Ipv4, Ipv6};
    use Mode::{Dr, Fullnat, Nat};
    use Proto::{Tcp, Udp};
    let steady = crate::case::kinds(
        Mode::value_variants(),
        Proto::value_variants(),
        Family::value_variants(),
        Traffic::value_variants(),
    );
    let opening = [
        (Fullnat, Tcp, Ipv4, Traffic::New),
        (Fullnat, Tcp, Ipv4, Traffic::Full),
        (Fullnat, Tcp, Ipv4, Traffic::Many),
        (Fullnat, Udp, Ipv4, Traffic::New),
        (Fullnat, Tcp, Ipv6, Traffic::New),
        (Fullnat, Tcp, Ipv6, Traffic::Many),
        (Nat, Tcp, Ipv4, Traffic::New),
        (Dr, Tcp, Ipv4, Traffic::New),
    ];
    let opening = opening
        .into_iter()
        .filter_map(|(mode, proto, family, traffic)| Case::new(mode, proto, family, traffic));
    steady.into_iter().chain(opening).collect()
}

/// Counts all cases, two at a time. What could not be counted is told.
pub(crate) fn run_all(program: &Path, dir: &Path) -> Vec<Row> {
    let cases = cases();
    let half = cases.len().div_ceil(2);
    let count = |cases: &[Case]| -> Vec<Row> {
        let counted = cases.iter().filter_map(|case| match run(program, dir, *case) {
            Ok(row) => Some(row),
            Err(error) => {
                eprintln!("instructions of {} are not counted: {error:#}", case.name());
                None
            }
        });
        counted.collect()
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| count(&cases[..half]));
        let second = count(&cases[half..]);
        let mut rows = first.join().unwrap_or_default();
        rows.extend(second);
        rows
    })
}

/// Counts one case with the example program `instructions` of the engine.
///
/// # Errors
/// When valgrind or the program fails.
fn run(program: &Path, dir: &Path, case: Case) -> Result<Row> {
    let profile = dir.join(format!("callgrind.{}.out", case.name()));
    let mut valgrind = machine::on_both_cpus(Path::new("valgrind"));
    let output = valgrind
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=*process_burst*",
            "--dump-instr=yes",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args([case.mode.name(), case.proto.name(), case.family.name(), case.traffic.name()])
        .args([case.flows.to_string(), BURSTS.to_string()])
        .output()
        .context("running valgrind")?;
    let (printed, messages) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{} under valgrind: {messages}", program.display());
    let instructions = number_after(&messages, "Collected :").context("valgrind printed no count")?;
    let packets = number_after(&printed, "packets ").context("the program printed no packets")?;
    ensure!(instructions > 0 && packets > 0, "callgrind saw nothing of the engine");
    let per_packet = Spread::exactly(instructions as f64 / packets as f64);
    Ok(Row::new("engine_instructions", TOLLGATE, &case, "instructions/packet", per_packet))
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    text.split(label).nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_behind_their_labels() {
        assert_eq!(number_after("==1== Collected : 567\n==1==", "Collected :"), Some(567));
        assert_eq!(number_after("nothing", "Collected :"), None);
    }

    #[test]
    fn every_case_that_is_counted_exists() {
        let names: std::collections::HashSet<String> = cases().iter().map(Case::name).collect();
        assert_eq!(names.len(), cases().len(), "one twice");
        for name in ["fullnat-udp-nat64-both", "tun-udp-ipv6-inbound", "dr-tcp-ipv4-new"] {
            assert!(names.contains(name), "{name}");
        }
    }
}
