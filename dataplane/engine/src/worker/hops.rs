//! Next hops towards real servers as they were last found, so that a new connection needs no look at the routes.

use crate::addr::Addr;
use crate::fib::{Fib, NextHop};
use crate::ids::AdjacencyId;
use crate::snapshot::Real;

/// By slot of the real server.
#[derive(Debug)]
pub(super) struct Hops(Box<[Hop]>);

#[derive(Debug, Clone, Copy)]
struct Hop {
    /// Of which real server; the slot may have another one since.
    to: Addr,
    /// Epoch of the forwarding table that it is valid for.
    epoch: u16,
    adjacency: AdjacencyId,
}

impl Hops {
    pub(super) fn new(reals_max: usize) -> Hops {
        let none = Hop { to: Addr::default(), epoch: 0, adjacency: AdjacencyId::NONE };
        Hops(vec![none; reals_max].into_boxed_slice())
    }

    /// The next hop towards a real server; [`AdjacencyId::NONE`] where there is no route or no neighbour yet.
    #[inline(always)]
    pub(super) fn get(&mut self, fib: &Fib, real: &Real) -> AdjacencyId {
        let Some(hop) = self.0.get_mut(real.id.index()) else { return AdjacencyId::NONE };
        let valid = hop.to == real.endpoint.addr && hop.epoch == fib.epoch();
        // What was not known may be known by now, without a new epoch.
        if !valid || hop.adjacency == AdjacencyId::NONE {
            *hop = Hop { to: real.endpoint.addr, epoch: fib.epoch(), adjacency: look_up(fib, real) };
        }
        hop.adjacency
    }
}

#[inline(never)]
fn look_up(fib: &Fib, real: &Real) -> AdjacencyId {
    match fib.lookup(real.endpoint.addr.to_ip()) {
        NextHop::Adjacency(id) => id,
        NextHop::Unknown { .. } | NextHop::NoRoute => AdjacencyId::NONE,
    }
}
