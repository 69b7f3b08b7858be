//! How a [`Spec`] differs from the one planned before it, so that a change costs what it changes.

use std::collections::HashSet;

use super::check::{PlanError, check_listens, check_service};
use super::slots::{Demand, PairSlotKey, RealSlotKey, ServiceSlotKey, pair_keys};
use super::spec::{ServiceSpec, Spec};
use super::{Planner, Wanted};

/// The services of a spec that are not as they were.
#[derive(Debug)]
pub(super) struct Difference<'a> {
    /// New or otherwise than before, in the order of the spec.
    pub(super) changed: Vec<&'a ServiceSpec>,
    /// No longer there.
    pub(super) gone: Vec<ServiceSlotKey>,
    /// Whether services listen elsewhere than before.
    pub(super) moves_listens: bool,
}

/// What a difference wants of the slots.
#[derive(Debug, Default)]
pub(super) struct Demands {
    pub(super) services: Demand<ServiceSlotKey>,
    pub(super) reals: Demand<RealSlotKey>,
    pub(super) pairs: Demand<PairSlotKey>,
}

impl<'a> Difference<'a> {
    /// # Errors
    /// [`PlanError`] where `spec` contradicts itself, whatever else there is. What is as before was found right then.
    pub(super) fn new(before: &Wanted, spec: &'a Spec) -> Result<Self, PlanError> {
        let mut seen = HashSet::with_capacity(spec.services.len());
        let mut changed = Vec::new();
        for service in &spec.services {
            if !seen.insert(service.key()) {
                return Err(PlanError::DuplicateService(service.virtual_));
            }
            if before.get(&service.key()) != Some(service) {
                check_service(service)?;
                changed.push(service);
            }
        }
        let gone: Vec<ServiceSlotKey> = before.keys().filter(|key| !seen.contains(key)).copied().collect();
        let moves = |service: &&ServiceSpec| {
            before.get(&service.key()).is_none_or(|old| !old.listens().eq(service.listens()))
        };
        let moves_listens = !gone.is_empty() || changed.iter().any(moves);
        if moves_listens {
            check_listens(spec)?;
        }
        Ok(Difference { changed, gone, moves_listens })
    }

    /// What it wants of the slots.
    pub(super) fn demands(&self, before: &Wanted) -> Demands {
        let mut demands = Demands::default();
        let keys = self.changed.iter().map(|service| service.key()).chain(self.gone.iter().copied());
        for old in keys.filter_map(|key| before.get(&key)) {
            demands.add(old, -1);
        }
        for new in &self.changed {
            demands.add(new, 1);
        }
        demands
    }
}

impl Demands {
    fn add(&mut self, service: &ServiceSpec, more: i32) {
        self.services.add(service.key(), more);
        for real in service.all_reals() {
            self.reals.add((service.protocol, service.virtual_, real.real), more);
            pair_keys(service, real).for_each(|key| self.pairs.add(key, more));
        }
    }
}

impl Planner {
    /// Keeps what the next plan is compared with.
    pub(super) fn keep(&mut self, difference: &Difference<'_>) {
        for key in &difference.gone {
            self.wanted.remove(key);
        }
        for service in &difference.changed {
            self.wanted.insert(service.key(), (*service).clone());
        }
    }
}
