//! What a segment does to the state of its connection.

use wire::tcp::{self, flags};
use wire::{checksum, ethernet, ipv4, ipv6, udp, view};

use super::{Worker, timeout};
use crate::conn::{Conn, Direction, Scale, Stage, flag, trait_};
use crate::counters::Counter;
use crate::parse::{Piece, Segment};
use crate::table::Found;
use crate::tcp::{ConnState, FlagClass, Seen, in_window, later, next};
use crate::time::Ticks;

/// What the segment means for what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracked {
    /// Forward it.
    Forward,
    /// It opens a new connection between the endpoints of an old one, which is over.
    Reopen,
}

/// Least window that RST and FIN are judged by, so that a zero-window receiver can still be told: two segments.
const WINDOW_MIN: u32 = 2 * 1460;

/// The widest window that there is (RFC 7323 §2.3).
const WINDOW_MAX: u32 = (u16::MAX as u32) << tcp::options::WINDOW_SCALE_MAX;

/// One way, how far the next number that a client may send can be ahead of the last one seen. More than that is never
/// under way at once between a client and the gateway: what was lost there is sent again before much else comes.
const SENT_AHEAD_MAX: u32 = 1 << 20;

/// One way, how far the number of a RST or FIN may be from the next one expected, to either side. Ahead: packets before
/// it were lost or overtaken. Behind: it answers a packet of the real server that had not acknowledged everything.
const ONE_WAY_WINDOW: u32 = 65_535;

impl Worker {
    #[inline(always)]
    pub(super) fn track(&mut self, now: Ticks, data: &[u8], segment: &Segment, found: Found) -> Tracked {
        if segment.is_udp() {
            return self.track_udp(now, found);
        }
        let Some(tcp) = view::<tcp::Header>(data, segment.l4.into()) else { return Tracked::Forward };
        let conn = &mut self.table.conns[found.conn as usize];
        conn.seen = now;
        let plain = segment.flags & (flags::SYN | flags::FIN | flags::RST) == 0;
        let watched = found.direction == Direction::Outbound && conn.has(flag::TOA_PENDING);
        if plain && conn.state == ConnState::Established && !watched {
            note_ack(conn, found.direction, tcp, segment.l4_len());
            return Tracked::Forward;
        }
        self.track_change(now, data, segment, found, tcp)
    }

    /// UDP has one state; what is answered is no longer given up first.
    #[inline(always)]
    fn track_udp(&mut self, now: Ticks, found: Found) -> Tracked {
        let conn = &mut self.table.conns[found.conn as usize];
        conn.seen = now;
        if found.direction == Direction::Outbound && conn.has(flag::EMBRYONIC) {
            self.embryonic.remove(&mut self.table.conns, found.conn);
            self.count_gauges();
        }
        Tracked::Forward
    }

    /// Segments that may change more than a time stamp: only if their checksum is right, since what is corrupt will
    /// not be believed by its receiver either.
    #[inline(never)]
    fn track_change(
        &mut self,
        now: Ticks,
        data: &[u8],
        segment: &Segment,
        found: Found,
        tcp: &tcp::Header,
    ) -> Tracked {
        if !checksum_is_valid(data, segment) {
            return Tracked::Forward;
        }
        let class = FlagClass::of(segment.flags);
        let conn = &mut self.table.conns[found.conn as usize];
        if class == FlagClass::Syn {
            let opens = found.direction == Direction::Inbound && segment.flags & flags::ACK == 0;
            // One way, where what the real server thinks is not seen, an old duplicate must not lead elsewhere.
            let is_new = tcp.seq.get() != conn.client_isn
                && (!conn.is(trait_::ONE_WAY) || later(tcp.seq.get(), conn.client_isn));
            if opens && conn.state.may_be_reused() && is_new {
                return Tracked::Reopen;
            }
            if begins_anew(conn, found.direction, tcp) {
                begin_anew(conn, tcp);
                if !conn.state.is_embryonic() {
                    self.set_state(now, found.conn, ConnState::SynRecv);
                }
            }
            let conn = &mut self.table.conns[found.conn as usize];
            note_syn(conn, found.direction, tcp, data, segment);
        }
        let conn = &mut self.table.conns[found.conn as usize];
        let state = conn.state;
        let one_way = conn.is(trait_::ONE_WAY);
        let allowed = match class {
            FlagClass::Rst if one_way => check_one_way(conn, tcp.seq.get(), Counter::RstOutOfWindow),
            FlagClass::Fin if one_way => check_one_way(conn, tcp.seq.get(), Counter::FinOutOfWindow),
            _ if one_way => Ok(()),
            FlagClass::Syn => Ok(()),
            FlagClass::Rst => check_rst(conn, found.direction, tcp),
            FlagClass::Fin => check_handshake(conn, found.direction, tcp, segment)
                .and_then(|()| check_fin(conn, found.direction, tcp, segment)),
            FlagClass::Ack | FlagClass::Other => check_handshake(conn, found.direction, tcp, segment),
        };
        if let Err(event) = allowed {
            self.counters.event(event).add(1);
            return Tracked::Forward;
        }
        if class != FlagClass::Rst {
            note_ack(conn, found.direction, tcp, segment.l4_len());
        }
        note_toa_progress(conn, found.direction, tcp, segment);
        let seen = match found.direction {
            Direction::Inbound if one_way => Seen::InboundOnly,
            Direction::Inbound => Seen::Inbound,
            Direction::Outbound => Seen::Outbound,
        };
        let new = next(seen, class, state);
        let begins = class == FlagClass::Syn && new == ConnState::SynRecv;
        if one_way && (begins || state.is_embryonic() && !new.is_embryonic()) {
            conn.flags &= !flag::OUTBOUND_ACK;
        }
        if begins || !matches!(class, FlagClass::Syn | FlagClass::Rst) {
            note_sent(conn, sent_end(tcp, segment));
        }
        if new != state {
            self.set_state(now, found.conn, new);
        }
        Tracked::Forward
    }

    /// Moves a connection to another state and keeps counters, lists and expiry in step.
    pub(super) fn set_state(&mut self, now: Ticks, index: u32, new: ConnState) {
        let conn = &mut self.table.conns[index as usize];
        let old = std::mem::replace(&mut conn.state, new);
        self.counters.state(old).sub(1);
        self.counters.state(new).add(1);
        if old.is_active() != new.is_active() {
            let real = self.counters.real(conn.real_id);
            let (from, to) =
                if new.is_active() { (&real.inactive, &real.active) } else { (&real.active, &real.inactive) };
            from.sub(1);
            to.add(1);
        }
        let deadline = now.plus(timeout(&self.snapshot, conn.service, new));
        let late = self.wheel.is_late(conn, now, deadline);
        if new.is_embryonic() && !old.is_embryonic() {
            self.embryonic.push(&mut self.table.conns, index);
            self.count_gauges();
        } else if old.is_embryonic() && !new.is_embryonic() {
            self.embryonic.remove(&mut self.table.conns, index);
            self.count_gauges();
        }
        if late {
            self.wheel.disarm(&mut self.table.conns, index);
            self.wheel.arm(&mut self.table.conns, index, now, deadline);
        }
    }
}

/// Whether the TCP or UDP checksum is right. That of a first fragment covers bytes that are elsewhere and is believed: its
/// header was seen whole, and the receiver checks the rest.
pub(super) fn checksum_is_valid(data: &[u8], segment: &Segment) -> bool {
    if segment.piece != Piece::Whole {
        return true;
    }
    let Some(bytes) = data.get(segment.l4.into()..segment.end.into()) else { return false };
    let bytes = if segment.is_udp() { udp::datagram(bytes) } else { bytes };
    if segment.wide {
        let Some(ip) = view::<ipv6::Header>(data, ethernet::HEADER_LEN) else { return false };
        return if segment.is_udp() {
            checksum::verify_udp_v6(&ip.src, &ip.dst, bytes)
        } else {
            checksum::verify_tcp_v6(&ip.src, &ip.dst, bytes)
        };
    }
    let Some(ip) = view::<ipv4::Header>(data, ethernet::HEADER_LEN) else { return false };
    if segment.is_udp() {
        checksum::verify_udp_v4(ip.src, ip.dst, bytes)
    } else {
        checksum::verify_tcp_v4(ip.src, ip.dst, bytes)
    }
}

/// Remembers the greatest acknowledgement and the window that came with it.
///
/// Of segments with the same acknowledgement the widest window counts: a receiver does not take room back
/// (RFC 9293 §3.8.6), so a smaller one is an older segment that was overtaken. An acknowledgement further ahead than
/// any window reaches is corrupt or forged; believing it would put every later RST and FIN out of the window.
#[inline(always)]
pub(super) fn note_ack(conn: &mut Conn, direction: Direction, tcp: &tcp::Header, len: usize) {
    if tcp.flags & flags::ACK == 0 {
        return;
    }
    let (seen, i) = (seen_flag(direction), direction as usize);
    if !conn.has(seen) {
        conn.acks[i] = tcp.ack.get();
        conn.windows[i] = tcp.window.get();
        conn.flags |= seen;
    }
    if conn.is(trait_::ONE_WAY) {
        note_sent(conn, tcp.seq.get().wrapping_add(payload_len_of(tcp, len)));
        return note_next_ack::<true>(conn, direction, tcp, payload_len_of(tcp, len));
    }
    note_next_ack::<false>(conn, direction, tcp, 0);
}

/// The same of a segment that has one, in a connection where there was one before from either side. `ONE_WAY`: replies do
/// not come this way; only then is `payload_len` looked at.
#[inline(always)]
pub(crate) fn note_next_ack<const ONE_WAY: bool>(
    conn: &mut Conn,
    direction: Direction,
    tcp: &tcp::Header,
    payload_len: u32,
) {
    let i = direction as usize;
    if ONE_WAY {
        // No RST or FIN is held against it, so no window is kept.
        let ack = tcp.ack.get();
        if ack.wrapping_sub(conn.acks[i]) <= WINDOW_MAX {
            conn.acks[i] = ack;
        }
        return note_next_sent(conn, tcp.seq.get().wrapping_add(payload_len));
    }
    let (ack, window) = (tcp.ack.get(), tcp.window.get());
    let ahead = ack.wrapping_sub(conn.acks[i]);
    if ahead == 0 {
        conn.windows[i] = conn.windows[i].max(window);
        return;
    }
    // Only what is far ahead needs the scale, which lies in the record's other cache line.
    let near = u32::from(u16::MAX);
    if ahead <= near || ahead <= near << scale_of(conn, direction) {
        conn.acks[i] = ack;
        conn.windows[i] = window;
    }
}

/// Bytes behind the header in so many bytes of a segment, which are at least the header.
#[inline(always)]
fn payload_len_of(tcp: &tcp::Header, len: usize) -> u32 {
    (len as u32).wrapping_sub(u32::from(tcp.data_offset >> 4) * 4)
}

/// One way: remembers how far the client has sent, in the place of what the real server acknowledged, which is not seen.
#[inline(always)]
pub(super) fn note_sent(conn: &mut Conn, next: u32) {
    if !conn.is(trait_::ONE_WAY) {
        return;
    }
    if !conn.has(flag::OUTBOUND_ACK) {
        conn.acks[Direction::Outbound as usize] = next;
        conn.flags |= flag::OUTBOUND_ACK;
    }
    note_next_sent(conn, next);
}

/// What lies further ahead than can be is corrupt or forged, as in [`note_ack`].
#[inline(always)]
fn note_next_sent(conn: &mut Conn, next: u32) {
    let sent = &mut conn.acks[Direction::Outbound as usize];
    if next.wrapping_sub(*sent) <= SENT_AHEAD_MAX {
        *sent = next;
    }
}

/// The number behind a segment (RFC 9293 §3.4: SYN and FIN count as a byte each).
#[inline(always)]
fn sent_end(tcp: &tcp::Header, segment: &Segment) -> u32 {
    let control = u32::from(tcp.flags & flags::SYN != 0) + u32::from(tcp.flags & flags::FIN != 0);
    tcp.seq.get().wrapping_add(payload_len(tcp, segment)).wrapping_add(control)
}

/// What the receiver acknowledged is not seen one way, so a RST or FIN is held against what the client itself sent.
fn check_one_way(conn: &Conn, seq: u32, event: Counter) -> Result<(), Counter> {
    let sent = conn.acks[Direction::Outbound as usize];
    let known = conn.has(flag::OUTBOUND_ACK);
    if !known || in_window(seq.wrapping_add(ONE_WAY_WINDOW), sent, 2 * ONE_WAY_WINDOW) {
        Ok(())
    } else {
        Err(event)
    }
}

/// What a SYN's options say of the window scale.
pub(super) fn scale_in(options: &[u8]) -> Scale {
    let scale = tcp::options::window_scale(options);
    Scale { shift: scale.unwrap_or(0).min(tcp::options::WINDOW_SCALE_MAX), offered: scale.is_some() }
}

/// RFC 7323 §2.2: scales count only if both sides offered one.
#[inline(always)]
pub(super) fn scale_of(conn: &Conn, direction: Direction) -> u8 {
    let scaled = conn.scales[0].offered && conn.scales[1].offered;
    if scaled { conn.scales[direction as usize].shift } else { 0 }
}

#[inline(always)]
fn seen_flag(direction: Direction) -> u8 {
    flag::INBOUND_ACK << direction as u8
}

/// Initial sequence numbers and window scales of an unfinished handshake.
fn note_syn(conn: &mut Conn, direction: Direction, tcp: &tcp::Header, data: &[u8], segment: &Segment) {
    if !conn.state.is_embryonic() {
        return;
    }
    let options =
        data.get(segment.l4.into()..segment.end.into()).and_then(tcp::options_of).unwrap_or_default();
    match direction {
        // The SYN that was answered counts. A later one must not move it, or its sender could make the real server's
        // ACK look like one of data; if the real server does take it, its SYN-ACK begins the connection anew.
        Direction::Inbound if tcp.flags & flags::ACK == 0 && !conn.has(flag::SYN_ACK_SEEN) => {
            conn.client_isn = tcp.seq.get();
        }
        Direction::Outbound if tcp.ack.get() == conn.client_isn.wrapping_add(1) => {
            conn.real_isn = tcp.seq.get();
            conn.flags |= flag::SYN_ACK_SEEN;
        }
        _ => return,
    }
    conn.scales[direction as usize] = scale_in(options);
}

/// Whether the real server opens a connection: its SYN-ACK is not the one that is known already. In an open connection
/// this means that it had forgotten the former one and takes a new one between the same endpoints (RFC 9293 §3.5.1,
/// half-open connections); which of several SYNs counts is the real server's decision.
fn begins_anew(conn: &Conn, direction: Direction, tcp: &tcp::Header) -> bool {
    let known = conn.has(flag::SYN_ACK_SEEN)
        && tcp.seq.get() == conn.real_isn
        && tcp.ack.get() == conn.client_isn.wrapping_add(1);
    direction == Direction::Outbound && tcp.flags & flags::ACK != 0 && !known
}

/// Forgets what was tracked of the former connection, all but the client's window scale, which is its stack's; the
/// real server has to be told the client's address again.
fn begin_anew(conn: &mut Conn, syn_ack: &tcp::Header) {
    conn.flags &= !(flag::SYN_ACK_SEEN | flag::INBOUND_ACK | flag::OUTBOUND_ACK);
    if conn.tells_client() {
        conn.flags |= flag::TOA_PENDING;
    }
    conn.preface.stage = Stage::Owed;
    conn.client_isn = syn_ack.ack.get().wrapping_sub(1);
}

/// In an unfinished handshake only an ACK of the SYN-ACK counts, exactly: the real server can have sent nothing more.
/// So blind SYN and ACK pairs do not fill the table with connections that are remembered for minutes, and the RST that
/// a real server answers to a guessed ACK finds no window to lie in.
///
/// From the real server's side data, a FIN or an ACK of data prove that it holds the handshake for done; a bare ACK of
/// the SYN does not, it also answers a SYN out of its window.
fn check_handshake(
    conn: &Conn,
    direction: Direction,
    tcp: &tcp::Header,
    segment: &Segment,
) -> Result<(), Counter> {
    if !conn.state.is_embryonic() {
        return Ok(());
    }
    let answered = conn.has(flag::SYN_ACK_SEEN);
    let valid = match direction {
        Direction::Inbound => tcp.flags & flags::ACK != 0 && tcp.ack.get() == conn.real_isn.wrapping_add(1),
        Direction::Outbound => {
            // What acknowledges more than the client can have sent is late, of a connection that was there before.
            let acked = tcp.ack.get().wrapping_sub(conn.client_isn.wrapping_add(1));
            let speaks = payload_len(tcp, segment) > 0 || tcp.flags & flags::FIN != 0 || acked > 0;
            speaks && acked <= u32::from(u16::MAX) << scale_of(conn, direction)
        }
    };
    if answered && valid { Ok(()) } else { Err(Counter::HandshakeAckInvalid) }
}

/// The window of the side that receives what is sent in `direction`: what it acknowledged, and how much may follow.
fn receiver(conn: &Conn, direction: Direction) -> Option<(u32, u32)> {
    let other = match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    if conn.flags & seen_flag(other) == 0 {
        return None;
    }
    let window = u32::from(conn.windows[other as usize]) << scale_of(conn, other);
    Some((conn.acks[other as usize], window.max(WINDOW_MIN)))
}

/// RFC 9293 §3.10.7.3 and .4: in a handshake the RST must acknowledge our SYN or follow it, later it must lie in the
/// window.
fn check_rst(conn: &Conn, direction: Direction, tcp: &tcp::Header) -> Result<(), Counter> {
    let after_syn = conn.client_isn.wrapping_add(1);
    let valid = match (receiver(conn, direction), direction) {
        (Some((acked, window)), _) => in_window(tcp.seq.get(), acked, window),
        (None, Direction::Inbound) => tcp.seq.get() == after_syn || tcp.seq.get() == conn.client_isn,
        (None, Direction::Outbound) => tcp.flags & flags::ACK != 0 && tcp.ack.get() == after_syn,
    };
    if valid { Ok(()) } else { Err(Counter::RstOutOfWindow) }
}

fn check_fin(conn: &Conn, direction: Direction, tcp: &tcp::Header, segment: &Segment) -> Result<(), Counter> {
    let Some((acked, window)) = receiver(conn, direction) else { return Ok(()) };
    let fin = tcp.seq.get().wrapping_add(payload_len(tcp, segment));
    // A FIN that is sent again lies just behind what is acknowledged; the table leaves the state as it is then.
    if in_window(fin, acked.wrapping_sub(1), window.saturating_add(1)) {
        Ok(())
    } else {
        Err(Counter::FinOutOfWindow)
    }
}

pub(super) fn payload_len(tcp: &tcp::Header, segment: &Segment) -> u32 {
    let header_len = usize::from(tcp.data_offset >> 4) * 4;
    (usize::from(segment.end) - usize::from(segment.l4)).saturating_sub(header_len) as u32
}

/// The real server has the client's address when it acknowledges more than the SYN, or speaks itself.
fn note_toa_progress(conn: &mut Conn, direction: Direction, tcp: &tcp::Header, segment: &Segment) {
    if direction == Direction::Inbound || tcp.flags & (flags::SYN | flags::RST) != 0 {
        return;
    }
    let acked = tcp.flags & flags::ACK != 0 && later(tcp.ack.get(), conn.client_isn.wrapping_add(1));
    if acked || payload_len(tcp, segment) > 0 || tcp.flags & flags::FIN != 0 {
        conn.flags &= !flag::TOA_PENDING;
    }
}
