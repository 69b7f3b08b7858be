//! Lazy expiry: packets only stamp the record, the wheel looks again when the record's time could be up.
//!
//! One level of slots; a record is in one of the doubly linked lists of one slot. When its slot comes due the record is
//! taken out; the caller looks whether it is really over, and if packets came meanwhile arms it again. A deadline
//! beyond the horizon sits in the last slot and is looked at early, which costs one look.
//!
//! A slot has several lists because the next record of one is known only when the one before it has come from memory:
//! the first ones of all lists can be fetched at the same time.

use crate::conn::{Conn, NIL};
use crate::time::Ticks;

/// Ticks per slot: 320 ms, the precision of expiry.
const SLOT_TICKS: u32 = 32;
/// Slots; a power of two, so that slot numbers go on across the wrap of time. 4096 x 0.32 s = 21.8 minutes, more
/// than the longest IPVS default (15 minutes).
const SLOTS: u32 = 4096;
/// Different slot times before the clock wraps.
const SLOT_TIMES: u32 = ((1u64 << 32) / SLOT_TICKS as u64) as u32;
/// Lists of a slot, and so the most records that are due at once; their heads fill a cache line.
pub(crate) const LISTS: usize = 16;

/// The heads of a slot's lists; a record's list follows from its number.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Slot([u32; LISTS]);

const _: () = assert!(size_of::<Slot>() == 64);

#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Box<[Slot]>,
    /// The slot time (ticks / SLOT_TICKS) that is being emptied.
    turn: u32,
    /// Whether that slot is known to be empty. Nothing is put into it any more.
    is_empty: bool,
}

impl Wheel {
    pub(crate) fn new(now: Ticks) -> Wheel {
        let slots = vec![Slot([NIL; LISTS]); SLOTS as usize].into_boxed_slice();
        Wheel { slots, turn: now.0 / SLOT_TICKS, is_empty: true }
    }

    /// Puts a record that is on no list into the slot of its deadline.
    pub(crate) fn arm(&mut self, conns: &mut [Conn], index: u32, now: Ticks, deadline: Ticks) {
        let left = if now.reached(deadline) { 0 } else { deadline.since(now).0 };
        // One more than the quotient, so that a slot is never emptied before its records' time.
        let ahead = self.behind(now) + left / SLOT_TICKS + 1;
        let slot = self.turn.wrapping_add(ahead.clamp(1, SLOTS - 1)) % SLOTS;
        let first = self.first(slot, index);
        let head = std::mem::replace(first, index);
        let conn = &mut conns[index as usize];
        conn.wheel_slot = slot;
        conn.wheel_prev = NIL;
        conn.wheel_next = head;
        if head != NIL {
            conns[head as usize].wheel_prev = index;
        }
    }

    /// Takes a record out of its slot.
    pub(crate) fn disarm(&mut self, conns: &mut [Conn], index: u32) {
        let conn = &mut conns[index as usize];
        let (prev, next, slot) = (conn.wheel_prev, conn.wheel_next, conn.wheel_slot);
        if slot == NIL {
            return;
        }
        conn.wheel_slot = NIL;
        if prev == NIL {
            *self.first(slot, index) = next;
        } else {
            conns[prev as usize].wheel_next = next;
        }
        if next != NIL {
            conns[next as usize].wheel_prev = prev;
        }
    }

    /// The head of the list that a record of a slot is on.
    fn first(&mut self, slot: u32, index: u32) -> &mut u32 {
        &mut self.slots[slot as usize].0[index as usize % LISTS]
    }

    /// Whether a record with this deadline would sit in an earlier slot than it does; it must then be armed anew.
    pub(crate) fn is_late(&self, conn: &Conn, now: Ticks, deadline: Ticks) -> bool {
        if conn.wheel_slot == NIL {
            return true;
        }
        let armed_ahead = conn.wheel_slot.wrapping_sub(self.turn) % SLOTS;
        armed_ahead > self.behind(now) + deadline.since(now).0 / SLOT_TICKS + 1
    }

    /// Slots between the one being emptied and the present. Slot times wrap with the time, modulo 2^27.
    fn behind(&self, now: Ticks) -> u32 {
        let behind = (now.0 / SLOT_TICKS).wrapping_sub(self.turn) % SLOT_TIMES;
        // A clock that went back a little is no reason to run the wheel round.
        if behind < SLOT_TIMES / 2 { behind } else { 0 }
    }

    /// Records whose slot is due, [`NIL`] among them, each to be disarmed by the caller; `None` when nothing is due at
    /// `now`. Empty slots are skipped, at most one round of the wheel per call.
    #[inline]
    pub(crate) fn due(&mut self, now: Ticks) -> Option<[u32; LISTS]> {
        for _ in 0..=SLOTS {
            if !self.is_empty {
                let Slot(heads) = self.slots[(self.turn % SLOTS) as usize];
                if heads != [NIL; LISTS] {
                    return Some(heads);
                }
            }
            if self.behind(now) == 0 {
                self.is_empty = true;
                return None;
            }
            self.turn = (self.turn + 1) % SLOT_TIMES;
            self.is_empty = false;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs the wheel from `start` to `end` in `step`s and returns when each record came out.
    fn run(start: u32, deadlines: &[u32], step: u32, end: u32) -> Vec<Option<u32>> {
        let mut conns = vec![Conn::EMPTY; deadlines.len()];
        let mut wheel = Wheel::new(Ticks(start));
        let at = |offset: u32| Ticks(start.wrapping_add(offset));
        for (i, deadline) in deadlines.iter().enumerate() {
            wheel.arm(&mut conns, i as u32, at(0), at(*deadline));
        }
        let mut out = vec![None; deadlines.len()];
        let mut offset = 0;
        while offset <= end {
            while let Some(due) = wheel.due(at(offset)) {
                for i in due.into_iter().filter(|i| *i != NIL) {
                    wheel.disarm(&mut conns, i);
                    if at(offset).reached(at(deadlines[i as usize])) {
                        out[i as usize] = Some(offset);
                    } else {
                        wheel.arm(&mut conns, i, at(offset), at(deadlines[i as usize]));
                    }
                }
            }
            offset += step;
        }
        out
    }

    proptest! {
        #[test]
        fn every_record_comes_out_once_its_time_is_up_and_soon_after(
            start: u32,
            deadlines in prop::collection::vec(0u32..400_000, 1..200),
            step in 1u32..200,
        ) {
            let out = run(start, &deadlines, step, 401_000);
            for (deadline, came) in deadlines.iter().zip(out) {
                let came = came.unwrap();
                prop_assert!(came >= *deadline && came <= deadline + 2 * SLOT_TICKS + step, "{deadline} at {came}");
            }
        }

        #[test]
        fn disarmed_records_never_come_out(gone in prop::collection::vec(any::<bool>(), 1..200)) {
            let mut conns = vec![Conn::EMPTY; gone.len()];
            let mut wheel = Wheel::new(Ticks(5));
            for i in 0..gone.len() as u32 {
                wheel.arm(&mut conns, i, Ticks(5), Ticks(100 + i % 3));
            }
            for (i, gone) in gone.iter().enumerate() {
                if *gone {
                    wheel.disarm(&mut conns, i as u32);
                }
            }
            let mut left: Vec<bool> = gone.iter().map(|gone| !gone).collect();
            while let Some(due) = wheel.due(Ticks(1000)) {
                for i in due.into_iter().filter(|i| *i != NIL) {
                    wheel.disarm(&mut conns, i);
                    prop_assert!(std::mem::take(&mut left[i as usize]));
                }
            }
            prop_assert!(left.iter().all(|left| !left));
        }
    }

    #[test]
    fn a_shorter_deadline_is_late_and_a_longer_one_is_not() {
        let mut conns = vec![Conn::EMPTY; 1];
        let mut wheel = Wheel::new(Ticks(0));
        wheel.arm(&mut conns, 0, Ticks(0), Ticks::from_secs(60));
        assert!(wheel.is_late(&conns[0], Ticks(10), Ticks::from_secs(10)));
        assert!(!wheel.is_late(&conns[0], Ticks(10), Ticks::from_secs(900)));
    }
}
