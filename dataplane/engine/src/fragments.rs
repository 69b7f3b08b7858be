//! Which fragments belong together (RFC 791 §3.2, RFC 8200 §4.5), without putting them together.
//!
//! Only the first fragment of a packet says between which ports it goes. Its entry here remembers that for the others,
//! which are sent on one by one; what comes before the first one waits in a slot at the caller's. An entry ends with its
//! packet's last missing byte, or [`LIFETIME`] after its first fragment.
//!
//! Fragments that overlap are an attack or damage, in both families (RFC 5722, RFC 8200 §4.5): from then on all of that
//! packet are refused. Exact repetitions are let pass, the links may repeat packets, and a sender may use an
//! identification again after it lost part of a packet.
//!
//! Everything is bounded: entries, fragments per entry, slots, packets per slot. A flood of first fragments or of later ones
//! pushes out the oldest of its kind; whole packets' fragments come within milliseconds of each other, and are faster.
//! So do repetitions of later fragments by the links, once their packet has ended: nothing here knows them any more, and
//! they wait in vain. To remember ended packets would send on the early fragments of the next packet with that
//! identification as if they were the ended one's, whose ports may be others.

use arrayvec::ArrayVec;

use crate::BURST_LEN_MAX;
use crate::counters::{Counter, Counters};
use crate::hash::Key6;
use crate::time::Ticks;
use crate::verdict::{DropReason, Released, WAIT_LEN_MAX, WAIT_SLOTS, WaitSlot};

/// Packets whose fragments are remembered: 1.4 MB. At 100,000 incomplete packets per second the oldest is still 40 ms
/// old when it is given up.
const ENTRIES: usize = 4096;
/// Chains of the index; a power of two.
const CHAINS: usize = ENTRIES;
/// Packets that have a slot at most. The other slots are for those that come before the caller has emptied the slots of
/// the oldest ones, which have given way: it does so after each burst.
const WAITING_MAX: usize = WAIT_SLOTS - BURST_LEN_MAX;
/// How long fragments are remembered: as long as Linux waits for the rest of an IPv4 packet (net.ipv4.ipfrag_time).
pub(crate) const LIFETIME: Ticks = Ticks::from_secs(30);
/// Fragments of one packet at most; 65,535 bytes over an MTU of 1280 are 54.
pub(crate) const PIECES_MAX: usize = 64;
/// No entry; ends lists.
const NIL: u32 = u32::MAX;

/// A fragment that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Where it begins in its packet, in bytes.
    pub offset: u16,
    /// Its bytes.
    pub len: u16,
    /// Whether it is not the last one.
    pub more: bool,
    /// The ports that it tells, if it is the first one.
    pub ports: Option<u32>,
}

impl Arrival {
    /// Where it begins and ends; `None` if it cannot be part of any packet.
    fn piece(&self) -> Option<Piece> {
        let end = self.offset.checked_add(self.len)?;
        let whole_units = !self.more || self.len.is_multiple_of(8);
        (self.len > 0 && whole_units && self.ports != Some(0)).then_some(Piece { start: self.offset, end })
    }
}

/// What is to be done with a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Go on; these are its ports.
    Ports(u32),
    Wait(WaitSlot),
    Drop(DropReason),
}

/// Bytes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: u16,
    end: u16,
}

/// A packet, of which some fragments came.
#[derive(Debug, Clone)]
struct Entry {
    key: Key6,
    /// Of the first fragment; 0: it has not come.
    ports: u32,
    born: Ticks,
    /// What came, in no order, beginning with the first fragment.
    pieces: ArrayVec<Piece, PIECES_MAX>,
    /// Bytes that came.
    bytes: u32,
    /// The packet's length; 0: the last fragment has not come.
    total: u16,
    /// Where fragments wait, and how many.
    slot: Option<WaitSlot>,
    waiting: u8,
    /// Fragments overlapped.
    spoilt: bool,
    /// Neighbours in age.
    older: u32,
    newer: u32,
    chain: u32,
    /// The next one of its chain, or the next free one.
    next: u32,
}

impl Entry {
    fn new(key: Key6, born: Ticks, chain: u32, next: u32) -> Entry {
        Entry {
            key,
            ports: 0,
            born,
            pieces: ArrayVec::new(),
            bytes: 0,
            total: 0,
            slot: None,
            waiting: 0,
            spoilt: false,
            older: NIL,
            newer: NIL,
            chain,
            next,
        }
    }

    fn add(&mut self, piece: Piece, more: bool) -> Result<(), DropReason> {
        let behind =
            if more { self.total != 0 && piece.end >= self.total } else { self.contradicts(piece.end) };
        if behind {
            return Err(DropReason::FragmentOverlap);
        }
        if !more {
            self.total = piece.end;
        }
        if self.pieces.contains(&piece) {
            return Ok(());
        }
        if self.pieces.iter().any(|old| old.start < piece.end && piece.start < old.end) {
            return Err(DropReason::FragmentOverlap);
        }
        self.pieces.try_push(piece).map_err(|_| DropReason::FragmentInvalid)?;
        self.bytes += u32::from(piece.end - piece.start);
        Ok(())
    }

    /// Whether the packet is known to be shorter or longer than this.
    fn contradicts(&self, total: u16) -> bool {
        (self.total != 0 && self.total != total) || self.pieces.iter().any(|piece| piece.end > total)
    }

    /// Pieces do not overlap, so as many bytes as the packet has are all of them.
    fn is_complete(&self) -> bool {
        self.total != 0 && self.bytes == u32::from(self.total)
    }
}

/// Packets of which fragments came.
#[derive(Debug)]
pub(crate) struct Fragments {
    entries: Box<[Entry]>,
    /// By hash.
    chains: Box<[u32]>,
    free: u32,
    oldest: u32,
    newest: u32,
    slots: Slots,
}

/// The caller's slots.
#[derive(Debug)]
struct Slots {
    free: ArrayVec<WaitSlot, WAIT_SLOTS>,
    /// Not free, but the caller does not know it yet.
    released: ArrayVec<Released, WAIT_SLOTS>,
    /// Entries that have a slot, oldest slot first.
    entries: ArrayVec<u32, WAIT_SLOTS>,
}

impl Fragments {
    /// Allocates all that it will ever need.
    pub(crate) fn new() -> Fragments {
        let next_free = (1..ENTRIES as u32).chain([NIL]);
        Fragments {
            entries: next_free.map(|next| Entry::new(Key6::default(), Ticks(0), 0, next)).collect(),
            chains: vec![NIL; CHAINS].into(),
            free: 0,
            oldest: NIL,
            newest: NIL,
            slots: Slots {
                free: (0..WAIT_SLOTS as u16).rev().map(WaitSlot).collect(),
                released: ArrayVec::new(),
                entries: ArrayVec::new(),
            },
        }
    }

    /// Notes a fragment of the packet `key`, whose keyed hash is `hash`.
    pub(crate) fn arrive(
        &mut self,
        now: Ticks,
        (key, hash): (&Key6, u64),
        arrival: &Arrival,
        counters: &Counters,
    ) -> Outcome {
        let Some(piece) = arrival.piece() else { return Outcome::Drop(DropReason::FragmentInvalid) };
        let chain = hash as u32 % CHAINS as u32;
        let index = match self.find(chain, key) {
            Some(index) if !now.reached(self.entries[index as usize].born.plus(LIFETIME)) => index,
            Some(index) => {
                self.end(index, DropReason::FragmentTimeout, counters);
                self.begin(now, chain, key, counters)
            }
            None => self.begin(now, chain, key, counters),
        };
        let entry = &mut self.entries[index as usize];
        if entry.spoilt {
            return Outcome::Drop(DropReason::FragmentOverlap);
        }
        if entry.ports == 0 && arrival.ports.is_none() {
            return self.wait(index, counters);
        }
        if let Err(reason) = entry.add(piece, arrival.more) {
            entry.spoilt = true;
            return Outcome::Drop(reason);
        }
        if let Some(ports) = arrival.ports {
            entry.ports = ports;
            self.release(index);
        }
        let entry = &self.entries[index as usize];
        let ports = entry.ports;
        if entry.is_complete() {
            self.remove(index);
        }
        Outcome::Ports(ports)
    }

    /// Gives up packets whose time is over, `max` at most.
    pub(crate) fn expire(&mut self, now: Ticks, max: usize, counters: &Counters) {
        for _ in 0..max {
            let Some(oldest) = self.entries.get(self.oldest as usize) else { break };
            if !now.reached(oldest.born.plus(LIFETIME)) {
                break;
            }
            self.end(self.oldest, DropReason::FragmentTimeout, counters);
        }
    }

    /// A slot whose packets are not to wait any longer. It is free after this.
    pub(crate) fn take_released(&mut self) -> Option<Released> {
        let released = self.slots.released.pop_at(0)?;
        let (Released::Process(slot) | Released::Free(slot)) = released;
        self.slots.free.push(slot);
        Some(released)
    }

    fn find(&self, chain: u32, key: &Key6) -> Option<u32> {
        let mut index = self.chains[chain as usize];
        // The hash is keyed, so nobody can make a chain long.
        while let Some(entry) = self.entries.get(index as usize) {
            if entry.key == *key {
                return Some(index);
            }
            index = entry.next;
        }
        None
    }

    /// A new entry, the oldest one giving way if it must.
    fn begin(&mut self, now: Ticks, chain: u32, key: &Key6, counters: &Counters) -> u32 {
        if self.free == NIL {
            self.end(self.oldest, DropReason::FragmentTableFull, counters);
        }
        let index = self.free;
        let entry = &mut self.entries[index as usize];
        self.free = entry.next;
        let first = &mut self.chains[chain as usize];
        *entry = Entry { older: self.newest, ..Entry::new(*key, now, chain, *first) };
        *first = index;
        match self.entries.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
        index
    }

    /// Has a later fragment wait for its first one.
    fn wait(&mut self, index: u32, counters: &Counters) -> Outcome {
        let entry = &mut self.entries[index as usize];
        let Some(slot) = entry.slot.or_else(|| self.slots.free.pop()) else {
            self.remove(index);
            return Outcome::Drop(DropReason::FragmentBufferFull);
        };
        if usize::from(entry.waiting) == WAIT_LEN_MAX {
            return Outcome::Drop(DropReason::FragmentBufferFull);
        }
        entry.waiting += 1;
        counters.event(Counter::FragmentsWaited).add(1);
        if entry.slot.is_none() {
            entry.slot = Some(slot);
            self.slots.entries.push(index);
            self.make_room(counters);
        }
        Outcome::Wait(slot)
    }

    /// Has the packet that waits longest give way to the one that has just been given a slot.
    fn make_room(&mut self, counters: &Counters) {
        if self.slots.entries.len() > WAITING_MAX {
            self.end(self.slots.entries[0], DropReason::FragmentBufferFull, counters);
        }
    }

    /// What waits is to go on.
    fn release(&mut self, index: u32) {
        if let Some(slot) = self.take_slot(index) {
            self.slots.released.push(Released::Process(slot));
        }
    }

    /// Gives a packet up, and what waits of it.
    fn end(&mut self, index: u32, reason: DropReason, counters: &Counters) {
        let waiting = self.entries[index as usize].waiting;
        if let Some(slot) = self.take_slot(index) {
            counters.dropped(reason).add(waiting.into());
            self.slots.released.push(Released::Free(slot));
        }
        self.remove(index);
    }

    fn take_slot(&mut self, index: u32) -> Option<WaitSlot> {
        let entry = &mut self.entries[index as usize];
        let slot = entry.slot.take()?;
        entry.waiting = 0;
        self.slots.entries.retain(|other| *other != index);
        Some(slot)
    }

    /// Takes an entry that has no slot off all lists.
    fn remove(&mut self, index: u32) {
        let Entry { older, newer, chain, next, .. } = self.entries[index as usize];
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        let mut link = &mut self.chains[chain as usize];
        while *link != index {
            let at = *link as usize;
            link = &mut self.entries[at].next;
        }
        *link = next;
        self.entries[index as usize].next = self.free;
        self.free = index;
    }
}

#[cfg(test)]
mod tests;
