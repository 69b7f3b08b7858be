//! `tollgate status`.

use std::collections::BTreeMap;
use std::fmt::Write;

use api::{LocalPortUse, Stats, Status, WorkerStatus};
use config::counted;
use serde::Serialize;

use super::table::{Align, Table, bytes, duration, short};
use super::{CliError, Sockets, print, print_json};
use crate::ctl;

/// From this share of local ports in use on, `status` says so: exhaustion must be visible long before it happens.
const LOCAL_PORTS_WARN_PERCENT: u64 = 80;

/// So many pairs of local address and real server are told, the fullest; of the others only how many they are. A
/// local address that runs out may do so towards all real servers.
pub(super) const SCARCE_TOLD: usize = 10;

/// From this share of received packets on, `status` says that the NICs hash otherwise than they tell. A few
/// packets that they do not hash with their ports, as those with options, are normal.
const MISDIRECTED_WARN_PERCENT: u64 = 5;

#[derive(Serialize)]
struct View<'a> {
    dataplane: &'a Status,
    control: Option<ControlView<'a>>,
    services: usize,
    /// How many real servers are reached in which mode, in ipvsadm's words.
    real_servers_by_forward: BTreeMap<&'static str, usize>,
    /// Pairs of LIP and real server that are short of local ports.
    local_ports_scarce: Vec<&'a LocalPortUse>,
}

#[derive(Serialize)]
struct ControlView<'a> {
    version: &'a str,
    pid: u32,
    config: &'a str,
    dataplane: &'a ctl::DataplaneLink,
    reloads: u64,
    reload_failures: u64,
    real_servers_up: usize,
    real_servers_checked: usize,
}

pub(super) fn run(sockets: &Sockets, json: bool) -> Result<(), CliError> {
    let mut dataplane = sockets.dataplane()?;
    let (status, stats) = (dataplane.status()?, dataplane.stats()?);
    let control = sockets.control_status()?;
    let view = View {
        dataplane: &status,
        control: control.as_ref().map(control_view),
        services: stats.services.len(),
        real_servers_by_forward: by_forward(&stats),
        local_ports_scarce: scarce(&stats),
    };
    if json { print_json(&view) } else { print(&render(&view)) }
}

fn by_forward(stats: &Stats) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for real in stats.services.iter().flat_map(|service| &service.real_servers) {
        *counts.entry(real.mode.forward_word()).or_default() += 1;
    }
    counts
}

/// Those that are short of local ports, the fullest first.
pub(super) fn scarce(stats: &Stats) -> Vec<&LocalPortUse> {
    let mut scarce: Vec<_> = stats.local_ports.iter().filter(|port| is_scarce(port)).collect();
    scarce.sort_by_key(|port| std::cmp::Reverse(port.in_use * 1000 / port.capacity.max(1)));
    scarce
}

pub(super) fn scarce_text(port: &LocalPortUse) -> String {
    format!(
        "{} of {} of {} towards {} in use, {} refused",
        port.in_use,
        counted(port.capacity, "local port"),
        port.local,
        port.real,
        counted(port.exhausted, "connection")
    )
}

pub(super) fn more_scarce_text(more: usize) -> String {
    format!("local ports are scarce for {} of local address and real server", counted(more, "more pair"))
}

fn is_scarce(port: &LocalPortUse) -> bool {
    port.exhausted > 0 || port.in_use * 100 >= port.capacity.max(1) * LOCAL_PORTS_WARN_PERCENT
}

fn control_view(status: &ctl::Status) -> ControlView<'_> {
    ControlView {
        version: &status.version,
        pid: status.pid,
        config: &status.config,
        dataplane: &status.dataplane,
        reloads: status.reloads,
        reload_failures: status.reload_failures,
        real_servers_up: status.health.iter().filter(|health| health.state == "up").count(),
        real_servers_checked: status.health.len(),
    }
}

fn render(view: &View<'_>) -> String {
    let status = view.dataplane;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "dataplane  {} on DPDK {}, pid {}, up {}",
        status.version,
        status.dpdk_version.trim_start_matches("DPDK "),
        status.pid,
        duration(status.uptime_s)
    );
    let generation =
        if status.generation == 0 { "none yet".to_owned() } else { status.generation.to_string() };
    let steering = match status.flow_rules {
        0 => status.steering.clone(),
        count => format!("{} ({})", status.steering, counted(count, "rule")),
    };
    let _ = writeln!(text, "           generation {generation}, steering {steering}, idle {}", status.idle);
    if !status.steering_note.is_empty() {
        let _ = writeln!(text, "           steering: {}", status.steering_note);
    }
    let modes: Vec<String> =
        view.real_servers_by_forward.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let modes = if modes.is_empty() { "none".to_owned() } else { modes.join(", ") };
    let _ = writeln!(text, "           {}, real servers: {modes}", counted(view.services, "service"));
    match &view.control {
        Some(control) => {
            let _ = writeln!(text, "control    {}, pid {}, {}", control.version, control.pid, control.config);
            let _ = writeln!(
                text,
                "           {} of {} up, {}, {} refused",
                control.real_servers_up,
                counted(control.real_servers_checked, "checked real server"),
                counted(control.reloads, "reload"),
                control.reload_failures
            );
            if let Some(trouble) = &control.dataplane.trouble {
                let _ = writeln!(text, "           trouble: {trouble}");
            }
        }
        None => text.push_str("control    not running: no health checks, no metrics; traffic goes on\n"),
    }
    text.push('\n');
    text.push_str(&workers(status));
    text.push('\n');
    text.push_str(&ports(status));
    let warnings = warnings(view);
    if !warnings.is_empty() {
        text.push_str("\nwarnings\n");
        for warning in warnings {
            let _ = writeln!(text, "  {warning}");
        }
    }
    text
}

fn workers(status: &Status) -> String {
    let right = |name| (name, Align::Right);
    let mut columns = vec![("worker", Align::Left), ("cpus", Align::Left)];
    columns.extend(
        ["conns", "limit", "embryonic", "memory", "rx", "tx", "handed over", "misdirected", "busy"]
            .map(right),
    );
    let mut table = Table::new(&columns);
    for worker in &status.workers {
        let cpus: Vec<String> = worker.cpus.iter().map(u32::to_string).collect();
        table.row(vec![
            worker.id.to_string(),
            cpus.join(","),
            worker.connections.to_string(),
            worker.connections_max.to_string(),
            worker.embryonic.to_string(),
            bytes(worker.table_bytes),
            short(worker.rx_packets),
            short(worker.tx_packets),
            short(worker.handed_over),
            short(worker.misdirected),
            format!("{:.0}%", worker.busy * 100.0),
        ]);
    }
    table.render()
}

fn ports(status: &Status) -> String {
    let right = |name| (name, Align::Right);
    let mut columns = ["port", "driver", "link", "mac", "twin"].map(|name| (name, Align::Left)).to_vec();
    columns.extend(["rx", "tx", "missed", "errors", "punted", "injected"].map(right));
    let mut table = Table::new(&columns);
    for port in &status.ports {
        let link = match (port.link_up, port.link_mbps) {
            (false, _) => "down".to_owned(),
            (true, 0) => "up".to_owned(),
            (true, mbps) => format!("{mbps}M"),
        };
        let twin = if port.kernel_interface.is_empty() { "-" } else { &port.kernel_interface };
        table.row(vec![
            port.name.clone(),
            port.driver.clone(),
            link,
            port.mac.clone(),
            twin.to_owned(),
            short(port.rx_packets),
            short(port.tx_packets),
            short(port.rx_missed + port.rx_no_mbuf),
            short(port.rx_errors + port.tx_errors),
            short(port.punted),
            short(port.injected),
        ]);
    }
    table.render()
}

/// The sum of a worker's count over all workers.
pub(super) fn sum(status: &Status, of: fn(&WorkerStatus) -> u64) -> u64 {
    status.workers.iter().map(of).sum()
}

/// Whether the NICs bring packets elsewhere than they say.
pub(super) fn is_misdirecting(status: &Status) -> bool {
    let (misdirected, received) =
        (sum(status, |worker| worker.misdirected), sum(status, |worker| worker.rx_packets));
    misdirected * 100 > received * MISDIRECTED_WARN_PERCENT
}

fn warnings(view: &View<'_>) -> Vec<String> {
    let mut found = view.dataplane.warnings.clone();
    for worker in &view.dataplane.workers {
        if worker.table_full > 0 {
            found.push(format!(
                "worker {} refused {} because its table was full; raise connections_max in [dataplane]",
                worker.id,
                counted(worker.table_full, "connection")
            ));
        }
        if worker.local_ports_exhausted > 0 {
            found.push(format!(
                "worker {} refused {} for lack of a local port; add addresses to the local pool",
                worker.id,
                counted(worker.local_ports_exhausted, "connection")
            ));
        }
    }
    if is_misdirecting(view.dataplane) {
        let misdirected = sum(view.dataplane, |worker| worker.misdirected);
        let received = sum(view.dataplane, |worker| worker.rx_packets);
        found.push(format!(
            "the NICs brought {misdirected} of {} to another worker than their RSS key or a flow rule says; if that goes \
             on, set steering = \"software\" in [dataplane]",
            counted(received, "packet")
        ));
    }
    found.extend(view.local_ports_scarce.iter().take(SCARCE_TOLD).map(|port| scarce_text(port)));
    if view.local_ports_scarce.len() > SCARCE_TOLD {
        found.push(more_scarce_text(view.local_ports_scarce.len() - SCARCE_TOLD));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::PortStatus;

    #[test]
    fn a_full_table_and_scarce_ports_are_told() {
        let status = Status {
            version: "0.1.0".to_owned(),
            dpdk_version: "22.11.11".to_owned(),
            pid: 42,
            uptime_s: 3725,
            generation: 7,
            warnings: vec!["no huge pages".to_owned()],
            steering: "rss".to_owned(),
            steering_note: "the ports do not hash UDP over IPv6".to_owned(),
            flow_rules: 0,
            idle: "adaptive".to_owned(),
            workers: vec![WorkerStatus {
                cpus: vec![0, 1],
                connections: 10,
                connections_max: 10,
                table_bytes: 98 << 20,
                table_full: 1,
                rx_packets: 1000,
                handed_over: 70,
                misdirected: 60,
                busy: 0.256,
                ..WorkerStatus::default()
            }],
            ports: vec![PortStatus {
                name: "wan".to_owned(),
                driver: "net_af_xdp".to_owned(),
                mac: "02:00:00:00:00:01".to_owned(),
                link_up: true,
                kernel_interface: "wan".to_owned(),
                rx_packets: 123_456_789,
                ..PortStatus::default()
            }],
        };
        let scarce = LocalPortUse {
            local: [10, 2, 0, 200].into(),
            real: ([10, 2, 0, 11], 80).into(),
            in_use: 80,
            capacity: 100,
            exhausted: 0,
        };
        assert!(is_scarce(&scarce));
        assert!(!is_scarce(&LocalPortUse { in_use: 79, ..scarce.clone() }));
        insta::assert_snapshot!(render(&View {
            dataplane: &status,
            control: None,
            services: 1,
            real_servers_by_forward: BTreeMap::from([("FullNat", 4), ("Route", 2)]),
            local_ports_scarce: vec![&scarce],
        }));
    }
}
