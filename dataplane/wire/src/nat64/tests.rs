use proptest::prelude::*;

use super::*;
use crate::FromBytes;
use crate::build::{
    EchoFrame, EchoFrame6, Extension, Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6,
    documentation_v6, fragments_v4, fragments_v6, with_extensions,
};
use crate::checksum;

const SRC: [u8; 16] = documentation_v6(0x51);
const DST: [u8; 16] = documentation_v6(0xd5);
const SRC4: U32 = U32::new(0xc000_0263);
const DST4: U32 = U32::new(0xc633_6463);
const ANY_MTU: NextHopMtus = NextHopMtus { v4: u16::MAX, v6: u16::MAX };

/// The IPv6 packet that an IPv4 packet with a TCP segment or UDP datagram becomes, or with a later fragment
/// of one.
fn to_v6(packet: &[u8]) -> Vec<u8> {
    let header: ipv4::Header = *crate::view(packet, 0).unwrap();
    let header_len = header.check(packet.len()).unwrap();
    let headers = v4_to_v6(&header, (&SRC, &DST), header.ttl - 1);
    let mut out = vec![0xee; headers.header_len()];
    assert_eq!(headers.write(&mut out), Some(headers.header_len()));
    out.extend_from_slice(&packet[header_len..usize::from(header.total_len.get())]);
    if header.fragment_offset() == 0 {
        let delta = pseudo_v4_to_v6((header.src, header.dst), (&SRC, &DST));
        correct(&mut out[headers.header_len()..], header.protocol, delta);
    }
    out
}

/// The way back, and for packets that begin as IPv6.
fn to_v4(packet: &[u8]) -> Option<Vec<u8>> {
    let header: ipv6::Header = *crate::view(packet, 0).unwrap();
    let upper = ipv6::walk_extensions(packet).unwrap();
    let new = v6_to_v4(&header, &upper, (SRC4, DST4), U16::new(99), header.hop_limit - 1)?;
    let mut out = [new.as_bytes(), &packet[upper.offset..]].concat();
    if upper.is_first() {
        let delta = pseudo_v4_to_v6((SRC4, DST4), (&header.src, &header.dst)).negated();
        correct(&mut out[20..], upper.protocol, delta);
    }
    Some(out)
}

fn correct(segment: &mut [u8], protocol: u8, delta: Delta) {
    let at = if protocol == ipv4::PROTO_TCP { 16 } else { 6 };
    let check: &mut U16 = crate::view_mut(segment, at).unwrap();
    *check = if protocol == ipv4::PROTO_TCP { delta.apply(*check) } else { delta.apply_udp(*check) };
}

#[test]
fn a_segment_becomes_the_one_that_an_ipv6_host_would_have_sent() {
    let tcp = TcpFrame { payload: b"hello".to_vec(), ttl: 50, dscp_ecn: 0xb9, ..TcpFrame::default() };
    let six = to_v6(&tcp.to_vec()[14..]);
    let mut wanted =
        TcpFrame6 { src: SRC, dst: DST, hop_limit: 49, tcp: tcp.clone() }.to_vec()[14..].to_vec();
    wanted[..2].copy_from_slice(&[0x6b, 0x90]);
    assert_eq!(six, wanted);
    let four = to_v4(&six).unwrap();
    let wanted =
        TcpFrame { src: SRC4, dst: DST4, ttl: 48, id: U16::new(99), flags_fragment: U16::ZERO, ..tcp };
    assert_eq!(four, wanted.to_vec()[14..]);
}

#[test]
fn options_and_padding_are_left_behind() {
    let plain = UdpFrame { payload: vec![3; 9], ..UdpFrame::default() }.to_vec()[14..].to_vec();
    let mut packet = [&plain[..20], &[1; 8], &plain[20..], &[0; 5]].concat();
    packet[0] = 0x47;
    packet[3] += 8;
    assert_eq!(to_v6(&packet), to_v6(&plain));
    let six = UdpFrame6 { payload: vec![3; 9], ..UdpFrame6::default() }.to_vec();
    let extended = with_extensions(&six, &[Extension::empty(0), Extension::empty(60), Extension::empty(43)]);
    assert_eq!(to_v4(&extended[14..]), to_v4(&six[14..]));
}

#[test]
fn what_fitted_the_least_ipv6_mtu_may_be_fragmented_and_what_is_longer_may_not() {
    let flags = |payload_len: usize| {
        let six = Ipv6Base::default().header(payload_len);
        let upper = ipv6::Upper { protocol: 6, offset: 40, fragment: None, hop_by_hop: false };
        let four = v6_to_v4(&six, &upper, (SRC4, DST4), U16::new(7), 9).unwrap();
        assert_eq!((four.id.get(), four.ttl, usize::from(four.total_len.get())), (7, 9, payload_len + 20));
        four.flags_fragment.get()
    };
    assert_eq!(flags(1240), 0);
    assert_eq!(flags(1241), ipv4::FLAG_DONT_FRAGMENT);
}

#[test]
fn fragments_of_either_family_keep_their_places() {
    let frame = UdpFrame {
        ip: Ipv4Base { id: U16::new(0xbeef), ..Ipv4Base::default() },
        payload: vec![9; 3000],
        ..UdpFrame::default()
    };
    let pieces = fragments_v4(&frame.to_vec(), 1232);
    let mut whole = Vec::new();
    for piece in &pieces {
        let six = to_v6(&piece[14..]);
        assert!(
            six.len() <= 1280 && ipv6::Header::read_from_bytes(&six[..40]).unwrap().check(six.len()).is_ok()
        );
        let upper = ipv6::walk_extensions(&six).unwrap();
        let fragment = upper.fragment.unwrap();
        assert_eq!(
            (upper.protocol, fragment.id.get(), usize::from(fragment.fragment_offset())),
            (17, 0xbeef, whole.len())
        );
        whole.extend_from_slice(&six[upper.offset..]);
        assert_eq!(fragment.more_fragments(), whole.len() < 3008);
        // And back: the same fragment, between other addresses.
        let four: ipv4::Header = *crate::view(&to_v4(&six).unwrap(), 0).unwrap();
        let old: &ipv4::Header = crate::view(piece, 14).unwrap();
        assert_eq!(
            (four.id, four.flags_fragment, four.total_len),
            (old.id, old.flags_fragment, old.total_len)
        );
    }
    assert!(checksum::verify_udp_v6(&SRC, &DST, &whole));
}

#[test]
fn an_atomic_fragment_becomes_a_whole_packet() {
    let six = UdpFrame6::default().to_vec();
    let atomic = with_extensions(&six, &[Extension::fragment(0, false, 0x1234_5678)]);
    let four = to_v4(&atomic[14..]).unwrap();
    let header: &ipv4::Header = crate::view(&four, 0).unwrap();
    assert_eq!((header.id.get(), header.flags_fragment.get(), header.total_len.get()), (0x5678, 0, 28));
}

#[test]
fn fragments_that_hold_extension_headers_are_not_translated() {
    let six = UdpFrame6 { payload: vec![1; 2000], ..UdpFrame6::default() }.to_vec();
    let extended = with_extensions(&six, &[Extension::empty(ipv6::NEXT_DESTINATION)]);
    for piece in fragments_v6(&extended, 1280, 1) {
        assert_eq!(to_v4(&piece[14..]), None);
    }
    for piece in fragments_v6(&six, 1280, 1) {
        assert!(to_v4(&piece[14..]).is_some());
    }
}

#[test]
fn a_packet_that_is_too_long_for_ipv4_is_not_translated() {
    let upper = ipv6::Upper { protocol: 17, offset: 40, fragment: None, hop_by_hop: false };
    let new = |len| v6_to_v4(&Ipv6Base::default().header(len), &upper, (SRC4, DST4), U16::ZERO, 1);
    assert_eq!(new(65_515).unwrap().total_len.get(), 65_535);
    assert_eq!(new(65_516), None);
    // An offset beyond the packet cannot come from the walk, and is no reason to panic.
    let beyond = ipv6::Upper { offset: 100, ..upper };
    assert_eq!(v6_to_v4(&Ipv6Base::default().header(8), &beyond, (SRC4, DST4), U16::ZERO, 1), None);
}

#[test]
fn icmp_is_icmpv6_by_its_number_too() {
    let four = Ipv4Base { protocol: ipv4::PROTO_ICMP, ..Ipv4Base::default() }.header(8);
    assert_eq!(v4_to_v6(&four, (&SRC, &DST), 1).ip.next_header, 58);
    let six = Ipv6Base { protocol: 58, ..Ipv6Base::default() }.header(8);
    let upper = ipv6::Upper { protocol: 58, offset: 40, fragment: None, hop_by_hop: false };
    assert_eq!(v6_to_v4(&six, &upper, (SRC4, DST4), U16::ZERO, 1).unwrap().protocol, 1);
    assert!(v4_to_v6(&four, (&SRC, &DST), 1).write(&mut [0; 39]).is_none());
}

#[test]
fn only_a_source_route_with_addresses_left_is_pending() {
    assert!(ipv4::has_pending_source_route(&[1, 131, 7, 4, 1, 2, 3, 4]));
    assert!(ipv4::has_pending_source_route(&[7, 3, 4, 137, 7, 4, 1, 2, 3, 4]));
    assert!(!ipv4::has_pending_source_route(&[131, 7, 8, 1, 2, 3, 4, 0]), "used up");
    assert!(!ipv4::has_pending_source_route(&[0, 131, 7, 4, 1, 2, 3, 4]), "behind the end");
    assert!(!ipv4::has_pending_source_route(&[7, 0, 131, 7, 4, 1, 2, 3]), "behind nonsense");
    for bytes in [&[][..], &[131], &[131, 7], &[1, 1, 1, 1], &[68, 200, 5]] {
        assert!(!ipv4::has_pending_source_route(bytes));
    }
}

#[test]
fn errors_of_ipv4_become_those_of_the_table() {
    let to = |kind, code, rest| error_v4_to_v6((kind, code, U32::new(rest)), 1500, ANY_MTU);
    let unreachable = [
        (0, Some(0)),
        (1, Some(0)),
        (3, Some(4)),
        (5, Some(0)),
        (6, Some(0)),
        (7, Some(0)),
        (8, Some(0)),
        (9, Some(1)),
        (10, Some(1)),
        (11, Some(0)),
        (12, Some(0)),
        (13, Some(1)),
        (14, None),
        (15, Some(1)),
        (16, None),
        (255, None),
    ];
    for (code, new) in unreachable {
        assert_eq!(to(3, code, 0xff), new.map(|new| (1, new, U32::ZERO)), "code {code}");
    }
    assert_eq!(to(3, 2, 0), Some((4, 1, U32::new(6))));
    assert_eq!(to(11, 0, 9), Some((3, 0, U32::ZERO)));
    assert_eq!(to(11, 1, 9), Some((3, 1, U32::ZERO)));
    for kind in [0, 4, 5, 6, 8, 9, 10, 13, 14, 15, 16, 17, 18, 40] {
        assert_eq!(to(kind, 0, 0), None, "type {kind}");
    }
}

#[test]
fn pointers_follow_their_fields() {
    let to_v6 = |code, pointer: u8| {
        let rest = U32::from_bytes([pointer, 0, 0, 0]);
        error_v4_to_v6((12, code, rest), 1500, ANY_MTU).map(|(kind, code, rest)| (kind, code, rest.get()))
    };
    let to_v4 = |pointer: u32| {
        let error = error_v6_to_v4((4, 0, U32::new(pointer)), false, ANY_MTU)?;
        assert_eq!((error.0, error.1, error.2.get() & 0x00ff_ffff), (12, 0, 0));
        Some(error.2.to_bytes()[0])
    };
    let figure_3 = [Some(0), Some(1), Some(4), Some(4), None, None, None, None, Some(7), Some(6), None, None];
    for pointer in 0..=255u8 {
        let field = match pointer {
            0..12 => figure_3[usize::from(pointer)],
            12..16 => Some(8),
            16..20 => Some(24),
            _ => None,
        };
        assert_eq!(to_v6(0, pointer), field.map(|field| (4, 0, field)), "pointer {pointer}");
        assert_eq!(to_v6(2, pointer), to_v6(0, pointer));
        assert_eq!(to_v6(1, pointer), None);
    }
    let figure_6 = [Some(0), Some(1), None, None, Some(2), Some(2), Some(9), Some(8)];
    for pointer in 0..70u32 {
        let field = match pointer {
            0..8 => figure_6[pointer as usize],
            8..24 => Some(12),
            24..40 => Some(16),
            _ => None,
        };
        assert_eq!(to_v4(pointer), field, "pointer {pointer}");
    }
    assert_eq!(to_v4(u32::MAX), None);
}

#[test]
fn an_mtu_grows_and_shrinks_with_the_header() {
    let to_v6 = |told, quoted_len, mtus| {
        let error = error_v4_to_v6((3, 4, icmp::rest_of_mtu(told)), quoted_len, mtus).unwrap();
        assert_eq!((error.0, error.1), (2, 0));
        error.2.get()
    };
    assert_eq!(to_v6(1400, 1500, ANY_MTU), 1420);
    assert_eq!(to_v6(1400, 1500, NextHopMtus { v4: 9000, v6: 1300 }), 1300);
    assert_eq!(to_v6(1400, 1500, NextHopMtus { v4: 1350, v6: 9000 }), 1370);
    assert_eq!(to_v6(576, 1500, ANY_MTU), 1280, "never below the least MTU of IPv6");
    assert_eq!(to_v6(0, 1500, ANY_MTU), 1512, "the plateau below 1500 is 1492");
    assert_eq!(to_v6(0, 1492, ANY_MTU), 1280);
    assert_eq!(to_v6(0, 9000, ANY_MTU), 8186);
    assert_eq!(to_v6(0, 0, ANY_MTU), 1280);
    let to_v4 = |told, fragment, mtus| {
        let error = error_v6_to_v4((2, 0, U32::new(told)), fragment, mtus).unwrap();
        assert_eq!((error.0, error.1, error.2.get() >> 16), (3, 4, 0));
        error.2.get()
    };
    assert_eq!(to_v4(1400, false, ANY_MTU), 1380);
    assert_eq!(to_v4(1400, true, ANY_MTU), 1372);
    assert_eq!(to_v4(1400, false, NextHopMtus { v4: 1300, v6: 9000 }), 1300);
    assert_eq!(to_v4(1400, false, NextHopMtus { v4: 9000, v6: 1300 }), 1280);
    for too_little in [0, 68, 1279] {
        assert_eq!(to_v4(too_little, false, ANY_MTU), 1260, "every link of IPv6 takes 1280");
        assert_eq!(to_v4(too_little, true, ANY_MTU), 1252);
    }
    assert_eq!(to_v4(1400, false, NextHopMtus { v4: 0, v6: 0 }), 68, "never below the least MTU of IPv4");
    assert_eq!(to_v4(u32::MAX, false, ANY_MTU), 65_515);
}

#[test]
fn errors_of_ipv6_become_those_of_the_table() {
    let to = |kind, code| error_v6_to_v4((kind, code, U32::new(6)), false, ANY_MTU);
    for (code, new) in
        [(0, Some(1)), (1, Some(10)), (2, Some(1)), (3, Some(1)), (4, Some(3)), (5, None), (6, None)]
    {
        assert_eq!(to(1, code), new.map(|new| (3, new, U32::ZERO)), "code {code}");
    }
    assert_eq!((to(3, 0), to(3, 1)), (Some((11, 0, U32::ZERO)), Some((11, 1, U32::ZERO))));
    assert_eq!(to(4, 1), Some((3, 2, U32::ZERO)));
    assert_eq!(to(4, 2), None);
    for kind in [0, 5, 100, 127, 128, 129, 130, 135, 255] {
        assert_eq!(to(kind, 0), None, "type {kind}");
    }
}

#[test]
fn an_echo_of_zeroes_has_the_one_checksum_that_verifies() {
    let mut message = EchoFrame6 {
        kind: icmpv6::TYPE_ECHO_REPLY,
        id: 0,
        seq: 0,
        payload: vec![],
        ip: Ipv6Base { src: SRC, dst: DST, ..Ipv6Base::default() },
    }
    .to_vec()[54..]
        .to_vec();
    assert!(echo_v6_to_v4(&mut message, (&SRC, &DST)));
    assert_eq!(message, [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let mut other = message.clone();
    other[0] = icmp::TYPE_TIME_EXCEEDED;
    let old = other.clone();
    assert!(!echo_v4_to_v6(&mut other, (&SRC, &DST)) && !echo_v6_to_v4(&mut other, (&SRC, &DST)));
    assert_eq!(other, old);
    assert!(!echo_v4_to_v6(&mut [8; 7], (&SRC, &DST)) && !echo_v6_to_v4(&mut [128; 7], (&SRC, &DST)));
}

proptest! {
    #[test]
    fn segments_go_there_and_back_with_right_checksums(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        ends in any::<(u32, u32, u16, u16)>(),
        dscp_ecn in any::<u8>(),
        ttl in 3u8..,
    ) {
        let (src, dst) = (U32::new(ends.0), U32::new(ends.1));
        let ip = Ipv4Base { src, dst, ttl, dscp_ecn, ..Ipv4Base::default() };
        let (src_port, dst_port) = (U16::new(ends.2), U16::new(ends.3));
        let tcp = TcpFrame { payload: payload.clone(), ttl, dscp_ecn, ..TcpFrame::default() };
        let tcp = TcpFrame { src, dst, src_port, dst_port, ..tcp };
        let udp = UdpFrame { ip, src_port, dst_port, payload, ..UdpFrame::default() };
        for packet in [&tcp.to_vec()[14..], &udp.to_vec()[14..]] {
            let six = to_v6(packet);
            let is_tcp = packet[9] == ipv4::PROTO_TCP;
            let verify = if is_tcp { checksum::verify_tcp_v6 } else { checksum::verify_udp_v6 };
            prop_assert!(verify(&SRC, &DST, &six[40..]));
            let four = to_v4(&six).unwrap();
            let verify = if is_tcp { checksum::verify_tcp_v4 } else { checksum::verify_udp_v4 };
            prop_assert!(checksum::verify_ipv4(&four[..20]) && verify(SRC4, DST4, &four[20..]));
            prop_assert_eq!((four[1], four[8], four.len()), (dscp_ecn, ttl - 2, packet.len()));
            let field = if is_tcp { 20 + 16..20 + 18 } else { 20 + 6..20 + 8 };
            let blank = |packet: &[u8]| {
                let mut packet = packet.to_vec();
                packet[field.clone()].fill(0);
                packet.split_off(20)
            };
            prop_assert_eq!(blank(&four), blank(packet));
        }
    }

    #[test]
    fn echoes_go_there_and_back(
        payload in prop::collection::vec(any::<u8>(), 0..100),
        id in any::<u16>(),
        seq in any::<u16>(),
        reply in any::<bool>(),
        addresses in any::<([u8; 16], [u8; 16])>(),
    ) {
        let kind = if reply { icmp::TYPE_ECHO_REPLY } else { icmp::TYPE_ECHO_REQUEST };
        let kind6 = if reply { icmpv6::TYPE_ECHO_REPLY } else { icmpv6::TYPE_ECHO_REQUEST };
        let (src, dst) = addresses;
        let echo = EchoFrame { kind, id, seq, payload: payload.clone(), ..EchoFrame::default() };
        let mut message = echo.to_vec()[34..].to_vec();
        let old = message.clone();
        prop_assert!(echo_v4_to_v6(&mut message, (&src, &dst)));
        let ip = Ipv6Base { src, dst, ..Ipv6Base::default() };
        let six = EchoFrame6 { ip, kind: kind6, id, seq, payload }.to_vec();
        prop_assert_eq!(&message, &six[54..]);
        prop_assert!(echo_v6_to_v4(&mut message, (&src, &dst)));
        prop_assert!(checksum::verify_ipv4(&message));
        prop_assert_eq!((&message[..2], &message[4..]), (&old[..2], &old[4..]));
    }

    #[test]
    fn any_headers_become_headers(
        four in any::<[u8; 20]>(),
        six in any::<[u8; 40]>(),
        fragment in any::<[u8; 8]>(),
        offset in 0usize..200,
        some in any::<bool>(),
    ) {
        let header = ipv4::Header::read_from_bytes(&four).unwrap();
        let new = v4_to_v6(&header, (&SRC, &DST), 1);
        prop_assert_eq!(new.ip.version(), 6);
        prop_assert!(new.fragment.is_some() == header.is_fragment());
        let fragment = some.then(|| ipv6::FragmentHeader::read_from_bytes(&fragment).unwrap());
        let upper = ipv6::Upper { protocol: six[6], offset, fragment, hop_by_hop: false };
        let header = ipv6::Header::read_from_bytes(&six).unwrap();
        if let Some(new) = v6_to_v4(&header, &upper, (SRC4, DST4), U16::ZERO, 1) {
            prop_assert!(checksum::verify_ipv4(new.as_bytes()) && new.header_len() == 20);
        }
    }

    #[test]
    fn any_error_becomes_an_error(
        kind in any::<u8>(),
        code in any::<u8>(),
        rest in any::<u32>(),
        len in any::<u16>(),
        mtus in any::<(u16, u16)>(),
    ) {
        let mtus = NextHopMtus { v4: mtus.0, v6: mtus.1 };
        if let Some((kind, _, rest)) = error_v4_to_v6((kind, code, U32::new(rest)), len, mtus) {
            prop_assert!(icmpv6::is_error_type(kind));
            prop_assert!(kind != icmpv6::TYPE_PACKET_TOO_BIG || rest.get() >= 1280);
        }
        if let Some((kind, code, rest)) = error_v6_to_v4((kind, code, U32::new(rest)), len % 2 == 0, mtus) {
            prop_assert!(icmp::is_error_type(kind));
            let too_big = (kind, code) == (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED);
            prop_assert!(!too_big || rest.get() >= 68);
        }
    }

    #[test]
    fn any_options_may_be_asked_for_a_source_route(options in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = ipv4::has_pending_source_route(&options);
    }
}
