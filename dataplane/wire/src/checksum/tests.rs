use proptest::prelude::*;

use super::*;
use crate::build::{IP_DST, IP_SRC, TcpFrame, UdpFrame, documentation_v6};

/// The checksum as RFC 1071 §1 tells it, word by word in network order: what everything else is compared with.
fn plain(message: &[u8]) -> U16 {
    let mut sum = 0u32;
    for word in message.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    U16::new(!(sum as u16))
}

/// Words on which carries and the two zeroes turn.
const EDGES: [u16; 8] = [0, 1, 0x00ff, 0x0100, 0x7fff, 0x8000, 0xfffe, 0xffff];

#[test]
fn the_example_of_rfc_1071_comes_out() {
    // §3: the sum is 0xddf2.
    let message = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(internet(&message), U16::new(!0xddf2));
}

#[test]
fn the_example_of_rfc_1624_comes_out() {
    // §4: the form of RFC 1141 gives 0xffff here.
    let delta = Delta::ZERO.replace16(U16::new(0x5555), U16::new(0x3285));
    assert_eq!(delta.apply(U16::new(0xdd2f)), U16::new(0x0000));
}

#[test]
fn no_change_leaves_every_checksum_as_it_is() {
    for check in 0..=u16::MAX {
        assert_eq!(Delta::ZERO.apply(U16::new(check)).get(), check);
    }
}

#[test]
fn edge_words_update_to_what_a_full_computation_gives() {
    for rest in EDGES {
        for old in EDGES {
            for new in EDGES {
                let message = |word: u16| [rest.to_be_bytes(), word.to_be_bytes()].concat();
                if rest | old == 0 || rest | new == 0 {
                    continue; // All zeroes: no header looks like this, and the module says so.
                }
                let before = internet(&message(old));
                let delta = Delta::ZERO.replace16(U16::new(old), U16::new(new));
                let after = internet(&message(new));
                assert_eq!(delta.apply(before), after, "rest {rest:#x}, {old:#x} -> {new:#x}");
                let stored = Delta::from_folded(delta.to_folded());
                assert_eq!(stored.apply(before), after, "folded, rest {rest:#x}, {old:#x} -> {new:#x}");
                let apart = Delta::ZERO.sub16(U16::new(old)).add16(U16::new(new));
                assert_eq!(apart.apply(before), after, "apart, rest {rest:#x}, {old:#x} -> {new:#x}");
            }
        }
    }
}

#[test]
fn folded_deltas_do_to_every_checksum_what_deltas_do() {
    for folded in EDGES.into_iter().chain((0..=u16::MAX).step_by(1021)) {
        let delta = Delta::from_folded(folded);
        for check in (0..=u16::MAX).map(U16::new) {
            assert_eq!(Delta::apply_folded(folded, check), delta.apply(check), "{folded:#x} on {check}");
            assert_eq!(
                Delta::apply_udp_folded(folded, check),
                delta.apply_udp(check),
                "UDP, {folded:#x} on {check}"
            );
        }
    }
}

#[test]
fn a_delta_that_outgrows_its_accumulator_stays_right() {
    // Doubled 100 times it would need more than 64 bits; 2^100 = 2^(100 mod 16) = 16 modulo 0xffff.
    let delta = Delta::ZERO.replace16(U16::new(0x1234), U16::new(0xfedc));
    let mut doubled = delta;
    for _ in 0..100 {
        doubled += doubled;
    }
    let times_16 = (0..16).fold(Delta::ZERO, |sum, _| sum + delta);
    assert_eq!(doubled.apply(U16::new(0x1111)), times_16.apply(U16::new(0x1111)));
    assert_eq!(doubled, times_16);
}

#[test]
fn a_udp_checksum_is_never_invented_and_never_zero() {
    let to_zero = Delta::ZERO.replace16(U16::new(0x5555), U16::new(0x3285));
    assert_eq!(to_zero.apply_udp(U16::ZERO), U16::ZERO);
    assert_eq!(to_zero.apply_udp(U16::new(0xdd2f)), U16::new(0xffff));
    assert_eq!(Delta::ZERO.apply_udp(U16::new(0xffff)), U16::new(0xffff));
}

#[test]
fn a_udp_datagram_whose_sum_is_all_ones_verifies_either_way() {
    // Choose the payload so that the checksum computes to zero and must be sent as 0xffff.
    let mut frame = UdpFrame { payload: vec![0, 0], ..UdpFrame::default() };
    let check = udp_v4(IP_SRC, IP_DST, &frame.to_vec()[34..]);
    frame.payload = check.to_bytes().to_vec();
    let datagram = frame.to_vec()[34..].to_vec();
    assert_eq!(datagram[6..8], [0xff, 0xff]);
    assert!(verify_udp_v4(IP_SRC, IP_DST, &datagram));
    // Editing it and taking the edit back must not make it "no checksum".
    let delta = Delta::ZERO.replace16(U16::new(53), U16::new(5353));
    let there = delta.apply_udp(U16::new(0xffff));
    assert_eq!(delta.negated().apply_udp(there), U16::new(0xffff));
}

#[test]
fn ipv6_udp_may_not_go_without_a_checksum() {
    let (src, dst) = (documentation_v6(1), documentation_v6(2));
    let mut datagram = [0, 53, 0, 53, 0, 8, 0, 0];
    assert!(!verify_udp_v6(&src, &dst, &datagram));
    let check = udp_v6(&src, &dst, &datagram);
    datagram[6..].copy_from_slice(&check.to_bytes());
    assert!(verify_udp_v6(&src, &dst, &datagram));
}

#[test]
fn a_captured_segment_has_the_checksum_that_its_sender_gave_it() {
    // Addresses 192.168.0.1 and 192.168.0.2, a SYN to port 80, computed by hand.
    let (src, dst) = (U32::new(0xc0a8_0001), U32::new(0xc0a8_0002));
    let segment = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0xab, 0xcd, 0, 0];
    // Pseudo header: c0a8 + 0001 + c0a8 + 0002 + 0006 + 0014 = 1_816d; segment: 9c40 + 0050 + 0001 + 5002 + ffff =
    // 1_ec92; together 3_6dff -> 6e02.
    assert_eq!(tcp_v4(src, dst, &segment), U16::new(!0x6e02));
}

#[test]
fn short_segments_have_a_checksum_and_do_not_panic() {
    for len in 0..20 {
        let bytes = vec![0xa5; len];
        let _ = (tcp_v4(IP_SRC, IP_DST, &bytes), udp_v4(IP_SRC, IP_DST, &bytes), icmp(&bytes));
        let _ = (verify_tcp_v4(IP_SRC, IP_DST, &bytes), verify_udp_v4(IP_SRC, IP_DST, &bytes));
    }
}

#[test]
fn inserting_an_option_is_a_delta_over_its_bytes_the_offset_and_the_length() {
    let old = TcpFrame { payload: b"hello, world".to_vec(), ..TcpFrame::default() };
    let option = crate::toa::encode_v4(254, U32::new(0xcb00_7107), U16::new(4660));
    let new = TcpFrame { options: option.to_vec(), ..old.clone() };
    let (old, new) = (old.to_vec(), new.to_vec());
    let (old, new) = (&old[34..], &new[34..]);
    let word = |segment: &[u8], at: usize| U16::from_bytes([segment[at], segment[at + 1]]);
    let delta = Delta::ZERO
        .add_bytes(&option)
        .replace16(word(old, 12), word(new, 12))
        .replace16(U16::new(old.len() as u16), U16::new(new.len() as u16));
    assert_eq!(delta.apply(word(old, 16)), word(new, 16));
}

/// A message that is not all zeroes, an offset in it, and what is written there.
fn edit() -> impl Strategy<Value = (Vec<u8>, usize, Vec<u8>)> {
    let byte = prop_oneof![Just(0u8), Just(0xff), any::<u8>()];
    let message = prop::collection::vec(byte.clone(), 5..200).prop_map(|mut message| {
        message[0] = 0x45; // As the first byte of every IP header: never zero, and not edited.
        message
    });
    message.prop_flat_map(move |message| {
        let (len, byte) = (message.len(), byte.clone());
        (Just(message), 1..len).prop_flat_map(move |(message, offset)| {
            let new = prop::collection::vec(byte.clone(), 0..=(len - offset).min(40));
            (Just(message), Just(offset), new)
        })
    })
}

/// The delta of an edit at any offset, byte by byte.
fn delta_of(message: &[u8], offset: usize, new: &[u8]) -> Delta {
    let pairs = message[offset..].iter().zip(new).enumerate();
    pairs.fold(Delta::ZERO, |delta, (i, (old, new))| delta.replace8_at(offset + i, *old, *new))
}

proptest! {
    // Cheap cases with rare corners: more than the usual 256.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_fast_sum_equals_the_plain_one(message in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(internet(&message), plain(&message));
    }

    #[test]
    fn the_sum_may_be_taken_in_even_pieces(message in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
        let (front, back) = message.split_at((cut * 2).min(message.len() & !1));
        prop_assert_eq!(Sum::ZERO.bytes(front).bytes(back).checksum(), internet(&message));
    }

    #[test]
    fn a_sum_goes_on_from_one_lane_in_words_of_any_size(
        message in prop::collection::vec(any::<u8>(), 0..60), word: u16, quad_word: u64,
    ) {
        let even = &message[..message.len() / 2 * 2];
        let whole = [even, &word.to_be_bytes(), &quad_word.to_be_bytes()].concat();
        let sum = Sum::from_folded(Sum::ZERO.bytes(even).to_folded());
        let sum = sum.word(U16::new(word)).quad_word(U64::new(quad_word));
        prop_assert_eq!(sum.checksum(), internet(&whole));
    }

    #[test]
    fn an_incremental_update_equals_a_full_computation((message, offset, new) in edit()) {
        let mut after = message.clone();
        after[offset..offset + new.len()].copy_from_slice(&new);
        let delta = delta_of(&message, offset, &new);
        let before = plain(&message);
        prop_assert_eq!(delta.apply(before), plain(&after));
        prop_assert_eq!(Delta::from_folded(delta.to_folded()).apply(before), plain(&after));
        prop_assert_eq!(delta.negated().apply(plain(&after)), before);
        prop_assert_eq!((delta + delta.negated()).apply(before), before);
    }

    #[test]
    fn words_at_any_offset_update_alike((message, offset, new) in edit()) {
        prop_assume!(offset + 2 <= message.len());
        let word = [new.first().copied().unwrap_or(0), new.get(1).copied().unwrap_or(0xff)];
        let mut after = message.clone();
        after[offset..offset + 2].copy_from_slice(&word);
        let old = U16::from_bytes([message[offset], message[offset + 1]]);
        let delta = Delta::ZERO.replace16_at(offset, old, U16::from_bytes(word));
        prop_assert_eq!(delta.apply(plain(&message)), plain(&after));
    }

    #[test]
    fn double_words_and_byte_runs_update_alike(
        message in prop::collection::vec(any::<u8>(), 40..80),
        at in 1usize..9,
        new in any::<[u8; 16]>(),
    ) {
        let (mut message, offset) = (message, at * 2);
        message[0] = 0x45;
        let old: [u8; 16] = message[offset..offset + 16].try_into().unwrap();
        let mut after = message.clone();
        after[offset..offset + 16].copy_from_slice(&new);
        let by_run = Delta::ZERO.replace128(&old, &new);
        let words = |bytes: &[u8; 16]| -> Vec<U32> {
            bytes.as_chunks::<4>().0.iter().map(|w| U32::from_bytes(*w)).collect()
        };
        let pairs = words(&old).into_iter().zip(words(&new));
        let by_word = pairs.fold(Delta::ZERO, |delta, (old, new)| delta.replace32(old, new));
        prop_assert_eq!(by_run.apply(plain(&message)), plain(&after));
        prop_assert_eq!(by_word.apply(plain(&message)), plain(&after));
        prop_assert_eq!(by_run, by_word);
    }

    #[test]
    fn a_damaged_message_stays_damaged((message, offset, new) in edit(), damage in 1u16..0xffff) {
        // A checksum that is off by `damage`, which is not a multiple of 0xffff, is off by as much after the edit.
        let wrong = Delta::from_folded(damage).apply(plain(&message));
        let mut after = message.clone();
        after[offset..offset + new.len()].copy_from_slice(&new);
        let check = delta_of(&message, offset, &new).apply(wrong);
        prop_assert_ne!(check, plain(&after));
        prop_assert!(check.get() % 0xffff != plain(&after).get() % 0xffff, "another way to write the right one");
    }

    #[test]
    fn deltas_add_up_in_any_order(words in prop::collection::vec(any::<(u16, u16)>(), 1..50)) {
        let each = |(old, new): &(u16, u16)| Delta::ZERO.replace16(U16::new(*old), U16::new(*new));
        let forward = words.iter().map(each).fold(Delta::ZERO, Delta::add);
        let backward = words.iter().rev().map(each).fold(Delta::ZERO, Delta::add);
        let folded = words.iter().map(each).fold(0, |sum, delta| {
            (Delta::from_folded(sum) + delta).to_folded()
        });
        for check in EDGES {
            let check = U16::new(check);
            prop_assert_eq!(forward.apply(check), backward.apply(check));
            prop_assert_eq!(forward.apply(check), Delta::from_folded(folded).apply(check));
        }
    }

    #[test]
    fn transport_checksums_verify_and_ignore_what_the_field_held(
        segment in prop::collection::vec(any::<u8>(), 20..200),
        src in any::<u32>(),
        dst in any::<u32>(),
        addresses in any::<([u8; 16], [u8; 16])>(),
    ) {
        let (src, dst) = (U32::new(src), U32::new(dst));
        let (src6, dst6) = (&addresses.0, &addresses.1);
        let put = |field: usize, check: U16| {
            let mut segment = segment.clone();
            segment[field..field + 2].copy_from_slice(&check.to_bytes());
            segment
        };
        prop_assert!(verify_tcp_v4(src, dst, &put(16, tcp_v4(src, dst, &segment))));
        prop_assert!(verify_tcp_v6(src6, dst6, &put(16, tcp_v6(src6, dst6, &segment))));
        prop_assert!(verify_udp_v4(src, dst, &put(6, udp_v4(src, dst, &segment))));
        prop_assert!(verify_udp_v6(src6, dst6, &put(6, udp_v6(src6, dst6, &segment))));
        prop_assert!(Sum::ZERO.bytes(&put(2, icmp(&segment))).is_valid() || segment.iter().all(|b| *b == 0));
        let zeroed = tcp_v4(src, dst, &put(16, U16::ZERO));
        prop_assert_eq!(tcp_v4(src, dst, &segment), zeroed);
    }
}
