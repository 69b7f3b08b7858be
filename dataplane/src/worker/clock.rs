//! TSC to engine time, how long turns take, and what an idle worker does: the loop's ways of dealing with time.

use std::time::Duration;

use dpdk::cpu::Wait;
use engine::Ticks;
use engine::time::TICKS_PER_SECOND;

use crate::counts::{LONG_TURNS_US, LONG_UPKEEPS_US, Page};

/// Turns TSC readings into [`Ticks`]; divides only when a tick has passed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    per_tick: u64,
    next: u64,
    now: Ticks,
}

impl Clock {
    /// A clock that shows 0 at `start`. All threads are given the same start, so that their times agree.
    pub(crate) fn new(start: u64, tsc_hz: u64) -> Clock {
        let per_tick = (tsc_hz / u64::from(TICKS_PER_SECOND)).max(1);
        Clock { per_tick, next: start.wrapping_add(per_tick), now: Ticks(0) }
    }

    /// The time at `tsc`; never goes back.
    #[inline(always)]
    pub(crate) fn at(&mut self, tsc: u64) -> Ticks {
        let late = tsc.wrapping_sub(self.next) as i64;
        if late >= 0 {
            let ticks = late as u64 / self.per_tick + 1;
            self.now = self.now.plus(Ticks(ticks as u32));
            self.next = self.next.wrapping_add(ticks * self.per_tick);
        }
        self.now
    }
}

/// A turn's upkeep ends no further connection so long after it began with the first one. Packets wait for all of it, and
/// shall wait less than 50 µs; one connection takes some 0.5 µs when all of it is out of the caches.
const UPKEEP_US: u64 = 20;

/// How long turns take: tells the page about long ones only, so that most turns cost a subtraction, a compare and a store. And
/// whether there is time for more of a turn's upkeep; most turns have next to none, so the TSC is read only where it is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    per_us: u64,
    /// TSC ticks of the shortest turn that counts as long.
    long: u64,
    /// TSC ticks of the longest one.
    longest: u64,
    /// TSC ticks of a turn's upkeep.
    upkeep: u64,
    began: u64,
    /// Of the turn that is under way, if it has any upkeep.
    asked: Option<Asked>,
}

/// Times at which it was asked in a turn whether there is time for upkeep, and at which upkeep ended.
#[derive(Debug, Clone, Copy)]
struct Asked {
    first: u64,
    last: u64,
    /// Between two of them.
    longest_step: u64,
}

impl Asked {
    #[inline(always)]
    fn step_to(&mut self, tsc: u64) {
        self.longest_step = self.longest_step.max(tsc.wrapping_sub(self.last));
        self.last = tsc;
    }

    /// TSC ticks of all steps but the longest.
    fn took_otherwise(&self) -> u64 {
        self.last.wrapping_sub(self.first).saturating_sub(self.longest_step)
    }
}

impl Turns {
    /// The first turn begins with [`Turns::begin`].
    pub(crate) fn new(tsc_hz: u64) -> Turns {
        let per_us = (tsc_hz / 1_000_000).max(1);
        let [long, upkeep] = [LONG_TURNS_US[0], UPKEEP_US].map(|us| us * per_us);
        Turns { per_us, long, longest: 0, upkeep, began: 0, asked: None }
    }

    /// Whether this turn has time for more upkeep. Asked for the first time, yes.
    #[inline(always)]
    pub(crate) fn is_upkeep_time_left(&mut self) -> bool {
        self.is_upkeep_time_left_at(dpdk::tsc())
    }

    #[inline(always)]
    fn is_upkeep_time_left_at(&mut self, tsc: u64) -> bool {
        let asked = self.asked.get_or_insert(Asked { first: tsc, last: tsc, longest_step: 0 });
        asked.step_to(tsc);
        tsc.wrapping_sub(asked.first) < self.upkeep
    }

    /// This turn's upkeep ends.
    #[inline(always)]
    pub(crate) fn end_upkeep(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.step_to(dpdk::tsc());
        }
    }

    /// A turn begins at `tsc`, and none has ended: after a rest.
    #[inline(always)]
    pub(crate) fn begin(&mut self, tsc: u64) {
        self.began = tsc;
        self.asked = None;
    }

    /// A turn ends at `tsc`, and the next one begins.
    #[inline(always)]
    pub(crate) fn next(&mut self, tsc: u64, page: &Page) {
        if tsc.wrapping_sub(self.began) > self.long {
            self.tell(tsc, page);
        }
        self.begin(tsc);
    }

    #[cold]
    fn tell(&mut self, tsc: u64, page: &Page) {
        let took = tsc.wrapping_sub(self.began);
        // Where the TSC seems to go back there is no telling.
        if took as i64 <= 0 {
            return;
        }
        for (limit, count) in LONG_TURNS_US.iter().zip(&page.long_turns) {
            if took > limit * self.per_us {
                count.add(1);
            }
        }
        let upkeep = self.asked.map_or(0, |asked| asked.took_otherwise());
        for (limit, count) in LONG_UPKEEPS_US.iter().zip(&page.long_upkeeps) {
            if upkeep > limit * self.per_us {
                count.add(1);
            }
        }
        if took > self.longest {
            self.longest = took;
            page.longest_turn_ns.set((u128::from(took) * 1000 / u128::from(self.per_us)) as u64);
        }
    }
}

/// What empty turns lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdleMode {
    /// Poll again at once.
    Poll,
    /// After some of them, let the CPU wait by its own instructions, so long at most.
    Pause(Duration),
    /// After many of them, sleep.
    Adaptive,
}

impl IdleMode {
    /// As in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            IdleMode::Poll => "poll",
            IdleMode::Pause(_) => "pause",
            IdleMode::Adaptive => "adaptive",
        }
    }
}

/// Backs off while there is nothing to do. Sleeping is the one system call that a worker makes.
#[derive(Debug)]
pub(crate) struct Idle {
    way: Way,
    empty_turns: u32,
}

#[derive(Debug)]
enum Way {
    Poll,
    /// TSC ticks of the pauses: the first one, the next one, the longest.
    Pause {
        by: Wait,
        first: u64,
        next: u64,
        max: u64,
    },
    /// `after`: TSC ticks from the first empty turn, which was at `since`, to the first sleep.
    Sleep {
        since: u64,
        after: u64,
        next: Duration,
        max: Duration,
    },
}

/// Time without packets before the first sleep. Who sleeps shares its CPU: while a worker polled for some 500 µs, in which
/// the next packet nearly always came, clients and real servers on the same CPUs got half as much done.
const SLEEP_AFTER: Duration = Duration::from_micros(20);

/// Empty turns before the first pause, which costs much less: a worker that is half loaded has a few between two bursts.
const EMPTY_BEFORE_PAUSE: u32 = 16;

/// The first sleep. The kernel adds its timer slack, which [`Idle::prepare_thread`] makes small.
const SLEEP_MIN: Duration = Duration::from_micros(20);

/// The first pause lasts one part in so many of the longest, about as long as an empty turn.
const PAUSE_STEPS: u64 = 16;

/// Timer slack of sleeping threads; the kernel's default of 50 µs would triple the shortest sleep.
const TIMER_SLACK_NS: u64 = 1_000;

impl Idle {
    /// `sleep_max` bounds the delay that the first packet after a sleep may see.
    pub(crate) fn new(mode: IdleMode, sleep_max: Duration, tsc_hz: u64) -> Idle {
        let ticks = |time: Duration| (u128::from(tsc_hz) * time.as_nanos() / 1_000_000_000) as u64;
        let way = match mode {
            IdleMode::Poll => Way::Poll,
            IdleMode::Pause(max) => {
                let max = ticks(max);
                let first = max / PAUSE_STEPS;
                Way::Pause { by: Wait::of_cpu(), first, next: first, max }
            }
            IdleMode::Adaptive => {
                Way::Sleep { since: 0, after: ticks(SLEEP_AFTER), next: SLEEP_MIN, max: sleep_max }
            }
        };
        Idle { way, empty_turns: 0 }
    }

    /// Once, on the thread that will sleep.
    pub(crate) fn prepare_thread(&self) {
        if matches!(self.way, Way::Sleep { .. })
            && let Err(error) = nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)
        {
            tracing::debug!("timer slack stays at its default: {error}");
        }
    }

    /// After a turn that found something to do.
    #[inline(always)]
    pub(crate) fn busy(&mut self) {
        self.empty_turns = 0;
    }

    /// After a turn without packets; whether it rested.
    #[inline(always)]
    pub(crate) fn empty(&mut self) -> bool {
        if matches!(self.way, Way::Poll) {
            std::hint::spin_loop();
            return false;
        }
        self.rest(dpdk::tsc())
    }

    fn rest(&mut self, tsc: u64) -> bool {
        self.empty_turns = self.empty_turns.saturating_add(1);
        match &mut self.way {
            Way::Poll => false,
            Way::Pause { by, first, next, max } => {
                if self.empty_turns < EMPTY_BEFORE_PAUSE {
                    std::hint::spin_loop();
                    return false;
                }
                if self.empty_turns == EMPTY_BEFORE_PAUSE {
                    *next = *first;
                }
                by.until(tsc.wrapping_add(*next));
                *next = (*next * 2).min(*max);
                true
            }
            Way::Sleep { since, after, next, max } => {
                if self.empty_turns == 1 {
                    (*since, *next) = (tsc, SLEEP_MIN);
                }
                if tsc.wrapping_sub(*since) < *after {
                    return false;
                }
                std::thread::sleep(*next);
                // By a quarter, so that a short pause costs little latency.
                *next = (*next + *next / 4).min(*max);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_count_for_each_limit_that_they_exceed_and_the_longest_is_kept() {
        let (page, mut turns) = (Page::default(), Turns::new(2_000_000_000));
        turns.begin(1_000);
        let mut tsc = 1_000;
        for us in [1, 20, 60, 30, 1_500] {
            tsc += us * 2_000 + 2;
            turns.next(tsc, &page);
        }
        turns.next(tsc - 500, &page);
        let counts: Vec<u64> = page.long_turns.iter().map(engine::counters::Count::get).collect();
        assert_eq!(counts, [4, 2, 1, 1, 0]);
        assert_eq!(page.longest_turn_ns.get(), 1_500_001);
        // A rest is no turn.
        turns.begin(tsc + 1_000_000_000);
        turns.next(tsc + 1_000_000_001, &page);
        assert_eq!(page.longest_turn_ns.get(), 1_500_001);
    }

    #[test]
    fn upkeep_has_time_from_the_first_question_on_in_every_turn() {
        let (page, mut turns) = (Page::default(), Turns::new(2_000_000_000));
        let end = UPKEEP_US * 2_000;
        for began in [0, 90_000] {
            turns.next(began, &page);
            let asked =
                [0, end / 2, end - 1, end].map(|more| turns.is_upkeep_time_left_at(began + 7_000 + more));
            assert_eq!(asked, [true, true, true, false]);
        }
    }

    #[test]
    fn upkeep_is_long_if_it_is_without_its_longest_step() {
        let (page, mut turns) = (Page::default(), Turns::new(2_000_000_000));
        let counts = || page.long_upkeeps.each_ref().map(engine::counters::Count::get);
        let mut began = 0;
        // What is counted of a turn that asks and whose upkeep ends at these times, in µs; the turn ends 30 µs later.
        let mut long = |asked: &[u64], ends: u64| {
            let [over_20, over_50] = counts();
            for us in asked {
                turns.is_upkeep_time_left_at(began + us * 2_000);
            }
            if let Some(asked) = &mut turns.asked {
                asked.step_to(began + ends * 2_000);
            }
            began += (ends + 30) * 2_000;
            turns.next(began, &page);
            [counts()[0] - over_20, counts()[1] - over_50]
        };
        assert_eq!(long(&[], 90), [0, 0], "no upkeep");
        assert_eq!(long(&[70, 75, 80], 90), [0, 0], "70 µs before it");
        assert_eq!(long(&[30, 35, 75], 80), [0, 0], "30 µs before it and 40 in it");
        assert_eq!(long(&[5, 10, 15], 85), [0, 0], "70 µs at the last connection");
        assert_eq!(long(&[0, 21], 41), [0, 0], "20 µs without the longest step");
        assert_eq!(long(&[0, 21], 42), [1, 0], "21 µs without it");
        assert_eq!(long(&[0, 60, 120], 125), [1, 1], "65 µs without it");
        assert_eq!(long(&[], 90), [0, 0], "the next turn without upkeep");
    }

    #[test]
    fn the_clock_counts_ten_milliseconds_whatever_the_steps() {
        let hz = 2_450_000_000;
        let mut clock = Clock::new(1_000, hz);
        assert_eq!(clock.at(1_000), Ticks(0));
        assert_eq!(clock.at(1_000 + hz / 100 - 1), Ticks(0));
        assert_eq!(clock.at(1_000 + hz / 100), Ticks(1));
        assert_eq!(clock.at(1_000 + hz * 60), Ticks(6_000));
    }

    #[test]
    fn the_clock_stands_when_the_tsc_seems_to_go_back() {
        let mut clock = Clock::new(10_000, 1_000);
        assert_eq!(clock.at(10_100), Ticks(10));
        assert_eq!(clock.at(9_000), Ticks(10));
        assert_eq!(clock.at(10_110), Ticks(11));
    }

    const TSC_HZ: u64 = 2_000_000_000;

    fn rests(idle: &mut Idle, turns: u32) -> u32 {
        (0..turns).map(|_| u32::from(idle.empty())).sum()
    }

    /// Whether an empty turn that ends at each of these times rests.
    fn rests_at<const N: usize>(idle: &mut Idle, tsc: [u64; N]) -> [bool; N] {
        tsc.map(|tsc| idle.rest(tsc))
    }

    #[test]
    fn a_polling_worker_never_rests() {
        let mut idle = Idle::new(IdleMode::Poll, SLEEP_MIN, TSC_HZ);
        assert_eq!(rests(&mut idle, 10_000), 0);
    }

    #[test]
    fn pauses_begin_after_some_empty_turns_grow_to_their_bound_and_begin_anew_after_packets() {
        let max = Duration::from_micros(8);
        let mut idle = Idle::new(IdleMode::Pause(max), SLEEP_MIN, TSC_HZ);
        let pause = |idle: &Idle| match idle.way {
            Way::Pause { next, .. } => next,
            _ => 0,
        };
        assert_eq!(rests(&mut idle, EMPTY_BEFORE_PAUSE - 1), 0);
        let grown: Vec<u64> = (0..6).map(|_| (rests(&mut idle, 1), pause(&idle)).1).collect();
        assert_eq!(grown, [2_000, 4_000, 8_000, 16_000, 16_000, 16_000]);
        idle.busy();
        assert_eq!(rests(&mut idle, EMPTY_BEFORE_PAUSE), 1);
        assert_eq!(pause(&idle), 2_000);
    }

    #[test]
    fn sleeps_begin_some_time_after_the_last_packet_and_stay_within_their_bound() {
        let max = SLEEP_MIN * 2;
        let mut idle = Idle::new(IdleMode::Adaptive, max, TSC_HZ);
        let after = SLEEP_AFTER.as_nanos() as u64 * TSC_HZ / 1_000_000_000;
        let start = u64::MAX - after / 2;
        assert_eq!(rests_at(&mut idle, [start, start.wrapping_add(after - 1)]), [false; 2]);
        let slept = rests_at(&mut idle, [0, 1, 2, 3, 4, 5].map(|more| start.wrapping_add(after + more)));
        assert_eq!(slept, [true; 6]);
        assert!(matches!(idle.way, Way::Sleep { next, .. } if next == max));
        idle.busy();
        assert_eq!(rests_at(&mut idle, [7_000, 7_000 + after - 1]), [false; 2]);
        assert!(matches!(idle.way, Way::Sleep { next, .. } if next == SLEEP_MIN));
    }
}
