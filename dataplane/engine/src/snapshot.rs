//! The configuration as workers read it: immutable, shared, complete.
//!
//! Made by [`crate::Planner`] from a [`crate::Spec`]. Slot numbers ([`ServiceId`], [`RealId`], [`PairId`]) stay the
//! same from one snapshot to the next for as long as the thing they name exists, so connections and per-worker
//! state refer to things by number.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use crate::addr::{Addr, Endpoint};
use crate::conn::ToaForm;
use crate::hash::{AddressMap, AddressSet, EndpointMap};
use crate::ids::{PairId, RealId, ServiceId, WorkerId};
use crate::persist::Templates;
use crate::tcp::Timeouts;
use crate::time::Ticks;
use crate::translate::tunnel::{Bare, Wrapper};

/// How packets reach a real server (IPVS: packet-forwarding-method).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, IntoBytes, Immutable)]
#[repr(u8)]
pub enum Mode {
    /// Both addresses are replaced; the real server answers to the local address. Families may differ.
    #[default]
    FullNat,
    /// The virtual address is replaced by the real server's, whose way back to clients leads through the gateway.
    Nat,
    /// The frame goes to the real server's MAC address, the packet as it is; the real server answers by itself.
    Dr,
    /// As [`Mode::Dr`], in a tunnel; see [`Tunnel`]. The number has a bit that no other has.
    Tun = 4,
}

impl Mode {
    /// Whether replies never pass the gateway.
    #[inline(always)]
    pub fn is_one_way(self) -> bool {
        !matches!(self, Mode::FullNat | Mode::Nat)
    }
}

/// How packets to a real server in mode [`Mode::Tun`] are wrapped; the outer destination is the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The outer header.
    pub kind: TunnelKind,
    /// The outer source; of the real server's family.
    pub source: IpAddr,
}

/// What stands between the outer IP header and the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// Nothing (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
    /// GRE (RFC 2784).
    Gre {
        /// Whether the GRE header has a checksum.
        checksum: bool,
    },
    /// UDP with a GUE header (draft-ietf-intarea-gue).
    Gue {
        /// UDP destination port.
        port: u16,
        /// Whether the UDP header has a checksum over IPv4; over IPv6 it always has.
        checksum: bool,
    },
}

/// How a real server is picked for a new connection, as in ipvsadm(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// RIP:rport; port 0: that of the packet.
    pub endpoint: Endpoint,
    /// How it is reached.
    pub mode: Mode,
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
    /// FULLNAT: the local addresses of its family, each with its pair.
    pub locals: Vec<(Addr, PairId)>,
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

/// What a service wants beside forwarding; all off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Each datagram is scheduled on its own and leaves no connection behind (IPVS: one-packet scheduling).
    pub one_packet: bool,
    /// Clients stay with their real server.
    pub persistence: Option<Persistence>,
    /// Connections of real servers that are gone or down end at once; otherwise they live on.
    pub expire_nodest_conn: bool,
    /// Persistent clients of a real server of weight 0 are scheduled anew with their next connection.
    pub expire_quiescent_template: bool,
    /// What clients say of their own address (TOA and UOA options) passes; otherwise it is taken out in every mode. Where
    /// the gateway tells real servers the client's address itself, it is always taken out.
    pub pass_toa: bool,
    /// FULLNAT over UDP: how real servers are told the client's address; `None`: not at all.
    pub uoa: Option<Uoa>,
    /// How the option that tells the client's address looks, and whether it may be missing.
    pub toa_form: ToaForm,
    /// FULLNAT and NAT over TCP: the client's address is told in front of its stream, and not in TCP options.
    pub proxy: Option<wire::proxy::Version>,
    /// TCP connections that end by timeout or because of `expire_nodest_conn` or a deadline are reset on both sides.
    pub reset_on_expiry: bool,
    /// FULLNAT: each connection of a local endpoint begins at a sequence number beyond that of the last one.
    pub rebase_sequence: bool,
    /// FULLNAT: what becomes of TCP timestamps.
    pub timestamps: Timestamps,
}

/// How real servers are told the clients of UDP flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uoa {
    /// Where the address stands.
    pub form: wire::uoa::Form,
    /// How many of a flow's first datagrams carry it.
    pub datagrams: u8,
    /// A datagram that should carry it and cannot is not forwarded.
    pub must: bool,
}

/// What becomes of clients' TCP timestamps (RFC 7323) on the way to the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timestamps {
    /// They pass.
    #[default]
    Keep,
    /// Handshakes lose them, so the connection has none.
    Strip,
    /// They are shifted so that those of one local endpoint never go back.
    Rewrite,
}

/// How clients stay with their real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// How long after the last connection.
    pub timeout: Ticks,
    /// Clients that agree in so many bits of their address are one.
    pub prefix_len: u8,
}

/// Everything a worker needs of one virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its slot.
    pub id: ServiceId,
    /// IANA protocol number.
    pub protocol: u8,
    /// VIP:vport; of a group the first.
    pub virtual_: Endpoint,
    /// Another number for each tenant of the slot, so that nobody inherits a scheduler's place.
    pub tenant: u32,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Its options.
    pub flags: SchedulerFlags,
    /// TOA option kind; `None`: none is inserted.
    pub toa: Option<u8>,
    /// Timeouts of its connections.
    pub timeouts: Timeouts,
    /// What else it wants.
    pub options: Options,
    /// Gets connections that no real server can have.
    pub sorry: Option<Real>,
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
    /// By slot; shared with the next snapshot where nothing changes.
    pub(crate) services: Vec<Option<Arc<Service>>>,
    /// VIP:vport to slot, per protocol.
    pub(crate) by_endpoint: EndpointMap,
    /// All local addresses, also of services that are gone while their connections live.
    pub(crate) locals: AddressSet,
    /// Of these, those that are one worker's; of the others the port tells whose a packet is.
    pub(crate) dealt: AddressMap<WorkerId>,
    /// All virtual addresses, also of services that are gone while their connections live.
    pub(crate) virtuals: AddressSet,
    /// Of these, those that have or had real servers in NAT, whose replies name the client alone.
    pub(crate) by_client: AddressSet,
    /// How the real server of a slot is reached in mode TUN; also of slots whose tenant left while connections live.
    pub(crate) tunnels: Arc<[Option<Wrapper>]>,
    /// What there is for those of them that are IP in IP over IPv4.
    pub(crate) bare_tunnels: Arc<[Option<Bare>]>,
    /// By slot: whether the connections and templates of a real server end now.
    pub(crate) ended: Vec<bool>,
    /// By slot of the service: whether it has `reset_on_expiry`, or had it when it left and connections live on.
    pub(crate) resetting: Vec<bool>,
    /// Grows whenever a slot is added to `ended`.
    pub(crate) ends: u64,
    /// Which client has which real server; there once a service was persistent.
    pub(crate) templates: Option<Arc<Templates>>,
}

impl Service {
    /// A real server by what [`Service::sorry_index`] and the scheduler call it.
    #[inline(always)]
    pub(crate) fn real(&self, index: usize) -> Option<&Real> {
        if index == self.sorry_index() { self.sorry.as_ref() } else { self.reals.get(index) }
    }

    /// Stands for the sorry server among the indices of real servers.
    #[inline(always)]
    pub(crate) fn sorry_index(&self) -> usize {
        self.reals.len()
    }
}

impl Snapshot {
    /// The service of that slot.
    #[inline(always)]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())?.as_deref()
    }

    /// The slot of the service at an address, port and protocol.
    #[inline(always)]
    pub(crate) fn find_id(&self, protocol: u8, endpoint: Endpoint) -> Option<ServiceId> {
        self.by_endpoint.get(protocol, endpoint)
    }

    /// The service at an address, port and protocol.
    #[inline]
    pub fn find(&self, protocol: u8, endpoint: Endpoint) -> Option<&Service> {
        self.service(self.by_endpoint.get(protocol, endpoint)?)
    }

    /// The service at a socket address.
    pub fn find_at(&self, protocol: u8, address: SocketAddr) -> Option<&Service> {
        self.find(protocol, address.into())
    }

    /// Whether connections and templates of the real server of that slot end now.
    #[inline(always)]
    pub(crate) fn has_ended(&self, id: RealId) -> bool {
        self.ended.get(id.index()).copied().unwrap_or(false)
    }

    /// Whether connections of the service of that slot are reset when they end.
    #[inline(always)]
    pub(crate) fn resets(&self, id: ServiceId) -> bool {
        self.resetting.get(id.index()).copied().unwrap_or(false)
    }

    /// The tunnel to the real server of that slot.
    #[inline(always)]
    pub(crate) fn wrapper(&self, id: RealId) -> Option<&Wrapper> {
        self.tunnels.get(id.index())?.as_ref()
    }

    /// The same of IP in IP over IPv4, which is met most; `None` for every other tunnel.
    #[inline(always)]
    pub(crate) fn bare_tunnel(&self, id: RealId) -> Option<&Bare> {
        self.bare_tunnels.get(id.index())?.as_ref()
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten().map(Arc::as_ref)
    }
}
