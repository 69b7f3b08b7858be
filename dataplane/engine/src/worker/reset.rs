//! Telling both sides that a connection has ended, where the service wants it (`reset_on_expiry`).
//!
//! A RST counts for sure only with exactly the number that its receiver expects next (RFC 5961 §3.2). What both sides
//! acknowledged last is that number, unless something is under way just now. So the record does not go with the RSTs: it
//! stays in CLOSE for the timeout of that state, and what still comes is answered as a closed port would
//! (RFC 9293 §3.10.7.1), with the number that the packet itself names; also the ACK by which a receiver asks whether
//! the RST was meant. In one-way modes the real server asks the client, whose stack answers with a RST, which is
//! forwarded.

use wire::tcp::{self, Reset, flags};
use wire::{MacAddr, PacketBuf, U16, ethernet, view, view_mut};

use super::Worker;
use super::errors::addresses;
use super::forward::{Fit, Refused};
use super::track::payload_len;
use crate::addr::Tuple;
use crate::conn::{Conn, Direction, flag, trait_};
use crate::counters::Counter;
use crate::ids::PortId;
use crate::parse::{Parsed, Segment, parse};
use crate::snapshot::Mode;
use crate::table::{Found, is_live};
use crate::tcp::ConnState;
use crate::time::Ticks;
use crate::verdict::{DropReason, Verdict};

impl Worker {
    /// Ends a connection whose time is up, or has both sides told first; `false`, and no change, when too many wait to
    /// be told already.
    pub(super) fn end_telling(&mut self, now: Ticks, index: u32) -> bool {
        let conn = &self.table.conns[index as usize];
        if !may_be_open(conn) || !self.snapshot.resets(conn.service) {
            self.end(index);
            return true;
        }
        if self.resets.remaining_capacity() < 2 {
            return false;
        }
        // The last is written first: the client is told before the real server, so that in one-way modes it is closed by
        // the time the real server asks it.
        for direction in [Direction::Inbound, Direction::Outbound] {
            self.resets.push(Found { conn: index, direction });
        }
        let conn = &mut self.table.conns[index as usize];
        conn.traits |= trait_::RESET;
        conn.seen = now;
        self.set_state(now, index, ConnState::Close);
        true
    }

    /// How many RSTs [`Worker::write_reset`] has to write; to be asked after [`Worker::housekeep`].
    #[inline]
    pub fn resets_waiting(&self) -> usize {
        self.resets.len()
    }

    /// Writes one of them into an empty packet, which is then to be treated by the verdict like one that came in;
    /// `None`, and the packet is not used, when there is none.
    pub fn write_reset<P: PacketBuf>(&mut self, packet: &mut P) -> Option<Verdict> {
        let (found, reset) = loop {
            let found = self.resets.pop()?;
            let conn = &self.table.conns[found.conn as usize];
            // The record may have gone to another connection since.
            if is_live(conn)
                && conn.is(trait_::RESET)
                && let Some(reset) = self.reset_of(found)
            {
                break (found, reset);
            }
        };
        let verdict = match self.send_reset(packet, found, &reset) {
            Ok(verdict) => verdict,
            Err(reason) => self.drop(reason),
        };
        Some(verdict)
    }

    /// What is to be sent in a direction, in the words of the side that it seems to come from; to a client in one-way modes
    /// as it arrives there.
    fn reset_of(&self, found: Found) -> Option<Reset> {
        let conn = &self.table.conns[found.conn as usize];
        let tuple = if is_direct(conn, found.direction) {
            self.table.tuple(conn, Direction::Inbound).reversed()
        } else {
            self.table.tuple(conn, found.direction)
        };
        let seq = next_expected(conn, found.direction.other())?;
        Some(reset_between(&tuple, seq, next_expected(conn, found.direction)))
    }

    fn send_reset<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        found: Found,
        reset: &Reset,
    ) -> Result<Verdict, DropReason> {
        let exit = self.exit(found)?;
        let segment = write_frame(packet, reset).ok_or(DropReason::NoHeadroom)?;
        let conn = &self.table.conns[found.conn as usize];
        let sent = match conn.mode {
            Mode::FullNat | Mode::Nat => self.send_translated(packet, &segment, found, exit.mtu),
            _ if is_direct(conn, found.direction) => Ok(Fit::Whole),
            Mode::Dr => self.send_direct(packet, &segment, found, exit.mtu),
            Mode::Tun => self.send_tunnelled(packet, &segment, found, exit.mtu),
        };
        match sent {
            Ok(fit) => {
                self.counters.event(Counter::ResetsSent).add(1);
                Ok(self.leave(packet, found, &exit, fit))
            }
            Err(Refused::TooBig { .. }) => Err(DropReason::TooBig),
            Err(Refused::Drop(reason)) => Err(reason),
        }
    }

    /// A packet of a connection that was reset; `None`: it is to be forwarded.
    #[cold]
    pub(super) fn answer_with_reset<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Option<Verdict> {
        let opens =
            found.direction == Direction::Inbound && segment.flags & (flags::SYN | flags::ACK) == flags::SYN;
        if opens {
            self.counters.event(Counter::ConnectionsReused).add(1);
            self.end(found.conn);
            return Some(self.unknown(now, packet, segment));
        }
        let header = view::<tcp::Header>(packet.data(), segment.l4.into())?;
        let between = addresses(&segment.tuple(packet.data()));
        let reset = Reset::answer_to(&between, header, payload_len(header, segment))?;
        packet.truncate(ethernet::HEADER_LEN + reset.packet_len());
        let (eth, rest) = packet.data_mut().split_at_mut_checked(ethernet::HEADER_LEN)?;
        reset.write(rest)?;
        let eth = view_mut::<ethernet::Header>(eth, 0)?;
        (eth.src, eth.dst) = (eth.dst, eth.src);
        self.counters.event(Counter::ResetsSent).add(1);
        self.counters.event(Counter::Replied).add(1);
        Some(Verdict::Reply(PortId(packet.port())))
    }
}

/// Whether both sides may believe in a connection. In a handshake the client tries again and gets another real server;
/// what both have closed, or one has reset, needs no RST.
fn may_be_open(conn: &Conn) -> bool {
    use ConnState::{CloseWait, Established, FinWait, LastAck};
    matches!(conn.state, Established | FinWait | CloseWait | LastAck)
}

/// Whether what is sent in this direction is written as it arrives, because such packets never come this way.
fn is_direct(conn: &Conn, direction: Direction) -> bool {
    conn.is(trait_::ONE_WAY) && direction == Direction::Outbound
}

/// The number that the side which sends in this direction expects next, as far as it is known.
fn next_expected(conn: &Conn, direction: Direction) -> Option<u32> {
    let (seen, other_isn) = match direction {
        Direction::Inbound => (flag::INBOUND_ACK, conn.has(flag::SYN_ACK_SEEN).then_some(conn.real_isn)),
        Direction::Outbound => (flag::OUTBOUND_ACK, Some(conn.client_isn)),
    };
    if conn.has(seen) {
        return Some(conn.acks[direction as usize]);
    }
    other_isn.map(|isn| isn.wrapping_add(1))
}

fn reset_between(tuple: &Tuple, seq: u32, ack: Option<u32>) -> Reset {
    let port = |port: u16| U16::from_bytes(port.to_ne_bytes());
    Reset {
        addresses: addresses(tuple),
        src_port: port(tuple.src.port),
        dst_port: port(tuple.dst.port),
        seq,
        ack,
    }
}

/// Writes a RST behind an Ethernet header that is still to be addressed.
fn write_frame<P: PacketBuf>(packet: &mut P, reset: &Reset) -> Option<Segment> {
    if !packet.push_back(ethernet::HEADER_LEN + reset.packet_len()) {
        return None;
    }
    let ether_type = reset.addresses.family().ether_type();
    *view_mut::<ethernet::Header>(packet.data_mut(), 0)? =
        ethernet::Header { dst: MacAddr::ZERO, src: MacAddr::ZERO, ether_type };
    reset.write(packet.data_mut().get_mut(ethernet::HEADER_LEN..)?)?;
    match parse(packet.data(), MacAddr::ZERO) {
        Parsed::Segment(segment) => Some(segment),
        _ => None,
    }
}
