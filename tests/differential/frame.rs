//! Frames that go into both gateways: who sends them, and what is in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wire::build::{
    EchoFrame, EchoFrame6, Ipv4Base, Ipv6Base, TcpFrame, TcpFrame6, UdpFrame, UdpFrame6, Wrap,
    icmp_error_frame, icmpv6_error_frame,
};
use wire::tcp::flags::PSH;
use wire::{MacAddr, U16, U32, icmp, icmpv6, ipv4};

pub(crate) use crate::port::{CLIENT_MAC, Frame, LAN_MAC, Port, WAN_MAC};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x11);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100);
/// The gateway's own addresses.
pub(crate) const WAN_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const LAN_IP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
pub(crate) const WAN_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
pub(crate) const LAN_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);

/// How many real servers there are to choose from, with addresses of both families each.
pub(crate) const REALS: u8 = 9;

/// The `n`th real server, from 1.
pub(crate) fn rip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, 10 + n)
}

/// The `n`th real server's other address.
pub(crate) fn rip6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10 + u16::from(n))
}

/// The `n`th real server's hardware address.
pub(crate) fn real_mac(n: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 2, 0x10 + n])
}

/// One of many clients behind the client's station, for schedulers that look at addresses.
pub(crate) fn far_client(n: u16) -> Ipv4Addr {
    let [a, b] = n.to_be_bytes();
    Ipv4Addr::new(10, 9, a, b)
}

/// The same over IPv6.
pub(crate) fn far_client6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, n)
}

/// The identification of every IPv4 packet that goes in.
pub(crate) const IP_ID: u16 = 0x1234;

/// What an IP packet carries.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
        options: Vec<u8>,
    },
    Udp {
        no_checksum: bool,
    },
    Echo {
        reply: bool,
    },
    /// An error about a packet, which begins with its IP header.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        about: Vec<u8>,
    },
    /// A packet in a tunnel; it begins with its IP header.
    Tunnel {
        wrap: Wrap,
        inner: Vec<u8>,
    },
}

/// An IP packet.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) body: Body,
}

fn packet(src: SocketAddr, dst: SocketAddr, body: Body) -> Packet {
    Packet { src, dst, ttl: 64, tos: 0, dont_fragment: true, payload: Vec::new(), body }
}

pub(crate) fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32) -> Packet {
    packet(src, dst, Body::Tcp { flags, seq, ack, options: Vec::new() })
}

pub(crate) fn udp(src: SocketAddr, dst: SocketAddr) -> Packet {
    packet(src, dst, Body::Udp { no_checksum: false }).payload(12)
}

/// ICMP echo; the ports are identifier and nothing.
pub(crate) fn echo(src: SocketAddr, dst: SocketAddr, reply: bool) -> Packet {
    packet(src, dst, Body::Echo { reply }).payload(8)
}

/// An ICMP error from a station about a frame.
pub(crate) fn icmp_error(
    src: IpAddr,
    dst: IpAddr,
    (kind, code, rest): (u8, u8, u32),
    about: &Packet,
) -> Packet {
    let about = about.ip_bytes();
    packet(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), Body::Error { kind, code, rest, about })
}

impl Packet {
    pub(crate) fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    pub(crate) fn tos(mut self, tos: u8) -> Packet {
        self.tos = tos;
        self
    }

    pub(crate) fn may_fragment(mut self) -> Packet {
        self.dont_fragment = false;
        self
    }

    /// With that many bytes to carry.
    pub(crate) fn payload(mut self, len: usize) -> Packet {
        self.payload = (0..len).map(|n| (n * 7 + 3) as u8).collect();
        if let Body::Tcp { flags, .. } = &mut self.body
            && len > 0
        {
            *flags |= PSH;
        }
        self
    }

    /// With TCP options.
    pub(crate) fn options(mut self, wanted: &[u8]) -> Packet {
        if let Body::Tcp { options, .. } = &mut self.body {
            *options = wanted.to_vec();
        }
        self
    }

    pub(crate) fn without_checksum(mut self) -> Packet {
        if let Body::Udp { no_checksum } = &mut self.body {
            *no_checksum = true;
        }
        self
    }

    /// The packet in a tunnel between these.
    pub(crate) fn in_tunnel(&self, (src, dst): (IpAddr, IpAddr), wrap: Wrap) -> Packet {
        let body = Body::Tunnel { wrap, inner: self.ip_bytes() };
        Packet { src: (src, 0).into(), dst: (dst, 0).into(), body, ..self.clone() }
    }

    /// The packet from its IP header on.
    fn ip_bytes(&self) -> Vec<u8> {
        self.bytes(MacAddr::default(), MacAddr::default()).split_off(14)
    }

    /// As a client's station sends it.
    pub(crate) fn by_client(&self) -> Frame {
        Frame { port: Port::Wan, bytes: self.bytes(CLIENT_MAC, WAN_MAC) }
    }

    /// As the `n`th real server sends it.
    pub(crate) fn by_real(&self, n: u8) -> Frame {
        Frame { port: Port::Lan, bytes: self.bytes(real_mac(n), LAN_MAC) }
    }

    fn bytes(&self, eth_src: MacAddr, eth_dst: MacAddr) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let base = Ipv4Base {
                    eth_dst,
                    eth_src,
                    src: ipv4::addr(src),
                    dst: ipv4::addr(dst),
                    ttl: self.ttl,
                    dscp_ecn: self.tos,
                    id: U16::new(IP_ID),
                    flags_fragment: U16::new(if self.dont_fragment { ipv4::FLAG_DONT_FRAGMENT } else { 0 }),
                    ..Ipv4Base::default()
                };
                self.over_v4(base)
            }
            (src, dst) => {
                let octets = |ip| match ip {
                    IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                let base = Ipv6Base {
                    eth_dst,
                    eth_src,
                    src: octets(src),
                    dst: octets(dst),
                    hop_limit: self.ttl,
                    ..Ipv6Base::default()
                };
                let mut frame = self.over_v6(base);
                frame[14] |= self.tos >> 4;
                frame[15] |= self.tos << 4;
                frame
            }
        }
    }

    fn over_v4(&self, ip: Ipv4Base) -> Vec<u8> {
        match &self.body {
            Body::Tcp { .. } => TcpFrame {
                eth_dst: ip.eth_dst,
                eth_src: ip.eth_src,
                src: ip.src,
                dst: ip.dst,
                ttl: ip.ttl,
                dscp_ecn: ip.dscp_ecn,
                id: ip.id,
                flags_fragment: ip.flags_fragment,
                ..self.tcp_fields()
            }
            .to_vec(),
            Body::Udp { no_checksum } => UdpFrame {
                ip,
                src_port: U16::new(self.src.port()),
                dst_port: U16::new(self.dst.port()),
                payload: self.payload.clone(),
                no_checksum: *no_checksum,
                pad: false,
            }
            .to_vec(),
            Body::Echo { reply } => EchoFrame {
                ip,
                kind: if *reply { icmp::TYPE_ECHO_REPLY } else { icmp::TYPE_ECHO_REQUEST },
                id: self.src.port(),
                seq: 1,
                payload: self.payload.clone(),
            }
            .to_vec(),
            Body::Error { kind, code, rest, about } => {
                icmp_error_frame(ip, (*kind, *code, U32::new(*rest)), about).unwrap_or_default()
            }
            Body::Tunnel { wrap, inner } => wrap.over_v4(ip, inner),
        }
    }

    fn over_v6(&self, ip: Ipv6Base) -> Vec<u8> {
        match &self.body {
            Body::Tcp { .. } => TcpFrame6 {
                src: ip.src,
                dst: ip.dst,
                hop_limit: ip.hop_limit,
                tcp: TcpFrame { eth_dst: ip.eth_dst, eth_src: ip.eth_src, ..self.tcp_fields() },
            }
            .to_vec(),
            Body::Udp { no_checksum } => UdpFrame6 {
                ip,
                src_port: U16::new(self.src.port()),
                dst_port: U16::new(self.dst.port()),
                payload: self.payload.clone(),
                no_checksum: *no_checksum,
            }
            .to_vec(),
            Body::Echo { reply } => EchoFrame6 {
                ip,
                kind: if *reply { icmpv6::TYPE_ECHO_REPLY } else { icmpv6::TYPE_ECHO_REQUEST },
                id: self.src.port(),
                seq: 1,
                payload: self.payload.clone(),
            }
            .to_vec(),
            Body::Error { kind, code, rest, about } => {
                icmpv6_error_frame(ip, (*kind, *code, U32::new(*rest)), about).unwrap_or_default()
            }
            Body::Tunnel { wrap, inner } => wrap.over_v6(ip, inner),
        }
    }

    fn tcp_fields(&self) -> TcpFrame {
        let Body::Tcp { flags, seq, ack, options } = &self.body else { return TcpFrame::default() };
        TcpFrame {
            src_port: U16::new(self.src.port()),
            dst_port: U16::new(self.dst.port()),
            seq: U32::new(*seq),
            ack: U32::new(*ack),
            flags: *flags,
            options: options.clone(),
            payload: self.payload.clone(),
            ..TcpFrame::default()
        }
    }
}

impl Frame {
    /// The IPv4 or IPv6 fragments that a link of this MTU makes of it.
    pub(crate) fn fragments(&self, mtu: usize) -> Vec<Frame> {
        let is_v6 = self.bytes[14] >> 4 == 6;
        let pieces = if is_v6 {
            wire::build::fragments_v6(&self.bytes, mtu, 0x1234_5678)
        } else {
            wire::build::fragments_v4(&self.bytes, mtu)
        };
        pieces.into_iter().map(|bytes| Frame { port: self.port, bytes }).collect()
    }
}
