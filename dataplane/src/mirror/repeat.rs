//! Dumps that must be made again.
//!
//! The kernel dumps IPv6 routes in pieces. Between two of them it remembers how many it has told, not which, so when
//! some of those are deleted meanwhile it passes over as many that stay, without a word (seen with 6.18: 11,303 of
//! 20,000). Then everything is dumped again a little later, less and less often where routes are deleted all the time.

use std::time::{Duration, Instant};

/// How soon, at first.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How soon, at last.
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// When to dump again.
#[derive(Debug)]
pub(super) struct Repeat {
    at: Option<Instant>,
    pause: Duration,
}

impl Repeat {
    pub(super) fn new() -> Repeat {
        Repeat { at: None, pause: PAUSE_MIN }
    }

    /// Everything has been dumped; `may_lack`: but perhaps not all of it was told.
    pub(super) fn dumped(&mut self, now: Instant, may_lack: bool) {
        if may_lack {
            self.at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        } else {
            *self = Repeat::new();
        }
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
            repeat.dumped(start, true);
            assert_eq!([pause - 1, pause].map(|seconds| repeat.is_due(after(seconds))), [false, true]);
        }
        repeat.dumped(start, false);
        assert!(!repeat.is_due(after(1000)));
        repeat.dumped(start, true);
        assert!(repeat.is_due(after(1)));
    }
}
