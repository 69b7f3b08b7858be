//! What only IPv6 has: mapped addresses, extension headers, its own limits and errors.

use std::net::{Ipv6Addr, SocketAddr};

use wire::build::{Extension, with_extensions};
use wire::{icmpv6, ipv6};

use super::families::{Case, Packet};
use super::*;

const TCP6: Case = Case { mode: Mode::FullNat, client_v6: true, real_v6: true, udp: false };
const NAT64: Case = Case { real_v6: false, ..TCP6 };

fn mapped(v4: Ipv4Addr) -> IpAddr {
    v4.to_ipv6_mapped().into()
}

#[test]
fn mapped_addresses_open_nothing_and_reach_no_connection_of_ipv4() {
    for udp in [false, true] {
        let case = Case { udp, client_v6: false, real_v6: false, ..TCP6 };
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let memory = rig.memory();
        let wide = |endpoint: SocketAddr| match endpoint.ip() {
            IpAddr::V4(v4) => SocketAddr::new(mapped(v4), endpoint.port()),
            IpAddr::V6(_) => endpoint,
        };
        let open = case.sent(5555);
        let new = Packet { flags: if udp { 0 } else { flags::SYN }, ..case.sent(6666) };
        let reply = case.answered(&got);
        for packet in [open, new, reply] {
            let packet = Packet { src: wide(packet.src), dst: wide(packet.dst), ..packet };
            let (verdict, _) = rig.send(CLIENT_SIDE, &packet.frame());
            assert_eq!(verdict, Verdict::Drop(DropReason::SourceInvalid), "{packet:?}");
        }
        assert_eq!(rig.memory(), memory);
    }
}

#[test]
fn a_mapped_source_opens_no_connection_to_an_ipv6_service() {
    let mut rig = TCP6.rig(10);
    let src = SocketAddr::new(mapped(CLIENT), 5555);
    let syn = Packet { src, flags: flags::SYN, ..TCP6.sent(5555) };
    assert_eq!(rig.send(CLIENT_SIDE, &syn.frame()).0, Verdict::Drop(DropReason::SourceInvalid));
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_syn_from_an_ipv6_address_that_cannot_be_a_clients_opens_nothing() {
    let mut rig = TCP6.rig(10);
    let sources = [
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        TCP6.virtual_().ip(),
        TCP6.local(),
    ];
    for source in sources {
        let syn = Packet { src: SocketAddr::new(source, 5), flags: flags::SYN, ..TCP6.sent(5) };
        let (verdict, _) = rig.send(CLIENT_SIDE, &syn.frame());
        assert_eq!(verdict, Verdict::Drop(DropReason::SourceInvalid), "{source}");
    }
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn extension_headers_stay_within_ipv6_and_go_on_the_way_to_ipv4() {
    let extensions = [Extension::empty(ipv6::NEXT_HOP_BY_HOP), Extension::empty(ipv6::NEXT_DESTINATION)];
    for case in [TCP6, NAT64] {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let sent = Packet { payload: b"hello".to_vec(), ..case.sent(5555) };
        let frame = with_extensions(&sent.frame(), &extensions);
        let (verdict, mut out) = rig.send(CLIENT_SIDE, &frame);
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE), "{case:?}");
        if case.real_v6 {
            assert_eq!(out[20], ipv6::NEXT_HOP_BY_HOP);
            assert_eq!(out[54..70], frame[54..70]);
            // Without them it must be what `Packet` can read.
            out[20] = ipv4::PROTO_TCP;
            let len = u16::from_be_bytes([out[18], out[19]]) - 16;
            out[18..20].copy_from_slice(&len.to_be_bytes());
            out.drain(54..70);
        }
        let got = Packet::read(&out);
        assert_eq!(got.payload, b"hello", "{case:?}");
        assert!(toa::find(&got.options).is_some(), "{case:?}");
    }
}

#[test]
fn a_routing_header_that_leads_elsewhere_is_dropped() {
    let mut rig = TCP6.rig(10);
    TCP6.open(&mut rig, 5555);
    let mut frame = with_extensions(&TCP6.sent(5555).frame(), &[Extension::empty(ipv6::NEXT_ROUTING)]);
    assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Forward(SERVER_SIDE));
    // Segments left.
    frame[57] = 1;
    assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(DropReason::SourceRouted));
}

#[test]
fn a_packet_over_the_mtu_is_answered_with_packet_too_big() {
    let mut rig = TCP6.rig(10);
    TCP6.open(&mut rig, 5555);
    let sent = Packet { payload: vec![7; 1441], ..TCP6.sent(5555) };
    let (verdict, out) = rig.send(CLIENT_SIDE, &sent.frame());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let ip: &ipv6::Header = wire::view(&out, 14).unwrap();
    assert_eq!((IpAddr::from(ip.src), IpAddr::from(ip.dst)), (sent.dst.ip(), sent.src.ip()));
    let message: &icmp::Header = wire::view(&out, 54).unwrap();
    assert_eq!((message.kind, message.rest.get()), (icmpv6::TYPE_PACKET_TOO_BIG, 1500));
    assert_eq!(checksum::icmp_v6(&ip.src, &ip.dst, &out[54..]), message.checksum);
}

#[test]
fn what_grows_on_its_way_to_ipv6_is_told_the_length_that_fits() {
    let case = Case { client_v6: false, ..TCP6 };
    let mut rig = case.rig(10);
    case.open(&mut rig, 5555);
    let fits = Packet { payload: vec![7; 1440], ..case.sent(5555) };
    assert_eq!(rig.send(CLIENT_SIDE, &fits.frame()).0, Verdict::Forward(SERVER_SIDE));
    let (verdict, out) = rig.send(CLIENT_SIDE, &Packet { payload: vec![7; 1441], ..case.sent(5555) }.frame());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((message.kind, message.code, message.next_hop_mtu()), (3, 4, 1480));
}
