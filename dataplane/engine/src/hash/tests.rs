use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn address() -> impl Strategy<Value = Addr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        (0u8..4).prop_map(|last| IpAddr::from([10, 0, 0, last])),
    ]
    .prop_map(Addr::from)
}

fn is_host(addr: &Addr) -> bool {
    !addr.to_ip().is_unspecified()
}

proptest! {
    #[test]
    fn address_set_is_a_set(
        inside in prop::collection::hash_set(address(), 0..200),
        probes in prop::collection::vec(address(), 0..50),
    ) {
        let set = AddressSet::new(inside.iter().copied());
        let model: HashSet<Addr> = inside.into_iter().filter(is_host).collect();
        for address in model.iter().chain(&probes) {
            prop_assert_eq!(set.contains(*address), model.contains(address));
        }
    }

    #[test]
    fn endpoint_map_is_a_map(
        keys in prop::collection::hash_set((address().prop_filter("host", is_host), any::<u16>()), 0..200),
    ) {
        let mut map = EndpointMap::default();
        let mut model = HashMap::new();
        for (i, (addr, port)) in keys.iter().enumerate() {
            map.insert(6, *addr, (*port, *port), ServiceId(i as u32));
            model.insert((*addr, *port), ServiceId(i as u32));
        }
        for (addr, port) in keys {
            let endpoint = Endpoint { addr, port: port.to_be() };
            prop_assert_eq!(map.get(6, endpoint), model.get(&(addr, port)).copied());
            prop_assert_eq!(map.get(17, endpoint), None);
        }
    }

    #[test]
    fn ranges_end_where_they_end_and_give_way_to_single_ports(
        first in 2u16..60_000, len in 1u16..5000, probe: u16,
    ) {
        let addr = Addr::from(IpAddr::from([10, 1, 0, 100]));
        let mut map = EndpointMap::default();
        let last = first.saturating_add(len);
        map.insert(6, addr, (first, last), ServiceId(1));
        map.insert(6, addr, (1, 1), ServiceId(2));
        map.insert(6, addr, (first + 1, first + 1), ServiceId(3));
        let at = |port: u16| map.get(6, Endpoint { addr, port: port.to_be() });
        prop_assert_eq!(at(1), Some(ServiceId(2)));
        prop_assert_eq!(at(first), Some(ServiceId(1)));
        prop_assert_eq!(at(first + 1), Some(ServiceId(3)));
        prop_assert_eq!(at(first - 1), (first == 2).then_some(ServiceId(2)));
        let expected = match probe {
            1 => Some(ServiceId(2)),
            port if port == first + 1 => Some(ServiceId(3)),
            port => (first..=last).contains(&port).then_some(ServiceId(1)),
        };
        prop_assert_eq!(at(probe), expected);
    }
}

#[test]
fn a_service_of_all_ports_has_those_that_no_other_names() {
    let addr = Addr::from(IpAddr::from([10, 1, 0, 100]));
    let mut map = EndpointMap::default();
    for (ports, id) in [((1, 50), 2), ((1, u16::MAX), 1), ((8000, 8100), 3), ((443, 443), 4)] {
        map.insert(6, addr, ports, ServiceId(id));
    }
    let expected = [(0, None), (1, Some(2)), (50, Some(2)), (51, Some(1)), (443, Some(4)), (7999, Some(1))];
    let above = [(8000, Some(3)), (8100, Some(3)), (8101, Some(1)), (u16::MAX, Some(1))];
    for (port, id) in expected.into_iter().chain(above) {
        let endpoint = Endpoint { addr, port: u16::to_be(port) };
        assert_eq!(map.get(6, endpoint), id.map(ServiceId), "port {port}");
        assert_eq!(map.get(17, endpoint), None);
    }
}

#[test]
fn reduction_stays_below_its_bound() {
    assert_eq!(reduce(u32::MAX, 7), 6);
    assert_eq!(reduce(0, 7), 0);
}

/// Entries of the tables below: as many as there may be services.
const REGULAR: u32 = 20_000;

type Layout = Box<dyn Fn(u32) -> IpAddr>;

/// Addresses as operators number them, by n.
fn layouts() -> Vec<(&'static str, Layout)> {
    fn v4(layout: impl Fn(u32) -> u32 + 'static) -> Layout {
        Box::new(move |n| Ipv4Addr::from(0x0a00_0000 + layout(n)).into())
    }
    /// By the six groups behind 2001:db8.
    fn v6(layout: impl Fn(u16) -> [u16; 6] + 'static) -> Layout {
        Box::new(move |n| {
            let [c, d, e, f, g, h] = layout(n as u16);
            Ipv6Addr::new(0x2001, 0xdb8, c, d, e, f, g, h).into()
        })
    }
    vec![
        ("10.0.0.n", v4(|n| n)),
        ("10.0.0.2n", v4(|n| 2 * n)),
        ("10.0.0.8n", v4(|n| 8 * n)),
        ("10.n.n.1", v4(|n| n << 8 | 1)),
        ("10.a.b.a+b", v4(|n| n << 8 | (n + (n >> 8)) & 0xff)),
        ("::n", v6(|n| [0, 0, 0, 0, 0, n])),
        ("::n:0", v6(|n| [0, 0, 0, 0, n, 0])),
        ("0:n::n", v6(|n| [0, n, 0, 0, 0, n])),
        ("n::n", v6(|n| [n, 0, 0, 0, 0, n])),
        ("n::n:0", v6(|n| [n, 0, 0, 0, n, 0])),
        ("0:n::n:0:0:0", v6(|n| [0, n, n, 0, 0, 0])),
        ("n:n::n:n", v6(|n| [n, n, 0, 0, n, n])),
        ("n:n:n:n:n:n", v6(|n| [n; 6])),
        ("0:n::1", v6(|n| [0, n, 0, 0, 0, 1])),
        ("n::1", v6(|n| [n, 0, 0, 0, 0, 1])),
        ("0:a::b", v6(|n| [0, n / 128, 0, 0, 0, n % 128])),
        ("a:b::a:b", v6(|n| [n / 128, n % 128, 0, 0, n / 128, n % 128])),
        ("0:n::-n", v6(|n| [0, n, 0, 0, 0, !n])),
        ("0:n::n with its bytes swapped", v6(|n| [0, n, 0, 0, 0, n.swap_bytes()])),
        ("::10.0.n.n", v6(|n| [0, 0, 0, 0, 0x0a00, n])),
    ]
}

type PortOf = fn(u32) -> u16;

/// Services' ports, by n.
fn ports() -> [(&'static str, PortOf); 4] {
    [
        ("443", |_| 443),
        ("n", |n| n as u16 + 1),
        ("n % 16", |n| 8000 + n as u16 % 16),
        ("65535 - n", |n| u16::MAX - n as u16),
    ]
}

/// Panics where looks for what is in the table take long.
fn assert_few_probes<K: OpenKey, V: Copy + Default>(table: &Open<K, V>, what: &str) {
    let mask = table.slots.len() - 1;
    let used = table.slots.iter().enumerate().filter(|(_, (key, _))| *key != K::default());
    let probes: Vec<usize> =
        used.map(|(at, (key, _))| (at.wrapping_sub(table.start(*key)) & mask) + 1).collect();
    assert_eq!(probes.len(), table.len);
    let (sum, max) = (probes.iter().sum::<usize>(), probes.iter().max().copied().unwrap_or(0));
    assert!(
        sum <= 3 * probes.len() && max <= 40,
        "{what}: {} entries take {sum} probes, the farthest {max}",
        probes.len()
    );
}

#[test]
fn regular_addresses_are_spread() {
    for (layout, address) in layouts() {
        let set = AddressSet::new((0..REGULAR).map(|n| address(n).into()));
        assert_few_probes(&set.v4, layout);
        assert_few_probes(&set.v6, layout);
    }
}

#[test]
fn regular_services_are_spread() {
    for (layout, address) in layouts() {
        for (at, port) in ports() {
            let mut map = EndpointMap::default();
            (0..REGULAR).for_each(|n| map.insert(6, address(n).into(), (port(n), port(n)), ServiceId(n)));
            assert_few_probes(&map.exact, &format!("{layout} port {at}"));
        }
    }
}

#[test]
fn ports_of_one_address_are_spread() {
    for (layout, address) in layouts() {
        for step in [1, 2, 3] {
            let mut map = EndpointMap::default();
            (0..REGULAR as u16).for_each(|n| {
                let port = step * n + 1;
                map.insert(17, address(1).into(), (port, port), ServiceId(n.into()));
            });
            assert_few_probes(&map.exact, &format!("{layout}, every {step} ports"));
        }
    }
}

/// As the forwarding table has them: in host order, with the length beside them.
#[test]
fn regular_routes_are_spread() {
    for (layout, address) in layouts() {
        for host_bits in [0, 8, 16, 64, 80] {
            let mut routes = Open::<(u128, u32), u32>::default();
            (0..REGULAR).for_each(|n| {
                let prefix = u128::from_be(Addr::from(address(n)).bits()) >> host_bits << host_bits;
                routes.insert((prefix, 129 - host_bits), n);
            });
            assert_few_probes(&routes, &format!("{layout}/{}", 128 - host_bits));
        }
    }
}
