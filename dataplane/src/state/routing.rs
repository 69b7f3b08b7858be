//! The forwarding table's sources put together: ports, the kernel's neighbours and routes, and the static ones of
//! the desired state, which win over the kernel's.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use engine::fib::{ADJACENCIES_MAX, FibPort, NextHop, Route, Way};
use engine::{Fib, FibBuilder, PortId};
use wire::MacAddr;

use crate::mirror::{Change, LinkState};

type Network = (IpAddr, u8);
type NextHopKey = (PortId, IpAddr);

/// Unresolved adjacencies that may gather before they are dropped; an address scan through a connected network
/// leaves one for each address.
const UNRESOLVED_MAX: usize = 8192;

/// The static part of a desired state, with port numbers instead of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Statics {
    pub(crate) neighbours: HashMap<NextHopKey, MacAddr>,
    /// By the network's first address and prefix length.
    pub(crate) routes: HashMap<Network, Route>,
}

/// Everything that forwarding tables are made of.
pub(crate) struct Routing {
    builder: FibBuilder,
    ports: HashMap<PortId, FibPort>,
    kernel_neighbours: HashMap<NextHopKey, MacAddr>,
    /// The kernel's routes to networks that have a static one. All others the builder keeps: there may be a million.
    hidden: HashMap<Network, Way>,
    statics: Statics,
    fib: Arc<Fib>,
}

impl Routing {
    /// With these ports and nothing else.
    pub(crate) fn new(ports: HashMap<PortId, FibPort>) -> Routing {
        let mut builder = FibBuilder::default();
        for (id, port) in &ports {
            builder.set_port(*id, *port);
        }
        let fib = Arc::new(builder.build());
        Routing {
            builder,
            ports,
            kernel_neighbours: HashMap::new(),
            hidden: HashMap::new(),
            statics: Statics::default(),
            fib,
        }
    }

    /// The table as it was last built.
    #[cfg(test)]
    pub(crate) fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// Whether the next table has the routes of the last one.
    pub(crate) fn is_quick_to_build(&self) -> bool {
        self.builder.has_built_routes()
    }

    /// Builds a new table.
    pub(crate) fn build(&mut self) -> Arc<Fib> {
        let unresolved = self.builder.unresolved_count();
        if unresolved > UNRESOLVED_MAX || unresolved > 0 && self.builder.has_refused() {
            self.forget_unresolved();
        }
        self.fib = Arc::new(self.builder.build());
        self.fib.clone()
    }

    /// Leaves the neighbours whose MAC address is known, as many as there can be, static ones first.
    fn forget_unresolved(&mut self) {
        self.builder.forget_neighbours();
        let keys: Vec<NextHopKey> =
            self.statics.neighbours.keys().chain(self.kernel_neighbours.keys()).copied().collect();
        for key in keys {
            self.update_neighbour(key);
        }
        if self.builder.has_refused() {
            tracing::warn!("there are more than {ADJACENCIES_MAX} neighbours: some are not reached");
        }
    }

    /// Follows the kernel; whether the table differs now.
    pub(crate) fn kernel_changed(&mut self, changes: &[Change]) -> bool {
        let mut differs = false;
        for change in changes {
            differs |= match *change {
                Change::Link(port, state) => self.set_link(port, state),
                Change::Route(network, way) => self.set_kernel_route(network, way),
                Change::Neighbour(port, address, mac) => {
                    match mac {
                        Some(mac) => self.kernel_neighbours.insert((port, address), mac),
                        None => self.kernel_neighbours.remove(&(port, address)),
                    };
                    self.update_neighbour((port, address))
                }
            };
        }
        differs
    }

    /// Takes other static neighbours and routes; whether the table differs now.
    pub(crate) fn set_statics(&mut self, statics: Statics) -> bool {
        if statics == self.statics {
            return false;
        }
        let old = std::mem::replace(&mut self.statics, statics);
        for network in old.routes.keys().filter(|network| !self.statics.routes.contains_key(network)) {
            match self.hidden.remove(network) {
                Some(way) => self.builder.set_route(network.0, network.1, way),
                None => self.builder.remove_route(network.0, network.1),
            };
        }
        for (network, route) in &self.statics.routes {
            if !old.routes.contains_key(network)
                && let Some(way) = self.builder.route(network.0, network.1)
            {
                self.hidden.insert(*network, way);
            }
            self.builder.set_route(network.0, network.1, *route);
        }
        let neighbours: HashSet<NextHopKey> =
            old.neighbours.keys().chain(self.statics.neighbours.keys()).copied().collect();
        for key in neighbours {
            self.update_neighbour(key);
        }
        true
    }

    /// The next hops towards these destinations, and all gateways, as far as their MAC address is not known.
    pub(crate) fn unresolved(&self, destinations: impl Iterator<Item = IpAddr>) -> HashSet<NextHopKey> {
        let gateways = self.builder.gateways();
        let mut wanted: HashSet<NextHopKey> = gateways.filter(|key| !self.is_resolved(key)).collect();
        wanted.extend(destinations.filter_map(|destination| self.missing(destination)));
        wanted
    }

    /// Whether a packet to `destination` could leave at once.
    pub(crate) fn reachable(&self, destination: IpAddr) -> bool {
        match self.fib.lookup(destination) {
            NextHop::Adjacency(id) => self.fib.adjacency(id).is_some_and(|found| found.destination.is_some()),
            NextHop::Unknown { .. } | NextHop::NoRoute => false,
        }
    }

    fn missing(&self, destination: IpAddr) -> Option<NextHopKey> {
        match self.fib.lookup(destination) {
            NextHop::Unknown { port, next_hop } => Some((port, next_hop)),
            NextHop::Adjacency(id) => {
                let found = self.fib.adjacency(id)?;
                found.destination.is_none().then_some((found.port, found.next_hop))
            }
            NextHop::NoRoute => None,
        }
    }

    fn is_resolved(&self, key: &NextHopKey) -> bool {
        self.statics.neighbours.contains_key(key) || self.kernel_neighbours.contains_key(key)
    }

    /// A packet must fit both the port and what the operator allows on its twin, and bears the twin's MAC address.
    fn set_link(&mut self, id: PortId, state: LinkState) -> bool {
        let Some(port) = self.ports.get(&id) else { return false };
        let effective = FibPort {
            mtu: port.mtu.min(state.mtu.try_into().unwrap_or(u16::MAX)),
            mac: state.mac.unwrap_or(port.mac),
        };
        let differs = self.fib.port(id) != Some(&effective);
        self.builder.set_port(id, effective);
        differs
    }

    fn set_kernel_route(&mut self, network: Network, way: Option<Way>) -> bool {
        if self.statics.routes.contains_key(&network) {
            match way {
                Some(way) => self.hidden.insert(network, way),
                None => self.hidden.remove(&network),
            };
            return false;
        }
        match way {
            Some(way) => self.builder.set_route(network.0, network.1, way),
            None => self.builder.remove_route(network.0, network.1),
        }
    }

    fn update_neighbour(&mut self, key: NextHopKey) -> bool {
        let mac = self.statics.neighbours.get(&key).or(self.kernel_neighbours.get(&key)).copied();
        let differs = self.builder.set_neighbour(key.0, key.1, mac);
        // Whoever was not taken may be when the next table is built.
        differs || self.builder.has_refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::LinkState;

    const PORT: PortId = PortId(0);
    const FROM_KERNEL: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const STATIC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn to(via: Option<IpAddr>) -> Option<Way> {
        Some(Way::Out(Route { via, port: PORT }))
    }

    fn routing() -> Routing {
        Routing::new(HashMap::from([(PORT, FibPort { mac: MacAddr([2; 6]), mtu: 1500 })]))
    }

    fn mac_of(routing: &Routing, address: &str) -> Option<MacAddr> {
        match routing.fib().lookup(ip(address)) {
            NextHop::Adjacency(id) => routing.fib().adjacency(id).unwrap().destination,
            _ => None,
        }
    }

    #[test]
    fn a_static_neighbour_wins_and_the_kernels_returns_when_it_is_taken_away() {
        let mut routing = routing();
        let network = (ip("10.0.0.0"), 8);
        let changes =
            [Change::Route(network, to(None)), Change::Neighbour(PORT, ip("10.0.0.1"), Some(FROM_KERNEL))];
        assert!(routing.kernel_changed(&changes));
        let statics =
            Statics { neighbours: HashMap::from([((PORT, ip("10.0.0.1")), STATIC)]), ..Statics::default() };
        assert!(routing.set_statics(statics.clone()));
        routing.build();
        assert_eq!(mac_of(&routing, "10.0.0.1"), Some(STATIC));
        assert!(!routing.set_statics(statics));
        assert!(routing.set_statics(Statics::default()));
        routing.build();
        assert_eq!(mac_of(&routing, "10.0.0.1"), Some(FROM_KERNEL));
    }

    #[test]
    fn a_static_route_wins_and_what_the_kernel_has_by_then_returns_when_it_is_taken_away() {
        let network = (ip("10.0.0.0"), 8);
        let [kernels, later, fixed] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|via| Some(ip(via)));
        let statics = Statics {
            routes: HashMap::from([(network, Route { via: fixed, port: PORT })]),
            ..Statics::default()
        };
        for (before, meanwhile, after) in [
            (Some(kernels), None, Some(kernels)),
            (Some(kernels), Some(Some(later)), Some(later)),
            (Some(kernels), Some(None), None),
            (None, Some(Some(later)), Some(later)),
        ] {
            let mut routing = routing();
            let next_hop = |routing: &mut Routing| match routing.build().lookup(ip("10.9.9.9")) {
                NextHop::Unknown { next_hop, .. } => Some(next_hop),
                _ => None,
            };
            routing.kernel_changed(&[Change::Route(network, before.and_then(to))]);
            assert!(routing.set_statics(statics.clone()));
            if let Some(way) = meanwhile {
                assert!(!routing.kernel_changed(&[Change::Route(network, way.and_then(to))]));
            }
            assert_eq!(next_hop(&mut routing), fixed);
            assert!(routing.set_statics(Statics::default()));
            assert_eq!(next_hop(&mut routing), after.flatten(), "{before:?} {meanwhile:?}");
        }
    }

    #[test]
    fn gateways_and_real_servers_without_mac_address_are_to_be_resolved() {
        let mut routing = routing();
        let via = Some(ip("10.0.0.254"));
        routing.kernel_changed(&[
            Change::Route((ip("0.0.0.0"), 0), to(via)),
            Change::Route((ip("10.0.0.0"), 24), to(None)),
        ]);
        routing.build();
        let reals = || [ip("10.0.0.7"), ip("192.0.2.1")].into_iter();
        assert_eq!(
            routing.unresolved(reals()),
            HashSet::from([(PORT, ip("10.0.0.254")), (PORT, ip("10.0.0.7"))])
        );
        routing.kernel_changed(&[
            Change::Neighbour(PORT, ip("10.0.0.254"), Some(FROM_KERNEL)),
            Change::Neighbour(PORT, ip("10.0.0.7"), Some(FROM_KERNEL)),
        ]);
        routing.build();
        assert!(routing.unresolved(reals()).is_empty());
        assert!(routing.reachable(ip("192.0.2.1")));
    }

    #[test]
    fn a_full_table_forgets_who_does_not_answer_for_who_does() {
        const DEAD: usize = 900;
        let address = |n: usize| IpAddr::V4((0x0a00_0000 + n as u32).into());
        let told = |n, mac| Change::Neighbour(PORT, address(n), mac);
        let alive = |n: usize| (n >= DEAD).then_some(FROM_KERNEL);
        let mut routing = routing();
        routing.kernel_changed(&[Change::Route((ip("10.0.0.0"), 8), to(None))]);
        let all = 0..ADJACENCIES_MAX + 2;
        assert!(routing.kernel_changed(&all.clone().map(|n| told(n, alive(n))).collect::<Vec<_>>()));
        let epoch = routing.build().epoch();
        let reached = |routing: &Routing| all.clone().filter(|n| routing.reachable(address(*n))).count();
        assert_eq!(reached(&routing), all.len() - DEAD);
        assert_eq!(routing.build().epoch(), epoch, "there is nothing more to forget");
        // Two too many, all of them alive: one that goes makes room for one that waits.
        routing.kernel_changed(&(0..DEAD).map(|n| told(n, Some(FROM_KERNEL))).collect::<Vec<_>>());
        routing.build();
        assert_eq!(reached(&routing), ADJACENCIES_MAX);
        let gone = all.clone().find(|n| routing.reachable(address(*n))).unwrap();
        assert!(routing.kernel_changed(&[told(gone, None)]));
        routing.build();
        assert_eq!((routing.reachable(address(gone)), reached(&routing)), (false, ADJACENCIES_MAX));
    }

    #[test]
    fn the_smaller_mtu_of_port_and_twin_counts() {
        let mut routing = routing();
        let link = |mtu| LinkState { up: true, mtu, mac: None };
        assert!(routing.kernel_changed(&[Change::Link(PORT, link(1400))]));
        assert_eq!(routing.build().port(PORT).unwrap().mtu, 1400);
        routing.kernel_changed(&[Change::Link(PORT, link(9000))]);
        assert_eq!(routing.build().port(PORT).unwrap().mtu, 1500);
    }

    #[test]
    fn packets_bear_the_mac_address_that_the_twin_has_now() {
        let mut routing = routing();
        routing.kernel_changed(&[
            Change::Route((ip("10.0.0.0"), 8), to(None)),
            Change::Neighbour(PORT, ip("10.0.0.1"), Some(FROM_KERNEL)),
        ]);
        let mac = MacAddr([2, 0, 0, 0, 0, 77]);
        let link = Change::Link(PORT, LinkState { up: true, mtu: 1500, mac: Some(mac) });
        assert!(routing.kernel_changed(&[link]));
        let fib = routing.build();
        assert_eq!(fib.port(PORT).unwrap().mac, mac);
        let NextHop::Adjacency(id) = fib.lookup(ip("10.0.0.1")) else { panic!("it is known") };
        assert_eq!(fib.adjacency(id).unwrap().source, mac);
        assert!(!routing.kernel_changed(&[link]));
    }
}
