//! The least loaded of very many under lc, wlc, sed and nq, without a look at all of them for each pick.
//!
//! A tree has the loads as they were when each server was last looked at. Every pick looks at the server that was picked
//! last and at the next few in turn, takes the first of those with the least load, and looks at that one before it has it:
//! if its load is greater than the tree knew (other workers pick, too), the tree is put right and asked again. So what is
//! picked is as loaded as it is thought to be; what may be missed is a server whose connections have ended since it was
//! last looked at. With n servers that is at most n / 4 picks ago, and when there are fewer than one pick per tick n / 64.
//!
//! The tree: as in [`super::rounds`], with the lesser one of two in each word, [`CLOSED`] where a server takes no
//! connections or there is none.

use std::sync::Arc;

use super::{least, overload};
use crate::counters::Counters;
use crate::snapshot::{Real, Scheduler, Service};
use crate::time::Ticks;

/// Servers from which on a service has a ranking; with fewer all are looked at, which costs 50 to 70 instructions each.
pub(crate) const RANKED_FROM: usize = 32;
/// Servers that every pick looks at beside its own.
const LOOKS: usize = 4;
/// The same for the first pick of a tick: where connections are few, they can be scheduled well.
const LOOKS_FIRST: usize = 64;
/// Picks that may turn out to be more loaded than was known; then the least loaded of them has to do. One per worker that
/// picks at the same time is usual.
const TRIES_MAX: usize = 16;
/// Greater than every load.
const CLOSED: u64 = u64::MAX;
/// Binary digits behind the point of a load by weight. Loads stay below 2^40: 2^32 connections at 256.
const FRACTION_BITS: u32 = 20;

/// What one worker knows of the loads of one service's servers.
#[derive(Debug, Clone)]
pub(crate) struct Ranking {
    tree: Box<[u64]>,
    /// Servers of the service that it was made for.
    len: usize,
    /// Who is looked at next.
    turn: usize,
    /// The tick of the last pick.
    picked: Ticks,
}

impl Ranking {
    /// Of a service with these loads.
    pub(crate) fn new(service: &Service, counters: &[Arc<Counters>]) -> Ranking {
        let len = service.reals.len();
        let leaves = len.next_power_of_two();
        let tree = vec![CLOSED; 2 * leaves].into_boxed_slice();
        let mut ranking = Ranking { tree, len, turn: 0, picked: Ticks(0) };
        (0..len).for_each(|i| ranking.look(i, service, counters));
        ranking
    }

    /// Whether it can serve this service.
    pub(super) fn fits(&self, service: &Service) -> bool {
        self.len == service.reals.len()
    }

    /// The index of a server that takes connections and has the least load as far as is known.
    pub(super) fn pick(
        &mut self,
        service: &Service,
        now: Ticks,
        last: usize,
        counters: &[Arc<Counters>],
    ) -> Option<usize> {
        let is_first = now != self.picked;
        self.picked = now;
        self.look(last % self.len, service, counters);
        self.look_on(if is_first { LOOKS_FIRST } else { LOOKS }, service, counters);
        if self.tree.get(1) == Some(&CLOSED) && is_first {
            self.look_on(self.len, service, counters);
        }
        let mut best: Option<(usize, u64)> = None;
        let mut tries = 0;
        while tries < TRIES_MAX {
            let Some((i, known)) = self.least(last + 1) else { break };
            let load = load_of(&service.reals[i], service.scheduler, counters);
            self.set(i, load);
            if load == CLOSED {
                // It is no longer among those to be tried, so this comes to an end.
                continue;
            }
            if load <= known {
                return Some(i);
            }
            if best.is_none_or(|(_, least)| load < least) {
                best = Some((i, load));
            }
            tries += 1;
        }
        best.map(|(i, _)| i)
    }

    /// Looks at so many servers, going on where it stopped.
    fn look_on(&mut self, count: usize, service: &Service, counters: &[Arc<Counters>]) {
        for _ in 0..count.min(self.len) {
            self.look(self.turn, service, counters);
            self.turn = if self.turn + 1 < self.len { self.turn + 1 } else { 0 };
        }
    }

    fn look(&mut self, i: usize, service: &Service, counters: &[Arc<Counters>]) {
        self.set(i, load_of(&service.reals[i], service.scheduler, counters));
    }

    /// Writes a server's load and what follows from it.
    fn set(&mut self, i: usize, load: u64) {
        let mut at = self.tree.len() / 2 + i;
        self.tree[at] = load;
        while at > 1 {
            let least = self.tree[at].min(self.tree[at ^ 1]);
            at /= 2;
            if std::mem::replace(&mut self.tree[at], least) == least {
                break;
            }
        }
    }

    /// The first server with the least load, from `from` on and round, and that load; none if all are closed.
    fn least(&self, from: usize) -> Option<(usize, u64)> {
        let least = self.tree.get(1).copied().filter(|least| *least != CLOSED)?;
        let found = self.first_from(from, least).or_else(|| self.first_from(0, least));
        found.map(|i| (i, least))
    }

    /// The first server from `from` on whose load is not greater.
    fn first_from(&self, from: usize, ceiling: u64) -> Option<usize> {
        let leaves = self.tree.len() / 2;
        if from >= leaves {
            return None;
        }
        let mut at = leaves + from;
        // Up, until what lies to the right holds one.
        while self.tree[at] > ceiling {
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
            at += usize::from(self.tree[at] > ceiling);
        }
        Some(at - leaves)
    }
}

/// A server's load by weight, as the scheduler has it; [`CLOSED`]: it takes no connections.
fn load_of(real: &Real, scheduler: Scheduler, counters: &[Arc<Counters>]) -> u64 {
    if !overload::is_open(real, counters) {
        return CLOSED;
    }
    let weight = if scheduler == Scheduler::Lc { 1 } else { real.usable_weight() };
    let load = match scheduler {
        Scheduler::Sed => overload::active(counters, real.id).wrapping_add(1),
        Scheduler::Nq => match overload::active(counters, real.id) {
            0 => return 0,
            active => active.wrapping_add(1),
        },
        _ => least::connections(counters, real.id),
    };
    (load << FRACTION_BITS) / u64::from(weight)
}
