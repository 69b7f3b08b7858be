use std::io::Write;
use std::process::{Command, Stdio};

use api::{Mode, Scheduler, SchedulerFlags};

use super::*;

fn real(last: u8, traffic: Traffic) -> RealServerStats {
    RealServerStats {
        real: ([10, 2, 0, last], 80).into(),
        mode: Mode::FullNat,
        is_sorry: false,
        weight: 2,
        ramp_percent: 100,
        up: true,
        reachable: last != 12,
        traffic,
        active: 5,
        inactive: 6,
        persistent: 0,
    }
}

fn traffic(packets: u64) -> Traffic {
    Traffic {
        connections: packets / 10,
        in_packets: packets,
        out_packets: packets,
        in_bytes: packets * 60,
        out_bytes: packets * 1000,
    }
}

fn key() -> ServiceKey {
    ServiceKey { protocol: api::Protocol::Tcp, virtual_: ([10, 1, 0, 100], 80).into() }
}

fn stats(real_servers: Vec<RealServerStats>) -> Stats {
    let counter = |name: &str| WorkerCounter {
        name: name.to_owned(),
        help: "What it counts.".to_owned(),
        per_worker: vec![1, 2],
    };
    let service = ServiceStats {
        key: key(),
        name: "web \"main\"".to_owned(),
        also: vec![],
        scheduler: Scheduler::Wrr,
        scheduler_flags: SchedulerFlags::default(),
        one_packet: false,
        persistence: None,
        no_real_server: 4,
        real_servers,
    };
    Stats {
        services: vec![service],
        drops: vec![counter("bad_checksum")],
        counters: vec![counter("toa_inserted"), counter("punted_arp")],
        states: vec![counter("ESTABLISHED")],
        local_ports: vec![LocalPortUse {
            local: [10, 2, 0, 200].into(),
            real: ([10, 2, 0, 11], 80).into(),
            in_use: 3,
            capacity: 64_512,
            exhausted: 0,
        }],
    }
}

/// A page with every family on it.
fn page() -> String {
    let status = Status {
        version: "0.1.0".to_owned(),
        workers: vec![WorkerStatus { busy: 0.25, ..WorkerStatus::default() }],
        ports: vec![PortStatus { name: "wan".to_owned(), link_mbps: 10_000, ..PortStatus::default() }],
        ..Status::default()
    };
    let health = ctl::Health {
        service: key(),
        name: "web \"main\"".to_owned(),
        real: ([10, 2, 0, 11], 80).into(),
        mode: Mode::FullNat,
        state: "up".to_owned(),
        error: None,
        since_s: 1,
        passes: 9,
        failures: 1,
        changes: 1,
    };
    let control = ctl::Status { health: vec![health], ..ctl::Status::default() };
    let sorry = RealServerStats { mode: Mode::Dr, is_sorry: true, ..real(99, traffic(0)) };
    let stats = stats(vec![real(11, traffic(100)), real(12, traffic(50)), sorry]);
    let mut totals = Totals::default();
    totals.update(1, &stats);
    let scrape =
        Scrape { dataplane_up: true, status: &status, stats: &stats, totals: &totals, control: &control };
    render(&scrape).unwrap()
}

fn families(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[test]
fn the_page_is_as_it_was() {
    insta::assert_snapshot!(page());
}

#[test]
fn the_documentation_names_exactly_the_metrics_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| `tollgate_")?.split('`').next()).collect();
    let page = page();
    let exported: Vec<&str> =
        families(&page).into_iter().map(|name| name.strip_prefix("tollgate_").unwrap()).collect();
    for name in &exported {
        assert!(documented.contains(name), "docs/metrics.md lacks tollgate_{name}");
    }
    for name in &documented {
        assert!(exported.contains(name), "docs/metrics.md names tollgate_{name}, which is not exported");
    }
}

#[test]
fn alert_rules_and_dashboard_use_only_metrics_there_are() {
    let page = page();
    let exported = families(&page);
    for file in ["prometheus/alerts.yml", "grafana/tollgate.json"] {
        let path = format!("{}/../configs/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: Vec<&str> = words.filter(|word| word.starts_with("tollgate_")).collect();
        assert!(!used.is_empty(), "{file}");
        for name in used {
            assert!(exported.contains(&name), "{file} uses {name}, which is not exported");
        }
    }
}

/// Debian's package `prometheus` has it, which `scripts/setup.sh` installs.
fn promtool() -> Command {
    let found = Command::new("promtool").arg("--version").output();
    assert!(found.is_ok(), "promtool does not run ({found:?}): run scripts/setup.sh, or install prometheus");
    Command::new("promtool")
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let mut child = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn promtool_accepts_the_alert_rules() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/prometheus/alerts.yml");
    let output = promtool().args(["check", "rules", rules]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn totals_of_a_service_never_fall_while_the_dataplane_lives() {
    let mut totals = Totals::default();
    totals.update(1, &stats(vec![real(11, traffic(100)), real(12, traffic(50))]));
    assert_eq!(totals.of(key()), traffic(150));
    // One leaves, the other goes on.
    totals.update(1, &stats(vec![real(11, traffic(120))]));
    assert_eq!(totals.of(key()), traffic(170));
    // It comes back and counts from 0.
    totals.update(1, &stats(vec![real(11, traffic(120)), real(12, traffic(10))]));
    assert_eq!(totals.of(key()), traffic(180));
    // Another process: everything begins anew.
    totals.update(2, &stats(vec![real(11, traffic(10))]));
    assert_eq!(totals.of(key()), traffic(10));
}
