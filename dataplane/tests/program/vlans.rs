//! Ports whose networks are VLANs.

use crate::common::{Dataplane, WAN_MAC, read_pcap, write_config};
use crate::forwarding::{CLIENT_MAC, apply, drops, state, syn};
use crate::netns::Netns;
use api::{ConnectionQuery, Request, Response};
use nix::sys::signal::Signal;
use wire::build::{ethernet, tagged};
use wire::{IntoBytes, MacAddr, U16, arp, ethernet as eth, ipv4};

/// A client asks for the gateway's own address.
fn who_has_the_gateway() -> Vec<u8> {
    let question = arp::Packet {
        hardware_type: U16::new(1),
        protocol_type: eth::ETHERTYPE_IPV4,
        hardware_len: 6,
        protocol_len: 4,
        operation: arp::OP_REQUEST,
        sender_mac: MacAddr(CLIENT_MAC),
        sender_ip: ipv4::addr([10, 1, 0, 11].into()),
        target_mac: MacAddr([0; 6]),
        target_ip: ipv4::addr([10, 1, 0, 1].into()),
    };
    ethernet(MacAddr([0xff; 6]), MacAddr(CLIENT_MAC), eth::ETHERTYPE_ARP, question.as_bytes())
}

/// The frame without its tag, and the tag's number.
fn untagged(frame: &[u8]) -> (Vec<u8>, u16) {
    assert_eq!(frame[12..14], [0x81, 0], "{}", wire::build::summary(frame));
    ([&frame[..12], &frame[16..]].concat(), u16::from_be_bytes([frame[14], frame[15]]))
}

#[test]
fn each_port_puts_the_tag_of_its_vlan_on_and_takes_it_off() {
    let (directory, netns) = (tempfile::tempdir().unwrap(), Netns::new());
    let config = write_config(directory.path(), 2);
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replacen("kernel_interface = \"\"", "kernel_interface = \"wan\"\nvlan = 5", 1).replacen(
        "kernel_interface = \"\"",
        "kernel_interface = \"\"\nvlan = 6",
        1,
    );
    std::fs::write(&config, text).unwrap();
    let other = ethernet(MacAddr(WAN_MAC), MacAddr(CLIENT_MAC), U16::new(0x88b5), &[0; 46]);
    let frames = [tagged(&syn(40_000), 5), syn(40_001), tagged(&other, 7), tagged(&who_has_the_gateway(), 5)];
    let mut dataplane = Dataplane::start_with(directory.path(), &config, &frames, Some(netns.name()));
    assert_eq!(dataplane.ask(&apply(state(1))), Response::Applied { generation: 1 });
    netns.ip("addr add 10.1.0.1/24 dev wan");
    dataplane.wait_for(&Request::GetStatus, |response| match response {
        Response::Status(status) if status.ports[1].tx_packets > 100 && status.ports[0].tx_packets > 10 => {
            Some(())
        }
        _ => None,
    });
    let query = Request::GetConnections(ConnectionQuery { limit: 100, ..ConnectionQuery::default() });
    let Response::Connections(page) = dataplane.ask(&query) else { panic!("no connections") };
    let clients: Vec<u16> = page.connections.iter().map(|connection| connection.client.port()).collect();
    assert_eq!(clients, [40_000], "the frame without a tag is not of this network");
    let stats = dataplane.ask(&Request::GetStats);
    assert!(drops(&stats, "vlan_untagged").iter().sum::<u64>() > 0);
    let Response::Stats(counted) = &stats else { panic!("{stats:?}") };
    let punted = counted.counters.iter().find(|counter| counter.name == "punted_other_ethertype").unwrap();
    assert!(punted.per_worker.iter().sum::<u64>() > 0, "frames of other VLANs are for the kernel");
    assert!(dataplane.stop(Signal::SIGTERM).success(), "{}", dataplane.log());

    for frame in read_pcap(&directory.path().join("lan-out.pcap")) {
        let (plain, id) = untagged(&frame);
        let ip: &ipv4::Header = wire::view(&plain, 14).unwrap();
        assert_eq!((id, ipv4::to_addr(ip.dst).to_string()), (6, "10.2.0.11".to_owned()));
    }
    let sent: Vec<_> =
        read_pcap(&directory.path().join("wan-out.pcap")).iter().map(|f| untagged(f)).collect();
    assert!(sent.iter().all(|(_, id)| *id == 5));
    let is_answer = |(plain, _): &&(Vec<u8>, u16)| {
        let header: &eth::Header = wire::view(plain, 0).unwrap();
        header.dst == MacAddr(CLIENT_MAC)
            && header.ether_type == eth::ETHERTYPE_ARP
            && wire::view::<arp::Packet>(plain, 14).is_some_and(|arp| arp.operation == arp::OP_REPLY)
    };
    assert!(sent.iter().any(|frame| is_answer(&frame)), "the kernel understood the question");
}
