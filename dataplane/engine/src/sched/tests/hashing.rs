//! dh, sh, mh.

use std::net::SocketAddrV4;

use super::*;

const CLIENTS: u32 = 20_000;
const PLAIN: SchedulerFlags = SchedulerFlags { fallback: false, port: false, quic_cid: false };
const FALLBACK: SchedulerFlags = SchedulerFlags { fallback: true, ..PLAIN };

/// Where each client goes: the server's endpoint.
fn map(scheduler: Scheduler, flags: SchedulerFlags, reals: &[Real]) -> Vec<Option<SocketAddr>> {
    let service = service_of(scheduler, flags, reals.to_vec());
    let counters = pages(1, 1000);
    let mut state = state(&service);
    let mut pick = |n| with_flow(n, |flow| state.pick(&service, flow, 0, &counters));
    (0..CLIENTS).map(|n| pick(n).map(|i| service.reals[i].endpoint.to_socket_addr())).collect()
}

fn reals(weights: &[u16]) -> Vec<Real> {
    weights.iter().enumerate().map(|(i, weight)| real(i, *weight)).collect()
}

/// Share of the clients of other servers than `except` that went elsewhere, in percent.
fn moved(before: &[Option<SocketAddr>], after: &[Option<SocketAddr>], except: &Real) -> f64 {
    let except = Some(except.endpoint.to_socket_addr());
    let others = before.iter().zip(after).filter(|(before, _)| **before != except);
    let moved = others.clone().filter(|(before, after)| before != after).count();
    moved as f64 * 100.0 / others.count() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn one_server_of_100_more_or_less_moves_at_most_3_percent_of_the_others_clients(
        ips in prop::collection::hash_set(any::<u32>(), 101),
        weights in prop::collection::vec(1u16..100, 101),
        same_weight: bool,
    ) {
        let mut reals = reals(&if same_weight { vec![1; 101] } else { weights });
        for (real, ip) in reals.iter_mut().zip(ips) {
            real.endpoint = SocketAddr::from((Ipv4Addr::from(ip), 80)).into();
        }
        for scheduler in [Scheduler::Mh, Scheduler::Sh, Scheduler::Dh] {
            let with = map(scheduler, PLAIN, &reals);
            let without = map(scheduler, PLAIN, &reals[..100]);
            let added = moved(&without, &with, &reals[100]);
            let removed = moved(&with, &without, &reals[100]);
            // What the new server itself gets is its right: 1 % of equals, more if it weighs more. In
            // proportion to that others change places among themselves.
            let total: u32 = reals.iter().map(Real::usable_weight).sum();
            let right = match scheduler {
                Scheduler::Dh => 100.0 / 101.0,
                _ => f64::from(reals[100].usable_weight()) * 100.0 / f64::from(total),
            };
            prop_assert!(removed <= 2.0 * right + 1.0, "{scheduler:?}: {removed} %, share {right} %");
            prop_assert!(added <= 3.0 * right + 1.0, "{scheduler:?}: {added} %, share {right} %");
            prop_assert!(!same_weight || added.max(removed) <= 3.0, "{scheduler:?}: {added} %, {removed} %");
        }
    }

    #[test]
    fn a_weight_that_changes_moves_little_but_its_own_clients(
        weights in prop::collection::vec(20u16..100, 100), ramp in 0u8..100,
    ) {
        let mut reals = reals(&weights);
        let before = map(Scheduler::Mh, PLAIN, &reals);
        reals[7].ramp_percent = ramp;
        let after = map(Scheduler::Mh, PLAIN, &reals);
        prop_assert!(moved(&before, &after, &reals[7]) <= 3.0);
        let own = Some(reals[7].endpoint.to_socket_addr());
        let gained = before.iter().zip(&after).filter(|(before, after)| **before != own && **after == own);
        prop_assert!(gained.count() <= CLIENTS as usize / 1000, "a server that lost weight won clients");
    }

    #[test]
    fn every_gateway_of_a_cluster_decides_alike(
        weights in prop::collection::vec(0u16..5, 2..20), turn in 0usize..20,
    ) {
        let reals = reals(&weights);
        let mut turned = reals.clone();
        turned.rotate_left(turn % weights.len());
        for scheduler in [Scheduler::Mh, Scheduler::Sh, Scheduler::Dh] {
            prop_assert_eq!(map(scheduler, PLAIN, &reals), map(scheduler, PLAIN, &turned));
        }
    }

    #[test]
    fn shares_are_as_the_weights(weights in prop::collection::vec(0u16..1000, 1..16)) {
        let reals = reals(&weights);
        // A drained one keeps its place as with weight 1.
        let weights: Vec<u16> = weights.into_iter().map(|weight| weight.max(1)).collect();
        let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
        let table = prepare(Scheduler::Mh, PLAIN, &reals);
        for (i, weight) in weights.iter().enumerate() {
            let places = table.iter().filter(|place| **place == i as u32).count() as f64;
            let exact = f64::from(*weight) / f64::from(total) * table.len() as f64;
            prop_assert!((places - exact).abs() <= 2.0, "{weight} of {total}: {places}, not {exact}");
        }
        let equal = prepare(Scheduler::Dh, PLAIN, &reals);
        for i in 0..weights.len() {
            let places = equal.iter().filter(|place| **place == i as u32).count();
            prop_assert!(places.abs_diff(equal.len() / weights.len()) <= 1, "dh knows no weights");
        }
    }
}

#[test]
fn with_fallback_a_server_that_is_down_moves_nobody_but_its_own_clients() {
    for scheduler in [Scheduler::Mh, Scheduler::Sh] {
        let mut reals = reals(&[3, 1, 2, 5, 1]);
        let before = map(scheduler, FALLBACK, &reals);
        reals[3].up = false;
        let after = map(scheduler, FALLBACK, &reals);
        assert_eq!(moved(&before, &after, &reals[3]), 0.0, "{scheduler:?}");
        let down = Some(reals[3].endpoint.to_socket_addr());
        assert!(after.iter().all(|to| to.is_some() && *to != down));
        // Its clients are shared by the others' weights.
        let came = |i: usize| {
            let own = Some(reals[i].endpoint.to_socket_addr());
            before.iter().zip(&after).filter(|(before, after)| **before == down && **after == own).count()
                as f64
        };
        let per_weight = [0, 1, 2, 4].map(|i| came(i) / f64::from(reals[i].weight));
        let mean = per_weight.iter().sum::<f64>() / 4.0;
        assert!(per_weight.iter().all(|n| (n / mean - 1.0).abs() < 0.2), "{scheduler:?} {per_weight:?}");
    }
}

#[test]
fn a_drained_server_refuses_its_clients_without_fallback_and_one_that_is_down_gives_them_away() {
    for scheduler in [Scheduler::Mh, Scheduler::Sh, Scheduler::Dh] {
        let mut reals = reals(&[1, 1, 1, 1]);
        let before = map(scheduler, PLAIN, &reals);
        let own = Some(reals[1].endpoint.to_socket_addr());
        reals[1].weight = 0;
        let drained = map(scheduler, PLAIN, &reals);
        for (before, drained) in before.iter().zip(&drained) {
            assert_eq!(*drained, before.filter(|_| *before != own), "{scheduler:?}");
        }
        reals[1].up = false;
        let down = map(scheduler, PLAIN, &reals);
        assert!(down.iter().all(|to| to.is_some() && *to != own), "{scheduler:?}");
        assert!(moved(&before, &down, &reals[1]) < 1.0, "{scheduler:?}");
    }
}

#[test]
fn without_fallback_clients_of_an_overloaded_server_are_refused_and_with_it_they_go_elsewhere() {
    for scheduler in [Scheduler::Mh, Scheduler::Sh, Scheduler::Dh] {
        let mut refused = [0; 2];
        for (n, flags) in [PLAIN, FALLBACK].into_iter().enumerate() {
            let mut reals = reals(&[1, 1, 1, 1]);
            reals[2].upper = 1;
            let service = service_of(scheduler, flags, reals);
            let counters = pages(1, 4);
            counters[0].real(RealId(2)).held.add(1);
            let mut state = state(&service);
            let mut pick = |client| with_flow(client, |flow| state.pick(&service, flow, 0, &counters));
            refused[n] = (0..1000).filter(|client| pick(*client).is_none()).count();
        }
        assert!((200..300).contains(&refused[0]), "{scheduler:?} {refused:?}");
        assert_eq!(refused[1] == 0, scheduler != Scheduler::Dh, "{scheduler:?} {refused:?}");
    }
}

fn picked(service: &Service, flow: &Flow<'_>) -> Option<usize> {
    state(service).pick(service, flow, 0, &pages(1, service.reals.len()))
}

/// How many servers get a flow when what `change` changes goes through 50 values.
fn servers(
    scheduler: Scheduler,
    flags: SchedulerFlags,
    protocol: u8,
    change: impl Fn(u16, &mut Packet),
) -> usize {
    let service = Service { protocol, ..service_of(scheduler, flags, reals(&[1; 20])) };
    let mut servers: Vec<usize> = (0..50)
        .map(|n| {
            let mut packet = Packet::default();
            change(n, &mut packet);
            picked(&service, &packet.flow()).unwrap()
        })
        .collect();
    servers.sort_unstable();
    servers.dedup();
    servers.len()
}

#[derive(Default)]
struct Packet {
    client: [u8; 16],
    client_port: u16,
    virtual_: [u8; 16],
    payload: Vec<u8>,
}

impl Packet {
    fn flow(&self) -> Flow<'_> {
        let Packet { client, client_port, virtual_, payload } = self;
        Flow { now: Ticks(0), client, client_port: *client_port, virtual_, payload }
    }
}

#[test]
fn each_hashes_what_it_says() {
    let client = |n: u16, packet: &mut Packet| packet.client[15] = n as u8;
    let port = |n: u16, packet: &mut Packet| packet.client_port = n;
    let vip = |n: u16, packet: &mut Packet| packet.virtual_[15] = n as u8;
    let with_port = SchedulerFlags { port: true, ..PLAIN };
    for scheduler in [Scheduler::Sh, Scheduler::Mh] {
        assert!(servers(scheduler, PLAIN, 6, client) > 10);
        assert_eq!(servers(scheduler, PLAIN, 6, port), 1);
        assert!(servers(scheduler, with_port, 6, port) > 10);
        assert_eq!(servers(scheduler, with_port, 6, vip), 1);
    }
    assert!(servers(Scheduler::Dh, PLAIN, 6, vip) > 10);
    assert_eq!(
        servers(Scheduler::Dh, with_port, 6, |n, p| {
            client(n, p);
            port(n, p)
        }),
        1
    );
}

#[test]
fn mh_keeps_a_quic_connection_whose_client_changes_its_address() {
    const UDP: u8 = 17;
    let by_id = SchedulerFlags { quic_cid: true, port: true, ..PLAIN };
    let roams = |n: u16, packet: &mut Packet| {
        (packet.client[3], packet.client_port) = (n as u8, n);
        packet.payload = [&[0x40][..], &[7; 30]].concat();
    };
    let many_ids = |n: u16, packet: &mut Packet| packet.payload = [&[0x40][..], &[n as u8; 30]].concat();
    assert_eq!(servers(Scheduler::Mh, by_id, UDP, roams), 1);
    assert!(servers(Scheduler::Mh, by_id, UDP, many_ids) > 10);
    assert_eq!(servers(Scheduler::Mh, PLAIN, UDP, many_ids), 1, "only if asked to");
    // What is no QUIC goes by its source.
    assert!(servers(Scheduler::Mh, by_id, UDP, |n, packet| packet.client[3] = n as u8) > 10);
    assert_eq!(servers(Scheduler::Sh, by_id, UDP, many_ids), 1, "an option of mh alone");
}

#[test]
fn ipv4_and_ipv6_real_servers_share_a_table() {
    let endpoints = ["10.2.0.1:80", "[2001:db8::1]:80", "10.2.0.1:81"].map(|text| text.parse().unwrap());
    let members =
        endpoints.into_iter().zip(0..).map(|(endpoint, index)| maglev::Member { endpoint, weight: 1, index });
    let table = maglev::build(members.collect(), 4093);
    for i in 0..3 {
        assert!(table.iter().filter(|place| **place == i).count().abs_diff(4093 / 3) <= 1);
    }
}

#[test]
fn table_sizes_are_primes_so_that_each_order_goes_through_all_places() {
    for servers in [0, 16, 17, 160, 161, 1600, 1601, 100_000] {
        let size = maglev::size(servers);
        assert!((2..size).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d)), "{size}");
    }
    let v4: SocketAddrV4 = "10.0.0.1:80".parse().unwrap();
    let one = maglev::Member { endpoint: v4.into(), weight: u32::from(u16::MAX) * 100, index: 5 };
    assert_eq!(maglev::build(vec![one], 4093), vec![5; 4093]);
}

/// As the hash itself: gateways of different versions in one cluster must agree. A change here is a break
/// that the operator must be told of.
#[test]
fn the_table_is_frozen() {
    let endpoints = ["10.2.0.1:80", "10.2.0.2:80", "[2001:db8::1]:80"].map(|text| text.parse().unwrap());
    let members = endpoints.into_iter().zip(0..).map(|(endpoint, index)| maglev::Member {
        endpoint,
        weight: index + 1,
        index,
    });
    let table = maglev::build(members.collect(), 4093);
    assert_eq!(table[..16], [0, 2, 1, 1, 2, 1, 2, 2, 0, 2, 2, 0, 2, 2, 1, 1]);
}
