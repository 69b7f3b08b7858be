//! rtnetlink messages to the few facts that the mirror keeps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
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

/// Where the kernel sends packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// Out of an interface, to a next hop; `None`: on link.
    Link(u32, Option<IpAddr>),
    /// Nowhere: a blackhole, with an ICMP error or without.
    Nowhere,
}

/// One path to a network. The least one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    /// Lower is preferred.
    pub(super) metric: u32,
    /// As it was when the kernel told of it.
    pub(super) standing: Standing,
    /// Where it leads.
    pub(super) target: Target,
    /// The kernel's next hop object that says so; 0: none.
    pub(super) object: u32,
}

impl Path {
    /// Not greater than any.
    pub(super) const LEAST: Path =
        Path { metric: 0, standing: Standing::Usable, target: Target::Link(0, None), object: 0 };

    /// Whether it is the same path, whatever its standing.
    pub(super) fn is_same(&self, other: &Path) -> bool {
        (self.metric, self.target) == (other.metric, other.target)
    }
}

/// A route of the main table.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) network: Network,
    /// Several for a multipath route.
    pub(super) paths: Vec<Path>,
    /// The address that the kernel itself would send from.
    pub(super) source: Option<IpAddr>,
}

/// What a message tells. What holds for some packets only does not count: routes for one type of service, or for some
/// sources.
pub(super) fn route(message: &RouteMessage) -> Option<Told> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let mut network = unspecified;
    let (mut metric, mut link, mut via, mut object, mut hops) = (0, 0, None, 0, None);
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(to) => network = address(to)?,
            RouteAttribute::Gateway(gateway) => via = address(gateway),
            RouteAttribute::Via(gateway) => via = via_address(gateway),
            RouteAttribute::Oif(index) => link = *index,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::NhId(number) => object = *number,
            RouteAttribute::PrefSource(from) => source = address(from),
            RouteAttribute::MultiPath(list) => hops = Some(list),
            _ => {}
        }
    }
    // A dump has what the kernel learnt for single hosts too (a path's MTU, an ICMP redirect); nobody tells when that is over.
    let is_learnt = header.flags.contains(RouteFlags::Cloned);
    let is_special = header.tos != 0 || header.source_prefix_length != 0;
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || is_learnt || is_special {
        return None;
    }
    let is = |flag| header.flags.contains(flag);
    let standing = Standing::of(is(RouteFlags::Dead), is(RouteFlags::Linkdown));
    let path = |standing, target| Path { metric, standing, target, object };
    let paths = match (header.kind, hops) {
        (RouteType::Unicast, None) => vec![path(standing, Target::Link(link, via))],
        (RouteType::Unicast, Some(hops)) => hops
            .iter()
            .map(|hop| {
                let (standing, target) = self::hop(hop);
                path(standing, target)
            })
            .collect(),
        // With a throw the kernel looks on in the table `default`, which we do not know and which is empty.
        (RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw, _) => {
            vec![path(standing, Target::Nowhere)]
        }
        _ => return None,
    };
    Some(Told { network: (network, header.destination_prefix_length), paths, source })
}

/// One of several next hops.
fn hop(hop: &RouteNextHop) -> (Standing, Target) {
    let via = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(via) => address(via),
        RouteAttribute::Via(via) => via_address(via),
        _ => None,
    });
    let is = |flag| hop.flags.contains(flag);
    let standing = Standing::of(is(RouteNextHopFlags::Dead), is(RouteNextHopFlags::Linkdown));
    (standing, Target::Link(hop.interface_index, via))
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
