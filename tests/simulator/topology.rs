//! Who is where: addresses, services and the shape of one seed's world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use engine::plan::{RealSpec, ServiceSpec};
use engine::snapshot::{Mode, Scheduler, SchedulerFlags, Tunnel, TunnelKind, Uoa};
use engine::tcp::Timeouts;
use engine::{ConnState, Limits, PortId, Spec, Ticks};
use wire::uoa::Form;

use crate::packet::{GUE_PORT, Mac, TCP, UDP};
use crate::rng::Rng;

pub(crate) const SERVERS_MAX: usize = 5;
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub(crate) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 9, 9];
/// Where nobody listens on any real server.
pub(crate) const REFUSED_PORT: u16 = 9;
/// Where real servers listen that are reached by translation; the others listen where the service does.
pub(crate) const LISTEN_PORTS: [u16; 2] = [8080, 8443];
const FIRST_VPORT: u16 = 80;
pub(crate) const LIMITS: Limits = Limits { services_max: 16, reals_max: 64, pairs_max: 160 };
/// Those that find a server as long as one takes connections. dh is only where nothing changes: it has no fallback, so
/// it refuses clients whose server takes no new ones, as IPVS does.
pub(crate) const SCHEDULERS: [Scheduler; 12] = {
    use Scheduler::{Fo, Lblc, Lblcr, Lc, Mh, Nq, Ovf, Rr, Sed, Sh, Wlc, Wrr};
    [Rr, Wrr, Lc, Wlc, Lblc, Lblcr, Sh, Sed, Nq, Mh, Fo, Ovf]
};

/// The two sides of the gateway may share one port ("one-armed").
pub(crate) fn gateway_mac(port: PortId) -> Mac {
    [2, 0, 0, 0, 0, 0x10 + port.0 as u8]
}

fn v6(net: [u16; 3], host: u16) -> IpAddr {
    Ipv6Addr::new(net[0], net[1], net[2], 0, 0, 0, 0, host).into()
}

/// The first clients are neighbours, the others are behind a router. Every host has an address of either family.
pub(crate) fn client_ip(i: usize, wide: bool) -> IpAddr {
    let near = i.is_multiple_of(2);
    match (wide, near) {
        (false, true) => Ipv4Addr::new(192, 0, 2, 10 + i as u8).into(),
        (false, false) => Ipv4Addr::new(203, 0, 113, 10 + i as u8).into(),
        (true, near) => v6([0x2001, 0xdb8, if near { 1 } else { 2 }], 0x10 + i as u16),
    }
}

pub(crate) fn is_routed(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 203,
        IpAddr::V6(v6) => v6.segments()[..3] == [0x2001, 0xdb8, 2],
    }
}

pub(crate) fn server_ip(j: usize, wide: bool) -> IpAddr {
    if wide { v6([0xfd00, 2, 0], 0x10 + j as u16) } else { Ipv4Addr::new(10, 2, 0, 10 + j as u8).into() }
}

pub(crate) fn vip(n: usize, wide: bool) -> IpAddr {
    if wide {
        v6([0x2001, 0xdb8, 0x100], 1 + n as u16)
    } else {
        Ipv4Addr::new(198, 51, 100, 1 + n as u8).into()
    }
}

/// All addresses that services are at.
pub(crate) fn vips() -> Vec<IpAddr> {
    [false, true].into_iter().flat_map(|wide| [vip(0, wide), vip(1, wide)]).collect()
}

pub(crate) fn lip(n: usize, wide: bool) -> IpAddr {
    if wide { v6([0xfd00, 2, 1], 1 + n as u16) } else { Ipv4Addr::new(10, 2, 1, 1 + n as u8).into() }
}

/// Where tunnels to real servers begin.
pub(crate) fn tunnel_source(wide: bool) -> IpAddr {
    if wide { v6([0xfd00, 2, 0], 1) } else { Ipv4Addr::new(10, 2, 0, 1).into() }
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
    /// How real servers are reached.
    pub(crate) modes: Vec<Mode>,
    pub(crate) families: Families,
    /// Some services are UDP's.
    pub(crate) udp: bool,
    /// Of the gateway's links; that of hosts is 1500, so tunnels need more.
    pub(crate) mtu: u16,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    /// Services of either, and real servers of the other one where the mode can do that.
    Both,
}

impl Families {
    fn pick(self, rng: &mut Rng) -> bool {
        match self {
            Families::V4 => false,
            Families::V6 => true,
            Families::Both => rng.coin(),
        }
    }
}

impl Shape {
    pub(crate) fn of(rng: &mut Rng) -> Shape {
        let faults = *rng.pick(&[FaultLevel::Clean, FaultLevel::Light, FaultLevel::Light, FaultLevel::Harsh]);
        let modes = match rng.below(8) {
            0..=2 => vec![Mode::FullNat],
            3 => vec![Mode::Nat],
            4 => vec![Mode::Dr],
            5 => vec![Mode::Tun],
            6 => vec![Mode::FullNat, Mode::Nat],
            _ => vec![Mode::FullNat, Mode::Nat, Mode::Dr, Mode::Tun],
        };
        Shape {
            workers: rng.range(1, 4) as u16,
            clients: rng.range(1, 4) as usize,
            servers: rng.range(2, SERVERS_MAX as u64) as usize,
            server_port: PortId(rng.below(2) as u16),
            connections: rng.range(6, 22) as usize,
            connections_max: if rng.chance(12_000) { rng.range(4, 10) as u32 } else { 1024 },
            families: *rng.pick(&[Families::V4, Families::V4, Families::V6, Families::Both]),
            udp: rng.chance(40_000),
            mtu: if modes.contains(&Mode::Tun) { 1600 } else { 1500 },
            modes,
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

    /// Ports that real servers listen on.
    pub(crate) fn listens(&self) -> Vec<u16> {
        let one_way = self.modes.iter().any(|mode| mode.is_one_way());
        let translated = self.modes.iter().any(|mode| !mode.is_one_way());
        let mut ports = if translated { LISTEN_PORTS.to_vec() } else { Vec::new() };
        ports.extend((0..3).map(|n| FIRST_VPORT + n).filter(|_| one_way));
        ports
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
    let lips = rng.range(1, 2) as usize;
    let locals: Vec<IpAddr> = (0..lips).flat_map(|n| [lip(n, false), lip(n, true)]).collect();
    let mut scheduler = *rng.pick(&SCHEDULERS);
    let unchanging = shape.reloads == 0 && !shape.blackout;
    if unchanging && rng.aside(1).chance(15_000) {
        scheduler = Scheduler::Dh;
    }
    let timeouts = timeouts(rng);
    for n in 0..services {
        // The second service is on the same VIP, the third on another; the third shares the first's real servers.
        let wide = shape.families.pick(rng);
        let mut service = ServiceSpec {
            protocol: if shape.udp && rng.coin() { UDP } else { TCP },
            virtual_: SocketAddr::new(vip(n / 2, wide), FIRST_VPORT + n as u16),
            also: Vec::new(),
            scheduler,
            flags: SchedulerFlags { fallback: true, port: rng.coin(), quic_cid: rng.coin() },
            toa: (!toa_off).then_some(kind),
            timeouts,
            locals: locals.clone(),
            local_ports: ports,
            options: Default::default(),
            sorry: None,
            reals: Vec::new(),
        };
        if service.protocol == UDP && rng.aside(2).chance(60_000) {
            tell(&mut rng.aside(3), &mut service);
        }
        service.reals = (0..shape.servers).map(|j| real(rng, shape, &service, j)).collect();
        spec.services.push(service);
    }
    if rng.chance(30_000) {
        let mut refusing = spec.services[0].clone();
        refusing.virtual_.set_port(REFUSED_PORT);
        refusing.reals = vec![real(rng, shape, &refusing, 0)];
        spec.services.push(refusing);
    }
    spec
}

/// Has the real servers of a UDP service told who their clients are, in some worlds of flows that soon end.
fn tell(rng: &mut Rng, service: &mut ServiceSpec) {
    let form = *rng.pick(&[Form::Option, Form::Header]);
    let datagrams = *rng.pick(&[1, 2, 3, 3, 20]);
    service.options.uoa = Some(Uoa { form, datagrams, must: rng.chance(30_000) });
    if rng.chance(30_000) {
        let timeout = Ticks::from_secs(rng.range(6, 20) as u32);
        service.timeouts = service.timeouts.with(ConnState::Udp, timeout);
    }
}

/// A real server for a service: its `j`th.
fn real(rng: &mut Rng, shape: &Shape, service: &ServiceSpec, j: usize) -> RealSpec {
    let mode = *rng.pick(&shape.modes);
    let vport = service.virtual_.port();
    let any_family = matches!(mode, Mode::FullNat | Mode::Tun);
    let wide = if any_family { shape.families.pick(rng) } else { service.virtual_.is_ipv6() };
    let port = match vport {
        REFUSED_PORT => REFUSED_PORT,
        vport if mode.is_one_way() => vport,
        vport => LISTEN_PORTS[usize::from(vport) % 2],
    };
    let weight = rng.range(1, 4) as u16;
    let mut spec = RealSpec::new(SocketAddr::new(server_ip(j, wide), port), mode, weight);
    if mode == Mode::Tun {
        let checksum = rng.coin();
        let kinds =
            [TunnelKind::Ipip, TunnelKind::Gre { checksum }, TunnelKind::Gue { port: GUE_PORT, checksum }];
        spec.tunnel = Some(Tunnel { kind: *rng.pick(&kinds), source: tunnel_source(wide) });
    }
    spec
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
    let mut aside = rng.aside(4);
    for service in spec.services.iter_mut().filter(|service| service.options.uoa.is_some()) {
        if aside.chance(30_000) {
            let form = *aside.pick(&[Form::Option, Form::Header]);
            let datagrams = aside.range(1, 5) as u8;
            service.options.uoa = Some(Uoa { form, datagrams, must: aside.chance(30_000) });
        }
    }
    let refusing = |s: &ServiceSpec| s.virtual_.port() == REFUSED_PORT;
    let services = spec.services.iter().position(refusing).unwrap_or(spec.services.len());
    let service = &mut spec.services[rng.below(services as u64) as usize];
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
            service.scheduler = *rng.pick(&SCHEDULERS);
            service.reals.reverse();
        }
        _ => {
            let is_host = |r: &RealSpec, j| [server_ip(j, false), server_ip(j, true)].contains(&r.real.ip());
            let present = |j: &usize| service.reals.iter().any(|r| is_host(r, *j));
            if let Some(j) = (0..shape.servers).find(|j| !present(j)) {
                let new = real(rng, shape, service, j);
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
