//! The short way for what nearly every packet is: a segment of an established connection, or a datagram of a known one,
//! that changes nothing but a time stamp and an acknowledgement.
//!
//! It does exactly what `Worker::forward` does for such a packet; everything out of the ordinary goes there. A test
//! sends the same packets both ways and compares. Of the record it touches the first cache line only.

use wire::checksum::Delta;
use wire::{PacketBuf, ethernet, ipv6, tcp, udp};
use zerocopy::FromBytes;

use super::{Glance, Kind, Worker};
use crate::conn::{Direction, condition, flag, trait_, wide};
use crate::hash::Key;
use crate::parse::Segment;
use crate::plain::{Frame, Ip, Ipv4, Transport};
use crate::snapshot::Mode;
use crate::table::{Table, direction_of, index_of};
use crate::time::Ticks;
use crate::translate::{client_address, family};
use crate::verdict::Verdict;

/// What a record's [`Conn::condition`] says of packets that may take the short way.
const CONDITION: u64 = condition(
    u8::MAX,
    u8::MAX,
    flag::LIVE | flag::TOA_PENDING | wide(Direction::Inbound) | wide(Direction::Outbound),
    trait_::SHIFTED,
    u16::MAX,
);

/// What differs in a condition when packets leave in the other family than they came in.
#[inline(always)]
const fn other_family(direction: Direction) -> u64 {
    condition(0, 0, wide(direction.other()), 0, 0)
}

/// Of connections that are of one family on both sides.
const fn flags_of<I: Ip>() -> u8 {
    if I::WIDE { flag::LIVE | wide(Direction::Inbound) | wide(Direction::Outbound) } else { flag::LIVE }
}

impl Worker {
    /// Forwards an ordinary packet of an open connection; `None`, with nothing changed, for every other.
    #[inline(always)]
    pub(super) fn short_way<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        glance: &Glance,
    ) -> Option<Verdict> {
        // By far the most first.
        if glance.kind == Kind::Tcp4 {
            return self.steady::<P, Ipv4, tcp::Header, false>(now, packet, glance.likely);
        }
        if glance.kind == Kind::Udp4 {
            return self.steady::<P, Ipv4, udp::Header, false>(now, packet, glance.likely);
        }
        self.short_way6(now, packet, glance)
    }

    #[inline(never)]
    fn short_way6<P: PacketBuf>(&mut self, now: Ticks, packet: &mut P, glance: &Glance) -> Option<Verdict> {
        match glance.kind {
            Kind::Tcp6 => self.steady::<P, ipv6::Header, tcp::Header, false>(now, packet, glance.likely),
            Kind::Udp6 => self.steady::<P, ipv6::Header, udp::Header, false>(now, packet, glance.likely),
            Kind::Tcp4 | Kind::Udp4 | Kind::Other => None,
        }
    }

    /// Apart, so that the short way within one family has nothing to do with it.
    #[inline(never)]
    fn across<P: PacketBuf, I: Ip, T: Transport>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
    ) -> Option<Verdict> {
        self.steady::<P, I, T, true>(now, packet, likely)
    }

    /// `likely` is the index entry that the packet's connection most likely has; `ACROSS`: it leaves in the other family.
    #[inline(always)]
    fn steady<P: PacketBuf, I: Ip, T: Transport, const ACROSS: bool>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
    ) -> Option<Verdict> {
        let frame_len = packet.data().len();
        let (frame, rest) = Frame::<I, T>::mut_from_prefix(packet.data_mut()).ok()?;
        let Table { conns, wide: pool, .. } = &mut self.table;
        let conn = conns.get_mut(index_of(likely))?;
        let direction = direction_of(likely);
        let egress = self.fib.egress(conn.next_hops[direction as usize])?;
        let total_len = frame.ip.total_len();
        let end = total_len + ethernet::HEADER_LEN;

        let wanted = condition(T::PROTOCOL, T::STATE as u8, flags_of::<I>(), 0, self.fib.epoch());
        let differs = conn.condition() & CONDITION ^ wanted;
        if differs != if ACROSS { other_family(direction) } else { 0 } {
            let across = !ACROSS && differs == other_family(direction);
            return if across { self.across::<P, I, T>(now, packet, likely) } else { None };
        }
        let ordinary = frame.l4.ports() == conn.ports[direction as usize]
            && frame.ip.belongs_to(conn, &pool.all, direction)
            && frame.ip.is_whole()
            && frame.ip.hops() > 1
            && total_len >= I::HEADER_LEN + size_of::<T>()
            && end <= frame_len
            && total_len <= egress.mtu.into()
            && frame.l4.is_ordinary(conn, direction, total_len - I::HEADER_LEN, rest, I::WIDE);
        if !ordinary {
            return None;
        }

        let addrs = match conn.mode {
            Mode::FullNat | Mode::Nat if ACROSS => {
                return self.steady_across::<P, I, T>(now, packet, likely, total_len);
            }
            Mode::FullNat | Mode::Nat => {
                if !frame.ip.readdress(conn, &pool.all, direction) {
                    return None;
                }
                let deltas = conn.deltas.of(direction);
                frame.l4.rewrite(conn.ports[direction.other() as usize].rotate_left(16), deltas.l4);
                deltas.addrs
            }
            Mode::Dr => 0,
            Mode::Tun => return self.steady_tunnel::<P, I, T>(now, packet, likely, total_len),
        };
        frame.ip.take_hop(addrs);
        frame.macs = egress.macs;
        frame.l4.note(conn, direction, total_len - I::HEADER_LEN);
        conn.seen = now;
        self.counters.real(conn.real_id).count(direction, total_len);
        if end < frame_len {
            packet.truncate(end);
        }
        Some(Verdict::Forward(egress.port))
    }

    /// The rest of the short way of an ordinary packet that leaves in the other family; `len` is that of the packet.
    #[inline(never)]
    fn steady_across<P: PacketBuf, I: Ip, T: Transport>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
        len: usize,
    ) -> Option<Verdict> {
        let direction = direction_of(likely);
        let conn = self.table.record(likely)?;
        let egress = self.fib.egress(conn.next_hops[direction as usize])?;
        let segment = Segment {
            key: conn.key(direction),
            l4: (ethernet::HEADER_LEN + I::HEADER_LEN) as u16,
            end: (ethernet::HEADER_LEN + len) as u16,
            wide: I::WIDE,
            ..Segment::default()
        };
        let new_len = len.saturating_add_signed(family::growth(&segment, !I::WIDE));
        if new_len > egress.mtu.into() || packet.headroom() < client_address::HEADROOM_MAX {
            return None;
        }
        let tuple = self.table.tuple(conn, direction.other()).reversed();
        let l4 = Delta::from_folded(conn.deltas.of(direction).l4);
        let conn = self.table.conns.get_mut(index_of(likely))?;
        packet.truncate(segment.end.into());
        let (frame, _) = Frame::<I, T>::ref_from_prefix(packet.data()).ok()?;
        frame.l4.note(conn, direction, len - I::HEADER_LEN);
        conn.seen = now;
        // The long way says what is wrong with a header that has no counterpart.
        family::translate(packet, &segment, &tuple, l4, self.packet_id.next()).ok()?;
        self.counters.real(conn.real_id).count(direction, len);
        if let Some(macs) = packet.data_mut().first_chunk_mut() {
            *macs = egress.macs;
        }
        Some(Verdict::Forward(egress.port))
    }

    /// The rest of the short way of an ordinary packet that goes into a tunnel; `len` is that of the packet.
    #[inline(never)]
    fn steady_tunnel<P: PacketBuf, I: Ip, T: Transport>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
        len: usize,
    ) -> Option<Verdict> {
        let conn = self.table.record(likely)?;
        let egress = self.fib.egress(conn.next_hops[Direction::Inbound as usize])?;
        let wrapper = self.snapshot.wrapper(conn.real_id)?;
        let overhead = wrapper.overhead();
        if len + overhead > egress.mtu.into() || packet.headroom() < overhead {
            return None;
        }
        let conn = self.table.conns.get_mut(index_of(likely))?;
        packet.truncate(len + ethernet::HEADER_LEN);
        let (frame, _) = Frame::<I, T>::mut_from_prefix(packet.data_mut()).ok()?;
        frame.ip.take_hop(0);
        frame.l4.note(conn, Direction::Inbound, len - I::HEADER_LEN);
        conn.seen = now;
        self.counters.real(conn.real_id).count(Direction::Inbound, len);
        // As the parser has it: without the addresses of an IPv6 packet.
        let key = conn.key(Direction::Inbound);
        let flow = if I::WIDE { Key { addrs: 0, ..key } } else { key };
        let (inner, id) = (frame.ip, self.packet_id.next());
        if wrapper.wrap_bare(packet, (&inner, len), (egress.macs, flow), id) {
            return Some(Verdict::Forward(egress.port));
        }
        // The room was looked at above.
        let _ = wrapper.wrap(packet, flow, id);
        if let Some(macs) = packet.data_mut().first_chunk_mut() {
            *macs = egress.macs;
        }
        Some(Verdict::Forward(egress.port))
    }
}
