use proptest::prelude::*;

use super::*;
use crate::build::{Extension, TcpFrame, TcpFrame6, documentation_v6, tagged, with_extensions};
use crate::checksum::{Delta, internet};
use crate::tcp::options::{Malformed, iter, tests::optionish};
use crate::{HeapBuf, PacketBuf, ipv4, tcp};

const CLIENT: U32 = U32::new(0xcb00_7107);
const PORT: U16 = U16::new(4660);

/// Options as they stand in a segment: behind a header, so that the sum is not over zeroes alone.
fn sum_behind_header(options: &[u8]) -> U16 {
    internet(&[&[0x12; 20], options].concat())
}

#[test]
fn the_bytes_are_those_of_the_table() {
    assert_eq!(encode_v4(254, CLIENT, PORT), [254, 8, 0x12, 0x34, 203, 0, 113, 7]);
    let v6 = encode_v6(253, &documentation_v6(7), PORT);
    assert_eq!(v6[..4], [253, 20, 0x12, 0x34]);
    assert_eq!(v6[4..], documentation_v6(7));
}

#[test]
fn every_layout_of_the_table_is_decoded_by_kind_and_length() {
    let v4 = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    let v6 = IpAddr::V6(Ipv6Addr::from_octets(documentation_v6(7)));
    for (kind, len, addr) in [
        (254, 8, v4),
        (253, 8, v4),
        (200, 8, v4),
        (254, 16, v4),
        (252, 20, v4),
        (254, 20, v6),
        (253, 20, v6),
        (249, 40, v6),
    ] {
        let mut option = match addr {
            IpAddr::V4(_) => encode_v4(kind, CLIENT, PORT).to_vec(),
            IpAddr::V6(_) => encode_v6(kind, &documentation_v6(7), PORT).to_vec(),
        };
        option.resize(len, 0);
        option[1] = len as u8;
        assert_eq!(decode(&option), Some(Client { kind, addr, port: PORT }), "{kind}/{len}");
        assert_eq!(decode(&option[..len - 1]), None, "{kind}/{len} cut");
    }
}

#[test]
fn an_experiment_identifier_stands_in_front_of_port_and_address() {
    let v4 = encode_with_exid(254, Ipv4Addr::new(203, 0, 113, 7).into(), PORT);
    assert_eq!(v4.as_bytes(), [1, 1, 254, 10, b'T', b'G', 0x12, 0x34, 203, 0, 113, 7]);
    let v6 = encode_with_exid(253, Ipv6Addr::from_octets(documentation_v6(7)).into(), PORT);
    assert_eq!(v6.as_bytes()[..8], [1, 1, 253, 22, b'T', b'G', 0x12, 0x34]);
    assert_eq!(v6.as_bytes()[8..], documentation_v6(7));
    for (kind, option) in [(254, v4), (253, v6)] {
        let found = find(option.as_bytes()).unwrap();
        assert_eq!((found.kind, found.port), (kind, PORT));
        let mut stripped = option.as_bytes().to_vec();
        assert_eq!(strip(&mut stripped).count, 1);
        assert!(stripped.iter().all(|byte| *byte == 1));
        // Another experiment's.
        let mut other = option.as_bytes()[2..].to_vec();
        other[2] = b'X';
        assert_eq!(decode(&other), None);
    }
}

#[test]
fn other_kinds_and_lengths_are_not_a_client() {
    let mut vip = encode_v4(250, CLIENT, PORT);
    assert_eq!(decode(&vip), None);
    vip[0] = 252;
    assert_eq!(decode(&vip), None);
    assert_eq!(decode(&[]), None);
    assert_eq!(decode(&[254]), None);
    assert_eq!(decode(&[254, 4, 0, 0]), None);
    assert_eq!(decode(&[8, 10, 0, 0, 0, 1, 0, 0, 0, 2]), None);
}

#[test]
fn a_forged_option_at_an_odd_offset_is_overwritten_with_the_right_delta() {
    // NOP first, so that the option stands at offset 1.
    let mut options = [&[1][..], &encode_v4(254, CLIENT, PORT), &[1, 1, 1]].concat();
    let before = sum_behind_header(&options);
    let stripped = strip(&mut options);
    assert_eq!((stripped.count, stripped.malformed), (1, false));
    assert_eq!(options, [1; 12]);
    assert_eq!(stripped.delta.apply(before), sum_behind_header(&options));
}

#[test]
fn all_six_kinds_of_any_length_are_overwritten_and_no_other() {
    for kind in 2..=255u8 {
        let mut options = [kind, 5, 1, 2, 3, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0];
        let old = options;
        let count = strip(&mut options).count;
        if [200, 249, 250, 252, 253, 254].contains(&kind) {
            assert_eq!((count, &options[..5], &options[5..]), (1, &[1; 5][..], &old[5..]), "kind {kind}");
        } else {
            assert_eq!((count, options), (0, old), "kind {kind}");
        }
    }
}

#[test]
fn what_stands_behind_end_or_a_malformed_option_is_left_alone() {
    let mut options = [&[4, 2, 0][..], &encode_v4(254, CLIENT, PORT), &[1]].concat();
    let old = options.clone();
    assert_eq!((strip(&mut options), &options), (Stripped::default(), &old));
    options[2] = 34; // Now a Fast Open option that claims 254 bytes.
    assert_eq!(strip(&mut options), Stripped { malformed: true, ..Stripped::default() });
    assert_eq!(options[3..], old[3..]);
    assert_eq!(find(&options), None);
}

#[test]
fn the_options_of_a_common_data_segment_take_the_short_way() {
    let mut options = [1, 1, 8, 10, 0, 0, 0, 1, 254, 8, 0, 2];
    assert!(is_harmless(&options));
    let old = options;
    assert_eq!((strip(&mut options), options), (Stripped::default(), old));
    let mut forged = [&options[..], &encode_v4(254, CLIENT, PORT)].concat();
    assert_eq!(strip(&mut forged).count, 1);
    assert_eq!(forged[..12], old);
}

#[test]
fn fast_open_is_overwritten_in_both_its_forms() {
    let cookie = [34, 6, 1, 2, 3, 4];
    let experiment = [254, 8, 0xf9, 0x89, 1, 2, 3, 4];
    let other = [253, 6, 0xe2, 0xd4, 0xc3, 0xd9]; // SMC-R (RFC 7609), not Fast Open.
    let mut options = [&cookie[..], &experiment, &other].concat();
    let before = sum_behind_header(&options);
    let stripped = strip_fast_open(&mut options);
    assert_eq!(stripped.count, 2);
    assert_eq!(options, [&[1; 14][..], &other].concat());
    assert_eq!(stripped.delta.apply(before), sum_behind_header(&options));
    assert_eq!(strip_fast_open(&mut [34, 2]).count, 1, "a request for a cookie");
}

#[test]
fn an_option_of_either_family_is_encoded_alike() {
    let (v4, v6) = (Ipv4Addr::new(203, 0, 113, 7), documentation_v6(7));
    assert_eq!(encode(254, v4.into(), PORT).as_bytes(), encode_v4(254, CLIENT, PORT));
    assert_eq!(encode(253, Ipv6Addr::from_octets(v6).into(), PORT).as_bytes(), encode_v6(253, &v6, PORT));
}

fn long_options(len: usize) -> Vec<u8> {
    let mut options = vec![5, len as u8];
    options.resize(len, 3);
    options
}

/// The frame with the option in it and its checksums corrected, given where its headers are.
fn inserted(frame: &[u8], l3: usize, l4: usize, option: &[u8]) -> Result<Vec<u8>, NotInserted> {
    let mut packet = HeapBuf::with_room(frame, 20, 0);
    let change = insert(&mut packet, l3, l4, option)?;
    let mut frame = packet.to_vec();
    let tcp: &mut tcp::Header = crate::view_mut(&mut frame, l4).unwrap();
    tcp.checksum = change.tcp.apply(tcp.checksum);
    if frame[l3] >> 4 == 4 {
        let ip: &mut ipv4::Header = crate::view_mut(&mut frame, l3).unwrap();
        ip.checksum = change.ip.apply(ip.checksum);
    } else {
        assert_eq!(change.ip, Delta::ZERO);
    }
    Ok(frame)
}

#[test]
fn a_segment_with_the_option_is_the_one_that_is_built_with_it() {
    let address = Ipv6Addr::from_octets(documentation_v6(7));
    for option in [encode(254, Ipv4Addr::new(203, 0, 113, 7).into(), PORT), encode(253, address.into(), PORT)]
    {
        let option = option.as_bytes();
        for old_options in
            [vec![], vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], long_options(40 - option.len())]
        {
            let old =
                TcpFrame { options: old_options.clone(), payload: b"data!".to_vec(), ..TcpFrame::default() };
            let new = TcpFrame { options: [option, &old_options].concat(), ..old.clone() };
            assert_eq!(inserted(&old.to_vec(), 14, 34, option), Ok(new.to_vec()));
            let tag = |frame: &TcpFrame| tagged(&frame.to_vec(), 3);
            assert_eq!(inserted(&tag(&old), 18, 38, option), Ok(tag(&new)));
            let six = |tcp: &TcpFrame| TcpFrame6 { tcp: tcp.clone(), ..TcpFrame6::default() }.to_vec();
            assert_eq!(inserted(&six(&old), 14, 54, option), Ok(six(&new)));
            let extended = |tcp: &TcpFrame| with_extensions(&six(tcp), &[Extension::empty(60)]);
            assert_eq!(inserted(&extended(&old), 14, 62, option), Ok(extended(&new)));
        }
    }
}

#[test]
fn padding_gives_way_where_the_header_cannot_grow() {
    let option = encode_v6(253, &documentation_v6(7), PORT);
    // 12 bytes of timestamps, then an END with 12 bytes behind it: the header has 16 bytes left, padding 14.
    let options = [&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0][..], &[77; 19]].concat();
    let old = TcpFrame { options, payload: b"data!".to_vec(), ..TcpFrame::default() };
    let new_options = [&option[..], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]].concat();
    let new = TcpFrame { options: new_options, ..old.clone() };
    assert_eq!(inserted(&old.to_vec(), 14, 34, &option), Ok(new.to_vec()));
    let full = TcpFrame { options: long_options(24), ..old };
    assert_eq!(inserted(&full.to_vec(), 14, 34, &option), Err(NotInserted::NoRoom));
}

#[test]
fn what_cannot_take_the_option_stays_as_it_is() {
    let option = encode_v4(254, CLIENT, PORT);
    let frame = TcpFrame::default().to_vec();
    let kept = |frame: &[u8], room: usize, l4: usize, why: NotInserted| {
        let mut packet = HeapBuf::with_room(frame, room, 0);
        assert_eq!(insert(&mut packet, 14, l4, &option), Err(why));
        assert_eq!((packet.data(), packet.headroom()), (frame, room));
    };
    kept(&frame, 7, 34, NotInserted::NoHeadroom);
    kept(&frame, 8, 400, NotInserted::NoRoom);
    kept(&frame[..40], 8, 34, NotInserted::NoRoom);
    let mut long = frame;
    long[16..18].copy_from_slice(&[0xff, 0xf8]);
    kept(&long, 8, 34, NotInserted::NoRoom);
}

proptest! {
    // Cheap cases with rare corners: more than the usual 256.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_option_survives_encoding_and_decoding(addr in any::<u32>(), addr6 in any::<[u8; 16]>(), port in any::<u16>()) {
        let port = U16::new(port);
        for kind in [KIND_DEFAULT, KIND_ALTERNATE, KIND_LEGACY] {
            let client = Client { kind, addr: IpAddr::V4(Ipv4Addr::from_bits(addr)), port };
            prop_assert_eq!(decode(&encode_v4(kind, U32::new(addr), port)), Some(client));
        }
        for kind in [KIND_DEFAULT, KIND_ALTERNATE] {
            let client = Client { kind, addr: IpAddr::V6(Ipv6Addr::from_octets(addr6)), port };
            prop_assert_eq!(decode(&encode_v6(kind, &addr6, port)), Some(client));
        }
    }

    #[test]
    fn insertion_into_noise_does_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        l3 in 0usize..30,
        l4 in 0usize..60,
    ) {
        let mut packet = HeapBuf::with_room(&bytes, 20, 0);
        let _ = insert(&mut packet, l3, l4, &encode_v4(254, CLIENT, PORT));
    }

    #[test]
    fn decoding_noise_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        let _ = (decode(&bytes), find(&bytes));
    }

    #[test]
    fn after_stripping_no_receiver_finds_a_client_and_the_checksum_holds(options in optionish()) {
        let mut after = options.clone();
        let stripped = strip(&mut after);
        prop_assert_eq!(find(&after), None);
        prop_assert_eq!(stripped.delta.apply(sum_behind_header(&options)), sum_behind_header(&after));
        let is_malformed = |options: &[u8]| iter(options).any(|item: Result<_, Malformed>| item.is_err());
        prop_assert_eq!(stripped.malformed, is_malformed(&options));
        prop_assert_eq!(stripped.malformed, is_malformed(&after));
        // Everything else is what it was, where it was.
        let others = |options: &[u8]| -> Vec<_> {
            let opts = iter(options).map_while(Result::ok).filter(|opt| !is_toa_kind(opt.kind));
            opts.map(|opt| (opt, opt.bytes(options).to_vec())).collect()
        };
        prop_assert_eq!(others(&options), others(&after));
        prop_assert_eq!(usize::from(stripped.count) + others(&options).len(), iter(&options).flatten().count());
        prop_assert_eq!(strip(&mut after).count, 0);
    }

    #[test]
    fn after_stripping_fast_open_none_is_left(options in optionish()) {
        let mut after = options.clone();
        let stripped = strip_fast_open(&mut after);
        prop_assert_eq!(stripped.delta.apply(sum_behind_header(&options)), sum_behind_header(&after));
        let left = iter(&after).flatten().any(|opt| is_fast_open(opt.kind, opt.bytes(&after)));
        prop_assert!(!left);
    }
}

#[test]
fn bytes_in_front_of_the_payload_leave_the_checksum_as_right_or_wrong_as_it_was() {
    let frame = TcpFrame { options: vec![1; 8], payload: (1..=99).collect(), ..TcpFrame::default() };
    let v6 = TcpFrame6 { tcp: frame.clone(), ..TcpFrame6::default() };
    for (bytes, l4) in [(frame.to_vec(), 34), (v6.to_vec(), 54)] {
        for (len, wrong) in [(28, 0), (31, 0), (31, 5), (0, 0)] {
            let first: Vec<u8> = (0..len).map(|n| b'A' + n).collect();
            let mut packet = HeapBuf::from_frame(&bytes);
            packet.data_mut()[l4 + 60] ^= wrong;
            let inserted = insert_before_payload(&mut packet, 14, l4, &first).unwrap();
            let data = packet.data_mut();
            let tcp: &mut tcp::Header = crate::view_mut(data, l4).unwrap();
            tcp.checksum = inserted.tcp.apply(tcp.checksum);
            assert_eq!(data.len(), bytes.len() + first.len());
            assert_eq!(data[l4 + 28..l4 + 28 + first.len()], first);
            assert_eq!(data[l4 + 28 + first.len()], 1);
            let valid = if l4 == 34 {
                let ip: &mut ipv4::Header = crate::view_mut(data, 14).unwrap();
                ip.checksum = inserted.ip.apply(ip.checksum);
                let (src, dst) = (ip.src, ip.dst);
                assert!(crate::checksum::verify_ipv4(&data[14..34]));
                crate::checksum::verify_tcp_v4(src, dst, &data[l4..])
            } else {
                let ip: &crate::ipv6::Header = crate::view(data, 14).unwrap();
                assert_eq!(usize::from(ip.payload_len.get()), data.len() - 54);
                crate::checksum::verify_tcp_v6(&ip.src, &ip.dst, &data[l4..])
            };
            assert_eq!(valid, wrong == 0, "{len} bytes in front");
        }
    }
    let mut packet = HeapBuf::with_room(&frame.to_vec(), 20, 0);
    assert_eq!(insert_before_payload(&mut packet, 14, 34, &[0; 21]), Err(NotInserted::NoHeadroom));
    assert_eq!(packet.data(), frame.to_vec());
}
