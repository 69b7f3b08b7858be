use proptest::prelude::*;

use super::*;
use crate::build::{
    EchoFrame, IP_SRC, Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, documentation_v6, icmp_error_frame,
    icmpv6_error_frame, l3_offset, tagged,
};
use crate::{HeapBuf, icmpv6, ipv6};

fn segment(payload_len: usize) -> Vec<u8> {
    TcpFrame { payload: vec![0x55; payload_len], ..TcpFrame::default() }.to_vec()[14..].to_vec()
}

#[test]
fn an_error_quotes_what_fits_576_bytes_and_has_a_valid_checksum() {
    let original = segment(1460);
    let mut out = [0; 1500];
    let rest = rest_of_mtu(1400);
    let len = error_v4(TYPE_UNREACHABLE, CODE_FRAGMENTATION_NEEDED, rest, &original, &mut out).unwrap();
    assert_eq!(len, 576 - 20);
    assert_eq!(out[8..len], original[..548]);
    assert!(checksum::Sum::ZERO.bytes(&out[..len]).is_valid());
    let header: &Header = crate::view(&out, 0).unwrap();
    assert_eq!((header.kind, header.code, header.next_hop_mtu()), (3, 4, 1400));
    assert!(header.is_error());
}

#[test]
fn a_short_packet_is_quoted_whole_and_without_its_padding() {
    let original = segment(0);
    let padded = [&original[..], &[0xee; 6]].concat();
    let mut out = [0; 1500];
    assert_eq!(error_v4(TYPE_TIME_EXCEEDED, 0, U32::ZERO, &padded, &mut out), Some(8 + 40));
    assert_eq!(out[8..48], original[..]);
}

#[test]
fn an_error_that_cannot_quote_enough_is_not_made() {
    let original = segment(100);
    assert_eq!(error_v4(3, 1, U32::ZERO, &original, &mut [0; 8 + 28]), Some(36));
    assert_eq!(error_v4(3, 1, U32::ZERO, &original, &mut [0; 8 + 27]), None);
    assert_eq!(error_v4(3, 1, U32::ZERO, &original, &mut [0; 7]), None);
    assert_eq!(error_v4(3, 1, U32::ZERO, &original[..27], &mut [0; 100]), Some(8 + 27), "all that there is");
    assert_eq!(error_v4(3, 1, U32::ZERO, &original[..19], &mut [0; 100]), None);
    assert_eq!(error_v4(3, 1, U32::ZERO, &[0x60; 40], &mut [0; 100]), None);
}

#[test]
fn errors_are_answered_to_one_sender_about_a_first_fragment_that_is_no_error() {
    assert!(may_answer_v4(&segment(10)));
    let echo = |kind| EchoFrame { kind, ..EchoFrame::default() }.to_vec()[14..].to_vec();
    assert!(may_answer_v4(&echo(TYPE_ECHO_REQUEST)));
    for kind in
        [TYPE_UNREACHABLE, TYPE_REDIRECT, TYPE_TIME_EXCEEDED, TYPE_PARAMETER_PROBLEM, TYPE_SOURCE_QUENCH]
    {
        assert!(!may_answer_v4(&echo(kind)), "type {kind}");
    }
    let ip = |ip: Ipv4Base| ip.frame(&[0; 20])[14..].to_vec();
    assert!(!may_answer_v4(&ip(Ipv4Base { dst: U32::new(0xe000_0001), ..Ipv4Base::default() })), "multicast");
    assert!(!may_answer_v4(&ip(Ipv4Base { dst: U32::MAX_VALUE, ..Ipv4Base::default() })), "broadcast");
    assert!(!may_answer_v4(&ip(Ipv4Base { src: U32::ZERO, ..Ipv4Base::default() })), "from nobody");
    assert!(
        !may_answer_v4(&ip(Ipv4Base { flags_fragment: U16::new(7), ..Ipv4Base::default() })),
        "a later fragment"
    );
    let cut = ip(Ipv4Base { protocol: ipv4::PROTO_ICMP, ..Ipv4Base::default() });
    assert!(!may_answer_v4(&cut[..20]), "an ICMP message whose type is cut off");
    assert!(!may_answer_v4(&[]));
}

#[test]
fn an_icmpv6_error_fits_the_least_mtu_and_has_a_valid_checksum() {
    let frame =
        TcpFrame6 { tcp: TcpFrame { payload: vec![7; 1400], ..TcpFrame::default() }, ..TcpFrame6::default() };
    let original = &frame.to_vec()[14..];
    assert!(icmpv6::may_answer_v6(icmpv6::TYPE_PACKET_TOO_BIG, original));
    let (src, dst) = (documentation_v6(9), documentation_v6(1));
    let mut out = [0; 2000];
    let message = (icmpv6::TYPE_PACKET_TOO_BIG, 0, U32::new(1400));
    let len = icmpv6::error_v6(message, (&src, &dst), original, &mut out).unwrap();
    assert_eq!(len + ipv6::HEADER_LEN, ipv6::MTU_MIN);
    assert_eq!(out[8..len], original[..len - 8]);
    let sum = checksum::pseudo_v6(&src, &dst, ipv4::PROTO_ICMPV6, U32::new(len as u32)).bytes(&out[..len]);
    assert!(sum.is_valid());
    assert_eq!(icmpv6::error_v6(message, (&src, &dst), original, &mut [0; 8 + 47]), None);
}

#[test]
fn icmpv6_errors_are_not_answered_with_errors() {
    let packet = |next: u8, dst: [u8; 16], payload: &[u8]| {
        let header = crate::build::ipv6_header(documentation_v6(1), dst, (next, 64), payload.len());
        [header.as_bytes(), payload].concat()
    };
    let (one, group) = (documentation_v6(2), [0xff; 16]);
    let unreachable = icmpv6::TYPE_UNREACHABLE;
    assert!(!icmpv6::may_answer_v6(unreachable, &packet(58, one, &[1, 0, 0, 0])));
    assert!(!icmpv6::may_answer_v6(unreachable, &packet(58, one, &[137, 0, 0, 0])));
    assert!(!icmpv6::may_answer_v6(unreachable, &packet(58, one, &[])));
    assert!(icmpv6::may_answer_v6(unreachable, &packet(58, one, &[128, 0, 0, 0])));
    assert!(!icmpv6::may_answer_v6(unreachable, &packet(17, group, &[0; 8])));
    assert!(icmpv6::may_answer_v6(icmpv6::TYPE_PACKET_TOO_BIG, &packet(17, group, &[0; 8])));
}

const ERRORS: [Error; 6] = [
    Error::NoRoute,
    Error::HostUnreachable,
    Error::PortUnreachable,
    Error::Prohibited,
    Error::TooBig { mtu: 1400 },
    Error::TimeExceeded,
];

#[test]
fn every_error_has_its_numbers_in_both_families() {
    let numbers = |(kind, code, rest): (u8, u8, U32)| (kind, code, rest.get());
    let v4 = [(3, 0, 0), (3, 1, 0), (3, 3, 0), (3, 13, 0), (3, 4, 1400), (11, 0, 0)];
    let v6 = [(1, 0, 0), (1, 3, 0), (1, 4, 0), (1, 1, 0), (2, 0, 1400), (3, 0, 0)];
    assert_eq!(ERRORS.map(|error| numbers(error.v4())), v4);
    assert_eq!(ERRORS.map(|error| numbers(error.v6())), v6);
}

#[test]
fn nobody_is_told_less_than_every_link_takes() {
    for (mtu, v4, v6) in [(0, 68, 1280), (67, 68, 1280), (69, 69, 1280), (1281, 1281, 1281)] {
        let error = Error::TooBig { mtu };
        assert_eq!((error.v4().2.get(), error.v6().2.get()), (v4, v6), "{mtu}");
    }
}

/// What came in, and the link header that the answer must have.
fn turned(frame: &[u8], l3_offset: usize) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..l3_offset]].concat()
}

#[test]
fn an_answer_in_place_is_the_error_that_is_built_apart() {
    for payload_len in [0, 20, 508, 509, 1460] {
        let plain = TcpFrame { payload: vec![7; payload_len], pad: true, ..TcpFrame::default() }.to_vec();
        for frame in [plain.clone(), tagged(&plain, 5), tagged(&tagged(&plain, 5), 6)] {
            let l3 = l3_offset(&frame);
            let mut packet = HeapBuf::with_room(&frame, 28, 0);
            let error = Error::TooBig { mtu: 1400 }.v4();
            assert!(answer_in_place(&mut packet, l3, U32::new(9), error));
            let base =
                Ipv4Base { src: U32::new(9), dst: IP_SRC, dscp_ecn: PRECEDENCE, ..Ipv4Base::default() };
            let wanted = icmp_error_frame(base, error, &frame[l3..]).unwrap();
            assert_eq!(packet.data()[..l3], turned(&frame, l3));
            assert_eq!(packet.data()[l3..], wanted[14..], "payload of {payload_len}");
        }
    }
}

#[test]
fn an_answer_over_ipv6_is_the_error_that_is_built_apart() {
    for payload_len in [0, 1172, 1173, 1400] {
        let tcp = TcpFrame { payload: vec![7; payload_len], ..TcpFrame::default() };
        let plain = TcpFrame6 { tcp, ..TcpFrame6::default() }.to_vec();
        for mut frame in [plain.clone(), tagged(&plain, 5)] {
            let l3 = l3_offset(&frame);
            let packet_len = frame.len();
            frame.extend_from_slice(&[0xee; 3]); // A trailer of the link.
            let mut packet = HeapBuf::with_room(&frame, 48, 0);
            let src = documentation_v6(9);
            assert!(icmpv6::answer_in_place(&mut packet, l3, &src, Error::TimeExceeded.v6()));
            let base = Ipv6Base { src, dst: documentation_v6(1), ..Ipv6Base::default() };
            let wanted = icmpv6_error_frame(base, Error::TimeExceeded.v6(), &frame[l3..packet_len]).unwrap();
            assert_eq!(packet.data()[..l3], turned(&frame, l3));
            assert_eq!(packet.data()[l3..], wanted[14..], "payload of {payload_len}");
        }
    }
}

#[test]
fn what_cannot_be_answered_in_place_is_left_as_it_is() {
    let frame = TcpFrame::default().to_vec();
    let six = TcpFrame6::default().to_vec();
    let error = Error::NoRoute.v4();
    let unanswered = |frame: &[u8], head: usize, l3: usize| {
        let mut packet = HeapBuf::with_room(frame, head, 100);
        let answered = answer_in_place(&mut packet, l3, IP_SRC, error)
            || icmpv6::answer_in_place(&mut packet, l3, &documentation_v6(1), error);
        !answered && packet.data() == frame && packet.headroom() == head
    };
    assert!(unanswered(&frame, 27, 14) && unanswered(&six, 47, 14), "no headroom");
    assert!(unanswered(&frame[..40], 100, 14) && unanswered(&six[..60], 100, 14), "not whole");
    assert!(unanswered(&frame[14..], 100, 0) && unanswered(&six[14..], 100, 0), "no link header");
    assert!(unanswered(&frame, 100, 500) && unanswered(&[], 100, 14));
}

proptest! {
    #[test]
    fn errors_about_noise_are_valid_or_not_made(
        mut original in prop::collection::vec(any::<u8>(), 0..700),
        version_ihl in 0x43u8..0x50,
        room in 0usize..700,
    ) {
        if let Some(first) = original.first_mut() {
            *first = version_ihl;
        }
        let mut out = vec![0xaa; room];
        let _ = may_answer_v4(&original);
        if let Some(len) = error_v4(TYPE_UNREACHABLE, 1, U32::ZERO, &original, &mut out) {
            prop_assert!(len <= room && len <= HEADER_LEN + QUOTE_LEN_MAX);
            prop_assert!(checksum::Sum::ZERO.bytes(&out[..len]).is_valid());
            prop_assert_eq!(&out[8..len], &original[..len - 8]);
            prop_assert!(out[len..].iter().all(|byte| *byte == 0xaa));
        }
    }

    #[test]
    fn icmpv6_errors_about_noise_do_not_panic(original in prop::collection::vec(any::<u8>(), 0..100), room in 0usize..100) {
        let (src, dst) = (documentation_v6(9), documentation_v6(1));
        let _ = icmpv6::may_answer_v6(1, &original);
        let _ = icmpv6::error_v6((1, 0, U32::ZERO), (&src, &dst), &original, &mut vec![0; room]);
    }
}
