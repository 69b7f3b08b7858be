//! Sending a packet of a known connection on.

use wire::checksum::Delta;
use wire::icmp::Error;
use wire::tcp::{self, flags};
use wire::{PacketBuf, U16, ethernet, ipv4, ipv6, toa, view, view_mut};

use super::Worker;
use super::shift::carries_header;
use super::track::{Tracked, payload_len};
use crate::addr::Addr;
use crate::conn::{Direction, flag, trait_};
use crate::counters::Counter;
use crate::fib::{Fib, NextHop};
use crate::icmp;
use crate::ids::{AdjacencyId, PortId};
use crate::parse::{Piece, Segment};
use crate::snapshot::Mode;
use crate::table::Found;
use crate::time::Ticks;
use crate::translate::client_address;
use crate::translate::{self, family};
use crate::verdict::{DropReason, Verdict};

/// Where a packet leaves.
pub(super) struct Exit {
    pub(super) port: PortId,
    pub(super) mtu: u16,
    adjacency: AdjacencyId,
}

/// Why a packet does not leave. It was not changed.
pub(super) enum Refused {
    /// Larger than what the next link takes; the greatest length that the sender may use.
    TooBig {
        mtu: u16,
    },
    Drop(DropReason),
}

/// Whether a packet goes out whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Whole,
    /// An IPv4 packet that may be cut must be.
    Cut,
}

impl Worker {
    /// A packet of connection `found`.
    #[inline(never)]
    pub(super) fn forward<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Verdict {
        if self.table.conns[found.conn as usize].is(trait_::RESET)
            && let Some(verdict) = self.answer_with_reset(now, packet, segment, found)
        {
            return verdict;
        }
        self.note_preface(packet.data(), segment, found);
        self.shift_back(packet, segment, found);
        match self.track(now, packet.data(), segment, found) {
            Tracked::Forward => self.send(packet, segment, found),
            Tracked::Reopen => {
                self.counters.event(Counter::ConnectionsReused).add(1);
                self.end(found.conn);
                self.unknown(now, packet, segment)
            }
        }
    }

    /// Changes a packet as its mode demands and says where it goes. Everything that can refuse it is asked before it
    /// is changed.
    #[inline(always)]
    pub(super) fn send<P: PacketBuf>(&mut self, packet: &mut P, segment: &Segment, found: Found) -> Verdict {
        let exit = match self.exit(found) {
            Ok(exit) => exit,
            Err(reason) => return self.drop(reason),
        };
        if hops(packet.data(), segment.wide) <= 1 {
            return self.answer(packet, segment, Error::TimeExceeded, DropReason::TtlExpired);
        }
        let sent = match self.table.conns[found.conn as usize].mode {
            Mode::FullNat | Mode::Nat => {
                let sent = self.send_translated(packet, segment, found, exit.mtu);
                // What must be cut before its next hop is known is lost, and tells nobody.
                let lost = matches!(sent, Ok(Fit::Cut)) && !self.is_resolved(&exit);
                if segment.is_udp() && !lost && self.tells(segment, found) {
                    sent.and_then(|fit| self.tell_flow(packet, segment, found, exit.mtu).map(|()| fit))
                } else {
                    sent
                }
            }
            Mode::Dr => self.send_direct(packet, segment, found, exit.mtu),
            Mode::Tun => self.send_tunnelled(packet, segment, found, exit.mtu),
        };
        match sent {
            Ok(fit) => {
                self.count_traffic(found, segment.total_len());
                self.leave(packet, found, &exit, fit)
            }
            Err(Refused::TooBig { mtu }) => {
                self.answer(packet, segment, Error::TooBig { mtu }, DropReason::TooBig)
            }
            Err(Refused::Drop(reason)) => self.drop(reason),
        }
    }

    /// DR: the packet as it is, one hop less and without what its sender says of its address.
    pub(super) fn send_direct<P: PacketBuf>(
        &self,
        packet: &mut P,
        segment: &Segment,
        found: Found,
        mtu: u16,
    ) -> Result<Fit, Refused> {
        let fit = fit(packet.data(), segment, segment.total_len(), mtu)?;
        trim(packet, segment);
        self.strip_in_place(packet, segment, found);
        let Some(mut headers) = translate::headers(packet.data_mut(), segment.l4.into(), segment.wide) else {
            return Err(Refused::Drop(DropReason::L4Truncated));
        };
        headers.take_hop();
        Ok(fit)
    }

    /// TUN: as in DR, with outer headers in front.
    pub(super) fn send_tunnelled<P: PacketBuf>(
        &self,
        packet: &mut P,
        segment: &Segment,
        found: Found,
        mtu: u16,
    ) -> Result<Fit, Refused> {
        let conn = &self.table.conns[found.conn as usize];
        let Some(wrapper) = self.snapshot.wrapper(conn.real_id) else {
            return Err(Refused::Drop(DropReason::NoRealServer));
        };
        let overhead = wrapper.overhead();
        if packet.headroom() < overhead {
            return Err(Refused::Drop(DropReason::NoHeadroom));
        }
        let inner_mtu = mtu.saturating_sub(overhead as u16);
        let fit = fit(packet.data(), segment, segment.total_len(), inner_mtu)?;
        // Only an outer IPv4 header can be cut.
        if fit == Fit::Cut && !wrapper.is_over_v4() {
            return Err(Refused::TooBig { mtu: inner_mtu });
        }
        trim(packet, segment);
        self.strip_in_place(packet, segment, found);
        if let Some(mut headers) = translate::headers(packet.data_mut(), segment.l4.into(), segment.wide) {
            headers.take_hop();
        }
        if !wrapper.wrap(packet, segment.key, self.packet_id.next()) {
            return Err(Refused::Drop(DropReason::NoHeadroom));
        }
        Ok(fit)
    }

    /// FULLNAT and NAT: options, endpoints, TTL, checksums, and where they differ the families.
    #[inline(always)]
    pub(super) fn send_translated<P: PacketBuf>(
        &self,
        packet: &mut P,
        segment: &Segment,
        found: Found,
        mtu: u16,
    ) -> Result<Fit, Refused> {
        let conn = &self.table.conns[found.conn as usize];
        let leaves_wide = conn.is_wide(found.direction.other());
        let change = family::growth(segment, leaves_wide);
        let len = segment.total_len().saturating_add_signed(change);
        let tells = self.tells(segment, found);
        let carries = self.carries(packet.data(), segment, found)?;
        let must_grow =
            if carries || tells && conn.toa_form.must { client_address::room_of(conn) } else { 0 };
        let own_mtu = mtu.saturating_add_signed(-(change as i16)).saturating_sub(must_grow as u16);
        let fit = fit(packet.data(), segment, segment.total_len(), own_mtu);
        let fit = fit.inspect_err(|refused| self.count_over_mtu(refused, must_grow, carries, segment))?;
        // An IPv6 packet cannot be cut by a router.
        if fit == Fit::Cut && leaves_wide {
            return Err(Refused::TooBig { mtu: own_mtu });
        }
        if packet.headroom() < client_address::HEADROOM_MAX {
            return Err(Refused::Drop(DropReason::NoHeadroom));
        }
        trim(packet, segment);
        self.strip_uoa(packet, segment, found);
        self.shift(packet, segment, found);
        let mut segment = *segment;
        let (mut ip, mut l4) = (Delta::ZERO, Delta::ZERO);
        if !segment.is_udp() && conn.toa_kind != 0 && segment.piece != Piece::Later {
            l4 += self.change_options(packet, &segment, found);
            if tells {
                // What must carry it fits, or is cut behind.
                let may_grow =
                    must_grow > 0 || client_address::toa_len(conn) <= usize::from(mtu) - len.min(mtu.into());
                let told = self.tell_client(packet, &mut segment, found, may_grow, (&mut ip, &mut l4));
                if !told && must_grow > 0 {
                    return Err(Refused::Drop(DropReason::ClientUntold));
                }
            }
        }
        if carries {
            self.put_header(packet, &mut segment, found, (&mut ip, &mut l4))?;
        }
        let conn = &self.table.conns[found.conn as usize];
        let tuple = self.table.tuple(conn, found.direction.other()).reversed();
        let deltas = conn.deltas.of(found.direction);
        if leaves_wide != segment.wide {
            let l4 = l4 + Delta::from_folded(deltas.l4);
            let done = family::translate(packet, &segment, &tuple, l4, self.packet_id.next());
            return done.map(|()| fit).map_err(Refused::Drop);
        }
        let Some(mut headers) = translate::headers(packet.data_mut(), segment.l4.into(), segment.wide) else {
            return Err(Refused::Drop(DropReason::L4Truncated));
        };
        if segment.piece == Piece::Later {
            headers.l4 = Default::default();
        }
        headers.rewrite(&tuple, deltas, ip, l4);
        Ok(fit)
    }

    /// Counts what does not fit the next link because of what it must carry.
    #[cold]
    fn count_over_mtu(&self, refused: &Refused, must_grow: usize, carries: bool, segment: &Segment) {
        if must_grow > 0 && matches!(refused, Refused::TooBig { .. }) {
            let event = match (carries, segment.is_udp()) {
                (true, _) => Counter::ProxyOverMtu,
                (false, true) => Counter::UoaOverMtu,
                (false, false) => Counter::ToaOverMtu,
            };
            self.counters.event(event).add(1);
        }
    }

    /// Whether a packet is to carry the PROXY protocol's header.
    #[inline(always)]
    fn carries(&self, data: &[u8], segment: &Segment, found: Found) -> Result<bool, Refused> {
        let conn = &self.table.conns[found.conn as usize];
        if conn.preface.len == 0 || found.direction == Direction::Outbound || segment.piece == Piece::Later {
            return Ok(false);
        }
        let Some(header) = view::<tcp::Header>(data, segment.l4.into()) else { return Ok(false) };
        if segment.flags & flags::SYN != 0 && payload_len(header, segment) > 0 {
            return Err(Refused::Drop(DropReason::SynData));
        }
        if segment.piece == Piece::First
            && carries_header(conn, &Segment { piece: Piece::Whole, ..*segment }, header)
        {
            self.counters.event(Counter::ProxyNoRoom).add(1);
        }
        Ok(carries_header(conn, segment, header))
    }

    /// Puts the PROXY protocol's header in front of a segment's payload.
    #[cold]
    fn put_header<P: PacketBuf>(
        &self,
        packet: &mut P,
        segment: &mut Segment,
        found: Found,
        (ip, l4): (&mut Delta, &mut Delta),
    ) -> Result<(), Refused> {
        let conn = &self.table.conns[found.conn as usize];
        let inbound = self.table.tuple(conn, Direction::Inbound);
        let header = client_address::header_of(conn.preface.is_v1, &inbound);
        let (l3, at) = (ethernet::HEADER_LEN, segment.l4.into());
        let inserted = toa::insert_before_payload(packet, l3, at, header.as_bytes())
            .map_err(|_| Refused::Drop(DropReason::NoHeadroom))?;
        *ip += inserted.ip;
        *l4 += inserted.tcp;
        segment.end += u16::from(conn.preface.len);
        if segment.flags & flags::URG != 0
            && let Some(tcp) = view_mut::<tcp::Header>(packet.data_mut(), at)
        {
            let old = tcp.urgent;
            tcp.urgent = U16::new(old.get().saturating_add(conn.preface.len.into()));
            *l4 += Delta::ZERO.replace16(old, tcp.urgent);
        }
        self.counters.event(Counter::ProxyInserted).add(1);
        Ok(())
    }

    /// Whether a packet is to carry the client's address: the real server has not seen it yet.
    #[inline(always)]
    fn tells(&self, segment: &Segment, found: Found) -> bool {
        let conn = &self.table.conns[found.conn as usize];
        found.direction == Direction::Inbound
            && conn.has(flag::TOA_PENDING)
            && segment.flags & (flags::SYN | flags::RST) == 0
            && segment.piece != Piece::Later
    }

    /// Inserts the client's address; whether there was room. A packet that may not grow has it in its options' padding.
    #[inline(always)]
    fn tell_client<P: PacketBuf>(
        &self,
        packet: &mut P,
        segment: &mut Segment,
        found: Found,
        may_grow: bool,
        (ip, l4): (&mut Delta, &mut Delta),
    ) -> bool {
        let conn = &self.table.conns[found.conn as usize];
        // The fragments behind the first say where they belong; nothing can be put in front of them.
        if segment.piece == Piece::First {
            self.counters.event(Counter::ToaNoRoom).add(1);
            return false;
        }
        let option = client_address::toa_of(conn, self.table.tuple(conn, Direction::Inbound).src);
        let before = packet.data().len();
        let event = match client_address::insert_toa(packet, segment.l4.into(), &option, may_grow) {
            Some(inserted) => {
                *ip += inserted.ip;
                *l4 += inserted.tcp;
                Counter::ToaInserted
            }
            None if may_grow => Counter::ToaNoRoom,
            None => Counter::ToaOverMtu,
        };
        segment.end += (packet.data().len() - before) as u16;
        self.counters.event(event).add(1);
        event == Counter::ToaInserted
    }

    /// [`Worker::change_options`] where nothing else changes under the checksum.
    fn strip_in_place<P: PacketBuf>(&self, packet: &mut P, segment: &Segment, found: Found) {
        let conn = &self.table.conns[found.conn as usize];
        self.strip_uoa(packet, segment, found);
        if segment.is_udp() || conn.toa_kind == 0 || segment.piece == Piece::Later {
            return;
        }
        let delta = self.change_options(packet, segment, found);
        if let Some(tcp) = view_mut::<tcp::Header>(packet.data_mut(), segment.l4.into()) {
            tcp.checksum = delta.apply(tcp.checksum);
        }
    }

    /// Strips what a client says of its own address, and makes a SYN-ACK ask for shorter segments.
    #[inline(always)]
    fn change_options<P: PacketBuf>(&self, packet: &mut P, segment: &Segment, found: Found) -> Delta {
        let Some(l4) = packet.data_mut().get_mut(segment.l4.into()..) else { return Delta::ZERO };
        let has_options = view::<tcp::Header>(l4, 0)
            .is_some_and(|tcp| usize::from(tcp.data_offset >> 4) * 4 > tcp::HEADER_LEN);
        if !has_options {
            return Delta::ZERO;
        }
        let conn = &self.table.conns[found.conn as usize];
        match found.direction {
            Direction::Inbound => {
                let opens = client_address::room_of(conn) > 0 && segment.flags & flags::SYN != 0;
                tcp::options_of_mut(l4).map_or(Delta::ZERO, |options| self.strip(options, opens))
            }
            Direction::Outbound if segment.flags & flags::SYN != 0 && client_address::room_of(conn) > 0 => {
                self.lower_mss(l4, client_address::room_of(conn))
            }
            Direction::Outbound => Delta::ZERO,
        }
    }

    /// What a client says of its own address must not reach a real server; a SYN that opens a connection whose real
    /// server is told it later must not get there with Fast Open either.
    fn strip(&self, options: &mut [u8], opens_toa: bool) -> Delta {
        let mut delta = Delta::ZERO;
        if opens_toa {
            let stripped = toa::strip_fast_open(options);
            self.counters.event(Counter::FastOpenStripped).add(stripped.count.into());
            delta += stripped.delta;
        }
        let stripped = toa::strip(options);
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
    fn lower_mss(&self, segment: &mut [u8], by: usize) -> Delta {
        match client_address::lower_mss(segment, by) {
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
        self.counters.real(conn.real_id).count(found.direction, total_len);
    }

    /// Fills in the Ethernet header, or has the next hop resolved.
    #[inline(always)]
    pub(super) fn leave<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        found: Found,
        exit: &Exit,
        fit: Fit,
    ) -> Verdict {
        let adjacency = self.fib.adjacency(exit.adjacency);
        if let Some(adjacency) = adjacency
            && translate::address(packet.data_mut(), adjacency)
        {
            self.counters.event(Counter::Forwarded).add(1);
            return match fit {
                Fit::Whole => Verdict::Forward(exit.port),
                Fit::Cut => {
                    self.counters.event(Counter::Fragmented).add(1);
                    Verdict::ForwardCut { port: exit.port, mtu: exit.mtu }
                }
            };
        }
        self.want_next_hop(found, exit.port);
        // What waits for an address is sent on whole; the sender repeats what must be cut.
        if fit == Fit::Cut {
            return self.drop(DropReason::TooBig);
        }
        self.unresolved(packet, found, exit.port)
    }

    fn is_resolved(&self, exit: &Exit) -> bool {
        self.fib.adjacency(exit.adjacency).is_some_and(|adjacency| adjacency.destination.is_some())
    }

    /// Where a connection's packets in this direction are to get to.
    pub(super) fn target(&self, found: Found) -> Addr {
        let tuples = self.table.tuples(found.conn);
        match found.direction {
            Direction::Inbound => tuples.real().addr,
            Direction::Outbound => tuples.client().addr,
        }
    }

    #[cold]
    fn unresolved<P: PacketBuf>(&mut self, packet: &mut P, found: Found, port: PortId) -> Verdict {
        self.counters.event(Counter::Unresolved).add(1);
        let target = self.target(found);
        if !packet.push_front(Verdict::TARGET_LEN) {
            return self.drop(DropReason::NoHeadroom);
        }
        if let Some(room) = packet.data_mut().get_mut(..Verdict::TARGET_LEN) {
            room.copy_from_slice(&target.octets());
        }
        Verdict::Resolve(port)
    }

    /// Asks for the MAC address of a connection's next hop.
    #[cold]
    fn want_next_hop(&mut self, found: Found, port: PortId) {
        let destination = self.target(found).to_ip();
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

    /// Where the packet leaves, from the record if the record is of this epoch.
    #[inline(always)]
    pub(super) fn exit(&mut self, found: Found) -> Result<Exit, DropReason> {
        let conn = &self.table.conns[found.conn as usize];
        let id = conn.next_hops[found.direction as usize];
        if conn.fib_epoch == self.fib.epoch()
            && let Some(adjacency) = self.fib.adjacency(id)
        {
            return Ok(Exit { port: adjacency.port, mtu: adjacency.mtu, adjacency: id });
        }
        self.look_up_exit(found)
    }

    /// Looks the next hop of this direction up again; of the other one, when a packet wants it.
    #[inline(never)]
    fn look_up_exit(&mut self, found: Found) -> Result<Exit, DropReason> {
        let fib = &self.fib;
        let next_hop = fib.lookup(self.target(found).to_ip());
        let conn = &mut self.table.conns[found.conn as usize];
        if conn.fib_epoch != fib.epoch() {
            conn.fib_epoch = fib.epoch();
            conn.next_hops = [AdjacencyId::NONE; 2];
        }
        conn.next_hops[found.direction as usize] = adjacency_of(next_hop);
        exit_of(fib, next_hop)
    }

    /// Answers with an ICMP error; where that is not allowed (RFC 1122 §3.2.2, RFC 4443 §2.4), not possible or over the
    /// limit, drops for `reason`.
    pub(super) fn answer<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        segment: &Segment,
        error: Error,
        reason: DropReason,
    ) -> Verdict {
        let may = icmp::may_answer(packet.data(), segment.wide, error);
        if may && self.limiter.allows_icmp() && icmp::answer(packet, segment.wide, error) {
            self.counters.event(Counter::Replied).add(1);
            Verdict::Reply(PortId(packet.port()))
        } else {
            self.drop(reason)
        }
    }

    /// Ends a connection that lives for one packet only.
    pub(super) fn end_one_packet(&mut self, found: Found) {
        if self.table.conns[found.conn as usize].is(trait_::ONE_PACKET) {
            self.end(found.conn);
        }
    }
}

/// Whether a packet that will be `len` bytes long fits a link.
#[inline(always)]
fn fit(data: &[u8], segment: &Segment, len: usize, mtu: u16) -> Result<Fit, Refused> {
    if len <= usize::from(mtu) {
        return Ok(Fit::Whole);
    }
    let may_cut = !segment.wide
        && view::<ipv4::Header>(data, ethernet::HEADER_LEN).is_some_and(|ip| !ip.dont_fragment());
    if may_cut { Ok(Fit::Cut) } else { Err(Refused::TooBig { mtu }) }
}

/// Cuts off what stands behind the IP packet: Ethernet padding, or what somebody hides there.
#[inline(always)]
fn trim<P: PacketBuf>(packet: &mut P, segment: &Segment) {
    packet.truncate(segment.end.into());
}

pub(super) fn adjacency_of(next_hop: NextHop) -> AdjacencyId {
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

/// TTL or hop limit.
#[inline(always)]
pub(super) fn hops(data: &[u8], wide: bool) -> u8 {
    if wide {
        view::<ipv6::Header>(data, ethernet::HEADER_LEN).map_or(0, |ip| ip.hop_limit)
    } else {
        view::<ipv4::Header>(data, ethernet::HEADER_LEN).map_or(0, |ip| ip.ttl)
    }
}
