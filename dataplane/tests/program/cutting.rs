//! Packets that are too long for the port that they leave through.

use std::collections::BTreeMap;

use crate::common::{Dataplane, LAN_MAC, WAN_MAC, read_pcap, write_config};
use crate::forwarding::{CLIENT_MAC, REAL_MAC, apply, drops, state};
use api::{Protocol, Request, Response};
use nix::sys::signal::Signal;
use wire::build::{Ipv4Base, UdpFrame};
use wire::{MacAddr, U16, checksum, ethernet, ipv4};

const PAYLOAD_LEN: usize = 1_200;
const MTU: usize = 576;

/// A datagram that may be cut, and is distinguished by its identification.
fn datagram(id: u16) -> Vec<u8> {
    let frame = UdpFrame {
        ip: Ipv4Base {
            eth_dst: MacAddr(WAN_MAC),
            eth_src: MacAddr(CLIENT_MAC),
            src: ipv4::addr([10, 1, 0, 11].into()),
            dst: ipv4::addr([10, 1, 0, 100].into()),
            id: U16::new(id),
            flags_fragment: U16::ZERO,
            ..Ipv4Base::default()
        },
        dst_port: U16::new(80),
        payload: (0..PAYLOAD_LEN).map(|n| (n * 7) as u8).collect(),
        ..UdpFrame::default()
    };
    frame.to_vec()
}

#[test]
fn a_datagram_that_does_not_fit_leaves_in_fragments_that_make_it_whole_again() {
    let directory = tempfile::tempdir().unwrap();
    let config = write_config(directory.path(), 1);
    let text = std::fs::read_to_string(&config).unwrap();
    let (wan, lan) = text.split_once("name = \"lan\"").unwrap();
    std::fs::write(&config, format!("{wan}name = \"lan\"\nmtu = {MTU}{lan}")).unwrap();
    let mut dataplane = Dataplane::start_with(directory.path(), &config, &[datagram(7)], None);
    let mut state = state(1);
    state.services[0].key.protocol = Protocol::Udp;
    assert_eq!(dataplane.ask(&apply(state)), Response::Applied { generation: 1 });
    dataplane.wait_for(&Request::GetStatus, |response| match response {
        Response::Status(status) if status.ports[1].tx_packets > 100 => Some(()),
        _ => None,
    });
    let stats = dataplane.ask(&Request::GetStats);
    assert_eq!(drops(&stats, "cut_failed"), [0]);
    assert!(dataplane.stop(Signal::SIGTERM).success(), "{}", dataplane.log());

    // Datagrams follow each other whole: the pieces of one stand together, in order.
    let mut pieces = BTreeMap::new();
    let mut whole = 0;
    for frame in read_pcap(&directory.path().join("lan-out.pcap")) {
        let header: &ethernet::Header = wire::view(&frame, 0).unwrap();
        assert_eq!((header.src, header.dst), (MacAddr(LAN_MAC), MacAddr(REAL_MAC)));
        let packet = &frame[ethernet::HEADER_LEN..];
        let ip: &ipv4::Header = wire::view(packet, 0).unwrap();
        assert!(packet.len() <= MTU && ip.id.get() == 7 && checksum::verify_ipv4(&packet[..20]));
        pieces.insert(ip.fragment_offset(), packet[20..].to_vec());
        if !ip.more_fragments() {
            let transport = std::mem::take(&mut pieces).into_values().collect::<Vec<_>>().concat();
            assert_eq!(transport.len(), 8 + PAYLOAD_LEN);
            assert!(checksum::verify_udp_v4(ip.src, ip.dst, &transport));
            whole += 1;
        }
    }
    assert!(whole > 10, "{whole}");
}
