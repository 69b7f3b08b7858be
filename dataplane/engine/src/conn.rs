//! The connection record: four endpoints, client, virtual, local, real, and what the packet path must remember.
//!
//! Plain data without pointers, 128 bytes, two cache lines. The first line is what every packet reads, the second
//! is TCP tracking and the links of the lists a record is on. Addresses are IPv4 in place; a wider family keeps its
//! addresses in a pool beside the table and its index here.

use std::net::{IpAddr, SocketAddr};

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

/// One connection.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Conn {
    // -- first cache line: every packet --
    pub client_addr: u32,
    pub virtual_addr: u32,
    pub client_port: u16,
    pub virtual_port: u16,
    pub local_addr: u32,
    pub real_addr: u32,
    pub local_port: u16,
    pub real_port: u16,
    pub protocol: u8,
    pub state: TcpState,
    pub flags: u8,
    /// TOA option kind; 0: off.
    pub toa_kind: u8,
    /// Time of the last packet.
    pub seen: Ticks,
    /// Next hop towards the real server.
    pub to_real: AdjacencyId,
    /// Next hop towards the client.
    pub to_client: AdjacencyId,
    /// Epoch of the forwarding table that the two are valid for.
    pub fib_epoch: u16,
    /// Folded checksum differences of an inbound packet; outbound is the negation.
    pub ip_delta: u16,
    pub l4_delta: u16,
    pub(crate) _room: u16,
    pub real_id: RealId,
    pub service: ServiceId,
    pub pair: PairId,
    // -- second cache line --
    pub client_isn: u32,
    pub real_isn: u32,
    /// By [`Direction`]: the side that sends in that direction.
    pub acked: [Acked; 2],
    /// Expiry wheel: neighbours in the slot's list, and the slot.
    pub wheel_next: u32,
    pub wheel_prev: u32,
    pub wheel_slot: u32,
    /// Embryonic list.
    pub embryonic_next: u32,
    pub embryonic_prev: u32,
    pub(crate) _room2: [u32; 3],
}

const _: () = assert!(size_of::<Conn>() == 128);

impl Conn {
    pub(crate) const EMPTY: Conn = Conn {
        client_addr: 0,
        virtual_addr: 0,
        client_port: 0,
        virtual_port: 0,
        local_addr: 0,
        real_addr: 0,
        local_port: 0,
        real_port: 0,
        protocol: 0,
        state: TcpState::None,
        flags: 0,
        toa_kind: 0,
        seen: Ticks(0),
        to_real: AdjacencyId::NONE,
        to_client: AdjacencyId::NONE,
        fib_epoch: 0,
        ip_delta: 0,
        l4_delta: 0,
        _room: 0,
        real_id: RealId(0),
        service: ServiceId(0),
        pair: PairId(0),
        client_isn: 0,
        real_isn: 0,
        acked: [Acked { ack: 0, window: 0, scale: 0, scale_offered: false }; 2],
        wheel_next: NIL,
        wheel_prev: NIL,
        wheel_slot: NIL,
        embryonic_next: NIL,
        embryonic_prev: NIL,
        _room2: [0; 3],
    };

    pub(crate) fn client(&self) -> Endpoint4 {
        Endpoint4 { addr: self.client_addr, port: self.client_port }
    }

    pub(crate) fn virtual_(&self) -> Endpoint4 {
        Endpoint4 { addr: self.virtual_addr, port: self.virtual_port }
    }

    pub(crate) fn local(&self) -> Endpoint4 {
        Endpoint4 { addr: self.local_addr, port: self.local_port }
    }

    pub(crate) fn real(&self) -> Endpoint4 {
        Endpoint4 { addr: self.real_addr, port: self.real_port }
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
