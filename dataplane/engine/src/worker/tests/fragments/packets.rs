//! How packets get through, whole packets and their fragments, and what their receiver sees.

use std::net::SocketAddr;

use wire::build::{Ipv6Base, TcpFrame6, UdpFrame, UdpFrame6, fragments_v4, fragments_v6};
use wire::{ethernet, ipv6, tunnel as outer};

use super::super::*;
use super::farm::{Farm, client, local, real, vip};
use crate::snapshot::{Options, Tunnel, TunnelKind};

/// Identification of all packets that are cut.
pub(super) const FRAGMENT_ID: u32 = 0x0001_2345;

/// How a datagram gets where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) mode: Mode,
    pub(super) client_wide: bool,
    pub(super) real_wide: bool,
    pub(super) protocol: u8,
    pub(super) outbound: bool,
    /// Whether the gateway changes sequence numbers.
    pub(super) rebase: bool,
}

impl Case {
    pub(super) fn spec(&self) -> ServiceSpec {
        let port = if self.mode.is_one_way() { 80 } else { 8080 };
        let mut to = RealSpec::new((real(self.real_wide), port).into(), self.mode, 1);
        if self.mode == Mode::Tun {
            to.tunnel = Some(Tunnel { kind: TunnelKind::Ipip, source: local(self.real_wide) });
        }
        ServiceSpec {
            protocol: self.protocol,
            virtual_: (vip(self.client_wide), 80).into(),
            toa: None,
            options: Options { rebase_sequence: self.rebase, ..Options::default() },
            locals: vec![local(self.real_wide)],
            reals: vec![to],
            ..service(&[])
        }
    }

    /// Opens a connection, and tells between which endpoints the packets of this case go.
    pub(super) fn open(&self, farm: &mut Farm) -> (SocketAddr, SocketAddr) {
        let inbound =
            (SocketAddr::new(client(self.client_wide), 4000), SocketAddr::new(vip(self.client_wide), 80));
        if self.protocol == ipv4::PROTO_TCP || self.outbound {
            farm.send(0, &frame(self.protocol, flags::SYN, inbound, &[]));
            let opened = farm.one();
            if self.outbound {
                let (src, dst) = endpoints(&opened);
                return (dst, src);
            }
        }
        inbound
    }
}

pub(super) fn frame(protocol: u8, bits: u8, (src, dst): (SocketAddr, SocketAddr), payload: &[u8]) -> Vec<u8> {
    let ports = (U16::new(src.port()), U16::new(dst.port()));
    let payload = payload.to_vec();
    let tcp = TcpFrame {
        eth_dst: GATEWAY_MAC,
        src_port: ports.0,
        dst_port: ports.1,
        flags: bits,
        payload: payload.clone(),
        flags_fragment: U16::ZERO,
        id: U16::new(FRAGMENT_ID as u16),
        ..TcpFrame::default()
    };
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if protocol == ipv4::PROTO_TCP => {
            TcpFrame { src: u32be(src), dst: u32be(dst), ..tcp }.to_vec()
        }
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = Ipv4Base {
                eth_dst: GATEWAY_MAC,
                src: u32be(src),
                dst: u32be(dst),
                id: tcp.id,
                flags_fragment: U16::ZERO,
                ..Ipv4Base::default()
            };
            UdpFrame { ip, src_port: ports.0, dst_port: ports.1, payload, ..UdpFrame::default() }.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) if protocol == ipv4::PROTO_TCP => {
            TcpFrame6 { src: src.octets(), dst: dst.octets(), hop_limit: 64, tcp }.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6Base {
                eth_dst: GATEWAY_MAC,
                src: src.octets(),
                dst: dst.octets(),
                ..Ipv6Base::default()
            };
            UdpFrame6 { ip, src_port: ports.0, dst_port: ports.1, payload, ..UdpFrame6::default() }.to_vec()
        }
        _ => panic!("one family"),
    }
}

pub(super) fn cut(whole: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    if whole[14] >> 4 == 6 { fragments_v6(whole, mtu + 40, FRAGMENT_ID) } else { fragments_v4(whole, mtu) }
}

/// A packet, or a fragment of one, as its receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) hops: u8,
    pub(super) protocol: u8,
    pub(super) id: u32,
    pub(super) offset: usize,
    pub(super) more: bool,
    pub(super) payload: Vec<u8>,
}

/// Reads a frame; lengths and header checksums are proven. Of a tunnel's packet, what is inside.
pub(super) fn got(frame: &[u8]) -> Got {
    let packet = &frame[ethernet::HEADER_LEN..];
    if let Some(inside) = outer::open(packet, None) {
        let inner = [&frame[..ethernet::HEADER_LEN], &packet[inside.inner_offset..]].concat();
        return got(&inner);
    }
    if packet[0] >> 4 == 6 {
        let ip: &ipv6::Header = wire::view(packet, 0).unwrap();
        assert_eq!(ip.check(packet.len()).unwrap(), packet.len());
        let upper = ipv6::walk_extensions(packet).unwrap();
        Got {
            src: ipv6::to_addr(ip.src).into(),
            dst: ipv6::to_addr(ip.dst).into(),
            hops: ip.hop_limit,
            protocol: upper.protocol,
            id: upper.fragment.map_or(0, |fragment| fragment.id.get()),
            offset: upper.fragment.map_or(0, |fragment| fragment.fragment_offset().into()),
            more: upper.fragment.is_some_and(|fragment| fragment.more_fragments()),
            payload: packet[upper.offset..].to_vec(),
        }
    } else {
        let ip: &ipv4::Header = wire::view(packet, 0).unwrap();
        assert_eq!(usize::from(ip.total_len.get()), packet.len());
        assert!(checksum::verify_ipv4(&packet[..20]));
        Got {
            src: ipv4::to_addr(ip.src).into(),
            dst: ipv4::to_addr(ip.dst).into(),
            hops: ip.ttl,
            protocol: ip.protocol,
            id: ip.id.get().into(),
            offset: ip.fragment_offset().into(),
            more: ip.more_fragments(),
            payload: packet[20..].to_vec(),
        }
    }
}

pub(super) fn endpoints(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let got = got(frame);
    let port = |at: usize| u16::from_be_bytes([got.payload[at], got.payload[at + 1]]);
    (SocketAddr::new(got.src, port(0)), SocketAddr::new(got.dst, port(2)))
}

pub(super) fn l4_checksum_is_right(got: &Got) -> bool {
    let bytes = &got.payload;
    match (got.src, got.dst, got.protocol) {
        (IpAddr::V4(src), IpAddr::V4(dst), 6) => checksum::verify_tcp_v4(u32be(src), u32be(dst), bytes),
        (IpAddr::V4(src), IpAddr::V4(dst), _) => checksum::verify_udp_v4(u32be(src), u32be(dst), bytes),
        (IpAddr::V6(src), IpAddr::V6(dst), 6) => checksum::verify_tcp_v6(&src.octets(), &dst.octets(), bytes),
        (IpAddr::V6(src), IpAddr::V6(dst), _) => checksum::verify_udp_v6(&src.octets(), &dst.octets(), bytes),
        _ => false,
    }
}
