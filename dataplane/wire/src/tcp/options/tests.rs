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

/// Two SACK blocks behind two NOPs, and behind one, so that the edges stand at odd offsets.
const SACKS: [&[u8]; 2] = [
    &[1, 1, 5, 18, 0, 0, 0, 10, 0, 0, 0, 20, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 5],
    &[1, 5, 18, 0, 0, 0, 10, 0, 0, 0, 20, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 5, 1],
];

#[test]
fn every_edge_of_every_block_is_shifted() {
    for given in SACKS {
        let mut options = given.to_vec();
        let delta = map_sack(&mut options, 0x102);
        let edges = [10u32, 20, u32::MAX, 5].map(|edge| edge.wrapping_add(0x102).to_be_bytes()).concat();
        let at = 2 + given.iter().position(|byte| *byte == 5).unwrap();
        assert_eq!(options[at..at + 16], edges);
        assert_eq!((&options[..at], &options[at + 16..]), (&given[..at], &given[at + 16..]));
        assert_eq!(delta.apply(internet(given)), internet(&options));
        assert_eq!(map_sack(&mut options, 0x102u32.wrapping_neg()), delta.negated());
        assert_eq!(options, given);
        assert_eq!((map_sack(&mut options, 0), &options[..]), (Delta::ZERO, given));
    }
}

#[test]
fn half_a_block_and_what_stands_behind_nonsense_is_not_shifted() {
    for given in [&[5, 9, 0, 0, 0, 10, 0, 0, 0, 1][..], &[5, 2, 1, 1], &[5, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]]
    {
        let mut options = given.to_vec();
        assert_eq!((map_sack(&mut options, 7), &options[..]), (Delta::ZERO, given));
    }
}

#[test]
fn timestamps_are_shifted_apart_and_stripped() {
    let given = [8, 10, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 3, 1];
    let mut options = given;
    let delta = shift_timestamps(&mut options, 0x0001_0000, 2);
    assert_eq!(options, [8, 10, 0, 1, 0, 1, 0, 0, 0, 1, 1, 8, 10, 0, 1, 0, 2, 0, 0, 0, 5, 1]);
    assert_eq!(delta.apply(internet(&given)), internet(&options));
    let mut short = [8, 6, 0, 0, 0, 1, 1, 1];
    assert_eq!((shift_timestamps(&mut short, 1, 1), short), (Delta::ZERO, [8, 6, 0, 0, 0, 1, 1, 1]));
    let mut syn = SYN;
    let stripped = strip_timestamps(&mut syn);
    assert_eq!((stripped.count, stripped.malformed), (1, false));
    assert_eq!(syn, [2, 4, 5, 0xb4, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 7]);
    assert_eq!(stripped.delta.apply(internet(&SYN)), internet(&syn));
    assert_eq!(strip_timestamps(&mut short).count, 1, "of whatever length");
}

#[test]
fn an_option_is_put_first_where_there_is_padding_for_it() {
    let mut options = [1, 1, 4, 2, 1, 3, 3, 7, 0, 9, 9, 9];
    let before = internet(&options);
    let delta = put_first(&mut options, &[254, 4, 1, 2]).unwrap();
    assert_eq!(options, [254, 4, 1, 2, 4, 2, 3, 3, 7, 1, 1, 1]);
    assert_eq!(delta.apply(before), internet(&options));
    let full = options;
    assert_eq!((put_first(&mut options, &[254, 4, 1, 2]), options), (None, full));
    assert_eq!(put_first(&mut [1; 4], &[254, 8, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(put_first(&mut [1; 41], &[254, 4, 0, 0]), None);
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

    #[test]
    fn shifts_change_no_option_but_theirs_and_tell_the_change(
        options in optionish(),
        by in any::<(u32, u32)>(),
    ) {
        let message = |options: &[u8]| [&[0x12; 20], options].concat();
        let check = |kind: u8, edit: &dyn Fn(&mut [u8]) -> Delta| {
            let mut after = options.clone();
            let delta = edit(&mut after);
            prop_assert_eq!(delta.apply(internet(&message(&options))), internet(&message(&after)));
            prop_assert_eq!(kinds(&options), kinds(&after));
            for opt in iter(&options).flatten().filter(|opt| opt.kind != kind) {
                prop_assert_eq!(opt.bytes(&options), opt.bytes(&after));
            }
            Ok(())
        };
        check(KIND_SACK, &|options| map_sack(options, by.0))?;
        check(KIND_TIMESTAMPS, &|options| shift_timestamps(options, by.0, by.1))?;
        let mut after = options.clone();
        let stripped = strip_timestamps(&mut after);
        prop_assert_eq!(find(&after, KIND_TIMESTAMPS), None);
        prop_assert_eq!(stripped.delta.apply(internet(&message(&options))), internet(&message(&after)));
    }

    #[test]
    fn what_is_put_first_leaves_all_others_behind_it(options in optionish(), len in 1usize..6) {
        let mut first = vec![254; len * 4];
        first[1] = (len * 4) as u8;
        let mut after = options.clone();
        let message = |options: &[u8]| [&[0x12; 20], options].concat();
        let held = well_formed(&options).map(|opt| opt.bytes(&options).to_vec());
        let held: Vec<_> = held.collect();
        match put_first(&mut after, &first) {
            Some(delta) => {
                prop_assert_eq!(delta.apply(internet(&message(&options))), internet(&message(&after)));
                let now: Vec<_> = iter(&after).flatten().map(|opt| opt.bytes(&after).to_vec()).collect();
                prop_assert_eq!(now, [vec![first], held].concat());
            }
            None => {
                prop_assert_eq!(&after, &options);
                prop_assert!(held.concat().len() + first.len() > options.len());
            }
        }
    }
}

#[test]
fn blocks_that_vanish_are_taken_out_and_the_others_move_up() {
    let edges = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
    // Everything up to 100 becomes 100.
    let map = |number: u32| number.max(100);
    let mut both = [&[1, 1, KIND_SACK, 18][..], &edges(&[10, 90, 50, 200])].concat();
    let before = internet(&[&[0x12; 20], &both[..]].concat());
    let delta = map_sack_edges(&mut both, map);
    assert_eq!(both, [&[1, 1, KIND_SACK, 10][..], &edges(&[100, 200]), &[1; 8]].concat());
    assert_eq!(delta.apply(before), internet(&[&[0x12; 20], &both[..]].concat()));
    let mut none = [&[1, 1, KIND_SACK, 10][..], &edges(&[10, 90])].concat();
    map_sack_edges(&mut none, map);
    assert_eq!(none, [1; 12]);
    let mut broken = [&[1, 1, KIND_SACK, 9][..], &edges(&[10, 90])].concat();
    let old = broken.clone();
    map_sack_edges(&mut broken, map);
    assert_eq!(broken, old, "no whole blocks");
}
