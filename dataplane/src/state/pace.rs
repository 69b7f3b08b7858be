//! How often the forwarding table is made anew.

use std::time::{Duration, Instant};

/// Making tables takes one part in so many of the main thread's time at most. The rest is for requests, and for gathering
/// what else the kernel changes meanwhile: a routing daemon that fills a table of a million routes changes it for many
/// seconds.
const SHARE: u32 = 4;

/// When the next table is due.
#[derive(Debug)]
pub(super) struct Pace {
    due: Option<Instant>,
    /// The last one took until here, and some rest.
    rests_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { due: None, rests_until: now }
    }

    /// Something has changed: a table is due, at once if it `is_quick` to make or the last one was long ago for what it
    /// took.
    pub(super) fn changed(&mut self, now: Instant, is_quick: bool) {
        let due = if is_quick { now } else { self.rests_until.max(now) };
        self.due.get_or_insert(due);
    }

    /// Until when the main thread may wait for messages if it is to be back at `then`.
    pub(super) fn wait_until(&self, then: Instant) -> Instant {
        self.due.map_or(then, |due| due.min(then))
    }

    /// Whether a table is due now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// A table is in force, and making it took `took`.
    pub(super) fn made(&mut self, now: Instant, took: Duration) {
        self.due = None;
        self.rests_until = self.rests_until.max(now + took * (SHARE - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_due_at_once_if_it_is_quick_and_else_when_the_last_table_has_been_paid_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        assert!(!pace.is_due(at(10)));
        assert_eq!(pace.wait_until(at(1000)), at(1000));
        pace.changed(at(10), false);
        assert!(pace.is_due(at(10)));
        pace.made(at(30), Duration::from_millis(20));
        assert!(!pace.is_due(at(500)));
        pace.changed(at(31), true);
        assert!(pace.is_due(at(31)));
        pace.made(at(32), Duration::from_millis(1));
        pace.changed(at(33), false);
        pace.changed(at(50), false);
        assert_eq!(pace.wait_until(at(1000)), at(90));
        assert!(!pace.is_due(at(89)));
        assert!(pace.is_due(at(90)));
        pace.made(at(91), Duration::from_millis(1));
        pace.changed(at(500), false);
        assert!(pace.is_due(at(500)));
    }
}
