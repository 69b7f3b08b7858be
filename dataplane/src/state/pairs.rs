//! Use of local ports as it is told: one row per local address and real server, whose count of refusals never falls.
//!
//! The planner knows a pair by its port range too. When a reload changes the range, the old pair lives beside the new
//! one until its connections have ended. Then its slot, with whatever it has counted, goes to somebody else; what
//! the old tenant counted is kept here for as long as its row is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use api::LocalPortUse;
use engine::PairId;
use engine::plan::PairInfo;

type Key = (IpAddr, SocketAddr);

/// Who has a slot, and what its counter of refusals said when he moved in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tenant {
    key: Key,
    exhausted_before: u64,
}

/// What the slots' counters must be corrected by.
#[derive(Debug, Default)]
pub(super) struct PairCounts {
    /// By slot.
    tenants: Vec<Option<Tenant>>,
    /// Refusals that freed pairs had counted, for keys that have other pairs still.
    gone: HashMap<Key, u64>,
}

impl PairCounts {
    /// Takes note of who has which slot; to be called after each plan. `exhausted` is a slot's counter over all
    /// workers, which nobody resets.
    pub(super) fn follow(
        &mut self,
        pairs: impl Iterator<Item = PairInfo>,
        exhausted: impl Fn(PairId) -> u64,
    ) {
        let mut now: Vec<Option<Tenant>> = vec![None; self.tenants.len()];
        for pair in pairs {
            let (slot, key) = (pair.id.index(), (pair.local, pair.real));
            if slot >= now.len() {
                now.resize(slot + 1, None);
            }
            let stayed = self.tenants.get(slot).copied().flatten().filter(|tenant| tenant.key == key);
            now[slot] = Some(stayed.unwrap_or_else(|| Tenant { key, exhausted_before: exhausted(pair.id) }));
        }
        for (slot, (before, now)) in self.tenants.iter().zip(&now).enumerate() {
            if let Some(tenant) = before.filter(|_| before != now) {
                let counted = exhausted(PairId(slot as u32)) - tenant.exhausted_before;
                *self.gone.entry(tenant.key).or_default() += counted;
            }
        }
        self.tenants = now;
        self.gone.retain(|_, counted| *counted > 0);
        if !self.gone.is_empty() {
            let live: HashSet<Key> = self.tenants.iter().flatten().map(|tenant| tenant.key).collect();
            self.gone.retain(|key, _| live.contains(key));
        }
    }

    /// One row for each local address and real server, in their order. `counts` gives a slot's ports in use and its
    /// refusals.
    pub(super) fn rows(
        &self,
        pairs: impl Iterator<Item = PairInfo>,
        counts: impl Fn(PairId) -> (u64, u64),
    ) -> Vec<LocalPortUse> {
        let mut rows: BTreeMap<Key, LocalPortUse> = BTreeMap::new();
        for pair in pairs {
            let key = (pair.local, pair.real);
            let row = rows.entry(key).or_insert_with(|| LocalPortUse {
                local: pair.local,
                real: pair.real,
                in_use: 0,
                capacity: 0,
                exhausted: self.gone.get(&key).copied().unwrap_or(0),
            });
            let (in_use, exhausted) = counts(pair.id);
            let before = self.tenants.get(pair.id.index()).copied().flatten();
            row.in_use += in_use;
            row.capacity += u64::from(pair.capacity);
            row.exhausted += exhausted - before.map_or(0, |tenant| tenant.exhausted_before);
        }
        rows.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: u32, real: u8, capacity: u32) -> PairInfo {
        PairInfo {
            id: PairId(id),
            local: [10, 2, 0, 200].into(),
            real: SocketAddr::from(([10, 2, 0, real], 80)),
            capacity,
        }
    }

    /// Ports in use, capacity and refusals of each row, when the slots count `(in use, exhausted)`.
    fn told(counts: &PairCounts, pairs: &[PairInfo], slots: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        let rows = counts.rows(pairs.iter().cloned(), |id| slots[id.index()]);
        rows.iter().map(|row| (row.in_use, row.capacity, row.exhausted)).collect()
    }

    #[test]
    fn a_pair_with_an_old_and_a_new_port_range_is_one_row_and_its_refusals_never_fall() {
        let mut counts = PairCounts::default();
        let (old, new) = (pair(0, 11, 100), pair(1, 11, 900));
        counts.follow([old.clone()].into_iter(), |_| 0);
        assert_eq!(told(&counts, std::slice::from_ref(&old), &[(100, 7)]), [(100, 100, 7)]);
        let both = [new.clone(), old];
        counts.follow(both.iter().cloned(), |id| [7, 0][id.index()]);
        assert_eq!(told(&counts, &both, &[(40, 7), (60, 2)]), [(100, 1000, 9)]);
        // The old one's connections have ended.
        counts.follow([new.clone()].into_iter(), |id| [7, 2][id.index()]);
        assert_eq!(told(&counts, &[new], &[(0, 7), (60, 3)]), [(60, 900, 10)]);
    }

    #[test]
    fn whoever_gets_a_slot_does_not_get_what_its_last_tenant_counted() {
        let mut counts = PairCounts::default();
        counts.follow([pair(0, 11, 100)].into_iter(), |_| 0);
        counts.follow([pair(0, 12, 100)].into_iter(), |_| 5);
        assert_eq!(told(&counts, &[pair(0, 12, 100)], &[(1, 6)]), [(1, 100, 1)]);
        assert!(counts.gone.is_empty(), "{counts:?}");
    }
}
