use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::addr::Endpoint;
use crate::ids::{RealId, ServiceId};
use crate::snapshot::Mode;
use crate::tcp::Timeouts;

mod hashing;
mod least_loaded;
mod ranking;
mod thresholds;

const ALL: [Scheduler; 13] = [
    Scheduler::Rr,
    Scheduler::Wrr,
    Scheduler::Lc,
    Scheduler::Wlc,
    Scheduler::Lblc,
    Scheduler::Lblcr,
    Scheduler::Dh,
    Scheduler::Sh,
    Scheduler::Sed,
    Scheduler::Nq,
    Scheduler::Mh,
    Scheduler::Fo,
    Scheduler::Ovf,
];

fn real(i: usize, weight: u16) -> Real {
    let [high, low] = (i as u16).to_be_bytes();
    Real {
        id: RealId(i as u32),
        endpoint: SocketAddr::from(([10, 2, high, low], 8080)).into(),
        weight,
        up: true,
        ramp_percent: 100,
        upper: 0,
        lower: 0,
        mode: Mode::FullNat,
        locals: vec![],
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// As the planner makes it.
fn service_of(scheduler: Scheduler, flags: SchedulerFlags, reals: Vec<Real>) -> Service {
    let weights = || reals.iter().map(Real::usable_weight).filter(|weight| *weight > 0);
    Service {
        id: ServiceId(0),
        protocol: 6,
        virtual_: Endpoint::default(),
        tenant: 0,
        scheduler,
        flags,
        options: Default::default(),
        sorry: None,
        toa: None,
        timeouts: Timeouts::default(),
        weight_max: weights().max().unwrap_or(0),
        weight_gcd: weights().fold(0, gcd).max(1),
        lookup: prepare(scheduler, flags, &reals),
        reals,
    }
}

fn service(scheduler: Scheduler, weights: &[u16]) -> Service {
    let reals = weights.iter().enumerate().map(|(i, weight)| real(i, *weight)).collect();
    service_of(scheduler, SchedulerFlags::default(), reals)
}

/// A new connection of client number `n`.
fn with_flow<T>(n: u32, then: impl FnOnce(&Flow<'_>) -> T) -> T {
    let port = 1024 + (n % 60_000) as u16;
    then(&Flow {
        now: Ticks(0),
        client: &n.to_be_bytes(),
        client_port: port,
        virtual_: &n.to_be_bytes(),
        payload: &[],
    })
}

fn pages(workers: usize, reals: usize) -> Vec<Arc<Counters>> {
    (0..workers).map(|_| Arc::new(Counters::new(1, reals, 1))).collect()
}

fn state(service: &Service) -> SchedState {
    SchedState { memory: Wants::of(service).make(service, &[]), ..SchedState::default() }
}

/// Picks of one worker for clients 0, 1, …; none of them makes a connection.
fn picks(service: &Service, worker: u16, n: usize) -> Vec<usize> {
    let mut state = state(service);
    let counters = pages(usize::from(worker) + 1, service.reals.len());
    (0..n as u32)
        .filter_map(|client| with_flow(client, |flow| state.pick(service, flow, worker, &counters)))
        .collect()
}

#[test]
fn rr_takes_turns_and_workers_start_at_different_servers() {
    let service = service(Scheduler::Rr, &[1, 1, 0, 1]);
    assert_eq!(picks(&service, 0, 6), [0, 1, 3, 0, 1, 3]);
    assert_eq!(picks(&service, 1, 3), [1, 3, 0]);
}

#[test]
fn wrr_serves_in_the_order_of_ipvs() {
    assert_eq!(picks(&service(Scheduler::Wrr, &[4, 3, 2]), 0, 9), [0, 1, 2, 0, 0, 1, 0, 1, 2]);
    assert_eq!(picks(&service(Scheduler::Wrr, &[1, 0, 3]), 0, 8), [0, 2, 2, 2, 0, 2, 2, 2]);
    // Seen in a guest: weights 3, 1, 2 and 4, 2, 6.
    assert_eq!(picks(&service(Scheduler::Wrr, &[3, 1, 2]), 0, 6), [0, 1, 2, 0, 0, 2]);
    assert_eq!(picks(&service(Scheduler::Wrr, &[4, 2, 6]), 0, 6), [0, 1, 2, 2, 0, 2]);
}

proptest! {
    #[test]
    fn wrr_is_exact_over_each_cycle_wherever_a_worker_starts(
        weights in prop::collection::vec(0u16..12, 1..8), ramp in 1u8..=100, worker in 0u16..4,
    ) {
        let mut reals: Vec<Real> = weights.iter().enumerate().map(|(i, weight)| real(i, *weight)).collect();
        reals[0].ramp_percent = ramp;
        let service = service_of(Scheduler::Wrr, SchedulerFlags::default(), reals);
        let share = |real: &Real| (real.usable_weight() / service.weight_gcd) as usize;
        let cycle: usize = service.reals.iter().map(share).sum();
        let picks = picks(&service, worker, 3 * cycle);
        prop_assert_eq!(picks.len(), 3 * cycle);
        for part in picks.chunks(cycle.max(1)) {
            for (i, real) in service.reals.iter().enumerate() {
                prop_assert_eq!(part.iter().filter(|picked| **picked == i).count(), share(real));
            }
        }
    }

    /// The rounds as IPVS walks them: over every server of the list in every round.
    #[test]
    fn wrr_finds_the_same_as_a_walk_over_all_servers(weights in prop::collection::vec(0u16..300, 1..40)) {
        let service = service(Scheduler::Wrr, &weights);
        let (step, max) = (service.weight_gcd, service.weight_max);
        let rounds = std::iter::once(step).chain((1..max / step).rev().map(|n| (n + 1) * step));
        let walk = rounds.flat_map(|round| {
            (0..weights.len()).filter(|i| u32::from(weights[*i]) * 100 >= round).collect::<Vec<_>>()
        });
        let walk: Vec<usize> = walk.take(2000).collect();
        prop_assert_eq!(picks(&service, 0, walk.len()), walk);
    }

    #[test]
    fn nobody_is_picked_who_is_down_drained_or_overloaded(
        weights in prop::collection::vec(0u16..3, 1..6),
        up in prop::collection::vec(any::<bool>(), 6),
        full in prop::collection::vec(any::<bool>(), 6),
        fallback: bool,
    ) {
        for scheduler in ALL {
            let mut reals: Vec<Real> = weights.iter().enumerate().map(|(i, w)| real(i, *w)).collect();
            for (real, up) in reals.iter_mut().zip(&up) {
                (real.up, real.upper) = (*up, 5);
            }
            let service = service_of(scheduler, SchedulerFlags { fallback, ..Default::default() }, reals);
            let counters = pages(2, service.reals.len());
            for (real, _) in service.reals.iter().zip(&full).filter(|(_, full)| **full) {
                counters[0].real(real.id).held.add(2);
                counters[1].real(real.id).held.add(3);
            }
            let mut state = state(&service);
            let is_open = |i: usize| service.reals[i].usable_weight() > 0 && !full[i];
            let may_refuse = match scheduler {
                Scheduler::Dh => true,
                Scheduler::Sh | Scheduler::Mh => !fallback,
                _ => false,
            };
            for client in 0..20 {
                match with_flow(client, |flow| state.pick(&service, flow, 0, &counters)) {
                    Some(picked) => prop_assert!(is_open(picked), "{scheduler:?} picked {picked}"),
                    None => prop_assert!(may_refuse || !(0..weights.len()).any(is_open), "{scheduler:?}"),
                }
            }
        }
    }
}

#[test]
fn wrr_stays_exact_and_quick_with_a_thousand_odd_weights() {
    let weights: Vec<u16> = (0..1000).map(|i| i * 65 + 1).collect();
    let service = service(Scheduler::Wrr, &weights);
    let cycle: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
    assert_eq!(service.weight_gcd, 100);
    // A tenth of the cycle of 32 million: the round that serves all, then from the greatest weight down.
    let mut counts = vec![0u32; weights.len()];
    let mut state = state(&service);
    let counters = pages(1, weights.len());
    for _ in 0..cycle / 10 {
        counts[with_flow(0, |flow| state.pick(&service, flow, 0, &counters)).unwrap()] += 1;
    }
    let round = state.weight / service.weight_gcd;
    for (count, weight) in counts.iter().zip(weights) {
        let whole_rounds = 1 + (u32::from(weight) + 1).saturating_sub(round);
        assert!(whole_rounds.abs_diff(*count) <= 1, "weight {weight}: {count}, not {whole_rounds}");
    }
}

proptest! {
    #[test]
    fn workers_together_are_exact_while_each_makes_its_share_of_a_cycle(
        weights in prop::collection::vec(0u16..50, 1..12), workers in 1usize..6,
    ) {
        let service = service(Scheduler::Wrr, &weights);
        let share = |real: &Real| (real.usable_weight() / service.weight_gcd) as usize;
        let cycle: usize = service.reals.iter().map(share).sum();
        let place = |worker: usize| cycle * worker / workers;
        let counters = pages(workers, weights.len());
        let mut counts = vec![0; weights.len()];
        for worker in 0..workers {
            let mut state = state(&service);
            for _ in place(worker)..place(worker + 1) {
                let picked = with_flow(0, |flow| state.pick(&service, flow, worker as u16, &counters));
                counts[picked.unwrap()] += 1;
            }
        }
        prop_assert_eq!(counts, service.reals.iter().map(share).collect::<Vec<_>>());
    }
}

#[test]
fn a_new_configuration_finds_the_state_of_the_old_one_usable() {
    for scheduler in ALL {
        let mut state = state(&service(scheduler, &[1]));
        for weights in [&[3u16, 7, 9, 1, 5][..], &[2], &[0, 0], &[65_535, 1], &[]] {
            let service = service(scheduler, weights);
            let counters = pages(1, weights.len());
            let picked = with_flow(7, |flow| state.pick(&service, flow, 0, &counters));
            assert_eq!(picked.is_some(), service.weight_max > 0, "{scheduler:?} {weights:?}");
        }
    }
}

#[test]
fn no_scheduler_allocates() {
    for scheduler in ALL {
        let service = service(scheduler, &[3, 1, 2]);
        let mut state = state(&service);
        let counters = pages(2, 3);
        let info = allocation_counter::measure(|| {
            for client in 0..1000 {
                let picked = with_flow(client, |flow| state.pick(&service, flow, 0, &counters));
                counters[0].real(RealId(picked.unwrap_or(0) as u32)).active.add(1);
            }
        });
        assert_eq!(info.count_total, 0, "{scheduler:?}: {info:?}");
    }
}

#[test]
fn fo_takes_the_greatest_weight_that_is_left() {
    let mut reals = vec![real(0, 1), real(1, 9), real(2, 5), real(3, 5)];
    let pick =
        |reals: &[Real]| picks(&service_of(Scheduler::Fo, SchedulerFlags::default(), reals.to_vec()), 0, 2);
    assert_eq!(pick(&reals), [1, 1]);
    reals[1].up = false;
    assert_eq!(pick(&reals), [2, 2]);
    reals[2].ramp_percent = 50;
    assert_eq!(pick(&reals), [3, 3]);
}

#[test]
fn ovf_flows_over_when_active_connections_exceed_the_weight() {
    let service = service(Scheduler::Ovf, &[1, 3, 2]);
    let counters = pages(1, 3);
    let mut state = state(&service);
    let mut pick = || {
        let picked = with_flow(0, |flow| state.pick(&service, flow, 0, &counters))?;
        counters[0].real(RealId(picked as u32)).active.add(1);
        Some(picked)
    };
    let got: Vec<Option<usize>> = (0..10).map(|_| pick()).collect();
    let expected = [1, 1, 1, 1, 2, 2, 2, 0, 0].map(Some).into_iter().chain([None]);
    assert_eq!(got, expected.collect::<Vec<_>>());
}

#[test]
fn a_new_tenant_of_a_slot_begins_where_a_new_service_begins() {
    let mut service =
        service_of(Scheduler::Rr, SchedulerFlags::default(), (0..3).map(|i| real(i, 1)).collect());
    let mut state = SchedState::default();
    let counters = vec![Arc::new(Counters::new(1, 3, 1))];
    let mut pick = |service: &Service| with_flow(1, |flow| state.pick(service, flow, 0, &counters));
    let first = pick(&service);
    assert_ne!(pick(&service), first);
    service.tenant = 1;
    assert_eq!(pick(&service), first);
}
