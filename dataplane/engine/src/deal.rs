//! Whose a local address is, where NICs bring packets to their owner by flow rules ("destination is this local
//! address: to that queue"): each is one worker's, who takes all of its ports.
//!
//! Every worker needs one of its own among the local addresses of each service and family, because any worker may
//! get a client. An address keeps its worker for as long as it is known: connections remember it. Addresses that are
//! too few for that are shared by all workers, as in software (the port tells the owner), unless the operator
//! insists.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::ids::WorkerId;
use crate::plan::PlanError;

/// Whose a local address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// One worker's.
    Worker(WorkerId),
    /// Everybody's: its ports tell.
    Shared,
}

/// What becomes of a service with fewer local addresses than workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooFew {
    /// All workers share its addresses.
    Share,
    /// It is refused.
    Refuse,
}

/// The owners of all local addresses that are known.
#[derive(Debug, Clone)]
pub(crate) struct Deal {
    workers: u16,
    too_few: TooFew,
    owners: HashMap<IpAddr, Owner>,
}

impl Deal {
    pub(crate) fn new(workers: u16, too_few: TooFew) -> Deal {
        Deal { workers, too_few, owners: HashMap::new() }
    }

    /// Forgets all addresses but these.
    pub(crate) fn retain(&mut self, known: &HashSet<IpAddr>) {
        self.owners.retain(|address, _| known.contains(address));
    }

    /// Gives owners to those that have none: of each set, which is all that one service has of one family.
    ///
    /// # Errors
    /// [`PlanError::TooFewLocals`].
    pub(crate) fn add(&mut self, mut sets: Vec<(SocketAddr, Vec<IpAddr>)>) -> Result<(), PlanError> {
        // The small ones have the least choice.
        sets.sort_by_key(|(_, set)| set.len());
        sets.iter().try_for_each(|(service, set)| self.add_set(*service, set))
    }

    fn add_set(&mut self, service: SocketAddr, set: &[IpAddr]) -> Result<(), PlanError> {
        let mut has = vec![0u32; self.workers.into()];
        let mut is_shared = false;
        let mut new = Vec::new();
        for address in set {
            match self.owners.get(address) {
                Some(Owner::Worker(worker)) => has[worker.index()] += 1,
                Some(Owner::Shared) => is_shared = true,
                None => new.push(*address),
            }
        }
        let without = has.iter().filter(|count| **count == 0).count();
        if !is_shared && without > new.len() {
            if self.too_few == TooFew::Refuse || new.is_empty() {
                let missing = without - new.len();
                return Err(PlanError::TooFewLocals { service, workers: self.workers, missing });
            }
            self.owners.extend(new.into_iter().map(|address| (address, Owner::Shared)));
            return Ok(());
        }
        for address in new {
            let Some((worker, count)) = has.iter_mut().enumerate().min_by_key(|(_, count)| **count) else {
                break;
            };
            *count += 1;
            self.owners.insert(address, Owner::Worker(WorkerId(worker as u16)));
        }
        Ok(())
    }

    pub(crate) fn owner(&self, address: IpAddr) -> Option<WorkerId> {
        match self.owners.get(&address) {
            Some(Owner::Worker(worker)) => Some(*worker),
            Some(Owner::Shared) | None => None,
        }
    }

    /// Addresses that are one worker's.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (IpAddr, WorkerId)> {
        self.owners.keys().filter_map(|address| Some((*address, self.owner(*address)?)))
    }

    /// How many addresses all workers share.
    pub(crate) fn shared(&self) -> usize {
        self.owners.values().filter(|owner| **owner == Owner::Shared).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 100)), 80);

    fn set(addresses: impl IntoIterator<Item = u8>) -> (SocketAddr, Vec<IpAddr>) {
        (SERVICE, addresses.into_iter().map(|last| [10, 2, 0, last].into()).collect())
    }

    proptest! {
        #[test]
        fn every_worker_has_its_share_of_every_set(workers in 1u16..=64, extra in 0u8..40) {
            let mut deal = Deal::new(workers, TooFew::Refuse);
            let (_, all) = set(0..workers as u8 + extra);
            deal.add(vec![(SERVICE, all.clone())]).unwrap();
            let mut has = vec![0; workers.into()];
            all.iter().for_each(|address| has[deal.owner(*address).unwrap().index()] += 1);
            prop_assert!(has.iter().max().unwrap() - has.iter().min().unwrap() <= 1);
            prop_assert!(has.iter().all(|count| *count > 0));
        }

        #[test]
        fn an_address_keeps_its_owner_for_as_long_as_it_is_known(
            steps in prop::collection::vec(prop::collection::btree_set(0u8..12, 3..10), 1..20),
        ) {
            let mut deal = Deal::new(3, TooFew::Share);
            let mut known: Vec<IpAddr> = Vec::new();
            for step in steps {
                let before = deal.clone();
                let (service, addresses) = set(step);
                // All are kept that were ever added: that may leave a worker without, which is refused as a whole.
                if deal.add(vec![(service, addresses.clone())]).is_err() {
                    deal = before;
                    continue;
                }
                for address in &known {
                    prop_assert_eq!(deal.owners.get(address), before.owners.get(address));
                }
                let is_shared = addresses.iter().any(|address| deal.owners[address] == Owner::Shared);
                let workers: HashSet<_> = addresses.iter().filter_map(|address| deal.owner(*address)).collect();
                prop_assert!(is_shared || workers.len() == 3);
                known.extend(addresses);
            }
        }
    }

    #[test]
    fn too_few_addresses_are_shared_or_refused() {
        let mut deal = Deal::new(3, TooFew::Share);
        deal.add(vec![set([1, 2])]).unwrap();
        assert_eq!((deal.owned().count(), deal.shared()), (0, 2));
        // What comes later has an owner; the others stay as they are.
        deal.add(vec![set([1, 2, 3])]).unwrap();
        assert_eq!((deal.owned().count(), deal.shared()), (1, 2));
        let refused = Deal::new(3, TooFew::Refuse).add(vec![set([1, 2])]).unwrap_err();
        assert_eq!(refused, PlanError::TooFewLocals { service: SERVICE, workers: 3, missing: 1 });
        let text = refused.to_string();
        assert!(text.contains("1 of 3 workers") && text.contains("add 1"), "{text}");
    }

    #[test]
    fn what_is_left_of_a_set_must_still_do_for_all_workers() {
        let mut deal = Deal::new(2, TooFew::Share);
        deal.add(vec![set([1, 2, 3, 4])]).unwrap();
        // 1 and 3 are the first worker's.
        let refused = deal.clone().add(vec![set([1, 3])]).unwrap_err();
        assert_eq!(refused, PlanError::TooFewLocals { service: SERVICE, workers: 2, missing: 1 });
        deal.add(vec![set([1, 4])]).unwrap();
        // Once it is forgotten it may become anybody's.
        deal.retain(&set([1, 3]).1.into_iter().collect());
        deal.add(vec![set([1, 3, 4])]).unwrap();
        assert_eq!(deal.owner([10, 2, 0, 4].into()), Some(WorkerId(1)));
    }

    #[test]
    fn a_small_set_within_a_large_one_is_dealt_first() {
        let mut deal = Deal::new(2, TooFew::Refuse);
        deal.add(vec![set([1, 2, 3, 4]), set([1, 3])]).unwrap();
        assert_ne!(deal.owner([10, 2, 0, 1].into()), deal.owner([10, 2, 0, 3].into()));
    }
}
