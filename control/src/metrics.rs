//! Metrics for Prometheus, made anew for each scrape from what the dataplane and the core tell. docs/metrics.md names
//! them all.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::net::SocketAddr;

use api::{
    LocalPortUse, Mode, PortStatus, RealServerStats, ServiceKey, ServiceStats, Stats, Status, Traffic,
    WorkerCounter, WorkerStatus,
};
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::ctl;

/// Engine counters with this prefix are results of TOA.
const TOA_PREFIX: &str = "toa_";

/// Everything that a scrape shows.
pub struct Scrape<'a> {
    /// Whether the dataplane answered; if not, the rest is what it told last.
    pub dataplane_up: bool,
    /// Status of the dataplane.
    pub status: &'a Status,
    /// Counters of the dataplane.
    pub stats: &'a Stats,
    /// Totals per service.
    pub totals: &'a Totals,
    /// Status of control.
    pub control: &'a ctl::Status,
}

/// Totals per service that do not fall when a real server leaves: a counter that falls would look like a restart.
#[derive(Debug, Default)]
pub struct Totals {
    pid: u32,
    services: HashMap<ServiceKey, ServiceTotal>,
}

#[derive(Debug, Default)]
struct ServiceTotal {
    /// Of real servers that have left.
    gone: Traffic,
    present: HashMap<SocketAddr, Traffic>,
}

impl Totals {
    /// Takes in new counters. Another process id means that all counters began anew.
    pub fn update(&mut self, pid: u32, stats: &Stats) {
        if self.pid != pid {
            *self = Totals { pid, ..Totals::default() };
        }
        let mut services = HashMap::new();
        for service in &stats.services {
            let mut total = self.services.remove(&service.key).unwrap_or_default();
            let present: HashMap<_, _> =
                service.real_servers.iter().map(|real| (real.real, real.traffic)).collect();
            for (real, old) in &total.present {
                // A real server that left and came back counts from 0 again.
                if present.get(real).is_none_or(|new| new.in_packets < old.in_packets) {
                    total.gone = sum(total.gone, *old);
                }
            }
            total.present = present;
            services.insert(service.key, total);
        }
        self.services = services;
    }

    fn of(&self, key: ServiceKey) -> Traffic {
        self.services
            .get(&key)
            .map(|total| total.present.values().copied().fold(total.gone, sum))
            .unwrap_or_default()
    }
}

fn sum(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        connections: a.connections + b.connections,
        in_packets: a.in_packets + b.in_packets,
        out_packets: a.out_packets + b.out_packets,
        in_bytes: a.in_bytes + b.in_bytes,
        out_bytes: a.out_bytes + b.out_bytes,
    }
}

/// The text that Prometheus reads.
///
/// # Errors
/// Those of the encoder, on a metric without a name.
pub fn render(scrape: &Scrape<'_>) -> Result<String, prometheus::Error> {
    let mut page = Page::default();
    about(&mut page, scrape);
    services(&mut page, scrape);
    health(&mut page, &scrape.control.health);
    let workers = scrape.status.workers.iter();
    let workers = workers.map(|worker| (vec![("worker", worker.id.to_string())], worker));
    page.table("tollgate_worker_", WORKER, workers);
    let ports = scrape.status.ports.iter().map(|port| (vec![("port", port.name.clone())], port));
    page.table("tollgate_port_", PORT, ports);
    engine(&mut page, scrape.stats);
    let local_ports = scrape.stats.local_ports.iter().map(|port| {
        let labels = vec![("local", port.local.to_string()), ("real", port.real.to_string())];
        (labels, port)
    });
    page.table("tollgate_local_ports_", LOCAL_PORTS, local_ports);
    page.failed.map_or(Ok(page.text), Err)
}

type Labels = Vec<(&'static str, String)>;

/// A metric that is read from one struct: name after the prefix, kind, help, value.
type Column<T> = (&'static str, MetricType, &'static str, fn(&T) -> f64);

use MetricType::{COUNTER, GAUGE};

const WORKER: &[Column<WorkerStatus>] = &[
    ("connections", GAUGE, "Connections in the worker's table.", |w| w.connections as f64),
    ("embryonic_connections", GAUGE, "Of these, with an unfinished handshake.", |w| w.embryonic as f64),
    ("connections_limit", GAUGE, "Connections that fit.", |w| w.connections_max as f64),
    ("table_bytes", GAUGE, "Memory of table and index.", |w| w.table_bytes as f64),
    ("table_full_total", COUNTER, "New connections refused because the table was full.", |w| {
        w.table_full as f64
    }),
    ("recycled_total", COUNTER, "Unfinished handshakes given up for newer ones.", |w| w.recycled as f64),
    (
        "local_ports_exhausted_total",
        COUNTER,
        "New connections refused because no local port was free.",
        |w| w.local_ports_exhausted as f64,
    ),
    ("received_packets_total", COUNTER, "Packets received from ports.", |w| w.rx_packets as f64),
    ("sent_packets_total", COUNTER, "Packets sent to ports.", |w| w.tx_packets as f64),
    ("handed_over_packets_total", COUNTER, "Packets received for another worker and moved to it.", |w| {
        w.handed_over as f64
    }),
    (
        "misdirected_packets_total",
        COUNTER,
        "Of the packets handed over, those that the NIC's hash should have brought to their owner.",
        |w| w.misdirected as f64,
    ),
    ("busy_ratio", GAUGE, "Share of turns that found packets since start, 0 to 1.", |w| w.busy),
    (
        "longest_turn_seconds",
        GAUGE,
        "Longest turn of its loop since start, in which no packet was received; 0: all under 20 µs.",
        |w| w.longest_turn_ns as f64 / 1e9,
    ),
];

const PORT: &[Column<PortStatus>] = &[
    ("link_up", GAUGE, "1: the link is up.", |p| f64::from(u8::from(p.link_up))),
    ("link_speed_bytes", GAUGE, "Speed of the link in bytes per second; 0: unknown.", |p| {
        f64::from(p.link_mbps) * 1e6 / 8.0
    }),
    ("received_packets_total", COUNTER, "Received packets.", |p| p.rx_packets as f64),
    ("received_bytes_total", COUNTER, "Received bytes.", |p| p.rx_bytes as f64),
    ("sent_packets_total", COUNTER, "Sent packets.", |p| p.tx_packets as f64),
    ("sent_bytes_total", COUNTER, "Sent bytes.", |p| p.tx_bytes as f64),
    ("receive_missed_total", COUNTER, "Packets that the NIC had no descriptor for.", |p| p.rx_missed as f64),
    ("receive_errors_total", COUNTER, "Packets received with an error.", |p| p.rx_errors as f64),
    ("send_errors_total", COUNTER, "Packets that could not be sent.", |p| p.tx_errors as f64),
    ("receive_no_mbuf_total", COUNTER, "Receive attempts without a free packet buffer.", |p| {
        p.rx_no_mbuf as f64
    }),
    ("punted_packets_total", COUNTER, "Packets handed to the kernel twin.", |p| p.punted as f64),
    ("injected_packets_total", COUNTER, "Packets taken from the kernel twin.", |p| p.injected as f64),
];

const TRAFFIC: &[Column<Traffic>] = &[
    ("connections_total", COUNTER, "Connections scheduled.", |t| t.connections as f64),
    ("in_packets_total", COUNTER, "Packets from clients.", |t| t.in_packets as f64),
    ("out_packets_total", COUNTER, "Packets to clients.", |t| t.out_packets as f64),
    ("in_bytes_total", COUNTER, "Bytes from clients (IP length).", |t| t.in_bytes as f64),
    ("out_bytes_total", COUNTER, "Bytes to clients (IP length).", |t| t.out_bytes as f64),
];

const REAL_SERVER: &[Column<RealServerStats>] = &[
    ("active_connections", GAUGE, "Connections in an active state, as IPVS counts them.", |r| {
        r.active as f64
    }),
    ("inactive_connections", GAUGE, "Other connections.", |r| r.inactive as f64),
    ("persistent_connections", GAUGE, "Persistence templates, which are in neither of the two.", |r| {
        r.persistent as f64
    }),
    ("weight", GAUGE, "Weight, as configured; 0: drain.", |r| f64::from(r.weight)),
    ("ramp_ratio", GAUGE, "How much of the weight counts, 0 to 1: less than 1 during slow start.", |r| {
        f64::from(r.ramp_percent) / 100.0
    }),
    ("up", GAUGE, "1: the dataplane gives it new connections.", |r| f64::from(u8::from(r.up))),
    ("reachable", GAUGE, "1: the MAC address of its next hop is known.", |r| {
        f64::from(u8::from(r.reachable))
    }),
];

const LOCAL_PORTS: &[Column<LocalPortUse>] = &[
    ("in_use", GAUGE, "Local ports in use towards the real server.", |u| u.in_use as f64),
    ("limit", GAUGE, "Local ports there are.", |u| u.capacity as f64),
    ("exhausted_total", COUNTER, "Connections refused for lack of a local port.", |u| u.exhausted as f64),
];

const HEALTH: &[Column<ctl::Health>] = &[
    ("healthy", GAUGE, "1: its health check passes; 0: it does not, or is not decided yet.", |h| {
        f64::from(u8::from(h.state == "up"))
    }),
    ("health_passes_total", COUNTER, "Passed checks.", |h| h.passes as f64),
    ("health_failures_total", COUNTER, "Failed checks.", |h| h.failures as f64),
    ("health_changes_total", COUNTER, "Changes between up and down.", |h| h.changes as f64),
];

fn about(page: &mut Page, scrape: &Scrape<'_>) {
    let Scrape { status, control, .. } = scrape;
    let bare = |value: f64| std::iter::once((Labels::new(), value));
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.add("tollgate_build_info", GAUGE, "Version of control.", std::iter::once((version, 1.0)));
    let up = f64::from(u8::from(scrape.dataplane_up));
    page.add("tollgate_dataplane_up", GAUGE, "1: the dataplane answers on its API.", bare(up));
    let info = vec![
        ("version", status.version.clone()),
        ("dpdk", status.dpdk_version.clone()),
        ("steering", status.steering.clone()),
        ("idle", status.idle.clone()),
    ];
    let known = (!status.version.is_empty()).then_some((info, 1.0));
    page.add(
        "tollgate_dataplane_info",
        GAUGE,
        "Version and ways of working of the dataplane.",
        known.into_iter(),
    );
    page.add(
        "tollgate_dataplane_uptime_seconds",
        GAUGE,
        "Time since the dataplane's start.",
        bare(status.uptime_s as f64),
    );
    page.add(
        "tollgate_dataplane_warnings",
        GAUGE,
        "Things that the dataplane does without or finds wrong; `tollgate status` names them.",
        bare(status.warnings.len() as f64),
    );
    page.add(
        "tollgate_generation",
        GAUGE,
        "Generation of the state in force.",
        bare(status.generation as f64),
    );
    page.add(
        "tollgate_states_applied_total",
        COUNTER,
        "States that control has had applied since its start.",
        bare(control.dataplane.applied as f64),
    );
    let reloads = [("applied", control.reloads), ("refused", control.reload_failures)];
    let reloads = reloads.map(|(result, count)| (vec![("result", result.to_owned())], count as f64));
    page.add("tollgate_reloads_total", COUNTER, "Reloads of the configuration.", reloads.into_iter());
    let infos = status.ports.iter().map(|port| {
        let labels = vec![
            ("port", port.name.clone()),
            ("driver", port.driver.clone()),
            ("device", port.device.clone()),
            ("mac", port.mac.clone()),
            ("kernel_interface", port.kernel_interface.clone()),
        ];
        (labels, 1.0)
    });
    page.add("tollgate_port_info", GAUGE, "What drives a port.", infos);
}

fn services(page: &mut Page, scrape: &Scrape<'_>) {
    let services = &scrape.stats.services;
    let labels = |service: &ServiceStats| service_labels(service.key, &service.name);
    let totals = services.iter().map(|service| (labels(service), scrape.totals.of(service.key)));
    page.table("tollgate_service_", TRAFFIC, totals);
    let rows = services.iter().map(|service| (labels(service), service.no_real_server as f64));
    let help = "Packets for the service that found no real server.";
    page.add("tollgate_service_no_real_server_total", COUNTER, help, rows);
    let rows = services.iter().flat_map(|service| {
        let checked = || service.real_servers.iter().filter(|real| !real.is_sorry);
        let up = checked().filter(|real| real.up).count();
        let row = move |state: &str, count: usize| {
            let mut labels = service_labels(service.key, &service.name);
            labels.push(("state", state.to_owned()));
            (labels, count as f64)
        };
        [row("up", up), row("down", checked().count() - up)]
    });
    page.add(
        "tollgate_service_real_servers",
        GAUGE,
        "Real servers of the service, without its sorry server.",
        rows,
    );
    let reals = || {
        services.iter().flat_map(|service| {
            service.real_servers.iter().map(|real| {
                let mut labels = service_labels(service.key, &service.name);
                labels.extend(real_labels(real.real, real.mode));
                (labels, real)
            })
        })
    };
    let traffic = reals().map(|(labels, real)| (labels, &real.traffic));
    page.table("tollgate_real_server_", TRAFFIC, traffic);
    page.table("tollgate_real_server_", REAL_SERVER, reals());
}

fn health(page: &mut Page, health: &[ctl::Health]) {
    let rows = health.iter().map(|health| {
        let mut labels = service_labels(health.service, &health.name);
        labels.extend(real_labels(health.real, health.mode));
        (labels, health)
    });
    page.table("tollgate_real_server_", HEALTH, rows);
}

fn engine(page: &mut Page, stats: &Stats) {
    let rows = |counters: &[&WorkerCounter], label: &'static str, prefix: &str| -> Vec<(Labels, f64)> {
        let each = counters.iter().flat_map(|counter| {
            let name = counter.name.strip_prefix(prefix).unwrap_or(&counter.name).to_owned();
            counter.per_worker.iter().enumerate().map(move |(worker, count)| {
                (vec![(label, name.clone()), ("worker", worker.to_string())], *count as f64)
            })
        });
        each.collect()
    };
    let drops: Vec<_> = stats.drops.iter().collect();
    let help = "Packets dropped, by reason.";
    page.add("tollgate_drops_total", COUNTER, help, rows(&drops, "reason", "").into_iter());
    let (toa, other): (Vec<_>, Vec<_>) =
        stats.counters.iter().partition(|counter| counter.name.starts_with(TOA_PREFIX));
    let help = "Results of telling real servers the client's address.";
    page.add("tollgate_toa_total", COUNTER, help, rows(&toa, "result", TOA_PREFIX).into_iter());
    let help = "Everything else that the engine counts.";
    page.add("tollgate_events_total", COUNTER, help, rows(&other, "event", "").into_iter());
    let states: Vec<_> = stats.states.iter().collect();
    let help = "Connections by state, in IPVS's names.";
    page.add("tollgate_connections", GAUGE, help, rows(&states, "state", "").into_iter());
}

fn real_labels(real: SocketAddr, mode: Mode) -> Labels {
    vec![("real", real.to_string()), ("mode", mode.to_string())]
}

fn service_labels(key: ServiceKey, name: &str) -> Labels {
    vec![
        ("service", name.to_owned()),
        ("vip", key.virtual_.to_string()),
        ("protocol", key.protocol.to_string()),
    ]
}

/// Each family becomes text at once: all of 100,000 real servers' would take a gigabyte beside it.
#[derive(Default)]
struct Page {
    text: String,
    failed: Option<prometheus::Error>,
}

impl Page {
    /// A family; nothing if it has no rows, as an empty one is not allowed.
    fn add(
        &mut self,
        name: &'static str,
        kind: MetricType,
        help: &'static str,
        rows: impl Iterator<Item = (Labels, f64)>,
    ) {
        self.table("", &[(name, kind, help, |value| *value)], rows);
    }

    /// A family for each column. What is most work, the labels, is done once for all of them.
    fn table<T, I: Borrow<T>>(
        &mut self,
        prefix: &str,
        columns: &[Column<T>],
        rows: impl Iterator<Item = (Labels, I)>,
    ) {
        let (metrics, items): (Vec<Metric>, Vec<I>) =
            rows.map(|(labels, item)| (Metric::from_label(pairs(labels)), item)).unzip();
        if items.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_metric(metrics);
        for (name, kind, help, value) in columns {
            family.set_name(format!("{prefix}{name}"));
            family.set_help((*help).to_owned());
            family.set_field_type(*kind);
            for (metric, item) in family.mut_metric().iter_mut().zip(&items) {
                set(metric, *kind, value(item.borrow()));
            }
            let written = TextEncoder::new().encode_utf8(std::slice::from_ref(&family), &mut self.text);
            self.failed = self.failed.take().or(written.err());
        }
    }
}

fn pairs(labels: Labels) -> Vec<LabelPair> {
    let pair = |(name, value): (&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    labels.into_iter().map(pair).collect()
}

fn set(metric: &mut Metric, kind: MetricType, value: f64) {
    if kind == COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
}

#[cfg(test)]
mod tests;
