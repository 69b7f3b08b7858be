//! What of their cores the CPUs have. Where a CPU is a hyperthread, another's work on its sibling takes a third of the speed
//! of code that keeps the core busy, and nothing of what waits; no counter of time tells. A loop that needs nothing but
//! the core does.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::time::{ClockId, clock_gettime};

use crate::machine;

/// Independent chains: more than a core can do at once, so that it is the core that limits.
const LANES: [u64; 6] = [1, 2, 3, 4, 5, 6];
/// Steps of one look: some 3 ms.
const STEPS: u32 = 3 << 20;
/// Looks at each CPU before the first measurement.
const FIRST_LOOKS: usize = 40;

/// What the CPUs have shown so far.
pub(crate) struct Cores {
    /// Steps per nanosecond of a core that nobody shares.
    best: Cell<f64>,
}

impl Cores {
    /// Finds out what a whole core can do.
    ///
    /// # Errors
    /// When threads cannot be put on their CPUs.
    pub(crate) fn learn() -> Result<Cores> {
        let cores = Cores { best: Cell::new(0.0) };
        for _ in 0..FIRST_LOOKS {
            for cpu in machine::forwarding_cpus(2) {
                cores.share(&[cpu])?;
            }
        }
        Ok(cores)
    }

    /// How much of a core each of these CPUs has when all of them work: the least, 1 at best.
    ///
    /// # Errors
    /// When threads cannot be put on their CPUs.
    pub(crate) fn share(&self, cpus: &[usize]) -> Result<f64> {
        let together = Barrier::new(cpus.len());
        let speeds: Vec<Result<f64>> = std::thread::scope(|scope| {
            let looks: Vec<_> = cpus.iter().map(|cpu| scope.spawn(|| speed(*cpu, &together))).collect();
            looks
                .into_iter()
                .map(|look| look.join().map_err(|_| anyhow!("a look at a core panicked"))?)
                .collect()
        });
        let speeds = speeds.into_iter().collect::<Result<Vec<f64>>>()?;
        let least = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        self.best.set(speeds.into_iter().fold(self.best.get(), f64::max));
        Ok(least / self.best.get())
    }
}

/// Steps per nanosecond of CPU time, so that whoever else runs on this CPU does not count.
fn speed(cpu: usize, together: &Barrier) -> Result<f64> {
    // Nobody waits for a thread that has failed.
    let pinned = machine::pin_to(&[cpu]);
    together.wait();
    pinned?;
    let start = thread_time()?;
    black_box(steps(STEPS));
    let took = thread_time()? - start;
    Ok(f64::from(STEPS) / took.as_nanos().max(1) as f64)
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's clock")?.into())
}

/// Adds and rotates, by a distance that is not known before, so that the compiler makes no vectors of it.
#[inline(never)]
fn steps(count: u32) -> u64 {
    let mut lanes = black_box(LANES);
    for _ in 0..count {
        for lane in &mut lanes {
            *lane = lane.wrapping_add(0x9e37_79b9).rotate_left(*lane as u32);
        }
    }
    lanes.into_iter().fold(0, |sum, lane| sum ^ lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_part_of_the_best_that_was_seen() {
        let cores = Cores { best: Cell::new(0.0) };
        assert!((cores.share(&[0]).unwrap() - 1.0).abs() < 1e-9, "the first look is the best one");
        // Nothing is as fast as that.
        cores.best.set(1e6);
        assert!(cores.share(&[0]).unwrap() < 1e-3);
    }
}
