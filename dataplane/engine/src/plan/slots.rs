//! Numbered slots for services, real servers and pairs, which stay where they are while what they name is there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::Index;

use super::check::PlanError;
use super::spec::{RealSpec, ServiceSpec};
use crate::snapshot::Mode;

/// How many want each of some things.
#[derive(Debug)]
pub(super) struct Tally<K>(HashMap<K, u32>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Tally(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Tally<K> {
    pub(super) fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// One less; whether nobody wants it any more.
    pub(super) fn remove(&mut self, key: K) -> bool {
        let Entry::Occupied(mut count) = self.0.entry(key) else { return false };
        *count.get_mut() -= 1;
        let is_last = *count.get() == 0;
        if is_last {
            count.remove();
        }
        is_last
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = K> {
        self.0.keys().copied()
    }
}

/// By how many more services or real servers each key is wanted than before, or by how many fewer.
#[derive(Debug)]
pub(super) struct Demand<K>(HashMap<K, i32>);

impl<K> Default for Demand<K> {
    fn default() -> Self {
        Demand(HashMap::new())
    }
}

impl<K: Eq + Hash> Demand<K> {
    pub(super) fn add(&mut self, key: K, more: i32) {
        *self.0.entry(key).or_default() += more;
    }
}

/// A slot that is wanted.
#[derive(Debug, Clone, Copy)]
struct Held {
    slot: u32,
    /// By how many; at least 1.
    users: i32,
}

/// What becomes of slots; made by [`Slots::fit`].
#[derive(Debug)]
pub(super) struct Move<K> {
    /// Wanted by more or by fewer, and still by somebody or no longer.
    held: Vec<(K, i32)>,
    /// Wanted by nobody before; in order.
    new: Vec<(K, i32)>,
}

impl<K> Move<K> {
    /// What nobody wanted before.
    pub(super) fn new_keys(&self) -> impl Iterator<Item = &K> {
        self.new.iter().map(|(key, _)| key)
    }
}

/// Slots of one kind, by key.
#[derive(Debug)]
pub(super) struct Slots<K> {
    what: &'static str,
    held: HashMap<K, Held>,
    free: Vec<u32>,
    /// Keys that are no longer wanted, while connections may still name their slot.
    pub(super) leaving: HashMap<K, u32>,
    limit: usize,
    pub(super) next: u32,
}

impl<K: Copy + Ord + Hash> Slots<K> {
    pub(super) fn new(what: &'static str, limit: usize) -> Self {
        Slots { what, held: HashMap::new(), free: Vec::new(), leaving: HashMap::new(), limit, next: 0 }
    }

    /// The slot of a key that is wanted.
    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.held.get(key).map(|held| held.slot)
    }

    /// Keys that are wanted, and those that connections may remember, with their slots.
    pub(super) fn known(&self) -> impl Iterator<Item = (&K, u32)> {
        let held = self.held.iter().map(|(key, held)| (key, held.slot));
        held.chain(self.leaving.iter().map(|(key, slot)| (key, *slot)))
    }

    /// What a demand comes to, if it fits besides all that is there now. What leaves with this very change makes no
    /// room for it: until a worker has taken the new snapshot it may open connections to what leaves, and they
    /// would then be counted, and give their ports back, as the next tenant's.
    pub(super) fn fit(&self, demand: Demand<K>) -> Result<Move<K>, PlanError> {
        let changed = demand.0.into_iter().filter(|(_, more)| *more != 0);
        let (held, mut new): (Vec<_>, Vec<_>) = changed.partition(|(key, _)| self.held.contains_key(key));
        // In order, so that the same configurations always give the same slots.
        new.sort_unstable();
        let taken = new.iter().filter(|(key, _)| !self.leaving.contains_key(key)).count();
        let room = self.free.len() + (self.limit - self.next as usize);
        if taken > room {
            let used = self.limit - room;
            return Err(PlanError::TooMany { what: self.what, wanted: used + taken, limit: self.limit });
        }
        Ok(Move { held, new })
    }

    /// Makes a move; returns the keys that were not known before, in order, with their slots.
    pub(super) fn make(&mut self, change: Move<K>) -> Vec<(K, u32)> {
        for (key, more) in change.held {
            let Entry::Occupied(mut held) = self.held.entry(key) else { continue };
            held.get_mut().users += more;
            if held.get().users == 0 {
                self.leaving.insert(key, held.remove().slot);
            }
        }
        let mut fresh = Vec::new();
        for (key, users) in change.new {
            let slot = self.leaving.remove(&key).unwrap_or_else(|| {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.next += 1;
                    self.next - 1
                });
                fresh.push((key, slot));
                slot
            });
            self.held.insert(key, Held { slot, users });
        }
        fresh
    }

    /// Frees the slots of keys that left and that nothing remembers, and returns them.
    pub(super) fn reclaim(&mut self, in_use: impl Fn(u32) -> bool) -> Vec<(K, u32)> {
        let mut freed = Vec::new();
        self.leaving.retain(|key, slot| {
            let keep = in_use(*slot);
            if !keep {
                freed.push((*key, *slot));
            }
            keep
        });
        if !freed.is_empty() {
            self.free.extend(freed.iter().map(|(_, slot)| *slot));
            self.free.sort_unstable_by(|a, b| b.cmp(a));
        }
        freed
    }
}

impl<K: Eq + Hash> Index<&K> for Slots<K> {
    type Output = u32;

    /// The slot of a key that is wanted.
    fn index(&self, key: &K) -> &u32 {
        &self.held[key].slot
    }
}

pub(super) type ServiceSlotKey = (u8, SocketAddr);
pub(super) type RealSlotKey = (u8, SocketAddr, SocketAddr);
/// Protocol, local address, port range, real server: what shares one local port space.
pub(super) type PairSlotKey = (u8, IpAddr, (u16, u16), SocketAddr);

/// What a FULLNAT real server takes local ports of.
pub(super) fn pair_keys(service: &ServiceSpec, real: &RealSpec) -> impl Iterator<Item = PairSlotKey> {
    let of_family = |local: &&IpAddr| real.mode == Mode::FullNat && local.is_ipv4() == real.real.is_ipv4();
    let locals = service.locals.iter().filter(of_family);
    locals.map(|local| (service.protocol, *local, service.local_ports, real.real))
}
