use proptest::prelude::*;

use super::*;
use crate::{arp, toa};

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

proptest! {
    #[test]
    fn any_bytes_have_a_summary(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        ether_type in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88cc]),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x60, 0]),
        protocol in prop::sample::select(vec![1u8, 6, 17, 58, 44]),
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
