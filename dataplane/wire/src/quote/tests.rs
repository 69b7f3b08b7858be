use proptest::prelude::*;

use super::*;
use crate::build::{
    EchoFrame, Extension, IP_DST, IP_SRC, Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6,
    documentation_v6, fragments_v4, fragments_v6, icmp_error_frame, icmpv6_error_frame, with_extensions,
};
use crate::{HeapBuf, PacketBuf, tcp, udp};

const UNREACHABLE_V4: (u8, u8, U32) = (icmp::TYPE_UNREACHABLE, icmp::CODE_HOST_UNREACHABLE, U32::ZERO);
const UNREACHABLE_V6: (u8, u8, U32) = (icmpv6::TYPE_UNREACHABLE, icmpv6::CODE_ADDRESS_UNREACHABLE, U32::ZERO);
const ANY_MTU: NextHopMtus = NextHopMtus { v4: u16::MAX, v6: u16::MAX };
const SEQ_SHIFT: u32 = 0xf000_1234;

/// Between whom the ICMPv6 messages of these tests go.
const OUTER: ([u8; 16], [u8; 16]) = (documentation_v6(0xaa), documentation_v6(0xbb));

fn outer() -> (&'static [u8; 16], &'static [u8; 16]) {
    const { (&OUTER.0, &OUTER.1) }
}

fn message_v4(error: (u8, u8, U32), original: &[u8]) -> Vec<u8> {
    icmp_error_frame(Ipv4Base::default(), error, original).unwrap()[34..].to_vec()
}

fn message_v6(error: (u8, u8, U32), original: &[u8]) -> Vec<u8> {
    let base = Ipv6Base { src: OUTER.0, dst: OUTER.1, ..Ipv6Base::default() };
    icmpv6_error_frame(base, error, original).unwrap()[54..].to_vec()
}

fn is_valid_v6(message: &[u8]) -> bool {
    let len = U32::new(message.len() as u32);
    checksum::pseudo_v6(&OUTER.0, &OUTER.1, ipv4::PROTO_ICMPV6, len).bytes(message).is_valid()
}

fn tcp4() -> TcpFrame {
    TcpFrame { payload: vec![5; 100], flags_fragment: U16::ZERO, ..TcpFrame::default() }
}

fn udp4() -> UdpFrame {
    let ip = Ipv4Base { flags_fragment: U16::ZERO, ..Ipv4Base::default() };
    UdpFrame { ip, payload: vec![6; 100], ..UdpFrame::default() }
}

fn l3(frame: &[u8]) -> Vec<u8> {
    frame[14..].to_vec()
}

/// What the packets of these tests were before their translation, in either family.
const WAS_V4: Rewrite = Rewrite {
    addresses: Addresses::V4 { src: U32::new(0xcb00_7107), dst: U32::new(0xcb00_7150) },
    src_port: U16::new(1111),
    dst_port: U16::new(2222),
    seq_shift: SEQ_SHIFT,
};
const WAS_V6: Rewrite = Rewrite {
    addresses: Addresses::V6 { src: documentation_v6(0x71), dst: documentation_v6(0x72) },
    ..WAS_V4
};

/// The IPv4 packets with the ends of [`WAS_V4`], and those with the ends of [`WAS_V6`].
fn before_v4() -> [Vec<u8>; 2] {
    let (src, dst) = (U32::new(0xcb00_7107), U32::new(0xcb00_7150));
    let (src_port, dst_port, seq) =
        (WAS_V4.src_port, WAS_V4.dst_port, U32::new(1000u32.wrapping_add(SEQ_SHIFT)));
    let udp = udp4();
    [
        l3(&TcpFrame { src, dst, src_port, dst_port, seq, ..tcp4() }.to_vec()),
        l3(&UdpFrame { ip: Ipv4Base { src, dst, ..udp.ip }, src_port, dst_port, ..udp }.to_vec()),
    ]
}

fn before_v6() -> [Vec<u8>; 2] {
    let (src, dst) = (documentation_v6(0x71), documentation_v6(0x72));
    let (src_port, dst_port, seq) =
        (WAS_V4.src_port, WAS_V4.dst_port, U32::new(1000u32.wrapping_add(SEQ_SHIFT)));
    let tcp = TcpFrame { src_port, dst_port, seq, ..tcp4() };
    let ip = Ipv6Base { src, dst, ..Ipv6Base::default() };
    [
        l3(&TcpFrame6 { src, dst, tcp, hop_limit: 64 }.to_vec()),
        l3(&UdpFrame6 { ip, src_port, dst_port, payload: vec![6; 100], ..UdpFrame6::default() }.to_vec()),
    ]
}

/// The same packets after their translation.
fn after_v4() -> [Vec<u8>; 2] {
    [l3(&tcp4().to_vec()), l3(&udp4().to_vec())]
}

fn after_v6() -> [Vec<u8>; 2] {
    let udp = UdpFrame6 { payload: vec![6; 100], ..UdpFrame6::default() };
    [l3(&TcpFrame6 { tcp: tcp4(), ..TcpFrame6::default() }.to_vec()), l3(&udp.to_vec())]
}

#[test]
fn a_quoted_segment_is_found_by_its_ports() {
    let quote = find(&message_v4(UNREACHABLE_V4, &after_v4()[0]), Family::V4).unwrap();
    let wanted = Quote {
        addresses: Addresses::V4 { src: IP_SRC, dst: IP_DST },
        protocol: 6,
        src_port: U16::new(40_000),
        dst_port: U16::new(80),
        l3_offset: 8,
        l4_offset: 28,
        end: 8 + 140,
        is_fragment: false,
        told_len: 0,
    };
    assert_eq!((quote, quote.family()), (wanted, Family::V4));
    let quote = find(&message_v6(UNREACHABLE_V6, &after_v6()[1]), Family::V6).unwrap();
    let addresses = Addresses::V6 { src: documentation_v6(1), dst: documentation_v6(2) };
    let wanted =
        Quote { addresses, protocol: 17, dst_port: U16::new(53), l4_offset: 48, end: 8 + 148, ..wanted };
    assert_eq!((quote, quote.family()), (wanted, Family::V6));
}

#[test]
fn options_extension_headers_and_first_fragments_are_looked_behind() {
    let mut packet = after_v4()[1].clone();
    packet.splice(20..20, [1; 12]);
    packet[0] = 0x48;
    packet[3] += 12;
    let quote = find(&message_v4(UNREACHABLE_V4, &packet), Family::V4).unwrap();
    assert_eq!((quote.l4_offset, quote.dst_port.get(), quote.end), (8 + 32, 53, 8 + 140));

    let big = UdpFrame { payload: vec![1; 3000], ..udp4() }.to_vec();
    let pieces = fragments_v4(&big, 1500);
    let quote = find(&message_v4(UNREACHABLE_V4, &pieces[0][14..]), Family::V4).unwrap();
    assert_eq!((quote.dst_port.get(), quote.is_fragment), (53, true));
    let later = find(&message_v4(UNREACHABLE_V4, &pieces[1][14..]), Family::V4);
    assert_eq!(later, Err(Unusable::LaterFragment));

    let big = UdpFrame6 { payload: vec![1; 3000], ..UdpFrame6::default() }.to_vec();
    let pieces = fragments_v6(&big, 1500, 3);
    let first = with_extensions(&pieces[0], &[Extension::empty(0), Extension::empty(60)]);
    let quote = find(&message_v6(UNREACHABLE_V6, &first[14..]), Family::V6).unwrap();
    assert_eq!((quote.l4_offset, quote.dst_port.get(), quote.is_fragment), (8 + 40 + 16 + 8, 53, true));
    let later = find(&message_v6(UNREACHABLE_V6, &pieces[1][14..]), Family::V6);
    assert_eq!(later, Err(Unusable::LaterFragment));
    let atomic = with_extensions(&UdpFrame6::default().to_vec(), &[Extension::fragment(0, false, 1)]);
    assert!(!find(&message_v6(UNREACHABLE_V6, &atomic[14..]), Family::V6).unwrap().is_fragment);
}

#[test]
fn four_bytes_of_the_segment_are_enough_and_three_are_not() {
    let message = message_v4(UNREACHABLE_V4, &after_v4()[0]);
    let quote = find(&message[..8 + 20 + 4], Family::V4).unwrap();
    assert_eq!((quote.dst_port.get(), quote.end), (80, 32));
    assert_eq!(find(&message[..31], Family::V4), Err(Unusable::TooShort(31)));
    assert_eq!(find(&message[..27], Family::V4), Err(Unusable::TooShort(27)));
    assert_eq!(find(&message[..7], Family::V4), Err(Unusable::TooShort(7)));
    let message = message_v6(UNREACHABLE_V6, &after_v6()[0]);
    assert_eq!(find(&message[..52], Family::V6).unwrap().dst_port.get(), 80);
    assert_eq!(find(&message[..51], Family::V6), Err(Unusable::TooShort(51)));
    assert_eq!(find(&message[..47], Family::V6), Err(Unusable::TooShort(47)));
    let extended = with_extensions(&UdpFrame6::default().to_vec(), &[Extension::empty(60)]);
    let message = message_v6(UNREACHABLE_V6, &extended[14..]);
    assert_eq!(find(&message[..8 + 44], Family::V6), Err(Unusable::TooShort(52)));
}

#[test]
fn messages_that_quote_nothing_usable_say_why() {
    let echo = EchoFrame::default().to_vec();
    assert_eq!(find(&echo[34..], Family::V4), Err(Unusable::NotAnError(8)));
    assert_eq!(find(&[128, 0, 0, 0, 0, 0, 0, 0], Family::V6), Err(Unusable::NotAnError(128)));
    assert_eq!(find(&message_v4(UNREACHABLE_V4, &echo[14..]), Family::V4), Err(Unusable::NoPorts(1)));
    let gre = Ipv6Base { protocol: 47, ..Ipv6Base::default() }.frame(&[0; 8]);
    assert_eq!(find(&message_v6(UNREACHABLE_V6, &gre[14..]), Family::V6), Err(Unusable::NoPorts(47)));
    // An error that quotes the other family is no error of ours.
    let mut message = message_v4(UNREACHABLE_V4, &after_v4()[0]);
    message[8] = 0x65;
    assert_eq!(find(&message, Family::V4), Err(Unusable::BadHeader));
    message[8] = 0x44;
    assert_eq!(find(&message, Family::V4), Err(Unusable::BadHeader));
    let mut message = message_v6(UNREACHABLE_V6, &after_v6()[0]);
    message[8] = 0x45;
    assert_eq!(find(&message, Family::V6), Err(Unusable::BadHeader));
    assert_eq!(Unusable::NoPorts(47).to_string(), "ICMP error quotes protocol 47, which has no ports");
}

#[test]
fn extensions_behind_the_quote_are_not_the_quote() {
    let mut message = message_v4(UNREACHABLE_V4, &after_v4()[0]);
    message.truncate(8 + 128);
    message.extend_from_slice(&[0x20, 0, 0, 0, 0, 8, 1, 1, 9, 9, 9, 9]);
    message[5] = 32;
    assert_eq!(find(&message, Family::V4).unwrap().end, 8 + 128);
    message[5] = 200; // Beyond the message: not believed.
    assert_eq!(find(&message, Family::V4).unwrap().end, 8 + 140, "as long as the packet was");
    let mut message = message_v6(UNREACHABLE_V6, &after_v6()[0]);
    message[4] = 16;
    assert_eq!(find(&message, Family::V6).unwrap().end, 8 + 128);
    message[0] = icmpv6::TYPE_PACKET_TOO_BIG;
    assert_eq!(find(&message, Family::V6).unwrap().end, 8 + 160, "the byte is part of the MTU here");
}

/// The message with this quote, cut to a length, as a fresh one.
fn cut(mut message: Vec<u8>, len: usize, family: Family) -> Vec<u8> {
    message.truncate(len);
    message[2..4].fill(0);
    let check = match family {
        Family::V4 => checksum::icmp(&message),
        Family::V6 => checksum::icmp_v6(&OUTER.0, &OUTER.1, &message),
    };
    message[2..4].copy_from_slice(&check.to_bytes());
    message
}

#[test]
fn a_rewritten_quote_is_the_packet_before_its_translation() {
    for (before, after) in before_v4().into_iter().zip(after_v4()) {
        // Half a checksum cannot be rewritten, so only even lengths are as a sender's would be.
        for len in (8 + 24..8 + after.len()).step_by(2) {
            let mut message = cut(message_v4(UNREACHABLE_V4, &after), len, Family::V4);
            let quote = find(&message, Family::V4).unwrap();
            assert!(rewrite(&mut message, &quote, &WAS_V4, Delta::ZERO));
            let mut wanted = cut(message_v4(UNREACHABLE_V4, &before), len, Family::V4);
            // A sequence number that is cut is not shifted.
            if before[9] == 6 && len < 8 + 28 {
                wanted = cut([&wanted[..32], &after[24..]].concat(), len, Family::V4);
            }
            assert_eq!(message, wanted, "{len}");
        }
    }
    for (before, after) in before_v6().into_iter().zip(after_v6()) {
        for len in (8 + 48..8 + after.len()).step_by(2) {
            let mut message = cut(message_v6(UNREACHABLE_V6, &after), len, Family::V6);
            let quote = find(&message, Family::V6).unwrap();
            assert!(rewrite(&mut message, &quote, &WAS_V6, Delta::ZERO));
            assert_eq!(message, cut(message_v6(UNREACHABLE_V6, &before), len, Family::V6), "{len}");
        }
    }
}

#[test]
fn a_change_of_the_outer_addresses_is_taken_along() {
    let mut message = message_v6(UNREACHABLE_V6, &after_v6()[0]);
    let quote = find(&message, Family::V6).unwrap();
    let (src, dst) = (documentation_v6(0x99), documentation_v6(0x98));
    let outer = Delta::ZERO.replace128(&OUTER.0, &src).replace128(&OUTER.1, &dst);
    assert!(rewrite(&mut message, &quote, &WAS_V6, outer));
    let len = U32::new(message.len() as u32);
    assert!(checksum::pseudo_v6(&src, &dst, 58, len).bytes(&message).is_valid());
}

#[test]
fn a_quoted_datagram_without_a_checksum_stays_without() {
    let bare = UdpFrame { no_checksum: true, ..udp4() }.to_vec();
    let mut message = message_v4(UNREACHABLE_V4, &bare[14..]);
    let quote = find(&message, Family::V4).unwrap();
    assert!(rewrite(&mut message, &quote, &WAS_V4, Delta::ZERO));
    assert_eq!(crate::view::<udp::Header>(&message, 28).unwrap().checksum, U16::ZERO);
    assert!(Sum::ZERO.bytes(&message).is_valid());
}

#[test]
fn what_does_not_belong_together_is_not_rewritten() {
    let mut message = message_v4(UNREACHABLE_V4, &after_v4()[0]);
    let (old, quote) = (message.clone(), find(&message, Family::V4).unwrap());
    assert!(!rewrite(&mut message, &quote, &WAS_V6, Delta::ZERO));
    assert!(!rewrite(&mut message[..100], &quote, &WAS_V4, Delta::ZERO));
    assert!(!rewrite(&mut message, &Quote { l4_offset: 5, end: 60, ..quote }, &WAS_V4, Delta::ZERO));
    assert!(!rewrite(&mut message, &Quote { l4_offset: 20, end: 60, ..quote }, &WAS_V4, Delta::ZERO));
    assert_eq!(message, old);
    let mut out = [0; 1500];
    assert_eq!(translate_v4_to_v6(&message, &quote, &WAS_V4, outer(), ANY_MTU, &mut out), None);
    assert_eq!(translate_v6_to_v4(&message, &quote, &WAS_V4, outer(), ANY_MTU, &mut out), None);
}

#[test]
fn an_error_of_ipv4_becomes_one_of_ipv6() {
    let mut out = [0xee; 2000];
    for (before, after) in before_v6().into_iter().zip(after_v4()) {
        let message = message_v4(UNREACHABLE_V4, &after);
        let quote = find(&message, Family::V4).unwrap();
        let len = translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out).unwrap();
        assert_eq!(out[..len], message_v6((1, 0, U32::ZERO), &before));
        assert!(is_valid_v6(&out[..len]));
        // The least that a router may quote.
        let short = cut(message, 8 + 28, Family::V4);
        let quote = find(&short, Family::V4).unwrap();
        let len = translate_v4_to_v6(&short, &quote, &WAS_V6, outer(), ANY_MTU, &mut out).unwrap();
        assert_eq!((len, &out[8..len]), (8 + 48, &before[..48]));
    }
}

#[test]
fn an_error_of_ipv6_becomes_one_of_ipv4() {
    let mut out = [0xee; 2000];
    for (before, after) in before_v4().into_iter().zip(after_v6()) {
        let message = message_v6(UNREACHABLE_V6, &after);
        let quote = find(&message, Family::V6).unwrap();
        let len = translate_v6_to_v4(&message, &quote, &WAS_V4, outer(), ANY_MTU, &mut out).unwrap();
        assert_eq!(out[..len], message_v4((3, 1, U32::ZERO), &before));
    }
}

#[test]
fn a_long_quote_is_cut_to_what_the_other_family_allows() {
    let mut out = [0xee; 2000];
    let six = TcpFrame6 { tcp: TcpFrame { payload: vec![1; 1400], ..tcp4() }, ..TcpFrame6::default() };
    let message = message_v6(UNREACHABLE_V6, &six.to_vec()[14..]);
    let quote = find(&message, Family::V6).unwrap();
    let len = translate_v6_to_v4(&message, &quote, &WAS_V4, outer(), ANY_MTU, &mut out).unwrap();
    assert_eq!(len + 20, 576);
    assert!(Sum::ZERO.bytes(&out[..len]).is_valid());
    let quoted: &ipv4::Header = crate::view(&out, 8).unwrap();
    assert_eq!(quoted.total_len.get(), 1440, "as long as the packet was, not as its quote is");

    // Other than a Linux host, a router may quote more than 576 bytes.
    let four = TcpFrame { payload: vec![1; 1400], ..tcp4() }.to_vec();
    let mut message = [&[3, 1, 0, 0, 0, 0, 0, 0], &four[14..]].concat();
    message = cut(message.clone(), message.len(), Family::V4);
    let quote = find(&message, Family::V4).unwrap();
    let len = translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out).unwrap();
    assert_eq!(len + 40, 1280);
    assert!(is_valid_v6(&out[..len]));
    assert_eq!(translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out[..51]), None);
    assert_eq!(translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out[..52]), Some(52));
}

#[test]
fn what_is_damaged_or_not_in_the_table_is_not_translated() {
    let mut out = [0; 1500];
    let mut message = message_v4((icmp::TYPE_REDIRECT, 1, U32::ZERO), &after_v4()[0]);
    let quote = find(&message, Family::V4).unwrap();
    assert_eq!(translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out), None);
    message = message_v4(UNREACHABLE_V4, &after_v4()[0]);
    *message.last_mut().unwrap() ^= 1;
    assert_eq!(translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out), None);
    let mut message = message_v6(UNREACHABLE_V6, &after_v6()[0]);
    let quote = find(&message, Family::V6).unwrap();
    *message.last_mut().unwrap() ^= 1;
    assert_eq!(translate_v6_to_v4(&message, &quote, &WAS_V4, outer(), ANY_MTU, &mut out), None);
}

#[test]
fn the_mtu_and_the_fragment_header_go_along() {
    let mut out = [0; 1500];
    let big = UdpFrame { payload: vec![1; 3000], ..udp4() }.to_vec();
    let first = &fragments_v4(&big, 1500)[0];
    let message = message_v4((3, 4, icmp::rest_of_mtu(1400)), &first[14..]);
    let quote = find(&message, Family::V4).unwrap();
    let len = translate_v4_to_v6(&message, &quote, &WAS_V6, outer(), ANY_MTU, &mut out).unwrap();
    assert_eq!(out[..8], [2, 0, out[2], out[3], 0, 0, 0x05, 0x8c]);
    let again = find(&out[..len], Family::V6).unwrap();
    assert_eq!((again.l4_offset, again.is_fragment, again.src_port), (56, true, WAS_V6.src_port));

    let six = with_extensions(&UdpFrame6::default().to_vec(), &[Extension::fragment(0, true, 0x9_0007)]);
    let message = message_v6((2, 0, U32::new(1400)), &six[14..]);
    let quote = find(&message, Family::V6).unwrap();
    translate_v6_to_v4(&message, &quote, &WAS_V4, outer(), ANY_MTU, &mut out).unwrap();
    assert_eq!((&out[..2], &out[4..8]), (&[3, 4][..], &[0, 0, 0x05, 0x5c][..]));
    let quoted: &ipv4::Header = crate::view(&out, 8).unwrap();
    assert_eq!((quoted.id.get(), quoted.more_fragments()), (7, true));
}

/// A datagram as it was sent, and with its client told in a header.
fn told_and_untold(family: Family) -> (Vec<u8>, Vec<u8>) {
    let datagram = match family {
        Family::V4 => udp4().to_vec(),
        Family::V6 => UdpFrame6 { payload: vec![6; 101], ..UdpFrame6::default() }.to_vec(),
    };
    let addr = match family {
        Family::V4 => core::net::Ipv4Addr::new(203, 0, 113, 7).into(),
        Family::V6 => core::net::Ipv6Addr::from(documentation_v6(7)).into(),
    };
    let mut told = HeapBuf::from_frame(&datagram);
    uoa::insert(&mut told, 14, uoa::Form::Header, uoa::Client { addr, port: U16::new(4660) }).unwrap();
    (l3(&datagram), l3(told.data()))
}

fn message(family: Family, original: &[u8]) -> Vec<u8> {
    match family {
        Family::V4 => message_v4(UNREACHABLE_V4, original),
        Family::V6 => message_v6(UNREACHABLE_V6, original),
    }
}

#[test]
fn a_datagram_that_told_its_client_is_found_and_becomes_what_was_sent() {
    for family in [Family::V4, Family::V6] {
        let (datagram, told) = told_and_untold(family);
        let (untold, mut message) = (message(family, &datagram), message(family, &told));
        let (wanted, found) = (find(&untold, family).unwrap(), find(&message, family).unwrap());
        let told_len = told.len() - datagram.len();
        let (l4_offset, end) = (wanted.l4_offset + told_len, wanted.end + told_len);
        assert_eq!(found, Quote { l4_offset, end, told_len, ..wanted });
        assert_eq!(untell(&mut message, &found), Some(wanted));
        assert_eq!(message[8..wanted.end], untold[8..]);
        assert!(message[wanted.end..].iter().all(|byte| *byte == 0));
        assert!(is_valid(&message, family), "{family:?}");
        assert_eq!(find(&message, family), Ok(wanted));
        assert_eq!(untell(&mut message, &wanted), None, "there is nothing more to take out");
    }
}

fn is_valid(message: &[u8], family: Family) -> bool {
    match family {
        Family::V4 => Sum::ZERO.bytes(message).is_valid(),
        Family::V6 => is_valid_v6(message),
    }
}

#[test]
fn however_a_told_datagram_is_cut_its_message_stays_right_and_as_long() {
    for family in [Family::V4, Family::V6] {
        let whole = message(family, &told_and_untold(family).1);
        for len in 8..=whole.len() {
            let mut message = cut(whole.clone(), len, family);
            let Ok(quote) = find(&message, family) else {
                // The ports stand behind both headers.
                assert!(len < whole.len() - 101, "{len}");
                continue;
            };
            let untold = untell(&mut message, &quote).unwrap();
            assert_eq!(
                (message.len(), find(&message, family).map(|found| found.src_port)),
                (len, Ok(untold.src_port))
            );
            assert!(is_valid(&message, family), "{family:?} {len}");
        }
    }
}

#[test]
fn a_header_that_is_not_ours_has_no_ports_behind_it() {
    for (at, byte) in [(0, 0x20), (0, 0x11), (1, 6), (3, 13), (4, 30), (5, 9)] {
        let mut told = told_and_untold(Family::V4).1;
        told[20 + at] = byte;
        assert_eq!(find(&message(Family::V4, &told), Family::V4), Err(Unusable::NoPorts(uoa::PROTOCOL)));
    }
}

proptest! {
    #[test]
    fn noise_is_found_or_not_but_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..160),
        kind in prop::sample::select(vec![3u8, 11, 12, 1, 2, 4]),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60]),
        protocol in prop::sample::select(vec![6u8, 17, 132, 44, 60]),
        attribute in 0u8..40,
    ) {
        let mut message = bytes;
        let lengths = [(4, attribute), (5, attribute)];
        let quoted = [(8, first), (17, protocol), (14, protocol)];
        for (at, value) in [&[(0, kind)], &lengths[..], &quoted].concat() {
            if let Some(byte) = message.get_mut(at) {
                *byte = value;
            }
        }
        let mut out = [0; 1500];
        for family in [Family::V4, Family::V6] {
            let Ok(quote) = find(&message, family) else { continue };
            prop_assert!(quote.l4_offset + 4 <= quote.end && quote.end <= message.len());
            let new = if family == Family::V4 { WAS_V4 } else { WAS_V6 };
            let mut rewritten = cut(message.clone(), message.len(), family);
            prop_assert!(rewrite(&mut rewritten, &quote, &new, Delta::ZERO));
            let valid = match family {
                Family::V4 => Sum::ZERO.bytes(&rewritten).is_valid(),
                Family::V6 => is_valid_v6(&rewritten),
            };
            prop_assert!(valid);
            let again = find(&rewritten, family).unwrap();
            prop_assert_eq!(again.addresses, new.addresses);
            prop_assert_eq!((again.src_port, again.dst_port), (new.src_port, new.dst_port));
            // And back again: nothing else has changed.
            let back = Rewrite {
                addresses: quote.addresses,
                src_port: quote.src_port,
                dst_port: quote.dst_port,
                seq_shift: SEQ_SHIFT.wrapping_neg(),
            };
            prop_assert!(rewrite(&mut rewritten, &quote, &back, Delta::ZERO));
            for (at, (old, new)) in message.iter().zip(&rewritten).enumerate() {
                let is_checksum = [2, 3, 18, 19, quote.l4_offset + 6, quote.l4_offset + 7].contains(&at)
                    || (16..18).contains(&at.wrapping_sub(quote.l4_offset));
                prop_assert!(is_checksum || old == new, "byte {at}");
            }
            let fresh = cut(message.clone(), message.len(), family);
            let four = translate_v4_to_v6(&fresh, &quote, &WAS_V6, outer(), ANY_MTU, &mut out);
            prop_assert!(four.is_none_or(|len| is_valid_v6(&out[..len]) && len <= 1240));
            let six = translate_v6_to_v4(&fresh, &quote, &WAS_V4, outer(), ANY_MTU, &mut out);
            prop_assert!(six.is_none_or(|len| Sum::ZERO.bytes(&out[..len]).is_valid() && len <= 556));
        }
    }

    #[test]
    fn quoted_segments_keep_right_checksums(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        options in tcp::options::tests::optionish(),
    ) {
        let frame = TcpFrame { payload, options, ..tcp4() }.to_vec();
        let mut message = message_v4(UNREACHABLE_V4, &frame[14..]);
        let quote = find(&message, Family::V4).unwrap();
        prop_assert!(rewrite(&mut message, &quote, &WAS_V4, Delta::ZERO));
        let ip: &ipv4::Header = crate::view(&message, 8).unwrap();
        prop_assert!(checksum::verify_ipv4(&message[8..28]) && Sum::ZERO.bytes(&message).is_valid());
        prop_assert!(checksum::verify_tcp_v4(ip.src, ip.dst, &message[28..]));
    }
}
