//! The gateway on network cards that hash, in a guest: what the cards bring never has to be handed over.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tollgate_tests::gateway_guest::{self, sum_of_workers};
use tollgate_tests::rss_guest::{Card, Guest, Side};
use wire::build::{Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6};
use wire::{MacAddr, U16, U32, ipv4, ipv6, tcp, udp, view};

/// Connections of each kind.
const FLOWS: u16 = 64;
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const REAL_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);

const POOL: &str = r#"
[[local_pool]]
name = "inside"
port = "lan"
addresses = ["10.2.0.200", "2001:db8:2::200"]
"#;

/// A kind of connections: a protocol over a family.
#[derive(Debug, Clone, Copy)]
struct Kind {
    wide: bool,
    udp: bool,
}

const KINDS: [Kind; 4] = [
    Kind { wide: false, udp: false },
    Kind { wide: false, udp: true },
    Kind { wide: true, udp: false },
    Kind { wide: true, udp: true },
];

impl Kind {
    fn protocol(self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    fn address(self, net: u8, host: u16) -> IpAddr {
        let text = if self.wide { format!("2001:db8:{net}::{host}") } else { format!("10.{net}.0.{host}") };
        text.parse().unwrap()
    }

    fn client(self, flow: u16) -> SocketAddr {
        SocketAddr::new(self.address(1, 11), 20_000 + 7 * flow)
    }

    fn virtual_(self) -> SocketAddr {
        SocketAddr::new(self.address(1, 100), 80)
    }

    fn real(self) -> SocketAddr {
        SocketAddr::new(self.address(2, 11), 8080)
    }

    /// A service of this kind, and how its client and its real server are reached.
    fn config(self) -> String {
        let (protocol, virtual_, real, len) =
            (self.protocol(), self.virtual_(), self.real(), if self.wide { 64 } else { 24 });
        let mut text = format!(
            "[[service]]\nlisten = \"{virtual_}\"\nprotocol = \"{protocol}\"\nport = \"wan\"\n\
             [[service.real_server]]\naddress = \"{real}\"\n"
        );
        if self.udp {
            return text;
        }
        for (net, port, mac) in [(1, "wan", CLIENT_MAC), (2, "lan", REAL_MAC)] {
            let (host, network) = (self.address(net, 11), self.address(net, 0));
            text += &format!(
                "[[neighbour]]\nport = \"{port}\"\naddress = \"{host}\"\nmac = \"{mac}\"\n\
                 [[route]]\nnetwork = \"{network}/{len}\"\nvia = \"on-link\"\nport = \"{port}\"\n"
            );
        }
        text
    }

    /// What goes to a card of the gateway: of TCP a segment with these flags.
    fn frame(self, to: Side, (src, dst): (SocketAddr, SocketAddr), flags: u8) -> Vec<u8> {
        let (eth_dst, eth_src) = (MacAddr(to.mac()), if to == Side::Wan { CLIENT_MAC } else { REAL_MAC });
        let (src_port, dst_port) = (U16::new(src.port()), U16::new(dst.port()));
        // Both sides count from 0; a SYN counts.
        let seq = U32::new(u32::from(flags & tcp::flags::SYN == 0));
        let ack = U32::new(u32::from(flags & tcp::flags::ACK != 0));
        let mut segment =
            TcpFrame { eth_dst, eth_src, src_port, dst_port, seq, ack, flags, ..TcpFrame::default() };
        match (src.ip(), dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (ipv4::addr(src), ipv4::addr(dst));
                (segment.src, segment.dst) = (src, dst);
                let ip = Ipv4Base { eth_dst, eth_src, src, dst, ..Ipv4Base::default() };
                let datagram = UdpFrame { ip, src_port, dst_port, ..UdpFrame::default() };
                if self.udp { datagram.to_vec() } else { segment.to_vec() }
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (src, dst) = (src.octets(), dst.octets());
                let ip = Ipv6Base { eth_dst, eth_src, src, dst, ..Ipv6Base::default() };
                let datagram = UdpFrame6 { ip, src_port, dst_port, ..UdpFrame6::default() };
                let segment = TcpFrame6 { src, dst, hop_limit: 64, tcp: segment };
                if self.udp { datagram.to_vec() } else { segment.to_vec() }
            }
            _ => Vec::new(),
        }
    }
}

/// Source and destination of a frame.
fn endpoints(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, l4): ((IpAddr, IpAddr), usize) = if frame.get(12..14)? == [0x86, 0xdd] {
        let ip: &ipv6::Header = view(frame, 14)?;
        ((ip.src.into(), ip.dst.into()), 14 + ipv6::HEADER_LEN)
    } else {
        let ip: &ipv4::Header = view(frame, 14)?;
        ((ipv4::to_addr(ip.src).into(), ipv4::to_addr(ip.dst).into()), 14 + ip.header_len())
    };
    // The ports of TCP stand where those of UDP do.
    let ports: &udp::Header = view(frame, l4)?;
    let (src, dst) = addresses;
    Some((SocketAddr::new(src, ports.src_port.get()), SocketAddr::new(dst, ports.dst_port.get())))
}

/// Opens connections of a kind; every answer must reach its client. For TCP the handshake is done.
fn open(guest: &mut Guest, kind: Kind) -> Result<()> {
    let (syn, syn_ack) = (tcp::flags::SYN, tcp::flags::SYN | tcp::flags::ACK);
    let first = |flow| kind.frame(Side::Wan, (kind.client(flow), kind.virtual_()), syn);
    let inside = guest.pass(Side::Wan, &(0..FLOWS).map(first).collect::<Vec<_>>())?;
    let mut locals = BTreeSet::new();
    let mut answers = Vec::new();
    for frame in &inside {
        let (local, real) = endpoints(frame).context("a frame without endpoints")?;
        ensure!(real == kind.real(), "a packet for {real}");
        ensure!(locals.insert(local), "{local} twice");
        answers.push(kind.frame(Side::Lan, (real, local), syn_ack));
    }
    let outside = guest.pass(Side::Lan, &answers)?;
    let answered: Option<BTreeSet<_>> = outside.iter().map(|frame| endpoints(frame)).collect();
    let wanted = (0..FLOWS).map(|flow| (kind.virtual_(), kind.client(flow))).collect();
    assert_eq!(answered, Some(wanted), "{kind:?}");
    let last = |flow| kind.frame(Side::Wan, (kind.client(flow), kind.virtual_()), tcp::flags::ACK);
    guest.pass(Side::Wan, &(0..FLOWS).map(last).collect::<Vec<_>>())?;
    Ok(())
}

#[test]
fn virtio_brings_every_packet_to_its_owner() -> Result<()> {
    every_packet_reaches_its_owner(Card::Virtio)
}

#[test]
fn igb_brings_every_packet_to_its_owner() -> Result<()> {
    every_packet_reaches_its_owner(Card::Igb)
}

fn every_packet_reaches_its_owner(card: Card) -> Result<()> {
    let mut guest = Guest::start(card)?;
    for workers in [2, 4] {
        let services: String = KINDS.iter().map(|kind| kind.config()).collect();
        let config = gateway_guest::config(workers, "rss", ["WAN", "LAN"], &format!("{POOL}{services}"));
        guest.start_gateway(&config)?;
        for kind in KINDS {
            open(&mut guest, kind)?;
        }
        let status = guest.gateway.status()?;
        assert_eq!(
            (&status["dataplane"]["steering"], &status["dataplane"]["steering_note"]),
            (&"rss".into(), &"".into())
        );
        let count = u64::from(FLOWS) * KINDS.len() as u64;
        for (name, wanted) in [
            ("connections", count),
            ("embryonic", 0),
            ("rx_packets", 3 * count),
            ("misdirected", 0),
            ("handed_over", 0),
        ] {
            assert_eq!(sum_of_workers(&status, name)?, wanted, "{name}");
        }
        let used = status["dataplane"]["workers"].as_array().unwrap().iter();
        assert!(used.clone().all(|worker| worker["connections"].as_u64() > Some(0)), "{status:#}");
        assert_eq!(used.count(), workers);
        guest.gateway.stop_gateway()?;
    }
    Ok(())
}
