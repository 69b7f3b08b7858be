//! From what is wanted ([`Spec`]) to what workers read ([`Snapshot`]), keeping slots where they are.
//!
//! Runs on the main thread. It interns services, real servers and (local address, real server) pairs into numbered
//! slots, allocates what workers need for new ones, and reuses a slot only when every worker's counters say that
//! no connection remembers its former tenant.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::counters::Counters;
use crate::deal::{Deal, TooFew};
use crate::fib::Fib;
use crate::hash::{AddressSet, EndpointMap};
use crate::ids::{PairId, RealId, ServiceId, WorkerId};
use crate::persist::Templates;
use crate::ports::{PortSet, Share};
use crate::rss::Rss;
use crate::sched::{self, Locality};
use crate::snapshot::{Mode, Options, Real, Scheduler, SchedulerFlags, Service, Snapshot, Tunnel};
use crate::tcp::Timeouts;
use crate::translate::tunnel::Wrapper;

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
    /// What schedulers of services remember of destinations, new (to be taken) or none (to be given back).
    pub(crate) localities: Vec<(ServiceId, Option<Box<Locality>>)>,
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

/// The configuration that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// Its generation.
    pub generation: u64,
    /// The services.
    pub services: Vec<ServiceSpec>,
}

/// One wanted service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// IANA protocol number.
    pub protocol: u8,
    /// VIP:vport; names the service.
    pub virtual_: SocketAddr,
    /// What else it listens at.
    pub also: Vec<Listen>,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Its options.
    pub flags: SchedulerFlags,
    /// TOA option kind; `None`: off.
    pub toa: Option<u8>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Local addresses.
    pub locals: Vec<IpAddr>,
    /// First and last local port.
    pub local_ports: (u16, u16),
    /// What else it wants.
    pub options: Options,
    /// Gets connections that no real server can have; none of the real servers.
    pub sorry: Option<RealSpec>,
    /// Real servers.
    pub reals: Vec<RealSpec>,
}

/// A protocol, an address and a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// IANA protocol number.
    pub protocol: u8,
    /// VIP.
    pub address: IpAddr,
    /// First and last port.
    pub ports: (u16, u16),
}

impl ServiceSpec {
    /// The real servers and the sorry server.
    fn all_reals(&self) -> impl Iterator<Item = &RealSpec> {
        self.reals.iter().chain(&self.sorry)
    }

    /// Everything that it listens at. Port 0 means every port.
    pub fn listens(&self) -> impl Iterator<Item = Listen> {
        let ports = match self.virtual_.port() {
            0 => (1, u16::MAX),
            port => (port, port),
        };
        let first = Listen { protocol: self.protocol, address: self.virtual_.ip(), ports };
        std::iter::once(first).chain(self.also.iter().copied())
    }
}

/// One wanted real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealSpec {
    /// RIP:rport; port 0: that of the packet.
    pub real: SocketAddr,
    /// How it is reached.
    pub mode: Mode,
    /// How packets to it are wrapped, in mode TUN.
    pub tunnel: Option<Tunnel>,
    /// Weight; 0: drain.
    pub weight: u16,
    /// Whether it may get new connections.
    pub up: bool,
    /// Hundredths of the weight that count; 100 but while it is slowly loaded.
    pub ramp_percent: u8,
    /// Connections from which on it gets no new ones; 0: any number.
    pub upper: u32,
    /// Connections below which it gets new ones again; 0: 3/4 of `upper`.
    pub lower: u32,
    /// Its connections and templates end now.
    pub end_connections: bool,
}

impl RealSpec {
    /// A real server that is up, at its full weight, without tunnel and thresholds.
    pub fn new(real: SocketAddr, mode: Mode, weight: u16) -> RealSpec {
        RealSpec {
            real,
            mode,
            tunnel: None,
            weight,
            up: true,
            ramp_percent: 100,
            upper: 0,
            lower: 0,
            end_connections: false,
        }
    }
}

/// Why a [`Spec`] cannot be planned. The planner is then as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More of something than there are slots.
    #[error("too many {what}: {wanted} wanted, {limit} slots")]
    TooMany {
        /// "services", "real servers" or "local pairs".
        what: &'static str,
        /// Slots that would be needed.
        wanted: usize,
        /// Slots there are.
        limit: usize,
    },
    /// The same service twice.
    #[error("service {0} is there twice")]
    DuplicateService(SocketAddr),
    /// The same real server twice in one service.
    #[error("service {service} has real server {real} twice")]
    DuplicateReal {
        /// The service.
        service: SocketAddr,
        /// The real server.
        real: SocketAddr,
    },
    /// A virtual address that is a local address too, or was one that connections still use.
    #[error(
        "{0} is both a virtual and a local address, or was the other while connections of that time live"
    )]
    VirtualIsLocal(IpAddr),
    /// Two services at one endpoint.
    #[error("services {0} and {1} both listen at {2}")]
    ListenTwice(SocketAddr, SocketAddr, SocketAddr),
    /// Workers without a local address of their own, where each needs one.
    #[error(
        "service {service}: {missing} of {workers} workers would have no local address of their own, which steering by \
         flow rules needs: add {missing} of the real servers' family to its local pool, or set steering = \"auto\" or \
         \"software\"; local addresses that the service had before keep their worker while connections live"
    )]
    TooFewLocals {
        /// The service.
        service: SocketAddr,
        /// How many workers there are.
        workers: u16,
        /// How many addresses are missing.
        missing: usize,
    },
    /// A FULLNAT real server whose family has no local address.
    #[error("service {service}: no local address of the family of real server {real}")]
    NoLocalAddress {
        /// The service.
        service: SocketAddr,
        /// The real server.
        real: SocketAddr,
    },
    /// A real server that cannot be reached in its mode.
    #[error("service {service}: real server {real}: {reason}")]
    ModeImpossible {
        /// The service.
        service: SocketAddr,
        /// The real server.
        real: SocketAddr,
        /// Why.
        reason: &'static str,
    },
    /// An empty port range, or port 0 in it.
    #[error("service {service}: local ports {first}-{last} are no range within 1-65535")]
    PortRange {
        /// The service.
        service: SocketAddr,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
}

/// Slots of one kind, by key.
#[derive(Debug)]
struct Slots<K> {
    what: &'static str,
    by_key: HashMap<K, u32>,
    free: Vec<u32>,
    /// Keys that are no longer wanted, while connections may still name their slot.
    leaving: HashMap<K, u32>,
    limit: usize,
    next: u32,
}

impl<K: Clone + Ord + std::hash::Hash> Slots<K> {
    fn new(what: &'static str, limit: usize) -> Self {
        Slots { what, by_key: HashMap::new(), free: Vec::new(), leaving: HashMap::new(), limit, next: 0 }
    }

    /// Whether these keys fit besides all that are there now. What leaves with this very change makes no room for
    /// it: until a worker has taken the new snapshot it may open connections to what leaves, and they would then
    /// be counted, and give their ports back, as the next tenant's.
    fn check_room(&self, wanted: &HashSet<K>) -> Result<(), PlanError> {
        let new =
            wanted.iter().filter(|k| !self.by_key.contains_key(k) && !self.leaving.contains_key(k)).count();
        let room = self.free.len() + (self.limit - self.next as usize);
        if new > room {
            let used = self.limit - room;
            return Err(PlanError::TooMany { what: self.what, wanted: used + new, limit: self.limit });
        }
        Ok(())
    }

    /// Moves to exactly these keys, which fit.
    fn retarget(&mut self, wanted: &HashSet<K>) {
        let gone: Vec<K> = self.by_key.keys().filter(|k| !wanted.contains(k)).cloned().collect();
        for key in gone {
            if let Some(slot) = self.by_key.remove(&key) {
                self.leaving.insert(key, slot);
            }
        }
        // In order, so that the same configurations always give the same slots.
        let mut new: Vec<&K> = wanted.iter().filter(|key| !self.by_key.contains_key(key)).collect();
        new.sort_unstable();
        for key in new {
            let slot = self.leaving.remove(key).or_else(|| self.free.pop()).unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            self.by_key.insert(key.clone(), slot);
        }
    }

    /// Frees the slots of keys that left and that nothing remembers, and returns them.
    fn reclaim(&mut self, in_use: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut freed = Vec::new();
        self.leaving.retain(|_, slot| {
            let keep = in_use(*slot);
            if !keep {
                freed.push(*slot);
            }
            keep
        });
        self.free.extend(&freed);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        freed
    }
}

type ServiceSlotKey = (u8, SocketAddr);
type RealSlotKey = (u8, SocketAddr, SocketAddr);
/// Protocol, local address, port range, real server: what shares one local port space.
type PairSlotKey = (u8, IpAddr, (u16, u16), SocketAddr);

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

/// Makes snapshots. See the module.
#[derive(Debug)]
pub struct Planner {
    workers: u16,
    services: Slots<ServiceSlotKey>,
    reals: Slots<RealSlotKey>,
    pairs: Slots<PairSlotKey>,
    /// Pairs whose port sets the workers have.
    installed: HashSet<PairId>,
    /// Addresses that services listen at, also of those that left while connections live.
    addresses: HashMap<ServiceSlotKey, HashSet<IpAddr>>,
    /// Of these, those with real servers in NAT. One stays so while it is known: connections of its services
    /// are found by the client from then on.
    by_client: HashSet<IpAddr>,
    rss: Option<Arc<Rss>>,
    /// Whose local addresses are, if they are dealt to the workers.
    deal: Option<Deal>,
    /// By slot of the service: how many tenants it had.
    tenants: Vec<u32>,
    /// By slot of the real server.
    tunnels: Vec<Option<Wrapper>>,
    /// Services, also those that left, that end the connections of real servers that are gone.
    expiring: HashSet<ServiceSlotKey>,
    /// Services, also those that left, whose connections are reset when they end.
    resetting: HashSet<ServiceSlotKey>,
    /// By slot: whether connections end, and how often a slot was added.
    ended: Vec<bool>,
    ends: u64,
    templates: Option<Arc<Templates>>,
    /// Services whose localities the workers have.
    localities: HashSet<ServiceId>,
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
            installed: HashSet::new(),
            addresses: HashMap::new(),
            by_client: HashSet::new(),
            rss: None,
            deal: None,
            tenants: vec![0; limits.services_max],
            tunnels: Vec::new(),
            expiring: HashSet::new(),
            resetting: HashSet::new(),
            ended: Vec::new(),
            ends: 0,
            templates: None,
            localities: HashSet::new(),
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
        let keys = self.pairs.by_key.keys().chain(self.pairs.leaving.keys());
        let owned = |address| self.deal.as_ref().and_then(|deal| deal.owner(address));
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
        check(spec)?;
        self.reclaim();
        let mut services = HashSet::new();
        let mut reals = HashSet::new();
        let mut pairs = HashSet::new();
        for service in &spec.services {
            services.insert((service.protocol, service.virtual_));
            for real in service.all_reals() {
                reals.insert((service.protocol, service.virtual_, real.real));
                pairs.extend(pair_keys(service, real));
            }
        }
        // All three are checked before any is changed, so that a refusal leaves everything as it was.
        self.services.check_room(&services)?;
        self.reals.check_room(&reals)?;
        self.pairs.check_room(&pairs)?;
        self.check_sides(spec, &pairs)?;
        self.deal = self.dealt_for(spec)?;
        self.services.retarget(&services);
        self.reals.retarget(&reals);
        self.pairs.retarget(&pairs);

        self.remember(spec);
        self.note_ended(spec);

        let snapshot = Arc::new(self.snapshot(spec));
        let new_pairs: Vec<(PairId, PairSlotKey)> = self
            .pairs
            .by_key
            .iter()
            .map(|(key, slot)| (PairId(*slot), *key))
            .filter(|(id, _)| !self.installed.contains(id))
            .collect();
        self.installed.extend(new_pairs.iter().map(|(id, _)| *id));
        let localities = self.changed_localities(&snapshot);
        self.last = snapshot.clone();
        Ok((0..self.workers)
            .map(|worker| Update {
                snapshot: Some(snapshot.clone()),
                fib: None,
                port_sets: new_pairs
                    .iter()
                    .map(|(id, key)| (*id, self.port_set(key, WorkerId(worker))))
                    .collect(),
                localities: localities
                    .iter()
                    .map(|(id, is_new)| (*id, is_new.then(|| Box::new(Locality::new()))))
                    .collect(),
            })
            .collect())
    }

    /// The deal with what `spec` adds.
    fn dealt_for(&self, spec: &Spec) -> Result<Option<Deal>, PlanError> {
        let Some(mut deal) = self.deal.clone() else { return Ok(None) };
        let known = self.pairs.by_key.keys().chain(self.pairs.leaving.keys()).map(|key| key.1);
        deal.retain(&known.collect());
        let mut seen = HashSet::new();
        let mut sets = Vec::new();
        for service in &spec.services {
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

    /// Services whose scheduler begins (true) or ceases to remember destinations.
    fn changed_localities(&mut self, snapshot: &Snapshot) -> Vec<(ServiceId, bool)> {
        let with = snapshot.services().filter(|service| service.scheduler.has_locality());
        let wanted: HashSet<ServiceId> = with.map(|service| service.id).collect();
        let new = wanted.difference(&self.localities).map(|id| (*id, true));
        let changed = new.chain(self.localities.difference(&wanted).map(|id| (*id, false))).collect();
        self.localities = wanted;
        changed
    }

    /// Every pair that is in use or wanted.
    pub fn pairs(&self) -> impl Iterator<Item = PairInfo> {
        self.pairs.by_key.iter().chain(&self.pairs.leaving).map(|((_, local, range, real), slot)| PairInfo {
            id: PairId(*slot),
            local: *local,
            real: *real,
            capacity: u32::from(range.1 - range.0) + 1,
        })
    }

    /// The slot of a service.
    pub fn service_id(&self, protocol: u8, virtual_: SocketAddr) -> Option<ServiceId> {
        self.services.by_key.get(&(protocol, virtual_)).map(|slot| ServiceId(*slot))
    }

    /// The slot of a real server in a service.
    pub fn real_id(&self, protocol: u8, virtual_: SocketAddr, real: SocketAddr) -> Option<RealId> {
        self.reals.by_key.get(&(protocol, virtual_, real)).map(|slot| RealId(*slot))
    }

    /// An address is on one side only, also while connections of an older configuration live: by its side a worker
    /// tells who owns a packet.
    fn check_sides(&self, spec: &Spec, pairs: &HashSet<PairSlotKey>) -> Result<(), PlanError> {
        let old_locals = self.pairs.by_key.keys().chain(self.pairs.leaving.keys());
        let locals: HashSet<IpAddr> = pairs.iter().chain(old_locals).map(|key| key.1).collect();
        let virtuals =
            spec.services.iter().flat_map(|service| service.listens().map(|listen| listen.address));
        let old_virtuals = self.addresses.values().flatten().copied();
        match virtuals.chain(old_virtuals).find(|address| locals.contains(address)) {
            Some(both) => Err(PlanError::VirtualIsLocal(both)),
            None => Ok(()),
        }
    }

    /// Notes what must be known of a service or real server for as long as connections live.
    fn remember(&mut self, spec: &Spec) {
        self.tunnels.resize(self.reals.next as usize, None);
        for service in &spec.services {
            let key = (service.protocol, service.virtual_);
            let addresses = self.addresses.entry(key).or_default();
            addresses.extend(service.listens().map(|listen| listen.address));
            if service.all_reals().any(|real| real.mode == Mode::Nat) {
                self.by_client.extend(service.listens().map(|listen| listen.address));
            }
            for real in service.all_reals() {
                let slot = self.reals.by_key[&(service.protocol, service.virtual_, real.real)];
                // A change of mode leaves old tunnelled connections their tunnel.
                if let Some(tunnel) = real.tunnel {
                    self.tunnels[slot as usize] = Some(Wrapper::new(tunnel, real.real.ip().into()));
                }
            }
        }
    }

    /// Finds the real servers whose connections end now: those whose time is up, and of services that want it so those
    /// that are gone or down.
    fn note_ended(&mut self, spec: &Spec) {
        let services = &self.services;
        for (keys, wants) in [
            (&mut self.expiring, (|options| options.expire_nodest_conn) as fn(&Options) -> bool),
            (&mut self.resetting, |options| options.reset_on_expiry),
        ] {
            keys.retain(|key| services.leaving.contains_key(key));
            let wanting = spec.services.iter().filter(|service| wants(&service.options));
            keys.extend(wanting.map(|service| (service.protocol, service.virtual_)));
        }
        let mut ended = vec![false; self.reals.next as usize];
        for ((protocol, virtual_, _), slot) in &self.reals.leaving {
            ended[*slot as usize] = self.expiring.contains(&(*protocol, *virtual_));
        }
        for service in &spec.services {
            for real in service.all_reals() {
                let slot = self.reals.by_key[&(service.protocol, service.virtual_, real.real)];
                ended[slot as usize] = real.end_connections || service.options.expire_nodest_conn && !real.up;
            }
        }
        let was = |slot: usize| self.ended.get(slot).copied().unwrap_or(false);
        self.ends += u64::from(ended.iter().enumerate().any(|(slot, ends)| *ends && !was(slot)));
        self.ended = ended;
        let persistent = spec.services.iter().any(|service| service.options.persistence.is_some());
        if persistent && self.templates.is_none() {
            let secret = [RandomState::new().hash_one(1), RandomState::new().hash_one(2)];
            self.templates = Some(Arc::new(Templates::new(TEMPLATES_MAX, secret)));
        }
    }

    fn snapshot(&self, spec: &Spec) -> Snapshot {
        let mut services = vec![None; self.services.next as usize];
        let mut by_endpoint = EndpointMap::default();
        for spec in &spec.services {
            let service = self.service(spec);
            for listen in spec.listens() {
                by_endpoint.insert(listen.protocol, listen.address.into(), listen.ports, service.id);
            }
            let slot = service.id.index();
            services[slot] = Some(service);
        }
        let mut resetting = vec![false; self.services.next as usize];
        let slots = self.services.by_key.iter().chain(&self.services.leaving);
        for (_, slot) in slots.filter(|(key, _)| self.resetting.contains(key)) {
            resetting[*slot as usize] = true;
        }
        let locals = self.pairs.by_key.keys().chain(self.pairs.leaving.keys()).map(|key| key.1.into());
        let dealt = self.deal.iter().flat_map(Deal::owned);
        let virtuals = self.addresses.values().flatten().map(|address| (*address).into());
        Snapshot {
            generation: spec.generation,
            services,
            by_endpoint,
            locals: AddressSet::new(locals),
            dealt: dealt.map(|(address, worker)| (address.into(), worker)).collect(),
            virtuals: AddressSet::new(virtuals),
            by_client: AddressSet::new(self.by_client.iter().map(|address| (*address).into())),
            tunnels: self.tunnels.clone(),
            ended: self.ended.clone(),
            resetting,
            ends: self.ends,
            templates: self.templates.clone(),
        }
    }

    fn service(&self, spec: &ServiceSpec) -> Service {
        let reals: Vec<Real> = spec.reals.iter().map(|real| self.real(spec, real)).collect();
        let id = ServiceId(self.services.by_key[&(spec.protocol, spec.virtual_)]);
        let weights = || reals.iter().map(Real::usable_weight).filter(|w| *w > 0);
        Service {
            id,
            protocol: spec.protocol,
            virtual_: spec.virtual_.into(),
            tenant: self.tenants.get(id.index()).copied().unwrap_or(0),
            scheduler: spec.scheduler,
            flags: spec.flags,
            lookup: sched::prepare_or_share(self.last.service(id), spec.scheduler, spec.flags, &reals),
            toa: spec.toa,
            timeouts: spec.timeouts,
            options: spec.options,
            sorry: spec.sorry.as_ref().map(|real| self.real(spec, real)),
            weight_max: weights().max().unwrap_or(0),
            weight_gcd: weights().fold(0, gcd).max(1),
            reals,
        }
    }

    fn real(&self, service: &ServiceSpec, spec: &RealSpec) -> Real {
        Real {
            id: RealId(self.reals.by_key[&(service.protocol, service.virtual_, spec.real)]),
            endpoint: spec.real.into(),
            mode: spec.mode,
            weight: spec.weight,
            up: spec.up,
            ramp_percent: spec.ramp_percent,
            upper: spec.upper,
            lower: spec.lower,
            locals: pair_keys(service, spec)
                .map(|key| (key.1.into(), PairId(self.pairs.by_key[&key])))
                .collect(),
        }
    }

    fn reclaim(&mut self) {
        let counters = &self.counters;
        let templates = |id| counters.iter().fold(0, |sum: u64, c| sum.wrapping_add(c.persistent(id).get()));
        let connections = |slot: u32| {
            counters.iter().any(|c| c.real(RealId(slot)).held.get() > 0) || templates(RealId(slot)) != 0
        };
        // The next tenant starts from 0.
        for slot in self.reals.reclaim(connections) {
            counters.iter().for_each(|c| c.reset_real(RealId(slot)));
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
        for slot in self.services.reclaim(|slot| busy_slots.contains(&slot)) {
            counters.iter().for_each(|c| c.no_real_server(ServiceId(slot)).set(0));
            self.tenants[slot as usize] += 1;
        }
        let services = &self.services;
        self.addresses
            .retain(|key, _| services.by_key.contains_key(key) || services.leaving.contains_key(key));
        let known: HashSet<IpAddr> = self.addresses.values().flatten().copied().collect();
        self.by_client.retain(|address| known.contains(address));
        self.pairs.reclaim(|slot| counters.iter().any(|c| c.pair(PairId(slot)).in_use.get() > 0));
        let live: HashSet<PairId> =
            self.pairs.by_key.values().chain(self.pairs.leaving.values()).map(|slot| PairId(*slot)).collect();
        self.installed.retain(|id| live.contains(id));
    }
}

/// What a FULLNAT real server takes local ports of.
fn pair_keys(service: &ServiceSpec, real: &RealSpec) -> impl Iterator<Item = PairSlotKey> {
    let of_family = |local: &&IpAddr| real.mode == Mode::FullNat && local.is_ipv4() == real.real.is_ipv4();
    let locals = service.locals.iter().filter(of_family);
    locals.map(|local| (service.protocol, *local, service.local_ports, real.real))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn check(spec: &Spec) -> Result<(), PlanError> {
    let mut keys = HashSet::new();
    for service in &spec.services {
        if !keys.insert((service.protocol, service.virtual_)) {
            return Err(PlanError::DuplicateService(service.virtual_));
        }
        let (first, last) = service.local_ports;
        if first == 0 || first > last {
            return Err(PlanError::PortRange { service: service.virtual_, first, last });
        }
        let mut reals = HashSet::new();
        for real in service.all_reals() {
            if !reals.insert(real.real) {
                return Err(PlanError::DuplicateReal { service: service.virtual_, real: real.real });
            }
            check_mode(service, real)?;
        }
    }
    check_listens(spec)
}

/// Whether packets can reach a real server in its mode.
fn check_mode(service: &ServiceSpec, real: &RealSpec) -> Result<(), PlanError> {
    let impossible =
        |reason| Err(PlanError::ModeImpossible { service: service.virtual_, real: real.real, reason });
    let same_family = service.listens().all(|listen| listen.address.is_ipv4() == real.real.is_ipv4());
    let same_port = real.real.port() == 0
        || service.listens().all(|listen| listen.ports == (real.real.port(), real.real.port()));
    match real.mode {
        Mode::FullNat if pair_keys(service, real).next().is_none() => {
            Err(PlanError::NoLocalAddress { service: service.virtual_, real: real.real })
        }
        Mode::Nat if !same_family => impossible("mode nat does not translate between families; fullnat does"),
        Mode::Dr if !same_family => impossible("mode dr cannot change the family; fullnat and tun can"),
        Mode::Dr | Mode::Tun if !same_port => impossible("modes dr and tun cannot change the port"),
        Mode::Tun if real.tunnel.is_none_or(|tunnel| tunnel.source.is_ipv4() != real.real.is_ipv4()) => {
            impossible("mode tun needs a tunnel whose source is of the real server's family")
        }
        _ => Ok(()),
    }
}

/// No two services may listen at the same endpoint.
fn check_listens(spec: &Spec) -> Result<(), PlanError> {
    let mut all: Vec<(Listen, SocketAddr)> = spec
        .services
        .iter()
        .flat_map(|service| service.listens().map(|listen| (listen, service.virtual_)))
        .collect();
    all.sort_unstable();
    for pair in all.windows(2) {
        let [(a, service_a), (b, service_b)] = pair else { continue };
        let same = (a.protocol, a.address) == (b.protocol, b.address);
        // A whole-address service gives way to single ports, as in IPVS.
        let shadowed = [a, b].iter().any(|listen| listen.ports == (1, u16::MAX)) && a.ports != b.ports;
        if same && b.ports.0 <= a.ports.1 && !shadowed {
            let at = SocketAddr::new(b.address, b.ports.0);
            return Err(PlanError::ListenTwice(*service_a, *service_b, at));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
