//! One seed's world: hosts, links, the gateway, and what happens to them, in virtual time.

mod hosts;
mod turns;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use engine::snapshot::{Mode, Scheduler};
use engine::{PortId, Spec, Ticks, WorkerId};
use wire::proxy::Version;

use crate::faults::Fault;
use crate::forge::{forge, forge_uoa};
use crate::fragments::Cutter;
use crate::gateway::Gateway;
use crate::host::{Host, Syns};
use crate::link::Link;
use crate::oracle::{Oracle, Seen};
use crate::packet::{UDP, summary};
use crate::rng::Rng;
use crate::stream::{End, Plan, Side};
use crate::topology::{self, ROUTER, ROUTER_MAC, ROUTER6, Shape, client_ip, is_routed, server_ip, vips};

/// A seed that goes on longer has gone wrong; the longest honest one takes a tenth.
const EVENTS_MAX: u64 = 400_000;
const END_US: u64 = 4_000_000_000;
const HOUSEKEEP_US: u64 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Gateway(PortId),
    Host(usize),
}

#[derive(Debug)]
pub(crate) enum Event {
    Arrive(Node, Vec<u8>, bool),
    Run(usize),
    Turn(usize),
    Update(usize),
    Connect(usize),
    Forge,
    ForgeUoa,
    Reload,
    Blackout(bool),
    NewMac(usize),
    Learn(PortId, IpAddr),
    Crash,
    Restart,
}

/// What is asked of a run besides its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) trace: bool,
    pub(crate) fault: Fault,
    /// Look at byte streams only, not at packets.
    pub(crate) blind: bool,
    /// All services over TCP have the PROXY protocol. Only for blind ones: packets are not as without.
    pub(crate) proxy: Option<Version>,
}

impl Default for Options {
    fn default() -> Self {
        Options { trace: false, fault: Fault::None, blind: false, proxy: None }
    }
}

impl Options {
    /// The first configuration, with what these want of it.
    fn tuned(&self, mut spec: Spec) -> Spec {
        let proxy = self.proxy.filter(|_| self.fault != Fault::NoPreface);
        spec.services.iter_mut().for_each(|service| service.options.proxy = proxy);
        spec
    }
}

/// What a seed did, for the sum over all seeds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Report {
    pub(crate) seen: Seen,
    pub(crate) scheduled: HashSet<(Scheduler, Mode)>,
    pub(crate) connections: u64,
    pub(crate) whole: u64,
    /// Real servers that read who their client is.
    pub(crate) prefaces: u64,
    /// Datagrams by which real servers learnt who their client is.
    pub(crate) told: u64,
    pub(crate) reused: u64,
    pub(crate) events: u64,
    /// Of everything that went over the links; two runs of a seed must agree.
    pub(crate) fingerprint: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.connections += other.connections;
        self.whole += other.whole;
        self.prefaces += other.prefaces;
        self.told += other.told;
        self.reused += other.reused;
        self.events += other.events;
        self.fingerprint ^= other.fingerprint;
        self.seen.add(&other.seen);
        self.scheduled.extend(&other.scheduled);
    }
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: Option<SocketAddr>,
    pub(crate) client_end: End,
    pub(crate) server_end: End,
    /// Data came back to the client, so the connection was established.
    pub(crate) established: bool,
    /// It may die: the gateway lost its memory while it was open.
    pub(crate) excused: bool,
    pub(crate) identified: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) shape: Shape,
    pub(crate) options: Options,
    pub(crate) now_us: u64,
    pub(crate) sequence: u64,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(crate) events: HashMap<u64, Event>,
    pub(crate) hosts: Vec<Host>,
    /// By host: towards the gateway and back.
    pub(crate) links: Vec<(Link, Link)>,
    /// Between hosts and their links.
    pub(crate) cutter: Cutter,
    /// What is drawn about UOA, apart from all else.
    pub(crate) aside: Rng,
    pub(crate) by_ip: HashMap<IpAddr, usize>,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) network: Option<engine::FibBuilder>,
    pub(crate) spec: Spec,
    pub(crate) saved_spec: Option<Spec>,
    pub(crate) oracle: Oracle,
    pub(crate) plans: Vec<Plan>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) next_run_us: Vec<u64>,
    pub(crate) turn_due: Vec<bool>,
    pub(crate) housekept_us: u64,
    pub(crate) last_change_us: u64,
    /// Virtual time at which ticks wrap is reached by some seeds.
    pub(crate) tick_offset: u32,
    pub(crate) next_port: u16,
    /// When a client's port was used last.
    pub(crate) ended_us: HashMap<(usize, u16), u64>,
    pub(crate) blackout_seen: bool,
    pub(crate) report: Report,
}

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Result<World, String> {
        let mut rng = Rng::new(seed);
        let mut shape = Shape::of(&mut rng);
        let cutter = Cutter::of(seed, &mut shape);
        let spec = options.tuned(topology::spec(&mut rng, &shape));
        let aside = rng.aside(5);
        let tick_offset = if rng.chance(10_000) { u32::MAX - 3_000 } else { rng.next() as u32 };
        let mut hosts = Vec::new();
        let syns = Syns::default();
        for i in 0..shape.clients {
            let ips = [client_ip(i, false), client_ip(i, true)];
            let mac = if is_routed(ips[0]) { ROUTER_MAC } else { [2, 0, 0, 0, 1, i as u8] };
            hosts.push(Host::new(&mut rng, (ips, mac), Side::Client, i as u32, (&[], Vec::new()), &syns));
        }
        let mut oracle = Oracle::new(options.blind, shape.connections_max < 100, shape.mtu);
        for j in 0..shape.servers {
            let ips = [server_ip(j, false), server_ip(j, true)];
            let mac = [2, 0, 0, 0, 2, j as u8];
            let number = 100 + j as u32;
            hosts.push(Host::new(
                &mut rng,
                (ips, mac),
                Side::Server,
                number,
                (&vips(), shape.listens()),
                &syns,
            ));
            hosts[shape.clients + j].expects_preface = options.proxy.is_some();
            oracle.learn_mac(mac, j);
        }
        let links =
            hosts.iter().map(|_| (Link::of(&mut rng, shape.faults), Link::of(&mut rng, shape.faults)));
        let links = links.collect();
        let plans = plans(&mut rng, &spec, &shape);
        let network = Gateway::network(&shape);
        oracle.configure(&spec);
        let by_ip = hosts.iter().enumerate().flat_map(|(i, h)| h.ips.map(|ip| (ip, i))).collect();
        let mut world = World {
            conns: plans.iter().map(|_| Conn::new()).collect(),
            next_run_us: vec![u64::MAX; hosts.len()],
            turn_due: vec![false; usize::from(shape.workers)],
            rng,
            options,
            now_us: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            hosts,
            links,
            cutter,
            aside,
            by_ip,
            gateway: None,
            network: None,
            spec,
            saved_spec: None,
            oracle,
            plans,
            housekept_us: 0,
            last_change_us: 0,
            tick_offset,
            next_port: 30_000,
            ended_us: HashMap::new(),
            blackout_seen: false,
            report: Report::default(),
            shape,
        };
        world.start_gateway(network)?;
        world.schedule_scenario();
        Ok(world)
    }

    fn start_gateway(&mut self, mut network: engine::FibBuilder) -> Result<(), String> {
        if !self.shape.lazy_neighbours {
            for router in [IpAddr::from(ROUTER), ROUTER6.into()] {
                network.set_neighbour(PortId(0), router, Some(wire::MacAddr(ROUTER_MAC)));
            }
            for i in 0..self.hosts.len() {
                let mac = wire::MacAddr(self.hosts[i].mac);
                for ip in self.hosts[i].ips {
                    network.set_neighbour(self.port_of(i), ip, Some(mac));
                }
            }
        }
        let now = self.ticks();
        let mut gateway = Gateway::start(&mut self.rng, &self.shape, &self.spec, network, now)?;
        gateway.fault = self.options.fault;
        (0..self.shape.workers).for_each(|worker| self.oracle.take_updates(WorkerId(worker)));
        self.gateway = Some(gateway);
        Ok(())
    }

    fn schedule_scenario(&mut self) {
        for i in 0..self.plans.len() {
            self.at(self.plans[i].start_us, Event::Connect(i));
        }
        let span = self.plans.iter().map(|p| p.start_us).max().unwrap_or(0) + 2_000_000;
        let times = |rng: &mut Rng, n: u64| -> Vec<u64> { (0..n).map(|_| rng.below(span)).collect() };
        for at in times(&mut self.rng, self.shape.forged) {
            self.at(at, Event::Forge);
        }
        if self.tells() && self.shape.forged > 0 {
            let mut aside = self.aside.fork();
            for at in times(&mut aside, self.shape.forged / 4) {
                self.at(at, Event::ForgeUoa);
            }
        }
        for at in times(&mut self.rng, self.shape.reloads) {
            self.at(at, Event::Reload);
        }
        for at in times(&mut self.rng, self.shape.mac_changes) {
            let host = self.rng.below(self.hosts.len() as u64) as usize;
            if !is_routed(self.hosts[host].ips[0]) {
                self.at(at, Event::NewMac(host));
            }
        }
        if self.shape.crash {
            let at = self.rng.below(span);
            self.at(at, Event::Crash);
        }
        if self.shape.blackout {
            let at = self.rng.below(span);
            self.at(at, Event::Blackout(true));
        }
    }

    /// Some services tell real servers the clients of UDP flows.
    pub(crate) fn tells(&self) -> bool {
        self.spec.services.iter().any(|service| service.options.uoa.is_some())
    }

    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at_us.max(self.now_us), self.sequence)));
        self.events.insert(self.sequence, event);
    }

    pub(crate) fn ticks(&self) -> Ticks {
        Ticks(self.tick_offset.wrapping_add((self.now_us / 10_000) as u32))
    }

    pub(crate) fn port_of(&self, host: usize) -> PortId {
        if host < self.shape.clients { PortId(0) } else { self.shape.server_port }
    }

    /// Runs the world to its end and judges it.
    pub(crate) fn run(mut self) -> Result<Report, String> {
        if self.options.trace {
            eprintln!("{:?}", self.shape);
            for service in &self.spec.services {
                eprintln!("{service:?}");
            }
            for (i, plan) in self.plans.iter().enumerate() {
                eprintln!("connection {i}: {plan:?}");
            }
        }
        while let Some(Reverse((at, id))) = self.queue.pop() {
            self.now_us = at;
            self.report.events += 1;
            if self.report.events > EVENTS_MAX || at > END_US {
                return Err("the world does not come to rest".into());
            }
            if at >= self.housekept_us + HOUSEKEEP_US {
                self.housekept_us = at;
                let now = self.ticks();
                if let Some(gateway) = &mut self.gateway {
                    gateway.housekeep(now);
                }
            }
            let Some(event) = self.events.remove(&id) else { continue };
            self.happen(event).map_err(|error| self.when(&error))?;
            if self.report.events.is_multiple_of(256) {
                self.check_table().map_err(|error| self.when(&error))?;
            }
        }
        self.judge().map_err(|error| self.when(&error))?;
        self.report.seen = self.oracle.seen;
        self.report.scheduled = std::mem::take(&mut self.oracle.scheduled);
        Ok(self.report)
    }

    fn when(&self, error: &str) -> String {
        format!("at {}.{:06} s: {error}", self.now_us / 1_000_000, self.now_us % 1_000_000)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive(Node::Host(host), bytes, corrupt) => self.arrive(host, &bytes, corrupt)?,
            Event::Arrive(Node::Gateway(port), bytes, _) => self.give_to_gateway(port, &bytes),
            Event::Run(host) => {
                // A later request for an earlier time has made this one void.
                if self.next_run_us[host] <= self.now_us {
                    self.run_host(host)?;
                }
            }
            Event::Turn(worker) => self.turn(worker)?,
            Event::Update(worker) => {
                if let Some(gateway) = &mut self.gateway {
                    gateway.take_updates(worker);
                    self.oracle.take_updates(WorkerId(worker as u16));
                }
            }
            Event::Connect(conn) => self.connect(conn)?,
            Event::Forge => {
                let services: Vec<(u8, SocketAddr)> =
                    self.spec.services.iter().map(|s| (s.protocol, s.virtual_)).collect();
                let (port, bytes) = forge(&mut self.rng, &self.shape, self.oracle.flows(), &services);
                self.trace("forged", &bytes);
                self.give_to_gateway(port, &bytes);
            }
            Event::ForgeUoa => {
                let services: Vec<SocketAddr> =
                    self.spec.services.iter().filter(|s| s.protocol == UDP).map(|s| s.virtual_).collect();
                let (port, bytes) = forge_uoa(&mut self.aside, &self.shape, self.oracle.flows(), &services);
                self.trace("forged", &bytes);
                self.give_to_gateway(port, &bytes);
            }
            Event::Reload => {
                if self.saved_spec.is_none() {
                    topology::change(&mut self.rng, &mut self.spec, &self.shape);
                    self.reload()?;
                }
            }
            Event::Blackout(begins) => self.blackout(begins)?,
            Event::NewMac(host) => self.new_mac(host),
            Event::Learn(port, address) => self.learn(port, address),
            Event::Crash => self.crash()?,
            Event::Restart => {
                if let Some(network) = self.network.take() {
                    self.start_gateway(network)?;
                }
            }
        }
        Ok(())
    }

    fn trace(&self, what: &str, bytes: &[u8]) {
        if self.options.trace {
            eprintln!("{:>13.6} {what:<24} {}", self.now_us as f64 / 1e6, summary(bytes));
        }
    }

    pub(crate) fn note(&self, what: &str) {
        if self.options.trace {
            eprintln!("{:>13.6} ---- {what}", self.now_us as f64 / 1e6);
        }
    }
}

impl Conn {
    fn new() -> Conn {
        Conn {
            client: None,
            client_end: End::Open,
            server_end: End::Open,
            established: false,
            excused: false,
            identified: false,
        }
    }
}

fn plans(rng: &mut Rng, spec: &Spec, shape: &Shape) -> Vec<Plan> {
    let virtuals: Vec<(u8, SocketAddr)> = spec.services.iter().map(|s| (s.protocol, s.virtual_)).collect();
    (0..shape.connections).map(|_| Plan::of(rng, &virtuals, shape.clients).sized(spec)).collect()
}

/// Runs one seed.
pub(crate) fn run(seed: u64, options: Options) -> Result<Report, String> {
    World::new(seed, options)?.run()
}
