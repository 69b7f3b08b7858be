//! Numbered slots for services, real servers and pairs, which stay where they are while what they name is there.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::check::PlanError;
use super::spec::{RealSpec, ServiceSpec};
use crate::snapshot::Mode;

/// Slots of one kind, by key.
#[derive(Debug)]
pub(super) struct Slots<K> {
    what: &'static str,
    pub(super) by_key: HashMap<K, u32>,
    free: Vec<u32>,
    /// Keys that are no longer wanted, while connections may still name their slot.
    pub(super) leaving: HashMap<K, u32>,
    limit: usize,
    pub(super) next: u32,
}

impl<K: Clone + Ord + std::hash::Hash> Slots<K> {
    pub(super) fn new(what: &'static str, limit: usize) -> Self {
        Slots { what, by_key: HashMap::new(), free: Vec::new(), leaving: HashMap::new(), limit, next: 0 }
    }

    /// Whether these keys fit besides all that are there now. What leaves with this very change makes no room for
    /// it: until a worker has taken the new snapshot it may open connections to what leaves, and they would then
    /// be counted, and give their ports back, as the next tenant's.
    pub(super) fn check_room(&self, wanted: &HashSet<K>) -> Result<(), PlanError> {
        let new =
            wanted.iter().filter(|k| !self.by_key.contains_key(k) && !self.leaving.contains_key(k)).count();
        let room = self.free.len() + (self.limit - self.next as usize);
        if new > room {
            let used = self.limit - room;
            return Err(PlanError::TooMany { what: self.what, wanted: used + new, limit: self.limit });
        }
        Ok(())
    }

    /// Moves to exactly these keys, which fit.
    pub(super) fn retarget(&mut self, wanted: &HashSet<K>) {
        let gone: Vec<K> = self.by_key.keys().filter(|k| !wanted.contains(k)).cloned().collect();
        for key in gone {
            if let Some(slot) = self.by_key.remove(&key) {
                self.leaving.insert(key, slot);
            }
        }
        // In order, so that the same configurations always give the same slots.
        let mut new: Vec<&K> = wanted.iter().filter(|key| !self.by_key.contains_key(key)).collect();
        new.sort_unstable();
        for key in new {
            let slot = self.leaving.remove(key).or_else(|| self.free.pop()).unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            self.by_key.insert(key.clone(), slot);
        }
    }

    /// Frees the slots of keys that left and that nothing remembers, and returns them.
    pub(super) fn reclaim(&mut self, in_use: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut freed = Vec::new();
        self.leaving.retain(|_, slot| {
            let keep = in_use(*slot);
            if !keep {
                freed.push(*slot);
            }
            keep
        });
        self.free.extend(&freed);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        freed
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
