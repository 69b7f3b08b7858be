//! rr and wrr.
//!
//! wrr serves in IPVS's order: rounds from the greatest weight downwards in steps of the greatest common
//! divisor, each round once through the list, serving every server whose weight is at least the round's. Over
//! a cycle of all rounds a server of weight w is served exactly w / divisor times, wherever the cycle begins.
//! With a thousand servers and odd weights most of a round are servers to pass over, so the next one to serve
//! comes from a tree of weights.
//!
//! The tree, in `Service::lookup`: with p the power of two that holds all n servers, word p + i is the usable
//! weight of server i (0 behind the last), word k < p the greater one of words 2k and 2k + 1. Word 0 is not
//! used.

use std::sync::Arc;

use super::overload;
use crate::counters::Counters;
use crate::snapshot::{Real, Scheduler, Service};

/// The tree of usable weights.
pub(super) fn tree(reals: &[Real]) -> Vec<u32> {
    let leaves = reals.len().next_power_of_two();
    let mut tree = vec![0; 2 * leaves];
    for (leaf, real) in tree[leaves..].iter_mut().zip(reals) {
        *leaf = real.usable_weight();
    }
    fill(&mut tree);
    tree
}

/// From the leaves to the root.
fn fill(tree: &mut [u32]) {
    for k in (1..tree.len() / 2).rev() {
        tree[k] = tree[2 * k].max(tree[2 * k + 1]);
    }
}

/// The first server from `from` on whose weight is at least `floor`, which is not 0.
fn first_from(tree: &[u32], from: usize, floor: u32) -> Option<usize> {
    let leaves = tree.len() / 2;
    if from >= leaves {
        return None;
    }
    let mut at = leaves + from;
    // Up, until what lies to the right holds one.
    while tree[at] < floor {
        while at & 1 == 1 {
            at >>= 1;
        }
        if at == 0 {
            return None;
        }
        at += 1;
    }
    // Down to the leftmost of it.
    while at < leaves {
        at *= 2;
        if tree[at] < floor {
            at += 1;
        }
    }
    Some(at - leaves)
}

/// As [`first_from`], past the overloaded ones.
fn first_open(service: &Service, mut from: usize, floor: u32, counters: &[Arc<Counters>]) -> Option<usize> {
    while let Some(found) = first_from(&service.lookup, from, floor) {
        if !overload::is_overloaded(&service.reals[found], counters) {
            return Some(found);
        }
        from = found + 1;
    }
    None
}

/// Where a worker begins: the server "picked last" and the weight of the round. Workers begin at different
/// servers, so that they do not all load the first; under wrr at different places of the cycle, so that all
/// workers together make one cycle while each makes its share of it.
pub(super) fn start(service: &Service, worker: u16, workers: usize) -> (u32, u32) {
    let n = service.reals.len().max(1);
    let before = |at: usize| ((at + n - 1) % n) as u32;
    if service.scheduler != Scheduler::Wrr {
        return (before(usize::from(worker) % n), 0);
    }
    let (step, max) = (service.weight_gcd, service.weight_max);
    // Picks in all rounds from the greatest weight down to this one.
    let picks_until = |round: u32| -> u64 {
        let weights = service.reals.iter().map(Real::usable_weight).filter(|weight| *weight >= round);
        weights.map(|weight| u64::from((weight - round) / step + 1)).sum()
    };
    let cycle = picks_until(step);
    let share = cycle * u64::from(worker) / workers.max(usize::from(worker) + 1) as u64;
    // As a new service of IPVS, the first worker begins with the last round, which serves each server once.
    let last_round = if max == step { 0 } else { picks_until(2 * step) };
    let place = (last_round + share) % cycle;
    // The round in which that pick is, as the number of rounds behind it.
    let (mut low, mut high) = (0, max / step - 1);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if picks_until((middle + 1) * step) > place { low = middle } else { high = middle - 1 }
    }
    let round = (low + 1) * step;
    let done_before = if round == max { 0 } else { picks_until(round + step) };
    let at =
        (done_before..place).fold(0, |at, _| first_from(&service.lookup, at, round).map_or(0, |i| i + 1));
    match at {
        0 if round == max => (before(0), 0),
        0 => (before(0), round + step),
        _ => (before(at), round),
    }
}

/// rr: the next one in turn.
pub(super) fn next(service: &Service, last: usize, counters: &[Arc<Counters>]) -> Option<usize> {
    first_open(service, last + 1, 1, counters).or_else(|| first_open(service, 0, 1, counters))
}

/// wrr: the next one of the round, or the first of the next round.
pub(super) fn next_weighted(
    service: &Service,
    last: usize,
    weight: &mut u32,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    // A new configuration may have lower weights.
    if (1..=service.weight_max).contains(weight)
        && let Some(found) = first_open(service, last + 1, *weight, counters)
    {
        return Some(found);
    }
    *weight = match weight.checked_sub(service.weight_gcd) {
        None | Some(0) => service.weight_max,
        Some(lower) => lower.min(service.weight_max),
    };
    first_open(service, 0, *weight, counters).or_else(|| {
        // All that this round would serve are overloaded: on to the first round that serves another.
        let open = service.reals.iter().filter(|real| overload::is_open(real, counters));
        *weight = open.map(Real::usable_weight).max()?;
        first_open(service, 0, *weight, counters)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_tree_finds_what_a_search_from_left_to_right_finds(
            weights in prop::collection::vec(0u32..9, 1..70), from in 0usize..80, floor in 1u32..10,
        ) {
            let leaves = weights.len().next_power_of_two();
            let mut tree = vec![0; 2 * leaves];
            tree[leaves..leaves + weights.len()].copy_from_slice(&weights);
            fill(&mut tree);
            let searched = (from..weights.len()).find(|i| weights[*i] >= floor);
            prop_assert_eq!(first_from(&tree, from, floor), searched);
        }
    }
}
