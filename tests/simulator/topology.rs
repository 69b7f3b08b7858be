//! Who is where: addresses, services and the shape of one seed's world.

use std::net::{Ipv4Addr, SocketAddrV4};

use engine::plan::{RealSpec, ServiceSpec};
use engine::snapshot::{Mode, Scheduler};
use engine::tcp::Timeouts;
use engine::{ConnState, Limits, PortId, Spec, Ticks};

use crate::packet::Mac;
use crate::rng::Rng;

pub(crate) const SERVERS_MAX: usize = 5;
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 9, 9];
/// Where nobody listens on any real server.
pub(crate) const REFUSED_PORT: u16 = 9;
/// Where real servers listen.
pub(crate) const LISTEN_PORTS: [u16; 2] = [8080, 8443];
pub(crate) const LIMITS: Limits = Limits { services_max: 16, reals_max: 64, pairs_max: 160 };

/// The two sides of the gateway may share one port ("one-armed").
pub(crate) fn gateway_mac(port: PortId) -> Mac {
    [2, 0, 0, 0, 0, 0x10 + port.0 as u8]
}

/// The first clients are neighbours, the others are behind a router.
pub(crate) fn client_ip(i: usize) -> Ipv4Addr {
    if i.is_multiple_of(2) {
        Ipv4Addr::new(192, 0, 2, 10 + i as u8)
    } else {
        Ipv4Addr::new(203, 0, 113, 10 + i as u8)
    }
}

pub(crate) fn is_routed(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 203
}

pub(crate) fn server_ip(j: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, 10 + j as u8)
}

pub(crate) fn vip(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 1 + n as u8)
}

pub(crate) fn lip(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 1, 1 + n as u8)
}

/// How a seed's world differs from others.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) workers: u16,
    pub(crate) clients: usize,
    pub(crate) servers: usize,
    pub(crate) server_port: PortId,
    pub(crate) connections: usize,
    pub(crate) connections_max: u32,
    /// Pad frames to 60 bytes, as wires do.
    pub(crate) pad: bool,
    /// Answer stray segments with RST, as the kernel twin does.
    pub(crate) kernel_answers: bool,
    /// Client hosts add forged address options to segments of their own (per 100,000).
    pub(crate) lying_clients: u32,
    /// Forged packets per seed.
    pub(crate) forged: u64,
    /// Changes of configuration, of neighbours.
    pub(crate) reloads: u64,
    pub(crate) mac_changes: u64,
    pub(crate) crash: bool,
    /// No real server has weight for a while.
    pub(crate) blackout: bool,
    /// Some neighbours are only learnt when first wanted.
    pub(crate) lazy_neighbours: bool,
    pub(crate) faults: FaultLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultLevel {
    Clean,
    Light,
    Harsh,
}

impl Shape {
    pub(crate) fn of(rng: &mut Rng) -> Shape {
        let faults = *rng.pick(&[FaultLevel::Clean, FaultLevel::Light, FaultLevel::Light, FaultLevel::Harsh]);
        Shape {
            workers: rng.range(1, 4) as u16,
            clients: rng.range(1, 4) as usize,
            servers: rng.range(2, SERVERS_MAX as u64) as usize,
            server_port: PortId(rng.below(2) as u16),
            connections: rng.range(6, 22) as usize,
            connections_max: if rng.chance(12_000) { rng.range(4, 10) as u32 } else { 1024 },
            pad: rng.coin(),
            kernel_answers: rng.coin(),
            lying_clients: if rng.chance(30_000) { 20_000 } else { 0 },
            forged: if rng.chance(60_000) { rng.range(5, 60) } else { 0 },
            reloads: if rng.chance(50_000) { rng.range(1, 6) } else { 0 },
            mac_changes: if rng.chance(25_000) { rng.range(1, 2) } else { 0 },
            crash: rng.chance(12_000),
            blackout: rng.chance(4_000),
            lazy_neighbours: rng.chance(20_000),
            faults,
        }
    }
}

/// The first configuration.
pub(crate) fn spec(rng: &mut Rng, shape: &Shape) -> Spec {
    let mut spec = Spec { generation: 1, services: Vec::new() };
    let services = rng.range(1, 3) as usize;
    let toa_off = rng.chance(15_000);
    let kind = if rng.chance(25_000) { *rng.pick(&[200, 253]) } else { 254 };
    // A few ports only, so that they run through the whole pool and come round again.
    let ports = if rng.chance(25_000) {
        let first = rng.range(1024, 60_000) as u16;
        (first, first + rng.range(40, 90) as u16)
    } else {
        (1024, 65_535)
    };
    let locals: Vec<Ipv4Addr> = (0..rng.range(1, 2) as usize).map(lip).collect();
    let scheduler = *rng.pick(&[Scheduler::Rr, Scheduler::Wrr, Scheduler::Wlc]);
    let timeouts = timeouts(rng);
    for n in 0..services {
        // The second service is on the same VIP, the third on another; the third shares the first's real servers.
        let listen = LISTEN_PORTS[n % 2];
        let reals = (0..shape.servers).map(|j| real(rng, SocketAddrV4::new(server_ip(j), listen)));
        spec.services.push(ServiceSpec {
            protocol: 6,
            virtual_: (vip(n / 2), 80 + n as u16).into(),
            also: Vec::new(),
            scheduler,
            flags: Default::default(),
            toa: (!toa_off).then_some(kind),
            timeouts,
            locals: locals.iter().map(|local| (*local).into()).collect(),
            local_ports: ports,
            options: Default::default(),
            sorry: None,
            reals: reals.collect(),
        });
    }
    if rng.chance(30_000) {
        let mut refusing = spec.services[0].clone();
        refusing.virtual_ = (vip(0), 9).into();
        refusing.reals = vec![real(rng, SocketAddrV4::new(server_ip(0), REFUSED_PORT))];
        spec.services.push(refusing);
    }
    spec
}

fn real(rng: &mut Rng, real: SocketAddrV4) -> RealSpec {
    RealSpec::new(real.into(), Mode::FullNat, rng.range(1, 4) as u16)
}

/// IPVS's, or shorter ones that still outlast what links and stacks here may keep quiet.
fn timeouts(rng: &mut Rng) -> Timeouts {
    let mut timeouts = Timeouts::default();
    if rng.coin() {
        timeouts = timeouts
            .with(ConnState::Established, Ticks::from_secs(rng.range(120, 400) as u32))
            .with(ConnState::TimeWait, Ticks::from_secs(rng.range(70, 120) as u32))
            .with(ConnState::Close, Ticks::from_secs(rng.range(3, 10) as u32));
    }
    timeouts
}

/// A change that an operator might make. Every service keeps a real server that takes connections.
pub(crate) fn change(rng: &mut Rng, spec: &mut Spec, shape: &Shape) {
    spec.generation += 1;
    let services = spec.services.iter().position(|s| s.virtual_.port() == 9).unwrap_or(spec.services.len());
    let service = &mut spec.services[rng.below(services as u64) as usize];
    let listen = service.reals[0].real.port();
    match rng.below(6) {
        0 | 1 => {
            let n = rng.below(service.reals.len() as u64) as usize;
            service.reals[n].weight = rng.below(5) as u16;
        }
        2 => {
            let n = rng.below(service.reals.len() as u64) as usize;
            service.reals[n].up = !service.reals[n].up;
        }
        3 if service.reals.len() > 1 => {
            let n = rng.below(service.reals.len() as u64) as usize;
            service.reals.remove(n);
        }
        4 => {
            service.scheduler = *rng.pick(&[Scheduler::Rr, Scheduler::Wrr, Scheduler::Wlc]);
            service.reals.reverse();
        }
        _ => {
            let present = |j: &usize| service.reals.iter().any(|r| r.real.ip() == server_ip(*j));
            if let Some(j) = (0..shape.servers).find(|j| !present(j)) {
                let new = real(rng, SocketAddrV4::new(server_ip(j), listen));
                service.reals.push(new);
            }
        }
    }
    if service.reals.iter().all(|r| r.weight == 0 || !r.up) {
        let n = rng.below(service.reals.len() as u64) as usize;
        service.reals[n].weight = 1;
        service.reals[n].up = true;
    }
}
