//! The configuration as workers read it: immutable, shared, complete.
//!
//! Made by [`crate::Planner`] from a [`crate::Spec`]. Slot numbers ([`ServiceId`], [`RealId`], [`PairId`]) stay the
//! same from one snapshot to the next for as long as the thing they name exists, so connections and per-worker
//! state refer to things by number.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use crate::hash::{AddressSet, EndpointMap};
use crate::ids::{PairId, RealId, ServiceId};
use crate::tcp::Timeouts;

/// An IPv4 endpoint as the packet path compares it: both fields in the byte order of the wire, as loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint4 {
    /// Address, network order in memory.
    pub addr: u32,
    /// Port, network order in memory.
    pub port: u16,
}

impl Endpoint4 {
    /// Of an address and a port in host order.
    pub fn new(addr: Ipv4Addr, port: u16) -> Endpoint4 {
        Endpoint4 { addr: u32::from_ne_bytes(addr.octets()), port: port.to_be() }
    }

    /// As a socket address.
    pub fn to_socket_addr(self) -> SocketAddr {
        let addr = Ipv4Addr::from(self.addr.to_ne_bytes());
        SocketAddr::V4(SocketAddrV4::new(addr, u16::from_be(self.port)))
    }
}

/// Forwarding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Both addresses are replaced.
    FullNat,
}

/// How a real server is picked for a new connection, as in ipvsadm(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Maglev hashing.
    Mh,
    /// Weighted failover.
    Fo,
    /// Weighted overflow.
    Ovf,
}

impl Scheduler {
    /// Whether it remembers which real servers a destination has.
    pub(crate) fn has_locality(self) -> bool {
        matches!(self, Scheduler::Lblc | Scheduler::Lblcr)
    }
}

/// Options of the hashing schedulers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerFlags {
    /// sh, mh: the client's next hash when its server takes no connections (sh-fallback, mh-fallback).
    pub fallback: bool,
    /// sh, mh: hash the client's port too (sh-port, mh-port).
    pub port: bool,
    /// mh over UDP: hash the QUIC connection id instead of the client's endpoint, where there is one.
    pub quic_cid: bool,
}

/// Everything a worker needs of one real server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Real {
    /// Its slot.
    pub id: RealId,
    /// RIP:rport.
    pub endpoint: Endpoint4,
    /// Share of new connections; 0: drain.
    pub weight: u16,
    /// Whether it may get new connections.
    pub up: bool,
    /// Hundredths of the weight that count; less than 100 while a server that came back is slowly loaded.
    pub ramp_percent: u8,
    /// Connections from which on it gets no new ones; 0: any number.
    pub upper: u32,
    /// Connections below which it gets new ones again; 0: 3/4 of `upper`.
    pub lower: u32,
    /// One pair per local address of the service, in the same order.
    pub pairs: Vec<PairId>,
}

impl Real {
    /// The weight for new connections, in hundredths: 0 when drained or down.
    #[inline(always)]
    pub fn usable_weight(&self) -> u32 {
        if self.up { self.weight_if_up() } else { 0 }
    }

    /// The weight that it has, or would have if it were up, in hundredths.
    #[inline(always)]
    pub(crate) fn weight_if_up(&self) -> u32 {
        u32::from(self.weight) * u32::from(self.ramp_percent.min(100))
    }
}

/// Everything a worker needs of one virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its slot.
    pub id: ServiceId,
    /// IANA protocol number.
    pub protocol: u8,
    /// VIP:vport.
    pub virtual_: Endpoint4,
    /// Mode.
    pub mode: Mode,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Its options.
    pub flags: SchedulerFlags,
    /// TOA option kind; `None`: neither inserted nor stripped.
    pub toa: Option<u8>,
    /// Timeouts of its connections.
    pub timeouts: Timeouts,
    /// Local addresses, in network order.
    pub locals: Vec<u32>,
    /// Real servers, in the order of the configuration.
    pub reals: Vec<Real>,
    /// Greatest usable weight.
    pub weight_max: u32,
    /// Greatest common divisor of the usable weights; at least 1.
    pub weight_gcd: u32,
    /// What its scheduler looks up while picking: made by [`crate::sched::prepare`], each kind explained there.
    pub(crate) lookup: Arc<[u32]>,
}

/// The whole configuration.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Its generation.
    pub generation: u64,
    /// By slot.
    pub(crate) services: Vec<Option<Service>>,
    /// VIP:vport to slot, per protocol.
    pub(crate) by_endpoint: EndpointMap,
    /// All local addresses, also of services that are gone while their connections live.
    pub(crate) locals: AddressSet,
    /// All virtual addresses.
    pub(crate) virtuals: AddressSet,
}

impl Snapshot {
    /// The service of that slot.
    #[inline(always)]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())?.as_ref()
    }

    /// The service at an address, port and protocol.
    #[inline]
    pub fn find(&self, protocol: u8, endpoint: Endpoint4) -> Option<&Service> {
        self.service(self.by_endpoint.get(protocol, endpoint)?)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten()
    }
}
