//! The connection record: four endpoints, client, virtual, local, real, and what the packet path must remember.
//!
//! Plain data without pointers, 128 bytes, two cache lines. The first line is what every packet reads, the second
//! is TCP tracking and the links of the lists a record is on. Addresses are IPv4 in place; a wider family keeps its
//! addresses in a pool beside the table and its index here.

use std::net::{IpAddr, SocketAddr};

use crate::hash::Key;
use crate::ids::{AdjacencyId, PairId, RealId, ServiceId};
use crate::snapshot::Endpoint4;
use crate::tcp::TcpState;
use crate::time::Ticks;

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Client to real server.
    Inbound = 0,
    /// Real server to client.
    Outbound = 1,
}

/// No record; ends lists.
pub(crate) const NIL: u32 = u32::MAX;

/// Bits of [`Conn::flags`].
pub(crate) mod flag {
    /// Segments from the client still carry TOA.
    pub(crate) const TOA_PENDING: u8 = 1 << 0;
    /// The real server's SYN-ACK was seen, so `real_isn` is valid.
    pub(crate) const SYN_ACK_SEEN: u8 = 1 << 1;
    /// The record is in use.
    pub(crate) const LIVE: u8 = 1 << 2;
    /// On the list of embryonic connections.
    pub(crate) const EMBRYONIC: u8 = 1 << 3;
    /// `ack`/`window` of the inbound side are valid.
    pub(crate) const INBOUND_ACK: u8 = 1 << 4;
    /// `ack`/`window` of the outbound side are valid.
    pub(crate) const OUTBOUND_ACK: u8 = 1 << 5;
}

/// What one side has acknowledged, for checking the other side's RST and FIN.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Acked {
    /// Greatest acknowledgement number sent by this side.
    pub ack: u32,
    /// Window as it stood in that segment, unscaled.
    pub window: u16,
    /// Window scale that this side announced (RFC 7323); capped at 14.
    pub scale: u8,
    /// Whether this side's SYN had a window scale at all.
    pub scale_offered: bool,
}

/// What translation changes in the checksums, folded (see `wire::checksum::Delta`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Deltas {
    pub ip: u16,
    pub l4: u16,
}

/// One connection.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Conn {
    // -- first cache line: every packet --
    /// By [`Direction`]: addresses and ports of a packet that comes in, as in [`Key`]. Inbound is client → virtual,
    /// outbound is real → local; what leaves in one direction is the other one's, turned round.
    pub addrs: [u64; 2],
    pub ports: [u32; 2],
    pub protocol: u8,
    pub state: TcpState,
    pub flags: u8,
    /// TOA option kind; 0: off.
    pub toa_kind: u8,
    /// Time of the last packet.
    pub seen: Ticks,
    /// By [`Direction`]: next hop towards the real server, towards the client.
    pub next_hops: [AdjacencyId; 2],
    /// By [`Direction`]: folded checksum differences of a packet that is translated, TTL included.
    pub deltas: [Deltas; 2],
    /// Epoch of the forwarding table that the next hops are valid for.
    pub fib_epoch: u16,
    pub(crate) _room: u16,
    pub real_id: RealId,
    // -- second cache line --
    pub client_isn: u32,
    pub real_isn: u32,
    pub service: ServiceId,
    pub pair: PairId,
    /// By [`Direction`]: the side that sends in that direction.
    pub acked: [Acked; 2],
    /// Expiry wheel: neighbours in the slot's list, and the slot.
    pub wheel_next: u32,
    pub wheel_prev: u32,
    pub wheel_slot: u32,
    /// Embryonic list.
    pub embryonic_next: u32,
    pub embryonic_prev: u32,
    pub(crate) _room2: [u32; 1],
}

const _: () = assert!(size_of::<Conn>() == 128);
// What steady forwarding reads beside TCP tracking is in the first line.
const _: () = assert!(std::mem::offset_of!(Conn, real_id) < 64);

impl Conn {
    pub(crate) const EMPTY: Conn = Conn {
        addrs: [0; 2],
        ports: [0; 2],
        protocol: 0,
        state: TcpState::None,
        flags: 0,
        toa_kind: 0,
        seen: Ticks(0),
        next_hops: [AdjacencyId::NONE; 2],
        deltas: [Deltas { ip: 0, l4: 0 }; 2],
        fib_epoch: 0,
        _room: 0,
        real_id: RealId(0),
        client_isn: 0,
        real_isn: 0,
        service: ServiceId(0),
        pair: PairId(0),
        acked: [Acked { ack: 0, window: 0, scale: 0, scale_offered: false }; 2],
        wheel_next: NIL,
        wheel_prev: NIL,
        wheel_slot: NIL,
        embryonic_next: NIL,
        embryonic_prev: NIL,
        _room2: [0; 1],
    };

    /// The five-tuple of packets that come in in this direction.
    #[inline(always)]
    pub(crate) fn key(&self, direction: Direction) -> Key {
        let i = direction as usize;
        Key { addrs: self.addrs[i], ports: self.ports[i], protocol: self.protocol }
    }

    /// The endpoints of packets that leave in this direction.
    #[inline(always)]
    pub(crate) fn translated(&self, direction: Direction) -> Key {
        let i = 1 - direction as usize;
        Key {
            addrs: self.addrs[i].rotate_left(32),
            ports: self.ports[i].rotate_left(16),
            protocol: self.protocol,
        }
    }

    pub(crate) fn set_endpoints(&mut self, inbound: Key, outbound: Key) {
        self.addrs = [inbound.addrs, outbound.addrs];
        self.ports = [inbound.ports, outbound.ports];
        self.protocol = inbound.protocol;
    }

    pub(crate) fn client(&self) -> Endpoint4 {
        self.key(Direction::Inbound).src()
    }

    pub(crate) fn virtual_(&self) -> Endpoint4 {
        self.key(Direction::Inbound).dst()
    }

    pub(crate) fn local(&self) -> Endpoint4 {
        self.key(Direction::Outbound).dst()
    }

    pub(crate) fn real(&self) -> Endpoint4 {
        self.key(Direction::Outbound).src()
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A connection as status pages want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// IANA protocol number.
    pub protocol: u8,
    /// CIP:cport.
    pub client: SocketAddr,
    /// VIP:vport.
    pub virtual_: SocketAddr,
    /// LIP:lport.
    pub local: SocketAddr,
    /// RIP:rport.
    pub real: SocketAddr,
    /// State.
    pub state: TcpState,
    /// Time left if no packet comes.
    pub expires_in: Ticks,
}

/// Which connections are wanted; everything given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnFilter {
    /// Protocol and VIP:vport.
    pub service: Option<(u8, SocketAddr)>,
    /// Client address.
    pub client: Option<IpAddr>,
    /// RIP:rport.
    pub real: Option<SocketAddr>,
}

impl ConnFilter {
    pub(crate) fn matches(&self, conn: &Conn) -> bool {
        let service =
            self.service.is_none_or(|(p, v)| p == conn.protocol && v == conn.virtual_().to_socket_addr());
        let client = self.client.is_none_or(|c| c == conn.client().to_socket_addr().ip());
        let real = self.real.is_none_or(|r| r == conn.real().to_socket_addr());
        service && client && real
    }
}
