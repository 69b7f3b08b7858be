//! Instructions per packet of the engine alone, counted by callgrind: repeatable on a busy machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Family, Mode, Proto, Traffic};
use crate::report::{Row, Spread, TOLLGATE};

const BURSTS: u32 = 3000;

/// What is counted: the plainest case in both kinds of traffic, every other one in the fullest that its mode has.
pub(crate) fn cases() -> Vec<Case> {
    use Family::{Ipv4, Ipv6, Nat64};
    use Mode::{Dr, Fullnat, Nat, Tun};
    use Proto::{Tcp, Udp};
    use Traffic::{Both, Inbound};
    [
        (Fullnat, Tcp, Ipv4, Inbound),
        (Fullnat, Tcp, Ipv4, Both),
        (Fullnat, Udp, Ipv4, Both),
        (Fullnat, Tcp, Ipv6, Both),
        (Fullnat, Udp, Ipv6, Both),
        (Fullnat, Tcp, Nat64, Both),
        (Fullnat, Udp, Nat64, Both),
        (Nat, Tcp, Ipv4, Both),
        (Nat, Udp, Ipv4, Both),
        (Nat, Tcp, Ipv6, Both),
        (Dr, Tcp, Ipv4, Inbound),
        (Dr, Udp, Ipv4, Inbound),
        (Dr, Tcp, Ipv6, Inbound),
        (Tun, Tcp, Ipv4, Inbound),
        (Tun, Udp, Ipv4, Inbound),
        (Tun, Tcp, Ipv6, Inbound),
    ]
    .into_iter()
    .filter_map(|(mode, proto, family, traffic)| Case::new(mode, proto, family, traffic))
    .collect()
}

/// Counts one case with the example program `instructions` of the engine.
///
/// # Errors
/// When valgrind or the program fails.
pub(crate) fn run(program: &Path, dir: &Path, case: Case) -> Result<Row> {
    let profile = dir.join(format!("callgrind.{}.out", case.name()));
    let output = Command::new("valgrind")
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
        assert_eq!(cases().len(), 16);
    }
}
