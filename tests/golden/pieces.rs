//! Packets in fragments, as they come and as they must leave: each by itself, as if the whole packet had left and
//! been cut where it was.

use wire::build::{fragments_v4, fragments_v6};
use wire::{Family, ipv4, ipv6};

use crate::case::Mode;
use crate::conn::{Conn, moved, routed};
use crate::frame::{Frame, HOST_ID, Port, family_of};
use crate::load::{Endpoint, Load};

/// Identification of packets of which all fragments come: it may be used again.
pub(crate) const USUAL_ID: u16 = HOST_ID;
/// The upper half of identifications in IPv6.
const UPPER_ID: u32 = 0x0001_0000;

/// One direction of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) conn: &'a Conn,
    pub(crate) outbound: bool,
}

/// How a packet is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Bytes that a fragment carries, a multiple of 8.
    pub(crate) room: usize,
    /// The lower half of the packet's identification.
    pub(crate) id: u16,
}

impl Way<'_> {
    /// The directions that come by the gateway.
    pub(crate) fn of(conn: &Conn) -> Vec<Way<'_>> {
        let both = [false, true].into_iter().map(|outbound| Way { conn, outbound });
        both.filter(|way| !way.outbound || !conn.service.mode.is_one_way()).collect()
    }

    /// Of packets that come, and of those that leave; in a tunnel the inner ones.
    pub(crate) fn families(&self) -> (Family, Family) {
        let (outside, inside) = (self.conn.service.outside, family_of(self.conn.inside().0.0));
        if self.outbound { (inside, outside) } else { (outside, inside) }
    }

    /// Bytes that a fragment without options grows by on its way. Only in IPv6 it needs a header of its own.
    pub(crate) fn growth(&self) -> isize {
        if let Mode::Tun(_) = self.conn.service.mode {
            return self.conn.growth();
        }
        let (comes, leaves) = self.families();
        header_len(leaves) as isize - header_len(comes) as isize
    }

    /// A packet with this load, as its sender cuts it.
    pub(crate) fn comes<L: Load>(&self, load: &L, cut: Cut) -> Vec<Frame> {
        let (src, dst) = self.ends();
        let packet = load.clone().may_fragment().packet(src, dst);
        let port = if self.outbound { Port::Lan } else { Port::Wan };
        pieces(&port.receives(&packet), cut, self.long_id(self.families().0, cut.id))
    }

    /// The same when it leaves.
    pub(crate) fn leaves<L: Load>(&self, load: &L, cut: Cut) -> Vec<Frame> {
        let (comes, leaves) = self.families();
        let load = moved(routed(&load.clone().may_fragment()), comes, leaves);
        let (conn, long_id) = (self.conn, self.long_id(leaves, cut.id));
        if self.outbound {
            let whole = Port::Wan.sends(&load.packet(conn.virtual_, conn.client));
            return pieces(&whole, cut, long_id);
        }
        let (from, to) = conn.inside();
        let inner = pieces(&Port::Lan.sends(&load.packet(from, to)), cut, long_id);
        inner.iter().map(|piece| conn.leaves_inside(piece.packet().to_vec(), load.ip(), conn.marks)).collect()
    }

    /// Sender and receiver of what comes.
    fn ends(&self) -> (Endpoint, Endpoint) {
        if self.outbound {
            let (to, from) = self.conn.inside();
            return (from, to);
        }
        (self.conn.client, self.conn.virtual_)
    }

    /// The identification in IPv6. What comes out of IPv4 has no upper half (RFC 7915 §4.1).
    fn long_id(&self, leaves: Family, id: u16) -> u32 {
        let all_v6 = self.families().0 == Family::V6 && leaves == Family::V6;
        if all_v6 { UPPER_ID | u32::from(id) } else { id.into() }
    }
}

/// Bytes in front of what a fragment carries.
pub(crate) fn header_len(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::HEADER_LEN,
        Family::V6 => ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN,
    }
}

fn pieces(whole: &Frame, cut: Cut, long_id: u32) -> Vec<Frame> {
    let family = Family::of(whole.packet()).unwrap_or(Family::V4);
    let mtu = header_len(family) + cut.room;
    let all = match family {
        Family::V4 => {
            let named = whole.clone().edit(|bytes| bytes[18..20].copy_from_slice(&cut.id.to_be_bytes()));
            fragments_v4(&named.with_ip_checksum().bytes, mtu)
        }
        Family::V6 => fragments_v6(&whole.bytes, mtu, long_id),
    };
    all.into_iter().map(|bytes| Frame { port: whole.port, bytes }).collect()
}
