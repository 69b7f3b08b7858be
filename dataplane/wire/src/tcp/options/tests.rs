use proptest::prelude::*;

use super::*;
use crate::checksum::internet;

fn kinds(options: &[u8]) -> Vec<Result<u8, Malformed>> {
    iter(options).map(|item| item.map(|opt| opt.kind)).collect()
}

/// What Linux sends on a SYN: MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
const SYN: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];

#[test]
fn the_options_of_a_syn_are_found() {
    assert_eq!(kinds(&SYN), [Ok(2), Ok(4), Ok(8), Ok(3)]);
    assert_eq!(find(&SYN, KIND_WINDOW_SCALE), Some(Opt { kind: 3, offset: 17, len: 3 }));
    assert_eq!((mss(&SYN), window_scale(&SYN)), (Some(1460), Some(7)));
    assert_eq!((timestamps(&SYN), sack_permitted(&SYN)), (Some((1, 2)), true));
}

#[test]
fn the_walk_ends_at_end() {
    assert_eq!(kinds(&[1, 1, 4, 2, 0, 2, 4, 5, 0xb4]), [Ok(4)]);
    assert_eq!(mss(&[0, 2, 4, 5, 0xb4]), None);
    assert_eq!(kinds(&[]), []);
}

#[test]
fn a_bad_length_is_reported_once_and_ends_the_walk() {
    let short = Malformed::LengthTooSmall { kind: 8, offset: 2, len: 1 };
    assert_eq!(kinds(&[4, 2, 8, 1, 2, 4, 5, 0xb4]), [Ok(4), Err(short)]);
    let beyond = Malformed::LengthBeyondEnd { kind: 254, offset: 0, len: 9 };
    assert_eq!(kinds(&[254, 9, 0, 0, 0, 0, 0, 0]), [Err(beyond)]);
    let none = Malformed::NoLength { kind: 2, offset: 3 };
    assert_eq!(kinds(&[1, 1, 1, 2]), [Err(none)]);
    assert_eq!(kinds(&[4, 0]), [Err(Malformed::LengthTooSmall { kind: 4, offset: 0, len: 0 })]);
}

#[test]
fn options_of_another_length_than_the_standard_one_do_not_count() {
    assert_eq!(mss(&[2, 3, 5, 1]), None);
    assert_eq!(window_scale(&[3, 4, 7, 7]), None);
    assert_eq!(timestamps(&[8, 4, 0, 0]), None);
    assert!(!sack_permitted(&[4, 3, 0]));
}

#[test]
fn a_window_scale_above_14_is_14() {
    assert_eq!(window_scale(&[3, 3, 255]), Some(14));
}

#[test]
fn of_several_mss_options_the_last_is_believed_and_all_are_lowered() {
    let mut options = [2, 4, 5, 0xb4, 1, 2, 4, 0x05, 0x78, 1, 1, 1];
    assert_eq!(mss(&options), Some(1400));
    let before = internet(&options);
    let lowered = lower_mss(&mut options, 8, 536).unwrap();
    assert_eq!((lowered.old, lowered.new), (1400, 1392));
    assert_eq!(options, [2, 4, 5, 0xac, 1, 2, 4, 0x05, 0x70, 1, 1, 1]);
    assert_eq!(lowered.delta.apply(before), internet(&options));
}

#[test]
fn an_mss_is_lowered_to_the_floor_and_never_raised() {
    let lower = |mss: u16, by, floor| {
        let [a, b] = mss.to_be_bytes();
        let lowered = lower_mss(&mut [2, 4, a, b], by, floor).unwrap();
        (lowered.old, lowered.new)
    };
    assert_eq!(lower(1460, 8, 88), (1460, 1452));
    assert_eq!(lower(90, 8, 88), (90, 88));
    assert_eq!(lower(88, 8, 88), (88, 88));
    assert_eq!(lower(40, 8, 88), (40, 40));
    assert_eq!(lower(0, 20, 0), (0, 0));
}

#[test]
fn no_mss_option_is_nothing_to_lower() {
    let mut options = [1, 1, 4, 2];
    assert_eq!(lower_mss(&mut options, 8, 536), None);
    assert_eq!(lower_mss(&mut [2, 3, 0, 1], 8, 536), None);
    assert_eq!(options, [1, 1, 4, 2]);
}

#[test]
fn an_mss_behind_a_malformed_option_stays() {
    let mut options = [8, 1, 2, 4, 5, 0xb4, 0, 0];
    assert_eq!(lower_mss(&mut options, 8, 536), None);
    assert_eq!(options, [8, 1, 2, 4, 5, 0xb4, 0, 0]);
}

/// Bytes that look like options more often than noise does.
pub(crate) fn optionish() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![0u8, 1, 1, 2, 3, 4, 5, 8, 34, 200, 249, 250, 252, 253, 254]);
    let piece = prop_oneof![
        3 => (kind, 0usize..22, any::<[u8; 24]>()).prop_map(|(kind, len, data)| match kind {
            KIND_END | KIND_NOP => vec![kind],
            _ => [&[kind, len as u8], &data[..len.saturating_sub(2)]].concat(),
        }),
        1 => Just(vec![2, 4, 5, 0xb4]),
        1 => Just(vec![KIND_NOP]),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| {
        let mut options = pieces.concat();
        options.truncate(crate::tcp::OPTIONS_LEN_MAX);
        options
    })
}

proptest! {
    // Cheap cases with rare corners: more than the usual 256.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_walk_ends_and_stays_within_the_options(options in optionish()) {
        let mut end = 0;
        let mut errors = 0;
        for (turn, item) in iter(&options).enumerate() {
            prop_assert!(turn <= options.len() / 2);
            prop_assert_eq!(errors, 0, "something came after an error");
            match item {
                Ok(opt) => {
                    prop_assert!(opt.len >= 2 && opt.offset >= end);
                    end = opt.offset + opt.len;
                    prop_assert!(end <= options.len());
                    prop_assert_eq!(opt.bytes(&options).len(), opt.len);
                    prop_assert_eq!(options[opt.offset], opt.kind);
                }
                Err(_) => errors += 1,
            }
        }
    }

    #[test]
    fn the_walk_over_noise_ends(options in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(iter(&options).count() <= options.len() / 2 + 1);
        let _ = (mss(&options), window_scale(&options), timestamps(&options), sack_permitted(&options));
    }

    #[test]
    fn lowering_the_mss_changes_nothing_else_and_tells_the_change(
        options in optionish(), by in 0u16..100, floor in 0u16..2000,
    ) {
        let mut after = options.clone();
        let result = lower_mss(&mut after, by, floor);
        prop_assert_eq!(result.is_some(), mss(&options).is_some());
        let (Some(lowered), Some(old), Some(new)) = (result, mss(&options), mss(&after)) else {
            prop_assert_eq!(options, after);
            return Ok(());
        };
        prop_assert_eq!((lowered.old, lowered.new), (old, new));
        prop_assert!(new <= old && (new >= floor || new == old));
        // A TCP header in front, so that the sum is not over zeroes alone.
        let message = |options: &[u8]| [&[0x12; 20], options].concat();
        prop_assert_eq!(lowered.delta.apply(internet(&message(&options))), internet(&message(&after)));
        prop_assert_eq!(kinds(&options), kinds(&after));
    }
}
