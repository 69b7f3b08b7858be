//! The short way for what nearly every packet is: a segment of an established connection, or a datagram of a known one,
//! that changes nothing but a time stamp and an acknowledgement.
//!
//! It does exactly what `Worker::forward` does for such a packet; everything out of the ordinary goes there. A test
//! sends the same packets both ways and compares. Of the record it touches the first cache line only.

use wire::{PacketBuf, ethernet, ipv6, tcp, udp};
use zerocopy::FromBytes;

use super::{Glance, Kind, Worker};
use crate::conn::{Direction, condition, flag, of_mode, trait_, wide};
use crate::ids::PortId;
use crate::plain::{Frame, Ip, Ipv4, Transport};
use crate::snapshot::Mode;
use crate::table::{Table, direction_of, index_of};
use crate::time::Ticks;
use crate::translate::tunnel::{Front, flow_of};
use crate::translate::{across, client_address};
use crate::verdict::Verdict;

/// What of a record's [`Conn::condition`] decides whether packets may take the short way.
#[inline(always)]
const fn condition_of<T: Transport>(direction: Direction) -> u64 {
    let flags = flag::LIVE | flag::TOA_PENDING | wide(Direction::Inbound) | wide(Direction::Outbound);
    let either_way = condition(u8::MAX, u8::MAX, flags | T::FLAGS, trait_::SHIFTED, u16::MAX);
    either_way | TUNNEL | (condition(0, 0, T::NOT_OUTBOUND, 0, 0) * direction as u64)
}

/// What differs in a condition when packets leave in the other family than they came in.
#[inline(always)]
const fn other_family(direction: Direction) -> u64 {
    condition(0, 0, wide(direction.other()), 0, 0)
}

/// What differs in a condition when packets leave in a tunnel.
const TUNNEL: u64 = of_mode(Mode::Tun as u8);
const _: () = assert!((Mode::FullNat as u8 | Mode::Nat as u8 | Mode::Dr as u8) & Mode::Tun as u8 == 0);

/// Of connections that are of one family on both sides.
const fn flags_of<I: Ip, T: Transport>() -> u8 {
    let wide = if I::WIDE { wide(Direction::Inbound) | wide(Direction::Outbound) } else { 0 };
    flag::LIVE | wide | T::FLAGS
}

impl Worker {
    /// Forwards an ordinary packet of an open connection; `false`, with nothing changed, for every other. `epoch` is the
    /// forwarding table's, as a [`condition`]: in a burst it is asked for once.
    #[inline(always)]
    pub(super) fn short_way<P: PacketBuf>(
        &mut self,
        now: Ticks,
        epoch: u64,
        packet: &mut P,
        glance: &Glance,
        verdict: &mut Verdict,
    ) -> bool {
        let likely = glance.likely;
        match glance.kind {
            Kind::Tcp4 => self.steady::<P, Ipv4, tcp::Header, false>(now, epoch, packet, likely, verdict),
            Kind::Udp4 => self.steady::<P, Ipv4, udp::Header, false>(now, epoch, packet, likely, verdict),
            _ => self.short_way6(now, epoch, packet, glance, verdict),
        }
        .is_some()
    }

    /// Apart, so that IPv4 has nothing to do with it.
    #[inline(never)]
    fn short_way6<P: PacketBuf>(
        &mut self,
        now: Ticks,
        epoch: u64,
        packet: &mut P,
        glance: &Glance,
        verdict: &mut Verdict,
    ) -> Option<()> {
        let likely = glance.likely;
        match glance.kind {
            Kind::Tcp6 => self.steady6::<P, tcp::Header>(now, epoch, packet, likely, verdict),
            Kind::Udp6 => self.steady6::<P, udp::Header>(now, epoch, packet, likely, verdict),
            _ => None,
        }
    }

    /// Apart, so that each protocol's has the registers to itself.
    #[inline(never)]
    fn steady6<P: PacketBuf, T: Transport>(
        &mut self,
        now: Ticks,
        epoch: u64,
        packet: &mut P,
        likely: u32,
        verdict: &mut Verdict,
    ) -> Option<()> {
        self.steady::<P, ipv6::Header, T, false>(now, epoch, packet, likely, verdict)
    }

    /// What leaves in the other family, or in a tunnel of the other one, as is seen from how the connection's condition
    /// `differs`. Apart, so that the short way within one family has nothing to do with it.
    #[inline(never)]
    fn across<P: PacketBuf, I: Ip, T: Transport, const ACROSS: bool>(
        &mut self,
        now: Ticks,
        epoch: u64,
        packet: &mut P,
        (likely, differs): (u32, u64),
        verdict: &mut Verdict,
    ) -> Option<()> {
        if differs == TUNNEL | other_family(Direction::Inbound) {
            let port = self.steady_tunnel::<P, I, T, I::OtherFront>(now, packet, likely)?;
            *verdict = Verdict::Forward(port);
            Some(())
        } else if !ACROSS && differs == other_family(direction_of(likely)) {
            self.steady::<P, I, T, true>(now, epoch, packet, likely, verdict)
        } else {
            None
        }
    }

    /// `likely` is the index entry that the packet's connection most likely has; `ACROSS`: it leaves in the other family.
    #[inline(always)]
    fn steady<P: PacketBuf, I: Ip, T: Transport, const ACROSS: bool>(
        &mut self,
        now: Ticks,
        epoch: u64,
        packet: &mut P,
        likely: u32,
        verdict: &mut Verdict,
    ) -> Option<()> {
        let Table { conns, wide: pool, .. } = &mut self.table;
        let conn = conns.get_mut(index_of(likely))?;
        let direction = direction_of(likely);
        let wanted = condition(T::PROTOCOL, T::STATE as u8, flags_of::<I, T>(), 0, 0) | epoch;
        let differs = conn.condition() & condition_of::<T>(direction) ^ wanted;
        if differs != if ACROSS { other_family(direction) } else { 0 } {
            return if differs == TUNNEL {
                let port = self.steady_tunnel::<P, I, T, I::Front>(now, packet, likely)?;
                *verdict = Verdict::Forward(port);
                Some(())
            } else {
                self.across::<P, I, T, ACROSS>(now, epoch, packet, (likely, differs), verdict)
            };
        }
        let frame_len = packet.data().len();
        let (frame, rest) = Frame::<I, T>::mut_from_prefix(packet.data_mut()).ok()?;
        let addrs = I::addrs_of(conn, &pool.all, direction)?;
        let egress = self.fib.egress(conn.next_hops[direction as usize])?;
        let len = frame.len_of(conn, addrs, direction, frame.ip.start(), egress.mtu.into())?;
        let end = len + ethernet::HEADER_LEN;
        if end > frame_len {
            return None;
        }

        if conn.mode.is_one_way() {
            let payload_len = frame.ordinary(conn, direction, len, rest)?;
            frame.l4.note::<true>(conn, direction, payload_len);
            frame.ip.take_hop();
        } else {
            frame.ordinary(conn, direction, len, rest)?;
            if ACROSS {
                return self.steady_across::<P, I, T>(now, packet, likely, len, verdict);
            }
            frame.ip.readdress(conn, addrs, direction);
            let deltas = conn.deltas.of(direction);
            frame.l4.rewrite(conn.ports[direction.other() as usize].rotate_left(16), deltas.l4);
            frame.ip.take_hop_and(deltas.addrs);
            frame.l4.note::<false>(conn, direction, 0);
        }
        conn.seen = now;
        frame.link.macs = egress.macs;
        *verdict = Verdict::Forward(egress.port);
        conn.count(direction, len, &self.counters);
        if end < frame_len {
            packet.truncate(end);
        }
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
        let Table { conns, wide: pool, .. } = &mut self.table;
        let conn = conns.get_mut(index_of(likely))?;
        let egress = self.fib.egress(conn.next_hops[direction as usize])?;
        let new_len = len + 2 * I::ROOM - across::GROWTH;
        if new_len > egress.mtu.into() || packet.headroom() < client_address::HEADROOM_MAX {
            return None;
        }
        let data = packet.data_mut_with_front(I::ROOM)?;
        let (headers, _) = across::Headers::<T>::mut_from_prefix(data).ok()?;
        // What IPv4 may go without, IPv6 may not (RFC 8200 §8.1).
        if !headers.l4.is_summed() {
            return None;
        }
        I::cross(&mut headers.front, conn, &pool.all, direction, egress.macs, self.packet_id.next())?;
        headers.l4.note::<false>(conn, direction, 0);
        let ports = conn.ports[direction.other() as usize].rotate_left(16);
        headers.l4.rewrite(ports, conn.deltas.of(direction).l4);
        conn.seen = now;
        conn.count(direction, len, &self.counters);
        // What was there before is at least as long.
        let _ = packet.pull_front(across::GROWTH - I::ROOM);
        packet.reframe(I::ROOM, new_len + ethernet::HEADER_LEN);
        *verdict = Verdict::Forward(egress.port);
        Some(())
    }

    /// The short way into a tunnel whose outer header is in `F`, from where the connection's condition is known. Apart, so
    /// that the short way of all other packets has nothing to do with it.
    #[inline(never)]
    fn steady_tunnel<P: PacketBuf, I: Ip, T: Transport, F: Front>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
    ) -> Option<PortId> {
        let Table { conns, wide: pool, .. } = &mut self.table;
        let conn = conns.get_mut(index_of(likely))?;
        let addrs = I::addrs_of(conn, &pool.all, Direction::Inbound)?;
        let frame = packet.data_mut_with_front(F::OVERHEAD)?;
        let frame_len = frame.len();
        let (frame, rest) = Frame::<I, T, F>::mut_from_prefix(frame).ok()?;
        let start = frame.ip.start();
        let len = frame.len_of(conn, addrs, Direction::Inbound, start, usize::MAX)?;
        if len > frame_len - size_of::<F>() {
            return None;
        }
        let egress = self.fib.egress(conn.next_hops[Direction::Inbound as usize])?;
        if len + F::OVERHEAD > egress.mtu.into() {
            return None;
        }
        let payload_len = frame.ordinary(conn, Direction::Inbound, len, rest)?;
        let Some(template) = F::template(&self.snapshot, conn.tunnel()) else {
            return self.steady_other_tunnel::<P, I, T>(now, packet, likely, (len, payload_len));
        };

        conn.seen = now;
        conn.count(Direction::Inbound, len, &self.counters);
        frame.ip.take_hop();
        let inner = (start, frame.ip.hops(), len);
        frame.link = F::around::<I>(template, conn, inner, egress.macs, || self.packet_id.next());
        frame.l4.note::<true>(conn, Direction::Inbound, payload_len);
        packet.reframe(F::OVERHEAD, len + size_of::<F>());
        Some(egress.port)
    }

    /// The rest of the short way of an ordinary packet, with its length and its payload's, into any other tunnel.
    #[cold]
    #[inline(never)]
    fn steady_other_tunnel<P: PacketBuf, I: Ip, T: Transport>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        likely: u32,
        (len, payload_len): (usize, usize),
    ) -> Option<PortId> {
        let conn = self.table.conns.get_mut(index_of(likely))?;
        let wrapper = self.snapshot.wrapper(conn.tunnel())?;
        let egress = self.fib.egress(conn.next_hops[Direction::Inbound as usize])?;
        let overhead = wrapper.overhead();
        if len + overhead > egress.mtu.into() || packet.headroom() < overhead {
            return None;
        }
        let (frame, _) = Frame::<I, T>::mut_from_prefix(packet.data_mut()).ok()?;
        frame.ip.take_hop();
        frame.l4.note::<true>(conn, Direction::Inbound, payload_len);
        conn.seen = now;
        conn.count(Direction::Inbound, len, &self.counters);
        packet.truncate(len + ethernet::HEADER_LEN);
        // The room was looked at before.
        let _ = wrapper.wrap(packet, flow_of::<I>(conn), self.packet_id.next());
        if let Some(macs) = packet.data_mut().first_chunk_mut() {
            *macs = egress.macs;
        }
        Some(egress.port)
    }
}
