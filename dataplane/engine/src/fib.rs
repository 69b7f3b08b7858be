//! Routes, next hops and their MAC addresses, as one immutable table that workers read.
//!
//! The platform mirrors them from the kernel (or takes them from configuration) into a [`FibBuilder`]. An
//! adjacency is one next hop on one port; its slot keeps its number from one table to the next as long as the
//! epoch stays, so a connection may remember the number. A new MAC address needs no new epoch, a change of routes
//! does: connections then look their next hops up again, each with its next packet.

mod routes;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use wire::MacAddr;

use crate::addr::Addr;
use crate::hash::Open;
use crate::ids::{AdjacencyId, PortId};
use routes::{RouteSet, Routes};

/// Highest port number that can be used, plus one.
pub const PORTS_MAX: usize = 64;

/// The most adjacencies that there can be: what connections remember of one has 16 bits, and one number is
/// [`AdjacencyId::NONE`].
pub const ADJACENCIES_MAX: usize = u16::MAX as usize;

/// One next hop on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjacency {
    /// The next hop's address.
    pub next_hop: IpAddr,
    /// The port it is reached through.
    pub port: PortId,
    /// Our MAC address on that port.
    pub source: MacAddr,
    /// The next hop's MAC address; `None`: not known yet.
    pub destination: Option<MacAddr>,
    /// Largest IP packet on the link.
    pub mtu: u16,
}

/// What the packet path needs of an adjacency, in 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Egress {
    /// Destination and source MAC address, as a frame begins.
    pub macs: [u8; 12],
    /// The port.
    pub port: PortId,
    /// Largest IP packet; 0 when the next hop is not resolved, so that nothing fits.
    pub mtu: u16,
}

const _: () = assert!(size_of::<Egress>() == 16);

impl Egress {
    fn of(adjacency: &Adjacency) -> Egress {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&adjacency.destination.unwrap_or(MacAddr::ZERO).0);
        macs[6..].copy_from_slice(&adjacency.source.0);
        let mtu = if adjacency.destination.is_some() { adjacency.mtu } else { 0 };
        Egress { macs, port: adjacency.port, mtu }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Route {
    /// Next hop; `None`: on link.
    pub via: Option<IpAddr>,
    /// The port.
    pub port: PortId,
}

/// What becomes of packets to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They follow this route.
    Out(Route),
    /// They go nowhere, whatever the networks around this one say: a blackhole.
    Nowhere,
}

impl From<Route> for Way {
    fn from(route: Route) -> Way {
        Way::Out(route)
    }
}

/// A port as the table needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FibPort {
    /// Our MAC address on it.
    pub mac: MacAddr,
    /// Largest IP packet.
    pub mtu: u16,
}

/// The immutable table.
#[derive(Debug, Clone)]
pub struct Fib {
    epoch: u16,
    ports: [Option<FibPort>; PORTS_MAX],
    adjacencies: Vec<Adjacency>,
    /// The same, for the packet path.
    egress: Vec<Egress>,
    by_next_hop: Open<(u128, u32), AdjacencyId>,
    routes: Arc<Routes>,
}

/// What a route lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// An adjacency, resolved or not.
    Adjacency(AdjacencyId),
    /// The route is known, but no adjacency exists for this next hop yet.
    Unknown {
        /// Port of the route.
        port: PortId,
        /// The address to resolve.
        next_hop: IpAddr,
    },
    /// No route, or one that leads nowhere.
    NoRoute,
}

impl Fib {
    /// The table without routes.
    pub fn empty() -> Fib {
        FibBuilder::default().build()
    }

    /// Changes when cached adjacency numbers must be looked up again.
    #[inline(always)]
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// The adjacency of that number.
    #[inline(always)]
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.index())
    }

    /// The way out through an adjacency.
    #[inline(always)]
    pub(crate) fn egress(&self, id: AdjacencyId) -> Option<&Egress> {
        self.egress.get(id.index())
    }

    /// The port of that number.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> Option<&FibPort> {
        self.ports.get(id.index())?.as_ref()
    }

    /// Longest-prefix match. For new connections and after a change of epoch; not for every packet.
    pub fn lookup(&self, destination: IpAddr) -> NextHop {
        let Some(route) = self.routes.find(destination.into()) else { return NextHop::NoRoute };
        let next_hop = route.via.unwrap_or(destination);
        match self.by_next_hop.get(next_hop_key(route.port, next_hop)) {
            Some(id) => NextHop::Adjacency(id),
            None => NextHop::Unknown { port: route.port, next_hop },
        }
    }
}

/// Collects ports, routes and neighbours, and makes [`Fib`]s of them.
#[derive(Debug, Clone)]
pub struct FibBuilder {
    epoch: u16,
    /// What connections remember no longer holds.
    epoch_is_over: bool,
    ports: [Option<FibPort>; PORTS_MAX],
    adjacencies: Vec<Adjacency>,
    by_next_hop: HashMap<(PortId, IpAddr), AdjacencyId>,
    /// A neighbour was not taken.
    has_refused: bool,
    routes: RouteSet,
    /// The routes as they were last built; `None` when they have changed since. Neighbours change more often, and with a
    /// million routes a table made anew for each would be work for nothing.
    built: Option<Arc<Routes>>,
}

impl Default for FibBuilder {
    fn default() -> Self {
        FibBuilder {
            epoch: 0,
            epoch_is_over: false,
            ports: [None; PORTS_MAX],
            adjacencies: Vec::new(),
            by_next_hop: HashMap::new(),
            has_refused: false,
            routes: RouteSet::default(),
            built: None,
        }
    }
}

impl FibBuilder {
    /// Adds or changes a port. Ports beyond [`PORTS_MAX`] are ignored; the platform refuses them before.
    pub fn set_port(&mut self, id: PortId, port: FibPort) {
        if let Some(slot) = self.ports.get_mut(id.index()) {
            *slot = Some(port);
        }
        for adjacency in self.adjacencies.iter_mut().filter(|a| a.port == id) {
            adjacency.source = port.mac;
            adjacency.mtu = port.mtu;
        }
    }

    /// Adds or changes a route. Returns whether that changed anything.
    pub fn set_route(&mut self, network: IpAddr, prefix_len: u8, way: impl Into<Way>) -> bool {
        let changed = self.routes.set(network, prefix_len, way.into());
        self.routes_changed(changed)
    }

    /// Removes a route. Returns whether there was one.
    pub fn remove_route(&mut self, network: IpAddr, prefix_len: u8) -> bool {
        let changed = self.routes.remove(network, prefix_len);
        self.routes_changed(changed)
    }

    fn routes_changed(&mut self, changed: bool) -> bool {
        if changed {
            self.epoch_is_over = true;
            self.built = None;
        }
        changed
    }

    /// The route to exactly this network.
    pub fn route(&self, network: IpAddr, prefix_len: u8) -> Option<Way> {
        self.routes.get(network, prefix_len)
    }

    /// The next hops that routes name, with their ports; each once.
    pub fn gateways(&self) -> impl Iterator<Item = (PortId, IpAddr)> {
        self.routes.ways().filter_map(|route| Some((route.port, route.via?)))
    }

    /// Tells a neighbour's MAC address, or with `None` that it is not known (any more). Returns whether that
    /// changed anything. A new one is not taken where there are [`ADJACENCIES_MAX`] already.
    pub fn set_neighbour(&mut self, port: PortId, address: IpAddr, mac: Option<MacAddr>) -> bool {
        let Some(own) = self.ports.get(port.index()).copied().flatten() else { return false };
        match self.by_next_hop.get(&(port, address)) {
            Some(id) => {
                let adjacency = &mut self.adjacencies[id.index()];
                std::mem::replace(&mut adjacency.destination, mac) != mac
            }
            None if self.adjacencies.len() >= ADJACENCIES_MAX => {
                self.has_refused |= mac.is_some();
                false
            }
            None => {
                self.by_next_hop.insert((port, address), AdjacencyId(self.adjacencies.len() as u16));
                self.adjacencies.push(Adjacency {
                    next_hop: address,
                    port,
                    source: own.mac,
                    destination: mac,
                    mtu: own.mtu,
                });
                true
            }
        }
    }

    /// Drops all neighbours and starts a new epoch, for the caller to tell those that it knows again; for when too many others
    /// have gathered (an address scan leaves unresolved neighbours behind).
    pub fn forget_neighbours(&mut self) {
        self.adjacencies.clear();
        self.by_next_hop.clear();
        self.has_refused = false;
        self.epoch_is_over = true;
    }

    /// How many neighbours have no MAC address.
    pub fn unresolved_count(&self) -> usize {
        self.adjacencies.iter().filter(|adjacency| adjacency.destination.is_none()).count()
    }

    /// Whether a neighbour with a MAC address was not taken since the last [`FibBuilder::forget_neighbours`].
    pub fn has_refused(&self) -> bool {
        self.has_refused
    }

    /// Whether no route has changed since the last table was built, so that the next one shares its routes.
    pub fn has_built_routes(&self) -> bool {
        self.built.is_some()
    }

    /// The table as it is now.
    pub fn build(&mut self) -> Fib {
        if std::mem::take(&mut self.epoch_is_over) {
            self.epoch = self.epoch.wrapping_add(1);
        }
        let mut by_next_hop = Open::default();
        for ((port, next_hop), id) in &self.by_next_hop {
            by_next_hop.insert(next_hop_key(*port, *next_hop), *id);
        }
        Fib {
            epoch: self.epoch,
            ports: self.ports,
            egress: self.adjacencies.iter().map(Egress::of).collect(),
            adjacencies: self.adjacencies.clone(),
            by_next_hop,
            routes: self.built.get_or_insert_with(|| Arc::new(self.routes.freeze())).clone(),
        }
    }
}

/// The key of a next hop on a port; never the empty one.
#[inline(always)]
fn next_hop_key(port: PortId, next_hop: IpAddr) -> (u128, u32) {
    (Addr::from(next_hop).bits(), u32::from(port.0) + 1)
}

/// The network of that prefix length that `address` is in.
pub fn network_of(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32u32.saturating_sub(prefix_len.into())).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & keep).into())
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128u32.saturating_sub(prefix_len.into())).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & keep).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn builder() -> FibBuilder {
        let mut builder = FibBuilder::default();
        builder.set_port(PortId(0), FibPort { mac: MAC, mtu: 1500 });
        builder.set_port(PortId(1), FibPort { mac: MAC, mtu: 1500 });
        builder.set_route(ip("0.0.0.0"), 0, Route { via: Some(ip("10.1.0.254")), port: PortId(0) });
        builder.set_route(ip("10.1.0.0"), 24, Route { via: None, port: PortId(0) });
        builder.set_route(ip("10.2.0.0"), 16, Route { via: None, port: PortId(1) });
        builder
    }

    #[test]
    fn the_longest_prefix_wins_and_the_default_route_catches_the_rest() {
        let mut builder = builder();
        builder.set_neighbour(PortId(0), ip("10.1.0.254"), Some(MAC));
        let fib = builder.build();
        assert_eq!(fib.lookup(ip("192.0.2.1")), NextHop::Adjacency(AdjacencyId(0)));
        assert_eq!(
            fib.lookup(ip("10.2.3.4")),
            NextHop::Unknown { port: PortId(1), next_hop: ip("10.2.3.4") }
        );
        assert_eq!(fib.lookup(ip("2001:db8::1")), NextHop::NoRoute);
        builder.set_route(ip("::"), 0, Route { via: Some(ip("fd01::fe")), port: PortId(0) });
        builder.remove_route(ip("0.0.0.0"), 0);
        let fib = builder.build();
        let gateway = NextHop::Unknown { port: PortId(0), next_hop: ip("fd01::fe") };
        assert_eq!(fib.lookup(ip("2001:db8::1")), gateway);
        assert_eq!(fib.lookup(ip("192.0.2.1")), NextHop::NoRoute, "IPv4 is not routed as IPv6");
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_a_look_at_all_routes_finds(
            routes in prop::collection::vec(
                (any::<bool>(), any::<[u8; 2]>(), 0u8..=20, prop::option::of(0u16..4), any::<bool>()), 0..60
            ),
            wanted in prop::collection::vec((any::<bool>(), any::<[u8; 2]>()), 1..20),
        ) {
            let address = |v6: bool, [a, b]: [u8; 2]| -> IpAddr {
                if v6 { std::net::Ipv6Addr::new(u16::from_be_bytes([a, b]), 7, 0, 0, 0, 0, 0, 9).into() }
                else { std::net::Ipv4Addr::new(a, b, 7, 9).into() }
            };
            let mut builder = FibBuilder::default();
            let mut all: HashMap<(u8, IpAddr), Option<PortId>> = HashMap::new();
            for (v6, bytes, len, port, goes) in routes {
                let network = network_of(address(v6, bytes), len);
                let port = port.map(PortId);
                let way = port.map_or(Way::Nowhere, |port| Way::Out(Route { via: None, port }));
                builder.set_route(network, len, way);
                all.insert((len, network), port);
                prop_assert_eq!(builder.route(network, len), Some(way));
                if goes {
                    builder.build();
                    builder.remove_route(network, len);
                    all.remove(&(len, network));
                }
            }
            let fib = builder.build();
            for (v6, bytes) in wanted {
                let to = address(v6, bytes);
                let holds = |(len, net): &(u8, IpAddr)| net.is_ipv4() == to.is_ipv4() && network_of(to, *len) == *net;
                let best = all.iter().filter(|(key, _)| holds(key)).max_by_key(|((len, _), _)| *len);
                let expected = best.and_then(|(_, port)| *port);
                let expected = expected.map_or(NextHop::NoRoute, |port| NextHop::Unknown { port, next_hop: to });
                prop_assert_eq!(fib.lookup(to), expected);
            }
        }
    }

    #[test]
    fn a_network_that_leads_nowhere_hides_the_wider_ones_and_not_the_narrower() {
        let mut builder = builder();
        builder.set_route(ip("10.2.0.0"), 17, Way::Nowhere);
        builder.set_route(ip("10.2.3.0"), 24, Route { via: None, port: PortId(0) });
        let port = |fib: &Fib, to| match fib.lookup(ip(to)) {
            NextHop::Unknown { port, .. } => Some(port),
            _ => None,
        };
        let fib = builder.build();
        let found = ["10.2.1.1", "10.2.3.1", "10.2.4.1", "10.2.128.1"].map(|to| port(&fib, to));
        assert_eq!(found, [None, Some(PortId(0)), None, Some(PortId(1))]);
        assert_eq!(fib.lookup(ip("10.2.1.1")), NextHop::NoRoute);
        builder.remove_route(ip("10.2.0.0"), 17);
        assert_eq!(port(&builder.build(), "10.2.1.1"), Some(PortId(1)));
    }

    /// Distributions set such a route up at boot: no packet with a mapped address may leave.
    #[test]
    fn a_route_to_mapped_addresses_is_not_one_of_ipv4() {
        let mut builder = builder();
        builder.set_route(ip("::ffff:0:0"), 96, Way::Nowhere);
        let gateway = NextHop::Unknown { port: PortId(0), next_hop: ip("10.1.0.254") };
        assert_eq!(builder.build().lookup(ip("192.0.2.1")), gateway);
    }

    #[test]
    fn a_new_mac_keeps_slot_and_epoch_and_a_new_route_changes_the_epoch() {
        let mut builder = builder();
        builder.set_neighbour(PortId(1), ip("10.2.0.1"), None);
        let before = builder.build();
        builder.set_neighbour(PortId(1), ip("10.2.0.1"), Some(MAC));
        let after = builder.build();
        assert_eq!(before.epoch(), after.epoch());
        assert_eq!(after.adjacency(AdjacencyId(0)).unwrap().destination, Some(MAC));
        builder.set_route(ip("10.3.0.0"), 16, Route { via: None, port: PortId(1) });
        assert_ne!(builder.build().epoch(), after.epoch());
    }

    #[test]
    fn beyond_the_most_neighbours_none_is_taken_until_they_are_forgotten() {
        let mut builder = builder();
        let address = |n: usize| IpAddr::V4((0x0a02_0000 + n as u32).into());
        for n in 0..ADJACENCIES_MAX {
            assert!(builder.set_neighbour(PortId(1), address(n), (n > 0).then_some(MAC)));
        }
        assert_eq!(builder.unresolved_count(), 1);
        let next = address(ADJACENCIES_MAX);
        assert!(!builder.set_neighbour(PortId(1), next, None) && !builder.has_refused());
        assert!(!builder.set_neighbour(PortId(1), next, Some(MAC)) && builder.has_refused());
        let last = NextHop::Adjacency(AdjacencyId((ADJACENCIES_MAX - 1) as u16));
        let fib = builder.build();
        assert_eq!(fib.lookup(address(ADJACENCIES_MAX - 1)), last);
        assert_eq!(fib.lookup(next), NextHop::Unknown { port: PortId(1), next_hop: next });
        builder.forget_neighbours();
        assert!(builder.set_neighbour(PortId(1), next, Some(MAC)) && !builder.has_refused());
        let after = builder.build();
        assert_eq!(after.lookup(next), NextHop::Adjacency(AdjacencyId(0)));
        assert_eq!(after.lookup(address(1)), NextHop::Unknown { port: PortId(1), next_hop: address(1) });
        assert_ne!(after.epoch(), fib.epoch());
    }
}
