//! The connection record: four endpoints, client, virtual, local, real, and what the packet path must remember.
//!
//! Plain data without pointers, 128 bytes, two cache lines. The first line is what every packet reads, the second
//! is TCP tracking and the links of the lists a record is on. IPv4 addresses are in place; IPv6 addresses are in a
//! [`Wide`] beside the table, whose number stands in their place.

use std::net::{IpAddr, SocketAddr};

use crate::addr::{Endpoint, Tuple};
use crate::hash::Key;
use crate::ids::{AdjacencyId, PairId, RealId, ServiceId};
use crate::snapshot::{Mode, Tunnel};
use crate::tcp::ConnState;
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

impl Direction {
    /// The way back.
    #[inline(always)]
    pub(crate) fn other(self) -> Direction {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }
}

/// No record; ends lists.
pub(crate) const NIL: u32 = u32::MAX;

/// In the place of a TOA option kind: NOP, which tells nothing.
pub(crate) const TOA_STRIP: u8 = wire::tcp::options::KIND_NOP;

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
    /// Packets that come in inbound are IPv6, see [`super::wide`].
    pub(crate) const WIDE_INBOUND: u8 = 1 << 6;
    /// Packets that come in outbound are IPv6.
    pub(crate) const WIDE_OUTBOUND: u8 = 1 << 7;
}

/// Bits of [`Conn::traits`].
pub(crate) mod trait_ {
    /// Replies never come this way (DR, TUN): the record is entered under its inbound key only.
    pub(crate) const ONE_WAY: u8 = 1 << 0;
    /// Ends with the packet that made it.
    pub(crate) const ONE_PACKET: u8 = 1 << 1;
    /// Its client has a persistence template.
    pub(crate) const PERSISTENT: u8 = 1 << 2;
    /// `seq_shift` or `timestamp_shift` is not 0.
    pub(crate) const SHIFTED: u8 = 1 << 3;
    /// Handshakes lose their timestamps.
    pub(crate) const STRIP_TIMESTAMPS: u8 = 1 << 4;
    /// Both sides were reset; the record only serves to answer what still comes of them.
    pub(crate) const RESET: u8 = 1 << 5;
}

/// The flag that says whether packets that come in in this direction are IPv6.
#[inline(always)]
pub(crate) fn wide(direction: Direction) -> u8 {
    flag::WIDE_INBOUND << direction as u8
}

/// The addresses of a connection that has IPv6 on a side: by [`Direction`], source and destination of what comes in.
pub(crate) type Wide = [[u128; 2]; 2];

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
    /// By [`Direction`]: addresses and ports of a packet that comes in, as in [`Key`]; of an IPv6 direction the number
    /// of its [`Wide`]. Inbound is client → virtual, outbound is real → local (in NAT: real → client); what leaves in
    /// one direction is the other one's, turned round. In one-way modes the outbound side only tells the real server.
    pub addrs: [u64; 2],
    pub ports: [u32; 2],
    pub protocol: u8,
    pub state: ConnState,
    pub flags: u8,
    /// TOA option kind; [`TOA_STRIP`]: none is inserted, but clients' own are taken out; 0: neither.
    pub toa_kind: u8,
    /// Time of the last packet.
    pub seen: Ticks,
    /// By [`Direction`]: next hop towards the real server, towards the client.
    pub next_hops: [AdjacencyId; 2],
    /// By [`Direction`]: folded checksum differences of a packet that is translated, TTL included.
    pub deltas: [Deltas; 2],
    /// Epoch of the forwarding table that the next hops are valid for.
    pub fib_epoch: u16,
    pub mode: Mode,
    /// See [`trait_`].
    pub traits: u8,
    pub real_id: RealId,
    // -- second cache line --
    pub client_isn: u32,
    pub real_isn: u32,
    pub service: ServiceId,
    pub pair: PairId,
    /// By [`Direction`]: the side that sends in that direction. In one-way modes nothing is seen of the real server, and
    /// its `ack` is how far the client has sent.
    pub acked: [Acked; 2],
    /// Expiry wheel: neighbours in the slot's list, and the slot.
    pub wheel_next: u32,
    pub wheel_prev: u32,
    pub wheel_slot: u32,
    /// Embryonic list.
    pub embryonic_next: u32,
    pub embryonic_prev: u32,
    /// What is added to the client's sequence numbers, and to its timestamps.
    pub seq_shift: u32,
    pub timestamp_shift: u32,
}

const _: () = assert!(size_of::<Conn>() == 128);
// What steady forwarding reads beside TCP tracking is in the first line.
const _: () = assert!(std::mem::offset_of!(Conn, real_id) < 64);

impl Conn {
    pub(crate) const EMPTY: Conn = Conn {
        addrs: [0; 2],
        ports: [0; 2],
        protocol: 0,
        state: ConnState::None,
        flags: 0,
        toa_kind: 0,
        seen: Ticks(0),
        next_hops: [AdjacencyId::NONE; 2],
        deltas: [Deltas { ip: 0, l4: 0 }; 2],
        fib_epoch: 0,
        mode: Mode::FullNat,
        traits: 0,
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
        seq_shift: 0,
        timestamp_shift: 0,
    };

    /// The five-tuple of packets that come in in this direction, which is IPv4.
    #[inline(always)]
    pub(crate) fn key(&self, direction: Direction) -> Key {
        let i = direction as usize;
        Key { addrs: self.addrs[i], ports: self.ports[i], protocol: self.protocol }
    }

    /// Addresses and ports of packets that leave in this direction, both ways being IPv4.
    #[inline(always)]
    pub(crate) fn translated(&self, direction: Direction) -> (u64, u32) {
        let i = 1 - direction as usize;
        (self.addrs[i].rotate_left(32), self.ports[i].rotate_left(16))
    }

    /// Whether its real server is told the client's address in TOA options.
    #[inline(always)]
    pub(crate) fn tells_client(&self) -> bool {
        self.toa_kind > TOA_STRIP
    }

    /// Whether packets that come in in this direction are IPv6.
    #[inline(always)]
    pub(crate) fn is_wide(&self, direction: Direction) -> bool {
        self.has(wide(direction))
    }

    /// Whether it has IPv6 on any side.
    #[inline(always)]
    pub(crate) fn has_wide(&self) -> bool {
        self.has(flag::WIDE_INBOUND | flag::WIDE_OUTBOUND)
    }

    #[inline(always)]
    pub(crate) fn is(&self, trait_: u8) -> bool {
        self.traits & trait_ != 0
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The five-tuples of what comes in in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuples {
    /// Client → virtual.
    pub inbound: Tuple,
    /// Real → local; in NAT and DR real → client, in TUN real → source of the tunnel.
    pub outbound: Tuple,
}

impl Tuples {
    pub(crate) fn by(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Inbound => self.inbound,
            Direction::Outbound => self.outbound,
        }
    }

    pub(crate) fn client(&self) -> Endpoint {
        self.inbound.src
    }

    pub(crate) fn virtual_(&self) -> Endpoint {
        self.inbound.dst
    }

    pub(crate) fn local(&self) -> Endpoint {
        self.outbound.dst
    }

    pub(crate) fn real(&self) -> Endpoint {
        self.outbound.src
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
    /// LIP:lport; in NAT and DR the client, in TUN the source of the tunnel.
    pub local: SocketAddr,
    /// RIP:rport.
    pub real: SocketAddr,
    /// Mode.
    pub mode: Mode,
    /// The tunnel, in mode TUN.
    pub tunnel: Option<Tunnel>,
    /// Protocol and first VIP:vport of its service; `None`: the service is gone.
    pub service: Option<(u8, SocketAddr)>,
    /// State.
    pub state: ConnState,
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
    pub(crate) fn matches(&self, tuples: &Tuples) -> bool {
        let service = self.service.is_none_or(|(protocol, virtual_)| {
            protocol == tuples.inbound.protocol && virtual_ == tuples.virtual_().to_socket_addr()
        });
        let client = self.client.is_none_or(|client| client == tuples.client().addr.to_ip());
        let real = self.real.is_none_or(|real| real == tuples.real().to_socket_addr());
        service && client && real
    }
}
