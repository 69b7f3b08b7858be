use proptest::prelude::*;

use super::*;
use crate::{arp, ethernet, ipv6, toa};

#[test]
fn a_handshake_with_toa_reads_as_tcpdump_would_show_it() {
    let toa = toa::encode_v4(254, U32::new(0xcb00_7107), U16::new(4660));
    let options = [&toa[..], &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]].concat();
    let frame = TcpFrame { options, payload: b"GET".to_vec(), ..TcpFrame::default() }.to_vec();
    assert_eq!(
        summary(&frame),
        "192.0.2.1:40000 > 198.51.100.1:80 tcp . seq 1000 ack 0 win 65535 [toa-254 203.0.113.7:4660,ts 1 2] len 3"
    );
    let options = vec![2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7];
    let frame =
        TcpFrame { options, flags: tcp::flags::SYN | tcp::flags::ACK, ..TcpFrame::default() }.to_vec();
    assert_eq!(
        summary(&frame),
        "192.0.2.1:40000 > 198.51.100.1:80 tcp S. seq 1000 ack 0 win 65535 [mss 1460,sackOK,wscale 7] len 0"
    );
}

#[test]
fn frames_of_all_builders_read_well_and_have_right_checksums() {
    let udp = UdpFrame { payload: vec![0; 12], ..UdpFrame::default() };
    assert_eq!(summary(&udp.to_vec()), "192.0.2.1:40000 > 198.51.100.1:53 udp len 12");
    assert_eq!(
        summary(&UdpFrame { no_checksum: true, ..udp }.to_vec()),
        "192.0.2.1:40000 > 198.51.100.1:53 udp len 12"
    );
    let echo = EchoFrame::default().to_vec();
    assert_eq!(summary(&echo), "192.0.2.1 > 198.51.100.1 icmp echo request id 1 seq 1");
    let six = TcpFrame6::default().to_vec();
    assert_eq!(summary(&six), "[2001:db8::1]:40000 > [2001:db8::2]:80 tcp . seq 1000 ack 0 win 65535 len 0");
    let request = arp::Packet::request(MAC_SRC, IP_SRC, IP_DST);
    let frame = ethernet(MacAddr::BROADCAST, MAC_SRC, ethernet::ETHERTYPE_ARP, request.as_bytes());
    assert_eq!(summary(&frame), "arp who-has 198.51.100.1 tell 192.0.2.1");
}

#[test]
fn an_error_frame_shows_the_quoted_packet() {
    let original = TcpFrame::default().to_vec();
    let error = (icmp::TYPE_UNREACHABLE, icmp::CODE_HOST_UNREACHABLE, U32::ZERO);
    let frame = icmp_error_frame(Ipv4Base::default(), error, &original[14..]).unwrap();
    assert_eq!(
        summary(&frame),
        "192.0.2.1 > 198.51.100.1 icmp type 3 code 1 rest 0x0 \
         (192.0.2.1:40000 > 198.51.100.1:80 tcp . seq 1000 ack 0 win 65535 len 0)"
    );
    // The old minimum: 8 bytes of the segment.
    let frame = icmp_error_frame(Ipv4Base::default(), error, &original[14..14 + 28]).unwrap();
    assert!(
        summary(&frame).ends_with("(192.0.2.1:40000 > 198.51.100.1:80 tcp truncated)"),
        "{}",
        summary(&frame)
    );
}

#[test]
fn wrong_checksums_are_told() {
    let mut frame = TcpFrame::default().to_vec();
    frame[22] = 63; // TTL
    frame[40] ^= 1; // sequence number
    assert!(summary(&frame).ends_with("len 0 [bad tcp checksum] [bad ip checksum]"), "{}", summary(&frame));
}

#[test]
fn padding_is_no_payload() {
    let frame = TcpFrame { pad: true, ..TcpFrame::default() }.to_vec();
    assert_eq!(frame.len(), 60);
    assert!(summary(&frame).ends_with("len 0"));
}

#[test]
fn fragments_and_tags_are_shown() {
    let base = Ipv4Base { flags_fragment: U16::new(0x2000 | 185), ..Ipv4Base::default() };
    assert_eq!(summary(&base.frame(&[0; 8])), "192.0.2.1 > 198.51.100.1 ip proto 6 frag 1480+ len 8");
    let packet = UdpFrame::default().to_vec()[14..].to_vec();
    let tagged = [&[0x20, 0x05, 0x08, 0x00][..], &packet].concat();
    let frame = ethernet(MAC_DST, MAC_SRC, ethernet::ETHERTYPE_VLAN, &tagged);
    assert_eq!(summary(&frame), "vlan 5 192.0.2.1:40000 > 198.51.100.1:53 udp len 0");
}

#[test]
fn frames_over_ipv6_read_well_and_have_right_checksums() {
    let udp = UdpFrame6 { payload: vec![9; 12], ..UdpFrame6::default() };
    assert_eq!(summary(&udp.to_vec()), "[2001:db8::1]:40000 > [2001:db8::2]:53 udp len 12");
    let bare = UdpFrame6 { no_checksum: true, ..udp.clone() }.to_vec();
    assert_eq!(summary(&bare), "[2001:db8::1]:40000 > [2001:db8::2]:53 udp len 12 [bad udp checksum]");
    let echo = EchoFrame6::default().to_vec();
    assert_eq!(summary(&echo), "[2001:db8::1] > [2001:db8::2] icmp6 echo request id 1 seq 1");
    let error = icmpv6_error_frame(Ipv6Base::default(), (1, 4, U32::ZERO), &udp.to_vec()[14..]).unwrap();
    assert_eq!(
        summary(&error),
        "[2001:db8::1] > [2001:db8::2] icmp6 type 1 code 4 rest 0x0 \
         ([2001:db8::1]:40000 > [2001:db8::2]:53 udp len 12)"
    );
}

#[test]
fn extension_headers_stand_in_the_order_that_was_asked_for() {
    let plain = UdpFrame6 { payload: vec![9; 12], ..UdpFrame6::default() }.to_vec();
    let chain = [
        Extension::empty(ipv6::NEXT_HOP_BY_HOP),
        Extension { kind: ipv6::NEXT_DESTINATION, data: vec![1; 7] },
        Extension { kind: ipv6::NEXT_AUTH, data: vec![0; 10] },
    ];
    let frame = with_extensions(&plain, &chain);
    let upper = ipv6::walk_extensions(&frame[14..]).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.hop_by_hop), (17, 40 + 8 + 16 + 12, true));
    assert_eq!(frame[14 + upper.offset..], plain[54..]);
    assert_eq!(summary(&frame), summary(&plain));
    let tagged = tagged(&plain, 7);
    assert_eq!(summary(&with_extensions(&tagged, &chain)), format!("vlan 7 {}", summary(&plain)));
}

#[test]
fn fragments_fit_their_mtu_and_hold_the_payload_once() {
    let payload: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
    let four = UdpFrame { payload: payload.clone(), ..UdpFrame::default() }.to_vec();
    let six = UdpFrame6 { payload, ..UdpFrame6::default() }.to_vec();
    for mtu in [1280, 1499, 1500, 4027, 4028, 9000] {
        for frame in [&four, &tagged(&four, 9)] {
            let (l3, pieces) = (l3_offset(frame), fragments_v4(frame, mtu));
            let mut whole = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let ip: &ipv4::Header = crate::view(piece, l3).unwrap();
                assert_eq!(ip.check(piece.len() - l3), Ok(20));
                assert!(checksum::verify_ipv4(&piece[l3..l3 + 20]) && piece.len() - l3 <= mtu);
                assert_eq!(usize::from(ip.fragment_offset()), whole.len());
                assert_eq!(ip.more_fragments(), index + 1 < pieces.len());
                whole.extend_from_slice(&piece[l3 + 20..]);
            }
            assert_eq!(whole, frame[l3 + 20..], "mtu {mtu}");
        }
        let mut whole = Vec::new();
        for piece in fragments_v6(&six, mtu, 77) {
            let upper = ipv6::walk_extensions(&piece[14..]).unwrap();
            let fragment = upper.fragment.unwrap();
            assert_eq!((fragment.id.get(), usize::from(fragment.fragment_offset())), (77, whole.len()));
            assert!(piece.len() - 14 <= mtu);
            whole.extend_from_slice(&piece[14 + upper.offset..]);
            assert_eq!(fragment.more_fragments(), whole.len() < six.len() - 54);
        }
        assert_eq!(whole, six[54..], "mtu {mtu}");
    }
    assert_eq!(fragments_v4(&four, 4028), [four]);
}

#[test]
fn a_fragment_of_a_fragment_says_where_it_belongs() {
    let frame = UdpFrame { payload: vec![5; 3000], ..UdpFrame::default() }.to_vec();
    let twice: Vec<_> =
        fragments_v4(&frame, 1500).iter().flat_map(|piece| fragments_v4(piece, 600)).collect();
    let mut end = 0;
    for piece in &twice {
        let ip: &ipv4::Header = crate::view(piece, 14).unwrap();
        assert_eq!(usize::from(ip.fragment_offset()), end);
        end += piece.len() - 34;
        assert_eq!(ip.more_fragments(), end < 3008);
    }
    assert_eq!(end, 3008);
}

#[test]
fn tunnels_show_what_is_in_them() {
    let four = TcpFrame::default().to_vec()[14..].to_vec();
    let six = TcpFrame6::default().to_vec()[14..].to_vec();
    let (src_port, dst_port) = (U16::new(50_000), GUE_PORT);
    let mut seen = Vec::new();
    for inner in [&four, &six] {
        let inside = summary(&ethernet(
            MAC_DST,
            MAC_SRC,
            if inner[0] == 0x45 { ethernet::ETHERTYPE_IPV4 } else { ethernet::ETHERTYPE_IPV6 },
            inner,
        ));
        for wrap in [
            Wrap::Ip,
            Wrap::Gre,
            Wrap::GreChecksum,
            Wrap::Gue { src_port, dst_port },
            Wrap::GueChecksum { src_port, dst_port },
        ] {
            let four = summary(&wrap.over_v4(Ipv4Base::default(), inner));
            let six = summary(&wrap.over_v6(Ipv6Base::default(), inner));
            seen.extend([four.replace(&inside, "INNER"), six.replace(&inside, "INNER")]);
        }
    }
    let gue = |udp_len: usize| format!("192.0.2.1:50000 > 198.51.100.1:6080 udp len {udp_len} gue (INNER)");
    let gue6 =
        |udp_len: usize| format!("[2001:db8::1]:50000 > [2001:db8::2]:6080 udp len {udp_len} gue (INNER)");
    let mut wanted = Vec::new();
    for inner_len in [40, 60] {
        for kind in ["ipip", "gre", "gre"] {
            wanted.push(format!("192.0.2.1 > 198.51.100.1 {kind} (INNER)"));
            wanted.push(format!("[2001:db8::1] > [2001:db8::2] {kind} (INNER)"));
        }
        wanted.extend([gue(inner_len + 4), gue6(inner_len + 4) + " [bad udp checksum]"]);
        wanted.extend([gue(inner_len + 4), gue6(inner_len + 4)]);
    }
    assert_eq!(seen, wanted);
    let mut broken = Wrap::GreChecksum.over_v4(Ipv4Base::default(), &four);
    broken[38] ^= 1;
    assert!(summary(&broken).ends_with(" [bad gre checksum]"), "{}", summary(&broken));
}

proptest! {
    #[test]
    fn any_bytes_have_a_summary(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        ether_type in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88cc]),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x60, 0]),
        protocol in prop::sample::select(vec![1u8, 4, 6, 17, 41, 47, 58, 44]),
    ) {
        let mut bytes = bytes;
        prop_assert!(!summary(&bytes).is_empty());
        for (at, value) in [(0, first), (9, protocol), (6, protocol)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if bytes.len() >= 4 && first != 0x60 {
            let len = (bytes.len() as u16).to_be_bytes();
            bytes[2..4].copy_from_slice(&len);
        } else if bytes.len() >= 40 {
            let len = (bytes.len() as u16 - 40).to_be_bytes();
            bytes[4..6].copy_from_slice(&len);
        }
        let frame = ethernet(MAC_DST, MAC_SRC, U16::new(ether_type), &bytes);
        let line = summary(&frame);
        prop_assert!(!line.is_empty() && !line.contains('\n'));
        for cut in 0..frame.len() {
            let _ = summary(&frame[..cut]);
        }
    }

    #[test]
    fn built_segments_are_what_was_asked_for(
        options in tcp::options::tests::optionish(),
        payload in prop::collection::vec(any::<u8>(), 0..100),
        flags in any::<u8>(),
        numbers in any::<(u32, u32)>(),
    ) {
        let wanted = TcpFrame {
            options, payload, flags, seq: U32::new(numbers.0), ack: U32::new(numbers.1), ..TcpFrame::default()
        };
        let frame = wanted.to_vec();
        let ip: &ipv4::Header = crate::view(&frame, 14).unwrap();
        prop_assert_eq!(ip.check(frame.len() - 14), Ok(20));
        prop_assert!(checksum::verify_ipv4(&frame[14..34]));
        let segment = &frame[34..];
        prop_assert!(checksum::verify_tcp_v4(ip.src, ip.dst, segment));
        let tcp: &tcp::Header = crate::view(segment, 0).unwrap();
        let header_len = tcp.check(segment.len()).unwrap();
        prop_assert_eq!((tcp.seq, tcp.ack, tcp.flags), (wanted.seq, wanted.ack, wanted.flags));
        prop_assert!(tcp::options_of(segment).unwrap().starts_with(&wanted.options));
        prop_assert_eq!(&segment[header_len..], &wanted.payload[..]);
    }
}
