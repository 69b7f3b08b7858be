//! What is wanted: services, what they listen at, their real servers.

use std::net::{IpAddr, SocketAddr};

use super::slots::ServiceSlotKey;
use crate::snapshot::{Mode, Options, Scheduler, SchedulerFlags, Tunnel};
use crate::tcp::Timeouts;

/// The configuration that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// Its generation.
    pub generation: u64,
    /// The services.
    pub services: Vec<ServiceSpec>,
}

/// One wanted service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// IANA protocol number.
    pub protocol: u8,
    /// VIP:vport; names the service.
    pub virtual_: SocketAddr,
    /// What else it listens at.
    pub also: Vec<Listen>,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Its options.
    pub flags: SchedulerFlags,
    /// TOA option kind; `None`: off.
    pub toa: Option<u8>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Local addresses.
    pub locals: Vec<IpAddr>,
    /// First and last local port.
    pub local_ports: (u16, u16),
    /// What else it wants.
    pub options: Options,
    /// Gets connections that no real server can have; none of the real servers.
    pub sorry: Option<RealSpec>,
    /// Real servers.
    pub reals: Vec<RealSpec>,
}

/// A protocol, an address and a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// IANA protocol number.
    pub protocol: u8,
    /// VIP.
    pub address: IpAddr,
    /// First and last port.
    pub ports: (u16, u16),
}

impl ServiceSpec {
    /// What it is known by.
    pub(super) fn key(&self) -> ServiceSlotKey {
        (self.protocol, self.virtual_)
    }

    /// The real servers and the sorry server.
    pub(super) fn all_reals(&self) -> impl Iterator<Item = &RealSpec> {
        self.reals.iter().chain(&self.sorry)
    }

    /// Everything that it listens at. Port 0 means every port.
    pub fn listens(&self) -> impl Iterator<Item = Listen> {
        let ports = match self.virtual_.port() {
            0 => (1, u16::MAX),
            port => (port, port),
        };
        let first = Listen { protocol: self.protocol, address: self.virtual_.ip(), ports };
        std::iter::once(first).chain(self.also.iter().copied())
    }
}

/// One wanted real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealSpec {
    /// RIP:rport; port 0: that of the packet.
    pub real: SocketAddr,
    /// How it is reached.
    pub mode: Mode,
    /// How packets to it are wrapped, in mode TUN.
    pub tunnel: Option<Tunnel>,
    /// Weight; 0: drain.
    pub weight: u16,
    /// Whether it may get new connections.
    pub up: bool,
    /// Hundredths of the weight that count; 100 but while it is slowly loaded.
    pub ramp_percent: u8,
    /// Connections from which on it gets no new ones; 0: any number.
    pub upper: u32,
    /// Connections below which it gets new ones again; 0: 3/4 of `upper`.
    pub lower: u32,
    /// Its connections and templates end now.
    pub end_connections: bool,
}

impl RealSpec {
    /// A real server that is up, at its full weight, without tunnel and thresholds.
    pub fn new(real: SocketAddr, mode: Mode, weight: u16) -> RealSpec {
        RealSpec {
            real,
            mode,
            tunnel: None,
            weight,
            up: true,
            ramp_percent: 100,
            upper: 0,
            lower: 0,
            end_connections: false,
        }
    }
}
