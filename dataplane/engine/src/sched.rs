//! Schedulers: which real server gets a new connection.
//!
//! State is per worker and service; what the least-connection family and the thresholds look at are the
//! counts of all workers. Nothing here allocates: what a scheduler looks up is made with the snapshot
//! ([`prepare`]).
//!
//! | Scheduler | Picks | Work per pick, n real servers |
//! |---|---|---|
//! | rr | each in turn | one look; past unusable ones log n |
//! | wrr | in turn by weight, IPVS's order | log n |
//! | lc, wlc, sed, nq | the least loaded | n; from 32 on log n, of loads as last looked at (see [`ranking`]) |
//! | lblc, lblcr | the one that the destination had, while it is not overloaded | n at most |
//! | dh, sh, mh | by hash of destination, source or connection id | one look |
//! | fo, ovf | the greatest weight that still takes connections | one look; one more per full server |
//!
//! A server over its upper threshold is passed over by all of them; that costs one more look per such server.

mod failover;
mod flow_hash;
mod hashed;
mod least;
mod locality;
mod maglev;
mod overload;
mod quic;
mod ranking;
mod rounds;

use std::sync::Arc;

use crate::counters::Counters;
use crate::snapshot::{Real, Scheduler, SchedulerFlags, Service};
use crate::time::Ticks;

pub(crate) use locality::Locality;
pub(crate) use ranking::{RANKED_FROM, Ranking};

/// What a scheduler may look at of the packet that opens a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow<'a> {
    /// The present.
    pub now: Ticks,
    /// CIP: 4 or 16 bytes.
    pub client: &'a [u8],
    /// Its port, host order.
    pub client_port: u16,
    /// VIP: 4 or 16 bytes.
    pub virtual_: &'a [u8],
    /// What stands behind the UDP header; empty for TCP.
    pub payload: &'a [u8],
}

/// What a scheduler remembers of one service on one worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct SchedState {
    /// Index of the real server picked last.
    last: u32,
    /// Weight that the current wrr round looks for; 0: a new round of the greatest is next.
    weight: u32,
    /// Whether the starting point was set, and for which tenant of the slot.
    started: bool,
    tenant: u32,
    /// The planner brings and takes it.
    pub(crate) memory: Option<Memory>,
}

/// What some schedulers need more room for.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    /// Of lblc and lblcr: which destination has which real servers.
    Locality(Box<Locality>),
    /// Of lc, wlc, sed and nq with many real servers: how loaded each is.
    Ranking(Box<Ranking>),
}

impl Memory {
    fn locality(&mut self) -> Option<&mut Locality> {
        match self {
            Memory::Locality(locality) => Some(locality),
            Memory::Ranking(_) => None,
        }
    }

    fn ranking(&mut self) -> Option<&mut Ranking> {
        match self {
            Memory::Ranking(ranking) => Some(ranking),
            Memory::Locality(_) => None,
        }
    }
}

impl SchedState {
    /// Picks a real server that is up, has weight and is below its threshold; its index in `service.reals`.
    pub(crate) fn pick(
        &mut self,
        service: &Service,
        flow: &Flow<'_>,
        worker: u16,
        counters: &[Arc<Counters>],
    ) -> Option<usize> {
        if service.weight_max == 0 {
            return None;
        }
        if !self.started || self.tenant != service.tenant {
            (self.started, self.tenant) = (true, service.tenant);
            (self.last, self.weight) = rounds::start(service, worker, counters.len());
        }
        let last = self.last as usize;
        let memory = self.memory.as_mut();
        let picked = match service.scheduler {
            Scheduler::Rr => rounds::next(service, last, counters),
            Scheduler::Wrr => rounds::next_weighted(service, last, &mut self.weight, counters),
            Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq => {
                match memory.and_then(Memory::ranking).filter(|ranking| ranking.fits(service)) {
                    Some(ranking) => ranking.pick(service, flow.now, last, counters),
                    None => least::of_all(service, last, counters),
                }
            }
            Scheduler::Lblc => {
                locality::pick(memory.and_then(Memory::locality), service, flow, last, counters)
            }
            Scheduler::Lblcr => {
                locality::pick_replicated(memory.and_then(Memory::locality), service, flow, last, counters)
            }
            Scheduler::Dh => hashed::by_destination(service, flow, counters),
            Scheduler::Sh => hashed::by_source(service, flow, counters),
            Scheduler::Mh => hashed::by_source_or_connection_id(service, flow, counters),
            Scheduler::Fo => failover::greatest(service, counters),
            Scheduler::Ovf => failover::overflow(service, counters),
        }?;
        overload::note_pick(&service.reals[picked], counters);
        self.last = picked as u32;
        Some(picked)
    }
}

/// What a scheduler looks up while picking; made with the snapshot, because workers must not allocate.
pub(crate) fn prepare(scheduler: Scheduler, flags: SchedulerFlags, reals: &[Real]) -> Arc<[u32]> {
    match scheduler {
        Scheduler::Rr | Scheduler::Wrr => rounds::tree(reals),
        Scheduler::Fo | Scheduler::Ovf => failover::order(reals),
        Scheduler::Dh => hashed::table_without_weights(reals),
        Scheduler::Sh | Scheduler::Mh => hashed::table(reals, flags),
        Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq
        | Scheduler::Lblc
        | Scheduler::Lblcr => Vec::new(),
    }
    .into()
}

/// As [`prepare`]; shares what the service had in the last snapshot if it would be the same, so that a change
/// costs only the services that it changes.
pub(crate) fn prepare_or_share(
    old: Option<&Service>,
    scheduler: Scheduler,
    flags: SchedulerFlags,
    reals: &[Real],
) -> Arc<[u32]> {
    let old = old.filter(|old| is_alike(old, scheduler, flags, reals));
    old.map_or_else(|| prepare(scheduler, flags, reals), |old| old.lookup.clone())
}

/// Whether a service schedules as one with these would.
fn is_alike(old: &Service, scheduler: Scheduler, flags: SchedulerFlags, reals: &[Real]) -> bool {
    let matters = |real: &Real| (real.id, real.endpoint, real.weight, real.ramp_percent, real.up);
    old.scheduler == scheduler
        && old.flags == flags
        && old.reals.iter().map(matters).eq(reals.iter().map(matters))
}

/// Which memory a service's scheduler wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    Nothing,
    Locality,
    Ranking,
}

impl Wants {
    pub(crate) fn of(service: &Service) -> Wants {
        match service.scheduler {
            Scheduler::Lblc | Scheduler::Lblcr => Wants::Locality,
            Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq
                if service.reals.len() >= RANKED_FROM =>
            {
                Wants::Ranking
            }
            _ => Wants::Nothing,
        }
    }

    /// Whether what served a service's former self goes on serving it.
    pub(crate) fn is_served_by(self, old: &Service, service: &Service) -> bool {
        let same = Wants::of(old) == self && old.tenant == service.tenant;
        match self {
            Wants::Nothing | Wants::Locality => same,
            Wants::Ranking => same && is_alike(old, service.scheduler, service.flags, &service.reals),
        }
    }

    /// The memory, empty or with what is known now.
    pub(crate) fn make(self, service: &Service, counters: &[Arc<Counters>]) -> Option<Memory> {
        match self {
            Wants::Nothing => None,
            Wants::Locality => Some(Memory::Locality(Box::new(Locality::new()))),
            Wants::Ranking => Some(Memory::Ranking(Box::new(Ranking::new(service, counters)))),
        }
    }
}

#[cfg(test)]
mod tests;
