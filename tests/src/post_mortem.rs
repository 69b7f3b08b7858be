//! What a failed test leaves of its gateway and its network: all that one needs to find the cause, gathered while
//! everything still runs.
//!
//! Gathering never fails, and takes [`TIME`] at the most: what cannot be had in that time is named instead.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::gateway::Gateway;
use crate::netns::{self, Netns};
use crate::run::Cmd;

/// All of it.
const TIME: Duration = Duration::from_secs(20);
/// One question: a dataplane that hangs must leave time for the others.
const TIME_OF_ONE: Duration = Duration::from_secs(4);
/// Lines of each log.
const LOG_LINES: usize = 40;
/// Lines of each list.
const LINES_MAX: usize = 20;
/// Connections that are looked at.
const CONNECTIONS_MAX: u32 = 100_000;

/// Counters of a host's kernel that tell of packets lost, late or refused, as `nstat` calls them.
const TROUBLES: [&str; 12] = [
    "IpInDiscards",
    "IpOutNoRoutes",
    "Ip6InDiscards",
    "IcmpInDestUnreachs",
    "TcpAttemptFails",
    "TcpRetransSegs",
    "TcpInErrs",
    "TcpOutRsts",
    "UdpInErrors",
    "TcpExtTCPSynRetrans",
    "TcpExtListenOverflows",
    "TcpExtListenDrops",
];

/// The gateway in its namespace, and all namespaces whose names begin with `prefix`.
pub(crate) fn of(gateway: &Gateway, gw: &Netns, prefix: &str) -> String {
    let mut found = Found { text: String::new(), until: Instant::now() + TIME };
    found.programs(gateway, gw);
    found.network(prefix);
    for name in ["dataplane", "control"] {
        found.section(&format!("log of {name}"), &log_tail(&gateway.dir().join(format!("{name}.log"))));
    }
    found.text
}

/// Picks out of what a program says what is worth showing.
type Show = fn(&str) -> String;

struct Found {
    text: String,
    until: Instant,
}

impl Found {
    fn section(&mut self, title: &str, body: &str) {
        self.text += &format!("── {title} ──\n{}\n", body.trim_end());
    }

    /// What a program says.
    fn said(&self, command: Result<Cmd>) -> Result<String> {
        let command = command?;
        let left = self.until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "`{command}`: no time left");
        let said = command.limit(left.min(TIME_OF_ONE)).run()?;
        Ok(said.stdout)
    }

    /// What is to be shown of what a program says, or why it says nothing.
    fn shown(&self, command: Result<Cmd>, show: Show) -> String {
        self.said(command).map_or_else(|error| format!("{error:#}"), |said| show(&said))
    }

    fn programs(&mut self, gateway: &Gateway, gw: &Netns) {
        let Some(dataplane) = &gateway.dataplane else {
            return self.section("gateway", "no dataplane is running");
        };
        let listing = format!("connections --json --limit {CONNECTIONS_MAX}");
        let asked: [(&str, Show); 3] =
            [("status", str::to_owned), ("stats", str::to_owned), (&listing, opening)];
        for (arguments, show) in asked {
            let shown = self.shown(gateway.command_line(gw, arguments), show);
            self.section(&format!("tollgate {arguments}"), &shown);
        }
        let threads = Cmd::line("ps -L -o tid,stat,pcpu,wchan:20,comm -p").arg(dataplane.pid().to_string());
        let shown = self.shown(Ok(threads), str::to_owned);
        self.section("threads of the dataplane", &shown);
    }

    /// What the kernels of all hosts have lost, and what they wait for.
    fn network(&mut self, prefix: &str) {
        let asked: [(&str, Show); 4] = [
            ("ip neigh show nud failed nud incomplete", str::to_owned),
            ("ss -Htan state syn-sent state syn-recv", str::to_owned),
            ("nstat -as", troubles),
            ("ip -s -j link", losses),
        ];
        let mut lines = String::new();
        for host in netns::list(|name| name.starts_with(prefix)).unwrap_or_default() {
            for (line, show) in asked {
                let shown = self.shown(Ok(Cmd::line(&format!("ip netns exec {host} {line}"))), show);
                lines.extend(shown.lines().take(LINES_MAX).map(|line| format!("{host}: {line}\n")));
            }
        }
        self.section("what the hosts' kernels wait for, and have lost", &lines);
    }
}

/// The connections that have not come about, out of the JSON of them all.
fn opening(listed: &str) -> String {
    let Ok(all) = serde_json::from_str::<Vec<Value>>(listed) else { return listed.to_owned() };
    let is_opening = |one: &&Value| one["state"].as_str().is_some_and(|state| state.starts_with("SYN"));
    let opening: Vec<&Value> = all.iter().filter(is_opening).collect();
    let mut text = format!("{} of {} connections have not come about\n", opening.len(), all.len());
    for one in opening.iter().take(LINES_MAX) {
        let of = |key: &str| one[key].as_str().unwrap_or("-");
        text += &format!(
            "{} {} -> {}, {} -> {}, worker {}, {} s left\n",
            of("state"),
            of("client"),
            of("virtual"),
            of("local"),
            of("real"),
            one["worker"],
            one["expires_s"],
        );
    }
    text
}

/// The lines of `nstat` that matter here; it leaves out what is 0.
fn troubles(said: &str) -> String {
    let words = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let counts = words.filter_map(|words| match words[..] {
        [name, count, ..] if TROUBLES.contains(&name) => Some(format!("{name} {count}\n")),
        _ => None,
    });
    counts.collect()
}

/// Interfaces that have lost packets, out of the JSON of `ip -s link`.
fn losses(said: &str) -> String {
    let Ok(links) = serde_json::from_str::<Vec<Value>>(said) else { return said.to_owned() };
    let mut text = String::new();
    for link in &links {
        for way in ["rx", "tx"] {
            let counts = &link["stats64"][way];
            let count = |key: &str| counts[key].as_u64().unwrap_or_default();
            if count("errors") + count("dropped") > 0 {
                text += &format!("{} {way} {counts}\n", link["ifname"].as_str().unwrap_or("-"));
            }
        }
    }
    text
}

/// The log of a program that may have ended, or never have come up.
fn log_tail(path: &Path) -> String {
    let Ok(bytes) = std::fs::read(path) else { return "none".to_owned() };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_have_not_come_about_are_shown_and_the_others_counted() {
        let listed = r#"[{"state":"SYN_RECV","client":"10.1.0.11:40000","virtual":"10.1.0.100:80",
            "local":"10.2.0.200:1024","real":"10.2.0.11:80","worker":1,"expires_s":59},
            {"state":"ESTABLISHED","client":"10.1.0.11:40001"}]"#;
        assert_eq!(
            opening(listed),
            "1 of 2 connections have not come about\n\
             SYN_RECV 10.1.0.11:40000 -> 10.1.0.100:80, 10.2.0.200:1024 -> 10.2.0.11:80, worker 1, 59 s left\n"
        );
    }

    #[test]
    fn of_counters_and_interfaces_only_those_with_trouble_are_shown() {
        let counted = "#kernel\nIpInReceives   30   0.0\nTcpRetransSegs   4    0.0\n";
        assert_eq!(troubles(counted), "TcpRetransSegs 4\n");
        let links = r#"[{"ifname":"lo","stats64":{"rx":{"errors":0,"dropped":0},"tx":{"errors":0,"dropped":0}}},
            {"ifname":"eth0","stats64":{"rx":{"errors":0,"dropped":7},"tx":{"errors":0,"dropped":0}}}]"#;
        assert_eq!(losses(links), "eth0 rx {\"dropped\":7,\"errors\":0}\n");
    }

    #[test]
    fn a_program_that_hangs_takes_no_more_than_its_share() {
        let begun = Instant::now();
        let mut found = Found { text: String::new(), until: begun + Duration::from_millis(50) };
        let why = found.shown(Ok(Cmd::line("sleep 60")), str::to_owned);
        assert!(why.contains("still running") && begun.elapsed() < TIME_OF_ONE, "{why}");
        found.until = begun;
        assert!(found.shown(Ok(Cmd::line("true")), str::to_owned).contains("no time left"));
    }
}
