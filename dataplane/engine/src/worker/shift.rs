//! Sequence numbers and timestamps that differ on both sides of the gateway.
//!
//! A real server in TIME_WAIT takes a new connection from the same local endpoint only if its sequence numbers, or its
//! timestamps, lie beyond those of the last one (RFC 9293 §3.6.1, RFC 6191). Clients know nothing of each other, so the
//! gateway gives each connection an initial sequence number and a timestamp that only go forward for one local
//! endpoint (RFC 6528). Everything that the gateway itself looks at is in the client's numbers: what the real server
//! sends is shifted back before it is tracked, what the client sends is shifted after.
//!
//! Where a real server is told its clients by the PROXY protocol, the header stands between a client's SYN and its first
//! byte. Everything from there on is further by its length; what lies within it is, for the client, where its stream
//! begins.

use wire::checksum::Delta;
use wire::tcp::{self, flags, options};
use wire::{PacketBuf, U16, view, view_mut};

use super::Worker;
use super::track::{checksum_is_valid, scale_of};
use crate::conn::{Conn, Direction, Stage, trait_};
use crate::counters::Counter;
use crate::hash::AnyKey;
use crate::parse::{Piece, Segment};
use crate::snapshot::{Options, Timestamps};
use crate::table::Found;
use crate::time::{TICKS_PER_SECOND, Ticks};

/// How fast initial sequence numbers go forward: 16 MB/s, as Linux does it. They lap themselves after 256 s, so what was
/// sent within half of that, two TIME_WAITs, lies behind.
const ISN_PER_TICK: u32 = (1 << 24) / TICKS_PER_SECOND;
/// Timestamps are taken to count milliseconds, the fastest clock that is usual (RFC 7323 §5.4).
const MILLIS_PER_TICK: u32 = 1000 / TICKS_PER_SECOND;
/// When so much was acknowledged, no number of the first bytes comes any more; half of what can be told from numbers that
/// lie before.
const OVER_AFTER: u32 = 1 << 30;

impl Worker {
    /// Sets up what a new connection of a FULLNAT real server is to have shifted.
    pub(super) fn begin_shifts(
        &self,
        conn: &mut Conn,
        options: Options,
        outbound: &AnyKey,
        now: Ticks,
        syn: &[u8],
    ) {
        let Some(header) = view::<tcp::Header>(syn, 0) else { return };
        if options.rebase_sequence {
            let start = self.steering.hash_any(outbound) as u32;
            let isn = start.wrapping_add(now.0.wrapping_mul(ISN_PER_TICK));
            conn.seq_shift = isn.wrapping_sub(header.seq.get());
            conn.traits |= trait_::SHIFTED;
        }
        match options.timestamps {
            Timestamps::Keep => {}
            Timestamps::Strip => conn.traits |= trait_::STRIP_TIMESTAMPS,
            Timestamps::Rewrite => {
                let Some((value, _)) = tcp::options_of(syn).and_then(options::timestamps) else { return };
                let start = (self.steering.hash_any(outbound) >> 32) as u32;
                let clock = start.wrapping_add(now.0.wrapping_mul(MILLIS_PER_TICK));
                conn.timestamp_shift = clock.wrapping_sub(value);
                conn.traits |= trait_::SHIFTED;
            }
        }
    }

    /// Takes the shifts out of what a real server sends.
    pub(super) fn shift_back<P: PacketBuf>(&self, packet: &mut P, segment: &Segment, found: Found) {
        let conn = &self.table.conns[found.conn as usize];
        if !conn.is(trait_::SHIFTED) || segment.is_udp() || found.direction == Direction::Inbound {
            return;
        }
        let (by, timestamps) = (conn.seq_shift.wrapping_neg(), conn.timestamp_shift.wrapping_neg());
        edit(packet, segment, |header, options| {
            let opens = header.flags & flags::SYN != 0;
            let mut delta = take_window(conn, header);
            if opens || conn.preface.len == 0 {
                delta += header.shift_ack(by);
                delta += if opens { Delta::ZERO } else { options::map_sack(options, by) };
            } else {
                let ack = header.ack.get();
                delta += header.shift_ack(conn.shifted_back(ack).wrapping_sub(ack));
                delta += options::map_sack_edges(options, |edge| conn.shifted_back(edge));
            }
            delta + options::shift_timestamps(options, 0, timestamps)
        });
    }

    /// Looks how far a real server is with the PROXY protocol's header; to be asked before [`Worker::shift_back`].
    pub(super) fn note_preface(&mut self, data: &[u8], segment: &Segment, found: Found) {
        let conn = &mut self.table.conns[found.conn as usize];
        let preface = conn.preface;
        let counts = segment.flags & (flags::SYN | flags::RST | flags::ACK) == flags::ACK;
        if preface.len == 0
            || preface.stage == Stage::Over
            || !counts
            || found.direction == Direction::Inbound
        {
            return;
        }
        let Some(tcp) = view::<tcp::Header>(data, segment.l4.into()) else { return };
        let into = tcp.ack.get().wrapping_sub(conn.seq_shift).wrapping_sub(conn.client_isn.wrapping_add(1));
        // What acknowledges more than the client can have sent is late, of a connection that was there before.
        let most = u32::from(preface.len) + (u32::from(u16::MAX) << scale_of(conn, Direction::Outbound));
        let stage = match preface.stage {
            Stage::Owed if (u32::from(preface.len)..=most.min(OVER_AFTER)).contains(&into) => Stage::Told,
            Stage::Told if (OVER_AFTER..2 * OVER_AFTER).contains(&into) => Stage::Over,
            _ => return,
        };
        if checksum_is_valid(data, segment) {
            conn.preface.stage = stage;
        }
    }

    /// Shifts what a client sends, and takes timestamps out of handshakes where that is wanted.
    pub(super) fn shift<P: PacketBuf>(&self, packet: &mut P, segment: &Segment, found: Found) {
        let conn = &self.table.conns[found.conn as usize];
        if segment.flags & flags::SYN != 0 && conn.is(trait_::STRIP_TIMESTAMPS) {
            edit(packet, segment, |_, options| {
                let stripped = options::strip_timestamps(options);
                self.counters.event(Counter::TimestampsStripped).add(stripped.count.into());
                stripped.delta
            });
        }
        if conn.is(trait_::SHIFTED) && found.direction == Direction::Inbound {
            edit(packet, segment, |header, options| {
                // What carries the header begins where that does.
                let by = if carries_header(conn, segment, header) {
                    conn.seq_shift
                } else {
                    conn.shift_of(header.seq.get(), header.flags & flags::SYN != 0)
                };
                header.shift_seq(by) + options::shift_timestamps(options, conn.timestamp_shift, 0)
            });
        }
    }
}

/// Whether a client's segment is to carry the PROXY protocol's header: it begins where the client's stream begins, and the
/// real server has not acknowledged the header. That is the ACK of the handshake, so that real servers that speak first
/// have it as well, whatever repeats it, and the first data. Were it lost with all of them, the real server would repeat its
/// SYN-ACK, or the client its data.
#[inline(always)]
pub(super) fn carries_header(conn: &Conn, segment: &Segment, header: &tcp::Header) -> bool {
    conn.preface.is_owed()
        && segment.flags & (flags::SYN | flags::RST | flags::ACK) == flags::ACK
        && segment.piece == Piece::Whole
        && header.seq.get() == conn.client_isn.wrapping_add(1)
}

/// The header that is under way takes its room in the real server's window (rounded up to what the window can say).
fn take_window(conn: &Conn, header: &mut tcp::Header) -> Delta {
    let left = conn.preface_left(header.ack.get());
    if left == 0 || !header.has(flags::ACK) {
        return Delta::ZERO;
    }
    let scale = if header.has(flags::SYN) { 0 } else { scale_of(conn, Direction::Outbound) };
    let old = header.window;
    header.window = U16::new(old.get().saturating_sub(left.div_ceil(1 << scale) as u16));
    Delta::ZERO.replace16(old, header.window)
}

/// Changes the header or the options of a TCP segment, and its checksum by what that changes.
fn edit<P: PacketBuf>(
    packet: &mut P,
    segment: &Segment,
    change: impl FnOnce(&mut tcp::Header, &mut [u8]) -> Delta,
) {
    if segment.piece == Piece::Later {
        return;
    }
    let Some(l4) = packet.data_mut().get_mut(segment.l4.into()..segment.end.into()) else { return };
    let options_len = view::<tcp::Header>(l4, 0).map_or(0, |tcp| usize::from(tcp.data_offset >> 4) * 4);
    let options_len = options_len.saturating_sub(tcp::HEADER_LEN);
    let Some((header, rest)) = l4.split_at_mut_checked(tcp::HEADER_LEN) else { return };
    let (Some(header), Some(options)) = (view_mut::<tcp::Header>(header, 0), rest.get_mut(..options_len))
    else {
        return;
    };
    let delta = change(header, options);
    header.checksum = delta.apply(header.checksum);
}
