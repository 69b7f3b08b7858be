//! The whole program on net_pcap: a client's SYN goes in at one port and comes out of the other, translated.

use std::collections::BTreeSet;

use crate::common::{Dataplane, LAN_MAC, WAN_MAC, read_pcap};
use api::{
    ConnectionQuery, DesiredState, Protocol, RealServer, Request, Response, Scheduler, Service, ServiceKey,
    StaticNeighbour, StaticRoute,
};
use nix::sys::signal::Signal;
use wire::build::TcpFrame;
use wire::{MacAddr, U16, ethernet, ipv4, tcp};

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const REAL_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];

pub(crate) fn syn(client_port: u16) -> Vec<u8> {
    let frame = TcpFrame {
        eth_dst: MacAddr(WAN_MAC),
        eth_src: MacAddr(CLIENT_MAC),
        src: ipv4::addr([10, 1, 0, 11].into()),
        dst: ipv4::addr([10, 1, 0, 100].into()),
        src_port: U16::new(client_port),
        dst_port: U16::new(80),
        flags: tcp::flags::SYN,
        pad: true,
        ..TcpFrame::default()
    };
    frame.to_vec()
}

pub(crate) fn state(generation: u64) -> DesiredState {
    let key = ServiceKey { protocol: Protocol::Tcp, virtual_: "10.1.0.100:80".parse().unwrap() };
    DesiredState {
        generation,
        services: vec![Service {
            scheduler: Scheduler::Rr,
            local_addresses: vec!["10.2.0.200".parse().unwrap()],
            real_servers: vec![RealServer::new("10.2.0.11:8080".parse().unwrap())],
            ..Service::new(key, "web")
        }],
        static_neighbours: vec![
            StaticNeighbour { port: "wan".into(), address: "10.1.0.11".parse().unwrap(), mac: CLIENT_MAC },
            StaticNeighbour { port: "lan".into(), address: "10.2.0.11".parse().unwrap(), mac: REAL_MAC },
        ],
        static_routes: vec![
            StaticRoute {
                network: "10.1.0.0".parse().unwrap(),
                prefix_len: 24,
                via: None,
                port: "wan".into(),
            },
            StaticRoute {
                network: "10.2.0.0".parse().unwrap(),
                prefix_len: 24,
                via: None,
                port: "lan".into(),
            },
        ],
        ..DesiredState::default()
    }
}

pub(crate) fn apply(state: DesiredState) -> Request {
    Request::Apply(Box::new(state))
}

pub(crate) fn drops(response: &Response, name: &str) -> Vec<u64> {
    let Response::Stats(stats) = response else { panic!("{response:?}") };
    stats.drops.iter().find(|counter| counter.name == name).unwrap().per_worker.clone()
}

#[test]
fn syns_leave_translated_whichever_worker_received_them() {
    let directory = tempfile::tempdir().unwrap();
    let clients = 40_000..40_008;
    let frames: Vec<_> = clients.clone().map(syn).collect();
    let mut dataplane = Dataplane::start(directory.path(), 2, &frames);
    let Response::Status(status) = dataplane.ask(&Request::GetStatus) else { panic!("no status") };
    assert_eq!(status.ports[0].mac, MacAddr(WAN_MAC).to_string());
    assert_eq!((status.workers.len(), status.steering.as_str(), status.generation), (2, "software", 0));

    assert_eq!(dataplane.ask(&apply(state(7))), Response::Applied { generation: 7 });
    let query = Request::GetConnections(ConnectionQuery { limit: 100, ..ConnectionQuery::default() });
    let connections = dataplane.wait_for(&query, |response| match response {
        Response::Connections(page) if page.connections.len() == 8 => Some(page.connections.clone()),
        _ => None,
    });
    let found: BTreeSet<u16> = connections.iter().map(|connection| connection.client.port()).collect();
    assert_eq!(found, clients.collect());
    assert!(connections.iter().all(|connection| connection.state == "SYN_RECV"));
    let owners: BTreeSet<u16> = connections.iter().map(|connection| connection.worker).collect();
    assert_eq!(owners, BTreeSet::from([0, 1]), "the seed spreads eight clients over both workers");
    dataplane.wait_for(&Request::GetStatus, |response| match response {
        Response::Status(status) if status.ports[1].tx_packets > 100 => Some(()),
        _ => None,
    });
    assert!(dataplane.stop(Signal::SIGTERM).success(), "{}", dataplane.log());
    assert!(!dataplane.socket().exists());

    let endpoints: BTreeSet<_> = connections.iter().map(|c| (c.local, c.real)).collect();
    let sent = read_pcap(&directory.path().join("lan-out.pcap"));
    assert!(sent.len() > 100);
    for frame in &sent {
        let ethernet: &ethernet::Header = wire::view(frame, 0).unwrap();
        assert_eq!((ethernet.src, ethernet.dst), (MacAddr(LAN_MAC), MacAddr(REAL_MAC)));
        let ip: &ipv4::Header = wire::view(frame, 14).unwrap();
        let tcp: &tcp::Header = wire::view(frame, 34).unwrap();
        let local = Some((ipv4::to_addr(ip.src), tcp.src_port.get()).into());
        let real = (ipv4::to_addr(ip.dst), tcp.dst_port.get()).into();
        assert!(endpoints.contains(&(local, real)), "{}", wire::build::summary(frame));
    }
}

#[test]
fn what_it_cannot_do_is_refused_and_the_running_state_stays() {
    let directory = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(directory.path(), 1, &[syn(40_000)]);
    // Without a service the SYN is for the kernel, and these ports have no kernel twin.
    dataplane.wait_for(&Request::GetStats, |response| (drops(response, "no_twin")[0] > 0).then_some(()));
    assert_eq!(dataplane.ask(&apply(state(1))), Response::Applied { generation: 1 });

    let mut no_local = state(2);
    no_local.services[0].local_addresses.clear();
    let mut crowd = state(3);
    crowd.services = (0..17)
        .map(|n| {
            let mut service = crowd.services[0].clone();
            service.key.virtual_.set_port(1000 + n);
            service
        })
        .collect();
    for (wrong, word) in [(no_local, "no local address"), (crowd, "services_max")] {
        let response = dataplane.ask(&apply(wrong));
        let Response::Refused(refusal) = response else { panic!("{response:?}") };
        assert!(refusal.to_string().contains(word), "{refusal}");
    }
    let Response::Status(status) = dataplane.ask(&Request::GetStatus) else { panic!("no status") };
    assert_eq!(status.generation, 1);
    let Response::Stats(stats) = dataplane.ask(&Request::GetStats) else { panic!("no stats") };
    assert_eq!(stats.services.len(), 1);
    assert!(stats.services[0].real_servers[0].reachable);
}

#[test]
fn a_next_hop_without_mac_address_costs_counted_packets_until_it_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(directory.path(), 1, &[syn(40_000)]);
    let mut unresolved = state(1);
    unresolved.static_neighbours.pop();
    dataplane.ask(&apply(unresolved));
    dataplane.wait_for(&Request::GetStats, |response| {
        let lost: u64 =
            ["resolve_overflow", "resolve_ring_full"].iter().map(|name| drops(response, name)[0]).sum();
        (lost > 0 && drops(response, "neighbour_unresolved")[0] > 0).then_some(())
    });
    dataplane.ask(&apply(state(2)));
    dataplane.wait_for(&Request::GetStatus, |response| match response {
        Response::Status(status) if status.ports[1].tx_packets > 0 => Some(()),
        _ => None,
    });
}
