//! UDP: what is given up, how long it lives, checksums that are not there.

use wire::build::UdpFrame;
use wire::udp;

use super::families::{Case, Packet};
use super::*;

const UDP4: Case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: true };

#[test]
fn a_full_table_gives_up_unanswered_datagrams_first_and_answered_ones_never() {
    let mut rig = UDP4.rig(3);
    for port in [1, 2] {
        let got = rig.pass_in(UDP4, &UDP4.sent(port));
        rig.pass_out(&UDP4.answered(&got));
    }
    let unanswered = rig.pass_in(UDP4, &UDP4.sent(3));
    rig.pass_in(UDP4, &UDP4.sent(4)); // in place of 3
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 1);
    let (verdict, _) = rig.send(SERVER_SIDE, &UDP4.answered(&unanswered).frame());
    assert_eq!(verdict, Verdict::Punt(PuntClass::Stray));
    let got = rig.pass_in(UDP4, &UDP4.sent(4));
    rig.pass_out(&UDP4.answered(&got));
    let (verdict, _) = rig.send(CLIENT_SIDE, &UDP4.sent(5).frame());
    assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
    for port in [1, 2, 4] {
        rig.pass_in(UDP4, &UDP4.sent(port));
    }
    assert_eq!(rig.event(Counter::EmbryonicRecycled), 1);
}

#[test]
fn one_way_datagrams_are_never_given_up_for_newcomers() {
    for case in Case::all().into_iter().filter(|case| case.udp && case.mode.is_one_way()) {
        let mut rig = case.rig(1);
        rig.pass_in(case, &case.sent(1));
        let (verdict, _) = rig.send(CLIENT_SIDE, &case.sent(2).frame());
        assert_eq!(verdict, Verdict::Drop(DropReason::TableFull), "{case:?}");
        rig.pass_in(case, &case.sent(1));
    }
}

#[test]
fn datagrams_from_either_side_keep_a_connection_and_silence_ends_it() {
    for case in Case::all().into_iter().filter(|case| case.udp) {
        let mut rig = case.rig(10);
        let got = rig.pass_in(case, &case.sent(5555));
        for _ in 0..3 {
            rig.pass(200);
            if case.mode.is_one_way() {
                rig.pass_in(case, &case.sent(5555));
            } else {
                rig.pass_out(&case.answered(&got));
            }
        }
        assert_eq!(rig.states(), [ConnState::Udp], "{case:?}");
        rig.pass(301);
        assert_eq!(rig.worker.connections(), 0, "{case:?}");
        let real = rig.counters.real(crate::RealId(0));
        assert_eq!((real.active.get(), real.inactive.get(), rig.counters.embryonic.get()), (0, 0, 0));
        assert_eq!(rig.counters.pair(crate::PairId(0)).in_use.get(), 0, "{case:?}");
    }
}

/// A datagram over IPv4 without a checksum.
fn unchecked(payload: &[u8]) -> Vec<u8> {
    UdpFrame {
        ip: Ipv4Base { eth_dst: GATEWAY_MAC, src: u32be(CLIENT), dst: u32be(VIP), ..Ipv4Base::default() },
        src_port: U16::new(5555),
        dst_port: U16::new(80),
        payload: payload.to_vec(),
        no_checksum: true,
        ..UdpFrame::default()
    }
    .to_vec()
}

#[test]
fn a_checksum_that_is_not_there_stays_away_over_ipv4_and_is_made_for_ipv6() {
    for payload in [&b""[..], b"x", b"odd", b"even"] {
        let mut rig = UDP4.rig(10);
        let (verdict, out) = rig.send(CLIENT_SIDE, &unchecked(payload));
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
        assert_eq!(wire::view::<udp::Header>(&out, 34).unwrap().checksum, U16::ZERO);
        // The second goes the short way.
        assert_eq!(rig.send(CLIENT_SIDE, &unchecked(payload)), (verdict, out));

        let case = Case { real_v6: true, ..UDP4 };
        let mut rig = case.rig(10);
        let (verdict, out) = rig.send(CLIENT_SIDE, &unchecked(payload));
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
        assert_eq!(Packet::read(&out).payload, payload);
    }
}

#[test]
fn a_checksum_never_becomes_one_that_is_not_there() {
    let mut rig = UDP4.rig(10);
    // Of all payloads of two bytes one makes a sum whose complement is 0.
    for word in 0..=u16::MAX {
        let sent = Packet { payload: word.to_be_bytes().to_vec(), ..UDP4.sent(5555) };
        let (_, out) = rig.send(CLIENT_SIDE, &sent.frame());
        assert_ne!(wire::view::<udp::Header>(&out, 34).unwrap().checksum, U16::ZERO, "{word}");
    }
}

#[test]
fn a_datagram_with_a_wrong_checksum_opens_nothing() {
    for case in Case::all().into_iter().filter(|case| case.udp) {
        let mut rig = case.rig(10);
        let mut frame = Packet { payload: b"hello".to_vec(), ..case.sent(5555) }.frame();
        *frame.last_mut().unwrap() ^= 1;
        let (verdict, _) = rig.send(CLIENT_SIDE, &frame);
        assert_eq!(verdict, Verdict::Drop(DropReason::ChecksumInvalid), "{case:?}");
        assert_eq!(rig.worker.connections(), 0);
    }
}

#[test]
fn a_datagram_whose_length_is_impossible_is_a_counted_drop() {
    let mut rig = UDP4.rig(10);
    let good = UDP4.sent(5555).frame();
    for len in [0u16, 7, 9, 60_000] {
        let mut frame = good.clone();
        frame[38..40].copy_from_slice(&len.to_be_bytes());
        assert_eq!(rig.send(CLIENT_SIDE, &frame).0, Verdict::Drop(DropReason::L4Truncated), "{len}");
    }
}

/// The frame with bytes behind the datagram in its IPv4 packet.
fn with_surplus(mut frame: Vec<u8>, surplus: &[u8]) -> Vec<u8> {
    frame.extend(surplus);
    let total_len = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total_len.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
    frame
}

/// RFC 9868 §7.
#[test]
fn what_follows_a_datagram_in_its_packet_goes_along_and_is_not_under_its_checksum() {
    let surplus = [7; 9];
    for datagram in [UDP4.sent(5555).frame(), unchecked(b"odd")] {
        let frame = with_surplus(datagram, &surplus);
        for real_v6 in [false, true] {
            let mut rig = Case { real_v6, ..UDP4 }.rig(10);
            let (verdict, out) = rig.send(CLIENT_SIDE, &frame);
            assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
            let (ip, l4) = out[14..].split_at(if real_v6 { 40 } else { 20 });
            let (datagram, rest) = l4.split_at(udp::datagram(l4).len());
            assert_eq!(rest, surplus);
            if real_v6 {
                let (src, dst) = (ip[8..24].try_into().unwrap(), ip[24..40].try_into().unwrap());
                assert!(checksum::verify_udp_v6(src, dst, datagram));
            } else {
                let address = |at: usize| U32::from_bytes(ip[at..at + 4].try_into().unwrap());
                assert!(checksum::verify_udp_v4(address(12), address(16), datagram));
            }
        }
    }
}
