//! The connection record: four endpoints, client, virtual, local, real, and what the packet path must remember.
//!
//! Plain data without pointers, 128 bytes, two cache lines. The first line is what every packet reads, the second
//! is TCP tracking and the links of the lists a record is on. IPv4 addresses are in place; IPv6 addresses are in a
//! [`Wide`] beside the table, whose number stands in their place.

use std::net::{IpAddr, SocketAddr};

use zerocopy::{Immutable, IntoBytes};

use crate::addr::{Endpoint, Tuple};
use crate::hash::{AnyKey, Key};
use crate::ids::{AdjacencyId, PairId, RealId, ServiceId};
use crate::snapshot::{Mode, Tunnel};
use crate::tcp::ConnState;
use crate::time::Ticks;
use crate::traffic::Sum;

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
    pub(crate) const fn other(self) -> Direction {
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
    /// Segments from the client still carry TOA, datagrams UOA.
    pub(crate) const TOA_PENDING: u8 = 1 << 0;
    /// The real server's SYN-ACK was seen, so `real_isn` is valid.
    pub(crate) const SYN_ACK_SEEN: u8 = 1 << 1;
    /// The record is in use.
    pub(crate) const LIVE: u8 = 1 << 2;
    /// On the list of embryonic connections.
    pub(crate) const EMBRYONIC: u8 = 1 << 3;
    /// `acks` and `windows` of the inbound side are valid.
    pub(crate) const INBOUND_ACK: u8 = 1 << 4;
    /// Those of the outbound side are.
    pub(crate) const OUTBOUND_ACK: u8 = 1 << 5;
    /// Packets that come in inbound are IPv6; one bit further up: outbound. See [`super::wide`].
    pub(crate) const WIDE_INBOUND: u8 = 1 << 6;
}

/// Bits of [`Conn::traits`].
pub(crate) mod trait_ {
    /// Replies never come this way (DR, TUN): the record is entered under its inbound key only.
    pub(crate) const ONE_WAY: u8 = 1 << 0;
    /// Ends with the packet that made it.
    pub(crate) const ONE_PACKET: u8 = 1 << 1;
    /// Its client has a persistence template.
    pub(crate) const PERSISTENT: u8 = 1 << 2;
    /// `seq_shift` or `timestamp_shift` is not 0, or there is a `preface`.
    pub(crate) const SHIFTED: u8 = 1 << 3;
    /// Handshakes lose their timestamps.
    pub(crate) const STRIP_TIMESTAMPS: u8 = 1 << 4;
    /// Both sides were reset; the record only serves to answer what still comes of them.
    pub(crate) const RESET: u8 = 1 << 5;
}

/// The flag that says whether packets that come in in this direction are IPv6.
#[inline(always)]
pub(crate) const fn wide(direction: Direction) -> u8 {
    flag::WIDE_INBOUND << direction as u8
}

/// The addresses of a connection that has IPv6 on a side: by [`Direction`], source and destination of what comes in.
pub(crate) type Wide = [[u128; 2]; 2];

/// The window scale that one side announced (RFC 7323).
#[derive(Debug, Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Scale {
    /// Capped at 14.
    pub shift: u8,
    /// Whether this side's SYN had a window scale at all.
    pub offered: bool,
}

/// What translation changes in the checksums of inbound packets, folded (see `wire::checksum::Delta`). Outbound it is the
/// opposite: what is replaced by what changes places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Deltas {
    /// Addresses: what changes in an IPv4 header beside the TTL.
    pub addrs: u16,
    /// Addresses and ports: what changes under a TCP or UDP checksum.
    pub l4: u16,
}

impl Deltas {
    /// Those of a direction. In ones' complement the opposite of a number is its complement, and 0 has two forms.
    #[inline(always)]
    pub(crate) fn of(self, direction: Direction) -> Deltas {
        let turned = 0u16.wrapping_sub(direction as u16);
        Deltas { addrs: self.addrs ^ turned, l4: self.l4 ^ turned }
    }

    /// For connections that change nothing: the number of their real server in this place, see [`Conn::tunnel`].
    pub(crate) fn naming(real: RealId) -> Deltas {
        Deltas { addrs: real.0 as u16, l4: (real.0 >> 16) as u16 }
    }
}

/// How a real server is told in TCP options who the client is, beside the kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct ToaForm {
    /// With the experiment identifier.
    pub with_exid: bool,
    /// A segment that should carry it and cannot is not forwarded.
    pub must: bool,
}

/// How a real server is told the client of a UDP flow (`wire::uoa`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(u8)]
pub(crate) enum Uoa {
    /// Not at all.
    Off,
    /// In an IPv4 option where there is IPv4.
    Option,
    /// In a header of its own.
    Header,
}

/// How far a real server is with the PROXY protocol's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It has not acknowledged it: what begins where the client's stream begins carries it.
    Owed,
    /// It has, but numbers of before may still come.
    Told,
    /// So much was sent since that all numbers are from behind it.
    Over,
}

/// The PROXY protocol's header in front of a client's stream.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Preface {
    /// Its length in bytes; 0: there is none.
    pub len: u8,
    /// Version 1, text; else 2.
    pub is_v1: bool,
    pub stage: Stage,
}

impl Preface {
    pub(crate) const NONE: Preface = Preface { len: 0, is_v1: false, stage: Stage::Owed };

    /// Whether there is one that the real server has not acknowledged.
    #[inline(always)]
    pub(crate) fn is_owed(self) -> bool {
        self.len > 0 && self.stage == Stage::Owed
    }
}

/// One connection.
#[derive(Debug, Clone, IntoBytes, Immutable)]
#[repr(C, align(64))]
pub(crate) struct Conn {
    // -- first cache line: all that a packet of an open connection needs --
    /// By [`Direction`]: addresses and ports of a packet that comes in, as in [`Key`]; of an IPv6 direction the number
    /// of its [`Wide`]. Inbound is client → virtual, outbound is real → local (in NAT: real → client); what leaves in
    /// one direction is the other one's, turned round. In one-way modes the outbound side only tells the real server.
    pub addrs: [u64; 2],
    pub ports: [u32; 2],
    // From here to `toa_kind` in the order of [`Conn::condition`].
    pub mode: Mode,
    pub state: ConnState,
    pub flags: u8,
    /// See [`trait_`].
    pub traits: u8,
    /// Epoch of the forwarding table that the next hops are valid for.
    pub fib_epoch: u16,
    pub protocol: u8,
    /// TOA option kind; [`TOA_STRIP`]: none is inserted, but clients' own (over UDP: UOA) are taken out; 0: neither.
    pub toa_kind: u8,
    /// Time of the last packet.
    pub seen: Ticks,
    /// By [`Direction`]: next hop towards the real server, towards the client.
    pub next_hops: [AdjacencyId; 2],
    /// By [`Direction`]: packets that the real server's page does not have yet.
    pub traffic: [Sum; 2],
    /// In one-way modes, which change nothing, [`Conn::tunnel`] is in this place.
    pub deltas: Deltas,
    /// Greatest acknowledgement number sent by the side that sends in that [`Direction`], for checking the other side's
    /// RST and FIN. In one-way modes nothing is seen of the real server, and its number is how far the client has sent.
    pub acks: [u32; 2],
    /// The window as it stood in that segment, unscaled.
    pub windows: [u16; 2],
    // -- second cache line --
    /// By the side that sends in that [`Direction`].
    pub scales: [Scale; 2],
    pub client_isn: u32,
    pub real_isn: u32,
    pub real_id: RealId,
    pub service: ServiceId,
    pub pair: PairId,
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
    pub toa_form: ToaForm,
    pub preface: Preface,
    pub uoa: Uoa,
    /// How many datagrams are still to carry UOA.
    pub uoa_left: u8,
    /// Fills the cache line, so that a record is nothing but its fields' bytes.
    pub unused: [u8; 5],
}

const _: () = assert!(size_of::<Conn>() == 128);
const _: () = assert!(std::mem::offset_of!(Conn, scales) == 64);
// As [`condition`] and [`of_mode`] have them.
const _: () = {
    const START: usize = std::mem::offset_of!(Conn, mode);
    assert!(std::mem::offset_of!(Conn, state) == START + 1 && std::mem::offset_of!(Conn, flags) == START + 2);
    assert!(
        std::mem::offset_of!(Conn, traits) == START + 3 && std::mem::offset_of!(Conn, fib_epoch) == START + 4
    );
    assert!(std::mem::offset_of!(Conn, protocol) == START + 6);
};

impl Conn {
    pub(crate) const EMPTY: Conn = Conn {
        addrs: [0; 2],
        ports: [0; 2],
        protocol: 0,
        state: ConnState::None,
        flags: 0,
        traits: 0,
        fib_epoch: 0,
        mode: Mode::FullNat,
        toa_kind: 0,
        seen: Ticks(0),
        next_hops: [AdjacencyId::NONE; 2],
        traffic: [Sum::NONE; 2],
        deltas: Deltas { addrs: 0, l4: 0 },
        acks: [0; 2],
        windows: [0; 2],
        scales: [Scale { shift: 0, offered: false }; 2],
        client_isn: 0,
        real_isn: 0,
        real_id: RealId(0),
        service: ServiceId(0),
        pair: PairId(0),
        wheel_next: NIL,
        wheel_prev: NIL,
        wheel_slot: NIL,
        embryonic_next: NIL,
        embryonic_prev: NIL,
        seq_shift: 0,
        timestamp_shift: 0,
        toa_form: ToaForm { with_exid: false, must: false },
        preface: Preface::NONE,
        uoa: Uoa::Off,
        uoa_left: 0,
        unused: [0; 5],
    };

    /// The five-tuple of packets that come in in this direction, which is IPv4.
    #[inline(always)]
    pub(crate) fn key(&self, direction: Direction) -> Key {
        let i = direction as usize;
        Key { addrs: self.addrs[i], ports: self.ports[i], protocol: self.protocol }
    }

    /// What decides whether a packet may take the short way, as one word to compare with a [`condition`].
    #[inline(always)]
    pub(crate) fn condition(&self) -> u64 {
        let bytes = self.as_bytes().get(std::mem::offset_of!(Conn, mode)..).and_then(<[u8]>::first_chunk);
        bytes.copied().map_or(0, u64::from_ne_bytes)
    }

    /// In one-way modes the real server: packets find its tunnel without the record's second line.
    #[inline(always)]
    pub(crate) fn tunnel(&self) -> RealId {
        RealId(u32::from(self.deltas.l4) << 16 | u32::from(self.deltas.addrs))
    }

    /// Whether its real server is told the client's address in TOA options.
    #[inline(always)]
    pub(crate) fn tells_client(&self) -> bool {
        self.toa_kind > TOA_STRIP
    }

    /// What is added to a client's sequence number; `opens`: that of a SYN.
    pub(crate) fn shift_of(&self, seq: u32, opens: bool) -> u32 {
        let first = self.client_isn.wrapping_add(1);
        // What comes before the stream comes before its preface.
        let is_before = opens || (self.preface.stage != Stage::Over && seq.wrapping_sub(first) as i32 <= -1);
        let len = if is_before { 0 } else { u32::from(self.preface.len) };
        self.seq_shift.wrapping_add(len)
    }

    /// A number of the real server's as the client has it. All of the preface is where the client's stream begins.
    pub(crate) fn shifted_back(&self, number: u32) -> u32 {
        let number = number.wrapping_sub(self.seq_shift);
        let first = self.client_isn.wrapping_add(1);
        let (into, len) = (number.wrapping_sub(first), u32::from(self.preface.len));
        if self.preface.stage == Stage::Over {
            number.wrapping_sub(len)
        } else if (into as i32) < 0 {
            number
        } else {
            first.wrapping_add(into.saturating_sub(len))
        }
    }

    /// How many bytes of the preface a real server has not acknowledged that acknowledges this number.
    pub(crate) fn preface_left(&self, ack: u32) -> u32 {
        if !self.preface.is_owed() {
            return 0;
        }
        let into = ack.wrapping_sub(self.seq_shift).wrapping_sub(self.client_isn.wrapping_add(1));
        u32::from(self.preface.len).saturating_sub(into)
    }

    /// Whether packets that come in in this direction are IPv6.
    #[inline(always)]
    pub(crate) fn is_wide(&self, direction: Direction) -> bool {
        self.has(wide(direction))
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

/// The part of [`Conn::condition`] with these values, the rest being 0.
#[inline(always)]
pub(crate) const fn condition(protocol: u8, state: u8, flags: u8, traits: u8, fib_epoch: u16) -> u64 {
    let [epoch, epoch_] = fib_epoch.to_ne_bytes();
    u64::from_ne_bytes([0, state, flags, traits, epoch, epoch_, protocol, 0])
}

/// The part of [`Conn::condition`] with these bits of a mode, the rest being 0.
#[inline(always)]
pub(crate) const fn of_mode(mode: u8) -> u64 {
    u64::from_ne_bytes([mode, 0, 0, 0, 0, 0, 0, 0])
}

/// By [`Direction`]: the five-tuples of what comes in, as the table keeps them.
pub(crate) type Keys = [AnyKey; 2];

/// The five-tuples of what comes in in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuples {
    /// Client → virtual.
    pub inbound: Tuple,
    /// Real → local; in NAT and DR real → client, in TUN real → source of the tunnel.
    pub outbound: Tuple,
}

impl Tuples {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_connections_name_their_real_server_whatever_its_number() {
        for real in [RealId(0), RealId(7), RealId(0xffff), RealId(0x1_0000), RealId(0x1234_5678)] {
            assert_eq!(Conn { deltas: Deltas::naming(real), ..Conn::EMPTY }.tunnel(), real);
        }
    }
}
