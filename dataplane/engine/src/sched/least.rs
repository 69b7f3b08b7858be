//! lc, wlc, sed, nq: the least loaded of all. The search starts behind the server picked last, so equals take
//! turns (IPVS always takes the first of them).

use std::sync::Arc;

use super::overload::{self, active};
use crate::counters::Counters;
use crate::ids::RealId;
use crate::snapshot::{Real, Scheduler, Service};

/// IPVS's measure of load: an active connection counts as much as 256 others.
pub(super) fn connections(counters: &[Arc<Counters>], id: RealId) -> u64 {
    counters.iter().map(|page| page.real(id)).fold(0, |sum: u64, real| {
        sum.wrapping_add(real.active.get().wrapping_mul(256)).wrapping_add(real.inactive.get())
    })
}

/// Indexes from the one behind `last` once around, of those that take new connections.
fn open<'a>(
    reals: &'a [Real],
    last: usize,
    counters: &'a [Arc<Counters>],
) -> impl Iterator<Item = (usize, &'a Real)> + Clone {
    let (before, behind) = reals.split_at(reals.len().min(last + 1));
    let around = (before.len()..).zip(behind).chain(before.iter().enumerate());
    around.filter(|(_, real)| overload::is_open(real, counters))
}

/// The first of those with the least load / weight.
pub(super) fn least<'a>(
    reals: impl Iterator<Item = (usize, &'a Real)>,
    load: impl Fn(&Real) -> u64,
    weight: impl Fn(&Real) -> u32,
) -> Option<usize> {
    // A weight of 0 stands for none yet: whatever its load is, the first one is less.
    let none = (0usize, 0u64, 0u64);
    let (best, _, weight) = reals.fold(none, |best, (i, real)| {
        let (load, weight) = (load(real), u64::from(weight(real)));
        // load / weight < best_load / best_weight, without dividing. A load is below 2^40 (2^32 connections at 256), a
        // weight below 2^23.
        let is_better = best.2 == 0 || load.saturating_mul(best.2) < best.1.saturating_mul(weight);
        if is_better { (i, load, weight) } else { best }
    });
    (weight > 0).then_some(best)
}

/// lc, wlc, sed and nq, by a look at all.
pub(super) fn of_all(service: &Service, last: usize, counters: &[Arc<Counters>]) -> Option<usize> {
    let open = || open(&service.reals, last, counters);
    match service.scheduler {
        Scheduler::Lc => least(open(), |real| connections(counters, real.id), |_| 1),
        // The shortest expected delay, (active + 1) / weight.
        Scheduler::Sed => by_delay(open(), counters),
        // One without active connections if there is any, else as sed.
        Scheduler::Nq => {
            let mut idle = open().filter(|(_, real)| active(counters, real.id) == 0);
            idle.next().map(|(i, _)| i).or_else(|| by_delay(open(), counters))
        }
        _ => by_weighted_connections(&service.reals, last, counters),
    }
}

fn by_delay<'a>(open: impl Iterator<Item = (usize, &'a Real)>, counters: &[Arc<Counters>]) -> Option<usize> {
    least(open, |real| active(counters, real.id).wrapping_add(1), Real::usable_weight)
}

/// wlc.
pub(super) fn by_weighted_connections(
    reals: &[Real],
    last: usize,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    of(open(reals, last, counters), counters)
}

/// As wlc, of these candidates alone.
pub(super) fn of<'a>(
    candidates: impl Iterator<Item = (usize, &'a Real)>,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    least(candidates, |real| connections(counters, real.id), Real::usable_weight)
}

/// Of these candidates the first with the greatest load / weight.
pub(super) fn most_loaded<'a>(
    candidates: impl Iterator<Item = (usize, &'a Real)>,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    // Greatest load / weight is least weight / load; an idle one is the last choice.
    candidates
        .map(|(i, real)| (i, connections(counters, real.id), u64::from(real.usable_weight())))
        .reduce(|best, next| {
            let is_worse = u128::from(next.1) * u128::from(best.2) > u128::from(best.1) * u128::from(next.2);
            if is_worse { next } else { best }
        })
        .map(|(i, ..)| i)
}
