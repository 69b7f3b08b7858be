//! Thresholds on a real server's connections: full from `upper` on, until below `lower`.
//!
//! The hysteresis is one word per real server, in the first worker's page of counters and shared by all: with
//! a word per worker, one that has not picked for a while would hold another opinion than the rest. Whoever
//! picks may write it, and writes only what changes. Workers that pick at the same instant may together
//! exceed the threshold by one each.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::counters::Counters;
use crate::ids::RealId;
use crate::snapshot::Real;

/// Whether the server may get a new connection now.
#[inline]
pub(super) fn is_open(real: &Real, counters: &[Arc<Counters>]) -> bool {
    real.usable_weight() > 0 && !is_overloaded(real, counters)
}

/// Whether the server is full, or was and has not come down far enough (IPVS: below `lower`, or below 3/4 of
/// `upper` when there is no `lower`).
#[inline]
pub(super) fn is_overloaded(real: &Real, counters: &[Arc<Counters>]) -> bool {
    real.upper != 0 && evaluate(real, counters, 0)
}

/// Told of each pick: the connection that follows may be the one that fills the server.
#[inline]
pub(super) fn note_pick(real: &Real, counters: &[Arc<Counters>]) {
    if real.upper != 0 {
        evaluate(real, counters, 1);
    }
}

fn evaluate(real: &Real, counters: &[Arc<Counters>], coming: u64) -> bool {
    let Some(first) = counters.first() else { return false };
    let (upper, lower) = (u64::from(real.upper), u64::from(real.lower));
    let total = held(counters, real.id) + coming;
    let mark = first.overloaded_at(real.id);
    let marked = mark.load(Relaxed);
    let overloaded = if total >= upper {
        true
    } else if marked == 0 || marked < real.upper {
        // Never full, or full only by a threshold that has been raised since.
        false
    } else if lower != 0 {
        total >= lower
    } else {
        total * 4 >= upper * 3
    };
    let new = if overloaded { real.upper } else { 0 };
    if new != marked {
        mark.store(new, Relaxed);
    }
    overloaded
}

/// Connections of a real server, all workers.
fn held(counters: &[Arc<Counters>], id: RealId) -> u64 {
    counters.iter().fold(0, |sum, page| sum.wrapping_add(page.real(id).held.get()))
}

/// Connections in an active state of a real server, all workers.
pub(super) fn active(counters: &[Arc<Counters>], id: RealId) -> u64 {
    counters.iter().fold(0, |sum, page| sum.wrapping_add(page.real(id).active.get()))
}
