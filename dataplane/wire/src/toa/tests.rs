use proptest::prelude::*;

use super::*;
use crate::build::documentation_v6;
use crate::checksum::internet;
use crate::tcp::options::{Malformed, iter, tests::optionish};

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
