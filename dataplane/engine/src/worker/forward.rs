//! Sending a segment of a known connection on.

use std::net::IpAddr;

use wire::checksum::Delta;
use wire::tcp::{self, flags};
use wire::{PacketBuf, ethernet, ipv4, toa, view};

use super::Worker;
use super::track::Tracked;
use crate::conn::{Direction, flag};
use crate::counters::Counter;
use crate::fib::{Fib, NextHop};
use crate::icmp;
use crate::ids::{AdjacencyId, PortId};
use crate::parse::Segment;
use crate::table::Found;
use crate::time::Ticks;
use crate::translate::{self, Headers, Inserted, TOA_V4_LEN};
use crate::verdict::{DropReason, Verdict};

/// Where a segment leaves.
struct Exit {
    port: PortId,
    mtu: u16,
    adjacency: AdjacencyId,
}

impl Worker {
    /// A segment of connection `found`.
    #[inline(never)]
    pub(super) fn forward<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Verdict {
        match self.track(now, packet.data(), segment, found) {
            Tracked::Forward => self.send(packet, segment, found),
            Tracked::Reopen => {
                self.counters.event(Counter::ConnectionsReused).add(1);
                self.end(found.conn);
                self.unknown(now, packet, segment)
            }
        }
    }

    /// Translates a segment and says where it goes. Everything that can refuse it is asked before it is changed.
    #[inline(always)]
    pub(super) fn send<P: PacketBuf>(&mut self, packet: &mut P, segment: &Segment, found: Found) -> Verdict {
        let exit = match self.exit(found) {
            Ok(exit) => exit,
            Err(reason) => return self.drop(reason),
        };
        let conn = &self.table.conns[found.conn as usize];
        let total_len = usize::from(segment.end) - ethernet::HEADER_LEN;
        let mtu = usize::from(exit.mtu);
        let mut insert = found.direction == Direction::Inbound
            && conn.has(flag::TOA_PENDING)
            && segment.flags & (flags::SYN | flags::RST) == 0;
        if insert && total_len + TOA_V4_LEN > mtu {
            self.counters.event(Counter::ToaOverMtu).add(1);
            insert = false;
        }
        if total_len > mtu {
            return self.too_big(packet, segment, exit.mtu);
        }
        if ttl(packet.data()) <= 1 {
            return self.answer(packet, segment, icmp::Error::TimeExceeded, DropReason::TtlExpired);
        }
        if !self.translate(packet, segment, found, insert) {
            return self.drop(DropReason::NoHeadroom);
        }
        self.count_traffic(found, total_len);
        self.address(packet, segment, &exit)
    }

    /// Options, endpoints, TTL, checksums. `false` when the buffer has no room for the TOA option.
    #[inline(always)]
    fn translate<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        segment: &Segment,
        found: Found,
        insert: bool,
    ) -> bool {
        let l4 = usize::from(segment.l4);
        let conn = &self.table.conns[found.conn as usize];
        let (mut ip, mut tcp) = (Delta::ZERO, Delta::ZERO);
        if conn.toa_kind != 0 {
            let Some(mut headers) = translate::headers(packet.data_mut(), l4) else { return false };
            let has_options = usize::from(headers.tcp.data_offset >> 4) * 4 > tcp::HEADER_LEN;
            if has_options {
                match found.direction {
                    Direction::Inbound => tcp += self.strip(&mut headers, segment.flags),
                    Direction::Outbound => tcp += self.lower_mss(&mut headers, segment.flags),
                }
            }
        }
        if insert {
            let conn = &self.table.conns[found.conn as usize];
            match translate::insert_toa(packet, l4, conn, &mut ip, &mut tcp) {
                Inserted::Yes => self.counters.event(Counter::ToaInserted).add(1),
                Inserted::NoRoom => self.counters.event(Counter::ToaNoRoom).add(1),
                Inserted::NoHeadroom => return false,
            }
        }
        let conn = &self.table.conns[found.conn as usize];
        let Some(mut headers) = translate::headers(packet.data_mut(), l4) else { return false };
        headers.rewrite(conn, found.direction, ip, tcp);
        true
    }

    /// What a client says of its own address must not reach a real server.
    fn strip(&self, headers: &mut Headers<'_>, flags: u8) -> Delta {
        let mut delta = Delta::ZERO;
        if flags & flags::SYN != 0 {
            let stripped = toa::strip_fast_open(headers.options());
            self.counters.event(Counter::FastOpenStripped).add(stripped.count.into());
            delta += stripped.delta;
        }
        let stripped = toa::strip(headers.options());
        if stripped.count > 0 {
            self.counters.event(Counter::ToaStripped).add(1);
            delta += stripped.delta;
        }
        if stripped.malformed {
            self.counters.event(Counter::TcpOptionsMalformed).add(1);
        }
        delta
    }

    /// A SYN-ACK asks the client for segments that leave room for the option.
    fn lower_mss(&self, headers: &mut Headers<'_>, flags: u8) -> Delta {
        if flags & flags::SYN == 0 {
            return Delta::ZERO;
        }
        match headers.lower_mss(TOA_V4_LEN as u16) {
            Some(lowered) => {
                // One that is small already stays: there is room anyway.
                if lowered.new < lowered.old {
                    self.counters.event(Counter::MssLowered).add(1);
                }
                lowered.delta
            }
            None => Delta::ZERO,
        }
    }

    #[inline(always)]
    fn count_traffic(&self, found: Found, total_len: usize) {
        let conn = &self.table.conns[found.conn as usize];
        let real = self.counters.real(conn.real_id);
        let (packets, bytes) = match found.direction {
            Direction::Inbound => (&real.in_packets, &real.in_bytes),
            Direction::Outbound => (&real.out_packets, &real.out_bytes),
        };
        packets.add(1);
        bytes.add(total_len as u64);
    }

    /// Fills in the Ethernet header, or has the next hop resolved.
    #[inline(always)]
    fn address<P: PacketBuf>(&mut self, packet: &mut P, segment: &Segment, exit: &Exit) -> Verdict {
        let adjacency = self.fib.adjacency(exit.adjacency);
        let headers = translate::headers(packet.data_mut(), segment.l4.into());
        if let (Some(mut headers), Some(adjacency)) = (headers, adjacency)
            && headers.address(adjacency)
        {
            self.counters.event(Counter::Forwarded).add(1);
            return Verdict::Forward(exit.port);
        }
        self.unresolved(packet.data(), exit.port)
    }

    #[cold]
    fn unresolved(&mut self, data: &[u8], port: PortId) -> Verdict {
        self.counters.event(Counter::Unresolved).add(1);
        if let Some(ip) = view::<ipv4::Header>(data, ethernet::HEADER_LEN) {
            let destination = IpAddr::from(ip.dst.to_bytes());
            let next_hop = match self.fib.lookup(destination) {
                NextHop::Adjacency(id) => self.fib.adjacency(id).map_or(destination, |a| a.next_hop),
                NextHop::Unknown { next_hop, .. } => next_hop,
                NextHop::NoRoute => destination,
            };
            if !self.wanted.contains(&(port, next_hop)) {
                // A full list only means that the next call of `take_wanted` tells of this one.
                let _ = self.wanted.try_push((port, next_hop));
            }
        }
        Verdict::Resolve(port)
    }

    /// Where the segment leaves, from the record if the record is of this epoch.
    #[inline(always)]
    fn exit(&mut self, found: Found) -> Result<Exit, DropReason> {
        let conn = &self.table.conns[found.conn as usize];
        let id = conn.next_hops[found.direction as usize];
        if conn.fib_epoch == self.fib.epoch()
            && let Some(adjacency) = self.fib.adjacency(id)
        {
            return Ok(Exit { port: adjacency.port, mtu: adjacency.mtu, adjacency: id });
        }
        self.look_up_exit(found)
    }

    /// Looks the next hops of both directions up again.
    #[inline(never)]
    fn look_up_exit(&mut self, found: Found) -> Result<Exit, DropReason> {
        let fib = &self.fib;
        let conn = &mut self.table.conns[found.conn as usize];
        let next_hops = [conn.real(), conn.client()].map(|to| fib.lookup(to.to_socket_addr().ip()));
        conn.fib_epoch = fib.epoch();
        conn.next_hops = next_hops.map(adjacency_of);
        let next_hop = next_hops[found.direction as usize];
        exit_of(fib, next_hop)
    }

    fn too_big<P: PacketBuf>(&mut self, packet: &mut P, segment: &Segment, mtu: u16) -> Verdict {
        let dont_fragment = view::<ipv4::Header>(packet.data(), ethernet::HEADER_LEN)
            .is_some_and(ipv4::Header::dont_fragment);
        if dont_fragment {
            let error = icmp::Error::FragmentationNeeded { mtu };
            self.answer(packet, segment, error, DropReason::TooBig)
        } else {
            self.drop(DropReason::TooBig)
        }
    }

    /// Answers with an ICMP error; where that is not allowed (RFC 1122 §3.2.2), not possible or over the limit, drops
    /// for `reason`.
    pub(super) fn answer<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        segment: &Segment,
        error: icmp::Error,
        reason: DropReason,
    ) -> Verdict {
        let may = packet.data().get(ethernet::HEADER_LEN..).is_some_and(wire::icmp::may_answer_v4);
        if may && self.limiter.allows_icmp() && icmp::answer(packet, segment, error) {
            self.counters.event(Counter::Replied).add(1);
            Verdict::Reply(PortId(packet.port()))
        } else {
            self.drop(reason)
        }
    }
}

fn adjacency_of(next_hop: NextHop) -> AdjacencyId {
    match next_hop {
        NextHop::Adjacency(id) => id,
        NextHop::Unknown { .. } | NextHop::NoRoute => AdjacencyId::NONE,
    }
}

fn exit_of(fib: &Fib, next_hop: NextHop) -> Result<Exit, DropReason> {
    match next_hop {
        NextHop::Adjacency(id) => match fib.adjacency(id) {
            Some(adjacency) => Ok(Exit { port: adjacency.port, mtu: adjacency.mtu, adjacency: id }),
            None => Err(DropReason::NoRoute),
        },
        NextHop::Unknown { port, .. } => {
            let mtu = fib.port(port).map_or(u16::MAX, |port| port.mtu);
            Ok(Exit { port, mtu, adjacency: AdjacencyId::NONE })
        }
        NextHop::NoRoute => Err(DropReason::NoRoute),
    }
}

#[inline(always)]
pub(super) fn ttl(data: &[u8]) -> u8 {
    view::<ipv4::Header>(data, ethernet::HEADER_LEN).map_or(0, |ip| ip.ttl)
}
