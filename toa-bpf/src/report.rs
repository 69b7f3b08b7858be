//! Shows a status to people and to programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::counters::COUNTERS;
use crate::prefix::Prefix;
use crate::receiver::Status;

/// Prefixes for a sentence.
pub(crate) fn list(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>().join(", ")
}

/// For people.
pub(crate) fn text(status: &Status) -> String {
    let mut out = format!("attached to  {}", status.cgroup.display());
    if !status.cgroup_present {
        out.push_str("  (this group is gone: detach, then attach again)");
    }
    let _ = writeln!(out, "\ntrusting     {}", list(&status.trust));
    let serving = [("TCP", true), ("MPTCP", status.mptcp), ("UDP", status.udp)];
    let serving = serving.iter().filter_map(|(name, served)| served.then_some(*name)).collect::<Vec<_>>();
    let _ = writeln!(out, "serving      {}", serving.join(", "));
    if !status.interfaces.is_empty() {
        let _ = writeln!(out, "protocol 248 {}", status.interfaces.join(", "));
    }
    for (counter, value) in COUNTERS.iter().zip(status.counters) {
        let _ = writeln!(out, "{value:>12}  {:<16}  {}", counter.name, counter.meaning);
    }
    out
}

/// For programs: one object on one line.
pub(crate) fn json(status: &Status) -> String {
    let counters: Map<String, Value> = COUNTERS
        .iter()
        .zip(status.counters)
        .map(|(counter, value)| (counter.name.to_owned(), value.into()))
        .collect();
    let object = json!({
        "attached": status.cgroup_present,
        "cgroup": status.cgroup,
        "mptcp": status.mptcp,
        "udp": status.udp,
        "udp_header": status.interfaces,
        "trust": status.trust.iter().map(Prefix::to_string).collect::<Vec<_>>(),
        "counters": counters,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn status() -> Status {
        Status {
            cgroup: PathBuf::from("/sys/fs/cgroup"),
            cgroup_present: false,
            trust: vec!["10.9.0.0/24".parse().unwrap()],
            mptcp: true,
            udp: true,
            interfaces: vec!["eth0".to_owned()],
            counters: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        }
    }

    #[test]
    fn json_names_every_counter() {
        let value: Value = serde_json::from_str(&json(&status())).unwrap();
        assert_eq!(value["attached"], false);
        assert_eq!(value["trust"][0], "10.9.0.0/24");
        assert_eq!(value["counters"]["learnt"], 1);
        assert_eq!(value["counters"]["shown"], 7);
        assert_eq!(value["counters"]["udp_returned"], 10);
        assert_eq!(value["counters"].as_object().unwrap().len(), COUNTERS.len());
    }

    /// docs/toa.md says by these names what to look at.
    #[test]
    fn text_names_every_counter() {
        let text = text(&status());
        assert!(text.contains("\n           2  without_option    connections from"), "{text}");
        for counter in &COUNTERS {
            assert!(text.contains(&format!("  {} ", counter.name)), "no {}: {text}", counter.name);
        }
    }

    #[test]
    fn text_tells_when_the_group_is_gone() {
        assert!(text(&status()).contains("this group is gone"));
    }
}
