//! The mirror's copy of the kernel's tables, and what changes in it mean for the forwarding table.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use engine::PortId;
use engine::fib::{Route, Way};
use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use wire::MacAddr;

use super::Twin;
use super::parse::{self, Neighbour, Network, Path, Standing, Target, Told};

/// How long a neighbour may be stale before it is asked for again.
const STALE_MAX: Duration = Duration::from_secs(15);

/// One difference that the forwarding table shall follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The state of a twin.
    Link(PortId, LinkState),
    /// The best way to a network; `None`: there is none any more.
    Route(Network, Option<Way>),
    /// A neighbour's MAC address; `None`: not known.
    Neighbour(PortId, IpAddr, Option<MacAddr>),
}

/// What matters of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkState {
    /// Administratively up and with carrier.
    pub(crate) up: bool,
    /// MTU.
    pub(crate) mtu: u32,
    /// MAC address; `None`: not told yet.
    pub(crate) mac: Option<MacAddr>,
}

/// What an event asks for beyond its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    Nothing,
    /// The kernel may have changed more than it told.
    Resync,
}

/// A neighbour that is in the table.
#[derive(Debug, Clone, Copy)]
struct Known {
    mac: Option<MacAddr>,
    /// Since when it has been stale, or was last asked for.
    stale_since: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(super) struct Kernel {
    ports: HashMap<u32, PortId>,
    links: BTreeMap<PortId, LinkState>,
    /// Those through twins and those that lead nowhere, as one flat set: there may be a million.
    routes: BTreeSet<(Network, Path)>,
    /// Source addresses that routes prefer, or have preferred since the last dump.
    sources: HashSet<IpAddr>,
    /// Whether an IPv6 route has been deleted since the last dump began.
    v6_deleted: bool,
    neighbours: HashMap<(PortId, IpAddr), Known>,
}

impl Kernel {
    pub(super) fn new(twins: &[Twin]) -> Kernel {
        Kernel {
            ports: twins.iter().map(|twin| (twin.index, twin.port)).collect(),
            links: BTreeMap::new(),
            routes: BTreeSet::new(),
            sources: HashSet::new(),
            v6_deleted: false,
            neighbours: HashMap::new(),
        }
    }

    /// The same twins, and nothing known about them.
    pub(super) fn emptied(&self) -> Kernel {
        Kernel {
            ports: self.ports.clone(),
            links: BTreeMap::new(),
            routes: BTreeSet::new(),
            sources: HashSet::new(),
            v6_deleted: false,
            neighbours: HashMap::new(),
        }
    }

    /// Takes one event (or object of a dump), given its header's flags; appends what it changes.
    pub(super) fn event(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        changes: &mut Vec<Change>,
    ) -> Need {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.link(link, changes),
            RouteNetlinkMessage::DelLink(link) if self.ports.contains_key(&link.header.index) => Need::Resync,
            // The kernel drops routes that prefer a leaving address as their source without telling, whatever interface
            // had it: often that is the loopback.
            RouteNetlinkMessage::DelAddress(address) if self.matters(address) => Need::Resync,
            RouteNetlinkMessage::NewRoute(route) => {
                parse::route(route).into_iter().for_each(|told| self.add_paths(told, flags, changes));
                Need::Nothing
            }
            RouteNetlinkMessage::DelRoute(route) => {
                if let Some(Told { network, paths, .. }) = parse::route(route) {
                    self.v6_deleted |= network.0.is_ipv6();
                    let before = self.best(&network);
                    self.forget_paths(network, |known| paths.iter().any(|gone| gone.is_same(known)));
                    self.route_changed(network, before, changes);
                }
                Need::Nothing
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                parse::neighbour(neighbour).into_iter().for_each(|found| self.neighbour(found, changes));
                Need::Nothing
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                if let Some(gone) = parse::neighbour(neighbour)
                    && let Some(&port) = self.ports.get(&gone.link)
                    && self.neighbours.remove(&(port, gone.address)).is_some()
                {
                    changes.push(Change::Neighbour(port, gone.address, None));
                }
                Need::Nothing
            }
            _ => Need::Nothing,
        }
    }

    /// Whether routes name one of these next hop objects. When one is changed or removed the kernel changes or drops those
    /// routes, and does not tell of each.
    pub(super) fn names_any(&self, objects: &HashSet<u32>) -> bool {
        !objects.is_empty() && self.routes.iter().any(|(_, path)| objects.contains(&path.object))
    }

    /// Whether the last dump may have left routes out, see [`super::repeat`]; to be asked when what came during the dump
    /// has been taken.
    pub(super) fn may_lack_routes(&self) -> bool {
        self.v6_deleted
    }

    /// Becomes `fresh`; returns the differences.
    pub(super) fn replace_by(&mut self, fresh: Kernel) -> Vec<Change> {
        let mut changes = Vec::new();
        for (port, state) in &fresh.links {
            if self.links.get(port) != Some(state) {
                changes.push(Change::Link(*port, *state));
            }
        }
        let mut networks: Vec<Network> =
            self.routes.iter().chain(&fresh.routes).map(|(network, _)| *network).collect();
        networks.sort();
        networks.dedup();
        for network in networks {
            let after = fresh.best(&network);
            if self.best(&network) != after {
                changes.push(Change::Route(network, after));
            }
        }
        for (&(port, address), known) in &fresh.neighbours {
            if self.neighbours.get(&(port, address)).map(|old| old.mac) != Some(known.mac) {
                changes.push(Change::Neighbour(port, address, known.mac));
            }
        }
        for &(port, address) in self.neighbours.keys().filter(|key| !fresh.neighbours.contains_key(key)) {
            changes.push(Change::Neighbour(port, address, None));
        }
        *self = fresh;
        changes
    }

    /// Neighbours that have been stale for long, at most `max`; they count as asked for now.
    pub(super) fn stale(&mut self, max: usize) -> Vec<(PortId, IpAddr)> {
        let now = Instant::now();
        let mut found = Vec::new();
        for (key, known) in &mut self.neighbours {
            if found.len() < max && known.stale_since.is_some_and(|since| now - since >= STALE_MAX) {
                known.stale_since = Some(now);
                found.push(*key);
            }
        }
        found
    }

    fn link(&mut self, message: &LinkMessage, changes: &mut Vec<Change>) -> Need {
        let Some(&port) = self.ports.get(&message.header.index) else { return Need::Nothing };
        let before = self.links.get(&port).copied().unwrap_or_default();
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let mut state = LinkState { up, ..before };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
                LinkAttribute::Address(bytes) => {
                    state.mac = bytes.as_slice().try_into().ok().map(MacAddr).or(state.mac);
                }
                _ => {}
            }
        }
        self.links.insert(port, state);
        if state != before {
            changes.push(Change::Link(port, state));
        }
        // Without telling, the kernel flushes the routes of a link that goes down, marks its next hops in routes that have
        // others too, and takes the marks off when it is up again.
        if before.up != state.up { Need::Resync } else { Need::Nothing }
    }

    /// Whether routes may depend on an address.
    fn matters(&self, message: &AddressMessage) -> bool {
        self.ports.contains_key(&message.header.index)
            || message.attributes.iter().any(|attribute| match attribute {
                AddressAttribute::Local(address) => self.sources.contains(address),
                _ => false,
            })
    }

    fn add_paths(&mut self, told: Told, flags: u16, changes: &mut Vec<Change>) {
        let Told { network, paths, source } = told;
        let before = self.best(&network);
        // `ip route replace` is told as one new route; what it replaced had the same metric.
        let replaces = flags & NLM_F_REPLACE != 0;
        self.forget_paths(network, |old| {
            paths.iter().any(|new| new.is_same(old) || replaces && new.metric == old.metric)
        });
        // What leads through other interfaces is none of our business: it neither counts nor hides what does.
        let counts = |path: &Path| match path.target {
            Target::Link(link, _) => self.ports.contains_key(&link),
            Target::Nowhere => true,
        };
        self.sources.extend(source);
        self.routes.extend(paths.into_iter().filter(counts).map(|path| (network, path)));
        self.route_changed(network, before, changes);
    }

    fn route_changed(&self, network: Network, before: Option<Way>, changes: &mut Vec<Change>) {
        let after = self.best(&network);
        if before != after {
            changes.push(Change::Route(network, after));
        }
    }

    /// All paths to a network, the preferred one first.
    fn paths(&self, network: Network) -> impl Iterator<Item = &Path> {
        let from = self.routes.range((network, Path::LEAST)..);
        from.take_while(move |(of, _)| *of == network).map(|(_, path)| path)
    }

    fn forget_paths(&mut self, network: Network, is_gone: impl Fn(&Path) -> bool) {
        let gone: Vec<Path> = self.paths(network).filter(|path| is_gone(path)).copied().collect();
        for path in gone {
            self.routes.remove(&(network, path));
        }
    }

    /// The preferred way to a network.
    fn best(&self, network: &Network) -> Option<Way> {
        let path = self.paths(*network).find(|path| path.standing != Standing::Dead)?;
        match path.target {
            Target::Link(link, via) => Some(Way::Out(Route { via, port: *self.ports.get(&link)? })),
            Target::Nowhere => Some(Way::Nowhere),
        }
    }

    fn neighbour(&mut self, found: Neighbour, changes: &mut Vec<Change>) {
        let Some(&port) = self.ports.get(&found.link) else { return };
        let before = self.neighbours.get(&(port, found.address));
        let stale_since =
            found.stale.then(|| before.and_then(|known| known.stale_since).unwrap_or_else(Instant::now));
        if before.map(|known| known.mac) != Some(found.mac) {
            changes.push(Change::Neighbour(port, found.address, found.mac));
        }
        self.neighbours.insert((port, found.address), Known { mac: found.mac, stale_since });
    }
}

#[cfg(test)]
mod tests;
