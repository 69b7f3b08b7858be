//! The gateway's programs, its ports and its steering.

use std::time::{SystemTime, UNIX_EPOCH};

use api::{PortStatus, Stats, Status};
use config::counted;

use super::super::status::{is_misdirecting, sum};
use super::super::table::duration;
use super::Finding;
use crate::ctl;

/// Dataplane and control: whether they run, are of one version and agree.
pub(super) fn programs(
    dataplane: &Result<(Status, Stats), String>,
    control: &Result<Option<ctl::Status>, String>,
) -> Vec<Finding> {
    let mut found = vec![match dataplane {
        Ok((status, _)) => of_dataplane(status),
        Err(error) => Finding::problem(
            "dataplane",
            error.clone(),
            "systemctl start tollgate-dataplane; `journalctl -u tollgate-dataplane` says why it does not start",
        ),
    }];
    if let Ok((status, _)) = dataplane {
        found.extend(status.warnings.iter().map(|warning| Finding::note("dataplane", warning.clone(), "")));
    }
    let generation = dataplane.as_ref().ok().map(|(status, _)| status.generation);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    found.push(match control {
        Ok(Some(status)) => of_control(status, generation, now_ms),
        Ok(None) => Finding::problem(
            "control",
            "not running: no health checks, no metrics, no changes of services",
            "systemctl start tollgate-control",
        ),
        Err(error) => Finding::problem("control", error.clone(), ""),
    });
    found
}

/// What all three programs should be.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn of_dataplane(status: &Status) -> Finding {
    const CHECK: &str = "dataplane";
    let text = format!("{} on {}, up {}", status.version, status.dpdk_version, duration(status.uptime_s));
    if status.version != VERSION {
        let text = format!("{text}, while this program is {VERSION}");
        return Finding::problem(CHECK, text, "restart it: systemctl restart tollgate-dataplane");
    }
    if status.generation == 0 {
        let text = format!("{text}, without services so far");
        return Finding::problem(CHECK, text, "see control, which tells it the services");
    }
    Finding::ok(CHECK, text)
}

fn of_control(status: &ctl::Status, generation: Option<u64>, now_ms: u64) -> Finding {
    const CHECK: &str = "control";
    let link = &status.dataplane;
    // Generations are the time of their making in milliseconds, unless clocks went back.
    let age_s = now_ms.saturating_sub(link.generation) / 1000;
    let text = match link.applied {
        0 => format!("{}, nothing applied since its start", status.version),
        count => {
            let applied = counted(count, "change");
            format!("{}, {applied} applied, the last one {} ago", status.version, duration(age_s))
        }
    };
    if status.version != VERSION {
        let text = format!("{text}, while this program is {VERSION}");
        return Finding::problem(CHECK, text, "restart it: systemctl restart tollgate-control");
    }
    if let Some(trouble) = &link.trouble {
        return Finding::problem(CHECK, format!("{text}; {trouble}"), "`journalctl -u tollgate-control`");
    }
    if let Some(generation) = generation.filter(|generation| *generation != link.generation) {
        let text = format!("{text}; it applied generation {}, in force is {generation}", link.generation);
        return Finding::note(
            CHECK,
            text,
            "again in a moment; if that stays, another control may be running",
        );
    }
    if status.reload_failures > 0 {
        let text = format!("{text}, {} refused", status.reload_failures);
        return Finding::note(CHECK, text, "tollgate check-config; `journalctl -u tollgate-control`");
    }
    Finding::ok(CHECK, text)
}

/// One in so many packets missed is worth a note.
const MISSED_NOTE_ONE_IN: u64 = 1000;

pub(super) fn ports(status: &Status) -> impl Iterator<Item = Finding> {
    status.ports.iter().map(port)
}

fn port(port: &PortStatus) -> Finding {
    const CHECK: &str = "port";
    let name = &port.name;
    if !port.link_up {
        return Finding::problem(
            CHECK,
            format!("{name} has no link"),
            "cable, switch port, or its virtual peer",
        );
    }
    if port.rx_no_mbuf > 0 {
        let text = format!("{name} found no packet buffer {}", counted(port.rx_no_mbuf, "time"));
        return Finding::problem(CHECK, text, "more `mbufs` and `memory_mib` in [dataplane]");
    }
    if port.rx_missed * MISSED_NOTE_ONE_IN > port.rx_packets {
        let text = format!("{name} missed {} and got {}", counted(port.rx_missed, "packet"), port.rx_packets);
        let remedy =
            "workers too busy or not scheduled (see cpus, workers); more workers, more `rx_descriptors`";
        return Finding::note(CHECK, text, remedy);
    }
    if port.rx_errors + port.tx_errors > 0 {
        let (receive, transmit) =
            (counted(port.rx_errors, "receive error"), counted(port.tx_errors, "transmit error"));
        let text = format!("{name}: {receive} and {transmit}");
        return Finding::note(CHECK, text, "cable, optics, MTU of both ends");
    }
    let text = format!(
        "{name} ({}): link, {} and {}; {}",
        port.driver,
        counted(port.rx_queues, "receive queue"),
        counted(port.tx_queues, "transmit queue"),
        port.receive_hash
    );
    Finding::ok(CHECK, text)
}

pub(super) fn steering(status: &Status) -> Finding {
    const CHECK: &str = "steering";
    let (handed_over, received) =
        (sum(status, |worker| worker.handed_over), sum(status, |worker| worker.rx_packets));
    let misdirected = sum(status, |worker| worker.misdirected);
    let mut text = match status.steering.as_str() {
        "single" => return Finding::ok(CHECK, "one worker, which needs none"),
        "rss" => "rss, self-test passed".to_owned(),
        "flow" => format!("flow, {}", counted(status.flow_rules, "rule")),
        other => other.to_owned(),
    };
    if !status.steering_note.is_empty() {
        text = format!("{text}: {}", status.steering_note);
    }
    let received = counted(received, "packet");
    text = format!("{text}; {handed_over} of {received} handed over, {misdirected} misdirected");
    if is_misdirecting(status) {
        let remedy =
            "steering = \"software\" in [dataplane]: the NICs do not do what they say; VLAN tags may be why";
        return Finding::problem(CHECK, text, remedy);
    }
    match status.steering.as_str() {
        "software" => {
            let remedy = "ports with RSS whose key and table the driver tells, or with flow rules, and a queue for each \
                          worker; or one worker, if it can take the traffic";
            Finding::note(CHECK, text, remedy)
        }
        _ => Finding::ok(CHECK, text),
    }
}

#[cfg(test)]
mod tests {
    use api::WorkerStatus;

    use super::super::{Verdict, worst};
    use super::*;

    fn status() -> Status {
        Status { version: VERSION.to_owned(), generation: 7, ..Status::default() }
    }

    fn control() -> ctl::Status {
        let dataplane = ctl::DataplaneLink { connected: true, generation: 7, applied: 1, trouble: None };
        ctl::Status { version: VERSION.to_owned(), dataplane, ..ctl::Status::default() }
    }

    fn said(dataplane: Status, control: Option<ctl::Status>) -> (Verdict, String) {
        let found = programs(&Ok((dataplane, Stats::default())), &Ok(control));
        (
            worst(&found),
            found.iter().map(|finding| format!("{} {}\n", finding.text, finding.remedy)).collect(),
        )
    }

    #[test]
    fn programs_of_one_version_that_agree_are_fine() {
        assert_eq!(said(status(), Some(control())).0, Verdict::Ok);
    }

    #[test]
    fn a_program_that_is_down_or_of_another_version_is_a_problem() {
        let down = programs(&Err("nobody answers".to_owned()), &Ok(None));
        assert!(down.iter().all(|finding| finding.verdict == Verdict::Problem));
        assert!(down[0].remedy.contains("systemctl start tollgate-dataplane"), "{down:?}");
        assert!(down[1].remedy.contains("systemctl start tollgate-control"), "{down:?}");
        let other = || "0.0.1".to_owned();
        let (verdict, text) = said(Status { version: other(), ..status() }, Some(control()));
        assert!(verdict == Verdict::Problem && text.contains("restart tollgate-dataplane"), "{text}");
        let (verdict, text) = said(status(), Some(ctl::Status { version: other(), ..control() }));
        assert!(verdict == Verdict::Problem && text.contains("restart tollgate-control"), "{text}");
    }

    #[test]
    fn the_last_change_is_told_with_its_age() {
        let text = |applied, now_ms| {
            let mut status = control();
            (status.dataplane.applied, status.dataplane.generation) = (applied, 1_000_000);
            of_control(&status, None, now_ms).text
        };
        assert!(
            text(3, 1_090_000).ends_with("3 changes applied, the last one 1m30s ago"),
            "{}",
            text(3, 1_090_000)
        );
        assert!(text(0, 1_090_000).ends_with("nothing applied since its start"));
    }

    #[test]
    fn what_control_could_not_apply_is_told() {
        let mut refused = control();
        refused.dataplane.trouble = Some("too many services".to_owned());
        assert_eq!(said(status(), Some(refused)).0, Verdict::Problem);
        assert_eq!(said(Status { generation: 8, ..status() }, Some(control())).0, Verdict::Note);
        assert_eq!(said(Status { generation: 0, ..status() }, Some(control())).0, Verdict::Problem);
        let failed = ctl::Status { reload_failures: 2, ..control() };
        assert_eq!(said(status(), Some(failed)).0, Verdict::Note);
        let warned = Status { warnings: vec!["no huge pages".to_owned()], ..status() };
        let (verdict, text) = said(warned, Some(control()));
        assert!(verdict == Verdict::Note && text.contains("no huge pages"), "{text}");
    }

    #[test]
    fn ports_without_link_and_with_losses_are_told() {
        let good = PortStatus { link_up: true, rx_packets: 1_000_000, ..PortStatus::default() };
        assert_eq!(port(&good).verdict, Verdict::Ok);
        assert_eq!(port(&PortStatus { link_up: false, ..good.clone() }).verdict, Verdict::Problem);
        assert!(port(&PortStatus { rx_no_mbuf: 1, ..good.clone() }).remedy.contains("mbufs"));
        assert_eq!(port(&PortStatus { rx_missed: 900, ..good.clone() }).verdict, Verdict::Ok);
        assert!(port(&PortStatus { rx_missed: 1100, ..good.clone() }).remedy.contains("rx_descriptors"));
        assert_eq!(port(&PortStatus { tx_errors: 1, ..good }).verdict, Verdict::Note);
    }

    #[test]
    fn steering_is_told_with_its_reason() {
        let with = |name: &str, misdirected| {
            let worker =
                WorkerStatus { rx_packets: 1000, handed_over: 100, misdirected, ..WorkerStatus::default() };
            let (steering, steering_note) = (name.to_owned(), "port wan hides its key".to_owned());
            steering_of(Status { steering, steering_note, workers: vec![worker], ..status() })
        };
        fn steering_of(status: Status) -> Finding {
            steering(&status)
        }
        assert_eq!(with("single", 0).verdict, Verdict::Ok);
        assert_eq!(with("rss", 10).verdict, Verdict::Ok);
        assert_eq!(with("flow", 0).verdict, Verdict::Ok);
        assert_eq!(with("software", 0).verdict, Verdict::Note);
        let wrong = with("rss", 90);
        assert!(wrong.verdict == Verdict::Problem && wrong.text.contains("hides its key"), "{wrong:?}");
    }
}
