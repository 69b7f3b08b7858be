//! Routes, next hops and their MAC addresses, as one immutable table that workers read.
//!
//! The platform mirrors them from the kernel (or takes them from configuration) into a [`FibBuilder`]. An
//! adjacency is one next hop on one port; its slot keeps its number from one table to the next as long as the
//! epoch stays, so a connection may remember the number. A new MAC address needs no new epoch, a change of routes
//! does: connections then look their next hops up again, each with its next packet.

use std::collections::HashMap;
use std::net::IpAddr;

use wire::MacAddr;

use crate::addr::Addr;
use crate::hash::Open;
use crate::ids::{AdjacencyId, PortId};

/// Highest port number that can be used, plus one.
pub const PORTS_MAX: usize = 64;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Route {
    /// Next hop; `None`: on link.
    pub via: Option<IpAddr>,
    /// The port.
    pub port: PortId,
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
    /// By masked network and prefix length, see [`route_key`].
    routes: Open<(u128, u32), Route>,
    /// Prefix lengths that there are, longest first; of IPv4 in mapped form.
    prefix_lens: Vec<u8>,
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
    /// No route.
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
        let bits = Addr::from(destination).bits();
        // IPv6 has no routes to mapped addresses, but its default route would match them.
        let longest = if destination.is_ipv4() { MAPPED_LEN } else { 0 };
        let lens = self.prefix_lens.iter().take_while(|len| **len >= longest);
        let Some(route) = lens.copied().find_map(|len| self.routes.get(route_key(bits, len))) else {
            return NextHop::NoRoute;
        };
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
    routes_changed: bool,
    ports: [Option<FibPort>; PORTS_MAX],
    adjacencies: Vec<Adjacency>,
    by_next_hop: HashMap<(PortId, IpAddr), AdjacencyId>,
    routes: HashMap<(u8, IpAddr), Route>,
}

impl Default for FibBuilder {
    fn default() -> Self {
        FibBuilder {
            epoch: 0,
            routes_changed: false,
            ports: [None; PORTS_MAX],
            adjacencies: Vec::new(),
            by_next_hop: HashMap::new(),
            routes: HashMap::new(),
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

    /// Adds or changes a route.
    pub fn set_route(&mut self, network: IpAddr, prefix_len: u8, route: Route) {
        let old = self.routes.insert((prefix_len, mask(network, prefix_len)), route);
        self.routes_changed |= old != Some(route);
    }

    /// Removes a route.
    pub fn remove_route(&mut self, network: IpAddr, prefix_len: u8) {
        self.routes_changed |= self.routes.remove(&(prefix_len, mask(network, prefix_len))).is_some();
    }

    /// Tells a neighbour's MAC address, or with `None` that it is not known (any more). Returns whether that
    /// changed anything.
    pub fn set_neighbour(&mut self, port: PortId, address: IpAddr, mac: Option<MacAddr>) -> bool {
        let Some(own) = self.ports.get(port.index()).copied().flatten() else { return false };
        match self.by_next_hop.get(&(port, address)) {
            Some(id) => {
                let adjacency = &mut self.adjacencies[id.index()];
                std::mem::replace(&mut adjacency.destination, mac) != mac
            }
            None => {
                self.by_next_hop.insert((port, address), AdjacencyId(self.adjacencies.len() as u32));
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

    /// Drops adjacencies that are not resolved and starts a new epoch; for when too many have gathered (an
    /// address scan leaves unresolved neighbours behind).
    pub fn forget_unresolved(&mut self) {
        self.adjacencies.retain(|a| a.destination.is_some());
        self.by_next_hop = self
            .adjacencies
            .iter()
            .enumerate()
            .map(|(i, a)| ((a.port, a.next_hop), AdjacencyId(i as u32)))
            .collect();
        self.routes_changed = true;
    }

    /// How many adjacencies there are.
    pub fn adjacency_count(&self) -> usize {
        self.adjacencies.len()
    }

    /// The table as it is now.
    pub fn build(&mut self) -> Fib {
        if std::mem::take(&mut self.routes_changed) {
            self.epoch = self.epoch.wrapping_add(1);
        }
        let (mut routes, mut prefix_lens) = (Open::default(), Vec::new());
        for ((len, network), route) in &self.routes {
            let len = if network.is_ipv4() { MAPPED_LEN + len.min(&32) } else { *len };
            routes.insert(route_key(Addr::from(*network).bits(), len), *route);
            prefix_lens.push(len);
        }
        prefix_lens.sort_unstable_by(|a, b| b.cmp(a));
        prefix_lens.dedup();
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
            routes,
            prefix_lens,
        }
    }
}

/// What all IPv4 addresses share in mapped form (RFC 4291 §2.5.5.2).
const MAPPED_LEN: u8 = 96;

/// The key of the route to the network of that prefix length that an address is in; never the empty one.
#[inline(always)]
fn route_key(bits: u128, prefix_len: u8) -> (u128, u32) {
    let keep = u128::MAX.checked_shl(128u32.saturating_sub(prefix_len.into())).unwrap_or(0);
    (u128::from_be(bits) & keep, u32::from(prefix_len) + 1)
}

/// The key of a next hop on a port; never the empty one.
#[inline(always)]
fn next_hop_key(port: PortId, next_hop: IpAddr) -> (u128, u32) {
    (Addr::from(next_hop).bits(), u32::from(port.0) + 1)
}

/// The network of `address` with that prefix length.
fn mask(address: IpAddr, prefix_len: u8) -> IpAddr {
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
            routes in prop::collection::vec((any::<bool>(), any::<[u8; 2]>(), 0u8..=20, 0u16..4), 0..40),
            wanted in prop::collection::vec((any::<bool>(), any::<[u8; 2]>()), 1..20),
        ) {
            let address = |v6: bool, [a, b]: [u8; 2]| -> IpAddr {
                if v6 { std::net::Ipv6Addr::new(u16::from_be_bytes([a, b]), 7, 0, 0, 0, 0, 0, 9).into() }
                else { std::net::Ipv4Addr::new(a, b, 7, 9).into() }
            };
            let mut builder = FibBuilder::default();
            let mut all: HashMap<(u8, IpAddr), PortId> = HashMap::new();
            for (v6, bytes, len, port) in routes {
                let network = mask(address(v6, bytes), len);
                builder.set_route(network, len, Route { via: None, port: PortId(port) });
                all.insert((len, network), PortId(port));
            }
            let fib = builder.build();
            for (v6, bytes) in wanted {
                let to = address(v6, bytes);
                let best = all.iter().filter(|((len, net), _)| net.is_ipv4() == to.is_ipv4() && mask(to, *len) == *net);
                let best = best.max_by_key(|((len, _), _)| *len);
                let expected = best.map_or(NextHop::NoRoute, |(_, port)| NextHop::Unknown { port: *port, next_hop: to });
                prop_assert_eq!(fib.lookup(to), expected);
            }
        }
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
}
