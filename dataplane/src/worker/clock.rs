//! TSC to engine time and idle back-off: the loop's two ways of dealing with time.

use std::time::Duration;

use engine::Ticks;
use engine::time::TICKS_PER_SECOND;

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

/// What an empty turn leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdleMode {
    /// Poll again at once.
    Poll,
    /// After some empty turns, sleep.
    Adaptive,
}

/// Backs off while there is nothing to do. Sleeping is the one system call that a worker makes.
#[derive(Debug)]
pub(crate) struct Idle {
    mode: IdleMode,
    sleep_max: Duration,
    empty_turns: u32,
    sleep: Duration,
}

/// Empty turns before the first sleep. An empty turn takes some 0.1 to 1 µs (a net_af_xdp port makes a system call),
/// so this is 50 to 500 µs: packets of a busy connection arrive more often than that.
const EMPTY_TURNS_MAX: u32 = 512;

/// The first sleep. The kernel adds its timer slack, which [`Idle::prepare_thread`] makes small.
const SLEEP_MIN: Duration = Duration::from_micros(20);

/// Timer slack of sleeping threads; the kernel's default of 50 µs would triple the shortest sleep.
const TIMER_SLACK_NS: u64 = 1_000;

impl Idle {
    /// `sleep_max` bounds the delay that the first packet after a pause may see.
    pub(crate) fn new(mode: IdleMode, sleep_max: Duration) -> Idle {
        Idle { mode, sleep_max, empty_turns: 0, sleep: SLEEP_MIN }
    }

    /// Once, on the thread that will sleep.
    pub(crate) fn prepare_thread(&self) {
        if self.mode == IdleMode::Adaptive
            && let Err(error) = nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)
        {
            tracing::debug!("timer slack stays at its default: {error}");
        }
    }

    /// After a turn with packets.
    #[inline(always)]
    pub(crate) fn busy(&mut self) {
        self.empty_turns = 0;
        self.sleep = SLEEP_MIN;
    }

    /// After a turn without packets.
    #[inline(always)]
    pub(crate) fn empty(&mut self) {
        if self.mode == IdleMode::Poll {
            std::hint::spin_loop();
            return;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        if self.empty_turns >= EMPTY_TURNS_MAX {
            std::thread::sleep(self.sleep);
            // Doubling in quarters, so that a short pause costs little latency.
            self.sleep = (self.sleep + self.sleep / 4).min(self.sleep_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
