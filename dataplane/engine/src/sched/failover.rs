//! fo and ovf: the server with the greatest weight, until it takes no more.
//!
//! `Service::lookup` holds the indexes of the usable servers by falling weight; equals stay in the order in
//! which they are configured.

use std::sync::Arc;

use super::overload::{self, active};
use crate::counters::Counters;
use crate::snapshot::{Real, Service};

/// Full weight of a server in [`Real::usable_weight`]'s unit, which is a hundredth.
const WEIGHT_UNIT: u64 = 100;

/// Usable servers by falling weight.
pub(super) fn order(reals: &[Real]) -> Vec<u32> {
    let mut order: Vec<u32> =
        (0..reals.len() as u32).filter(|i| reals[*i as usize].usable_weight() > 0).collect();
    order.sort_by_key(|i| std::cmp::Reverse(reals[*i as usize].usable_weight()));
    order
}

fn open<'a>(service: &'a Service, counters: &'a [Arc<Counters>]) -> impl Iterator<Item = (usize, &'a Real)> {
    let by_weight = service.lookup.iter().map(|i| (*i as usize, &service.reals[*i as usize]));
    by_weight.filter(|(_, real)| !overload::is_overloaded(real, counters))
}

/// fo: the greatest weight.
pub(super) fn greatest(service: &Service, counters: &[Arc<Counters>]) -> Option<usize> {
    open(service, counters).next().map(|(i, _)| i)
}

/// ovf: the greatest weight among those whose active connections do not exceed their weight (IPVS; so each
/// takes one more than its weight).
pub(super) fn overflow(service: &Service, counters: &[Arc<Counters>]) -> Option<usize> {
    open(service, counters).find(|(_, real)| !exceeds_weight(real, counters)).map(|(i, _)| i)
}

/// Whether a server has more active connections than weight.
pub(super) fn exceeds_weight(real: &Real, counters: &[Arc<Counters>]) -> bool {
    active(counters, real.id).saturating_mul(WEIGHT_UNIT) > u64::from(real.usable_weight())
}

/// Whether a server has less than half as many active connections as weight.
pub(super) fn is_half_idle(real: &Real, counters: &[Arc<Counters>]) -> bool {
    active(counters, real.id).saturating_mul(2 * WEIGHT_UNIT) < u64::from(real.usable_weight())
}
