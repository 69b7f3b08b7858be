//! Whole frames, made from a few fields, and one-line summaries of frames: for tests, benches and capture files.
//!
//! Nothing here is for the packet path: it allocates. Frames are valid unless asked otherwise: lengths and checksums are
//! filled in last, and every field is public, so a broken one is made by editing the bytes.
//!
//! ```
//! use wire::build::{TcpFrame, summary};
//! use wire::{U16, tcp};
//!
//! let frame = TcpFrame { dst_port: U16::new(443), flags: tcp::flags::SYN, ..TcpFrame::default() }.to_vec();
//! assert_eq!(summary(&frame), "192.0.2.1:40000 > 198.51.100.1:443 tcp S seq 1000 ack 0 win 65535 len 0");
//! ```

use zerocopy::IntoBytes;

use crate::{MacAddr, U16, U32, checksum, ethernet, icmp, ipv4, tcp, udp};

mod pieces;
mod summary;
mod tunnel;
mod v6;

pub use pieces::{fragments_v4, fragments_v6, l3_offset, tagged};
pub use summary::summary;
pub use tunnel::{GUE_PORT, Wrap};
pub use v6::{
    EchoFrame6, Extension, Ipv6Base, TcpFrame6, UdpFrame6, icmpv6_error_frame, ipv6_header, with_extensions,
};

/// The sender's hardware address in default frames.
pub const MAC_SRC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
/// The receiver's hardware address in default frames.
pub const MAC_DST: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
/// 192.0.2.1, a documentation address (RFC 5737), the sender's in default frames.
pub const IP_SRC: U32 = U32::new(0xc000_0201);
/// 198.51.100.1, a documentation address (RFC 5737), the receiver's in default frames.
pub const IP_DST: U32 = U32::new(0xc633_6401);

/// 2001:db8::`last`, a documentation address (RFC 3849).
#[must_use]
pub const fn documentation_v6(last: u16) -> [u8; 16] {
    let [a, b] = last.to_be_bytes();
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b]
}

/// An Ethernet frame around `payload`.
#[must_use]
pub fn ethernet(dst: MacAddr, src: MacAddr, ether_type: U16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet::Header { dst, src, ether_type }.as_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// Pads a frame to the 60 bytes that a wire would.
#[must_use]
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() < ethernet::FRAME_LEN_MIN {
        frame.resize(ethernet::FRAME_LEN_MIN, 0);
    }
    frame
}

/// The lower layers of an IPv4 frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Base {
    /// Destination hardware address.
    pub eth_dst: MacAddr,
    /// Source hardware address.
    pub eth_src: MacAddr,
    /// Source address.
    pub src: U32,
    /// Destination address.
    pub dst: U32,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub dscp_ecn: u8,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset.
    pub flags_fragment: U16,
}

impl Default for Ipv4Base {
    fn default() -> Self {
        Self {
            eth_dst: MAC_DST,
            eth_src: MAC_SRC,
            src: IP_SRC,
            dst: IP_DST,
            protocol: ipv4::PROTO_TCP,
            ttl: 64,
            dscp_ecn: 0,
            id: U16::ZERO,
            flags_fragment: U16::new(ipv4::FLAG_DONT_FRAGMENT),
        }
    }
}

impl Ipv4Base {
    /// The IPv4 header in front of a payload of this length, with its checksum.
    #[must_use]
    pub fn header(&self, payload_len: usize) -> ipv4::Header {
        let mut header = ipv4::Header {
            version_ihl: 0x45,
            dscp_ecn: self.dscp_ecn,
            total_len: U16::new((ipv4::HEADER_LEN + payload_len) as u16),
            id: self.id,
            flags_fragment: self.flags_fragment,
            ttl: self.ttl,
            protocol: self.protocol,
            checksum: U16::ZERO,
            src: self.src,
            dst: self.dst,
        };
        header.checksum = checksum::internet(header.as_bytes());
        header
    }

    /// The whole frame around an IPv4 payload, which is taken as it is.
    #[must_use]
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.header(payload.len()).as_bytes().to_vec();
        packet.extend_from_slice(payload);
        ethernet(self.eth_dst, self.eth_src, ethernet::ETHERTYPE_IPV4, &packet)
    }
}

/// A TCP segment over IPv4.
#[derive(Clone, Debug)]
pub struct TcpFrame {
    /// Destination hardware address.
    pub eth_dst: MacAddr,
    /// Source hardware address.
    pub eth_src: MacAddr,
    /// Source address.
    pub src: U32,
    /// Destination address.
    pub dst: U32,
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Control bits.
    pub flags: u8,
    /// Window.
    pub window: U16,
    /// Urgent pointer.
    pub urgent: U16,
    /// Options, filled up with END to a multiple of 4; at most 40 bytes count.
    pub options: Vec<u8>,
    /// What the segment carries.
    pub payload: Vec<u8>,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub dscp_ecn: u8,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset.
    pub flags_fragment: U16,
    /// Whether a short frame is padded to 60 bytes.
    pub pad: bool,
}

impl Default for TcpFrame {
    fn default() -> Self {
        let base = Ipv4Base::default();
        Self {
            eth_dst: base.eth_dst,
            eth_src: base.eth_src,
            src: base.src,
            dst: base.dst,
            src_port: U16::new(40_000),
            dst_port: U16::new(80),
            seq: U32::new(1000),
            ack: U32::ZERO,
            flags: tcp::flags::ACK,
            window: U16::new(65_535),
            urgent: U16::ZERO,
            options: Vec::new(),
            payload: Vec::new(),
            ttl: base.ttl,
            dscp_ecn: base.dscp_ecn,
            id: base.id,
            flags_fragment: base.flags_fragment,
            pad: false,
        }
    }
}

impl TcpFrame {
    /// The whole Ethernet frame with valid checksums.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut segment = self.segment();
        let check = checksum::tcp_v4(self.src, self.dst, &segment);
        segment[16..18].copy_from_slice(&check.to_bytes());
        let base = Ipv4Base {
            eth_dst: self.eth_dst,
            eth_src: self.eth_src,
            src: self.src,
            dst: self.dst,
            protocol: ipv4::PROTO_TCP,
            ttl: self.ttl,
            dscp_ecn: self.dscp_ecn,
            id: self.id,
            flags_fragment: self.flags_fragment,
        };
        let frame = base.frame(&segment);
        if self.pad { padded(frame) } else { frame }
    }

    /// The TCP segment, its checksum left zero.
    #[must_use]
    pub fn segment(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.truncate(tcp::OPTIONS_LEN_MAX);
        options.resize(options.len().next_multiple_of(4), tcp::options::KIND_END);
        let mut header = tcp::Header {
            src_port: self.src_port,
            dst_port: self.dst_port,
            seq: self.seq,
            ack: self.ack,
            data_offset: 0,
            flags: self.flags,
            window: self.window,
            checksum: U16::ZERO,
            urgent: self.urgent,
        };
        header.set_header_len(tcp::HEADER_LEN + options.len());
        [header.as_bytes(), &options, &self.payload].concat()
    }
}

/// A UDP datagram over IPv4.
#[derive(Clone, Debug)]
pub struct UdpFrame {
    /// The layers below; the protocol is set to UDP.
    pub ip: Ipv4Base,
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// What the datagram carries.
    pub payload: Vec<u8>,
    /// Whether it is sent without a checksum.
    pub no_checksum: bool,
    /// Whether a short frame is padded to 60 bytes.
    pub pad: bool,
}

impl Default for UdpFrame {
    fn default() -> Self {
        Self {
            ip: Ipv4Base::default(),
            src_port: U16::new(40_000),
            dst_port: U16::new(53),
            payload: Vec::new(),
            no_checksum: false,
            pad: false,
        }
    }
}

impl UdpFrame {
    /// The whole Ethernet frame with valid checksums.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut datagram = datagram((self.src_port, self.dst_port), &self.payload);
        if !self.no_checksum {
            let check = checksum::udp_v4(self.ip.src, self.ip.dst, &datagram);
            datagram[6..8].copy_from_slice(&check.to_bytes());
        }
        let frame = Ipv4Base { protocol: ipv4::PROTO_UDP, ..self.ip }.frame(&datagram);
        if self.pad { padded(frame) } else { frame }
    }
}

/// A UDP datagram, its checksum left zero.
fn datagram((src_port, dst_port): (U16, U16), payload: &[u8]) -> Vec<u8> {
    let len = U16::new((udp::HEADER_LEN + payload.len()) as u16);
    let header = udp::Header { src_port, dst_port, len, checksum: U16::ZERO };
    [header.as_bytes(), payload].concat()
}

/// An ICMP echo over IPv4.
#[derive(Clone, Debug)]
pub struct EchoFrame {
    /// The layers below; the protocol is set to ICMP.
    pub ip: Ipv4Base,
    /// [`icmp::TYPE_ECHO_REQUEST`] or [`icmp::TYPE_ECHO_REPLY`].
    pub kind: u8,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub seq: u16,
    /// What is echoed.
    pub payload: Vec<u8>,
}

impl Default for EchoFrame {
    fn default() -> Self {
        Self {
            ip: Ipv4Base::default(),
            kind: icmp::TYPE_ECHO_REQUEST,
            id: 1,
            seq: 1,
            payload: b"tollgate".to_vec(),
        }
    }
}

impl EchoFrame {
    /// The whole Ethernet frame with valid checksums.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut message = echo(self.kind, (self.id, self.seq), &self.payload);
        let check = checksum::icmp(&message);
        message[2..4].copy_from_slice(&check.to_bytes());
        Ipv4Base { protocol: ipv4::PROTO_ICMP, ..self.ip }.frame(&message)
    }
}

/// An echo message of ICMP or ICMPv6, its checksum left zero.
fn echo(kind: u8, (id, seq): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let rest = U32::new(u32::from(id) << 16 | u32::from(seq));
    let header = icmp::Header { kind, code: 0, checksum: U16::ZERO, rest };
    [header.as_bytes(), payload].concat()
}

/// A frame with an ICMP error message about `original`, which begins with its IPv4 header, sent as `ip` says. `None` when
/// it cannot be quoted.
#[must_use]
pub fn icmp_error_frame(ip: Ipv4Base, (kind, code, rest): (u8, u8, U32), original: &[u8]) -> Option<Vec<u8>> {
    let mut message = vec![0; icmp::HEADER_LEN + icmp::QUOTE_LEN_MAX];
    let len = icmp::error_v4(kind, code, rest, original, &mut message)?;
    Some(Ipv4Base { protocol: ipv4::PROTO_ICMP, ..ip }.frame(message.get(..len)?))
}

#[cfg(test)]
mod tests;
