//! Whole packets: quotes in ICMP errors, translation between the families, tunnels, fragments, answers and
//! insertion.

use wire::checksum::{self, Delta, Sum};
use wire::ipv4::Fragments;
use wire::nat64::{self, NextHopMtus};
use wire::quote::{self, Rewrite};
use wire::tunnel::{self, Inner, Kind, OuterV4, OuterV6};
use wire::{
    Addresses, Family, HeapBuf, IntoBytes, PacketBuf, U16, U32, icmp, icmpv6, ipv4, ipv6, toa, view, view_mut,
};

const SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const SRC_V4: U32 = U32::new(0xc000_0201);
const DST_V4: U32 = U32::new(0xc633_6401);

/// Whether an ICMP or ICMPv6 message, the latter from `SRC` to `DST`, has a right checksum.
fn is_valid(message: &[u8], family: Family) -> bool {
    let sum = match family {
        Family::V4 => Sum::ZERO,
        Family::V6 => checksum::pseudo_v6(&SRC, &DST, ipv4::PROTO_ICMPV6, U32::new(message.len() as u32)),
    };
    sum.bytes(message).is_valid()
}

/// A quote that is rewritten is what was asked for, in a message that is right when it was; translated into
/// the other family it is right and short enough.
pub(super) fn quotes(given: &[u8]) {
    let (v4, v6) = (Addresses::V4 { src: SRC_V4, dst: DST_V4 }, Addresses::V6 { src: SRC, dst: DST });
    for (family, own, other) in [(Family::V4, v4, v6), (Family::V6, v6, v4)] {
        let mut message = given.to_vec();
        let Ok(found) = quote::find(&message, family) else { continue };
        let check = match family {
            Family::V4 => checksum::icmp(&message),
            Family::V6 => checksum::icmp_v6(&SRC, &DST, &message),
        };
        if let Some(header) = view_mut::<icmp::Header>(&mut message, 0) {
            header.checksum = check;
        }
        let new = |addresses| Rewrite {
            addresses,
            src_port: U16::new(1),
            dst_port: U16::new(2),
            seq_shift: 0x1234_5678,
        };
        let mut out = [0; 1500];
        let (mtus, ends) = (NextHopMtus { v4: 1500, v6: 1500 }, (&SRC, &DST));
        if let Some(len) = quote::translate_v4_to_v6(&message, &found, &new(other), ends, mtus, &mut out) {
            assert!(is_valid(&out[..len], Family::V6) && len <= 1240, "{given:02x?}");
        }
        if let Some(len) = quote::translate_v6_to_v4(&message, &found, &new(other), ends, mtus, &mut out) {
            assert!(is_valid(&out[..len], Family::V4) && len <= 556, "{given:02x?}");
        }
        assert!(quote::rewrite(&mut message, &found, &new(own), Delta::ZERO), "{given:02x?}");
        assert!(is_valid(&message, family), "{given:02x?} became {message:02x?}");
        let again = quote::find(&message, family);
        assert!(again.is_ok_and(|again| again.addresses == own && again.dst_port.get() == 2), "{given:02x?}");
    }
}

/// Translated headers are right, and tell a length that the packet has.
pub(super) fn translation(packet: &[u8]) {
    if let Some(header) = view::<ipv4::Header>(packet, 0)
        && let Ok(header_len) = header.check(packet.len())
    {
        let headers = nat64::v4_to_v6(header, (&SRC, &DST), header.ttl);
        let mut new = vec![0; headers.header_len()];
        assert_eq!(headers.write(&mut new), Some(headers.header_len()));
        new.extend_from_slice(&packet[header_len..usize::from(header.total_len.get())]);
        assert_eq!(headers.ip.check(new.len()), Ok(new.len()), "{packet:02x?}");
        let _ = ipv4::has_pending_source_route(&packet[ipv4::HEADER_LEN..header_len]);
    }
    if let Some(header) = view::<ipv6::Header>(packet, 0)
        && let Ok(len) = header.check(packet.len())
        && let Ok(upper) = ipv6::walk_extensions(&packet[..len])
    {
        let _ = ipv6::segments_left_offset(&packet[..len]);
        if let Some(new) = nat64::v6_to_v4(header, &upper, (SRC_V4, DST_V4), U16::ZERO, 64) {
            assert!(checksum::verify_ipv4(new.as_bytes()), "{packet:02x?}");
            assert_eq!(
                new.check(ipv4::HEADER_LEN + len - upper.offset),
                Ok(ipv4::HEADER_LEN),
                "{packet:02x?}"
            );
        }
    }
    let mut message = packet.to_vec();
    if nat64::echo_v4_to_v6(&mut message, (&SRC, &DST)) {
        assert!(nat64::echo_v6_to_v4(&mut message, (&SRC, &DST)));
        assert_eq!(message[4..], packet[4..]);
    }
}

/// What goes into a tunnel comes out of it.
pub(super) fn tunnels(packet: &[u8]) {
    let gue_port = U16::new(6080);
    let _ = tunnel::open(packet, Some(gue_port));
    let Some(inner) = Inner::read(packet).filter(|inner| inner.len <= packet.len()) else { return };
    for kind in [Kind::Ip, Kind::Gre { checksum: true }, Kind::Gue { dst_port: gue_port, checksum: true }] {
        for family in [Family::V4, Family::V6] {
            let mut outer = vec![0; kind.overhead(family)];
            outer.extend_from_slice(packet);
            let written = match family {
                Family::V4 => OuterV4 { src: SRC_V4, dst: DST_V4, kind, id: U16::ZERO, flow_hash: 7 }
                    .write(&mut outer, &inner),
                Family::V6 => OuterV6 { src: SRC, dst: DST, kind, flow_hash: 7 }.write(&mut outer, &inner),
            };
            let Some(overhead) = written else { continue };
            assert_eq!(outer[overhead..], *packet);
            let opened = tunnel::open(&outer, Some(gue_port));
            assert!(opened.is_some_and(|opened| opened.inner_offset == overhead), "{packet:02x?}");
        }
    }
}

/// First two bytes: an MTU. Fragments fit it and hold the payload once.
pub(super) fn fragments(given: &[u8]) {
    let Some((mtu, packet)) = given.split_first_chunk::<2>() else { return };
    let mtu = usize::from(u16::from_be_bytes(*mtu));
    let Some(header) = view::<ipv4::Header>(packet, 0) else { return };
    let Ok(pieces) = Fragments::new(packet, mtu) else { return };
    let mut end = header.header_len();
    for piece in pieces {
        let mut out = vec![0; piece.packet_len()];
        assert_eq!(piece.write(packet, &mut out), Some(out.len()));
        assert!(out.len() <= mtu && piece.payload.start == end, "{given:02x?}");
        end = piece.payload.end;
    }
    assert_eq!(end, usize::from(header.total_len.get()), "{given:02x?}");
}

/// First byte: where the IP header begins, second: where the TCP header begins. Answers are right packets,
/// and a buffer that cannot take an answer or an option is as it was.
pub(super) fn in_place(given: &[u8]) {
    let Some((&[l3, l4], frame)) = given.split_first_chunk::<2>() else { return };
    let (l3, l4) = (usize::from(l3), usize::from(l4));
    let mut packet = HeapBuf::from_frame(frame);
    if icmp::answer_in_place(&mut packet, l3, SRC_V4, icmp::Error::NoRoute.v4()) {
        let answer = &packet.data()[l3..];
        assert!(answer.len() <= icmp::ERROR_PACKET_LEN_MAX && checksum::verify_ipv4(&answer[..20]));
        assert!(is_valid(&answer[20..], Family::V4), "{given:02x?}");
    } else {
        assert_eq!(packet.data(), frame);
    }
    let mut packet = HeapBuf::from_frame(frame);
    if icmpv6::answer_in_place(&mut packet, l3, &SRC, icmp::Error::NoRoute.v6()) {
        let answer = &packet.data()[l3..];
        assert!(answer.len() <= ipv6::MTU_MIN, "{given:02x?}");
        let header = view::<ipv6::Header>(answer, 0);
        assert!(header.is_some_and(|header| header.check(answer.len()) == Ok(answer.len())), "{given:02x?}");
    } else {
        assert_eq!(packet.data(), frame);
    }
    let mut packet = HeapBuf::from_frame(frame);
    if toa::insert(&mut packet, l3, l4, &toa::encode_v4(254, SRC_V4, U16::ZERO)).is_err() {
        assert_eq!(packet.data(), frame);
    }
}
