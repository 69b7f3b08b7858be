//! Ports with kernel twins: what passes between Linux and the wire, and what the twin and its port tell each other.
//!
//! The ports are net_tap devices, so that a test has the far end of each cable in its hands.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use crate::common::{Dataplane, dataplane_section, read_pcap, write_text};
use crate::forwarding::{CLIENT_MAC, REAL_MAC, apply, drops, state};
use crate::netns::{Cable, Netns};
use api::{
    DesiredState, Mode, Protocol, RealServer, Request, Response, Service, ServiceKey, Tunnel, TunnelKind,
};
use nix::sys::signal::Signal;
use wire::build::{EchoFrame6, Ipv6Base, TcpFrame, TcpFrame6};
use wire::{IntoBytes, MacAddr, U16, arp, ethernet, icmpv6, ipv4, ipv6, tcp};

const WAN: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
const LAN: [u8; 6] = [2, 0, 0, 0, 0xaa, 2];
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// The addresses of the gateway itself.
const ADDRESSES: &[&str] = &[
    "10.1.0.1/24 dev wan",
    "10.2.0.1/24 dev lan",
    "2001:db8:1::1/64 dev wan nodad",
    "2001:db8:2::1/64 dev lan nodad",
];

fn start(directory: &Path, netns: &Netns) -> Dataplane {
    let port = |name: &str, mac: [u8; 6]| {
        format!(
            "[[port]]\nname = \"{name}\"\ndevice = \"net_tap,iface=cable{name},mac={}\"\n\
             rx_descriptors = 64\ntx_descriptors = 64\n",
            MacAddr(mac)
        )
    };
    let text = format!("{}{}{}", dataplane_section(directory, 1), port("wan", WAN), port("lan", LAN));
    let config = write_text(directory, &text);
    let dataplane = Dataplane::start_with(directory, &config, &[], Some(netns.name()));
    // The socket is there before the ports are; an answer means that they are too.
    assert!(matches!(dataplane.ask(&Request::GetStatus), Response::Status(_)));
    for address in ADDRESSES {
        netns.ip(&format!("addr add {address}"));
    }
    dataplane
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn service(virtual_: &str, real: &str, mode: Mode) -> Service {
    let key = ServiceKey { protocol: Protocol::Tcp, virtual_: virtual_.parse().unwrap() };
    let real = RealServer { mode, ..RealServer::new(real.parse().unwrap()) };
    Service { real_servers: vec![real], ..Service::new(key, virtual_) }
}

fn syn4(to: [u8; 4], client_port: u16) -> Vec<u8> {
    let frame = TcpFrame {
        eth_dst: MacAddr(WAN),
        eth_src: MacAddr(CLIENT_MAC),
        src: ipv4::addr([10, 1, 0, 11].into()),
        dst: ipv4::addr(to.into()),
        src_port: U16::new(client_port),
        dst_port: U16::new(80),
        flags: tcp::flags::SYN,
        pad: true,
        ..TcpFrame::default()
    };
    frame.to_vec()
}

/// Tells the gateway who has `address`, as an answer to its question.
fn arp_reply(address: [u8; 4]) -> Vec<u8> {
    let reply = arp::Packet {
        hardware_type: U16::new(1),
        protocol_type: ethernet::ETHERTYPE_IPV4,
        hardware_len: 6,
        protocol_len: 4,
        operation: arp::OP_REPLY,
        sender_mac: MacAddr(REAL_MAC),
        sender_ip: ipv4::addr(address.into()),
        target_mac: MacAddr(LAN),
        target_ip: ipv4::addr([10, 2, 0, 1].into()),
    };
    wire::build::ethernet(MacAddr(LAN), MacAddr(REAL_MAC), ethernet::ETHERTYPE_ARP, reply.as_bytes())
}

/// The same for an IPv6 address: a solicited advertisement that overrides what is known.
fn advertisement(address: &str) -> Vec<u8> {
    let frame = EchoFrame6 {
        ip: Ipv6Base {
            eth_dst: MacAddr(LAN),
            eth_src: MacAddr(REAL_MAC),
            src: v6(address),
            dst: v6("2001:db8:2::1"),
            hop_limit: 255,
            ..Ipv6Base::default()
        },
        kind: icmpv6::TYPE_NEIGHBOUR_ADVERTISEMENT,
        // The flags "solicited" and "override" stand where an echo has its identifier.
        id: 0x6000,
        seq: 0,
        payload: [v6(address).as_slice(), &[2, 1], &REAL_MAC].concat(),
    };
    frame.to_vec()
}

fn ether_type(frame: &[u8]) -> U16 {
    wire::view::<ethernet::Header>(frame, 0).map_or(U16::ZERO, |header| header.ether_type)
}

fn asks_for(frame: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            ether_type(frame) == ethernet::ETHERTYPE_ARP
                && wire::view::<arp::Packet>(frame, 14).is_some_and(|arp| arp.target_ip == ipv4::addr(v4))
        }
        IpAddr::V6(v6) => {
            let icmp = 14 + ipv6::HEADER_LEN;
            frame.get(icmp) == Some(&icmpv6::TYPE_NEIGHBOUR_SOLICITATION)
                && frame.get(icmp + 8..icmp + 24) == Some(&v6.octets())
        }
    }
}

fn unresolved(response: &Response) -> u64 {
    let Response::Stats(stats) = response else { panic!("{response:?}") };
    stats.counters.iter().find(|counter| counter.name == "unresolved").unwrap().per_worker[0]
}

/// Sends one SYN towards a real server that nobody has asked for, answers the kernel's question, and returns the frame
/// that then comes out for the real server.
fn resolve(
    dataplane: &Dataplane,
    cables: (&Cable, &Cable),
    syn: &[u8],
    real: &str,
    answer: &[u8],
) -> Vec<u8> {
    let (wan, lan) = cables;
    let address: IpAddr = real.parse().unwrap();
    // The kernel asks because the real server is in force and its network is known.
    lan.wait_for(|frame| asks_for(frame, address), || ());
    let before = unresolved(&dataplane.ask(&Request::GetStats));
    wan.send(syn);
    dataplane.wait_for(&Request::GetStats, |stats| (unresolved(stats) == before + 1).then_some(()));
    // Again and again: to an advertisement that comes between two questions Linux does not listen.
    lan.wait_for(|frame| frame.starts_with(&REAL_MAC), || lan.send(answer))
}

#[test]
fn packets_wait_for_the_next_hop_of_their_mode_and_family() {
    let (directory, netns) = (tempfile::tempdir().unwrap(), Netns::new());
    let mut dataplane = start(directory.path(), &netns);
    let cables = (netns.cable("cablewan"), netns.cable("cablelan"));
    let tunnel = Tunnel { kind: TunnelKind::Ipip, source: "10.2.0.1".parse().unwrap() };
    let fullnat = Service {
        local_addresses: vec!["2001:db8:2::200".parse().unwrap()],
        ..service("[2001:db8:1::100]:80", "[2001:db8:2::11]:80", Mode::FullNat)
    };
    let services = vec![
        service("10.1.0.100:80", "10.2.0.11:80", Mode::Dr),
        service("10.1.0.101:80", "10.2.0.12:80", Mode::Tun(tunnel)),
        fullnat,
    ];
    let desired = DesiredState { generation: 1, services, ..DesiredState::default() };
    assert_eq!(dataplane.ask(&apply(desired)), Response::Applied { generation: 1 });
    let (wan, lan) = (&cables.0, &cables.1);
    let resolved = |syn: &[u8], real: &str, answer: &[u8]| resolve(&dataplane, (wan, lan), syn, real, answer);

    let direct = resolved(&syn4([10, 1, 0, 100], 40_000), "10.2.0.11", &arp_reply([10, 2, 0, 11]));
    assert_eq!((&direct[6..12], ether_type(&direct)), (&LAN[..], ethernet::ETHERTYPE_IPV4));
    let ip: &ipv4::Header = wire::view(&direct, 14).unwrap();
    assert_eq!(ipv4::to_addr(ip.dst).to_string(), "10.1.0.100");

    let tunnelled = resolved(&syn4([10, 1, 0, 101], 40_001), "10.2.0.12", &arp_reply([10, 2, 0, 12]));
    assert_eq!((&tunnelled[6..12], ether_type(&tunnelled)), (&LAN[..], ethernet::ETHERTYPE_IPV4));
    let (outer, inner): (&ipv4::Header, &ipv4::Header) =
        (wire::view(&tunnelled, 14).unwrap(), wire::view(&tunnelled, 34).unwrap());
    assert_eq!((ipv4::to_addr(outer.dst).to_string(), outer.protocol), ("10.2.0.12".to_owned(), 4));
    assert_eq!(ipv4::to_addr(inner.dst).to_string(), "10.1.0.101");

    let syn = TcpFrame6 {
        src: v6("2001:db8:1::11"),
        dst: v6("2001:db8:1::100"),
        tcp: TcpFrame {
            eth_dst: MacAddr(WAN),
            dst_port: U16::new(80),
            flags: tcp::flags::SYN,
            ..TcpFrame::default()
        },
        ..TcpFrame6::default()
    };
    let wide = resolved(&syn.to_vec(), "2001:db8:2::11", &advertisement("2001:db8:2::11"));
    assert_eq!((&wide[6..12], ether_type(&wide)), (&LAN[..], ethernet::ETHERTYPE_IPV6));
    let ip: &ipv6::Header = wire::view(&wide, 14).unwrap();
    assert_eq!((ip.src, ip.dst), (v6("2001:db8:2::200"), v6("2001:db8:2::11")));
    assert!(dataplane.stop(Signal::SIGTERM).success(), "{}", dataplane.log());
}

#[test]
fn a_twin_tells_its_mac_address_and_a_port_its_link() {
    let (directory, netns) = (tempfile::tempdir().unwrap(), Netns::new());
    let dataplane = start(directory.path(), &netns);
    let (wan, lan) = (netns.cable("cablewan"), netns.cable("cablelan"));
    assert_eq!(dataplane.ask(&apply(state(1))), Response::Applied { generation: 1 });
    let status = |wanted: &dyn Fn(&api::Status) -> bool| {
        dataplane.wait_for(&Request::GetStatus, |response| match response {
            Response::Status(status) if wanted(status) => Some(()),
            _ => None,
        });
    };

    let (new_wan, new_lan) = ([2, 0, 0, 0, 0xbb, 1], [2, 0, 0, 0, 0xbb, 2]);
    for (name, mac) in [("wan", new_wan), ("lan", new_lan)] {
        netns.ip(&format!("link set {name} address {}", MacAddr(mac)));
        status(&|status| status.ports.iter().any(|port| port.mac == MacAddr(mac).to_string()));
    }
    let mut syn = syn4([10, 1, 0, 100], 40_000);
    syn[..6].copy_from_slice(&new_wan);
    // The table may be a moment behind the status.
    let out = lan.wait_for(|frame| frame.starts_with(&REAL_MAC), || wan.send(&syn));
    assert_eq!(out[6..12], new_lan);

    assert!(netns.ip("link show lan").contains("LOWER_UP"));
    for (word, mark) in [("down", "NO-CARRIER"), ("up", "LOWER_UP")] {
        netns.ip(&format!("link set cablelan {word}"));
        status(&|status| {
            let said = status.warnings.iter().any(|warning| warning.starts_with("port lan: no link"));
            status.ports[1].link_up == (word == "up") && said == (word == "down")
        });
        assert!(netns.ip("link show lan").contains(mark));
    }
}

#[test]
fn jumbo_frames_pass_the_twin_both_ways() {
    let (directory, netns) = (tempfile::tempdir().unwrap(), Netns::new());
    let at = directory.path().display();
    let text = format!(
        "{}[[port]]\nname = \"wan\"\nmtu = 9000\n\
         device = \"net_pcap,rx_pcap={at}/wan.pcap,tx_pcap={at}/wan-out.pcap,infinite_rx=1\"\n\
         rx_descriptors = 64\ntx_descriptors = 64\n",
        dataplane_section(directory.path(), 1)
    );
    let config = write_text(directory.path(), &text);
    // Local experiments (IEEE 802): for the kernel, which ignores them.
    let frames = [60, 9014, 1514].map(|len| {
        wire::build::ethernet(BROADCAST, MacAddr(CLIENT_MAC), U16::new(0x88b5), &vec![0; len - 14])
    });
    let mut dataplane = Dataplane::start_with(directory.path(), &config, &frames, Some(netns.name()));
    dataplane.wait_for(&Request::GetStatus, |response| match response {
        Response::Status(status) if status.ports[0].punted > 100 => Some(()),
        _ => None,
    });
    assert_eq!(drops(&dataplane.ask(&Request::GetStats), "twin_full"), [0]);

    assert!(netns.ip("link show wan").contains("mtu 9000"));
    netns.ip("addr add 10.1.0.1/24 dev wan");
    netns.ip(&format!("neigh add 10.1.0.11 lladdr {} dev wan", MacAddr(CLIENT_MAC)));
    let injected = || match dataplane.ask(&Request::GetStatus) {
        Response::Status(status) => status.ports[0].injected,
        other => panic!("{other:?}"),
    };
    let before = injected();
    netns.send_datagram("10.1.0.11:9", 8_900);
    dataplane.wait_for(&Request::GetStatus, |_| (injected() > before).then_some(()));
    dataplane.wait_for(&Request::GetStatus, |response| match response {
        Response::Status(status) if status.ports[0].tx_packets >= status.ports[0].injected => Some(()),
        _ => None,
    });
    assert!(dataplane.stop(Signal::SIGTERM).success(), "{}", dataplane.log());
    let sent = read_pcap(&directory.path().join("wan-out.pcap"));
    // The whole datagram in one frame, its checksum finished by the kernel.
    let is_it = |frame: &&Vec<u8>| frame.len() == 14 + 20 + 8 + 8_900;
    let frame = sent.iter().find(is_it).unwrap();
    let ip: &ipv4::Header = wire::view(frame, 14).unwrap();
    assert!(wire::checksum::verify_udp_v4(ip.src, ip.dst, &frame[34..]), "{}", wire::build::summary(frame));
}

#[test]
fn a_route_with_two_next_hops_leaves_the_one_whose_twin_is_down() {
    let (directory, netns) = (tempfile::tempdir().unwrap(), Netns::new());
    let _dataplane = start(directory.path(), &netns);
    let (wan, lan) = (netns.cable("cablewan"), netns.cable("cablelan"));
    netns.ip("route add 10.9.0.0/24 nexthop via 10.1.0.254 dev wan nexthop via 10.2.0.254 dev lan");
    wan.wait_for(|frame| asks_for(frame, [10, 1, 0, 254].into()), || ());
    netns.ip("link set wan down");
    lan.wait_for(|frame| asks_for(frame, [10, 2, 0, 254].into()), || ());
}
