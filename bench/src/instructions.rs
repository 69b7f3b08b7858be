//! Instructions per packet of the engine alone, counted by callgrind: repeatable on a busy machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::flows::Traffic;
use crate::report::{Row, Spread, TOLLGATE};

const FLOWS: u32 = 1000;
const BURSTS: u32 = 3000;

/// Counts with the example program `instructions` of the engine.
///
/// # Errors
/// When valgrind or the program fails.
pub(crate) fn run(program: &Path, dir: &Path, traffic: Traffic) -> Result<Row> {
    let profile = dir.join(format!("callgrind.{}.out", traffic.name()));
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=*process_burst*",
            "--dump-instr=yes",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args([FLOWS.to_string(), traffic.name().to_owned(), BURSTS.to_string()])
        .output()
        .context("running valgrind")?;
    let (printed, messages) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{} under valgrind: {messages}", program.display());
    let instructions = number_after(&messages, "Collected :").context("valgrind printed no count")?;
    let packets = number_after(&printed, "packets ").context("the program printed no packets")?;
    ensure!(instructions > 0 && packets > 0, "callgrind saw nothing of the engine");
    let per_packet = Spread::exactly(instructions as f64 / packets as f64);
    Ok(Row {
        traffic: traffic.name(),
        flows: FLOWS,
        ..Row::new("engine_instructions", TOLLGATE, "instructions/packet", per_packet)
    })
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
}
