//! Frames that are no service's: the kernel's, or nobody's.

use wire::build::{EchoFrame, EchoFrame6, Ipv4Base, Ipv6Base, UdpFrame, UdpFrame6, ethernet};
use wire::tcp::flags::ACK;
use wire::{MacAddr, U16, ipv4};

use crate::case::{Case, Service, Step, step};
use crate::conn::Conn;
use crate::frame::{CLIENT, CLIENT_MAC, CLIENT6, Frame, Port, VIP, VIP6, WAN_MAC};
use crate::load::{client_ack, real_ack, seg, syn};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "unknown_destinations",
            about: "TCP and UDP that belong to no service or connection are the kernel's",
            number: 50,
            conns: 1,
            service: Service::TOA,
            steps: unknown,
        },
        Case {
            name: "icmp",
            about: "ICMP that is no error is the kernel's (for now)",
            number: 51,
            conns: 1,
            service: Service::TOA,
            steps: icmp,
        },
        Case {
            name: "other_protocols",
            about: "ARP, VLAN tags, IPv6, multicast and foreign stations",
            number: 52,
            conns: 1,
            service: Service::TOA,
            steps: other_protocols,
        },
    ]
}

fn wan(bytes: Vec<u8>) -> Frame {
    Frame { port: Port::Wan, bytes }
}

fn unknown(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let to = |virtual_| Conn { virtual_, ..conn.clone() };
    let other_port = to((VIP.into(), 9));
    let other_address = to(([10, 1, 0, 101].into(), conn.virtual_.1));
    let udp = UdpFrame { ip: base(), dst_port: U16::new(conn.virtual_.1), ..UdpFrame::default() };
    vec![
        step("a SYN to another port of the address", vec![other_port.client_sends(&syn())]).punted("local"),
        step("a SYN to another address", vec![other_address.client_sends(&syn())]).punted("local"),
        step("an ACK without a connection", vec![conn.client_sends(&client_ack(0, 0))]).punted("stray"),
        step("a SYN-ACK of the real server without one", vec![conn.real_sends(&real_ack(0, 0))])
            .punted("stray"),
        step("a SYN to the local address", vec![conn.real_sends(&syn())]).punted("stray"),
        step("a RST without a connection", vec![conn.client_sends(&seg(ACK, 5, 6).rst())]).punted("stray"),
        step("UDP to the service's address and port", vec![wan(udp.to_vec())]).punted("local"),
    ]
}

fn base() -> Ipv4Base {
    Ipv4Base {
        eth_dst: WAN_MAC,
        eth_src: CLIENT_MAC,
        src: ipv4::addr(CLIENT),
        dst: ipv4::addr(VIP),
        ..Ipv4Base::default()
    }
}

/// What no connection asks for, and what is no error.
fn icmp(_: &[Conn]) -> Vec<Step> {
    let echo = EchoFrame { ip: base(), ..EchoFrame::default() };
    let echo6 = EchoFrame6 { ip: base6(), ..EchoFrame6::default() };
    let reply = EchoFrame6 { kind: 129, ..echo6.clone() };
    vec![
        step("an echo request", vec![wan(echo.to_vec())]).punted("icmp"),
        step("an ICMPv6 echo request and a reply", vec![wan(echo6.to_vec()), wan(reply.to_vec())])
            .punted("ipv6"),
        step("an ICMP header that is cut, and IP says so", vec![wan(base_of(1).frame(&[3, 4, 0, 0]))])
            .dropped("l4_truncated"),
    ]
}

fn base_of(protocol: u8) -> Ipv4Base {
    Ipv4Base { protocol, ..base() }
}

fn base6() -> Ipv6Base {
    Ipv6Base {
        eth_dst: WAN_MAC,
        eth_src: CLIENT_MAC,
        src: CLIENT6.octets(),
        dst: VIP6.octets(),
        ..Ipv6Base::default()
    }
}

fn other_protocols(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    // RFC 826: Ethernet, IPv4, lengths, operation, sender, target; padded to 60 bytes.
    let arp = |to: MacAddr, operation: u8, target: MacAddr| {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
        packet.extend([&CLIENT_MAC.0[..], &CLIENT.octets(), &target.0, &VIP.octets(), &[0; 18]].concat());
        wan(ethernet(to, CLIENT_MAC, U16::new(0x0806), &packet))
    };
    let (who_has, is_at) = (arp(MacAddr::BROADCAST, 1, MacAddr::ZERO), arp(WAN_MAC, 2, WAN_MAC));
    let syn_to = |mac: MacAddr| conn.client_sends(&syn()).edit(|bytes| bytes[..6].copy_from_slice(&mac.0));
    let tagged = conn.client_sends(&syn()).edit(|bytes| drop(bytes.splice(12..12, [0x81, 0, 0, 5])));
    let twice = tagged.clone().edit(|bytes| drop(bytes.splice(12..12, [0x88, 0xa8, 0, 6])));
    let six = wan(UdpFrame6 { ip: base6(), ..UdpFrame6::default() }.to_vec());
    let six_tagged = six.clone().edit(|bytes| drop(bytes.splice(12..12, [0x81, 0, 0, 5])));
    let wrong_version = |version: u8| six.clone().edit(|bytes| bytes[14] = version << 4);
    let cut = |len: usize| six.clone().edit(|bytes| bytes.truncate(len));
    let sctp = wan(base_of(132).frame(&[0; 20]));
    let solicitation = MacAddr([0x33, 0x33, 0xff, 0, 1, 0]);
    let to_group = six.clone().edit(|bytes| bytes[..6].copy_from_slice(&solicitation.0));
    let lldp = ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]), CLIENT_MAC, U16::new(0x88cc), &[0; 46]);
    let vrrp = MacAddr([1, 0, 0x5e, 0, 0, 0x12]);
    vec![
        step("ARP: who has the virtual address?", vec![who_has]).punted("arp"),
        step("ARP: an answer to us", vec![is_at]).punted("arp"),
        step("a SYN with one VLAN tag and with two", vec![tagged, twice]).punted("other_ethertype"),
        step("UDP over IPv6 with a VLAN tag", vec![six_tagged]).punted("other_ethertype"),
        step("LLDP", vec![wan(lldp)]).punted("other_ethertype"),
        step("UDP over IPv6 to no service", vec![six.clone()]).punted("local"),
        step("IPv6 of versions that are none", [0, 4, 5, 7, 15].map(wrong_version).to_vec())
            .dropped("ip_header_invalid"),
        step("IPv6 that is cut", [14, 53, 54, six.bytes.len() - 1].map(cut).to_vec()).dropped("ip_truncated"),
        step("SCTP", vec![sctp]).punted("local"),
        step("IPv6 to a group of stations", vec![to_group]).punted("ipv6"),
        step("a SYN to a multicast station", vec![syn_to(vrrp)]).punted("multicast"),
        step("a SYN to all stations", vec![syn_to(MacAddr::BROADCAST)]).punted("multicast"),
        step("a SYN to another station", vec![syn_to(MacAddr([2, 9, 9, 9, 9, 9]))]).dropped("not_our_mac"),
        step("a SYN to no station", vec![syn_to(MacAddr::ZERO)]).dropped("not_our_mac"),
    ]
}
