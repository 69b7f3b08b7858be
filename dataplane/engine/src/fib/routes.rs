//! The routes: as a set that can be changed, and as what workers look them up in.
//!
//! For a look the address space of each family is cut where another route begins to count: ranges in order, neither
//! nested nor overlapping, with the way that the longest prefix names. Networks nest, so one sweep over them makes the
//! ranges, at most two for each network and one more. A look is a binary search, 21 steps with a million routes, and an
//! IPv4 range takes 8 bytes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::{Route, Way};
use crate::addr::Addr;

/// A place in a list of ways, or [`NOWHERE`].
type WayId = u32;

/// Where there is no route, or one that says so; behind the end of any list.
const NOWHERE: WayId = WayId::MAX;

/// An address as a number in host order.
trait Number: Copy + Ord {
    const ZERO: Self;

    /// Last address of the network with that prefix length that it is in.
    fn last(self, prefix_len: u8) -> Self;

    /// The address behind it.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    const ZERO: u32 = 0;

    fn last(self, prefix_len: u8) -> u32 {
        self | u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0)
    }

    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    const ZERO: u128 = 0;

    fn last(self, prefix_len: u8) -> u128 {
        self | u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0)
    }

    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
}

/// The ranges of one family. The first begins at address 0, each ends where the next one begins.
#[derive(Debug, Clone)]
struct Ranges<A> {
    starts: Vec<A>,
    /// By the same index.
    ways: Vec<WayId>,
}

impl<A: Number> Ranges<A> {
    /// `networks`: first address and prefix length; so each stands before those within it.
    fn of(networks: &BTreeMap<(A, u8), WayId>) -> Ranges<A> {
        let room = 2 * networks.len() + 1;
        let mut ranges = Ranges { starts: Vec::with_capacity(room), ways: Vec::with_capacity(room) };
        ranges.begin(A::ZERO, NOWHERE);
        let mut around = Vec::new();
        for (&(first, prefix_len), &way) in networks {
            ranges.leave(&mut around, |last| last < first);
            ranges.begin(first, way);
            around.push((first.last(prefix_len), way));
        }
        ranges.leave(&mut around, |_| true);
        ranges
    }

    /// Ends networks that the sweep is in (last address and way, the innermost last) as long as they are over. Behind each
    /// the one around it goes on.
    fn leave(&mut self, around: &mut Vec<(A, WayId)>, is_over: impl Fn(A) -> bool) {
        while let Some((last, _)) = around.pop_if(|(last, _)| is_over(*last)) {
            if let Some(behind) = last.next() {
                self.begin(behind, around.last().map_or(NOWHERE, |(_, way)| *way));
            }
        }
    }

    /// From here on this way counts, whatever was said before about the same address.
    fn begin(&mut self, at: A, way: WayId) {
        if self.starts.last() == Some(&at) {
            self.starts.pop();
            self.ways.pop();
        }
        if self.ways.last() != Some(&way) {
            self.starts.push(at);
            self.ways.push(way);
        }
    }

    #[inline(always)]
    fn find(&self, address: A) -> WayId {
        let behind = self.starts.partition_point(|start| *start <= address);
        self.ways.get(behind.wrapping_sub(1)).copied().unwrap_or(NOWHERE)
    }
}

/// What workers look routes up in.
#[derive(Debug, Clone)]
pub(super) struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    ways: Vec<Route>,
}

impl Routes {
    /// The route of the longest prefix that an address is in.
    #[inline(always)]
    pub(super) fn find(&self, address: Addr) -> Option<Route> {
        let id = match address.v4() {
            Some(word) => self.v4.find(u32::from_be(word)),
            None => self.v6.find(u128::from_be(address.bits())),
        };
        self.ways.get(id as usize).copied()
    }
}

/// Routes that come and go. Many share few ways, so a network costs no more than its key and a number.
#[derive(Debug, Clone, Default)]
pub(super) struct RouteSet {
    v4: BTreeMap<(u32, u8), WayId>,
    /// Networks of mapped addresses too, which no look finds: those addresses are IPv4's.
    v6: BTreeMap<(u128, u8), WayId>,
    ways: Ways,
}

impl RouteSet {
    /// Adds or changes a network's way; whether that changed anything.
    pub(super) fn set(&mut self, network: IpAddr, prefix_len: u8, way: Way) -> bool {
        let id = self.ways.take(way);
        let old = match super::network_of(network, prefix_len) {
            IpAddr::V4(v4) => self.v4.insert((v4.into(), prefix_len), id),
            IpAddr::V6(v6) => self.v6.insert((v6.into(), prefix_len), id),
        };
        if let Some(old) = old {
            self.ways.give_back(old);
        }
        old != Some(id)
    }

    /// Removes a network; whether it was there.
    pub(super) fn remove(&mut self, network: IpAddr, prefix_len: u8) -> bool {
        let old = match super::network_of(network, prefix_len) {
            IpAddr::V4(v4) => self.v4.remove(&(v4.into(), prefix_len)),
            IpAddr::V6(v6) => self.v6.remove(&(v6.into(), prefix_len)),
        };
        if let Some(old) = old {
            self.ways.give_back(old);
        }
        old.is_some()
    }

    /// A network's way.
    pub(super) fn get(&self, network: IpAddr, prefix_len: u8) -> Option<Way> {
        let id = match super::network_of(network, prefix_len) {
            IpAddr::V4(v4) => self.v4.get(&(v4.into(), prefix_len)),
            IpAddr::V6(v6) => self.v6.get(&(v6.into(), prefix_len)),
        };
        id.map(|id| self.ways.list.get(*id as usize).map_or(Way::Nowhere, |(route, _)| Way::Out(*route)))
    }

    /// Each way out that some network has, once.
    pub(super) fn ways(&self) -> impl Iterator<Item = &Route> {
        self.ways.ids.keys()
    }

    /// What workers look these routes up in.
    pub(super) fn freeze(&self) -> Routes {
        Routes {
            v4: Ranges::of(&self.v4),
            v6: Ranges::of(&self.v6),
            ways: self.ways.list.iter().map(|(route, _)| *route).collect(),
        }
    }
}

/// Each way out once, with how many networks have it. A number is free again when none has it.
#[derive(Debug, Clone, Default)]
struct Ways {
    list: Vec<(Route, u32)>,
    ids: HashMap<Route, WayId>,
    free: Vec<WayId>,
}

impl Ways {
    fn take(&mut self, way: Way) -> WayId {
        let Way::Out(route) = way else { return NOWHERE };
        if let Some(id) = self.ids.get(&route) {
            self.list[*id as usize].1 += 1;
            return *id;
        }
        let id = self.free.pop().unwrap_or(self.list.len() as WayId);
        match self.list.get_mut(id as usize) {
            Some(entry) => *entry = (route, 1),
            None => self.list.push((route, 1)),
        }
        self.ids.insert(route, id);
        id
    }

    fn give_back(&mut self, id: WayId) {
        let Some((route, users)) = self.list.get_mut(id as usize) else { return };
        *users -= 1;
        if *users == 0 {
            self.ids.remove(route);
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PortId;

    fn set(routes: &mut RouteSet, network: &str, prefix_len: u8, port: u16) -> bool {
        let way = Way::Out(Route { via: None, port: PortId(port) });
        routes.set(network.parse().unwrap(), prefix_len, way)
    }

    #[test]
    fn networks_that_say_the_same_are_one_range() {
        let mut routes = RouteSet::default();
        for third in 0..=255 {
            set(&mut routes, &format!("10.1.{third}.0"), 24, 0);
        }
        set(&mut routes, "10.1.7.0", 25, 0);
        assert_eq!(routes.freeze().v4.starts, [0, 0x0a01_0000, 0x0a02_0000]);
    }

    #[test]
    fn a_route_that_ends_with_the_last_address_ends_nothing_else() {
        let mut routes = RouteSet::default();
        set(&mut routes, "0.0.0.0", 0, 1);
        set(&mut routes, "255.255.255.255", 32, 2);
        set(&mut routes, "ff00::", 8, 3);
        let frozen = routes.freeze();
        let port = |to: &str| frozen.find(to.parse::<IpAddr>().unwrap().into()).map(|route| route.port.0);
        let found = ["255.255.255.254", "255.255.255.255", "feff::", "ffff::"].map(port);
        assert_eq!(found, [Some(1), Some(2), None, Some(3)]);
    }

    #[test]
    fn a_way_is_forgotten_with_the_last_network_that_has_it() {
        let mut routes = RouteSet::default();
        assert!(set(&mut routes, "10.1.0.0", 16, 1));
        assert!(set(&mut routes, "10.2.0.0", 16, 1));
        assert!(!set(&mut routes, "10.2.0.0", 16, 1));
        assert!(set(&mut routes, "10.2.0.0", 16, 2));
        assert_eq!(routes.ways().count(), 2);
        assert!(routes.remove("10.1.0.0".parse().unwrap(), 16));
        assert!(!routes.remove("10.1.0.0".parse().unwrap(), 16));
        assert_eq!(routes.ways().map(|route| route.port).collect::<Vec<_>>(), [PortId(2)]);
        assert!(set(&mut routes, "10.3.0.0", 16, 3));
        assert_eq!(routes.ways.list.len(), 2, "its number is used again");
    }
}
