//! ICMP errors from inside a tunnel.

use super::*;
use crate::snapshot::{Tunnel, TunnelKind};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 254);

fn rig(kind: TunnelKind) -> Rig {
    let mut spec = service(&[(REAL, 1)]);
    for real in &mut spec.reals {
        *real = RealSpec {
            tunnel: Some(Tunnel { kind, source: SOURCE.into() }),
            ..RealSpec::new((REAL, 80).into(), Mode::Tun, 1)
        };
    }
    Rig::with(1000, spec)
}

/// The tunnelled form of a SYN, from the outer IP header on.
fn tunnelled(rig: &mut Rig) -> Vec<u8> {
    let (verdict, out) = rig.send(CLIENT_SIDE, &syn(5555).to_vec());
    assert_eq!(verdict, Verdict::Forward(SERVER_SIDE), "{}", wire::build::summary(&out));
    out[14..].to_vec()
}

fn error(to: Ipv4Addr, what: (u8, u8, U32), quoted: &[u8]) -> Vec<u8> {
    let ip = Ipv4Base {
        eth_dst: GATEWAY_MAC,
        eth_src: REAL_MAC,
        src: u32be(ROUTER),
        dst: u32be(to),
        protocol: ipv4::PROTO_ICMP,
        ..Ipv4Base::default()
    };
    wire::build::icmp_error_frame(ip, what, quoted).unwrap()
}

const TOO_BIG: (u8, u8) = (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED);

#[test]
fn the_client_learns_what_fits_the_tunnel() {
    let kinds = [
        (TunnelKind::Ipip, 20),
        (TunnelKind::Gre { checksum: false }, 24),
        (TunnelKind::Gre { checksum: true }, 28),
        (TunnelKind::Gue { port: 6080, checksum: false }, 32),
    ];
    for (kind, overhead) in kinds {
        let mut rig = rig(kind);
        let outer = tunnelled(&mut rig);
        let frame = error(SOURCE, (TOO_BIG.0, TOO_BIG.1, U32::new(1300)), &outer);
        let (verdict, out) = rig.send(SERVER_SIDE, &frame);
        assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE), "{kind:?}");
        let ip: &ipv4::Header = wire::view(&out, 14).unwrap();
        assert!(checksum::verify_ipv4(&out[14..34]));
        assert_eq!((ip.src, ip.dst), (u32be(VIP), u32be(CLIENT)));
        let message = &out[34..14 + usize::from(ip.total_len.get())];
        let header: &icmp::Header = wire::view(message, 0).unwrap();
        assert_eq!(
            (header.kind, header.code, header.next_hop_mtu()),
            (TOO_BIG.0, TOO_BIG.1, 1300 - overhead)
        );
        assert_eq!(header.checksum, checksum::icmp(message));
        assert_eq!(message[8..], outer[usize::from(overhead)..], "the packet inside is quoted");
    }
}

#[test]
fn the_client_learns_of_no_mtu_that_no_link_has() {
    for (told, wanted) in [(1, 68), (19, 68), (68, 68), (87, 68), (89, 69)] {
        let mut rig = rig(TunnelKind::Ipip);
        let outer = tunnelled(&mut rig);
        let (verdict, out) =
            rig.send(SERVER_SIDE, &error(SOURCE, (TOO_BIG.0, TOO_BIG.1, U32::new(told)), &outer));
        assert_eq!(verdict, Verdict::Forward(CLIENT_SIDE), "{told}");
        let header: &icmp::Header = wire::view(&out, 34).unwrap();
        assert_eq!(header.next_hop_mtu(), wanted, "{told}");
    }
}

#[test]
fn errors_about_other_tunnels_are_left_to_the_kernel() {
    let mut rig = rig(TunnelKind::Ipip);
    let outer = tunnelled(&mut rig);
    let mut elsewhere = outer.clone();
    elsewhere[19] ^= 1; // another destination
    let mut unknown = outer.clone();
    unknown[40] ^= 1; // another client port
    for quoted in [&elsewhere, &unknown] {
        let frame = error(SOURCE, (TOO_BIG.0, TOO_BIG.1, U32::new(1300)), quoted);
        assert_eq!(rig.send(SERVER_SIDE, &frame).0, Verdict::Punt(PuntClass::Icmp));
    }
    assert_eq!(rig.event(Counter::IcmpErrors), 0);
}

#[test]
fn a_router_that_tells_no_mtu_is_not_believed() {
    let mut rig = rig(TunnelKind::Ipip);
    let outer = tunnelled(&mut rig);
    let frame = error(SOURCE, (TOO_BIG.0, TOO_BIG.1, U32::ZERO), &outer);
    assert_eq!(rig.send(SERVER_SIDE, &frame).0, Verdict::Drop(DropReason::IcmpUntranslatable));
}

proptest! {
    #[test]
    fn whatever_an_error_quotes_nothing_panics(cut in 0usize..80, at in 0usize..80, byte: u8, kind in 0u8..20) {
        let mut rig = rig(TunnelKind::Gue { port: 6080, checksum: true });
        let mut outer = tunnelled(&mut rig);
        if let Some(place) = outer.get_mut(at) {
            *place = byte;
        }
        outer.truncate(outer.len() - cut.min(outer.len()));
        let mut frame = error(SOURCE, (TOO_BIG.0, TOO_BIG.1, U32::new(1300)), &[&[0x45; 28][..], &outer].concat());
        frame[34] = kind;
        frame.truncate(42);
        frame.extend(&outer);
        let total_len = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total_len.to_be_bytes());
        rig.send(SERVER_SIDE, &frame);
    }
}
