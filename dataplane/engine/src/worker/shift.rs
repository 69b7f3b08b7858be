//! Sequence numbers and timestamps that differ on both sides of the gateway.
//!
//! A real server in TIME_WAIT takes a new connection from the same local endpoint only if its sequence numbers, or its
//! timestamps, lie beyond those of the last one (RFC 9293 §3.6.1, RFC 6191). Clients know nothing of each other, so the
//! gateway gives each connection an initial sequence number and a timestamp that only go forward for one local
//! endpoint (RFC 6528). Everything that the gateway itself looks at is in the client's numbers: what the real server
//! sends is shifted back before it is tracked, what the client sends is shifted after.

use wire::checksum::Delta;
use wire::tcp::{self, flags, options};
use wire::{PacketBuf, view, view_mut};

use super::Worker;
use crate::addr::Tuple;
use crate::conn::{Conn, Direction, trait_};
use crate::counters::Counter;
use crate::parse::{Piece, Segment};
use crate::snapshot::{Options, Timestamps};
use crate::table::Found;
use crate::time::{TICKS_PER_SECOND, Ticks};

/// How fast initial sequence numbers go forward: 16 MB/s, as Linux does it. They lap themselves after 256 s, so what was
/// sent within half of that, two TIME_WAITs, lies behind.
const ISN_PER_TICK: u32 = (1 << 24) / TICKS_PER_SECOND;
/// Timestamps are taken to count milliseconds, the fastest clock that is usual (RFC 7323 §5.4).
const MILLIS_PER_TICK: u32 = 1000 / TICKS_PER_SECOND;

impl Worker {
    /// Sets up what a new connection of a FULLNAT real server is to have shifted.
    pub(super) fn begin_shifts(
        &self,
        conn: &mut Conn,
        options: Options,
        outbound: &Tuple,
        now: Ticks,
        syn: &[u8],
    ) {
        let Some(header) = view::<tcp::Header>(syn, 0) else { return };
        if options.rebase_sequence {
            let start = self.steering.hash_tuple(outbound) as u32;
            let isn = start.wrapping_add(now.0.wrapping_mul(ISN_PER_TICK));
            conn.seq_shift = isn.wrapping_sub(header.seq.get());
            conn.traits |= trait_::SHIFTED;
        }
        match options.timestamps {
            Timestamps::Keep => {}
            Timestamps::Strip => conn.traits |= trait_::STRIP_TIMESTAMPS,
            Timestamps::Rewrite => {
                let Some((value, _)) = tcp::options_of(syn).and_then(options::timestamps) else { return };
                let start = (self.steering.hash_tuple(outbound) >> 32) as u32;
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
            let mut delta = header.shift_ack(by);
            if header.flags & flags::SYN == 0 {
                delta += options::map_sack(options, by);
            }
            delta + options::shift_timestamps(options, 0, timestamps)
        });
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
                header.shift_seq(conn.seq_shift) + options::shift_timestamps(options, conn.timestamp_shift, 0)
            });
        }
    }
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
