//! Status and counters as the API tells them.

use api::{
    LocalPortUse, PortStatus, RealServerStats, Service, ServiceStats, Stats, Status, Traffic, WorkerCounter,
    WorkerStatus,
};
use config::counted;
use engine::counters::Count;
use engine::{ConnState, Counter, Counters, DropReason, PuntClass};

use super::links::troubles;
use super::{Core, WorkerLink};
use crate::counts::{LONG_TURNS_US, LONG_UPKEEPS_US, Page, PlatformDrop};
use crate::ports::OpenPort;

impl Core {
    /// How the dataplane is.
    pub(super) fn status(&self) -> Status {
        let facts = &self.facts;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dpdk_version: facts.dpdk_version.clone(),
            pid: std::process::id(),
            uptime_s: facts.started.elapsed().as_secs(),
            generation: self.desired.generation,
            warnings: facts
                .warnings
                .iter()
                .cloned()
                .chain(self.rules.trouble())
                .chain(self.ports.iter().flat_map(troubles))
                .collect(),
            steering: facts.steering.to_owned(),
            steering_note: self.steering_note(),
            flow_rules: self.rules.len() as u64,
            idle: facts.idle.to_owned(),
            workers: self.workers.iter().enumerate().map(|(id, worker)| worker_status(id, worker)).collect(),
            ports: self.ports.iter().map(port_status).collect(),
        }
    }

    /// What the start found out, and that local addresses are too few for flow rules.
    fn steering_note(&self) -> String {
        let mut note = self.facts.steering_note.clone();
        let shared = self.planner.shared_locals();
        if shared > 0 {
            note.push_str(if note.is_empty() { "" } else { "; " });
            note.push_str(&format!(
                "all workers share {}, since a service has fewer than there are workers: handed over in software",
                counted(shared, "local address")
            ));
        }
        note
    }

    /// All counters.
    pub(super) fn stats(&self) -> Stats {
        let engine = |name: &str, help: &str, value: &dyn Fn(&Counters) -> u64| WorkerCounter {
            name: name.to_owned(),
            help: help.to_owned(),
            per_worker: self.workers.iter().map(|worker| value(&worker.counters)).collect(),
        };
        let mut drops: Vec<WorkerCounter> = DropReason::ALL
            .iter()
            .map(|&reason| engine(reason.name(), reason.help(), &|counters| counters.dropped(reason).get()))
            .collect();
        drops.extend(PlatformDrop::ALL.iter().map(|&reason| {
            WorkerCounter {
                name: reason.name().to_owned(),
                help: reason.help().to_owned(),
                per_worker: self
                    .workers
                    .iter()
                    .map(|worker| worker.page.dropped(reason).get() + worker.slow_page.dropped(reason).get())
                    .collect(),
            }
        }));
        let mut counters: Vec<WorkerCounter> = Counter::ALL
            .iter()
            .map(|&event| engine(event.name(), event.help(), &|counters| counters.event(event).get()))
            .collect();
        counters.extend(PuntClass::ALL.iter().map(|&class| {
            engine(&format!("punted_{}", class.name()), class.help(), &|counters| counters.punt(class).get())
        }));
        counters.extend(self.long_turns());
        Stats {
            services: self.desired.services.iter().map(|service| self.service_stats(service)).collect(),
            drops,
            counters,
            states: ConnState::ALL
                .iter()
                .map(|&state| {
                    engine(state.name(), "Connections in this state.", &|counters| {
                        counters.state(state).get()
                    })
                })
                .collect(),
            local_ports: self.local_ports(),
        }
    }

    /// Turns of the workers' loops that took long, and those whose upkeep did.
    fn long_turns(&self) -> impl Iterator<Item = WorkerCounter> {
        let counter = |name, help, count: &dyn Fn(&Page) -> u64| WorkerCounter {
            name,
            help,
            per_worker: self.workers.iter().map(|worker| count(&worker.page)).collect(),
        };
        let turns = LONG_TURNS_US.iter().enumerate().map(move |(at, limit)| {
            let help = format!("Turns of the worker's loop that took more than {limit} µs.");
            counter(format!("turns_over_{limit}us"), help, &|page| page.long_turns[at].get())
        });
        turns.chain(LONG_UPKEEPS_US.iter().enumerate().map(move |(at, limit)| {
            let help = format!("Turns whose upkeep took more than {limit} µs without its longest step.");
            counter(format!("upkeep_over_{limit}us"), help, &|page| page.long_upkeeps[at].get())
        }))
    }

    fn service_stats(&self, service: &Service) -> ServiceStats {
        let protocol = service.key.protocol.number();
        let virtual_ = service.key.virtual_;
        let id = self.planner.service_id(protocol, virtual_);
        let reals = service.real_servers.iter().map(|real| (real, false));
        let sorry = service.sorry_server.iter().map(|real| (real, true));
        let real_servers = reals.chain(sorry).map(|(real, is_sorry)| {
            let id = self.planner.real_id(protocol, virtual_, real.real);
            let mut stats = RealServerStats {
                real: real.real,
                mode: real.mode,
                is_sorry,
                weight: real.weight,
                ramp_percent: real.ramp_percent,
                up: real.up,
                reachable: self.routing.reachable(real.real.ip()),
                traffic: Traffic::default(),
                active: 0,
                inactive: 0,
                persistent: 0,
            };
            for counters in self.workers.iter().map(|worker| &worker.counters) {
                let Some(id) = id else { continue };
                let from = counters.real(id);
                stats.traffic.connections += from.connections.get();
                stats.traffic.in_packets += from.packets[0].get();
                stats.traffic.out_packets += from.packets[1].get();
                stats.traffic.in_bytes += from.bytes[0].get();
                stats.traffic.out_bytes += from.bytes[1].get();
                stats.persistent = stats.persistent.wrapping_add(counters.persistent(id).get());
                stats.active += from.active.get();
                stats.inactive += from.inactive.get();
            }
            stats
        });
        ServiceStats {
            key: service.key,
            name: service.name.clone(),
            also: service.also.clone(),
            scheduler: service.scheduler,
            scheduler_flags: service.scheduler_flags,
            one_packet: service.one_packet,
            persistence: service.persistence,
            no_real_server: id.map_or(0, |id| self.sum(|counters| counters.no_real_server(id))),
            real_servers: real_servers.collect(),
        }
    }

    fn local_ports(&self) -> Vec<LocalPortUse> {
        let counts = |id| {
            (
                self.sum(|counters| &counters.pair(id).in_use),
                self.sum(|counters| &counters.pair(id).exhausted),
            )
        };
        self.pair_counts.rows(self.planner.pairs(), counts)
    }

    fn sum<'a>(&'a self, count: impl Fn(&'a Counters) -> &'a Count) -> u64 {
        self.workers.iter().map(|worker| count(&worker.counters).get()).sum()
    }
}

fn worker_status(id: usize, worker: &WorkerLink) -> WorkerStatus {
    let counters: &Counters = &worker.counters;
    let turns = worker.page.turns.get();
    WorkerStatus {
        id: id as u16,
        cpus: worker.cpus.clone(),
        connections: counters.connections.get(),
        embryonic: counters.embryonic.get(),
        connections_max: worker.connections_max,
        table_bytes: worker.table_bytes,
        table_full: counters.dropped(DropReason::TableFull).get(),
        recycled: counters.event(Counter::EmbryonicRecycled).get(),
        local_ports_exhausted: counters.dropped(DropReason::LocalPortsExhausted).get(),
        rx_packets: worker.page.rx_packets.get(),
        tx_packets: worker.page.tx_packets.get(),
        handed_over: counters.event(Counter::HandedOver).get(),
        misdirected: counters.event(Counter::Misdirected).get(),
        busy: if turns == 0 { 0.0 } else { worker.page.busy_turns.get() as f64 / turns as f64 },
        longest_turn_ns: worker.page.longest_turn_ns.get(),
    }
}

fn port_status(port: &OpenPort) -> PortStatus {
    let link = port.dpdk.link();
    let stats = port.dpdk.stats();
    PortStatus {
        name: port.config.name.clone(),
        driver: port.dpdk.info().driver.clone(),
        device: port.device.clone(),
        mac: port.mac.to_string(),
        link_up: link.is_some_and(|link| link.up),
        link_mbps: link.map_or(0, |link| link.speed_mbps),
        kernel_interface: port.twin.as_ref().map_or_else(String::new, |twin| twin.name.clone()),
        mtu: port.mtu,
        rx_queues: port.rx_queues,
        tx_queues: port.tx_queues,
        receive_hash: port.receive_hash.clone(),
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        rx_missed: stats.rx_missed,
        rx_errors: stats.rx_errors,
        tx_errors: stats.tx_errors,
        rx_no_mbuf: stats.rx_nombuf,
        punted: port.twin_page.punted.get(),
        injected: port.twin_page.injected.get(),
    }
}
