//! From what is wanted ([`Spec`]) to what workers read ([`Snapshot`]), keeping slots where they are.
//!
//! Runs on the main thread. It interns services, real servers and (local address, real server) pairs into numbered
//! slots, allocates what workers need for new ones, and reuses a slot only when every worker's counters say that
//! no connection remembers its former tenant. What is as it was planned last costs a comparison: its slots stay, and
//! the next snapshot shares it.

mod check;
mod difference;
mod slots;
mod snapshot;
mod spec;

pub use check::PlanError;
pub use spec::{Listen, RealSpec, ServiceSpec, Spec};

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::counters::Counters;
use crate::deal::{Deal, TooFew};
use crate::fib::Fib;
use crate::ids::{PairId, RealId, ServiceId, WorkerId};
use crate::persist::Templates;
use crate::ports::{PortSet, Share};
use crate::rss::Rss;
use crate::sched::{Memory, Wants};
use crate::snapshot::{Mode, Service, Snapshot};
use crate::translate::tunnel::{Bare, Wrapper};
use difference::Difference;
use slots::{Move, PairSlotKey, RealSlotKey, ServiceSlotKey, Slots, Tally};

/// Clients that persistence remembers at most, over all services: 35 MB, which the first persistent service takes.
const TEMPLATES_MAX: usize = 1 << 20;

/// What one worker is given between two bursts; it gives the same box back with what it no longer needs, to be
/// dropped on the main thread.
#[derive(Debug, Default)]
pub struct Update {
    /// The new configuration.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The new forwarding table.
    pub fib: Option<Arc<Fib>>,
    /// Port sets of new pairs; the worker takes them.
    pub(crate) port_sets: Vec<(PairId, Option<Box<PortSet>>)>,
    /// What schedulers of services need more room for, new (to be taken) or none (to be given back).
    pub(crate) memories: Vec<(ServiceId, Option<Memory>)>,
}

impl Update {
    /// An update of the forwarding table alone.
    pub fn of_fib(fib: Arc<Fib>) -> Update {
        Update { fib: Some(fib), ..Update::default() }
    }
}

/// What there may be at most; fixed at start, so that workers never allocate. A change needs slots for what comes
/// and what leaves together ([`Planner::plan`]), so with twice as many as a configuration may have, one change
/// can replace everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Services.
    pub services_max: usize,
    /// Real servers, each counted once per service.
    pub reals_max: usize,
    /// Pairs of a local address and a real server endpoint.
    pub pairs_max: usize,
}

/// A pair as status pages want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairInfo {
    /// Its slot.
    pub id: PairId,
    /// LIP.
    pub local: IpAddr,
    /// RIP:rport.
    pub real: SocketAddr,
    /// Ports there are, all workers.
    pub capacity: u32,
}

/// The services that were planned last.
type Wanted = HashMap<ServiceSlotKey, ServiceSpec>;

/// Makes snapshots. See the module.
#[derive(Debug)]
pub struct Planner {
    workers: u16,
    services: Slots<ServiceSlotKey>,
    reals: Slots<RealSlotKey>,
    pairs: Slots<PairSlotKey>,
    /// Every plan is compared with it.
    wanted: Wanted,
    /// Local addresses of all pairs, also of those that left while connections live.
    locals: Tally<IpAddr>,
    /// Addresses that services listen at, also of those that left while connections live.
    addresses: HashMap<ServiceSlotKey, HashSet<IpAddr>>,
    /// All of these.
    virtuals: Tally<IpAddr>,
    /// Of these, those with real servers in NAT. One stays so while it is known: connections of its services
    /// are found by the client from then on.
    by_client: HashSet<IpAddr>,
    rss: Option<Arc<Rss>>,
    /// Whose local addresses are, if they are dealt to the workers.
    deal: Option<Deal>,
    /// By slot of the service: how many tenants it had.
    tenants: Vec<u32>,
    /// By slot of the real server.
    tunnels: Arc<[Option<Wrapper>]>,
    bare_tunnels: Arc<[Option<Bare>]>,
    /// Services, also those that left, that end the connections of real servers that are gone.
    expiring: HashSet<ServiceSlotKey>,
    /// Services, also those that left, whose connections are reset when they end.
    resetting: HashSet<ServiceSlotKey>,
    /// By slot: whether connections end, and how often a slot was added.
    ended: Vec<bool>,
    ends: u64,
    templates: Option<Arc<Templates>>,
    /// What was planned last; the next one shares what stays.
    last: Arc<Snapshot>,
    counters: Vec<Arc<Counters>>,
}

impl Planner {
    /// For workers with these counter pages (one each, in order).
    pub fn new(limits: Limits, counters: Vec<Arc<Counters>>) -> Planner {
        Planner {
            workers: counters.len() as u16,
            services: Slots::new("services", limits.services_max),
            reals: Slots::new("real servers", limits.reals_max),
            pairs: Slots::new("local pairs", limits.pairs_max),
            wanted: Wanted::new(),
            locals: Tally::default(),
            addresses: HashMap::new(),
            virtuals: Tally::default(),
            by_client: HashSet::new(),
            rss: None,
            deal: None,
            tenants: vec![0; limits.services_max],
            tunnels: Arc::default(),
            bare_tunnels: Arc::default(),
            expiring: HashSet::new(),
            resetting: HashSet::new(),
            ended: Vec::new(),
            ends: 0,
            templates: None,
            last: Arc::default(),
            counters,
        }
    }

    /// Local ports are chosen by the NIC's hash; the workers must know it too ([`crate::Worker::with_rss`]).
    pub fn with_rss(mut self, rss: Option<Arc<Rss>>) -> Planner {
        self.rss = rss;
        self
    }

    /// Local addresses are dealt to the workers, for NICs that bring packets to their owner by flow rules.
    pub fn with_dealt_locals(mut self, too_few: TooFew) -> Planner {
        self.deal = Some(Deal::new(self.workers, too_few));
        self
    }

    /// Local addresses that are one worker's, with each protocol that they are used with; in no order.
    pub fn dealt_locals(&self) -> HashSet<(u8, IpAddr, WorkerId)> {
        let Some(deal) = &self.deal else { return HashSet::new() };
        let owned = |address| deal.owner(address);
        let keys = self.pairs.known().map(|(key, _)| key);
        keys.filter_map(|(protocol, address, ..)| Some((*protocol, *address, owned(*address)?))).collect()
    }

    /// How many local addresses all workers share although local addresses are dealt: there are too few.
    pub fn shared_locals(&self) -> usize {
        self.deal.as_ref().map_or(0, Deal::shared)
    }

    /// Plans `spec`: one update per worker, in order. All of them must be taken by their workers before the next
    /// plan, which gives away the slots of what has left and has no connections.
    ///
    /// # Errors
    /// [`PlanError`]; the planner is then as before.
    pub fn plan(&mut self, spec: &Spec) -> Result<Vec<Update>, PlanError> {
        let difference = Difference::new(&self.wanted, spec)?;
        self.reclaim();
        let demands = difference.demands(&self.wanted);
        // All three are checked before any is changed, so that a refusal leaves everything as it was.
        let services = self.services.fit(demands.services)?;
        let reals = self.reals.fit(demands.reals)?;
        let pairs = self.pairs.fit(demands.pairs)?;
        self.check_sides(&difference, spec, &pairs)?;
        self.deal = self.dealt_for(&difference)?;
        self.services.make(services);
        self.reals.make(reals);
        let new_pairs = self.pairs.make(pairs);
        new_pairs.iter().for_each(|(key, _)| self.locals.add(key.1));

        self.remember(&difference);
        self.note_ended(&difference);

        let snapshot = Arc::new(self.snapshot(spec, &difference));
        let updates = self.updates(&snapshot, &new_pairs);
        self.keep(&difference);
        self.last = snapshot;
        Ok(updates)
    }

    /// One update per worker.
    fn updates(&self, snapshot: &Arc<Snapshot>, new_pairs: &[(PairSlotKey, u32)]) -> Vec<Update> {
        let memories = changed_memories(&self.last, snapshot);
        (0..self.workers)
            .map(|worker| Update {
                snapshot: Some(snapshot.clone()),
                fib: None,
                port_sets: new_pairs
                    .iter()
                    .map(|(key, slot)| (PairId(*slot), self.port_set(key, WorkerId(worker))))
                    .collect(),
                memories: memories
                    .iter()
                    .map(|(id, new)| {
                        (*id, new.and_then(|(wants, service)| wants.make(service, &self.counters)))
                    })
                    .collect(),
            })
            .collect()
    }

    /// The deal with what a change adds. Services that are as before have what they need of it.
    fn dealt_for(&self, difference: &Difference<'_>) -> Result<Option<Deal>, PlanError> {
        let Some(mut deal) = self.deal.clone() else { return Ok(None) };
        deal.retain(&self.locals.keys().collect());
        let mut seen = HashSet::new();
        let mut sets = Vec::new();
        for service in &difference.changed {
            for is_ipv4 in [true, false] {
                let mut of_family = service
                    .all_reals()
                    .filter(|real| real.mode == Mode::FullNat && real.real.is_ipv4() == is_ipv4);
                let set: Vec<IpAddr> =
                    service.locals.iter().copied().filter(|local| local.is_ipv4() == is_ipv4).collect();
                if of_family.next().is_some() && seen.insert(set.clone()) {
                    sets.push((service.virtual_, set));
                }
            }
        }
        deal.add(sets)?;
        Ok(Some(deal))
    }

    /// The ports of a pair for a worker; none of a local address that is another's.
    fn port_set(&self, key: &PairSlotKey, worker: WorkerId) -> Option<Box<PortSet>> {
        let share = match self.deal.as_ref().and_then(|deal| deal.owner(key.1)) {
            Some(owner) if owner != worker => return None,
            Some(_) => Share::strided(key.2, WorkerId(0), 1),
            None => self.share(key, worker),
        };
        Some(Box::new(PortSet::new(share)))
    }

    /// The local ports of a pair that are a worker's, of a local address that all share.
    fn share(&self, (protocol, local, range, real): &PairSlotKey, worker: WorkerId) -> Share {
        match &self.rss {
            Some(rss) if rss.hashes(*protocol, local.is_ipv6()) => {
                Share::hashed(rss, (real.ip().into(), real.port()), (*local).into(), *range, worker)
            }
            _ => Share::strided(*range, worker, self.workers),
        }
    }

    /// Every pair that is in use or wanted.
    pub fn pairs(&self) -> impl Iterator<Item = PairInfo> {
        self.pairs.known().map(|((_, local, range, real), slot)| PairInfo {
            id: PairId(slot),
            local: *local,
            real: *real,
            capacity: u32::from(range.1 - range.0) + 1,
        })
    }

    /// The slot of a service.
    pub fn service_id(&self, protocol: u8, virtual_: SocketAddr) -> Option<ServiceId> {
        self.services.get(&(protocol, virtual_)).map(ServiceId)
    }

    /// The slot of a real server in a service.
    pub fn real_id(&self, protocol: u8, virtual_: SocketAddr, real: SocketAddr) -> Option<RealId> {
        self.reals.get(&(protocol, virtual_, real)).map(RealId)
    }

    /// An address is on one side only, also while connections of an older configuration live: by its side a worker
    /// tells who owns a packet.
    fn check_sides(
        &self,
        difference: &Difference<'_>,
        spec: &Spec,
        pairs: &Move<PairSlotKey>,
    ) -> Result<(), PlanError> {
        let new_locals: HashSet<IpAddr> = pairs.new_keys().map(|key| key.1).collect();
        if new_locals.is_empty() && !difference.moves_listens {
            return Ok(());
        }
        let virtuals =
            spec.services.iter().flat_map(|service| service.listens().map(|listen| listen.address));
        let is_local = |address: &IpAddr| self.locals.contains(address) || new_locals.contains(address);
        match virtuals.chain(self.virtuals.keys()).find(is_local) {
            Some(both) => Err(PlanError::VirtualIsLocal(both)),
            None => Ok(()),
        }
    }

    /// Notes what must be known of a service or real server for as long as connections live.
    fn remember(&mut self, difference: &Difference<'_>) {
        let mut tunnels = Vec::new();
        for service in &difference.changed {
            let addresses = self.addresses.entry(service.key()).or_default();
            for address in service.listens().map(|listen| listen.address) {
                if addresses.insert(address) {
                    self.virtuals.add(address);
                }
            }
            if service.all_reals().any(|real| real.mode == Mode::Nat) {
                self.by_client.extend(service.listens().map(|listen| listen.address));
            }
            for real in service.all_reals() {
                // A change of mode leaves old tunnelled connections their tunnel.
                if let Some(tunnel) = real.tunnel {
                    let slot = self.reals[&(service.protocol, service.virtual_, real.real)];
                    tunnels.push((slot as usize, Wrapper::new(tunnel, real.real.ip().into())));
                }
            }
        }
        if !tunnels.is_empty() {
            let mut all = self.tunnels.to_vec();
            all.resize(self.reals.next as usize, None);
            tunnels.into_iter().for_each(|(slot, tunnel)| all[slot] = Some(tunnel));
            self.bare_tunnels = all.iter().map(|wrapper| wrapper.as_ref()?.bare()).collect();
            self.tunnels = all.into();
        }
    }

    /// Finds the real servers whose connections end now: those whose time is up, and of services that want it so those
    /// that are gone or down.
    fn note_ended(&mut self, difference: &Difference<'_>) {
        for service in &difference.changed {
            let options = &service.options;
            for (keys, wants) in [
                (&mut self.expiring, options.expire_nodest_conn),
                (&mut self.resetting, options.reset_on_expiry),
            ] {
                match wants {
                    true => keys.insert(service.key()),
                    false => keys.remove(&service.key()),
                };
            }
        }
        self.ended.resize(self.reals.next as usize, false);
        let leaving =
            self.reals.leaving.iter().map(|((protocol, virtual_, _), slot)| {
                (*slot, self.expiring.contains(&(*protocol, *virtual_)))
            });
        let reals = &self.reals;
        let changed = difference.changed.iter().flat_map(|service| {
            service.all_reals().map(|real| {
                let slot = reals[&(service.protocol, service.virtual_, real.real)];
                (slot, real.end_connections || service.options.expire_nodest_conn && !real.up)
            })
        });
        let mut more = false;
        for (slot, ends) in leaving.chain(changed) {
            let ended = &mut self.ended[slot as usize];
            more |= ends && !*ended;
            *ended = ends;
        }
        self.ends += u64::from(more);
        let persistent = difference.changed.iter().any(|service| service.options.persistence.is_some());
        if persistent && self.templates.is_none() {
            let secret = [RandomState::new().hash_one(1), RandomState::new().hash_one(2)];
            self.templates = Some(Arc::new(Templates::new(TEMPLATES_MAX, secret)));
        }
    }

    fn reclaim(&mut self) {
        let counters = &self.counters;
        let templates = |id| counters.iter().fold(0, |sum: u64, c| sum.wrapping_add(c.persistent(id).get()));
        let connections = |slot: u32| {
            counters.iter().any(|c| c.real(RealId(slot)).held.get() > 0) || templates(RealId(slot)) != 0
        };
        // The next tenant starts from 0.
        for (_, slot) in self.reals.reclaim(connections) {
            counters.iter().for_each(|c| c.reset_real(RealId(slot)));
            self.ended[slot as usize] = false;
        }
        // A service slot is remembered by the connections of its real servers, whose slots name it.
        let busy: HashSet<ServiceSlotKey> = self.reals.leaving.keys().map(|key| (key.0, key.1)).collect();
        let busy_slots: HashSet<u32> = self
            .services
            .leaving
            .iter()
            .filter(|(key, _)| busy.contains(key))
            .map(|(_, slot)| *slot)
            .collect();
        for (key, slot) in self.services.reclaim(|slot| busy_slots.contains(&slot)) {
            counters.iter().for_each(|c| c.no_real_server(ServiceId(slot)).set(0));
            self.tenants[slot as usize] += 1;
            self.expiring.remove(&key);
            self.resetting.remove(&key);
            for address in self.addresses.remove(&key).into_iter().flatten() {
                if self.virtuals.remove(address) {
                    self.by_client.remove(&address);
                }
            }
        }
        for (key, _) in
            self.pairs.reclaim(|slot| counters.iter().any(|c| c.pair(PairId(slot)).in_use.get() > 0))
        {
            self.locals.remove(key.1);
        }
    }
}

/// Services whose scheduler needs another memory than it has, with what it wants and for which service, or none.
fn changed_memories<'a>(old: &Snapshot, new: &'a Snapshot) -> Vec<(ServiceId, Option<(Wants, &'a Service)>)> {
    let slots = old.services.len().max(new.services.len()) as u32;
    let changed = (0..slots).map(ServiceId).filter_map(|id| {
        let (old, new) = (old.service(id), new.service(id));
        if old.zip(new).is_some_and(|(old, new)| std::ptr::eq(old, new)) {
            return None;
        }
        let wants = new.map_or(Wants::Nothing, Wants::of);
        let is_served = match (old, new) {
            (Some(old), Some(new)) => wants.is_served_by(old, new),
            (Some(old), None) => Wants::of(old) == Wants::Nothing,
            (None, _) => wants == Wants::Nothing,
        };
        (!is_served).then_some((id, new.map(|new| (wants, new))))
    });
    changed.collect()
}

#[cfg(test)]
mod tests;
