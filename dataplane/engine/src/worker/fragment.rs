//! Fragments: each is sent on by itself, as if it were the whole packet, once the ports of its packet are known.
//!
//! Up to two workers deal with a fragment that comes in at a third. Which fragments belong together must be known in one
//! place, so a hash of what all of them share picks a worker who remembers the ports ([`crate::fragments`]). With
//! the ports that one knows who owns the connection, and hands the fragment on with the ports as its note. A fragment with a
//! note is never handed on, so none goes in circles, whatever the two think of the configuration.

use wire::PacketBuf;

use super::{Origin, Worker};
use crate::fragments::{Arrival, Outcome};
use crate::hash::reduce;
use crate::ids::WorkerId;
use crate::parse::{Fragment, Piece, Segment};
use crate::time::Ticks;
use crate::verdict::Verdict;

/// The note of a fragment whose ports are not known yet.
const NO_PORTS: u32 = 0;

/// What the secret of the fragments' hash is derived for.
pub(super) const PURPOSE: u64 = 0x6672_6167;

impl Worker {
    /// A fragment of a TCP segment or UDP datagram.
    #[cold]
    pub(super) fn fragment<P: PacketBuf>(
        &mut self,
        now: Ticks,
        origin: Origin,
        packet: &mut P,
        fragment: Fragment,
    ) -> Verdict {
        if origin == Origin::Worker && packet.note() != NO_PORTS {
            let segment = fragment.segment(packet.data(), packet.note());
            return self.fragment_of(now, packet, &segment);
        }
        let key = fragment.key(packet.data());
        let hash = self.steering.derive(PURPOSE).hash6(&key);
        let keeper = WorkerId(reduce((hash >> 32) as u32, self.workers.into()) as u16);
        if origin == Origin::Port && keeper != self.id {
            packet.set_note(NO_PORTS);
            return self.hand_over(keeper);
        }
        let ports = match fragment.ports(packet.data()) {
            Ok(ports) => ports,
            Err(reason) => return self.drop(reason),
        };
        let arrival = Arrival { offset: fragment.offset, len: fragment.len(), more: fragment.more, ports };
        let ports = match self.fragments.arrive(now, (&key, hash), &arrival, &self.counters) {
            Outcome::Ports(ports) => ports,
            Outcome::Wait(slot) => return Verdict::Wait(slot),
            Outcome::Drop(reason) => return self.drop(reason),
        };
        let segment = fragment.segment(packet.data(), ports);
        let tuple = segment.tuple(packet.data());
        if let Some(owner) = self.other_owner(&tuple) {
            packet.set_note(ports);
            return self.hand_over(owner);
        }
        self.fragment_of(now, packet, &segment)
    }

    /// A fragment whose connection, if there is one, is ours.
    fn fragment_of<P: PacketBuf>(&mut self, now: Ticks, packet: &mut P, segment: &Segment) -> Verdict {
        match self.table.find_tuple(&segment.tuple(packet.data())) {
            Some(found) if segment.piece == Piece::Later => self.send(packet, segment, found),
            Some(found) => self.forward(now, packet, segment, found),
            None => self.unknown(now, packet, segment),
        }
    }
}
