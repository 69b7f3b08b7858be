//! What real servers are told of the clients of UDP flows, and what clients cannot do about it.

use std::net::SocketAddr;

use wire::build::fragments_v4;
use wire::icmpv6;
use wire::uoa::{self, Form};

use super::families::{Case, Packet};
use super::icmp_errors::{error, read};
use super::*;
use crate::snapshot::Uoa;

const UDP4: Case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp: true };
const FORGED: [u8; 8] = [31, 8, 0, 53, 8, 8, 8, 8];

fn fullnat() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| case.udp && case.mode == Mode::FullNat)
}

pub(super) fn rig(case: Case, form: Form, must: bool) -> Rig {
    let mut rig = case.rig(10);
    let mut spec = case.spec();
    spec.options.uoa = Some(Uoa { form, datagrams: 3, must });
    rig.configure(vec![spec]);
    rig
}

/// What a receiver reads, and the datagram without it, its checksums proven.
pub(super) fn received(frame: &[u8]) -> (Option<SocketAddr>, Packet) {
    let wide = frame[12..14] == [0x86, 0xdd];
    let l4 = if wide { 54 } else { 14 + usize::from(frame[14] & 15) * 4 };
    assert!(wide || checksum::verify_ipv4(&frame[14..l4]));
    let protocol = frame[if wide { 20 } else { 23 }];
    if protocol != uoa::PROTOCOL {
        let options = if wide { &[] } else { &frame[34..l4] };
        let told = uoa::find_option(options).map(|client| SocketAddr::new(client.addr, client.port.get()));
        return (told, Packet::read(frame));
    }
    let (client, len) = uoa::decode_header(&frame[l4..]).unwrap();
    let mut bare = [&frame[..l4], &frame[l4 + len..]].concat();
    if wide {
        bare[20] = ipv4::PROTO_UDP;
        shorten(&mut bare[18..20], len);
    } else {
        bare[23] = ipv4::PROTO_UDP;
        shorten(&mut bare[16..18], len);
        bare[24..26].fill(0);
        let sum = checksum::internet(&bare[14..l4]);
        bare[24..26].copy_from_slice(&sum.to_bytes());
    }
    (Some(SocketAddr::new(client.addr, client.port.get())), Packet::read(&bare))
}

fn shorten(field: &mut [u8], by: usize) {
    let len = u16::from_be_bytes([field[0], field[1]]) - by as u16;
    field.copy_from_slice(&len.to_be_bytes());
}

/// From the client; what a receiver makes of it.
fn pass(rig: &mut Rig, packet: &Packet) -> (Option<SocketAddr>, Packet) {
    let (verdict, out) = rig.send(CLIENT_SIDE, &packet.frame());
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE), "{}", wire::build::summary(&out));
    received(&out)
}

#[test]
fn the_first_datagrams_of_a_flow_tell_the_client_whatever_is_answered() {
    for (case, form) in fullnat().flat_map(|case| [(case, Form::Option), (case, Form::Header)]) {
        let mut rig = rig(case, form, false);
        let sent = Packet { payload: b"hello".to_vec(), ..case.sent(5555) };
        for nth in 0..6 {
            let (told, got) = pass(&mut rig, &sent);
            assert_eq!(told, (nth < 3).then_some(sent.src), "{case:?} {form:?} datagram {nth}");
            assert_eq!((got.src.ip(), got.dst, got.hops), (case.local(), case.real(), 63));
            assert_eq!(got.payload, sent.payload);
            let back = rig.pass_out(&case.answered(&got));
            assert_eq!((back.src, back.dst), (sent.dst, sent.src));
        }
        assert_eq!(rig.event(Counter::UoaInserted), 3);
        // Each flow is told for itself.
        assert_eq!(pass(&mut rig, &case.sent(5556)).0, Some(case.client(5556)));
    }
}

#[test]
fn the_form_is_the_services_and_over_ipv6_there_is_one() {
    for (case, form) in fullnat().flat_map(|case| [(case, Form::Option), (case, Form::Header)]) {
        let mut rig = rig(case, form, false);
        let (_, out) = rig.send(CLIENT_SIDE, &case.sent(5555).frame());
        let protocol = out[if case.real_v6 { 20 } else { 23 }];
        let option = form == Form::Option && !case.real_v6;
        assert_eq!(protocol == ipv4::PROTO_UDP, option, "{case:?} {form:?}");
    }
}

#[test]
fn a_service_that_wants_none_tells_nothing() {
    for case in Case::all().into_iter().filter(|case| case.udp) {
        let mut rig = case.rig(10);
        let mut spec = case.spec();
        if case.mode != Mode::FullNat {
            // Only FULLNAT hides the client.
            spec.options.uoa = Some(Uoa { form: Form::Header, datagrams: 3, must: true });
        }
        rig.configure(vec![spec]);
        rig.pass_in(case, &case.sent(5555));
        assert_eq!(rig.event(Counter::UoaInserted), 0, "{case:?}");
    }
}

/// Every byte of room that there is, and one more.
#[test]
fn what_does_not_fit_passes_without_and_does_not_count() {
    for (case, form) in fullnat().flat_map(|case| [(case, Form::Option), (case, Form::Header)]) {
        let mut rig = rig(case, form, false);
        let (_, out) = rig.send(CLIENT_SIDE, &case.sent(1).frame());
        let front = out.len() - 14;
        let room = 1500 - front;
        // From IPv4 to IPv6 and back, headers differ by 20 bytes.
        let payload = |len: usize| Packet { payload: vec![7; len], ..case.sent(5555) };
        if case.client_v6 && !case.real_v6 && room + 20 > 1452 {
            continue;
        }
        let (told, got) = pass(&mut rig, &payload(room + 1));
        assert_eq!((told, got.payload.len()), (None, room + 1), "{case:?} {form:?}");
        assert_eq!(rig.event(Counter::UoaOverMtu), 1);
        for _ in 0..3 {
            assert_eq!(pass(&mut rig, &payload(room)).0, Some(case.client(5555)), "{case:?} {form:?}");
        }
        assert_eq!(pass(&mut rig, &payload(room)).0, None);
    }
}

#[test]
fn where_nothing_goes_untold_a_client_is_told_what_fits_or_the_datagram_is_cut() {
    let mut rig = rig(UDP4, Form::Header, true);
    let full = Packet { payload: vec![7; 1461], ..UDP4.sent(5555) };
    let (verdict, out) = rig.send(CLIENT_SIDE, &full.frame());
    assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE));
    let error: &icmp::Header = wire::view(&out, 34).unwrap();
    assert_eq!((error.code, error.rest.get()), (icmp::CODE_FRAGMENTATION_NEEDED, 1488));
    assert_eq!(rig.event(Counter::UoaOverMtu), 1);
    let fits = Packet { payload: vec![7; 1460], ..full.clone() };
    assert_eq!(pass(&mut rig, &fits).0, Some(UDP4.client(5555)));
    let mut may_cut = full.frame();
    may_cut[20] = 0;
    may_cut[24..26].fill(0);
    let sum = checksum::internet(&may_cut[14..34]);
    may_cut[24..26].copy_from_slice(&sum.to_bytes());
    let (verdict, out) = rig.send(CLIENT_SIDE, &may_cut);
    assert_eq!(verdict, Verdict::ForwardCut { port: SERVER_SIDE, mtu: 1500 });
    assert_eq!(received(&out).0, Some(UDP4.client(5555)));
}

/// What must be cut cannot wait for its next hop.
#[test]
fn a_datagram_that_is_lost_here_is_none_that_told_its_client() {
    let mut rig = rig(UDP4, Form::Header, true);
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), None);
    rig.apply_fib();
    let mut may_cut = Packet { payload: vec![7; 1461], ..UDP4.sent(5555) }.frame();
    may_cut[20] = 0;
    may_cut[24..26].fill(0);
    let sum = checksum::internet(&may_cut[14..34]);
    may_cut[24..26].copy_from_slice(&sum.to_bytes());
    for _ in 0..3 {
        assert_eq!(rig.send(CLIENT_SIDE, &may_cut).0, Verdict::Drop(DropReason::TooBig));
    }
    assert_eq!(rig.event(Counter::UoaInserted), 0);
    rig.fib.set_neighbour(SERVER_SIDE, REAL.into(), Some(REAL_MAC));
    rig.apply_fib();
    for _ in 0..3 {
        let (verdict, out) = rig.send(CLIENT_SIDE, &may_cut);
        assert_eq!(verdict, Verdict::ForwardCut { port: SERVER_SIDE, mtu: 1500 });
        assert_eq!(received(&out).0, Some(UDP4.client(5555)));
    }
}

/// A datagram behind these IPv4 options.
fn with_options(packet: &Packet, options: &[u8]) -> Vec<u8> {
    let mut frame = packet.frame();
    frame.splice(34..34, options.iter().copied());
    frame[14] += (options.len() / 4) as u8;
    let len = frame.len() as u16 - 14;
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..34 + options.len()]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
    frame
}

#[test]
fn a_header_full_of_options_has_no_room() {
    let full = with_options(&UDP4.sent(5555), &[1; 40]);
    let mut passing = rig(UDP4, Form::Option, false);
    let (verdict, out) = passing.send(CLIENT_SIDE, &full);
    assert_eq!((verdict, received(&out).0), (Verdict::Forward(SERVER_SIDE), None));
    assert_eq!(passing.event(Counter::UoaNoRoom), 1);
    let mut dropping = rig(UDP4, Form::Option, true);
    assert_eq!(dropping.send(CLIENT_SIDE, &full).0, Verdict::Drop(DropReason::ClientUntold));
    // The header does not stand in the IP header.
    let (_, out) = rig(UDP4, Form::Header, true).send(CLIENT_SIDE, &full);
    assert_eq!(received(&out).0, Some(UDP4.client(5555)));
}

#[test]
fn a_client_cannot_forge_its_address() {
    for form in [Form::Option, Form::Header] {
        let mut rig = rig(UDP4, form, false);
        for nth in 0..5 {
            let (_, out) = rig.send(CLIENT_SIDE, &with_options(&UDP4.sent(5555), &FORGED));
            assert_eq!(received(&out).0, (nth < 3).then_some(UDP4.client(5555)), "{form:?} {nth}");
            assert!(!out.windows(8).any(|bytes| bytes == FORGED));
        }
        assert_eq!(rig.event(Counter::UoaStripped), 5);
    }
}

#[test]
fn nobody_forges_an_address_in_any_mode_unless_it_may_pass() {
    for case in Case::all().into_iter().filter(|case| case.udp && !case.client_v6) {
        for pass_toa in [false, true] {
            let mut rig = case.rig(10);
            let mut spec = case.spec();
            spec.options.pass_toa = pass_toa;
            rig.configure(vec![spec]);
            let (verdict, out) = rig.send(CLIENT_SIDE, &with_options(&case.sent(5555), &FORGED));
            assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
            // IPv6 has no such options; what is in a tunnel does not change its family.
            let keeps = pass_toa && !(case.real_v6 && case.mode == Mode::FullNat);
            assert_eq!(out.windows(8).any(|bytes| bytes == FORGED), keeps, "{case:?}");
            assert_eq!(rig.event(Counter::UoaStripped), u64::from(!pass_toa), "{case:?}");
        }
    }
}

#[test]
fn nobody_forges_an_address_in_fragments_and_they_tell_nothing() {
    for form in [Form::Option, Form::Header] {
        let mut rig = rig(UDP4, form, false);
        let mut whole = with_options(
            &Packet { payload: vec![7; 300], ..UDP4.sent(5555) },
            &[FORGED, [159, 8, 0, 53, 8, 8, 8, 8]].concat(),
        );
        whole[20] = 0;
        whole[24..26].fill(0);
        let sum = checksum::internet(&whole[14..50]);
        whole[24..26].copy_from_slice(&sum.to_bytes());
        let fragments = fragments_v4(&whole, 140);
        for fragment in &fragments {
            let (verdict, out) = rig.send(CLIENT_SIDE, fragment);
            assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
            let header = &out[14..14 + usize::from(out[14] & 15) * 4];
            assert!(checksum::verify_ipv4(header));
            assert_eq!((uoa::find_option(&header[20..]), out[23]), (None, ipv4::PROTO_UDP));
        }
        assert_eq!((rig.event(Counter::UoaNoRoom), rig.event(Counter::UoaInserted)), (1, 0));
        // The option stands in all of them, as somebody may send it who forges.
        assert_eq!(rig.event(Counter::UoaStripped), fragments.len() as u64);
        assert_eq!(pass(&mut rig, &UDP4.sent(5555)).0, Some(UDP4.client(5555)), "the next one tells");
    }
}

#[test]
fn the_header_from_outside_is_no_datagram_of_ours() {
    for case in fullnat() {
        let mut rig = rig(case, Form::Header, false);
        let mut packet = HeapBuf::from_frame(&case.sent(5555).frame());
        let forged = uoa::Client { addr: "192.0.2.66".parse().unwrap(), port: U16::new(66) };
        uoa::insert(&mut packet, 14, Form::Header, forged).unwrap();
        let (verdict, _) = rig.send(CLIENT_SIDE, &packet.to_vec());
        assert_eq!(verdict, Verdict::Punt(PuntClass::Local), "{case:?}");
        assert_eq!(rig.worker.connections(), 0);
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    for form in [Form::Option, Form::Header] {
        let mut rig = rig(UDP4, form, false);
        let mut frame = UDP4.sent(5555).frame();
        frame[40..42].fill(0);
        let (_, out) = rig.send(CLIENT_SIDE, &frame);
        assert_eq!(out[out.len() - 2..], [0, 0], "{form:?}");
        assert_eq!(received(&out).0, Some(UDP4.client(5555)));
    }
}

#[test]
fn one_packet_flows_tell_every_datagram() {
    let mut rig = UDP4.rig(10);
    let mut spec = UDP4.spec();
    spec.options.one_packet = true;
    spec.options.uoa = Some(Uoa { form: Form::Option, datagrams: 1, must: false });
    rig.configure(vec![spec]);
    for _ in 0..3 {
        assert_eq!(pass(&mut rig, &UDP4.sent(5555)).0, Some(UDP4.client(5555)));
    }
}

/// What a kernel answers that does not know the protocol.
fn protocol_unreachable(wide: bool) -> (u8, u8) {
    if wide { (icmpv6::TYPE_PARAMETER_PROBLEM, 1) } else { (icmp::TYPE_UNREACHABLE, 2) }
}

#[test]
fn an_error_about_a_datagram_that_told_its_client_is_about_what_the_client_sent() {
    for (case, form) in fullnat().flat_map(|case| [(case, Form::Option), (case, Form::Header)]) {
        let mut rig = rig(case, form, false);
        let sent = Packet { payload: b"hello".to_vec(), ..case.sent(5555) };
        let (_, out) = rig.send(CLIENT_SIDE, &sent.frame());
        let pointer = if case.real_v6 { 6 } else { 0 };
        let error = error(case.local(), protocol_unreachable(case.real_v6), pointer, &out[14..]);
        let (verdict, out) = rig.send(SERVER_SIDE, &error);
        assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE), "{case:?} {form:?}");
        assert_eq!(read(&out), (sent.src.ip(), sent.src, sent.dst), "{case:?} {form:?}");
        let protocol = if case.client_v6 { 54 + 8 + 6 } else { 34 + 8 + 9 };
        assert_eq!(out[protocol], ipv4::PROTO_UDP, "{case:?} {form:?}");
        let datagram = sent.frame().split_off(if case.client_v6 { 54 } else { 34 });
        assert!(out.windows(datagram.len()).any(|bytes| bytes == datagram), "{case:?} {form:?}");
        assert_eq!(rig.event(Counter::IcmpErrors), 1);
    }
}

#[test]
fn an_error_of_an_mtu_leaves_room_for_the_header_while_there_will_be_one() {
    let mut rig = rig(UDP4, Form::Header, false);
    for mtu in [1388, 1388, 1400] {
        let (_, out) = rig.send(CLIENT_SIDE, &UDP4.sent(5555).frame());
        let too_long = (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED);
        let (_, out) = rig.send(SERVER_SIDE, &error(LIP.into(), too_long, 1400, &out[14..]));
        let told: &icmp::Header = wire::view(&out, 34).unwrap();
        assert_eq!(told.rest.get(), mtu);
    }
}

/// RFC 4884 §4.1: in front of the MTU may stand the length of the quote; a router that does not know the MTU says 0, and
/// none has less than 68.
#[test]
fn what_is_taken_off_an_mtu_is_not_borrowed_from_the_length_of_the_quote() {
    const LEN: u32 = 32 << 16;
    for (told, wanted) in [(LEN | 1400, LEN | 1388), (LEN, LEN), (LEN | 5, LEN | 68), (LEN | 70, LEN | 68)] {
        let mut rig = rig(UDP4, Form::Header, false);
        let sent = Packet { payload: vec![7; 200], ..UDP4.sent(5555) };
        let (_, out) = rig.send(CLIENT_SIDE, &sent.frame());
        let too_long = (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED);
        let (_, out) = rig.send(SERVER_SIDE, &error(LIP.into(), too_long, told, &out[14..14 + 128]));
        let told: &icmp::Header = wire::view(&out, 34).unwrap();
        assert_eq!(told.rest.get(), wanted);
        assert_eq!(read(&out), (sent.src.ip(), sent.src, sent.dst));
    }
}

/// Behind extension headers it is none that the gateway put there.
#[test]
fn an_error_that_quotes_the_header_where_the_gateway_puts_none_is_not_passed_on() {
    let behind: [(&[u8], u8); 2] = [(&[248, 0, 1, 4, 0, 0, 0, 0], 60), (&[248, 0, 0, 0, 0, 0, 0, 7], 44)];
    for (case, (extension, kind)) in
        fullnat().filter(|case| case.real_v6).flat_map(|case| behind.map(|behind| (case, behind)))
    {
        let mut rig = rig(case, Form::Header, false);
        let (_, out) = rig.send(CLIENT_SIDE, &case.sent(5555).frame());
        let mut quoted = out[14..].to_vec();
        quoted.splice(40..40, extension.iter().copied());
        quoted[5] += 8;
        quoted[6] = kind;
        let (verdict, _) =
            rig.send(SERVER_SIDE, &error(case.local(), protocol_unreachable(true), 40, &quoted));
        assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUntranslatable), "{case:?}");
        assert_eq!(rig.event(Counter::IcmpErrors), 0);
    }
}

#[test]
fn an_error_that_quotes_the_header_where_none_is_put_is_about_nothing_of_ours() {
    for case in Case::all().into_iter().filter(|case| case.udp) {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let to_client = Packet { src: case.virtual_(), dst: case.client(5555), ..case.sent(1) };
        let mut quoted = vec![(CLIENT_SIDE, to_client)];
        if case.mode == Mode::Nat {
            quoted.push((SERVER_SIDE, got));
        }
        for (port, packet) in quoted {
            let mut frame = HeapBuf::from_frame(&packet.frame());
            let client = uoa::Client { addr: case.client(5555).ip(), port: U16::new(5555) };
            uoa::insert(&mut frame, 14, Form::Header, client).unwrap();
            let wide = packet.src.is_ipv6();
            let error = error(packet.src.ip(), protocol_unreachable(wide), 0, &frame.to_vec()[14..]);
            let verdict = rig.send(port, &error).0;
            let refused = matches!(verdict, Verdict::Drop(DropReason::IcmpUnknown) | Verdict::Punt(_));
            assert!(refused, "{verdict:?} {case:?}");
            assert_eq!(rig.event(Counter::IcmpErrors), 0);
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_sent_the_real_server_gets_it_and_learns_who_sent_it(
        case in prop::sample::select(fullnat().collect::<Vec<_>>()),
        header in any::<bool>(), must in any::<bool>(), port in 1u16..,
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1420), 1..6),
    ) {
        let mut rig = rig(case, if header { Form::Header } else { Form::Option }, must);
        for (nth, payload) in payloads.into_iter().enumerate() {
            let sent = Packet { payload, ..case.sent(port) };
            let (told, got) = pass(&mut rig, &sent);
            prop_assert_eq!(told, (nth < 3).then_some(sent.src));
            prop_assert_eq!(got.payload, sent.payload);
        }
    }
}
