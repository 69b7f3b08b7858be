//! The mirror's copy of the kernel's tables, and what changes in it mean for the forwarding table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use engine::PortId;
use engine::fib::Route;
use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use wire::MacAddr;

use super::Twin;
use super::parse::{self, Neighbour, Network, Path, Standing};

/// How long a neighbour may be stale before it is asked for again.
const STALE_MAX: Duration = Duration::from_secs(15);

/// One difference that the forwarding table shall follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The state of a twin.
    Link(PortId, LinkState),
    /// The best route to a network; `None`: there is none any more.
    Route(Network, Option<Route>),
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
    routes: BTreeMap<Network, BTreeSet<Path>>,
    neighbours: HashMap<(PortId, IpAddr), Known>,
}

impl Kernel {
    pub(super) fn new(twins: &[Twin]) -> Kernel {
        Kernel {
            ports: twins.iter().map(|twin| (twin.index, twin.port)).collect(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            neighbours: HashMap::new(),
        }
    }

    /// The same twins, and nothing known about them.
    pub(super) fn emptied(&self) -> Kernel {
        Kernel {
            ports: self.ports.clone(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
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
            // The kernel drops routes that prefer a leaving address as their source without telling.
            RouteNetlinkMessage::DelAddress(address) if self.ports.contains_key(&address.header.index) => {
                Need::Resync
            }
            RouteNetlinkMessage::NewRoute(route) => {
                if let Some((network, paths)) = parse::route(route) {
                    self.add_paths(network, paths, flags, changes);
                }
                Need::Nothing
            }
            RouteNetlinkMessage::DelRoute(route) => {
                if let Some((network, paths)) = parse::route(route) {
                    let before = self.best(&network);
                    if let Some(known) = self.routes.get_mut(&network) {
                        known.retain(|path| !paths.iter().any(|gone| gone.is_same(path)));
                    }
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

    /// Becomes `fresh`; returns the differences.
    pub(super) fn replace_by(&mut self, fresh: Kernel) -> Vec<Change> {
        let mut changes = Vec::new();
        for (port, state) in &fresh.links {
            if self.links.get(port) != Some(state) {
                changes.push(Change::Link(*port, *state));
            }
        }
        let networks: BTreeSet<Network> = self.routes.keys().chain(fresh.routes.keys()).copied().collect();
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

    fn add_paths(&mut self, network: Network, paths: Vec<Path>, flags: u16, changes: &mut Vec<Change>) {
        let before = self.best(&network);
        let known = self.routes.entry(network).or_default();
        // `ip route replace` is told as one new route; what it replaced had the same metric.
        if flags & NLM_F_REPLACE != 0 {
            known.retain(|old| paths.iter().all(|new| new.metric != old.metric));
        }
        known.retain(|old| !paths.iter().any(|new| new.is_same(old)));
        known.extend(paths);
        self.route_changed(network, before, changes);
    }

    fn route_changed(&mut self, network: Network, before: Option<Route>, changes: &mut Vec<Change>) {
        if self.routes.get(&network).is_some_and(BTreeSet::is_empty) {
            self.routes.remove(&network);
        }
        let after = self.best(&network);
        if before != after {
            changes.push(Change::Route(network, after));
        }
    }

    /// The preferred way to a network, if it leads through a twin.
    fn best(&self, network: &Network) -> Option<Route> {
        let path = self.routes.get(network)?.iter().find(|path| path.standing != Standing::Dead)?;
        Some(Route { via: path.via, port: *self.ports.get(&path.link)? })
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
