//! Time as the engine sees it: a wrapping count of 10 ms ticks, given by the caller once per burst.
//!
//! 32 bits of 10 ms wrap after 497 days; all comparisons are modular, so only differences beyond 248 days would be
//! misread, and no timeout is that long (IPVS allows 31 days).

use zerocopy::{Immutable, IntoBytes};

/// Ticks per second.
pub const TICKS_PER_SECOND: u32 = 100;

/// A point in time, or a duration, in units of 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Ticks(pub u32);

impl Ticks {
    /// A duration of whole seconds; saturates at 124 days.
    pub const fn from_secs(seconds: u32) -> Ticks {
        let ticks = seconds as u64 * TICKS_PER_SECOND as u64;
        Ticks(if ticks > (1 << 30) { 1 << 30 } else { ticks as u32 })
    }

    /// Milliseconds, rounded down to ticks; wraps.
    pub const fn from_millis(millis: u64) -> Ticks {
        Ticks((millis / 10) as u32)
    }

    /// The point in time `duration` later.
    #[inline(always)]
    #[must_use]
    pub fn plus(self, duration: Ticks) -> Ticks {
        Ticks(self.0.wrapping_add(duration.0))
    }

    /// How long ago `earlier` was; 0 when it is in the future.
    #[inline(always)]
    #[must_use]
    pub fn since(self, earlier: Ticks) -> Ticks {
        let passed = self.0.wrapping_sub(earlier.0);
        Ticks(if passed as i32 >= 0 { passed } else { 0 })
    }

    /// Whether `deadline` has come.
    #[inline(always)]
    pub fn reached(self, deadline: Ticks) -> bool {
        self.0.wrapping_sub(deadline.0) as i32 >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_hold_across_the_wrap() {
        let before = Ticks(u32::MAX - 5);
        let after = before.plus(Ticks(10));
        assert_eq!(after.since(before), Ticks(10));
        assert_eq!(before.since(after), Ticks(0));
        assert!(after.reached(before));
        assert!(!before.reached(after));
    }
}
