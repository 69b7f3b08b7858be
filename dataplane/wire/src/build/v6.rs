//! Frames over IPv6.

use zerocopy::IntoBytes;

use super::{MAC_DST, MAC_SRC, TcpFrame, datagram, documentation_v6, echo, ethernet, l3_offset};
use crate::{MacAddr, U16, U32, checksum, ethernet as eth, icmpv6, ipv4, ipv6};

/// An IPv6 header in front of a payload of this length.
#[must_use]
pub fn ipv6_header(
    src: [u8; 16],
    dst: [u8; 16],
    (next_header, hop_limit): (u8, u8),
    payload_len: usize,
) -> ipv6::Header {
    Ipv6Base { src, dst, protocol: next_header, hop_limit, ..Ipv6Base::default() }.header(payload_len)
}

/// The lower layers of an IPv6 frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Base {
    /// Destination hardware address.
    pub eth_dst: MacAddr,
    /// Source hardware address.
    pub eth_src: MacAddr,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Protocol of the payload.
    pub protocol: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
}

impl Default for Ipv6Base {
    fn default() -> Self {
        Self {
            eth_dst: MAC_DST,
            eth_src: MAC_SRC,
            src: documentation_v6(1),
            dst: documentation_v6(2),
            protocol: ipv4::PROTO_TCP,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
        }
    }
}

impl Ipv6Base {
    /// The IPv6 header in front of a payload of this length.
    #[must_use]
    pub const fn header(&self, payload_len: usize) -> ipv6::Header {
        let class_flow = (self.traffic_class as u32) << 20 | self.flow_label & 0x000f_ffff;
        ipv6::Header {
            version_class_flow: U32::new(6 << 28 | class_flow),
            payload_len: U16::new(payload_len as u16),
            next_header: self.protocol,
            hop_limit: self.hop_limit,
            src: self.src,
            dst: self.dst,
        }
    }

    /// The whole frame around an IPv6 payload, which is taken as it is.
    #[must_use]
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let packet = [self.header(payload.len()).as_bytes(), payload].concat();
        ethernet(self.eth_dst, self.eth_src, eth::ETHERTYPE_IPV6, &packet)
    }
}

/// A TCP segment over IPv6.
#[derive(Clone, Debug)]
pub struct TcpFrame6 {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Hop limit.
    pub hop_limit: u8,
    /// Hardware addresses, ports, numbers, options, payload; its IPv4 fields do not count.
    pub tcp: TcpFrame,
}

impl Default for TcpFrame6 {
    fn default() -> Self {
        Self { src: documentation_v6(1), dst: documentation_v6(2), hop_limit: 64, tcp: TcpFrame::default() }
    }
}

impl TcpFrame6 {
    /// The whole Ethernet frame with a valid checksum.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut segment = self.tcp.segment();
        let check = checksum::tcp_v6(&self.src, &self.dst, &segment);
        segment[16..18].copy_from_slice(&check.to_bytes());
        let base = Ipv6Base {
            eth_dst: self.tcp.eth_dst,
            eth_src: self.tcp.eth_src,
            src: self.src,
            dst: self.dst,
            hop_limit: self.hop_limit,
            ..Ipv6Base::default()
        };
        base.frame(&segment)
    }
}

/// A UDP datagram over IPv6.
#[derive(Clone, Debug)]
pub struct UdpFrame6 {
    /// The layers below; the protocol is set to UDP.
    pub ip: Ipv6Base,
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// What the datagram carries.
    pub payload: Vec<u8>,
    /// Whether it is sent without a checksum, which only tunnels may do (RFC 6936).
    pub no_checksum: bool,
}

impl Default for UdpFrame6 {
    fn default() -> Self {
        Self {
            ip: Ipv6Base::default(),
            src_port: U16::new(40_000),
            dst_port: U16::new(53),
            payload: Vec::new(),
            no_checksum: false,
        }
    }
}

impl UdpFrame6 {
    /// The whole Ethernet frame with a valid checksum.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut datagram = datagram((self.src_port, self.dst_port), &self.payload);
        if !self.no_checksum {
            let check = checksum::udp_v6(&self.ip.src, &self.ip.dst, &datagram);
            datagram[6..8].copy_from_slice(&check.to_bytes());
        }
        Ipv6Base { protocol: ipv4::PROTO_UDP, ..self.ip }.frame(&datagram)
    }
}

/// An ICMPv6 echo.
#[derive(Clone, Debug)]
pub struct EchoFrame6 {
    /// The layers below; the protocol is set to ICMPv6.
    pub ip: Ipv6Base,
    /// [`icmpv6::TYPE_ECHO_REQUEST`] or [`icmpv6::TYPE_ECHO_REPLY`].
    pub kind: u8,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub seq: u16,
    /// What is echoed.
    pub payload: Vec<u8>,
}

impl Default for EchoFrame6 {
    fn default() -> Self {
        Self {
            ip: Ipv6Base::default(),
            kind: icmpv6::TYPE_ECHO_REQUEST,
            id: 1,
            seq: 1,
            payload: b"tollgate".to_vec(),
        }
    }
}

impl EchoFrame6 {
    /// The whole Ethernet frame with a valid checksum.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut message = echo(self.kind, (self.id, self.seq), &self.payload);
        let check = checksum::icmp_v6(&self.ip.src, &self.ip.dst, &message);
        message[2..4].copy_from_slice(&check.to_bytes());
        Ipv6Base { protocol: ipv4::PROTO_ICMPV6, ..self.ip }.frame(&message)
    }
}

/// A frame with an ICMPv6 error message about `original`, which begins with its IPv6 header, sent as `ip`
/// says. `None` when it cannot be quoted.
#[must_use]
pub fn icmpv6_error_frame(ip: Ipv6Base, error: (u8, u8, U32), original: &[u8]) -> Option<Vec<u8>> {
    let mut message = vec![0; icmpv6::HEADER_LEN + icmpv6::QUOTE_LEN_MAX];
    let len = icmpv6::error_v6(error, (&ip.src, &ip.dst), original, &mut message)?;
    Some(Ipv6Base { protocol: ipv4::PROTO_ICMPV6, ..ip }.frame(message.get(..len)?))
}

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Which, one of `ipv6::NEXT_*`.
    pub kind: u8,
    /// What stands behind its first two bytes; filled up with zeroes to a length that an extension header may
    /// have.
    pub data: Vec<u8>,
}

impl Extension {
    /// The shortest header of this kind: 8 bytes, all options being padding.
    #[must_use]
    pub const fn empty(kind: u8) -> Self {
        Self { kind, data: Vec::new() }
    }

    /// A fragment header; `offset` is in bytes, a multiple of 8.
    #[must_use]
    pub fn fragment(offset: usize, more: bool, id: u32) -> Self {
        let [a, b] = (offset as u16 & 0xfff8 | u16::from(more)).to_be_bytes();
        Self { kind: ipv6::NEXT_FRAGMENT, data: [&[a, b][..], &id.to_be_bytes()].concat() }
    }

    /// The bytes, in front of `next`.
    fn to_vec(&self, next: u8) -> Vec<u8> {
        let unit = if self.kind == ipv6::NEXT_AUTH { 4 } else { 8 };
        let len = (2 + self.data.len()).max(8).next_multiple_of(unit);
        // RFC 8200 §4.3: units of 8 bytes, less one; RFC 4302 §2.2: units of 4, less two.
        let units = if unit == 4 { len / 4 - 2 } else { len / 8 - 1 };
        let mut bytes = [&[next, units as u8], &self.data[..]].concat();
        bytes.resize(len, 0);
        bytes
    }
}

/// The same IPv6 frame with these extension headers, in this order, between its fixed header and what
/// followed that.
#[must_use]
pub fn with_extensions(frame: &[u8], extensions: &[Extension]) -> Vec<u8> {
    let (front, payload) = frame.split_at(l3_offset(frame) + ipv6::HEADER_LEN);
    let mut frame = front.to_vec();
    let header_at = front.len() - ipv6::HEADER_LEN;
    let mut next = frame[header_at + 6];
    let mut chain = Vec::new();
    for extension in extensions.iter().rev() {
        chain = [extension.to_vec(next), chain].concat();
        next = extension.kind;
    }
    frame[header_at + 6] = next;
    let len = (chain.len() + payload.len()) as u16;
    frame[header_at + 4..header_at + 6].copy_from_slice(&len.to_be_bytes());
    [frame, chain, payload.to_vec()].concat()
}
