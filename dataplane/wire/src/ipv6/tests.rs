use proptest::prelude::*;

use super::*;
use crate::build::{documentation_v6, ipv6_header};

/// A packet with this first next header and these bytes behind the fixed header.
fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv6_header(documentation_v6(1), documentation_v6(2), (next_header, 64), payload.len());
    [header.as_bytes(), payload].concat()
}

#[test]
fn a_packet_without_extensions_has_its_protocol_at_40() {
    let upper = walk_extensions(&packet(6, &[0; 20])).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.hop_by_hop), (6, 40, false));
    assert!(upper.fragment.is_none() && upper.is_first());
}

#[test]
fn a_chain_is_followed_to_the_protocol() {
    // Hop-by-hop (8 bytes), destination options (16), authentication (12), then UDP.
    let chain = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[51, 1], &[0; 14], &[17, 1], &[0; 10], &[0; 8]].concat();
    let upper = walk_extensions(&packet(0, &chain)).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.hop_by_hop), (17, 40 + 8 + 16 + 12, true));
}

#[test]
fn the_first_fragment_has_an_upper_header_and_the_others_have_not() {
    let first = walk_extensions(&packet(44, &[6, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4])).unwrap();
    let fragment = first.fragment.unwrap();
    assert!(first.is_first() && fragment.more_fragments() && !fragment.is_atomic());
    assert_eq!((first.protocol, first.offset, fragment.id.get()), (6, 48, 9));
    // The rest of a fragmented chain: its next header is an extension, but what stands here is the middle of something.
    let later = walk_extensions(&packet(44, &[60, 0, 0x05, 0xa8, 0, 0, 0, 9, 0xff, 0xff])).unwrap();
    assert!(!later.is_first());
    assert_eq!((later.protocol, later.offset, later.fragment.unwrap().fragment_offset()), (60, 48, 1448));
}

#[test]
fn a_chain_that_no_sender_may_build_is_refused() {
    let hop_by_hop_second = [&[0, 0][..], &[0; 6], &[6, 0], &[0; 6]].concat();
    assert_eq!(walk_extensions(&packet(60, &hop_by_hop_second)), Err(HeaderError::HopByHopNotFirst));
    let two_fragments = [&[44, 0, 0, 1][..], &[0; 4], &[6, 0, 0, 0], &[0; 4]].concat();
    assert_eq!(walk_extensions(&packet(44, &two_fragments)), Err(HeaderError::SecondFragmentHeader));
}

#[test]
fn a_chain_of_eight_is_followed_and_one_of_nine_is_not() {
    let chain = |count: usize| {
        let mut chain = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
        chain[(count - 1) * 8] = 6;
        packet(60, &chain)
    };
    assert_eq!(walk_extensions(&chain(8)).unwrap().offset, 40 + 64);
    assert_eq!(walk_extensions(&chain(9)), Err(HeaderError::TooManyExtensions));
}

#[test]
fn a_chain_that_leaves_the_packet_is_truncated() {
    assert_eq!(walk_extensions(&[0x60; 39]), Err(HeaderError::Truncated { needed: 40, available: 39 }));
    assert_eq!(walk_extensions(&packet(43, &[6])), Err(HeaderError::Truncated { needed: 48, available: 41 }));
    let long = packet(43, &[6, 255, 0, 0, 0, 0, 0, 0]);
    assert_eq!(walk_extensions(&long), Err(HeaderError::Truncated { needed: 40 + 2048, available: 48 }));
}

#[test]
fn the_fixed_header_is_checked_against_the_packet() {
    let header = ipv6_header([0; 16], [0; 16], (6, 1), 20);
    assert_eq!(header.check(60), Ok(60));
    assert_eq!(header.check(59), Err(HeaderError::Truncated { needed: 60, available: 59 }));
    let other = Header { version_class_flow: U32::new(4 << 28), ..header };
    assert_eq!(other.check(60), Err(HeaderError::Version(4)));
    let flow = Header { version_class_flow: U32::new(0x6b71_2345), ..header };
    assert_eq!((flow.version(), flow.traffic_class(), flow.flow_label()), (6, 0xb7, 0x1_2345));
}

#[test]
fn the_last_hop_is_not_taken() {
    let mut header = ipv6_header([0; 16], [0; 16], (6, 2), 0);
    assert!(header.decrement_hop_limit());
    assert!(!header.decrement_hop_limit());
    assert_eq!(header.hop_limit, 1);
}

#[test]
fn a_routing_header_that_has_somewhere_to_go_is_found() {
    let routing = |left: u8| packet(60, &[43, 0, 0, 0, 0, 0, 0, 0, 6, 0, 4, left, 0, 0, 0, 0, 1, 2]);
    assert_eq!(segments_left_offset(&routing(1)), Some(40 + 8 + 3));
    assert_eq!(segments_left_offset(&routing(0)), None);
    assert_eq!(segments_left_offset(&packet(6, &[43, 0, 0, 9])), None);
    // What looks like one in the middle of a fragmented payload is none.
    assert_eq!(segments_left_offset(&packet(44, &[43, 0, 0, 8, 0, 0, 0, 1, 6, 0, 4, 1, 0, 0, 0, 0])), None);
    assert_eq!(segments_left_offset(&[0x60; 39]), None);
}

proptest! {
    #[test]
    fn the_walk_never_leaves_the_packet(
        first in any::<u8>(),
        chain in prop::collection::vec(prop_oneof![Just(0u8), Just(60), Just(44), Just(51), Just(6), any::<u8>()], 0..200),
    ) {
        let packet = packet(first, &chain);
        if let Ok(upper) = walk_extensions(&packet) {
            prop_assert!(upper.offset >= HEADER_LEN && upper.offset <= packet.len());
            prop_assert!(!upper.is_first() || !is_extension(upper.protocol));
        }
    }

    #[test]
    fn the_walk_over_noise_does_not_panic(packet in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = walk_extensions(&packet);
        prop_assert!(segments_left_offset(&packet).is_none_or(|offset| packet[offset] != 0));
    }
}
