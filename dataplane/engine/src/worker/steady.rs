//! The short way for what nearly every packet is: a segment of an established connection, or a datagram of a known one,
//! that changes nothing but a time stamp and an acknowledgement.
//!
//! It does exactly what `Worker::forward` does for such a packet; everything out of the ordinary goes there. A test
//! sends the same packets both ways and compares.

use wire::checksum::Delta;
use wire::tcp::{self, flags};
use wire::{PacketBuf, U16, toa, udp};
use zerocopy::FromBytes;

use super::Worker;
use super::track::note_ack;
use crate::conn::{Conn, Direction, flag, trait_};
use crate::counters::{Counter, Counters};
use crate::hash::halves32;
use crate::parse::{PLAIN_L4, PLAIN6_L4, Plain4, Plain6, Segment};
use crate::snapshot::Mode;
use crate::table::Found;
use crate::tcp::ConnState;
use crate::time::Ticks;
use crate::verdict::Verdict;

impl Worker {
    /// Forwards a steady IPv4 packet; `None`, with nothing changed, for every other.
    #[inline(always)]
    pub(super) fn steady<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Option<Verdict> {
        let conn = self.table.conns.get_mut(found.conn as usize)?;
        let egress = self.fib.egress(conn.next_hops[found.direction as usize])?;
        let total_len = segment.total_len();
        let ordinary = segment.l4 == PLAIN_L4
            && is_ordinary(conn, segment, found.direction)
            && !conn.has_wide()
            && conn.fib_epoch == self.fib.epoch()
            && total_len <= egress.mtu.into();
        if !ordinary {
            return None;
        }
        packet.truncate(segment.end.into());
        let (frame, l4) = Plain4::mut_from_prefix(packet.data_mut()).ok()?;
        let mut l4 = L4::of(l4, segment)?;
        if frame.ttl <= 1 || !l4.is_ordinary(conn, found.direction) {
            return None;
        }

        conn.seen = now;
        let deltas = conn.deltas[found.direction as usize];
        if conn.mode != Mode::Dr {
            let (addrs, ports) = conn.translated(found.direction);
            frame.addrs = addrs.to_ne_bytes();
            l4.rewrite(ports, Delta::from_folded(deltas.l4));
        }
        l4.note(conn, found.direction);
        frame.ttl -= 1;
        frame.ip_checksum = Delta::from_folded(deltas.ip).apply(frame.ip_checksum);
        frame.macs = egress.macs;
        count(&self.counters, conn, found.direction, total_len);
        Some(Verdict::Forward(egress.port))
    }

    /// The same for IPv6.
    #[inline(always)]
    pub(super) fn steady6<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Option<Verdict> {
        let back = found.direction.other();
        let addrs = self.table.wide(self.table.conns.get(found.conn as usize)?, back).copied();
        let conn = self.table.conns.get_mut(found.conn as usize)?;
        let egress = self.fib.egress(conn.next_hops[found.direction as usize])?;
        let total_len = segment.total_len();
        let ordinary = segment.l4 == PLAIN6_L4
            && is_ordinary(conn, segment, found.direction)
            && conn.is_wide(back)
            && conn.fib_epoch == self.fib.epoch()
            && total_len <= egress.mtu.into();
        if !ordinary {
            return None;
        }
        packet.truncate(segment.end.into());
        let (frame, l4) = Plain6::mut_from_prefix(packet.data_mut()).ok()?;
        let mut l4 = L4::of(l4, segment)?;
        if frame.ip.hop_limit <= 1 || !l4.is_ordinary(conn, found.direction) {
            return None;
        }

        conn.seen = now;
        if conn.mode != Mode::Dr {
            let [src, dst] = addrs?;
            frame.ip.src = dst.to_ne_bytes();
            frame.ip.dst = src.to_ne_bytes();
            let deltas = conn.deltas[found.direction as usize];
            let ports = conn.translated(found.direction).1;
            l4.rewrite(ports, Delta::from_folded(deltas.l4));
        }
        l4.note(conn, found.direction);
        frame.ip.hop_limit -= 1;
        frame.macs = egress.macs;
        count(&self.counters, conn, found.direction, total_len);
        Some(Verdict::Forward(egress.port))
    }
}

/// The transport header.
enum L4<'a> {
    /// With what follows the fixed header.
    Tcp(&'a mut tcp::Header, &'a [u8]),
    Udp(&'a mut udp::Header),
}

impl<'a> L4<'a> {
    #[inline(always)]
    fn of(l4: &'a mut [u8], segment: &Segment) -> Option<L4<'a>> {
        if segment.is_udp() {
            return udp::Header::mut_from_prefix(l4).ok().map(|(udp, _)| L4::Udp(udp));
        }
        tcp::Header::mut_from_prefix(l4).ok().map(|(tcp, rest)| L4::Tcp(tcp, rest))
    }

    /// Whether nothing has to be stripped.
    #[inline(always)]
    fn is_ordinary(&self, conn: &Conn, direction: Direction) -> bool {
        match self {
            L4::Tcp(tcp, rest) if direction == Direction::Inbound && conn.toa_kind != 0 => {
                let options_len = (usize::from(tcp.data_offset >> 4) * 4).saturating_sub(tcp::HEADER_LEN);
                rest.get(..options_len).is_some_and(toa::is_harmless)
            }
            _ => true,
        }
    }

    /// New ports, source first as loaded, and what changed in the checksum.
    #[inline(always)]
    fn rewrite(&mut self, ports: u32, delta: Delta) {
        let (src, dst) = halves32(ports);
        let (src, dst) = (U16::from_bytes(src.to_ne_bytes()), U16::from_bytes(dst.to_ne_bytes()));
        match self {
            L4::Tcp(tcp, _) => {
                (tcp.src_port, tcp.dst_port) = (src, dst);
                tcp.checksum = delta.apply(tcp.checksum);
            }
            L4::Udp(udp) => {
                (udp.src_port, udp.dst_port) = (src, dst);
                udp.checksum = delta.apply_udp(udp.checksum);
            }
        }
    }

    #[inline(always)]
    fn note(&self, conn: &mut Conn, direction: Direction) {
        if let L4::Tcp(tcp, _) = self {
            note_ack(conn, direction, tcp);
        }
    }
}

/// Whether the record says that a packet like this changes nothing.
#[inline(always)]
fn is_ordinary(conn: &Conn, segment: &Segment, direction: Direction) -> bool {
    let quiet = match conn.state {
        ConnState::Established => segment.flags & (flags::SYN | flags::FIN | flags::RST) == 0,
        // The first answer takes the connection off the list of those that are given up first.
        ConnState::Udp => direction == Direction::Inbound || !conn.has(flag::EMBRYONIC),
        _ => false,
    };
    quiet && !conn.is(trait_::SHIFTED) && conn.mode != Mode::Tun && !conn.has(flag::TOA_PENDING)
}

#[inline(always)]
fn count(counters: &Counters, conn: &Conn, direction: Direction, total_len: usize) {
    let real = counters.real(conn.real_id);
    let (packets, bytes) = match direction {
        Direction::Inbound => (&real.in_packets, &real.in_bytes),
        Direction::Outbound => (&real.out_packets, &real.out_bytes),
    };
    packets.add(1);
    bytes.add(total_len as u64);
    counters.event(Counter::Forwarded).add(1);
}
