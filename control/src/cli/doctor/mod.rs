//! `tollgate doctor`: what to look at before the first start, and when the gateway is slow. Every check says
//! `ok`, `note` or `problem`, and what to do about it. Without a running dataplane it looks at the machine alone.

mod gateway;
mod hardware;
mod kernel;
mod machine;
mod traffic;

use std::fmt::Write;
use std::path::Path;

use api::{Stats, Status};
use config::{Config, counted};
use serde::Serialize;

use super::{CliError, Sockets, check, print, print_json};
use crate::ctl;
use machine::Machine;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Worth knowing; the gateway works.
    Note,
    /// The gateway does not work, or not as configured.
    Problem,
}

/// What one check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    text: String,
    /// What to do; empty: nothing.
    remedy: String,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Ok, text: text.into(), remedy: String::new() }
    }

    fn note(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Note, text: text.into(), remedy: remedy.into() }
    }

    fn problem(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Problem, text: text.into(), remedy: remedy.into() }
    }
}

/// What is known. The configuration, the dataplane and control may be missing.
struct Facts {
    machine: Machine,
    config: Result<Config, String>,
    dataplane: Result<(Status, Stats), String>,
    control: Result<Option<ctl::Status>, String>,
}

impl Facts {
    fn gather(root: &Path, config_file: &Path, sockets: &Sockets) -> Facts {
        let config = check::load(config_file).map_err(|mistakes| mistakes.to_string());
        let dataplane = sockets.dataplane().and_then(|mut peer| Ok((peer.status()?, peer.stats()?)));
        Facts {
            machine: Machine::read(root, config.as_ref().ok()),
            config,
            dataplane: dataplane.map_err(|error| error.to_string()),
            control: sockets.control_status().map_err(|error| error.to_string()),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let config = self.config.as_ref().ok();
        let dataplane = self.dataplane.as_ref().ok();
        let status = dataplane.map(|(status, _)| status);
        let mut found = vec![self.configuration()];
        found.extend(gateway::programs(&self.dataplane, &self.control));
        found.extend(hardware::memory(&self.machine, config, status));
        found.extend(hardware::pci(&self.machine, config));
        found.extend(hardware::cpus(&self.machine, config, status));
        found.push(hardware::instructions(&self.machine));
        found.push(hardware::clock(&self.machine));
        if let Some((status, stats)) = dataplane {
            found.extend(gateway::ports(status));
            found.push(gateway::steering(status));
            found.extend(traffic::workers(status));
            found.extend(traffic::local_ports(stats));
            found.extend(traffic::drops(status, stats));
        }
        if let Some(config) = config {
            found.extend(kernel::twins(&self.machine, config, status.is_some()));
        }
        found.push(kernel::routing_daemons(&self.machine));
        found
    }

    fn configuration(&self) -> Finding {
        match &self.config {
            Ok(config) => {
                let services = counted(config.services.len(), "service");
                let ports = counted(config.ports.len(), "port");
                Finding::ok("configuration", format!("{services}, {ports}"))
            }
            Err(mistakes) => Finding::problem(
                "configuration",
                mistakes.trim_end().replace('\n', "; "),
                "tollgate check-config lists every mistake with its place",
            ),
        }
    }
}

pub(super) fn run(sockets: &Sockets, config_file: &Path, json: bool) -> Result<(), CliError> {
    let findings = Facts::gather(Path::new("/"), config_file, sockets).findings();
    if json {
        print_json(&findings)?
    } else {
        print(&render(&findings))?
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count() {
        0 => Ok(()),
        problems => Err(CliError::Problems(problems)),
    }
}

fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "PROBLEM",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verdict:<7}  {:<width$}  {}", finding.check, finding.text);
        if !finding.remedy.is_empty() {
            let _ = writeln!(text, "{:<7}  {:<width$}  -> {}", "", "", finding.remedy);
        }
    }
    text
}

/// The worst verdict, for tests of checks.
#[cfg(test)]
fn worst(findings: &[Finding]) -> Verdict {
    let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    match (has(Verdict::Problem), has(Verdict::Note)) {
        (true, _) => Verdict::Problem,
        (_, true) => Verdict::Note,
        _ => Verdict::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_one_line_each_with_the_remedy_below() {
        let findings = [
            Finding::ok("clock", "good"),
            Finding::note("memory", "few", "take more"),
            Finding::problem("dataplane", "down", "start it"),
        ];
        let wanted = "ok       clock      good\n\
                      note     memory     few\n                    -> take more\n\
                      PROBLEM  dataplane  down\n                    -> start it\n";
        assert_eq!(render(&findings), wanted);
        assert_eq!(worst(&findings), Verdict::Problem);
        assert_eq!(worst(&findings[..2]), Verdict::Note);
    }
}
