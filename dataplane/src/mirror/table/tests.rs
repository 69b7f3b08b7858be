use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType,
};

use super::*;

const LINK: u32 = 7;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn kernel() -> Kernel {
    Kernel::new(&[Twin { port: PortId(3), name: "twin".into(), index: LINK }])
}

fn route(network: &str, len: u8, link: u32, via: Option<&str>, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = len;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(ip(network))),
        RouteAttribute::Oif(link),
        RouteAttribute::Priority(metric),
    ];
    message.attributes.extend(via.map(|via| RouteAttribute::Gateway(RouteAddress::from(ip(via)))));
    message
}

fn neighbour(address: &str, mac: Option<MacAddr>, state: NeighbourState) -> NeighbourMessage {
    let IpAddr::V4(v4) = ip(address) else { panic!("an IPv4 address") };
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = LINK;
    message.header.state = state;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

fn feed(kernel: &mut Kernel, message: RouteNetlinkMessage, flags: u16) -> Vec<Change> {
    let mut changes = Vec::new();
    kernel.event(&message, flags, &mut changes);
    changes
}

fn to(via: Option<&str>) -> Option<Way> {
    Some(Way::Out(Route { via: via.map(ip), port: PortId(3) }))
}

#[test]
fn the_route_of_lowest_metric_is_told_and_its_successor_when_it_leaves() {
    let mut kernel = kernel();
    let network = (ip("10.9.0.0"), 16);
    let far = route("10.9.0.0", 16, LINK, Some("10.1.0.2"), 200);
    let near = route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 100);
    assert_eq!(
        feed(&mut kernel, RouteNetlinkMessage::NewRoute(far), 0),
        [Change::Route(network, to(Some("10.1.0.2")))]
    );
    assert_eq!(
        feed(&mut kernel, RouteNetlinkMessage::NewRoute(near.clone()), 0),
        [Change::Route(network, to(Some("10.1.0.1")))]
    );
    assert_eq!(
        feed(&mut kernel, RouteNetlinkMessage::DelRoute(near), 0),
        [Change::Route(network, to(Some("10.1.0.2")))]
    );
}

#[test]
fn a_replaced_route_is_gone_although_nobody_deleted_it() {
    let mut kernel = kernel();
    let network = (ip("10.9.0.0"), 16);
    feed(&mut kernel, RouteNetlinkMessage::NewRoute(route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 0)), 0);
    let second = route("10.9.0.0", 16, LINK, Some("10.1.0.9"), 0);
    let changes = feed(&mut kernel, RouteNetlinkMessage::NewRoute(second.clone()), NLM_F_REPLACE);
    assert_eq!(changes, [Change::Route(network, to(Some("10.1.0.9")))]);
    assert_eq!(feed(&mut kernel, RouteNetlinkMessage::DelRoute(second), 0), [Change::Route(network, None)]);
}

/// A route with two next hops, whose flags are these, both by the twin.
fn multipath(first: RouteNextHopFlags, second: RouteNextHopFlags) -> RouteNetlinkMessage {
    let hops = [("10.1.0.1", first), ("10.1.0.2", second)].map(|(via, flags)| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = LINK;
        hop.flags = flags;
        hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(ip(via)))];
        hop
    });
    let mut message = route("10.9.0.0", 16, LINK, None, 0);
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
    message.attributes.push(RouteAttribute::MultiPath(hops.into()));
    RouteNetlinkMessage::NewRoute(message)
}

#[test]
fn a_next_hop_is_not_used_that_the_kernel_would_not_use_either() {
    let (up, down, dead) = (RouteNextHopFlags::empty(), RouteNextHopFlags::Linkdown, RouteNextHopFlags::Dead);
    let network = (ip("10.9.0.0"), 16);
    for (first, second, best) in [
        (up, up, Some("10.1.0.1")),
        (down, up, Some("10.1.0.2")),
        (dead | down, up, Some("10.1.0.2")),
        (dead, down, Some("10.1.0.2")),
        (down, down, Some("10.1.0.1")),
    ] {
        let mut kernel = kernel();
        let changes = feed(&mut kernel, multipath(first, second), 0);
        assert_eq!(changes, [Change::Route(network, to(best))], "{first:?} {second:?}");
        // The same ways, as they stand by now.
        let changes = feed(&mut kernel, multipath(up, up), 0);
        assert_eq!(changes.is_empty(), best == Some("10.1.0.1"), "{changes:?}");
        let RouteNetlinkMessage::NewRoute(gone) = multipath(dead, up) else { panic!("a new route") };
        assert_eq!(feed(&mut kernel, RouteNetlinkMessage::DelRoute(gone), 0), [Change::Route(network, None)]);
    }
    let mut kernel = kernel();
    assert_eq!(feed(&mut kernel, multipath(dead, dead), 0), []);
    let mut alone = route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 100);
    alone.header.flags = RouteFlags::Dead;
    assert_eq!(feed(&mut kernel, RouteNetlinkMessage::NewRoute(alone), 0), []);
}

#[test]
fn a_route_for_some_packets_only_does_not_count() {
    let mut for_a_service = route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 0);
    for_a_service.header.tos = 0x10;
    assert_eq!(feed(&mut kernel(), RouteNetlinkMessage::NewRoute(for_a_service), 0), []);
    let mut for_a_source = route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 0);
    for_a_source.header.source_prefix_length = 24;
    assert_eq!(feed(&mut kernel(), RouteNetlinkMessage::NewRoute(for_a_source), 0), []);
}

/// Else whoever sends the gateway an ICMP redirect would lead connections astray too.
#[test]
fn what_the_kernel_has_learnt_for_a_single_host_does_not_count() {
    let mut learnt = route("10.9.0.1", 32, LINK, Some("10.1.0.66"), 0);
    learnt.header.flags = RouteFlags::Cloned;
    assert_eq!(feed(&mut kernel(), RouteNetlinkMessage::NewRoute(learnt), 0), []);
}

#[test]
fn a_route_that_leads_nowhere_is_told_as_such_and_one_of_lower_metric_instead_of_it() {
    let network = (ip("10.9.0.0"), 16);
    for kind in [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit, RouteType::Throw] {
        let mut kernel = kernel();
        let mut nowhere = route("10.9.0.0", 16, 0, None, 50);
        nowhere.header.kind = kind;
        let out =
            |metric| RouteNetlinkMessage::NewRoute(route("10.9.0.0", 16, LINK, Some("10.1.0.1"), metric));
        assert_eq!(feed(&mut kernel, out(50), 0), [Change::Route(network, to(Some("10.1.0.1")))]);
        let replaced = feed(&mut kernel, RouteNetlinkMessage::NewRoute(nowhere.clone()), NLM_F_REPLACE);
        assert_eq!(replaced, [Change::Route(network, Some(Way::Nowhere))]);
        assert_eq!(feed(&mut kernel, out(60), 0), []);
        assert_eq!(feed(&mut kernel, out(40), 0), [Change::Route(network, to(Some("10.1.0.1")))]);
        feed(&mut kernel, RouteNetlinkMessage::DelRoute(nowhere), 0);
        assert_eq!(kernel.routes.len(), 2, "{kind:?} is gone");
    }
}

#[test]
fn routes_name_the_next_hop_objects_that_they_are_made_of() {
    let mut kernel = kernel();
    let mut named = route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 0);
    named.attributes.push(RouteAttribute::NhId(12));
    feed(&mut kernel, RouteNetlinkMessage::NewRoute(named), 0);
    let named =
        [vec![], vec![11], vec![11, 12], vec![13]].map(|ids| kernel.names_any(&ids.into_iter().collect()));
    assert_eq!(named, [false, false, true, false]);
}

#[test]
fn an_address_that_leaves_matters_on_a_twin_and_as_a_routes_source_anywhere() {
    let mut kernel = kernel();
    let mut from = route("10.9.0.0", 16, LINK, Some("10.1.0.1"), 0);
    from.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(ip("10.255.0.1"))));
    feed(&mut kernel, RouteNetlinkMessage::NewRoute(from), 0);
    let needs = [(LINK, "10.1.0.9"), (1, "10.255.0.1"), (1, "10.255.0.2")].map(|(link, address)| {
        let mut message = AddressMessage::default();
        message.header.index = link;
        message.attributes = vec![AddressAttribute::Local(ip(address))];
        kernel.event(&RouteNetlinkMessage::DelAddress(message), 0, &mut Vec::new())
    });
    assert_eq!(needs, [Need::Resync, Need::Resync, Need::Nothing]);
}

fn link(flags: LinkFlags, mac: MacAddr) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = LINK;
    message.header.flags = flags;
    message.attributes = vec![LinkAttribute::Mtu(1500), LinkAttribute::Address(mac.0.to_vec())];
    RouteNetlinkMessage::NewLink(message)
}

#[test]
fn everything_is_asked_for_again_when_a_link_goes_down_or_comes_up() {
    let mut kernel = kernel();
    let needs = [LinkFlags::Up | LinkFlags::LowerUp, LinkFlags::Up, LinkFlags::Up | LinkFlags::LowerUp]
        .map(|flags| kernel.event(&link(flags, MAC), 0, &mut Vec::new()));
    assert_eq!(needs, [Need::Resync; 3]);
    let again = kernel.event(&link(LinkFlags::Up | LinkFlags::LowerUp, MAC), 0, &mut Vec::new());
    assert_eq!(again, Need::Nothing);
}

#[test]
fn a_new_mac_address_of_a_twin_is_told() {
    let link = |mac| link(LinkFlags::Up | LinkFlags::LowerUp, mac);
    let mut kernel = kernel();
    let other = MacAddr([2, 0, 0, 0, 0, 10]);
    let told = |mac| vec![Change::Link(PortId(3), LinkState { up: true, mtu: 1500, mac: Some(mac) })];
    let states = [MAC, MAC, other].map(|mac| feed(&mut kernel, link(mac), 0));
    assert_eq!(states, [told(MAC), vec![], told(other)]);
}

#[test]
fn routes_through_other_links_or_of_other_tables_neither_count_nor_hide_others() {
    let mut kernel = kernel();
    let network = (ip("10.9.0.0"), 16);
    let elsewhere = |metric| RouteNetlinkMessage::NewRoute(route("10.9.0.0", 16, LINK + 1, None, metric));
    let ours = RouteNetlinkMessage::NewRoute(route("10.9.0.0", 16, LINK, None, 100));
    assert_eq!(feed(&mut kernel, elsewhere(10), 0), []);
    assert_eq!(feed(&mut kernel, ours, 0), [Change::Route(network, to(None))]);
    assert_eq!(feed(&mut kernel, elsewhere(20), 0), []);
    assert_eq!(feed(&mut kernel, elsewhere(100), NLM_F_REPLACE), [Change::Route(network, None)]);
    let mut local = route("10.8.0.0", 16, LINK, None, 0);
    local.header.table = 255;
    assert_eq!(feed(&mut kernel, RouteNetlinkMessage::NewRoute(local), 0), []);
}

#[test]
fn neighbours_count_while_the_kernel_would_send_to_them() {
    let mut kernel = kernel();
    let mut states = Vec::new();
    for (mac, state) in [
        (None, NeighbourState::Incomplete),
        (Some(MAC), NeighbourState::Reachable),
        (Some(MAC), NeighbourState::Stale),
        (Some(MAC), NeighbourState::Failed),
    ] {
        let message = RouteNetlinkMessage::NewNeighbour(neighbour("10.1.0.5", mac, state));
        states.push(feed(&mut kernel, message, 0));
    }
    let told = |mac| vec![Change::Neighbour(PortId(3), ip("10.1.0.5"), mac)];
    assert_eq!(states, [told(None), told(Some(MAC)), vec![], told(None)]);
}

#[test]
fn routes_may_be_lacking_when_one_of_ipv6_is_deleted_after_a_dump() {
    let mut kernel = kernel();
    feed(&mut kernel, RouteNetlinkMessage::DelRoute(route("10.9.0.0", 16, LINK, None, 0)), 0);
    assert!(!kernel.may_lack_routes());
    let mut gone = route("2001:db8::", 48, LINK, None, 1024);
    gone.header.address_family = AddressFamily::Inet6;
    feed(&mut kernel, RouteNetlinkMessage::DelRoute(gone), 0);
    assert!(kernel.may_lack_routes());
    kernel.replace_by(kernel.emptied());
    assert!(!kernel.may_lack_routes());
}

#[test]
fn a_new_dump_tells_only_what_differs() {
    let mut kernel = kernel();
    let stays =
        || RouteNetlinkMessage::NewNeighbour(neighbour("10.1.0.5", Some(MAC), NeighbourState::Reachable));
    let leaves =
        RouteNetlinkMessage::NewNeighbour(neighbour("10.1.0.6", Some(MAC), NeighbourState::Reachable));
    feed(&mut kernel, stays(), 0);
    feed(&mut kernel, leaves, 0);
    feed(&mut kernel, RouteNetlinkMessage::NewRoute(route("10.9.0.0", 16, LINK, None, 0)), 0);
    let mut fresh = kernel.emptied();
    feed(&mut fresh, stays(), 0);
    let mut changes = kernel.replace_by(fresh);
    changes.sort_by_key(|change| matches!(change, Change::Neighbour(..)));
    assert_eq!(
        changes,
        [Change::Route((ip("10.9.0.0"), 16), None), Change::Neighbour(PortId(3), ip("10.1.0.6"), None)]
    );
}
