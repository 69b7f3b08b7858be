//! What opens no connection: faults, strays, what is the kernel's, and the answers to it.

use super::*;

#[test]
fn a_syn_from_an_address_that_cannot_be_a_clients_opens_nothing() {
    let mut rig = Rig::new();
    let sources =
        [[224, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 0], [127, 0, 0, 1], VIP.octets(), LIP.octets()];
    for source in sources {
        let frame = TcpFrame { src: u32be(source.into()), ..syn(5555) }.to_vec();
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(DropReason::SourceInvalid), "{source:?}");
    }
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_syn_at_the_end_of_its_ttl_opens_nothing() {
    let mut rig = Rig::new();
    let (verdict, _) = rig.send(CLIENT_SIDE, &TcpFrame { ttl: 1, ..syn(5555) }.to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_packet_over_the_mtu_is_answered_with_fragmentation_needed() {
    let mut rig = Rig::new();
    rig.open(5555);
    let giant = TcpFrame { payload: vec![7; 1461], ..from_client(5555) }.to_vec();
    let (verdict, out) = rig.send(CLIENT_SIDE, &giant);
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let ip: &ipv4::Header = wire::view(&out, 14).unwrap();
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((ip.src, ip.dst), (u32be(VIP), u32be(CLIENT)));
    assert_eq!((message.kind, message.code, message.next_hop_mtu()), (3, 4, 1500));
    assert!(checksum::verify_ipv4(&out[14..34]));
    assert_eq!(message.checksum, checksum::icmp(&out[34..]));
    assert_eq!(out.len(), 14 + 576);
    assert_eq!(out[42..], giant[14..14 + 548]);
}

#[test]
fn a_packet_at_the_end_of_its_ttl_is_answered_with_time_exceeded() {
    let mut rig = Rig::new();
    rig.open(5555);
    let (verdict, out) = rig.send(CLIENT_SIDE, &TcpFrame { ttl: 1, ..from_client(5555) }.to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((message.kind, message.code), (11, 0));
}

#[test]
fn syn_to_unknown_vip_is_punted() {
    let mut rig = Rig::new();
    let frame = TcpFrame { dst: u32be(Ipv4Addr::new(10, 1, 0, 101)), ..syn(1) };
    assert_eq!(rig.send(CLIENT_SIDE, &frame.to_vec()).0, Verdict::Punt(PuntClass::Local));
    let frame = TcpFrame { dst_port: U16::new(81), ..syn(1) };
    assert_eq!(rig.send(CLIENT_SIDE, &frame.to_vec()).0, Verdict::Punt(PuntClass::Local));
}

#[test]
fn segments_of_no_connection_are_strays() {
    let mut rig = Rig::new();
    for bits in [flags::ACK, flags::RST, flags::FIN | flags::ACK, flags::SYN | flags::ACK] {
        let frame = TcpFrame { flags: bits, ..from_client(1) };
        assert_eq!(rig.send(CLIENT_SIDE, &frame.to_vec()).0, Verdict::Punt(PuntClass::Stray));
    }
    let reply = from_real(4242).to_vec();
    assert_eq!(rig.send(SERVER_SIDE, &reply).0, Verdict::Punt(PuntClass::Stray));
    assert_eq!(rig.worker.connections(), 0);
}

#[test]
fn a_corrupt_syn_opens_nothing() {
    let mut rig = Rig::new();
    for at in [14 + 8, 34 + 4] {
        let mut frame = syn(5555).to_vec();
        frame[at] ^= 0x10;
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(DropReason::ChecksumInvalid));
    }
    assert_eq!(rig.dropped(DropReason::ChecksumInvalid), 2);
}

#[test]
fn a_corrupt_segment_leaves_corrupt() {
    let mut rig = Rig::new();
    rig.open(5555);
    let mut frame = TcpFrame { payload: b"hello".to_vec(), ..from_client(5555) }.to_vec();
    *frame.last_mut().unwrap() ^= 0x40;
    let (verdict, out) = rig.send(CLIENT_SIDE, &frame);
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
    let ip: &ipv4::Header = wire::view(&out, 14).unwrap();
    assert!(!checksum::verify_tcp_v4(ip.src, ip.dst, &out[34..]));
}

#[test]
fn truncated_and_malformed_frames_are_counted_drops() {
    let mut rig = Rig::new();
    let whole = syn(5555).to_vec();
    let cut = |len: usize| whole[..len].to_vec();
    let edit = |at: usize, value: u8| {
        let mut frame = whole.clone();
        frame[at] = value;
        frame
    };
    let cases = [
        (cut(0), DropReason::FrameTooShort),
        (cut(13), DropReason::FrameTooShort),
        (cut(14), DropReason::IpTruncated),
        (cut(33), DropReason::IpTruncated),
        (cut(40), DropReason::IpTruncated),
        (edit(14, 0x65), DropReason::IpHeaderInvalid),
        (edit(14, 0x44), DropReason::IpHeaderInvalid),
        (edit(17, 19), DropReason::IpTruncated),
        (edit(17, 39), DropReason::L4Truncated),
        (edit(46, 0x40), DropReason::L4Truncated),
        (edit(46, 0xf0), DropReason::L4Truncated),
        (edit(47, 0), DropReason::TcpFlagsInvalid),
        (edit(47, flags::PSH | flags::URG), DropReason::TcpFlagsInvalid),
        (edit(47, flags::SYN | flags::FIN), DropReason::TcpFlagsInvalid),
        (edit(47, flags::SYN | flags::RST), DropReason::TcpFlagsInvalid),
        (edit(21, 0x01), DropReason::FragmentTiny),
        (edit(5, 0xbb), DropReason::NotOurMac),
    ];
    for (frame, reason) in cases {
        let before = rig.dropped(reason);
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(reason));
        assert_eq!(rig.dropped(reason), before + 1);
    }
}

#[test]
fn what_is_not_ours_to_forward_goes_to_the_kernel_in_its_class() {
    let mut rig = Rig::new();
    let with_type = |ether_type: u16| {
        let mut frame = syn(1).to_vec();
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame
    };
    let proto = |protocol| Ipv4Base { eth_dst: GATEWAY_MAC, protocol, ..Ipv4Base::default() }.frame(&[0; 30]);
    let mut multicast = syn(1).to_vec();
    multicast[0] = 1;
    let ip = wire::build::ipv6_header([1; 16], [2; 16], (wire::ipv6::NEXT_ICMPV6, 255), 8);
    let solicitation =
        [wire::IntoBytes::as_bytes(&ip), &[wire::icmpv6::TYPE_NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]]
            .concat();
    let solicitation =
        wire::build::ethernet(GATEWAY_MAC, CLIENT_MAC, wire::ethernet::ETHERTYPE_IPV6, &solicitation);
    let cases = [
        (with_type(0x0806), PuntClass::Arp),
        (solicitation, PuntClass::Ipv6),
        (with_type(0x88cc), PuntClass::OtherEthertype),
        (with_type(0x8100), PuntClass::OtherEthertype),
        (proto(1), PuntClass::Icmp),
        (proto(112), PuntClass::Local),
        (multicast, PuntClass::Multicast),
    ];
    for (frame, class) in cases {
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Punt(class));
    }
}

#[test]
fn punts_over_the_rate_limit_are_dropped() {
    let mut rig = Rig::new();
    let frame = from_client(1).to_vec();
    let punted = (0..2000).filter(|_| matches!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Punt(_))).count();
    assert_eq!(punted, 1000);
    assert_eq!(rig.dropped(DropReason::PuntRateLimited), 1000);
}

#[test]
fn without_a_usable_real_server_the_client_is_told() {
    let mut rig = Rig::with(10, service(&[(REAL, 0)]));
    let (verdict, out) = rig.send(CLIENT_SIDE, &syn(1).to_vec());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let message: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((message.kind, message.code), (3, 3));
    assert_eq!(rig.worker.connections(), 0);
}
