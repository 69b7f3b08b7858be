//! One seed's world: hosts, links, the gateway, and what happens to them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};

use engine::snapshot::Mode;
use engine::{PortId, PuntClass, Spec, Ticks, Verdict};

use crate::faults::Fault;
use crate::forge::forge;
use crate::gateway::{Emitted, Gateway};
use crate::host::{Host, Syns};
use crate::link::{InFlight, Link};
use crate::oracle::{Oracle, Seen};
use crate::packet::{
    ACK, Build, ETH_LEN, Mac, RST, TCP, UDP, add_forged_option, frame, parse, parse_ip, summary,
};
use crate::rng::Rng;
use crate::stream::{End, Plan, Side};
use crate::topology::{
    self, ROUTER, ROUTER_MAC, ROUTER6, Shape, client_ip, gateway_mac, is_routed, server_ip, vips,
};

/// A seed that goes on longer has gone wrong; the longest honest one takes a tenth.
const EVENTS_MAX: u64 = 400_000;
const END_US: u64 = 4_000_000_000;
/// Times a frame may be a turn away from its worker.
const TURN_US: u64 = 120;
const HOUSEKEEP_US: u64 = 20_000;
/// Longer than any frame is on its way.
const SEGMENT_LIFE_US: u64 = 100_000;

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
}

impl Default for Options {
    fn default() -> Self {
        Options { trace: false, fault: Fault::None, blind: false }
    }
}

/// What a seed did, for the sum over all seeds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Report {
    pub(crate) seen: Seen,
    pub(crate) connections: u64,
    pub(crate) whole: u64,
    pub(crate) reused: u64,
    pub(crate) events: u64,
    /// Of everything that went over the links; two runs of a seed must agree.
    pub(crate) fingerprint: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.connections += other.connections;
        self.whole += other.whole;
        self.reused += other.reused;
        self.events += other.events;
        self.fingerprint ^= other.fingerprint;
        self.seen.add(&other.seen);
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
        let shape = Shape::of(&mut rng);
        let spec = topology::spec(&mut rng, &shape);
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
            oracle.learn_mac(mac, j);
        }
        let links =
            hosts.iter().map(|_| (Link::of(&mut rng, shape.faults), Link::of(&mut rng, shape.faults)));
        let links = links.collect();
        let virtuals: Vec<(u8, SocketAddr)> =
            spec.services.iter().map(|s| (s.protocol, s.virtual_)).collect();
        let plans: Vec<Plan> =
            (0..shape.connections).map(|_| Plan::of(&mut rng, &virtuals, shape.clients)).collect();
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

    // ---- hosts ----

    fn connect(&mut self, conn: usize) -> Result<(), String> {
        let plan = &self.plans[conn];
        let host = &mut self.hosts[plan.client];
        // Few ports, so that they are used again and again.
        let usual = 40_000 + self.rng.below(5) as u16;
        let ended_us = self.ended_us.get(&(plan.client, usual)).copied();
        // One way a connection may count as over when only its client has closed; an old SYN that is still on a link
        // would then lead to another real server, as in IPVS.
        let one_way = self.shape.modes.iter().any(|mode| mode.is_one_way());
        let too_early = one_way && ended_us.is_some_and(|at| self.now_us < at + SEGMENT_LIFE_US);
        let port = if too_early || host.port_in_use(usual) { self.next_port } else { usual };
        self.next_port += u16::from(port != usual);
        host.connect(conn as u32, plan, port)?;
        let ip = host.ips[usize::from(plan.virtual_.is_ipv6())];
        self.conns[conn].client = Some(SocketAddr::new(ip, port));
        self.report.connections += 1;
        let client = plan.client;
        self.run_host(client)
    }

    fn arrive(&mut self, host: usize, bytes: &[u8], corrupt: bool) -> Result<(), String> {
        self.trace(if corrupt { "corrupt at host" } else { "at host" }, bytes);
        let target = &mut self.hosts[host];
        if bytes.len() < ETH_LEN || bytes[..6] != target.mac {
            return Ok(());
        }
        target.receive(bytes);
        self.run_host(host)
    }

    fn run_host(&mut self, host: usize) -> Result<(), String> {
        let packets = self.hosts[host].run(self.now_us, &self.plans)?;
        self.next_run_us[host] = u64::MAX;
        if let Some(at) = self.hosts[host].wake_at_us(self.now_us) {
            self.next_run_us[host] = at;
            self.at(at, Event::Run(host));
        }
        let port = self.port_of(host);
        for mut packet in packets {
            if host < self.shape.clients && self.rng.chance(self.shape.lying_clients) {
                packet = add_forged_option(&packet, &mut self.rng).unwrap_or(packet);
            }
            let direct = self.direct(host, &packet);
            let to_mac = direct.map_or(gateway_mac(port), |to| self.hosts[to].mac);
            let bytes = frame(to_mac, self.hosts[host].mac, &packet, self.shape.pad);
            self.trace("sent by host", &bytes);
            let to = direct.map_or(Node::Gateway(port), Node::Host);
            for flight in self.links[host].0.carry(bytes) {
                self.fly(to, flight);
            }
        }
        self.identify(host)?;
        self.identify_asked(host)?;
        self.collect(host)
    }

    fn fly(&mut self, to: Node, flight: InFlight) {
        for word in flight.bytes.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.report.fingerprint = crate::rng::mix(self.report.fingerprint ^ u64::from_le_bytes(bytes));
        }
        self.at(self.now_us + flight.after_us, Event::Arrive(to, flight.bytes, flight.corrupt));
    }

    /// Compares what a real server was told about its peer with who it really is.
    fn identify(&mut self, host: usize) -> Result<(), String> {
        let own = &self.hosts[host];
        for session in &own.sessions {
            let Some(conn) = session.pump.conn.and_then(|id| self.conns.get_mut(id as usize)) else {
                continue;
            };
            if host < self.shape.clients {
                conn.established |= session.pump.peer.is_some();
                continue;
            }
            if conn.identified {
                continue;
            }
            conn.identified = true;
            let Some(remote) = session.remote else { continue };
            identify_peer(&self.oracle, TCP, conn, remote, session.local)?;
        }
        Ok(())
    }

    /// The same of datagrams.
    fn identify_asked(&mut self, host: usize) -> Result<(), String> {
        for asked in std::mem::take(&mut self.hosts[host].asked) {
            let Some(conn) = self.conns.get(asked.conn as usize) else {
                return Err(format!("{asked:?} by a connection that does not exist"));
            };
            // A late double may arrive when its flow is over; its place may be another's by then.
            if conn.client_end == End::Open {
                identify_peer(&self.oracle, UDP, conn, asked.remote, asked.local)?;
            }
        }
        Ok(())
    }

    /// Whom a real server's packet goes to without the gateway: it comes from a virtual address.
    fn direct(&self, host: usize, packet: &[u8]) -> Option<usize> {
        let header = parse_ip(packet).filter(|_| host >= self.shape.clients)?;
        vips().contains(&header.src).then(|| self.by_ip.get(&header.dst).copied())?
    }

    /// Takes note of sessions that are over.
    fn collect(&mut self, host: usize) -> Result<(), String> {
        for (id, seq) in self.hosts[host].answered() {
            self.conns[id as usize].established |= seq > 0;
        }
        for (id, end) in std::mem::take(&mut self.hosts[host].exchanged) {
            let conn = &mut self.conns[id as usize];
            conn.established |= end == End::Whole;
            (conn.client_end, conn.server_end) = (end, end);
            self.note(&format!("connection {id}: datagrams {end:?}"));
        }
        for session in std::mem::take(&mut self.hosts[host].finished) {
            let Some(id) = session.pump.conn else { continue };
            let Some(conn) = self.conns.get_mut(id as usize) else { continue };
            let client = host < self.shape.clients;
            if client {
                self.ended_us.insert((host, session.local.port()), self.now_us);
            }
            let end = if client { &mut conn.client_end } else { &mut conn.server_end };
            if *end == End::Whole {
                return Err(format!("connection {id} was accepted a second time"));
            }
            *end = session.pump.end;
            if self.options.trace {
                let side = if client { "client" } else { "server" };
                eprintln!(
                    "{:>13.6} ---- connection {id}: {side} {:?}",
                    self.now_us as f64 / 1e6,
                    session.pump.end
                );
            }
        }
        Ok(())
    }

    // ---- the gateway ----

    fn give_to_gateway(&mut self, port: PortId, bytes: &[u8]) {
        let Some(gateway) = &mut self.gateway else { return };
        let worker = gateway.receive(port, bytes);
        self.wake(worker);
    }

    fn wake(&mut self, worker: usize) {
        if !std::mem::replace(&mut self.turn_due[worker], true) {
            let after = self.rng.below(TURN_US);
            self.at(self.now_us + after, Event::Turn(worker));
        }
    }

    fn turn(&mut self, worker: usize) -> Result<(), String> {
        self.turn_due[worker] = false;
        let now = self.ticks();
        let Some(gateway) = &mut self.gateway else { return Ok(()) };
        let mut out = Vec::new();
        self.oracle.now_us = self.now_us;
        let woken = gateway.turn(worker, now, &mut self.oracle, &mut out)?;
        let again = gateway.has_work(worker);
        let wanted = gateway.take_wanted();
        for flow in self.oracle.take_displaced() {
            let all = self.gateway.as_ref().map(|g| g.connections(now)).unwrap_or_default();
            let flow = (flow.protocol, flow.client, flow.virtual_, flow.local, flow.real);
            if let Some((_, live)) =
                all.iter().find(|(_, c)| (c.protocol, c.client, c.virtual_, c.local, c.real) == flow)
            {
                return Err(format!("the local endpoint of {live:?} was given to another connection"));
            }
        }
        for (port, address) in wanted {
            let after = self.rng.range(50, 3_000);
            self.at(self.now_us + after, Event::Learn(port, address));
        }
        for worker in woken {
            self.wake(worker);
        }
        if again {
            self.wake(worker);
        }
        for emitted in out {
            self.emit(emitted)?;
        }
        Ok(())
    }

    fn emit(&mut self, emitted: Emitted) -> Result<(), String> {
        let Emitted { worker, port, verdict, before, after } = emitted;
        if self.options.trace {
            self.trace(&format!("w{worker} {verdict:?}"), &after);
        }
        match verdict {
            Verdict::Forward(_) | Verdict::Reply(_) => self.leave(port, verdict, after),
            Verdict::Punt(PuntClass::Stray) if self.shape.kernel_answers => {
                if let Some(answer) = kernel_rst(&before) {
                    let ip = parse_ip(&answer).map(|header| header.dst);
                    if let Some(host) = ip.and_then(|ip| self.by_ip.get(&ip).copied()) {
                        let bytes = frame(self.hosts[host].mac, gateway_mac(port), &answer, self.shape.pad);
                        self.trace("kernel answers", &bytes);
                        self.send_to_host(host, bytes);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A frame leaves through a port: it must be addressed from us to the right neighbour.
    fn leave(&mut self, port: PortId, verdict: Verdict, bytes: Vec<u8>) -> Result<(), String> {
        let reply = matches!(verdict, Verdict::Reply(_));
        let header = crate::packet::ip_of(&bytes).and_then(parse_ip);
        let Some(to) = header.map(|header| header.dst) else {
            return Err(format!("{verdict:?}: a frame that is no IP, of {} bytes", bytes.len()));
        };
        if !reply && bytes[6..12] != gateway_mac(port) {
            return Err(format!(
                "{verdict:?}: the source MAC address is not the port's: {:02x?}",
                &bytes[..12]
            ));
        }
        let mac: Mac = [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]];
        // In DR the real server has the virtual address, too, and only the MAC address tells which one it is.
        let host = match vips().contains(&to) {
            true => self.hosts.iter().position(|host| host.mac == mac),
            false => self.by_ip.get(&to).copied(),
        };
        let Some(host) = host else {
            let outside = is_routed(to) || vips().contains(&to) && self.shape.mac_changes == 0;
            if !reply && bytes[..6] != ROUTER_MAC && outside {
                return Err(format!("what is for {to} does not go to the router"));
            }
            return Ok(());
        };
        if !reply && self.port_of(host) != port {
            return Err(format!("what is for {to} leaves through port {port}"));
        }
        let changed = self.shape.mac_changes > 0;
        if !reply && mac != self.hosts[host].mac && !changed {
            return Err(format!("what is for {to} goes to {mac:02x?}"));
        }
        self.send_to_host(host, bytes);
        Ok(())
    }

    fn send_to_host(&mut self, host: usize, bytes: Vec<u8>) {
        for flight in self.links[host].1.carry(bytes) {
            self.fly(Node::Host(host), flight);
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

/// Whoever speaks with a real server is who the gateway said.
fn identify_peer(
    oracle: &Oracle,
    protocol: u8,
    conn: &Conn,
    remote: SocketAddr,
    real: SocketAddr,
) -> Result<(), String> {
    let flow = oracle.by_real_side(protocol, remote, real);
    // In DR and TUN the real server speaks for the virtual address, in NAT the client is seen as it is.
    let bare = oracle.blind || vips().contains(&real.ip()) || flow.is_some_and(|flow| flow.mode == Mode::Nat);
    if bare && Some(remote) == conn.client {
        return Ok(());
    }
    if !oracle.lips.contains(&remote.ip()) && !conn.excused {
        return Err(format!("{real} was connected to by {remote}, which is no local address"));
    }
    if !oracle.blind && !conn.excused && flow.map(|f| f.client) != conn.client {
        return Err(format!("{real} speaks with {:?} through {remote}, seen is {flow:?}", conn.client));
    }
    Ok(())
}

/// RFC 9293 §3.10.7.1: what a kernel answers to a segment that belongs to no connection.
fn kernel_rst(bytes: &[u8]) -> Option<Vec<u8>> {
    let segment = parse(bytes)?;
    if segment.has(RST) || !segment.ip_checksum_ok || !segment.l4_checksum_ok || !segment.is_tcp() {
        return None;
    }
    let mut answer = Build::new(segment.dst, segment.src, RST);
    if segment.has(ACK) {
        answer.seq = segment.ack;
    } else {
        answer.flags |= ACK;
        answer.ack = segment.seq.wrapping_add(segment.span());
    }
    Some(answer.ip_packet())
}

/// Runs one seed.
pub(crate) fn run(seed: u64, options: Options) -> Result<Report, String> {
    World::new(seed, options)?.run()
}
