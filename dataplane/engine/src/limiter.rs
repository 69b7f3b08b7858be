//! Rate limits for what costs more than forwarding: packets for the kernel and ICMP errors.

use crate::time::{TICKS_PER_SECOND, Ticks};
use crate::verdict::PuntClass;

/// ICMP errors per second that a worker sends at most (RFC 1812 §4.3.2.8 asks for a limit; Linux allows 1000).
const ICMP_PER_SECOND: u32 = 1000;

/// What is limited, each on its own.
const KINDS: usize = PuntClass::COUNT + 1;
const ICMP: usize = PuntClass::COUNT;

/// Token buckets that hold one second's worth. Tokens are counted in 1/[`TICKS_PER_SECOND`], so a refill is one
/// multiplication.
#[derive(Debug)]
pub(crate) struct Limiter {
    per_second: [u32; KINDS],
    tokens: [u32; KINDS],
    refilled: Ticks,
}

impl Limiter {
    pub(crate) fn new(punt_per_second: u32, now: Ticks) -> Limiter {
        let mut per_second = [punt_per_second.clamp(1, u32::MAX / TICKS_PER_SECOND); KINDS];
        per_second[ICMP] = ICMP_PER_SECOND;
        Limiter { per_second, tokens: per_second.map(|n| n * TICKS_PER_SECOND), refilled: now }
    }

    #[inline(always)]
    pub(crate) fn refill(&mut self, now: Ticks) {
        if now != self.refilled {
            let passed = now.since(self.refilled).0.min(TICKS_PER_SECOND);
            self.refilled = now;
            for (tokens, per_second) in self.tokens.iter_mut().zip(&self.per_second) {
                *tokens = tokens.saturating_add(per_second * passed).min(per_second * TICKS_PER_SECOND);
            }
        }
    }

    pub(crate) fn allows_punt(&mut self, class: PuntClass) -> bool {
        self.take(class as usize)
    }

    pub(crate) fn allows_icmp(&mut self) -> bool {
        self.take(ICMP)
    }

    fn take(&mut self, kind: usize) -> bool {
        match self.tokens[kind].checked_sub(TICKS_PER_SECOND) {
            Some(left) => {
                self.tokens[kind] = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_its_rate_through_and_no_more() {
        let mut limiter = Limiter::new(50, Ticks(0));
        let mut passed = 0;
        for tick in 0..TICKS_PER_SECOND * 10 {
            limiter.refill(Ticks(tick));
            passed += (0..20).filter(|_| limiter.allows_punt(PuntClass::Stray)).count();
        }
        assert!((50 * 10..=50 * 11).contains(&passed), "{passed}");
    }

    #[test]
    fn the_greatest_rate_does_not_overflow() {
        let mut limiter = Limiter::new(u32::MAX, Ticks(0));
        limiter.refill(Ticks(TICKS_PER_SECOND));
        assert!(limiter.allows_punt(PuntClass::Arp));
    }

    #[test]
    fn the_classes_do_not_take_from_each_other() {
        let mut limiter = Limiter::new(1, Ticks(0));
        assert!(limiter.allows_punt(PuntClass::Stray));
        assert!(!limiter.allows_punt(PuntClass::Stray));
        assert!(limiter.allows_punt(PuntClass::Arp));
    }
}
