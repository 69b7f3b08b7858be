//! What a worker remembers of each real server for the next connection: the next hop as it was last found, so that no look
//! at the routes is needed, and whose turn it is of the local addresses.
//!
//! The turn is each real server's own. One of the service's would go along with a scheduler that takes the real servers
//! in turn, and with 10 local addresses and 20 real servers use a tenth of their pairs.

use crate::addr::Addr;
use crate::fib::{Fib, NextHop};
use crate::ids::AdjacencyId;
use crate::snapshot::Real;

/// By slot of the real server.
#[derive(Debug)]
pub(super) struct Remembered(Box<[OfReal]>);

#[derive(Debug, Clone, Copy)]
struct OfReal {
    /// Of which real server; the slot may have another one since.
    to: Addr,
    /// Epoch of the forwarding table that the next hop is valid for.
    epoch: u16,
    adjacency: AdjacencyId,
    /// Index of the next local address. Any is right for another real server too.
    local: u32,
}

impl Remembered {
    pub(super) fn new(reals_max: usize) -> Remembered {
        let none = OfReal { to: Addr::default(), epoch: 0, adjacency: AdjacencyId::NONE, local: 0 };
        Remembered(vec![none; reals_max].into_boxed_slice())
    }

    /// The next hop towards a real server; [`AdjacencyId::NONE`] where there is no route or no neighbour yet.
    #[inline(always)]
    pub(super) fn next_hop(&mut self, fib: &Fib, real: &Real) -> AdjacencyId {
        let Some(of) = self.0.get_mut(real.id.index()) else { return AdjacencyId::NONE };
        let valid = of.to == real.endpoint.addr && of.epoch == fib.epoch();
        // What was not known may be known by now, without a new epoch.
        if !valid || of.adjacency == AdjacencyId::NONE {
            *of = OfReal {
                to: real.endpoint.addr,
                epoch: fib.epoch(),
                adjacency: look_up(fib, real),
                local: of.local,
            };
        }
        of.adjacency
    }

    /// Index in `real.locals` of the address whose turn it is.
    #[inline(always)]
    pub(super) fn next_local(&mut self, real: &Real) -> usize {
        let Some(of) = self.0.get_mut(real.id.index()) else { return 0 };
        // An older configuration may have had more of them.
        let local = if (of.local as usize) < real.locals.len() { of.local } else { 0 };
        of.local = local + 1;
        local as usize
    }
}

#[inline(never)]
fn look_up(fib: &Fib, real: &Real) -> AdjacencyId {
    match fib.lookup(real.endpoint.addr.to_ip()) {
        NextHop::Adjacency(id) => id,
        NextHop::Unknown { .. } | NextHop::NoRoute => AdjacencyId::NONE,
    }
}
