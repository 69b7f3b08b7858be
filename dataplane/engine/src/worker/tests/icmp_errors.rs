//! ICMP errors about connections: good ones reach whom they are for, bad ones change nothing.

use std::net::{Ipv6Addr, SocketAddr};

use wire::build::{Ipv6Base, icmp_error_frame, icmpv6_error_frame};
use wire::{Family, icmpv6, quote};

use super::families::{Case, Packet};
use super::*;

/// An error of a router about `quoted` (an IP packet), to whoever sent that.
pub(super) fn error(to: IpAddr, (kind, code): (u8, u8), rest: u32, quoted: &[u8]) -> Vec<u8> {
    match to {
        IpAddr::V4(to) => {
            let src = u32be(Ipv4Addr::new(203, 0, 113, 1));
            let ip = Ipv4Base { eth_dst: GATEWAY_MAC, src, dst: u32be(to), ..Ipv4Base::default() };
            icmp_error_frame(ip, (kind, code, U32::new(rest)), quoted).unwrap()
        }
        IpAddr::V6(to) => {
            let src = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1).octets();
            let ip = Ipv6Base { eth_dst: GATEWAY_MAC, src, dst: to.octets(), ..Ipv6Base::default() };
            icmpv6_error_frame(ip, (kind, code, U32::new(rest)), quoted).unwrap()
        }
    }
}

/// "Port unreachable" of that family.
fn unreachable(wide: bool) -> (u8, u8) {
    if wide { (icmpv6::TYPE_UNREACHABLE, 4) } else { (icmp::TYPE_UNREACHABLE, 3) }
}

/// What errors that tell an MTU are in that family.
fn too_big(wide: bool) -> (u8, u8) {
    if wide {
        (icmpv6::TYPE_PACKET_TOO_BIG, 0)
    } else {
        (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED)
    }
}

/// An error about what the client of an open connection got; where replies come this way, also one about
/// what its real server got.
fn errors_about(case: Case, got: &Packet) -> Vec<(PortId, Vec<u8>)> {
    errors_of(unreachable, 0, case, got)
}

fn errors_of(what: fn(bool) -> (u8, u8), rest: u32, case: Case, got: &Packet) -> Vec<(PortId, Vec<u8>)> {
    let about = |packet: &Packet, port| {
        let wide = packet.src.is_ipv6();
        (port, error(packet.src.ip(), what(wide), rest, &packet.frame()[14..]))
    };
    let to_client = Packet { src: case.virtual_(), dst: case.client(5555), ..case.sent(1) };
    let mut all = vec![about(&to_client, CLIENT_SIDE)];
    if !case.mode.is_one_way() {
        all.push(about(got, SERVER_SIDE));
    }
    all
}

/// Whom a frame with an error goes to, and the endpoints of what it quotes.
pub(super) fn read(frame: &[u8]) -> (IpAddr, SocketAddr, SocketAddr) {
    let wide = frame[12..14] == [0x86, 0xdd];
    let (to, message, family): (IpAddr, _, _) = if wide {
        let ip: &wire::ipv6::Header = wire::view(frame, 14).unwrap();
        assert_eq!(checksum::icmp_v6(&ip.src, &ip.dst, &frame[54..]).get(), checksum_of(&frame[54..]));
        (ip.dst.into(), &frame[54..], Family::V6)
    } else {
        let ip: &ipv4::Header = wire::view(frame, 14).unwrap();
        assert!(checksum::verify_ipv4(&frame[14..34]));
        assert_eq!(checksum::icmp(&frame[34..]).get(), checksum_of(&frame[34..]));
        (ipv4::to_addr(ip.dst).into(), &frame[34..], Family::V4)
    };
    let quote = quote::find(message, family).unwrap();
    let (src, dst): (IpAddr, IpAddr) = match quote.addresses {
        wire::Addresses::V4 { src, dst } => (ipv4::to_addr(src).into(), ipv4::to_addr(dst).into()),
        wire::Addresses::V6 { src, dst } => (src.into(), dst.into()),
    };
    (to, SocketAddr::new(src, quote.src_port.get()), SocketAddr::new(dst, quote.dst_port.get()))
}

fn checksum_of(message: &[u8]) -> u16 {
    wire::view::<icmp::Header>(message, 0).unwrap().checksum.get()
}

#[test]
fn an_error_reaches_its_connections_other_side_and_quotes_what_that_sent() {
    for case in Case::all().into_iter().filter(|case| case.mode != Mode::Tun) {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        for (port, frame) in errors_about(case, &got) {
            let (verdict, out) = rig.send(port, &frame);
            let (client, virtual_) = (case.client(5555), case.virtual_());
            let (exit, expected) = match (port, case.mode) {
                (SERVER_SIDE, _) => (CLIENT_SIDE, (client.ip(), client, virtual_)),
                (_, Mode::Dr) => (SERVER_SIDE, (virtual_.ip(), virtual_, client)),
                _ => (SERVER_SIDE, (got.dst.ip(), got.dst, got.src)),
            };
            assert_eq!(verdict, Verdict::Forward(exit), "{case:?}");
            assert_eq!(read(&out), expected, "{case:?}");
        }
        assert_eq!(rig.event(Counter::IcmpErrors), errors_about(case, &got).len() as u64, "{case:?}");
    }
}

/// Forged or of broken routers: no link of IPv4 takes less than 68 bytes, none of IPv6 less than 1280. In IPv4 a router that
/// does not know says 0.
#[test]
fn nobody_is_told_an_mtu_that_no_link_has() {
    let translated = |case: &Case| matches!(case.mode, Mode::FullNat | Mode::Nat);
    for case in Case::all().into_iter().filter(translated) {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        for told in [0, 1, 67, 68] {
            for (port, frame) in errors_of(too_big, told, case, &got) {
                let (verdict, out) = rig.send(port, &frame);
                assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?} {case:?}");
                read(&out);
                let is_wide = |frame: &[u8]| frame[12..14] == [0x86, 0xdd];
                let (at, least) = match (is_wide(&frame), is_wide(&out)) {
                    (false, false) => (34, told.min(1) * 68),
                    (true, false) => (34, 1260),
                    (_, true) => (54, 1280),
                };
                let told_on: &icmp::Header = wire::view(&out, at).unwrap();
                assert_eq!(told_on.rest.get(), least, "{told} {case:?}");
            }
        }
    }
}

#[test]
fn errors_change_no_state_however_they_are_cut() {
    for case in Case::all() {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let memory = rig.memory();
        for (port, frame) in errors_about(case, &got) {
            for len in 0..=frame.len() {
                rig.send(port, &frame[..len]);
                // With lengths that know of the cut.
                let mut cut = frame[..len].to_vec();
                if len > 54 {
                    shorten(&mut cut);
                    rig.send(port, &cut);
                }
            }
        }
        assert_eq!(rig.memory(), memory, "{case:?}");
    }
}

/// Makes the IP header's length that of the frame.
fn shorten(frame: &mut [u8]) {
    let len = frame.len() - 14;
    if frame[12..14] == [0x86, 0xdd] {
        frame[18..20].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        return;
    }
    frame[16..18].copy_from_slice(&(len as u16).to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_bytes());
}

#[test]
fn an_error_about_an_error_is_none_of_ours() {
    for case in Case::all() {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let memory = rig.memory();
        for (port, frame) in errors_about(case, &got) {
            let wide = frame[12..14] == [0x86, 0xdd];
            let (src, _, _) = read(&frame);
            let nested = error(src, unreachable(wide), 0, &frame[14..]);
            let verdict = rig.send(port, &nested).0;
            let refused = matches!(verdict, Verdict::Drop(DropReason::IcmpUnknown) | Verdict::Punt(_));
            assert!(refused, "{verdict:?} {case:?}");
        }
        assert_eq!(rig.memory(), memory, "{case:?}");
    }
}

#[test]
fn an_error_that_quotes_mapped_addresses_finds_no_connection_of_ipv4() {
    for udp in [false, true] {
        let case = Case { mode: Mode::FullNat, client_v6: false, real_v6: false, udp };
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let wide = |endpoint: SocketAddr| {
            let IpAddr::V4(v4) = endpoint.ip() else { panic!("{endpoint} is IPv6 already") };
            SocketAddr::new(v4.to_ipv6_mapped().into(), endpoint.port())
        };
        let (src, dst) = (wide(case.virtual_()), wide(case.client(5555)));
        let quoted = Packet { src, dst, ..case.sent(1) }.frame();
        let verdict = rig.send(CLIENT_SIDE, &error(src.ip(), unreachable(true), 0, &quoted[14..])).0;
        assert!(matches!(verdict, Verdict::Drop(_) | Verdict::Punt(_)), "{verdict:?}");
        assert_eq!(rig.event(Counter::IcmpErrors), 0);
    }
}

proptest! {
    #[test]
    fn spoilt_errors_never_change_what_is_remembered(
        case in prop::sample::select(Case::all()),
        spoilt in prop::collection::vec((14usize..200, any::<u8>()), 1..6),
        rest in any::<u32>(),
        kind in any::<u8>(),
        code in 0u8..16,
        room in 0usize..80,
    ) {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let memory = rig.memory();
        for (port, mut frame) in errors_about(case, &got) {
            let l4 = if frame[12..14] == [0x86, 0xdd] { 54 } else { 34 };
            frame[l4..l4 + 2].copy_from_slice(&[kind, code]);
            frame[l4 + 4..l4 + 8].copy_from_slice(&rest.to_be_bytes());
            for (at, value) in &spoilt {
                if let Some(byte) = frame.get_mut(*at) {
                    *byte ^= value;
                }
            }
            let mut packets = [HeapBuf::with_room(&frame, room, room).on_port(port.0)];
            let mut verdicts: Verdicts = [Verdict::NONE; BURST_LEN_MAX];
            rig.worker.process(rig.now, &mut packets, &mut verdicts);
            prop_assert!(!matches!(verdicts[0], Verdict::HandOver(_)));
        }
        prop_assert_eq!(rig.memory(), memory);
    }
}

/// A redirect is for one link alone and none of a connection's (RFC 7915 §4.2): whoever can send one from outside must not
/// choose a real server's routes.
#[test]
fn a_redirect_goes_no_further() {
    for case in Case::all().into_iter().filter(|case| !case.client_v6) {
        let mut rig = case.rig(10);
        let got = case.open(&mut rig, 5555);
        let memory = rig.memory();
        let to_client = Packet { src: case.virtual_(), dst: case.client(5555), ..case.sent(1) };
        let mut quoted = vec![(CLIENT_SIDE, to_client)];
        if !case.mode.is_one_way() && !case.real_v6 {
            quoted.push((SERVER_SIDE, got));
        }
        for (port, packet) in quoted {
            let gateway = u32be(Ipv4Addr::new(10, 2, 0, 66)).get();
            let redirect = error(packet.src.ip(), (icmp::TYPE_REDIRECT, 1), gateway, &packet.frame()[14..]);
            let verdict = rig.send(port, &redirect).0;
            assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUntranslatable), "{case:?}");
        }
        assert_eq!(rig.memory(), memory, "{case:?}");
    }
}
