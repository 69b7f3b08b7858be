use proptest::prelude::*;

use super::*;
use crate::build::{Ipv4Base, UdpFrame, fragments_v4};

/// A packet with these options, this many bytes behind its header and this word of flags and offset.
fn packet(options: &[u8], payload_len: usize, flags_fragment: u16) -> Vec<u8> {
    let base =
        Ipv4Base { id: U16::new(0x77), flags_fragment: U16::new(flags_fragment), ..Ipv4Base::default() };
    let payload: Vec<u8> = (0..payload_len).map(|n| (n / 3) as u8).collect();
    let mut packet = [base.header(options.len() + payload_len).as_bytes(), options, &payload].concat();
    let header_len = HEADER_LEN + options.len();
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[CHECKSUM].fill(0);
    let check = crate::checksum::internet(&packet[..header_len]);
    packet[CHECKSUM].copy_from_slice(&check.to_bytes());
    packet
}

fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let pieces = Fragments::new(packet, mtu).unwrap().map(|piece| {
        let mut out = vec![0xee; 65_535];
        let len = piece.write(packet, &mut out).unwrap();
        assert_eq!((len, piece.header().len()), (piece.packet_len(), len - piece.payload.len()));
        assert_eq!(piece.write(packet, &mut out[..len - 1]), None);
        out.truncate(len);
        out
    });
    pieces.collect()
}

#[test]
fn a_datagram_is_cut_as_the_test_builder_cuts_it() {
    let ip = Ipv4Base { flags_fragment: U16::ZERO, ..Ipv4Base::default() };
    let frame = UdpFrame { ip, payload: vec![9; 4000], ..UdpFrame::default() }.to_vec();
    for mtu in [68, 576, 1499, 1500, 4027] {
        let wanted: Vec<_> = fragments_v4(&frame, mtu).iter().map(|piece| piece[14..].to_vec()).collect();
        assert_eq!(cut(&frame[14..], mtu), wanted, "{mtu}");
    }
}

#[test]
fn what_fits_is_its_own_only_fragment() {
    for flags in [0, FLAG_DONT_FRAGMENT, FLAG_MORE_FRAGMENTS | 5, 7] {
        for (options, payload_len) in [(&[][..], 100), (&[148, 4, 0, 0], 96), (&[], 0)] {
            let packet = packet(options, payload_len, flags);
            assert_eq!(cut(&packet, 120), [packet]);
        }
    }
}

#[test]
fn options_without_the_copied_flag_stand_in_the_first_fragment_only() {
    // Record route (not copied), NOP, router alert (copied), END.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 1, 0, 9, 9];
    let pieces = cut(&packet(&options, 300, 0), 140);
    assert_eq!(pieces[0][20..36], options);
    assert_eq!((pieces[0].len(), pieces[1].len()), (36 + 104, 24 + 112));
    for piece in &pieces[1..] {
        assert_eq!((piece[0], &piece[20..24]), (0x46, &[148, 4, 0, 0][..]));
    }
    let nonsense = cut(&packet(&[148, 1, 148, 4], 300, 0), 140);
    assert!(nonsense[1..].iter().all(|piece| piece[0] == 0x45), "what cannot be walked over is not copied");
}

#[test]
fn what_cannot_be_cut_says_why() {
    let why = |packet: &[u8], mtu| Fragments::new(packet, mtu).map(|_| ()).unwrap_err();
    assert_eq!(why(&packet(&[], 100, FLAG_DONT_FRAGMENT), 119), CannotFragment::DontFragment);
    assert_eq!(why(&packet(&[], 100, 0), 27), CannotFragment::MtuTooSmall { mtu: 27, header: 20 });
    assert_eq!(why(&packet(&[1; 40], 100, 0), 67), CannotFragment::MtuTooSmall { mtu: 67, header: 60 });
    let truncated = HeaderError::Truncated { total: 120, available: 119 };
    assert_eq!(why(&packet(&[], 100, 0)[..119], 68), CannotFragment::Header(truncated));
    assert_eq!(why(&[], 68), CannotFragment::Header(HeaderError::Truncated { total: 20, available: 0 }));
    assert_eq!(why(&packet(&[], 100, 0x1fff), 1500), CannotFragment::BeyondLongest(65_528 + 100));
    assert_eq!(
        CannotFragment::MtuTooSmall { mtu: 27, header: 20 }.to_string(),
        "MTU 27 leaves no room for a fragment behind a header of 20 bytes"
    );
}

#[test]
fn a_damaged_header_stays_damaged_in_every_fragment() {
    let mut packet = packet(&[7, 3, 4, 0], 300, 0);
    packet[8] ^= 1;
    for piece in cut(&packet, 140) {
        let header_len = usize::from(piece[0] & 15) * 4;
        assert!(!crate::checksum::verify_ipv4(&piece[..header_len]));
    }
}

proptest! {
    #[test]
    fn fragments_of_fragments_make_the_packet_again(
        payload_len in 0usize..3000,
        options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        mtus in prop::collection::vec(68usize..1600, 1..4),
        first_offset in 0u16..100,
        last in any::<bool>(),
    ) {
        let more = if last { 0 } else { FLAG_MORE_FRAGMENTS };
        // A fragment that is not the last one has whole units of 8 bytes.
        let payload_len = if last { payload_len } else { payload_len / 8 * 8 };
        let whole = packet(&options.concat(), payload_len, first_offset | more);
        let mut pieces = vec![whole.clone()];
        for mtu in mtus {
            pieces = pieces.iter().flat_map(|piece| cut(piece, mtu)).collect();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= mtu));
        }
        let mut payload = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let header: &Header = crate::view(piece, 0).unwrap();
            let header_len = header.check(piece.len()).unwrap();
            prop_assert!(crate::checksum::verify_ipv4(&piece[..header_len]));
            let offset = usize::from(first_offset) * 8 + payload.len();
            prop_assert_eq!(usize::from(header.fragment_offset()), offset);
            prop_assert_eq!(header.more_fragments(), index + 1 < pieces.len() || !last);
            prop_assert_eq!((header.id.get(), header.ttl, header.protocol), (0x77, 64, 6));
            payload.extend_from_slice(&piece[header_len..]);
        }
        prop_assert_eq!(&payload, &whole[whole.len() - payload_len..]);
    }

    #[test]
    fn cutting_noise_does_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        version_ihl in 0x44u8..0x50,
        mtu in 0usize..300,
    ) {
        let mut bytes = bytes;
        if let [first, _, len @ ..] = &mut bytes[..] {
            *first = version_ihl;
            let bytes_len = len.len() as u16 + 2;
            if let Some(field) = len.first_chunk_mut::<2>() {
                *field = bytes_len.to_be_bytes();
            }
        }
        if let Ok(pieces) = Fragments::new(&bytes, mtu) {
            let mut end = None;
            for piece in pieces {
                prop_assert!(piece.packet_len() <= mtu && end.is_none_or(|end| end == piece.payload.start));
                end = Some(piece.payload.end);
            }
            prop_assert_eq!(end, Some(bytes.len()));
        }
    }
}
