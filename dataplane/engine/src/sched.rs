//! Schedulers: which real server gets a new connection.
//!
//! State is per worker and service; least-connection schedulers see the counts of all workers.

use std::sync::Arc;

use crate::counters::Counters;
use crate::snapshot::{Real, Scheduler, Service};

/// What a scheduler remembers of one service on one worker.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SchedState {
    /// Index of the real server picked last.
    last: u32,
    /// Weight that the current wrr round still looks for.
    weight: u32,
    /// Next local address.
    pub(crate) local: u32,
    /// Whether the starting point was set.
    started: bool,
}

impl SchedState {
    /// Picks a real server that is up and has weight; its index in `service.reals`.
    pub(crate) fn pick(
        &mut self,
        service: &Service,
        worker: u16,
        counters: &[Arc<Counters>],
    ) -> Option<usize> {
        let n = service.reals.len();
        if n == 0 || service.weight_max == 0 {
            return None;
        }
        if !self.started {
            // Workers start at different servers, so that they do not all load the first.
            *self = SchedState { last: (usize::from(worker) % n) as u32, weight: 0, started: true, ..*self };
            self.last = (self.last + n as u32 - 1) % n as u32;
        }
        let picked = match service.scheduler {
            Scheduler::Rr => self.round_robin(&service.reals),
            Scheduler::Wrr => self.weighted_round_robin(service),
            Scheduler::Wlc => weighted_least_connections(&service.reals, counters, self.last as usize),
        }?;
        self.last = picked as u32;
        Some(picked)
    }

    fn round_robin(&self, reals: &[Real]) -> Option<usize> {
        let n = reals.len();
        (1..=n).map(|step| (self.last as usize + step) % n).find(|i| reals[*i].usable_weight() > 0)
    }

    /// The classic interleaved rounds: from the greatest weight downwards in steps of the greatest common divisor,
    /// each round serves every server whose weight is at least the round's. Exact over one cycle.
    fn weighted_round_robin(&mut self, service: &Service) -> Option<usize> {
        let n = service.reals.len() as u32;
        // A new configuration may have fewer servers or lower weights.
        if self.weight > service.weight_max || self.last >= n {
            self.weight = 0;
        }
        let rounds = service.weight_max / service.weight_gcd;
        for _ in 0..=u64::from(n) * u64::from(rounds + 1) {
            self.last = if self.last + 1 >= n { 0 } else { self.last + 1 };
            if self.last == 0 || self.weight == 0 {
                self.weight = match self.weight.checked_sub(service.weight_gcd) {
                    None | Some(0) => service.weight_max,
                    Some(lower) => lower,
                };
            }
            if service.reals[self.last as usize].usable_weight() >= self.weight {
                return Some(self.last as usize);
            }
        }
        None
    }
}

/// IPVS wlc: least (256 x active + inactive) / weight; the search starts behind the server picked last, so equals
/// take turns.
fn weighted_least_connections(reals: &[Real], counters: &[Arc<Counters>], last: usize) -> Option<usize> {
    let n = reals.len();
    let mut best: Option<(usize, u64, u64)> = None;
    for i in (1..=n).map(|step| (last + step) % n) {
        let weight = u64::from(reals[i].usable_weight());
        if weight == 0 {
            continue;
        }
        let load: u64 = counters
            .iter()
            .map(|c| c.real(reals[i].id))
            .map(|real| real.active.get() * 256 + real.inactive.get())
            .sum();
        // load / weight < best_load / best_weight, without dividing.
        let better = best.is_none_or(|(_, best_load, best_weight)| {
            u128::from(load) * u128::from(best_weight) < u128::from(best_load) * u128::from(weight)
        });
        if better {
            best = Some((i, load, weight));
        }
    }
    best.map(|(i, _, _)| i)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Endpoint;
    use crate::ids::{RealId, ServiceId};
    use crate::snapshot::Mode;
    use crate::tcp::Timeouts;

    fn service(scheduler: Scheduler, weights: &[u16]) -> Service {
        let reals: Vec<Real> = weights
            .iter()
            .enumerate()
            .map(|(i, weight)| Real {
                id: RealId(i as u32),
                endpoint: Endpoint::default(),
                weight: *weight,
                up: true,
                mode: Mode::FullNat,
                locals: vec![],
            })
            .collect();
        let gcd = |a: u32, b: u32| {
            (1..=a.max(b)).rev().find(|d| a.is_multiple_of(*d) && b.is_multiple_of(*d)).unwrap_or(1)
        };
        Service {
            id: ServiceId(0),
            protocol: 6,
            virtual_: Endpoint::default(),
            scheduler,
            toa: None,
            timeouts: Timeouts::default(),
            weight_max: weights.iter().copied().max().unwrap_or(0).into(),
            weight_gcd: weights.iter().filter(|w| **w > 0).fold(0, |g, w| gcd(g, (*w).into())).max(1),
            reals,
        }
    }

    fn picks(service: &Service, worker: u16, n: usize) -> Vec<usize> {
        let mut state = SchedState::default();
        let counters = vec![Arc::new(Counters::new(1, service.reals.len(), 1))];
        (0..n).filter_map(|_| state.pick(service, worker, &counters)).collect()
    }

    #[test]
    fn rr_takes_turns_and_workers_start_at_different_servers() {
        let service = service(Scheduler::Rr, &[1, 1, 0, 1]);
        assert_eq!(picks(&service, 0, 6), [0, 1, 3, 0, 1, 3]);
        assert_eq!(picks(&service, 1, 3), [1, 3, 0]);
    }

    proptest! {
        #[test]
        fn wrr_is_exact_over_each_cycle(weights in prop::collection::vec(0u16..12, 1..8), worker in 0u16..4) {
            let service = service(Scheduler::Wrr, &weights);
            let cycle: u32 = weights.iter().map(|w| u32::from(*w) / service.weight_gcd).sum();
            let picks = picks(&service, worker, 3 * cycle as usize);
            prop_assert_eq!(picks.len(), 3 * cycle as usize);
            for (i, weight) in weights.iter().enumerate() {
                let got = picks.iter().filter(|p| **p == i).count() as u32;
                let exact = 3 * u32::from(*weight) / service.weight_gcd;
                // A start within a round shifts the window by part of one round.
                prop_assert!(got.abs_diff(exact) <= 1, "server {i} weight {weight}: {got} of {exact}");
            }
        }

        #[test]
        fn nobody_is_picked_who_is_down_or_drained(
            weights in prop::collection::vec(0u16..3, 1..6), up in prop::collection::vec(any::<bool>(), 6),
        ) {
            for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Wlc] {
                let mut service = service(scheduler, &weights);
                for (real, up) in service.reals.iter_mut().zip(&up) {
                    real.up = *up;
                }
                service.weight_max = service.reals.iter().map(Real::usable_weight).max().unwrap_or(0);
                for picked in picks(&service, 0, 20) {
                    prop_assert!(service.reals[picked].usable_weight() > 0);
                }
            }
        }
    }

    #[test]
    fn wlc_fills_up_by_weight_over_all_workers() {
        let service = service(Scheduler::Wlc, &[1, 2, 1]);
        let counters: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(1, 3, 1))).collect();
        let mut states = [SchedState::default(); 2];
        let mut got = [0; 3];
        for turn in 0..400 {
            let worker = turn % 2;
            let picked = states[worker].pick(&service, worker as u16, &counters).unwrap();
            counters[worker].real(RealId(picked as u32)).active.add(1);
            got[picked] += 1;
        }
        assert_eq!(got, [100, 200, 100]);
    }
}
