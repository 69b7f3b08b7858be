//! lblc and lblcr: a destination stays with the real server, or the few, that it had, for the sake of their
//! caches.
//!
//! What is remembered is bounded: [`ENTRIES_MAX`] destinations per service and worker, the one not asked for
//! longest gives way; under lblcr [`SET_MAX`] servers per destination (IPVS: 16,384 and any number). A
//! destination here is a virtual address of the service, so there are few of them.

use std::sync::Arc;

use super::flow_hash::{address, hash, reduce};
use super::{Flow, failover, least, overload};
use crate::counters::Counters;
use crate::ids::RealId;
use crate::snapshot::{Real, Service};
use crate::time::Ticks;

/// Destinations that are remembered.
const ENTRIES_MAX: usize = 256;

/// Entries that one destination may stand in.
const BUCKET_LEN: usize = 8;

/// Servers of one destination under lblcr.
const SET_MAX: usize = 8;

/// IPVS forgets a destination that nobody asked for in a day (lblc_expiration, lblcr_expiration).
const EXPIRATION: Ticks = Ticks::from_secs(24 * 60 * 60);

/// After that long without a change the most loaded server of a set goes (IPVS: the same sysctl).
const SHRINK_AFTER: Ticks = EXPIRATION;

/// The real servers of one destination.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    destination: u128,
    reals: [RealId; SET_MAX],
    /// How many of `reals` count; 0: a free entry.
    len: u8,
    used: Ticks,
    changed: Ticks,
}

/// Which destination has which real servers, for one service on one worker.
#[derive(Debug, Clone)]
pub(crate) struct Locality([Entry; ENTRIES_MAX]);

impl Locality {
    /// Nothing remembered.
    pub(crate) fn new() -> Locality {
        Locality([Entry::default(); ENTRIES_MAX])
    }

    /// The entry of a destination: its own, or the one that has to give way, emptied.
    fn entry(&mut self, destination: u128, now: Ticks) -> &mut Entry {
        let start = reduce(hash(0, destination, 0), ENTRIES_MAX / BUCKET_LEN) * BUCKET_LEN;
        let bucket = &mut self.0[start..start + BUCKET_LEN];
        let is_its = |entry: &Entry| entry.len > 0 && entry.destination == destination;
        let at = bucket.iter().position(is_its).unwrap_or_else(|| {
            let age = |entry: &Entry| if entry.len == 0 { u32::MAX } else { now.since(entry.used).0 };
            (0..BUCKET_LEN).max_by_key(|i| age(&bucket[*i])).unwrap_or(0)
        });
        let entry = &mut bucket[at];
        if !is_its(entry) || now.since(entry.used).0 > EXPIRATION.0 {
            *entry = Entry { destination, changed: now, ..Entry::default() };
        }
        entry.used = now;
        entry
    }
}

impl Entry {
    fn reals(&self) -> &[RealId] {
        &self.reals[..self.len.into()]
    }

    /// Its servers that the service still has, with their indexes.
    fn members<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (usize, &'a Real)> + Clone {
        service.reals.iter().enumerate().filter(|(_, real)| self.reals().contains(&real.id))
    }

    /// Servers that were taken from the service make room.
    fn forget_removed(&mut self, service: &Service, now: Ticks) {
        for id in self.reals {
            if self.reals().contains(&id) && !service.reals.iter().any(|real| real.id == id) {
                self.remove(id, now);
            }
        }
    }

    fn set(&mut self, real: RealId, now: Ticks) {
        (self.reals[0], self.len, self.changed) = (real, 1, now);
    }

    fn add(&mut self, real: RealId, now: Ticks) {
        if self.reals().contains(&real) {
            return;
        }
        if usize::from(self.len) < SET_MAX {
            self.reals[usize::from(self.len)] = real;
            self.len += 1;
            self.changed = now;
        }
    }

    fn remove(&mut self, real: RealId, now: Ticks) {
        if let Some(at) = self.reals().iter().position(|one| *one == real) {
            self.len -= 1;
            self.reals[at] = self.reals[usize::from(self.len)];
            self.changed = now;
        }
    }
}

/// IPVS's overload rule of both: more active connections than weight, while another server has less than half
/// of its.
fn has_to_share(real: &Real, service: &Service, counters: &[Arc<Counters>]) -> bool {
    failover::exceeds_weight(real, counters)
        && service.reals.iter().any(|other| failover::is_half_idle(other, counters))
}

/// lblc.
pub(super) fn pick(
    locality: Option<&mut Locality>,
    service: &Service,
    flow: &Flow<'_>,
    last: usize,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    let Some(locality) = locality else {
        return least::by_weighted_connections(&service.reals, last, counters);
    };
    let entry = locality.entry(address(flow.virtual_), flow.now);
    let kept = entry
        .members(service)
        .find(|(_, real)| overload::is_open(real, counters) && !has_to_share(real, service, counters));
    if let Some((i, _)) = kept {
        return Some(i);
    }
    let picked = least::by_weighted_connections(&service.reals, last, counters)?;
    entry.set(service.reals[picked].id, flow.now);
    Some(picked)
}

/// lblcr.
pub(super) fn pick_replicated(
    locality: Option<&mut Locality>,
    service: &Service,
    flow: &Flow<'_>,
    last: usize,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    let Some(locality) = locality else {
        return least::by_weighted_connections(&service.reals, last, counters);
    };
    let entry = locality.entry(address(flow.virtual_), flow.now);
    entry.forget_removed(service, flow.now);
    let (least, most) = {
        let usable = entry.members(service).filter(|(_, real)| real.usable_weight() > 0);
        let open = usable.clone().filter(|(_, real)| overload::is_open(real, counters));
        (least::of(open, counters), least::most_loaded(usable, counters))
    };
    if entry.len > 1
        && flow.now.since(entry.changed).0 > SHRINK_AFTER.0
        && let Some(most) = most
    {
        entry.remove(service.reals[most].id, flow.now);
    }
    if let Some(i) = least.filter(|i| !has_to_share(&service.reals[*i], service, counters)) {
        return Some(i);
    }
    let picked = least::by_weighted_connections(&service.reals, last, counters)?;
    entry.add(service.reals[picked].id, flow.now);
    Some(picked)
}
