use proptest::prelude::*;

use super::*;
use crate::build::{
    Extension, GUE_PORT, IP_DST, IP_SRC, Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, Wrap,
    documentation_v6, fragments_v4, summary, with_extensions,
};

const FLOW_HASH: u32 = 0x1234_5678;

fn v4(kind: Kind) -> OuterV4 {
    OuterV4 { src: IP_SRC, dst: IP_DST, kind, id: U16::new(77), flow_hash: FLOW_HASH }
}

fn v6(kind: Kind) -> OuterV6 {
    OuterV6 { src: documentation_v6(1), dst: documentation_v6(2), kind, flow_hash: FLOW_HASH }
}

/// All kinds, each beside the test builder's form of it.
fn kinds() -> [(Kind, Wrap); 5] {
    let (src_port, dst_port) = (source_port(FLOW_HASH), GUE_PORT);
    [
        (Kind::Ip, Wrap::Ip),
        (Kind::Gre { checksum: false }, Wrap::Gre),
        (Kind::Gre { checksum: true }, Wrap::GreChecksum),
        (Kind::Gue { dst_port, checksum: false }, Wrap::Gue { src_port, dst_port }),
        (Kind::Gue { dst_port, checksum: true }, Wrap::GueChecksum { src_port, dst_port }),
    ]
}

/// `inner` behind room of any content, and what is known of it.
fn room(overhead: usize, inner: &[u8]) -> (Vec<u8>, Inner) {
    ([&vec![0xee; overhead], inner].concat(), Inner::read(inner).unwrap())
}

fn base_v4(inner: &Inner) -> Ipv4Base {
    let flags = if inner.dont_fragment { ipv4::FLAG_DONT_FRAGMENT } else { 0 };
    Ipv4Base {
        ttl: inner.hops,
        dscp_ecn: outer_dscp_ecn(inner.dscp_ecn),
        id: U16::new(77),
        flags_fragment: U16::new(flags),
        ..Ipv4Base::default()
    }
}

fn base_v6(inner: &Inner) -> Ipv6Base {
    let traffic_class = outer_dscp_ecn(inner.dscp_ecn);
    Ipv6Base { hop_limit: inner.hops, traffic_class, flow_label: FLOW_HASH & 0xf_ffff, ..Ipv6Base::default() }
}

/// Compares every kind of tunnel around `inner` with the test builder's bytes, and opens it again.
fn round_trip(inner: &[u8]) {
    for (kind, wrap) in kinds() {
        let (mut packet, facts) = room(kind.overhead(Family::V4), inner);
        let overhead = v4(kind).write(&mut packet, &facts).unwrap();
        assert_eq!(packet, wrap.over_v4(base_v4(&facts), inner)[14..], "{kind:?} over IPv4");
        let opened = open(&packet, Some(GUE_PORT)).unwrap();
        let outer = Addresses::V4 { src: IP_SRC, dst: IP_DST };
        assert_eq!(opened, Tunnelled { outer, inner: facts.family, inner_offset: overhead });

        let (mut packet, facts) = room(kind.overhead(Family::V6), inner);
        let overhead = v6(kind).write(&mut packet, &facts).unwrap();
        assert_eq!(packet, wrap.over_v6(base_v6(&facts), inner)[14..], "{kind:?} over IPv6");
        let opened = open(&packet, Some(GUE_PORT)).unwrap();
        let outer = Addresses::V6 { src: documentation_v6(1), dst: documentation_v6(2) };
        assert_eq!(opened, Tunnelled { outer, inner: facts.family, inner_offset: overhead });
    }
}

#[test]
fn all_tunnels_have_the_bytes_of_their_documents_and_open_again() {
    round_trip(&TcpFrame { ttl: 3, dscp_ecn: 0xb9, ..TcpFrame::default() }.to_vec()[14..]);
    round_trip(
        &TcpFrame { flags_fragment: U16::ZERO, payload: vec![1; 301], ..TcpFrame::default() }.to_vec()[14..],
    );
    round_trip(&TcpFrame6::default().to_vec()[14..]);
}

#[test]
fn the_gre_and_gue_headers_are_those_that_linux_sends() {
    let (mut packet, facts) = room(24, &TcpFrame::default().to_vec()[14..]);
    assert_eq!(v4(Kind::Gre { checksum: false }).write(&mut packet, &facts), Some(24));
    assert_eq!((packet[9], &packet[20..24]), (47, &[0, 0, 0x08, 0x00][..]));
    let (mut packet, facts) = room(32, &TcpFrame6::default().to_vec()[14..]);
    let kind = Kind::Gue { dst_port: U16::new(0x1234), checksum: false };
    assert_eq!(v4(kind).write(&mut packet, &facts), Some(32));
    assert_eq!(
        (packet[9], &packet[22..24], &packet[26..32]),
        (17, &[0x12, 0x34][..], &[0, 0, 0, 41, 0, 0][..])
    );
}

#[test]
fn the_outer_header_takes_hops_class_and_the_fragment_flag_from_the_inner_one() {
    let outer = |frame: TcpFrame, clear: bool| {
        let (mut packet, mut facts) = room(20, &frame.to_vec()[14..]);
        facts.dont_fragment &= !clear;
        v4(Kind::Ip).write(&mut packet, &facts).unwrap();
        let header: ipv4::Header = *crate::view(&packet, 0).unwrap();
        (header.ttl, header.dscp_ecn, header.dont_fragment())
    };
    let frame = TcpFrame { ttl: 9, dscp_ecn: 0x2d, ..TcpFrame::default() };
    assert_eq!(outer(frame.clone(), false), (9, 0x2d, true));
    assert_eq!(outer(frame.clone(), true), (9, 0x2d, false));
    let fragmentable = TcpFrame { flags_fragment: U16::ZERO, ..frame };
    assert_eq!(outer(fragmentable, false), (9, 0x2d, false));
    assert!(Inner::read(&TcpFrame6::default().to_vec()[14..]).unwrap().dont_fragment);
}

#[test]
fn congestion_that_was_met_inside_is_not_told_outside() {
    let expected = [(0b00, 0b00), (0b01, 0b01), (0b10, 0b10), (0b11, 0b10)];
    for (inner, outer) in expected {
        assert_eq!(outer_dscp_ecn(0xb8 | inner), 0xb8 | outer);
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let inner = TcpFrame { payload: vec![0; 1000], ..TcpFrame::default() }.to_vec()[14..].to_vec();
    let (mut packet, facts) = room(20, &inner);
    let old = packet.clone();
    let longer = Inner { len: facts.len + 1, ..facts };
    assert_eq!(v4(Kind::Ip).write(&mut packet, &longer), None);
    assert_eq!(v6(Kind::Ip).write(&mut packet, &facts), None);
    assert_eq!(packet, old);
    let mut huge = vec![0; 65_600];
    let with_len = |len| Inner { len, ..facts };
    assert_eq!(v4(Kind::Ip).write(&mut huge, &with_len(65_515)), Some(20));
    assert_eq!(v4(Kind::Ip).write(&mut huge, &with_len(65_516)), None);
    assert_eq!(v6(Kind::Gre { checksum: true }).write(&mut huge, &with_len(65_527)), Some(48));
    assert_eq!(v6(Kind::Gre { checksum: true }).write(&mut huge, &with_len(65_528)), None);
}

#[test]
fn source_ports_are_ephemeral_and_spread() {
    assert_eq!(source_port(0), U16::new(49_152));
    assert_eq!(source_port(u32::MAX >> 16), U16::MAX_VALUE);
    let ports: std::collections::HashSet<u16> =
        (0..1000u32).map(|hash| source_port(hash << 16).get()).collect();
    assert_eq!(ports.len(), 1000, "the upper half of the hash counts");
}

#[test]
fn a_quoted_tunnel_packet_is_opened_though_it_is_cut() {
    let inner = TcpFrame { payload: vec![7; 900], ..TcpFrame::default() }.to_vec()[14..].to_vec();
    for (_, wrap) in kinds() {
        let whole = wrap.over_v4(Ipv4Base::default(), &inner)[14..].to_vec();
        let opened = open(&whole, Some(GUE_PORT)).unwrap();
        assert_eq!(open(&whole[..opened.inner_offset + 1], Some(GUE_PORT)), Some(opened));
        assert_eq!(open(&whole[..opened.inner_offset], Some(GUE_PORT)), None);
    }
}

#[test]
fn what_is_no_tunnel_is_not_opened() {
    let opened = |packet: &[u8]| open(packet, Some(GUE_PORT));
    assert_eq!(opened(&TcpFrame::default().to_vec()[14..]), None);
    let udp =
        |dst_port| UdpFrame { dst_port, payload: vec![0, 4, 0, 0, 0x45], ..UdpFrame::default() }.to_vec();
    assert!(opened(&udp(GUE_PORT)[14..]).is_some());
    assert_eq!(opened(&udp(U16::new(53))[14..]), None);
    assert_eq!(open(&udp(GUE_PORT)[14..], None), None);
    let inner = TcpFrame { payload: vec![7; 900], ..TcpFrame::default() }.to_vec()[14..].to_vec();
    let pieces = fragments_v4(&Wrap::Gre.over_v4(Ipv4Base::default(), &inner), 600);
    assert!(opened(&pieces[0][14..]).is_some());
    assert_eq!(opened(&pieces[1][14..]), None, "a later fragment");
    let mut gre = Wrap::Gre.over_v4(Ipv4Base::default(), &inner)[14..].to_vec();
    gre[21] = 1;
    assert_eq!(opened(&gre), None, "GRE version 1 is PPTP (RFC 2637)");
    gre[20..22].copy_from_slice(&[0x40, 0]);
    assert_eq!(opened(&gre), None, "GRE with routing");
    let mut gue = Wrap::Gue { src_port: U16::ZERO, dst_port: GUE_PORT }.over_v4(Ipv4Base::default(), &inner)
        [14..]
        .to_vec();
    for first in [0x20, 0x40, 0x80] {
        gue[28] = first;
        assert_eq!(opened(&gue), None, "GUE {first:#x}");
    }
}

#[test]
fn optional_fields_of_others_are_passed_over() {
    let inner = TcpFrame::default().to_vec()[14..].to_vec();
    let keyed = [&[0xb0, 0, 0x08, 0x00][..], &[0; 12], &inner].concat();
    let packet = Ipv4Base { protocol: ipv4::PROTO_GRE, ..Ipv4Base::default() }.frame(&keyed)[14..].to_vec();
    assert_eq!(open(&packet, None).unwrap().inner_offset, 20 + 16);
    let payload = [&[0x02, 4, 0, 0][..], &[0; 8], &inner].concat();
    let packet = UdpFrame { dst_port: GUE_PORT, payload, ..UdpFrame::default() }.to_vec()[14..].to_vec();
    assert_eq!(open(&packet, Some(GUE_PORT)).unwrap().inner_offset, 20 + 8 + 12);
    let over_v6 = Wrap::Ip.over_v6(Ipv6Base::default(), &inner);
    let extended = with_extensions(&over_v6, &[Extension::empty(ipv6::NEXT_DESTINATION)]);
    assert_eq!(open(&extended[14..], None).unwrap().inner_offset, 48, "{}", summary(&extended));
}

proptest! {
    #[test]
    fn every_inner_packet_comes_out_of_every_tunnel(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        hops in any::<u8>(),
        dscp_ecn in any::<u8>(),
        df in any::<bool>(),
    ) {
        let flags_fragment = U16::new(if df { ipv4::FLAG_DONT_FRAGMENT } else { 0 });
        let frame = TcpFrame { payload, ttl: hops, dscp_ecn, flags_fragment, ..TcpFrame::default() };
        round_trip(&frame.to_vec()[14..]);
        let frame = Ipv6Base { hop_limit: hops, traffic_class: dscp_ecn, ..Ipv6Base::default() };
        round_trip(&frame.frame(&[1, 2, 3])[14..]);
    }

    #[test]
    fn any_bytes_may_be_opened_and_read(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x60, 0]),
        protocol in prop::sample::select(vec![4u8, 41, 47, 17, 44]),
    ) {
        let mut bytes = bytes;
        for (at, value) in [(0, first), (9, protocol), (6, protocol)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(opened) = open(&bytes, Some(U16::ZERO)) {
            prop_assert!(opened.inner_offset < bytes.len());
        }
        if let Some(facts) = Inner::read(&bytes) {
            for (kind, _) in kinds() {
                let _ = v4(kind).write(&mut bytes.clone(), &facts);
                let _ = v6(kind).write(&mut bytes.clone(), &facts);
            }
        }
    }
}
