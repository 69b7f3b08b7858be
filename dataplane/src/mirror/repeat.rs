//! Dumps that must be made again.
//!
//! The kernel dumps IPv6 routes in pieces. Between two of them it remembers how many it has told, not which, so when
//! some of those are deleted meanwhile it passes over as many that stay, without a word (seen with 6.18: 11,303 of
//! 20,000). Then everything is dumped again a little later, less and less often where routes are deleted all the time. And
//! what happens to routes whose next hop object changes only a dump tells; a daemon may change a thousand of them at once.

use std::time::{Duration, Instant};

/// How soon, at first.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How soon, at last.
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// A dump that is not urgent takes one part in so many of the time at most.
const SHARE: u32 = 4;

/// When to dump again.
#[derive(Debug)]
pub(super) struct Repeat {
    at: Option<Instant>,
    pause: Duration,
    /// The last dump took until here, and some rest.
    rests_until: Option<Instant>,
}

impl Repeat {
    pub(super) fn new() -> Repeat {
        Repeat { at: None, pause: PAUSE_MIN, rests_until: None }
    }

    /// A dump begins: whatever was wanted until now it brings.
    pub(super) fn begins(&mut self) {
        self.at = None;
    }

    /// A dump has taken so long.
    pub(super) fn took(&mut self, now: Instant, time: Duration) {
        self.rests_until = Some(now + time * (SHARE - 1));
    }

    /// Something has changed that only a dump can tell: at once, if the last one was long ago for what it took.
    pub(super) fn soon(&mut self, now: Instant) {
        self.want(self.rests_until.map_or(now, |rested| rested.max(now)));
    }

    /// All is heard that came while everything was dumped; `may_lack`: perhaps not all of it was told.
    pub(super) fn dumped(&mut self, now: Instant, may_lack: bool) {
        if may_lack {
            self.want(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        } else {
            self.pause = PAUSE_MIN;
        }
    }

    fn want(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_may_lack_something_is_repeated_ever_later_until_one_is_whole() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut repeat = Repeat::new();
        assert!(!repeat.is_due(after(1000)));
        for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
            repeat.begins();
            repeat.dumped(start, true);
            assert_eq!([pause - 1, pause].map(|seconds| repeat.is_due(after(seconds))), [false, true]);
        }
        repeat.begins();
        repeat.dumped(start, false);
        assert!(!repeat.is_due(after(1000)));
        repeat.dumped(start, true);
        assert!(repeat.is_due(after(1)));
    }

    #[test]
    fn what_is_wanted_soon_waits_until_the_last_dump_is_paid_for_and_is_not_forgotten_by_it() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut repeat = Repeat::new();
        repeat.soon(start);
        assert!(repeat.is_due(start));
        repeat.begins();
        repeat.took(after(2), Duration::from_secs(2));
        repeat.soon(after(3));
        repeat.dumped(after(3), false);
        repeat.soon(after(4));
        assert_eq!([7, 8].map(|seconds| repeat.is_due(after(seconds))), [false, true]);
        repeat.dumped(after(4), true);
        assert!(repeat.is_due(after(5)), "the earlier of both");
        repeat.begins();
        repeat.soon(after(100));
        assert!(repeat.is_due(after(100)));
    }
}
