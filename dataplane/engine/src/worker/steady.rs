//! The short way for what nearly every packet is: a segment of an established connection, or a datagram of a known one,
//! that changes nothing but a time stamp and an acknowledgement.
//!
//! It does exactly what `Worker::forward` does for such a packet; everything out of the ordinary goes there. A test
//! sends the same packets both ways and compares. Of the record it touches the first cache line only.

use wire::checksum::Delta;
use wire::{PacketBuf, ethernet, ipv4, ipv6, tcp, udp};
use zerocopy::FromBytes;

use super::{Glance, Kind, PacketId, Worker};
use crate::conn::{Conn, Direction, condition, flag, trait_, wide};
use crate::counters::Counters;
use crate::fib::Egress;
use crate::hash::Key;
use crate::ids::PortId;
use crate::parse::Segment;
use crate::plain::{Frame, Ip, Ipv4, Transport};
use crate::snapshot::Mode;
use crate::table::{Table, direction_of, index_of};
use crate::time::Ticks;
use crate::translate::tunnel::{Bare, Wrapper};
use crate::translate::{client_address, family};
use crate::verdict::Verdict;

/// What of a record's [`Conn::condition`] decides whether packets may take the short way.
#[inline(always)]
const fn condition_of<T: Transport>(direction: Direction) -> u64 {
    let flags = flag::LIVE | flag::TOA_PENDING | wide(Direction::Inbound) | wide(Direction::Outbound);
    let either_way = condition(u8::MAX, u8::MAX, flags | T::FLAGS, trait_::SHIFTED, u16::MAX);
    either_way | (condition(0, 0, T::NOT_OUTBOUND, 0, 0) * direction as u64)
}

/// What differs in a condition when packets leave in the other family than they came in.
#[inline(always)]
const fn other_family(direction: Direction) -> u64 {
    condition(0, 0, wide(direction.other()), 0, 0)
}

/// Of connections that are of one family on both sides.
const fn flags_of<I: Ip, T: Transport>() -> u8 {
    let wide = if I::WIDE { wide(Direction::Inbound) | wide(Direction::Outbound) } else { 0 };
    flag::LIVE | wide | T::FLAGS
}

impl Worker {
    /// Forwards an ordinary packet of an open connection; `None`, with nothing changed, for every other.
    #[inline(always)]
    pub(super) fn short_way<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        glance: &Glance,
        verdict: &mut Verdict,
    ) -> bool {
        match glance.kind {
            Kind::Tcp4 => self.steady::<P, Ipv4, tcp::Header, false>(now, packet, glance.likely, verdict),
            Kind::Udp4 => self.steady::<P, Ipv4, udp::Header, false>(now, packet, glance.likely, verdict),
            _ => self.short_way6(now, packet, glance, verdict),
        }
        .is_some()
    }

    #[inline(never)]
    fn short_way6<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        glance: &Glance,
        verdict: &mut Verdict,
    ) -> Option<()> {
        match glance.kind {
            Kind::Tcp6 => {
                self.steady::<P, ipv6::Header, tcp::Header, false>(now, packet, glance.likely, verdict)
            }
            Kind::Udp6 => {
                self.steady::<P, ipv6::Header, udp::Header, false>(now, packet, glance.likely, verdict)
            }
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
        verdict: &mut Verdict,
    ) -> Option<()> {
        self.steady::<P, I, T, true>(now, packet, likely, verdict)
    }

    /// `likely` is the index entry that the packet's connection most likely has; `ACROSS`: it leaves in the other family.
    #[inline(always)]
    fn steady<P: PacketBuf, I: Ip, T: Transport, const ACROSS: bool>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
        verdict: &mut Verdict,
    ) -> Option<()> {
        let frame_len = packet.data().len();
        let (frame, rest) = Frame::<I, T>::mut_from_prefix(packet.data_mut()).ok()?;
        let Table { conns, wide: pool, .. } = &mut self.table;
        let conn = conns.get_mut(index_of(likely))?;
        let direction = direction_of(likely);
        let wanted = condition(T::PROTOCOL, T::STATE as u8, flags_of::<I, T>(), 0, self.fib.epoch());
        let differs = conn.condition() & condition_of::<T>(direction) ^ wanted;
        if differs != if ACROSS { other_family(direction) } else { 0 } {
            let across = !ACROSS && differs == other_family(direction);
            return if across { self.across::<P, I, T>(now, packet, likely, verdict) } else { None };
        }
        let addrs = I::addrs_of(conn, &pool.all, direction)?;
        if frame.l4.ports() != conn.ports[direction as usize] || !frame.ip.has(conn, addrs, direction) {
            return None;
        }
        let egress = self.fib.egress(conn.next_hops[direction as usize])?;
        let total_len = frame.ip.total_len();
        let end = total_len + ethernet::HEADER_LEN;
        let ordinary = frame.ip.is_whole()
            && frame.ip.hops() > 1
            && total_len >= I::HEADER_LEN + size_of::<T>()
            && end <= frame_len
            && total_len <= egress.mtu.into()
            && frame.l4.is_ordinary(conn, direction, total_len - I::HEADER_LEN, rest, I::WIDE);
        if !ordinary {
            return None;
        }

        match conn.mode {
            Mode::FullNat | Mode::Nat if ACROSS => {
                return self.steady_across::<P, I, T>(now, packet, likely, total_len, verdict);
            }
            Mode::FullNat | Mode::Nat => {
                frame.ip.readdress(conn, addrs, direction);
                let deltas = conn.deltas.of(direction);
                frame.l4.rewrite(conn.ports[direction.other() as usize].rotate_left(16), deltas.l4);
                frame.ip.take_hop(deltas.addrs);
                frame.l4.note::<false>(conn, direction, total_len - I::HEADER_LEN);
            }
            Mode::Dr => {
                frame.ip.take_hop(0);
                frame.l4.note::<true>(conn, direction, total_len - I::HEADER_LEN);
            }
            Mode::Tun => {
                let wrapper = self.snapshot.wrapper(conn.real_id)?;
                let ordinary = Ordinary { now, conn, egress, len: total_len };
                let port = match wrapper.bare() {
                    Some(bare) => {
                        into_bare_tunnel::<P, I, T>(packet, ordinary, bare, &self.packet_id, &self.counters)
                    }
                    None => {
                        into_tunnel::<P, I, T>(packet, ordinary, wrapper, &self.packet_id, &self.counters)
                    }
                }?;
                *verdict = Verdict::Forward(port);
                return Some(());
            }
        }
        frame.macs = egress.macs;
        conn.seen = now;
        self.counters.real(conn.real_id).count(direction, total_len);
        if end < frame_len {
            packet.truncate(end);
        }
        *verdict = Verdict::Forward(egress.port);
        Some(())
    }

    /// The rest of the short way of an ordinary packet that leaves in the other family; `len` is that of the packet.
    #[inline(never)]
    fn steady_across<P: PacketBuf, I: Ip, T: Transport>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
        len: usize,
        verdict: &mut Verdict,
    ) -> Option<()> {
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
        frame.l4.note::<false>(conn, direction, len - I::HEADER_LEN);
        conn.seen = now;
        // The long way says what is wrong with a header that has no counterpart.
        family::translate(packet, &segment, &tuple, l4, self.packet_id.next()).ok()?;
        self.counters.real(conn.real_id).count(direction, len);
        if let Some(macs) = packet.data_mut().first_chunk_mut() {
            *macs = egress.macs;
        }
        *verdict = Verdict::Forward(egress.port);
        Some(())
    }
}

/// An ordinary packet, and what was found for it.
struct Ordinary<'a> {
    now: Ticks,
    conn: &'a mut Conn,
    egress: &'a Egress,
    /// Bytes of the IP packet.
    len: usize,
}

impl Ordinary<'_> {
    /// What changes before the packet goes into a tunnel that adds `overhead` bytes; its header then. `None`, with nothing
    /// changed, without room for them.
    #[inline(always)]
    fn before_tunnel<P: PacketBuf, I: Ip, T: Transport>(
        &mut self,
        packet: &mut P,
        overhead: usize,
        counters: &Counters,
    ) -> Option<I> {
        let len = self.len;
        if len + overhead > self.egress.mtu.into() || packet.headroom() < overhead {
            return None;
        }
        let (frame, _) = Frame::<I, T>::mut_from_prefix(packet.data_mut()).ok()?;
        frame.ip.take_hop(0);
        frame.l4.note::<true>(self.conn, Direction::Inbound, len - I::HEADER_LEN);
        self.conn.seen = self.now;
        counters.real(self.conn.real_id).count(Direction::Inbound, len);
        let inner = frame.ip;
        packet.truncate(len + ethernet::HEADER_LEN);
        Some(inner)
    }
}

/// The rest of the short way of an ordinary packet that goes into IP in IP over IPv4.
#[inline(never)]
fn into_bare_tunnel<P: PacketBuf, I: Ip, T: Transport>(
    packet: &mut P,
    mut ordinary: Ordinary<'_>,
    bare: &Bare,
    packet_id: &PacketId,
    counters: &Counters,
) -> Option<PortId> {
    let inner = ordinary.before_tunnel::<P, I, T>(packet, ipv4::HEADER_LEN, counters)?;
    let Ordinary { egress, len, .. } = ordinary;
    // The room was looked at before.
    let _ = bare.wrap(packet, (&inner, len), &egress.macs, packet_id.next());
    Some(egress.port)
}

/// The rest of the short way of an ordinary packet that goes into any other tunnel.
#[inline(never)]
fn into_tunnel<P: PacketBuf, I: Ip, T: Transport>(
    packet: &mut P,
    mut ordinary: Ordinary<'_>,
    wrapper: &Wrapper,
    packet_id: &PacketId,
    counters: &Counters,
) -> Option<PortId> {
    let inner = ordinary.before_tunnel::<P, I, T>(packet, wrapper.overhead(), counters)?;
    let Ordinary { conn, egress, len, .. } = ordinary;
    // As the parser has it: without the addresses of an IPv6 packet.
    let key = conn.key(Direction::Inbound);
    let flow = if I::WIDE { Key { addrs: 0, ..key } } else { key };
    if !wrapper.wrap_bare6(packet, (&inner, len), &egress.macs, flow) {
        let _ = wrapper.wrap(packet, flow, packet_id.next());
        if let Some(macs) = packet.data_mut().first_chunk_mut() {
            *macs = egress.macs;
        }
    }
    Some(egress.port)
}
