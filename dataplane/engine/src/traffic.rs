//! What packets of open connections come to, by real server, until it is added to the page that others read.
//!
//! Every packet counts for its real server. Here that is one addition to a word, and the words of four real servers share a
//! cache line; in the page it would be two additions to a line of each. A worker's upkeep goes through the words often
//! enough that none runs over, and a connection that ends takes its real server's along, so that a slot of the page has
//! all that is counted for it before it can have another tenant.

use crate::conn::Direction;
use crate::counters::{Counters, RealCounters};
use crate::ids::RealId;
use crate::time::Ticks;

/// Bits of a word that count bytes, 128 GiB of them; the packets are in those above, 134 million of them. Between two looks
/// at a word pass no more than [`ROUND_TICKS_MAX`] and the turns of one round.
const BYTES_BITS: u32 = 37;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
/// Real servers looked at in one turn: 16 cache lines, one after the other.
const AT_ONCE: usize = 64;
/// A round may begin so many ticks after the one before, and a tick later for each so many real servers, so that few turns are
/// part of one.
const ROUND_TICKS_MIN: u32 = 1;
const REALS_PER_TICK: usize = 1024;
const ROUND_TICKS_MAX: u32 = 32;

/// Words by real server and [`Direction`].
#[derive(Debug)]
pub(crate) struct Traffic {
    sums: Box<[[u64; 2]]>,
    /// Real servers below this slot have had connections.
    used: usize,
    /// The first slot that this round has not come to.
    next: usize,
    /// When the round began.
    began: Ticks,
}

impl Traffic {
    /// For so many real servers.
    pub(crate) fn new(reals_max: usize, now: Ticks) -> Traffic {
        Traffic { sums: vec![[0; 2]; reals_max].into_boxed_slice(), used: 0, next: 0, began: now }
    }

    /// A real server has a connection.
    #[inline(always)]
    pub(crate) fn use_slot(&mut self, id: RealId) {
        self.used = self.used.max(id.index() + 1).min(self.sums.len());
    }

    /// Counts a packet of so many bytes.
    #[inline(always)]
    pub(crate) fn count(&mut self, id: RealId, direction: Direction, len: usize) {
        // No connection names a slot that there is not; this is here so that the packet path has no way to panic.
        if let Some(sums) = self.sums.get_mut(id.index()) {
            let sum = &mut sums[direction as usize];
            *sum = sum.wrapping_add(1 << BYTES_BITS | len as u64);
        }
    }

    /// Adds what is counted for a real server to its page.
    #[inline(always)]
    pub(crate) fn settle(&mut self, id: RealId, page: &RealCounters) {
        if let Some(sums) = self.sums.get_mut(id.index()).filter(|sums| **sums != [0; 2]) {
            add(sums, page);
        }
    }

    /// Goes on with the round, or begins the next one when it is time; to be called once per turn. Returns how many real
    /// servers the round has yet to come to.
    #[inline(always)]
    pub(crate) fn sweep(&mut self, now: Ticks, counters: &Counters) -> usize {
        if self.next >= self.used {
            if !now.reached(self.began.plus(self.interval())) {
                return 0;
            }
            (self.began, self.next) = (now, 0);
        }
        self.sweep_some(counters);
        self.used - self.next
    }

    /// How long after each other rounds begin.
    fn interval(&self) -> Ticks {
        Ticks((ROUND_TICKS_MIN + (self.used / REALS_PER_TICK) as u32).min(ROUND_TICKS_MAX))
    }

    #[inline(never)]
    fn sweep_some(&mut self, counters: &Counters) {
        let end = (self.next + AT_ONCE).min(self.used);
        for slot in self.next..end {
            let id = RealId(slot as u32);
            self.settle(id, counters.real(id));
        }
        self.next = end;
    }
}

#[inline(never)]
fn add(sums: &mut [u64; 2], page: &RealCounters) {
    for ((sum, packets), bytes) in std::mem::take(sums).into_iter().zip(&page.packets).zip(&page.bytes) {
        packets.add(sum >> BYTES_BITS);
        bytes.add(sum & BYTES_MASK);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REALS: usize = 3 * AT_ONCE + 7;

    fn page(counters: &Counters, slot: usize) -> [(u64, u64); 2] {
        let real = counters.real(RealId(slot as u32));
        [0, 1].map(|at| (real.packets[at].get(), real.bytes[at].get()))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Count { slot: usize, direction: Direction, len: usize },
        Settle(usize),
        Turn(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let direction = prop::sample::select(vec![Direction::Inbound, Direction::Outbound]);
        let count = (0..REALS, direction, 20..65_536_usize);
        let step = prop_oneof![
            6 => count.prop_map(|(slot, direction, len)| Step::Count { slot, direction, len }),
            1 => (0..REALS).prop_map(Step::Settle),
            2 => (0..3_u32).prop_map(Step::Turn),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn the_page_has_all_that_was_counted_after_one_more_round(steps in steps()) {
            let counters = Counters::new(1, REALS, 1);
            let mut now = Ticks(u32::MAX - 20);
            let mut traffic = Traffic::new(REALS, now);
            let mut counted = vec![[(0, 0); 2]; REALS];
            for step in steps {
                match step {
                    Step::Count { slot, direction, len } => {
                        traffic.use_slot(RealId(slot as u32));
                        traffic.count(RealId(slot as u32), direction, len);
                        let (packets, bytes) = &mut counted[slot][direction as usize];
                        (*packets, *bytes) = (*packets + 1, *bytes + len as u64);
                    }
                    Step::Settle(slot) => {
                        traffic.settle(RealId(slot as u32), counters.real(RealId(slot as u32)));
                        prop_assert_eq!(page(&counters, slot), counted[slot]);
                    }
                    Step::Turn(ticks) => {
                        now = now.plus(Ticks(ticks));
                        traffic.sweep(now, &counters);
                    }
                }
            }
            // What is left of the round under way, and one more.
            for _ in 0..2 * REALS.div_ceil(AT_ONCE) {
                now = now.plus(Ticks(1));
                traffic.sweep(now, &counters);
            }
            let pages: Vec<_> = (0..REALS).map(|slot| page(&counters, slot)).collect();
            prop_assert_eq!(pages, counted);
        }
    }

    #[test]
    fn a_word_holds_what_a_worker_can_forward_until_it_is_looked_at_again() {
        let counters = Counters::new(1, 1, 1);
        let mut traffic = Traffic::new(1, Ticks(0));
        traffic.use_slot(RealId(0));
        // In 0.32 s: 100 million packets per second, and more than 800 Gbit/s of the largest ones.
        let (packets, large) = (32_000_000_u64, 500_000_u64);
        for _ in 0..packets {
            traffic.count(RealId(0), Direction::Inbound, 46);
        }
        for _ in 0..large {
            traffic.count(RealId(0), Direction::Outbound, 65_535);
        }
        traffic.sweep(Ticks(ROUND_TICKS_MAX), &counters);
        assert_eq!(page(&counters, 0), [(packets, packets * 46), (large, large * 65_535)]);
    }

    #[test]
    fn rounds_over_many_real_servers_are_rarer_and_none_waits_for_longer_than_the_bound() {
        for (reals, ticks) in [(1, 1), (1_023, 1), (20_000, 20), (65_536, ROUND_TICKS_MAX)] {
            let counters = Counters::new(1, reals, 1);
            let mut traffic = Traffic::new(reals, Ticks(0));
            let last = RealId(reals as u32 - 1);
            traffic.use_slot(last);
            while traffic.sweep(Ticks(0), &counters) > 0 {}
            traffic.count(last, Direction::Inbound, 100);
            let mut turns_at = |now| {
                let mut turns = 1;
                while traffic.sweep(now, &counters) > 0 {
                    turns += 1;
                }
                (turns, counters.real(last).packets[0].get())
            };
            assert_eq!(turns_at(Ticks(ticks - 1)), (1, 0), "{reals}");
            assert_eq!(turns_at(Ticks(ticks)), (reals.div_ceil(AT_ONCE), 1), "{reals}");
        }
    }
}
