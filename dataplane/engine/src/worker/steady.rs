//! The short way for what nearly every packet is: a segment of an established connection that changes nothing but a
//! time stamp and an acknowledgement.
//!
//! It does exactly what `Worker::forward` does for such a segment; everything out of the ordinary goes there. A test
//! sends the same packets both ways and compares.

use wire::checksum::Delta;
use wire::tcp::flags;
use wire::{PacketBuf, U16, toa};
use zerocopy::FromBytes;

use super::Worker;
use super::track::note_ack;
use crate::conn::{Direction, flag};
use crate::counters::Counter;
use crate::hash::halves32;
use crate::parse::{PLAIN_L4, Plain, Segment};
use crate::table::Found;
use crate::tcp::TcpState;
use crate::time::Ticks;
use crate::verdict::Verdict;

impl Worker {
    /// Forwards a steady segment; `None`, with nothing changed, for every other.
    #[inline(always)]
    pub(super) fn steady<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Option<Verdict> {
        let conn = self.table.conns.get_mut(found.conn as usize)?;
        let (frame, rest) = Plain::mut_from_prefix(packet.data_mut()).ok()?;
        let egress = self.fib.egress(conn.next_hops[found.direction as usize])?;
        let total_len = frame.total_len.get();
        let ordinary = segment.l4 == PLAIN_L4
            && segment.flags & (flags::SYN | flags::FIN | flags::RST) == 0
            && conn.state == TcpState::Established
            && conn.flags & flag::TOA_PENDING == 0
            && conn.fib_epoch == self.fib.epoch()
            && total_len <= egress.mtu
            && frame.ttl > 1;
        if !ordinary {
            return None;
        }
        if found.direction == Direction::Inbound && conn.toa_kind != 0 {
            let options_len = (usize::from(frame.tcp.data_offset >> 4) * 4).saturating_sub(20);
            if !toa::is_harmless(rest.get(..options_len)?) {
                return None;
            }
        }

        conn.seen = now;
        note_ack(conn, found.direction, &frame.tcp);
        let (key, deltas) = (conn.translated(found.direction), conn.deltas[found.direction as usize]);
        frame.addrs = key.addrs.to_ne_bytes();
        let (src_port, dst_port) = halves32(key.ports);
        frame.tcp.src_port = U16::from_bytes(src_port.to_ne_bytes());
        frame.tcp.dst_port = U16::from_bytes(dst_port.to_ne_bytes());
        frame.ttl -= 1;
        frame.ip_checksum = Delta::from_folded(deltas.ip).apply(frame.ip_checksum);
        frame.tcp.checksum = Delta::from_folded(deltas.l4).apply(frame.tcp.checksum);
        frame.macs = egress.macs;

        let real = self.counters.real(conn.real_id);
        let (packets, bytes) = match found.direction {
            Direction::Inbound => (&real.in_packets, &real.in_bytes),
            Direction::Outbound => (&real.out_packets, &real.out_bytes),
        };
        packets.add(1);
        bytes.add(total_len.into());
        self.counters.event(Counter::Forwarded).add(1);
        Some(Verdict::Forward(egress.port))
    }
}
