//! What packets of open connections come to, until the page that others read has it.
//!
//! Every packet counts for its real server, and in a burst nearly every packet may be for another one. So it is counted in
//! its connection's record, in the line that it writes to anyway, and from there added to the page: when it has become
//! much, when the sweep comes by, and when the connection ends, so that a slot of the page has all that is counted for it
//! before it can have another tenant.

use zerocopy::{Immutable, IntoBytes};

use crate::conn::{Conn, Direction};
use crate::counters::Counters;
use crate::time::{TICKS_PER_SECOND, Ticks};

/// Bits of a [`Sum`] that count packets; the bytes are in those above.
const PACKETS_BITS: u32 = 9;
/// The highest bit of the packets, and the last but one of the bytes. Whichever is set, the sum is taken along, so that
/// neither runs over: after 256 packets, or 2 MiB of the largest ones.
const FULL: u32 = 1 << (PACKETS_BITS - 1) | 1 << (u32::BITS - 2);
const _: () = assert!((FULL >> PACKETS_BITS) + u16::MAX as u32 * 2 < 1 << (u32::BITS - 1 - PACKETS_BITS));

/// Records that a tick's turns look at, if there are as many turns: all within a second, so that what is told of a second is
/// right; but no fewer than those, which are few, and no more than a million per second, because each is one line, and where it
/// carried something three, that are seldom in the caches.
const PER_TICK_MIN: usize = 2_560;
const PER_TICK_MAX: usize = 10_240;
/// Records that one turn looks at.
const AT_ONCE: usize = 16;

/// Packets and bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(transparent)]
pub(crate) struct Sum(u32);

impl Sum {
    pub(crate) const NONE: Sum = Sum(0);

    /// Counts a packet. Returns whether the sum must be taken along before the next one.
    #[inline(always)]
    fn add(&mut self, len: usize) -> bool {
        self.0 = self.0.wrapping_add((len as u32) << PACKETS_BITS | 1);
        self.0 & FULL != 0
    }

    fn packets(self) -> u64 {
        u64::from(self.0 % (1 << PACKETS_BITS))
    }

    fn bytes(self) -> u64 {
        u64::from(self.0 >> PACKETS_BITS)
    }
}

impl Conn {
    /// Counts a packet of so many bytes.
    #[inline(always)]
    pub(crate) fn count(&mut self, direction: Direction, len: usize, counters: &Counters) {
        if self.traffic[direction as usize].add(len) {
            self.add_traffic(counters);
        }
    }

    /// Adds what is counted to the real server's page.
    #[inline(always)]
    pub(crate) fn settle(&mut self, counters: &Counters) {
        if self.traffic != [Sum::NONE; 2] {
            self.add_traffic(counters);
        }
    }

    #[cold]
    #[inline(never)]
    fn add_traffic(&mut self, counters: &Counters) {
        let page = counters.real(self.real_id);
        let sums = std::mem::replace(&mut self.traffic, [Sum::NONE; 2]);
        for ((sum, packets), bytes) in sums.into_iter().zip(&page.packets).zip(&page.bytes) {
            packets.add(sum.packets());
            bytes.add(sum.bytes());
        }
    }
}

/// Goes through all records, again and again. A round begins with a tick.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// The first record that the round has not come to.
    next: usize,
    /// Records that this tick's turns have yet to look at.
    left: usize,
    tick: Ticks,
}

impl Sweep {
    pub(crate) fn new(now: Ticks) -> Sweep {
        Sweep { next: 0, left: 0, tick: now }
    }

    /// Looks at some of these records; to be called once per turn. Returns how many this tick's turns have yet to look at.
    #[inline(always)]
    pub(crate) fn sweep(&mut self, now: Ticks, conns: &mut [Conn], counters: &Counters) -> usize {
        if now != self.tick {
            self.begin_tick(now, conns.len());
        }
        if self.left > 0 {
            self.sweep_some(conns, counters);
        }
        self.left
    }

    #[inline(never)]
    fn begin_tick(&mut self, now: Ticks, used: usize) {
        if self.next >= used {
            self.next = 0;
        }
        let per_tick = used.div_ceil(TICKS_PER_SECOND as usize).clamp(PER_TICK_MIN, PER_TICK_MAX);
        (self.tick, self.left) = (now, per_tick.min(used - self.next));
    }

    #[inline(never)]
    fn sweep_some(&mut self, conns: &mut [Conn], counters: &Counters) {
        let count = AT_ONCE.min(self.left);
        let end = (self.next + count).min(conns.len());
        for conn in conns.get_mut(self.next..end).into_iter().flatten() {
            conn.settle(counters);
        }
        self.next += count;
        self.left -= count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::RealId;

    const REALS: usize = 7;
    const CONNS: usize = 3 * AT_ONCE + 5;

    /// Packets and bytes of both directions.
    type Counted = [(u64, u64); 2];

    fn page(counters: &Counters, slot: usize) -> Counted {
        let real = counters.real(RealId(slot as u32));
        [0, 1].map(|at| (real.packets[at].get(), real.bytes[at].get()))
    }

    fn conns(count: usize) -> Vec<Conn> {
        (0..count).map(|at| Conn { real_id: RealId((at % REALS) as u32), ..Conn::EMPTY }).collect()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Count { conn: usize, direction: Direction, len: usize, packets: usize },
        Settle(usize),
        Turn(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let direction = prop::sample::select(vec![Direction::Inbound, Direction::Outbound]);
        let count = (0..CONNS, direction, 20..131_072_usize, 1..300_usize);
        let step = prop_oneof![
            6 => count.prop_map(|(conn, direction, len, packets)| Step::Count { conn, direction, len, packets }),
            1 => (0..CONNS).prop_map(Step::Settle),
            2 => (0..3_u32).prop_map(Step::Turn),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn the_page_has_all_that_was_counted_after_one_more_round(steps in steps()) {
            let counters = Counters::new(1, REALS, 1);
            let mut conns = conns(CONNS);
            let mut now = Ticks(u32::MAX - 20);
            let mut sweep = Sweep::new(now);
            let mut counted = [Counted::default(); REALS];
            for step in steps {
                match step {
                    Step::Count { conn, direction, len, packets } => {
                        (0..packets).for_each(|_| conns[conn].count(direction, len, &counters));
                        let (all_packets, bytes) = &mut counted[conn % REALS][direction as usize];
                        *all_packets += packets as u64;
                        *bytes += (packets * len) as u64;
                    }
                    Step::Settle(conn) => conns[conn].settle(&counters),
                    Step::Turn(ticks) => {
                        now = now.plus(Ticks(ticks));
                        sweep.sweep(now, &mut conns, &counters);
                    }
                }
            }
            // What is left of the round under way, and one more.
            for _ in 0..2 {
                now = now.plus(Ticks(1));
                while sweep.sweep(now, &mut conns, &counters) > 0 {}
            }
            prop_assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|slot| page(&counters, slot)), counted);
        }
    }

    #[test]
    fn what_waits_in_a_record_is_less_than_256_packets() {
        for len in [40, 1_500, 65_535] {
            let counters = Counters::new(1, REALS, 1);
            let mut conn = conns(1).remove(0);
            for sent in 1..10_000 {
                conn.count(Direction::Outbound, len, &counters);
                let [_, (packets, bytes)] = page(&counters, 0);
                assert!(sent - packets < 256 && bytes == packets * len as u64, "{sent} {packets} {bytes}");
            }
        }
    }

    #[test]
    fn a_round_takes_a_second_at_most_for_a_million_records() {
        let counters = Counters::new(1, REALS, 1);
        for (used, ticks) in
            [(1, 1), (2_560, 1), (2_561, 2), (256_000, 100), (1_000_000, 100), (1_126_400, 110)]
        {
            let (mut conns, mut sweep) = (conns(used), Sweep::new(Ticks(0)));
            let last = used - 1;
            conns[last].count(Direction::Inbound, 100, &counters);
            let told = (1..=1_000).find(|tick| {
                while sweep.sweep(Ticks(*tick), &mut conns, &counters) > 0 {}
                conns[last].traffic == [Sum::NONE; 2]
            });
            assert_eq!(told, Some(ticks), "{used}");
        }
    }

    #[test]
    fn a_turn_looks_at_few_records_and_the_last_turns_of_a_tick_at_none() {
        let counters = Counters::new(1, REALS, 1);
        let (mut conns, mut sweep) = (conns(3 * AT_ONCE), Sweep::new(Ticks(0)));
        for turn in 0..4 {
            conns.iter_mut().for_each(|conn| conn.count(Direction::Inbound, 100, &counters));
            sweep.sweep(Ticks(1), &mut conns, &counters);
            let told = conns.iter().filter(|conn| conn.traffic == [Sum::NONE; 2]).count();
            assert_eq!(told, if turn < 3 { AT_ONCE } else { 0 }, "{turn}");
        }
    }
}
