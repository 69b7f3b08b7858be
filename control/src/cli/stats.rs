//! `tollgate stats`: traffic, and what was dropped.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use api::{RealServerStats, ServiceStats, Stats, Traffic, WorkerCounter};
use serde::Serialize;

use super::table::{Align, Table, short};
use super::{CliError, Sockets, print, print_json};

/// How long a rate is measured.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct View<'a> {
    /// Whether traffic is per second.
    rate: bool,
    services: Vec<ServiceView<'a>>,
    drops: Vec<CounterView<'a>>,
    counters: Vec<CounterView<'a>>,
    connections_by_state: Vec<CounterView<'a>>,
}

#[derive(Serialize)]
struct ServiceView<'a> {
    name: &'a str,
    protocol: String,
    #[serde(rename = "virtual")]
    virtual_: SocketAddr,
    total: Traffic,
    no_real_server: u64,
    real_servers: Vec<RealView>,
}

#[derive(Serialize)]
struct RealView {
    real: SocketAddr,
    mode: String,
    /// ipvsadm's word for the mode.
    forward: &'static str,
    #[serde(flatten)]
    traffic: Traffic,
}

#[derive(Serialize)]
struct CounterView<'a> {
    name: &'a str,
    help: &'a str,
    total: u64,
    per_worker: &'a [u64],
}

pub(super) fn run(sockets: &Sockets, rate: bool, json: bool) -> Result<(), CliError> {
    let mut dataplane = sockets.dataplane()?;
    let mut stats = dataplane.stats()?;
    if rate {
        let begun = Instant::now();
        sleep(RATE_INTERVAL);
        let later = dataplane.stats()?;
        stats = per_second(&stats, later, begun.elapsed());
    }
    stats.services.sort_by_key(|service| service.key);
    for service in &mut stats.services {
        service.real_servers.sort_by_key(|real| real.real);
    }
    let view = View {
        rate,
        services: stats.services.iter().map(service).collect(),
        drops: counters(&stats.drops),
        counters: counters(&stats.counters),
        connections_by_state: counters(&stats.states),
    };
    if json { print_json(&view) } else { print(&render(&view)) }
}

fn service(service: &ServiceStats) -> ServiceView<'_> {
    let real_server = |real: &RealServerStats| RealView {
        real: real.real,
        mode: real.mode.to_string(),
        forward: real.mode.forward_word(),
        traffic: real.traffic,
    };
    let real_servers: Vec<_> = service.real_servers.iter().map(real_server).collect();
    let total = real_servers.iter().fold(Traffic::default(), |sum, real| Traffic {
        connections: sum.connections + real.traffic.connections,
        in_packets: sum.in_packets + real.traffic.in_packets,
        out_packets: sum.out_packets + real.traffic.out_packets,
        in_bytes: sum.in_bytes + real.traffic.in_bytes,
        out_bytes: sum.out_bytes + real.traffic.out_bytes,
    });
    ServiceView {
        name: &service.name,
        protocol: service.key.protocol.to_string(),
        virtual_: service.key.virtual_,
        total,
        no_real_server: service.no_real_server,
        real_servers,
    }
}

fn counters(counters: &[WorkerCounter]) -> Vec<CounterView<'_>> {
    let views = counters.iter().map(|counter| {
        let WorkerCounter { name, help, per_worker } = counter;
        CounterView { name, help, total: per_worker.iter().sum(), per_worker }
    });
    views.collect()
}

/// What was added between two readings, per second. Gauges are those of the second.
fn per_second(before: &Stats, mut after: Stats, elapsed: Duration) -> Stats {
    let rate = |old: u64, new: u64| (new.saturating_sub(old) as f64 / elapsed.as_secs_f64()).round() as u64;
    let services: HashMap<_, _> = before.services.iter().map(|service| (service.key, service)).collect();
    for service in &mut after.services {
        let old = services.get(&service.key);
        service.no_real_server = rate(old.map_or(0, |old| old.no_real_server), service.no_real_server);
        let old: HashMap<_, _> =
            old.iter().flat_map(|old| &old.real_servers).map(|old| (old.real, old.traffic)).collect();
        for real in &mut service.real_servers {
            let (old, new) = (old.get(&real.real).copied().unwrap_or_default(), &mut real.traffic);
            *new = Traffic {
                connections: rate(old.connections, new.connections),
                in_packets: rate(old.in_packets, new.in_packets),
                out_packets: rate(old.out_packets, new.out_packets),
                in_bytes: rate(old.in_bytes, new.in_bytes),
                out_bytes: rate(old.out_bytes, new.out_bytes),
            };
        }
    }
    for (old, new) in [(&before.drops, &mut after.drops), (&before.counters, &mut after.counters)] {
        for counter in new {
            let Some(old) = old.iter().find(|old| old.name == counter.name) else { continue };
            for (new, old) in counter.per_worker.iter_mut().zip(&old.per_worker) {
                *new = rate(*old, *new);
            }
        }
    }
    after
}

fn render(view: &View<'_>) -> String {
    let names = if view.rate {
        ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]
    } else {
        ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]
    };
    let mut columns = vec![("Prot VirtualAddress:Port", Align::Left), ("Forward", Align::Left)];
    columns.extend(names.map(|name| (name, Align::Right)));
    let mut table = Table::new(&columns);
    let cells = |title: String, forward: &str, traffic: &Traffic| {
        let Traffic { connections, in_packets, out_packets, in_bytes, out_bytes } = *traffic;
        let numbers = [connections, in_packets, out_packets, in_bytes, out_bytes].map(short);
        [title, forward.to_owned()].into_iter().chain(numbers).collect()
    };
    for service in &view.services {
        table.row(cells(
            format!("{:<4} {}", service.protocol.to_uppercase(), service.virtual_),
            "",
            &service.total,
        ));
        for real in &service.real_servers {
            table.row(cells(format!("  -> {}", real.real), real.forward, &real.traffic));
        }
    }
    let mut text = table.render();
    for (title, counters) in [
        ("Dropped packets", &view.drops),
        ("Events", &view.counters),
        ("Connections by state", &view.connections_by_state),
    ] {
        text.push_str(&section(
            title,
            view.rate && !std::ptr::eq(counters, &view.connections_by_state),
            counters,
        ));
    }
    text
}

/// Counters that are not 0; the rest is in the JSON and the metrics.
fn section(title: &str, per_second: bool, counters: &[CounterView<'_>]) -> String {
    let unit = if per_second { " per second" } else { "" };
    let mut table = Table::new(&[("", Align::Right), ("", Align::Left), ("", Align::Left)]);
    for counter in counters.iter().filter(|counter| counter.total > 0) {
        table.row(vec![short(counter.total), counter.name.to_owned(), counter.help.to_owned()]);
    }
    let rows: String = table.render().lines().skip(1).map(|line| format!("  {line}\n")).collect();
    let rows = if rows.is_empty() { "  none\n".to_owned() } else { rows };
    format!("\n{title}{unit}\n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(connections: u64, dropped: u64) -> Stats {
        let key = api::ServiceKey {
            protocol: api::Protocol::Tcp,
            virtual_: SocketAddr::from(([10, 1, 0, 100], 80)),
        };
        let traffic =
            Traffic { connections, in_packets: 250_000_000, in_bytes: 3_000_000_000, ..Traffic::default() };
        let counter = |name: &str, value| WorkerCounter {
            name: name.to_owned(),
            help: "What it counts.".to_owned(),
            per_worker: vec![value, value],
        };
        Stats {
            services: vec![ServiceStats {
                key,
                name: "web".to_owned(),
                also: vec![],
                scheduler: api::Scheduler::Wrr,
                scheduler_flags: api::SchedulerFlags::default(),
                one_packet: false,
                persistence: None,
                no_real_server: dropped,
                real_servers: vec![RealServerStats {
                    real: SocketAddr::from(([10, 2, 0, 11], 80)),
                    mode: api::Mode::FullNat,
                    is_sorry: false,
                    weight: 1,
                    ramp_percent: 100,
                    up: true,
                    reachable: true,
                    traffic,
                    active: 1,
                    inactive: 2,
                    persistent: 0,
                }],
            }],
            drops: vec![counter("bad_checksum", dropped), counter("no_route", 0)],
            counters: vec![],
            states: vec![counter("ESTABLISHED", 4)],
            local_ports: vec![],
        }
    }

    fn shown(stats: &Stats, rate: bool) -> String {
        render(&View {
            rate,
            services: stats.services.iter().map(service).collect(),
            drops: counters(&stats.drops),
            counters: counters(&stats.counters),
            connections_by_state: counters(&stats.states),
        })
    }

    #[test]
    fn traffic_is_shown_as_ipvsadm_shows_it() {
        insta::assert_snapshot!(shown(&stats(400, 3), false));
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let rates = per_second(&stats(400, 3), stats(600, 13), Duration::from_secs(2));
        insta::assert_snapshot!(shown(&rates, true));
        assert_eq!(rates.services[0].no_real_server, 5);
    }
}
