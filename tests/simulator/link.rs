//! Links: loss, duplication, delay, reordering, corruption.

use crate::rng::Rng;
use crate::topology::FaultLevel;

/// Chances per 100,000 frames, times in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    delay_us: u64,
    jitter_us: u64,
    lost: u32,
    doubled: u32,
    late: u32,
    corrupted: u32,
    rng: Rng,
}

/// One frame on its way.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) after_us: u64,
    pub(crate) bytes: Vec<u8>,
    /// Some bits are not those that were sent.
    pub(crate) corrupt: bool,
}

impl Link {
    pub(crate) fn of(rng: &mut Rng, level: FaultLevel) -> Link {
        let [lost, doubled, late, corrupted] = match level {
            FaultLevel::Clean => [0; 4],
            FaultLevel::Light => [300, 300, 1_000, if rng.coin() { 100 } else { 0 }],
            FaultLevel::Harsh => [3_000, 2_000, 8_000, if rng.coin() { 500 } else { 0 }],
        };
        Link {
            delay_us: rng.range(20, 3_000),
            jitter_us: if level == FaultLevel::Clean { 0 } else { rng.range(0, 200) },
            lost,
            doubled,
            late,
            corrupted,
            rng: rng.fork(),
        }
    }

    /// What arrives of a frame, and when.
    pub(crate) fn carry(&mut self, frame: Vec<u8>) -> Vec<InFlight> {
        let mut arrivals = Vec::with_capacity(1);
        if self.rng.chance(self.doubled) {
            arrivals.extend(self.one(frame.clone()));
        }
        arrivals.extend(self.one(frame));
        arrivals
    }

    fn one(&mut self, mut bytes: Vec<u8>) -> Option<InFlight> {
        if self.rng.chance(self.lost) {
            return None;
        }
        let mut after_us = self.delay_us + self.rng.below(self.jitter_us + 1);
        if self.rng.chance(self.late) {
            after_us += self.rng.range(500, 30_000);
        }
        let corrupt = self.rng.chance(self.corrupted);
        if corrupt {
            // A burst within one byte: the 16-bit sum always sees it, so whatever arrives as valid was not touched.
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= self.rng.range(1, 255) as u8;
        }
        Some(InFlight { after_us, bytes, corrupt })
    }
}
