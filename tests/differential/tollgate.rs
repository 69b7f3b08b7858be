//! Tollgate's dataplane, the whole program on net_pcap ports, as a gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::{
    ConnectionQuery, DesiredState, Persistence, Request, Response, Scheduler, SchedulerFlags, ServiceKey,
    StaticNeighbour, StaticRoute, Tunnel, TunnelKind,
};

use crate::case::{Counts, Gateway, Mode, Protocol, Real, Service, Setting};
use crate::dataplane::Dataplane;
use crate::describe::GUE_PORT;
use crate::frame::{CLIENT, CLIENT_MAC, CLIENT6, Frame, LAN_IP, LAN_IP6, REALS, real_mac, rip, rip6};
use crate::outcome::{ConnectionLine, CountsLine, TrafficLine};

/// A tick of the workers' clock, and some more.
const TICK: Duration = Duration::from_millis(20);

/// Records of connections that a worker looks at in one turn for what they carried.
const RECORDS_PER_TURN: u64 = 16;

/// Room for every connection of every case.
const CONNECTIONS_MAX: u32 = 8192;

/// The running program, and what it was told last.
pub(crate) struct Tollgate {
    dataplane: Dataplane,
    generation: u64,
    services: Vec<Service>,
    /// Services of earlier cases, without real servers: schedulers begin afresh in a slot that no service
    /// had.
    former: Vec<Service>,
    settings: BTreeSet<Setting>,
    counts: Counts,
    notes: Vec<String>,
}

impl Tollgate {
    pub(crate) fn start() -> Result<Tollgate> {
        let mut tollgate = Tollgate {
            dataplane: Dataplane::start(1, CONNECTIONS_MAX)?,
            generation: 0,
            services: Vec::new(),
            former: Vec::new(),
            settings: BTreeSet::new(),
            counts: Counts::new(),
            notes: Vec::new(),
        };
        tollgate.apply()?;
        Ok(tollgate)
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.dataplane.stop()
    }

    /// What became of packets that did not leave since the last call: drop reasons, and what the kernel
    /// would get.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn note_counts(&mut self) -> Result<()> {
        let now = self.dataplane.counts()?;
        for (name, count) in &now {
            let grown = count - self.counts.get(name).copied().unwrap_or_default();
            if grown > 0 && !BORING.contains(&name.as_str()) {
                self.notes.push(format!("{name} {grown}"));
            }
        }
        self.counts = now;
        Ok(())
    }

    fn apply(&mut self) -> Result<()> {
        self.generation += 1;
        let settings = &self.settings;
        let services = self.services.iter().chain(&self.former);
        let services = services.map(|service| api_service(service, settings));
        let state = DesiredState {
            generation: self.generation,
            services: services.collect::<Result<_>>()?,
            static_neighbours: neighbours(),
            static_routes: routes(),
            ..DesiredState::default()
        };
        match self.dataplane.ask_workers(&Request::Apply(Box::new(state)))? {
            Response::Applied { .. } => Ok(()),
            Response::Refused(refusal) => Err(Refused(refusal.to_string()).into()),
            other => bail!("{other:?}"),
        }
    }

    /// Until the worker, which waits in the pipes, has told what it counted for real servers: it goes through all records that
    /// it ever used, some at the end of each turn, and begins anew with the next tick. One round may be under way, and the
    /// turn that it waits in began before this tick.
    fn settle_traffic(&mut self) -> Result<()> {
        let stats = self.dataplane.stats()?;
        let created = stats.counters.iter().filter(|counter| counter.name == "connections_created");
        let records: u64 = created.flat_map(|counter| &counter.per_worker).sum();
        for _ in 0..2 {
            std::thread::sleep(TICK);
            let mut turns = 0..=records.div_ceil(RECORDS_PER_TURN);
            turns.try_for_each(|_| self.dataplane.write_round(&[]))?;
            self.dataplane.wait_received()?;
        }
        Ok(())
    }

    /// The statistics of the configured services, in their order.
    fn stats_of(&mut self, services: &[Service]) -> Result<Vec<api::ServiceStats>> {
        let mut stats = self.dataplane.stats()?.services;
        let mut found = Vec::new();
        for service in services {
            let at =
                stats.iter().position(|stats| stats.key == key(service)).context("a service is missing")?;
            found.push(stats.swap_remove(at));
        }
        Ok(found)
    }
}

/// The dataplane refuses a configuration.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}", self.0)
    }
}

/// Counters that say nothing about what became of a packet.
const BORING: [&str; 4] = ["connections_created", "no_twin", "replied", "toa_inserted"];

fn neighbours() -> Vec<StaticNeighbour> {
    let neighbour = |port: &str, address: IpAddr, mac: wire::MacAddr| StaticNeighbour {
        port: port.into(),
        address,
        mac: mac.0,
    };
    let mut all =
        vec![neighbour("wan", CLIENT.into(), CLIENT_MAC), neighbour("wan", CLIENT6.into(), CLIENT_MAC)];
    for n in 1..=REALS {
        all.push(neighbour("lan", rip(n).into(), real_mac(n)));
        all.push(neighbour("lan", rip6(n).into(), real_mac(n)));
    }
    all
}

fn routes() -> Vec<StaticRoute> {
    let route = |port: &str, network: IpAddr, prefix_len, via| StaticRoute {
        network,
        prefix_len,
        via,
        port: port.into(),
    };
    vec![
        route("wan", Ipv4Addr::new(10, 1, 0, 0).into(), 24, None),
        route("lan", Ipv4Addr::new(10, 2, 0, 0).into(), 24, None),
        route("wan", Ipv4Addr::new(10, 9, 0, 0).into(), 16, Some(CLIENT.into())),
        route("wan", Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0).into(), 64, None),
        route("lan", Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0).into(), 64, None),
        route("wan", Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0).into(), 64, Some(CLIENT6.into())),
    ]
}

fn key(service: &Service) -> ServiceKey {
    let protocol = match service.protocol {
        Protocol::Tcp => api::Protocol::Tcp,
        Protocol::Udp => api::Protocol::Udp,
    };
    ServiceKey { protocol, virtual_: service.virtual_ }
}

fn api_service(service: &Service, settings: &BTreeSet<Setting>) -> Result<api::Service> {
    let scheduler = Scheduler::ALL.into_iter().find(|one| one.name() == service.scheduler);
    let prefix_len = if service.virtual_.is_ipv4() { 32 } else { 128 };
    let key = key(service);
    Ok(api::Service {
        scheduler: scheduler.with_context(|| format!("no scheduler {}", service.scheduler))?,
        scheduler_flags: SchedulerFlags {
            fallback: service.flags.iter().any(|flag| flag.ends_with("-fallback")),
            port: service.flags.iter().any(|flag| flag.ends_with("-port")),
            quic_cid: false,
        },
        one_packet: service.one_packet,
        persistence: service.persistence.map(|timeout_s| Persistence { timeout_s, prefix_len }),
        real_servers: service.reals.iter().map(api_real).collect(),
        expire_nodest_conn: settings.contains(&Setting::ExpireNodestConn),
        expire_quiescent_template: settings.contains(&Setting::ExpireQuiescentTemplate),
        ..api::Service::new(key, format!("{key}"))
    })
}

fn api_real(real: &Real) -> api::RealServer {
    let source: IpAddr = if real.real.is_ipv4() { LAN_IP.into() } else { LAN_IP6.into() };
    let tunnel = |kind| api::Mode::Tun(Tunnel { kind, source });
    let gue = |checksum| tunnel(TunnelKind::Gue { port: GUE_PORT, checksum });
    let mode = match real.mode {
        Mode::Dr => api::Mode::Dr,
        Mode::Nat => api::Mode::Nat,
        Mode::Ipip => tunnel(TunnelKind::Ipip),
        Mode::Gre => tunnel(TunnelKind::Gre { checksum: false }),
        Mode::GreChecksum => tunnel(TunnelKind::Gre { checksum: true }),
        Mode::Gue => gue(false),
        Mode::GueChecksum => gue(true),
    };
    let (upper_threshold, lower_threshold) = real.thresholds;
    api::RealServer {
        mode,
        weight: real.weight,
        upper_threshold,
        lower_threshold,
        ..api::RealServer::new(real.real)
    }
}

impl Gateway for Tollgate {
    fn configure(&mut self, services: &[Service]) -> Result<()> {
        self.services = services.to_vec();
        self.apply()
    }

    fn forget(&mut self) -> Result<()> {
        self.settings.clear();
        let mut services = std::mem::take(&mut self.services);
        for service in &mut services {
            service.reals.clear();
            (service.one_packet, service.persistence) = (false, None);
        }
        // Without persistence there is no service of all ports.
        services.retain(|service| service.virtual_.port() != 0);
        self.former.extend(services);
        self.apply()
    }

    fn set(&mut self, setting: Setting, on: bool) -> Result<()> {
        if on {
            self.settings.insert(setting);
        } else {
            self.settings.remove(&setting);
        }
        self.apply()
    }

    fn send(&mut self, frames: &[Frame]) -> Result<Vec<Frame>> {
        self.dataplane.send(frames)?;
        let sent = self.dataplane.take_sent()?;
        self.note_counts()?;
        Ok(sent)
    }

    fn connections(&mut self, services: &[Service]) -> Result<Vec<ConnectionLine>> {
        let mut all = Vec::new();
        for service in services {
            let query =
                ConnectionQuery { service: Some(key(service)), limit: 1000, ..ConnectionQuery::default() };
            let page = match self.dataplane.ask_workers(&Request::GetConnections(query))? {
                Response::Connections(page) => page,
                other => bail!("{other:?}"),
            };
            all.extend(page.connections.into_iter().map(|connection| ConnectionLine {
                protocol: connection.protocol.to_string().to_uppercase(),
                expires_s: connection.expires_s,
                state: connection.state,
                client: connection.client,
                virtual_: connection.virtual_,
                real: connection.real,
            }));
        }
        Ok(all)
    }

    fn counts(&mut self, services: &[Service]) -> Result<Vec<String>> {
        let stats = self.stats_of(services)?;
        let reals = stats.iter().flat_map(|service| &service.real_servers);
        let line = |real: &api::RealServerStats| CountsLine {
            real: real.real,
            weight: real.weight.into(),
            active: real.active,
            inactive: real.inactive,
            persistent: real.persistent,
        };
        Ok(reals.map(|real| line(real).to_string()).collect())
    }

    fn traffic(&mut self, services: &[Service]) -> Result<Vec<String>> {
        self.settle_traffic()?;
        let stats = self.stats_of(services)?;
        let reals = stats.iter().flat_map(|service| &service.real_servers);
        let line = |real: &api::RealServerStats| TrafficLine {
            real: real.real,
            connections: real.traffic.connections,
            inbound: (real.traffic.in_packets, real.traffic.in_bytes),
            outbound: (real.traffic.out_packets, real.traffic.out_bytes),
        };
        Ok(reals.map(|real| line(real).to_string()).collect())
    }
}
