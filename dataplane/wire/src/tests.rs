//! What holds of all views: they exist exactly when there are enough bytes, and no accessor panics.

use proptest::prelude::*;

use super::*;
use crate::build::{Ipv4Base, TcpFrame};

/// Calls everything that can be called on a view over arbitrary bytes.
fn touch_all(bytes: &[u8], offset: usize) {
    let available = bytes.len().saturating_sub(offset);
    if let Some(h) = view::<ethernet::Header>(bytes, offset) {
        let _ = (h.dst.is_multicast(), h.src.is_unicast(), h.ether_type.get(), h.dst.to_string());
    }
    if let Some(h) = view::<ethernet::VlanTag>(bytes, offset) {
        let _ = h.vlan_id();
    }
    if let Some(h) = view::<arp::Packet>(bytes, offset) {
        let _ = (h.is_ipv4_over_ethernet(), h.reply(MacAddr::ZERO));
    }
    if let Some(h) = view::<ipv4::Header>(bytes, offset) {
        let _ = (h.version(), h.header_len(), h.is_fragment(), h.more_fragments(), h.fragment_offset());
        let _ = (h.dont_fragment(), ipv4::to_addr(h.src), ipv4::is_unicast(h.dst));
        if let Ok(header_len) = h.check(available) {
            assert!((20..=60).contains(&header_len) && header_len <= usize::from(h.total_len.get()));
            assert!(usize::from(h.total_len.get()) <= available);
        }
    }
    if let Some(h) = view::<ipv6::Header>(bytes, offset) {
        let _ = (h.version(), h.traffic_class(), h.flow_label(), h.check(available));
    }
    if let Some(h) = view::<ipv6::FragmentHeader>(bytes, offset) {
        let _ = (h.fragment_offset(), h.more_fragments(), h.is_atomic());
    }
    if let Some(h) = view::<tcp::Header>(bytes, offset) {
        let _ = (h.header_len(), h.has(tcp::flags::SYN), h.show_flags().to_string());
        if let Ok(header_len) = h.check(available) {
            assert!((20..=60).contains(&header_len) && header_len <= available);
            assert_eq!(tcp::options_of(&bytes[offset..]).map(<[u8]>::len), Some(header_len - 20));
        } else {
            assert_eq!(tcp::options_of(&bytes[offset..]), None);
        }
    }
    if let Some(h) = view::<udp::Header>(bytes, offset) {
        assert!(
            h.check(available).is_ok_and(|len| (8..=available).contains(&len)) || h.check(available).is_err()
        );
    }
    if let Some(h) = view::<icmp::Header>(bytes, offset) {
        let _ = (h.is_error(), h.echo_id(), h.echo_seq(), h.next_hop_mtu(), icmpv6::is_error_type(h.kind));
    }
}

#[test]
fn a_view_exists_exactly_when_there_are_enough_bytes() {
    let bytes = [0; 64];
    assert!(view::<tcp::Header>(&bytes, 44).is_some());
    assert!(view::<tcp::Header>(&bytes, 45).is_none());
    assert!(view::<tcp::Header>(&bytes, 64).is_none());
    assert!(view::<tcp::Header>(&bytes, 65).is_none());
    assert!(view::<tcp::Header>(&bytes, usize::MAX).is_none());
    assert!(view_mut::<udp::Header>(&mut [0; 7], 0).is_none());
}

#[test]
fn writes_through_a_view_reach_the_packet_in_network_order() {
    let mut bytes = [0; 28];
    let header: &mut udp::Header = view_mut(&mut bytes, 20).unwrap();
    header.dst_port = U16::new(0x1234);
    assert_eq!(bytes[22..24], [0x12, 0x34]);
}

#[test]
fn an_ipv4_header_is_checked_against_itself_and_the_packet() {
    let header = Ipv4Base::default().header(20);
    assert_eq!(header.check(40), Ok(20));
    assert_eq!(header.check(46), Ok(20), "padding");
    assert_eq!(header.check(39), Err(ipv4::HeaderError::Truncated { total: 40, available: 39 }));
    let with =
        |version_ihl, total_len| ipv4::Header { version_ihl, total_len: U16::new(total_len), ..header };
    assert_eq!(with(0x65, 40).check(40), Err(ipv4::HeaderError::Version(6)));
    assert_eq!(with(0x44, 40).check(40), Err(ipv4::HeaderError::HeaderTooShort(16)));
    assert_eq!(with(0x4f, 60).check(60), Ok(60));
    assert_eq!(with(0x4f, 59).check(60), Err(ipv4::HeaderError::TotalBelowHeader { total: 59, header: 60 }));
    assert_eq!(with(0x45, 19).check(60), Err(ipv4::HeaderError::TotalBelowHeader { total: 19, header: 20 }));
}

#[test]
fn fragment_fields_are_read_apart() {
    let header = |flags_fragment| ipv4::Header {
        flags_fragment: U16::new(flags_fragment),
        ..Ipv4Base::default().header(0)
    };
    assert!(header(0x4000).dont_fragment() && !header(0x4000).is_fragment());
    assert!(header(0x2000).is_fragment() && header(0x2000).more_fragments());
    assert!(header(0x1fff).is_fragment() && !header(0x1fff).more_fragments());
    assert_eq!(header(0xffff).fragment_offset(), 65_528);
}

#[test]
fn every_hop_leaves_the_ipv4_checksum_right_and_the_last_is_not_taken() {
    for protocol in [0, 6, 17, 255] {
        let mut header = Ipv4Base { ttl: 255, protocol, ..Ipv4Base::default() }.header(20);
        for ttl in (1..255).rev() {
            assert!(header.decrement_ttl());
            assert_eq!(header.ttl, ttl);
            assert_eq!(
                header.checksum,
                Ipv4Base { ttl, protocol, ..Ipv4Base::default() }.header(20).checksum
            );
        }
        let last = header;
        assert!(!header.decrement_ttl());
        assert_eq!(header, last);
        let mut dead = ipv4::Header { ttl: 0, ..header };
        assert!(!dead.decrement_ttl());
    }
}

#[test]
fn setting_the_tcp_header_length_keeps_the_reserved_bits() {
    let mut header = tcp::Header::read_from_bytes(&[0xff; 20]).unwrap();
    header.set_header_len(28);
    assert_eq!((header.header_len(), header.data_offset), (28, 0x7f));
}

#[test]
fn shifted_numbers_keep_the_checksum_right() {
    let frame = TcpFrame { seq: U32::MAX_VALUE, ack: U32::new(7), ..TcpFrame::default() };
    let mut segment = frame.to_vec()[34..].to_vec();
    let header: &mut tcp::Header = view_mut(&mut segment, 0).unwrap();
    let delta = header.shift_seq(3) + header.shift_ack(8u32.wrapping_neg());
    header.checksum = delta.apply(header.checksum);
    let shifted = TcpFrame { seq: U32::new(2), ack: U32::MAX_VALUE, ..frame };
    assert_eq!(segment, shifted.to_vec()[34..]);
    let mut syn = tcp::Header { flags: tcp::flags::SYN, ..*view(&segment, 0).unwrap() };
    assert_eq!(
        (syn.shift_ack(5), syn.ack),
        (checksum::Delta::ZERO, U32::MAX_VALUE),
        "without ACK it does not count"
    );
}

#[test]
fn a_udp_length_is_checked() {
    let header = |len| udp::Header { len: U16::new(len), ..udp::Header::read_from_bytes(&[0; 8]).unwrap() };
    assert_eq!(header(8).check(8), Ok(8));
    assert_eq!(header(7).check(8), Err(udp::HeaderError::LengthTooSmall(7)));
    assert_eq!(header(9).check(8), Err(udp::HeaderError::LengthBeyondPacket { claimed: 9, available: 8 }));
}

#[test]
fn errors_say_what_is_wrong_and_what_would_be_right() {
    let error = Ipv4Base::default().header(20).check(30).unwrap_err();
    assert_eq!(error.to_string(), "IPv4 total length 40 is longer than the 30 bytes that are there");
    let error = tcp::options::iter(&[254, 9]).next().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "TCP option 254 at offset 0 has length 9, which is beyond the end of the options"
    );
}

proptest! {
    #[test]
    fn no_accessor_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100), offset in 0usize..110) {
        touch_all(&bytes, offset);
    }

    #[test]
    fn no_accessor_panics_on_a_cut_packet(ihl in 0x40u8..0x50, cut in 0usize..100, fill in any::<u8>()) {
        let mut bytes = vec![fill; cut];
        if let Some(first) = bytes.first_mut() {
            *first = ihl;
        }
        touch_all(&bytes, 0);
        if let Some(options) = tcp::options_of_mut(&mut bytes) {
            toa::strip(options);
        }
    }
}
