//! What single modes promise: DR's bytes, NAT's ambiguity, TUN's outer headers.

use std::net::SocketAddr;

use wire::build::{GUE_PORT, Ipv6Base, Wrap};
use wire::{ipv6, udp};

use super::families::{Case, Packet, two_families};
use super::*;
use crate::snapshot::{Tunnel, TunnelKind};

#[test]
fn direct_routing_changes_nothing_but_the_hop_count_and_the_mac_addresses() {
    for case in Case::all().into_iter().filter(|case| case.mode == Mode::Dr) {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let options =
            if case.udp { Vec::new() } else { vec![options::KIND_SACK, 10, 1, 2, 3, 4, 5, 6, 7, 8] };
        let options = [options, vec![0; if case.udp { 0 } else { 2 }]].concat();
        let sent = Packet { payload: b"hello".to_vec(), options, ..case.sent(5555) };
        let (verdict, out) = rig.send(CLIENT_SIDE, &sent.frame());
        assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
        let mut expected = Packet { hops: 63, ..sent }.frame();
        expected[..6].copy_from_slice(&REAL_MAC.0);
        expected[6..12].copy_from_slice(&GATEWAY_MAC.0);
        assert_eq!(out, expected, "{case:?}");
    }
}

#[test]
fn nat_refuses_what_would_make_replies_ambiguous() {
    let case = Case { mode: Mode::Nat, client_v6: false, real_v6: false, udp: false };
    let other = SocketAddr::new(case.virtual_().ip(), 81);
    let mut rig = case.rig(10);
    rig.configure(vec![case.spec(), ServiceSpec { virtual_: other, ..case.spec() }]);
    case.open(&mut rig, 5555);
    let syn = |port, dst| Packet { flags: flags::SYN, dst, ..case.sent(port) };
    let (verdict, _) = rig.send(CLIENT_SIDE, &syn(5555, other).frame());
    assert_eq!(verdict, Verdict::Drop(DropReason::ReplyAmbiguous));
    assert_eq!(rig.send(CLIENT_SIDE, &syn(5556, other).frame()).0, Verdict::Forward(SERVER_SIDE));
    assert_eq!(rig.worker.connections(), 2);
}

#[test]
fn what_a_nat_server_sends_of_its_own_accord_is_the_kernels() {
    let case = Case { mode: Mode::Nat, client_v6: false, real_v6: false, udp: false };
    let mut rig = case.rig(10);
    let packet = Packet { src: case.real(), dst: case.client(9), ..case.sent(1) };
    let (verdict, out) = rig.send(SERVER_SIDE, &packet.frame());
    assert_eq!((verdict, out), (Verdict::Punt(PuntClass::Local), packet.frame()));
}

fn wrap(kind: TunnelKind, src_port: U16, over_v6: bool) -> Wrap {
    match kind {
        TunnelKind::Ipip => Wrap::Ip,
        TunnelKind::Gre { checksum: false } => Wrap::Gre,
        TunnelKind::Gre { checksum: true } => Wrap::GreChecksum,
        TunnelKind::Gue { port, checksum } if checksum || over_v6 => {
            Wrap::GueChecksum { src_port, dst_port: U16::new(port) }
        }
        TunnelKind::Gue { port, .. } => Wrap::Gue { src_port, dst_port: U16::new(port) },
    }
}

/// `sent` in a tunnel, as it must leave. What the gateway chooses (identification, flow label, source port) is
/// as in `out`.
fn tunnelled(case: Case, kind: TunnelKind, sent: &Packet, out: &[u8]) -> Vec<u8> {
    let inner = Packet { hops: sent.hops - 1, ..sent.clone() }.frame();
    let (from, to) = (case.local(), case.real().ip());
    match (from, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip: &ipv4::Header = wire::view(out, 14).unwrap();
            let src_port = wire::view::<udp::Header>(out, 34).unwrap().src_port;
            let outer = Ipv4Base {
                eth_dst: REAL_MAC,
                eth_src: GATEWAY_MAC,
                src: u32be(src),
                dst: u32be(dst),
                ttl: sent.hops - 1,
                id: ip.id,
                flags_fragment: U16::new(if case.client_v6 { 0 } else { ipv4::FLAG_DONT_FRAGMENT }),
                ..Ipv4Base::default()
            };
            wrap(kind, src_port, false).over_v4(outer, &inner[14..])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip: &ipv6::Header = wire::view(out, 14).unwrap();
            let src_port = wire::view::<udp::Header>(out, 54).unwrap().src_port;
            let outer = Ipv6Base {
                eth_dst: REAL_MAC,
                eth_src: GATEWAY_MAC,
                src: src.octets(),
                dst: dst.octets(),
                hop_limit: sent.hops - 1,
                flow_label: ip.version_class_flow.get() & 0x000f_ffff,
                ..Ipv6Base::default()
            };
            wrap(kind, src_port, true).over_v6(outer, &inner[14..])
        }
        _ => panic!("a tunnel from {from} to {to}"),
    }
}

#[test]
fn every_tunnel_wraps_either_family_in_either_family() {
    let gue = |checksum| TunnelKind::Gue { port: GUE_PORT.get(), checksum };
    let gre = |checksum| TunnelKind::Gre { checksum };
    for kind in [TunnelKind::Ipip, gre(false), gre(true), gue(false), gue(true)] {
        for case in Case::all().into_iter().filter(|case| case.mode == Mode::Tun) {
            let mut spec = case.spec();
            spec.reals[0].tunnel = Some(Tunnel { kind, source: case.local() });
            let mut rig = Rig::with(10, spec);
            two_families(&mut rig.fib);
            rig.apply_fib();
            let flags = if case.udp { 0 } else { flags::SYN };
            let sent = Packet { flags, payload: b"hello".to_vec(), ..case.sent(5555) };
            let (verdict, out) = rig.send(CLIENT_SIDE, &sent.frame());
            assert_eq!(verdict, Verdict::Forward(SERVER_SIDE));
            assert_eq!(out, tunnelled(case, kind, &sent, &out), "{kind:?} {case:?}");
        }
    }
}

#[test]
fn what_does_not_fit_the_tunnel_is_told_the_length_that_does() {
    for case in Case::all().into_iter().filter(|case| case.mode == Mode::Tun && !case.udp) {
        let mut rig = case.rig(10);
        case.open(&mut rig, 5555);
        let (outer, inner) = (if case.real_v6 { 40 } else { 20 }, if case.client_v6 { 40 } else { 20 });
        let fits = 1500 - outer - inner - 20;
        let of_len = |len| Packet { payload: vec![7; len], ..case.sent(5555) }.frame();
        assert_eq!(rig.send(CLIENT_SIDE, &of_len(fits)).0, Verdict::Forward(SERVER_SIDE), "{case:?}");
        let (verdict, out) = rig.send(CLIENT_SIDE, &of_len(fits + 1));
        assert_eq!(verdict, Verdict::Reply(CLIENT_SIDE), "{case:?}");
        let message: &icmp::Header = wire::view(&out, 14 + inner).unwrap();
        assert_eq!(message.rest.get(), 1500 - outer as u32, "{case:?}");
    }
}
