//! rtnetlink messages to the few facts that the mirror keeps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use wire::MacAddr;

/// A network: address and prefix length.
pub(super) type Network = (IpAddr, u8);

/// One way to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    /// Lower is preferred.
    pub(super) metric: u32,
    /// Interface.
    pub(super) link: u32,
    /// Next hop; `None`: on link.
    pub(super) via: Option<IpAddr>,
}

/// The network of a unicast route of the main table and the ways to it; several for a multipath route.
pub(super) fn route(message: &RouteMessage) -> Option<(Network, Vec<Path>)> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let mut network = unspecified;
    let mut path = Path { metric: 0, link: 0, via: None };
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
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || message.header.kind != RouteType::Unicast {
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
                Path { metric: path.metric, link: hop.interface_index, via }
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
