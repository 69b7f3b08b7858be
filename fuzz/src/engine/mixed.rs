//! Services of every mode, protocol and pair of families, and packets about their connections: from clients, from real
//! servers, and ICMP errors that quote them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use engine::snapshot::{Mode, Scheduler, Tunnel, TunnelKind};
use engine::tcp::Timeouts;
use engine::{RealSpec, ServiceSpec};
use wire::build::{Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6};
use wire::build::{icmp_error_frame, icmpv6_error_frame};
use wire::{U16, U32, checksum, ethernet, ipv4, ipv6, udp, view};

use super::sent::{CLIENTS, GATEWAY_MAC, LIP, PEER_MAC, REALS, Sent, TOA_KIND, VIP};
use crate::script::Script;

/// The service of a combination listens at this port and its number.
const FIRST_PORT: u16 = 1000;
/// Forwarded packets that replies and errors are made of.
const KEPT_MAX: usize = 16;
const GUE_PORT: u16 = 6080;

fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host)
}

pub(super) fn client6() -> Ipv6Addr {
    v6(1, 9)
}

pub(super) fn real6() -> Ipv6Addr {
    v6(2, 11)
}

pub(super) fn networks() -> [Ipv6Addr; 2] {
    [v6(1, 0), v6(2, 0)]
}

/// One combination.
#[derive(Debug, Clone, Copy)]
struct Case {
    mode: Mode,
    udp: bool,
    client_v6: bool,
    real_v6: bool,
}

impl Case {
    /// The combination of that number, of 24; only FULLNAT and TUN have two families.
    fn of(number: u8) -> Case {
        let number = number % 24;
        let (mode, bits) = match number {
            0..8 => (Mode::FullNat, number),
            8..16 => (Mode::Tun, number - 8),
            16..20 => (Mode::Nat, number - 16),
            _ => (Mode::Dr, number - 20),
        };
        let (udp, client_v6) = (bits & 1 != 0, bits & 2 != 0);
        let either = matches!(mode, Mode::FullNat | Mode::Tun);
        let real_v6 = if either { bits & 4 != 0 } else { client_v6 };
        Case { mode, udp, client_v6, real_v6 }
    }

    fn spec(self, number: u8) -> ServiceSpec {
        let vport = FIRST_PORT + u16::from(number);
        let rport = if self.mode.is_one_way() { vport } else { 8080 };
        let real = SocketAddr::new(if self.real_v6 { real6().into() } else { REALS[0].into() }, rport);
        let kind = match number % 5 {
            0 => TunnelKind::Ipip,
            n @ (1 | 2) => TunnelKind::Gre { checksum: n == 1 },
            n => TunnelKind::Gue { port: GUE_PORT, checksum: n == 3 },
        };
        let local: IpAddr = if self.real_v6 { v6(2, 200).into() } else { LIP.into() };
        let mut real = RealSpec::new(real, self.mode, 1);
        real.tunnel = (self.mode == Mode::Tun).then_some(Tunnel { kind, source: local });
        ServiceSpec {
            protocol: if self.udp { ipv4::PROTO_UDP } else { ipv4::PROTO_TCP },
            virtual_: SocketAddr::new(self.vip(), vport),
            also: Vec::new(),
            scheduler: Scheduler::Rr,
            flags: Default::default(),
            toa: Some(TOA_KIND),
            timeouts: Timeouts::default(),
            locals: vec![LIP.into(), v6(2, 200).into()],
            local_ports: (3000, 3007),
            options: Default::default(),
            sorry: None,
            reals: vec![real],
        }
    }

    fn vip(self) -> IpAddr {
        if self.client_v6 { v6(1, 100).into() } else { VIP.into() }
    }
}

/// A service per combination.
pub(super) fn services() -> impl Iterator<Item = ServiceSpec> {
    (0..24).map(|number| Case::of(number).spec(number))
}

/// A packet of a client to one of them.
pub(super) fn client_packet(script: &mut Script<'_>, flags: u8) -> Sent {
    let number = script.byte() % 24;
    let case = Case::of(number);
    let from: IpAddr = if case.client_v6 { client6().into() } else { CLIENTS[0].into() };
    let from = SocketAddr::new(from, 5000 + u16::from(script.byte() & 3));
    let to = SocketAddr::new(case.vip(), FIRST_PORT + u16::from(number));
    Sent::mixed(true, build(from, to, case.udp, flags, script), script)
}

fn build(from: SocketAddr, to: SocketAddr, udp: bool, flags: u8, script: &mut Script<'_>) -> Vec<u8> {
    let shape = script.byte();
    let mut payload = if shape & 1 == 0 { Vec::new() } else { script.bytes().to_vec() };
    if shape & 2 != 0 {
        payload.resize(1380 + usize::from(script.byte()) % 100, 0x55);
    }
    let hops = if shape & 4 == 0 { 64 } else { script.byte() };
    let (src_port, dst_port) = (U16::new(from.port()), U16::new(to.port()));
    let tcp = TcpFrame {
        eth_dst: GATEWAY_MAC,
        eth_src: PEER_MAC,
        src_port,
        dst_port,
        seq: U32::new(script.byte().into()),
        ack: U32::new(script.byte().into()),
        flags,
        options: if shape & 8 == 0 { Vec::new() } else { script.bytes().to_vec() },
        payload: payload.clone(),
        ttl: hops,
        ..TcpFrame::default()
    };
    let no_checksum = shape & 0x10 != 0;
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (src, dst) = (ipv4::addr(src), ipv4::addr(dst));
            let ip = Ipv4Base { eth_dst: GATEWAY_MAC, src, dst, ttl: hops, ..Ipv4Base::default() };
            if udp {
                return UdpFrame { ip, src_port, dst_port, payload, no_checksum, pad: false }.to_vec();
            }
            TcpFrame { src, dst, ..tcp }.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (src, dst) = (src.octets(), dst.octets());
            let ip = Ipv6Base { eth_dst: GATEWAY_MAC, src, dst, hop_limit: hops, ..Ipv6Base::default() };
            if udp {
                return UdpFrame6 { ip, src_port, dst_port, payload, no_checksum: false }.to_vec();
            }
            TcpFrame6 { src, dst, hop_limit: hops, tcp }.to_vec()
        }
        _ => Vec::new(),
    }
}

/// Packets that were forwarded, the last few.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<(bool, Vec<u8>)>);

impl Kept {
    pub(super) fn keep(&mut self, inbound: bool, frame: &[u8]) {
        if self.0.len() == KEPT_MAX {
            self.0.remove(0);
        }
        self.0.push((inbound, frame.to_vec()));
    }

    fn pick(&self, script: &mut Script<'_>) -> Option<(bool, &[u8])> {
        let at = usize::from(script.byte()) % self.0.len().max(1);
        self.0.get(at).map(|(inbound, frame)| (*inbound, frame.as_slice()))
    }

    /// An answer to a packet that was forwarded.
    pub(super) fn answer(&self, script: &mut Script<'_>, flags: u8) -> Option<Sent> {
        let (inbound, frame) = self.pick(script)?;
        let (protocol, src, dst, _) = endpoints(frame)?;
        let udp = protocol == ipv4::PROTO_UDP;
        Some(Sent::mixed(!inbound, build(dst, src, udp, flags, script), script))
    }

    /// An ICMP error about one, or about something like it.
    pub(super) fn error(&self, script: &mut Script<'_>) -> Option<Sent> {
        let (inbound, frame) = self.pick(script)?;
        let (_, src, _, _) = endpoints(frame)?;
        let (kind, code, rest) = (script.byte(), script.byte() & 15, U32::new(script.word().into()));
        let frame = match src.ip() {
            IpAddr::V4(to) => {
                let ip = Ipv4Base { eth_dst: GATEWAY_MAC, dst: ipv4::addr(to), ..Ipv4Base::default() };
                icmp_error_frame(ip, (kind, code, rest), frame.get(14..)?)?
            }
            IpAddr::V6(to) => {
                let ip = Ipv6Base { eth_dst: GATEWAY_MAC, dst: to.octets(), ..Ipv6Base::default() };
                icmpv6_error_frame(ip, (kind & 0x7f, code, rest), frame.get(14..)?)?
            }
        };
        let sent = Sent::mixed(!inbound, frame, script);
        let how = script.byte();
        Some(if how & 1 == 0 { sent } else { sent.spoilt(how, script.word(), script.byte()) })
    }
}

/// Protocol and endpoints of an IP packet in a frame, and its transport header and what follows; no extension headers.
fn endpoints(frame: &[u8]) -> Option<(u8, SocketAddr, SocketAddr, &[u8])> {
    let packet = frame.get(ethernet::HEADER_LEN..)?;
    let (protocol, src, dst, l4): (u8, IpAddr, IpAddr, _) = if packet.first()? >> 4 == 6 {
        let ip: &ipv6::Header = view(packet, 0)?;
        (
            ip.next_header,
            ip.src.into(),
            ip.dst.into(),
            packet.get(40..40 + usize::from(ip.payload_len.get()))?,
        )
    } else {
        let ip: &ipv4::Header = view(packet, 0)?;
        let l4 = packet.get(ip.header_len()..usize::from(ip.total_len.get()))?;
        (ip.protocol, ipv4::to_addr(ip.src).into(), ipv4::to_addr(ip.dst).into(), l4)
    };
    let ports: &udp::Header = view(l4, 0)?;
    Some((
        protocol,
        SocketAddr::new(src, ports.src_port.get()),
        SocketAddr::new(dst, ports.dst_port.get()),
        l4,
    ))
}

/// What every forwarded packet must be: whole, within the MTU, and with right checksums if it came so.
pub(super) fn check(sent: &Sent, out: &[u8]) {
    let packet = &out[ethernet::HEADER_LEN..];
    assert!(packet.len() <= 1500, "over the MTU");
    if packet[0] >> 4 == 4 {
        let header: &ipv4::Header = view(packet, 0).expect("an IPv4 header");
        assert_eq!(usize::from(header.total_len.get()), packet.len(), "a wrong length: {out:02x?}");
        assert!(!sent.whole || checksum::verify_ipv4(&packet[..header.header_len()]), "{out:02x?}");
    } else {
        let header: &ipv6::Header = view(packet, 0).expect("an IPv6 header");
        assert_eq!(usize::from(header.payload_len.get()) + 40, packet.len(), "a wrong length: {out:02x?}");
    }
    if sent.whole
        && let Some((protocol, src, dst, l4)) = endpoints(out)
    {
        assert!(
            is_right(protocol, src.ip(), dst.ip(), l4),
            "wrong checksum: {out:02x?} of {:02x?}",
            sent.frame
        );
    }
}

fn is_right(protocol: u8, src: IpAddr, dst: IpAddr, l4: &[u8]) -> bool {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (src, dst) = (ipv4::addr(src), ipv4::addr(dst));
            match protocol {
                ipv4::PROTO_TCP => checksum::verify_tcp_v4(src, dst, l4),
                ipv4::PROTO_UDP => checksum::verify_udp_v4(src, dst, l4),
                ipv4::PROTO_ICMP => checksum::internet(l4).get() == 0,
                _ => true,
            }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (src, dst) = (src.octets(), dst.octets());
            match protocol {
                ipv4::PROTO_TCP => checksum::verify_tcp_v6(&src, &dst, l4),
                ipv4::PROTO_UDP => checksum::verify_udp_v6(&src, &dst, l4),
                _ => true,
            }
        }
        _ => false,
    }
}
