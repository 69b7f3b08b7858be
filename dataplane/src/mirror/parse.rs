//! rtnetlink messages to the few facts that the mirror keeps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
    RouteVia,
};
use wire::MacAddr;

/// A network: address and prefix length.
pub(super) type Network = (IpAddr, u8);

/// Whether the kernel would send by a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Usable,
    /// Its link has no carrier: only where there is nothing better.
    LinkDown,
    /// No: its link is down, or has no carrier and the kernel heeds that (ignore_routes_with_linkdown).
    Dead,
}

impl Standing {
    fn of(is_dead: bool, is_link_down: bool) -> Standing {
        match (is_dead, is_link_down) {
            (true, _) => Standing::Dead,
            (false, true) => Standing::LinkDown,
            (false, false) => Standing::Usable,
        }
    }
}

/// One way to a network. The least one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    /// Lower is preferred.
    pub(super) metric: u32,
    /// As it was when the kernel told of it.
    pub(super) standing: Standing,
    /// Interface.
    pub(super) link: u32,
    /// Next hop; `None`: on link.
    pub(super) via: Option<IpAddr>,
}

impl Path {
    /// Whether it is the same way, whatever its standing.
    pub(super) fn is_same(&self, other: &Path) -> bool {
        (self.metric, self.link, self.via) == (other.metric, other.link, other.via)
    }
}

/// The network of a unicast route of the main table and the ways to it; several for a multipath route. Routes for one type
/// of service do not count.
pub(super) fn route(message: &RouteMessage) -> Option<(Network, Vec<Path>)> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let mut network = unspecified;
    let flags = message.header.flags;
    let standing = Standing::of(flags.contains(RouteFlags::Dead), flags.contains(RouteFlags::Linkdown));
    let mut path = Path { metric: 0, standing, link: 0, via: None };
    let mut hops = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(to) => network = address(to)?,
            RouteAttribute::Gateway(via) => path.via = address(via),
            RouteAttribute::Via(via) => path.via = via_address(via),
            RouteAttribute::Oif(link) => path.link = *link,
            RouteAttribute::Priority(metric) => path.metric = *metric,
            RouteAttribute::MultiPath(list) => hops = Some(list),
            _ => {}
        }
    }
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !is_main || message.header.kind != RouteType::Unicast || message.header.tos != 0 {
        return None;
    }
    let paths = match hops {
        None => vec![path],
        Some(list) => list
            .iter()
            .map(|hop| {
                let via = hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(via) => address(via),
                    RouteAttribute::Via(via) => via_address(via),
                    _ => None,
                });
                let is = |flag| hop.flags.contains(flag);
                let standing = Standing::of(is(RouteNextHopFlags::Dead), is(RouteNextHopFlags::Linkdown));
                Path { metric: path.metric, standing, link: hop.interface_index, via }
            })
            .collect(),
    };
    Some(((network, message.header.destination_prefix_length), paths))
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// RFC 5549: an IPv4 route whose next hop is an IPv6 address.
fn via_address(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(v4) => Some((*v4).into()),
        RouteVia::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// A neighbour as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) link: u32,
    pub(super) address: IpAddr,
    /// `None` while it is not known, or no longer believed.
    pub(super) mac: Option<MacAddr>,
    /// Known, but not verified for a while.
    pub(super) stale: bool,
}

/// The neighbour in a message; `None` for bridges' and proxies' entries and for multicast addresses, which the
/// kernel keeps for itself.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut found = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => found = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => found = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr)
            }
            _ => {}
        }
    }
    let address = found.filter(|address| !address.is_multicast())?;
    Some(Neighbour {
        link: message.header.ifindex,
        address,
        mac: mac.filter(|_| usable(message.header.state)),
        stale: message.header.state == NeighbourState::Stale,
    })
}

/// Whether the kernel itself would send to the MAC address of an entry in this state.
fn usable(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}
