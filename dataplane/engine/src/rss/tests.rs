use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::*;
use crate::ports::{PortSet, Share};

/// The key of Microsoft's "Verifying the RSS hash calculation".
const KEY: [u8; KEY_LEN] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

const TCP: u8 = wire::ipv4::PROTO_TCP;
const UDP: u8 = wire::ipv4::PROTO_UDP;

/// The definition, bit by bit.
fn by_definition(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], index: usize| u32::from(bytes[index / 8] >> (7 - index % 8) & 1);
    let window = |first: usize| (first..first + 32).fold(0, |window, index| window << 1 | bit(key, index));
    (0..input.len() * 8).filter(|&index| bit(input, index) == 1).fold(0, |sum, index| sum ^ window(index))
}

fn input(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    [octets(src.ip()), octets(dst.ip()), ports].concat()
}

/// Two addresses of one family.
fn addresses_of(is_v6: bool) -> BoxedStrategy<(IpAddr, IpAddr)> {
    if !is_v6 {
        return any::<[[u8; 4]; 2]>().prop_map(|[a, b]| (a.into(), b.into())).boxed();
    }
    let never_mapped = |mut octets: [u8; 16]| {
        octets[0] = 0x20;
        IpAddr::from(octets)
    };
    any::<[[u8; 16]; 2]>().prop_map(move |[a, b]| (never_mapped(a), never_mapped(b))).boxed()
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    any::<bool>().prop_flat_map(addresses_of)
}

/// Any key that can be used, and any table that names every worker. Most have up to 2,048 entries, some as many as
/// there can be.
fn any_nic(workers: u16) -> impl Strategy<Value = (Vec<u8>, Vec<u16>)> {
    let least = workers.next_power_of_two().trailing_zeros();
    let tables = prop_oneof![31 => least..=11, 1 => Just(16)].prop_flat_map(move |bits| {
        let is_usable = move |key: &Vec<u8>| Rss::new(key, &vec![0; 1 << bits], 1, Hashed::ALL).is_ok();
        // Most NICs' have 40 bytes, those of i40e and ice 52.
        let keys = prop_oneof![Just(KEY_LEN), Just(52)].prop_flat_map(|len| vec(any::<u8>(), len));
        (keys.prop_filter("a key that can be used", is_usable), vec(0..workers, 1 << bits), any::<[u16; 2]>())
    });
    tables.prop_map(move |(key, mut table, [first, step])| {
        // An odd step leads to another place for each.
        for worker in 0..workers {
            let at = usize::from(first) + usize::from(worker) * (usize::from(step) | 1);
            let at = at % table.len();
            table[at] = worker;
        }
        (key, table)
    })
}

/// What a worker behind such a NIC knows of it.
pub(crate) fn any_rss(workers: u16) -> impl Strategy<Value = Rss> {
    any_nic(workers).prop_map(move |(key, table)| Rss::new(&key, &table, workers, Hashed::ALL).unwrap())
}

fn usable() -> impl Strategy<Value = (u16, Rss)> {
    (1u16..=64).prop_flat_map(|workers| (Just(workers), any_rss(workers)))
}

/// For properties that are to hold for each of something: so many inputs for one of them.
pub(crate) fn check<S: Strategy>(cases: u32, inputs: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&inputs, property).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn hashes_equal_the_published_vectors() {
    let rss = Rss::new(&KEY, &[0], 1, Hashed::ALL).unwrap();
    for (src, dst, wanted) in [
        ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
        ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
        ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
        ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde5_1bbf),
    ] {
        assert_eq!(rss.hash(src.parse().unwrap(), dst.parse().unwrap()), wanted, "{src} to {dst}");
    }
}

#[test]
fn what_cannot_steer_is_refused_with_the_reason() {
    let reason = |key: &[u8], table: &[u16], workers| Rss::new(key, table, workers, Hashed::ALL).unwrap_err();
    assert_eq!(reason(&KEY[..39], &[0, 1], 2), RssError::KeyTooShort(39));
    assert_eq!(reason(&KEY, &[0, 1, 0], 2), RssError::TableLen(3));
    assert_eq!(reason(&KEY, &[], 2), RssError::TableLen(0));
    assert_eq!(reason(&KEY, &[0, 2], 2), RssError::NoSuchWorker { worker: 2, workers: 2 });
    assert_eq!(reason(&KEY, &[0, 0], 2), RssError::WorkerLeftOut(1));
    // Whatever the port, the low bits of the hash are the same.
    assert_eq!(reason(&[0; KEY_LEN], &[0, 1], 2), RssError::PoorKey);
}

#[test]
fn keys_that_are_much_used_can_steer() {
    let table: Vec<u16> = (0..512).map(|index| index % 7).collect();
    Rss::new(&KEY, &table, 7, Hashed::ALL).unwrap();
    // The one that hashes both directions alike.
    Rss::new(&[0x6d, 0x5a].repeat(20), &table, 7, Hashed::ALL).unwrap();
}

#[test]
fn packets_that_are_not_hashed_with_their_ports_have_no_worker() {
    let tcp4 = Hashed { tcp4: true, ..Hashed::default() };
    let rss = Rss::new(&KEY, &[0], 1, tcp4.and(Hashed::ALL)).unwrap();
    let (v4, v6) = ("10.0.0.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
    assert_eq!(rss.worker_of(TCP, v4, v4), Some(WorkerId(0)));
    assert_eq!(rss.worker_of(UDP, v4, v4), None);
    assert_eq!(rss.worker_of(TCP, v6, v6), None);
}

/// All ports of a set, in the order in which they are given.
fn drain(set: &mut PortSet, real_port: u16) -> Vec<u16> {
    std::iter::from_fn(|| set.take(real_port)).collect()
}

/// So a reply always reaches its owner, and no port is lost.
#[test]
fn the_workers_ports_are_those_whose_replies_reach_them_and_together_all() {
    for (workers, is_v6) in (1..=64).flat_map(|workers| [(workers, false), (workers, true)]) {
        let ports = (any::<u16>(), any::<(u16, u16)>(), any::<u64>());
        check(2, (any_nic(workers), addresses_of(is_v6), ports), |(nic, ends, (real_port, range, start))| {
            let range = (range.0.min(range.1).max(1), range.0.max(range.1).max(1));
            replies_reach_their_owners(workers, nic, ends, real_port, range, start)
        });
    }
}

fn replies_reach_their_owners(
    workers: u16,
    (key, table): (Vec<u8>, Vec<u16>),
    (real, local): (IpAddr, IpAddr),
    real_port: u16,
    range: (u16, u16),
    start: u64,
) -> TestCaseResult {
    let rss = Arc::new(Rss::new(&key, &table, workers, Hashed::ALL).unwrap());
    let in_packet = SocketAddr::new(real, real_port.max(1));
    let mut seen = vec![false; 1 << 16];
    for worker in (0..workers).map(WorkerId) {
        let share = Share::hashed(&rss, (real.into(), real_port), local.into(), range, worker);
        let mut set = PortSet::new(share);
        set.start_at(start);
        for (nth, port) in drain(&mut set, in_packet.port()).into_iter().enumerate() {
            let local = SocketAddr::new(local, port);
            for protocol in [TCP, UDP] {
                prop_assert_eq!(rss.worker_of(protocol, in_packet, local), Some(worker));
            }
            if nth == 0 {
                let place = by_definition(&key, &input(in_packet, local)) as usize % table.len();
                prop_assert_eq!(table[place], worker.0);
            }
            prop_assert!((range.0..=range.1).contains(&port));
            prop_assert!(!std::mem::replace(&mut seen[usize::from(port)], true), "{} twice", port);
        }
    }
    prop_assert_eq!(seen.iter().filter(|seen| **seen).count(), usize::from(range.1 - range.0) + 1);
    Ok(())
}

/// At the edges of the range there are places without a port towards this or that real port, which are never in use.
#[test]
fn who_is_refused_is_so_at_once_until_a_port_comes_back() {
    let table: Vec<u16> = (0..128).map(|entry| entry % 2).collect();
    let rss = Arc::new(Rss::new(&KEY, &table, 2, Hashed::ALL).unwrap());
    let (real, local) = ("10.2.0.11".parse::<IpAddr>().unwrap(), "10.2.0.200".parse::<IpAddr>().unwrap());
    let share = Share::hashed(&rss, (real.into(), 0), local.into(), (5001, 5998), WorkerId(0));
    let mut set = PortSet::new(share);
    let given = drain(&mut set, 80);
    assert!(!given.is_empty() && set.in_use() as usize == given.len());
    assert!(set.is_exhausted(), "all places are looked at again for each packet");
    set.give_back(given[7], 80);
    assert!(!set.is_exhausted());
    assert_eq!(drain(&mut set, 80), [given[7]]);
}

proptest! {
    #[test]
    fn the_hash_is_as_defined(
        key: [u8; KEY_LEN], (src, dst) in addresses(), ports: (u16, u16),
    ) {
        let (src, dst) = (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1));
        let toeplitz = Toeplitz::new(&key).unwrap();
        prop_assert_eq!(toeplitz.hash(src.into(), dst.into()), by_definition(&key, &input(src, dst)));
    }

    /// Real servers without a port of their own share places between connections to several ports.
    #[test]
    fn a_port_comes_back_by_the_real_port_that_it_was_taken_towards(
        (workers, rss) in usable(), (real, local) in addresses(),
        steps in vec((1u16..5, any::<Option<u8>>()), 1..300),
    ) {
        let rss = Arc::new(rss);
        let range = (2000, 2000 + 16 * workers);
        let mut set = PortSet::new(Share::hashed(&rss, (real.into(), 0), local.into(), range, WorkerId(0)));
        let mut taken: Vec<(u16, u16)> = Vec::new();
        for (real_port, back) in steps {
            match back {
                Some(n) if !taken.is_empty() => {
                    let (real_port, port) = taken.swap_remove(usize::from(n) % taken.len());
                    set.give_back(port, real_port);
                }
                _ => if let Some(port) = set.take(real_port) {
                    let reply = (SocketAddr::new(real, real_port), SocketAddr::new(local, port));
                    prop_assert_eq!(rss.worker_of(UDP, reply.0, reply.1), Some(WorkerId(0)));
                    prop_assert!((range.0..=range.1).contains(&port));
                    prop_assert!(!taken.contains(&(real_port, port)));
                    taken.push((real_port, port));
                }
            }
            prop_assert_eq!(set.in_use() as usize, taken.len());
        }
    }
}
