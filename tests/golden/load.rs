//! What hosts send: TCP segments and UDP datagrams without their endpoints.

use std::net::IpAddr;

use wire::build::{Extension, TcpFrame};
use wire::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use wire::{U16, U32, ipv4};

use crate::frame::{Ip, upper_checksum};

/// Sequence numbers of the two sides' SYNs.
pub(crate) const CLIENT_ISN: u32 = 1_000;
pub(crate) const REAL_ISN: u32 = 0xffff_fff0;

/// Address and port.
pub(crate) type Endpoint = (IpAddr, u16);

/// What can stand in an IP packet between two endpoints.
pub(crate) trait Load: Clone {
    /// IANA protocol number.
    const PROTOCOL: u8;

    fn ip(&self) -> &Ip;
    fn ip_mut(&mut self) -> &mut Ip;
    /// Zeros behind the IP packet.
    fn tail_mut(&mut self) -> &mut usize;
    /// Header and payload, with checksum.
    fn bytes(&self, src: Endpoint, dst: Endpoint) -> Vec<u8>;
    /// With so many bytes to carry.
    fn payload(self, len: usize) -> Self;
    /// Length of the header.
    fn header_len(&self) -> usize;
    /// As it must be over IPv6.
    fn for_v6(self) -> Self {
        self
    }

    /// The whole IP packet.
    fn packet(&self, src: Endpoint, dst: Endpoint) -> Vec<u8> {
        self.ip().packet(Self::PROTOCOL, (src.0, dst.0), &self.bytes(src, dst))
    }

    fn ttl(mut self, hops: u8) -> Self {
        self.ip_mut().hops = hops;
        self
    }

    /// DSCP and ECN.
    fn class(mut self, class: u8) -> Self {
        self.ip_mut().class = class;
        self
    }

    fn may_fragment(mut self) -> Self {
        self.ip_mut().dont_fragment = false;
        self
    }

    /// With IPv4 options.
    fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_mut().options = options.to_vec();
        self
    }

    /// With IPv6 extension headers of these kinds.
    fn extensions(mut self, kinds: &[u8]) -> Self {
        self.ip_mut().extensions = kinds.iter().map(|kind| Extension::empty(*kind)).collect();
        self
    }

    /// With zeros behind the IP packet.
    fn tail(mut self, len: usize) -> Self {
        *self.tail_mut() = len;
        self
    }
}

/// That many bytes, no two neighbours the same.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + 3) as u8).collect()
}

/// A TCP segment without its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Seg {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) ip: Ip,
    pub(crate) tail: usize,
}

pub(crate) fn seg(flags: u8, seq: u32, ack: u32) -> Seg {
    let (options, payload) = (Vec::new(), Vec::new());
    Seg { flags, seq, ack, window: 65_535, options, payload, ip: Ip::default(), tail: 0 }
}

/// The client's SYN, with MSS 1460.
pub(crate) fn syn() -> Seg {
    seg(SYN, CLIENT_ISN, 0).options(&mss(1460))
}

/// The real server's SYN-ACK, with MSS 1460.
pub(crate) fn syn_ack() -> Seg {
    seg(SYN | ACK, REAL_ISN, CLIENT_ISN + 1).options(&mss(1460))
}

/// The client has sent `sent` bytes and received `received`.
pub(crate) fn client_ack(sent: u32, received: u32) -> Seg {
    seg(ACK, CLIENT_ISN + 1 + sent, REAL_ISN.wrapping_add(1 + received))
}

/// The real server has sent `sent` bytes and received `received`.
pub(crate) fn real_ack(sent: u32, received: u32) -> Seg {
    seg(ACK, REAL_ISN.wrapping_add(1 + sent), CLIENT_ISN + 1 + received)
}

/// The MSS option.
pub(crate) fn mss(value: u16) -> [u8; 4] {
    let [a, b] = value.to_be_bytes();
    [2, 4, a, b]
}

/// Two NOPs and timestamps, as stacks send them.
pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10], &value.to_be_bytes()[..], &echo.to_be_bytes()].concat()
}

/// NOPs.
pub(crate) fn nops(len: usize) -> Vec<u8> {
    vec![1; len]
}

impl Seg {
    pub(crate) fn options(mut self, options: &[u8]) -> Seg {
        self.options = options.to_vec();
        self
    }

    /// With `option` in front of what options there are.
    pub(crate) fn with_first(mut self, option: &[u8]) -> Seg {
        self.options.splice(0..0, option.iter().copied());
        self
    }

    pub(crate) fn fin(mut self) -> Seg {
        self.flags |= FIN;
        self
    }

    pub(crate) fn rst(mut self) -> Seg {
        self.flags |= RST;
        self
    }

    pub(crate) fn flags(mut self, flags: u8) -> Seg {
        self.flags = flags;
        self
    }

    pub(crate) fn seq(mut self, seq: u32) -> Seg {
        self.seq = seq;
        self
    }
}

impl Load for Seg {
    const PROTOCOL: u8 = ipv4::PROTO_TCP;

    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn ip_mut(&mut self) -> &mut Ip {
        &mut self.ip
    }

    fn tail_mut(&mut self) -> &mut usize {
        &mut self.tail
    }

    fn bytes(&self, src: Endpoint, dst: Endpoint) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4), "{self:?}");
        let tcp = TcpFrame {
            src_port: U16::new(src.1),
            dst_port: U16::new(dst.1),
            seq: U32::new(self.seq),
            ack: U32::new(self.ack),
            flags: self.flags,
            window: U16::new(self.window),
            options: self.options.clone(),
            payload: self.payload.clone(),
            ..TcpFrame::default()
        };
        let mut bytes = tcp.segment();
        let sum = upper_checksum(Self::PROTOCOL, (src.0, dst.0), &bytes);
        bytes[16..18].copy_from_slice(&sum.to_bytes());
        bytes
    }

    fn payload(mut self, len: usize) -> Seg {
        self.payload = pattern(len);
        if len > 0 {
            self.flags |= PSH;
        }
        self
    }

    fn header_len(&self) -> usize {
        20 + self.options.len()
    }
}

/// A UDP datagram without its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Dgram {
    pub(crate) payload: Vec<u8>,
    /// Whether it is sent with a checksum.
    pub(crate) has_checksum: bool,
    /// Behind it in its packet (RFC 9868).
    pub(crate) surplus: Vec<u8>,
    pub(crate) ip: Ip,
    pub(crate) tail: usize,
}

/// A datagram with so many bytes to carry.
pub(crate) fn dgram(len: usize) -> Dgram {
    let surplus = Vec::new();
    Dgram { payload: pattern(len), has_checksum: true, surplus, ip: Ip::default(), tail: 0 }
}

impl Dgram {
    pub(crate) fn no_checksum(mut self) -> Dgram {
        self.has_checksum = false;
        self
    }

    pub(crate) fn surplus(mut self, len: usize) -> Dgram {
        self.surplus = pattern(len);
        self
    }
}

impl Load for Dgram {
    const PROTOCOL: u8 = ipv4::PROTO_UDP;

    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn ip_mut(&mut self) -> &mut Ip {
        &mut self.ip
    }

    fn tail_mut(&mut self) -> &mut usize {
        &mut self.tail
    }

    fn bytes(&self, src: Endpoint, dst: Endpoint) -> Vec<u8> {
        [udp(src, dst, &self.payload, self.has_checksum), self.surplus.clone()].concat()
    }

    fn payload(mut self, len: usize) -> Dgram {
        self.payload = pattern(len);
        self
    }

    fn header_len(&self) -> usize {
        8
    }

    fn for_v6(mut self) -> Dgram {
        self.has_checksum = true;
        self
    }
}

/// A UDP header and what it carries.
pub(crate) fn udp(src: Endpoint, dst: Endpoint, payload: &[u8], has_checksum: bool) -> Vec<u8> {
    let words = [src.1, dst.1, 8 + payload.len() as u16, 0];
    let mut bytes = words.map(u16::to_be_bytes).concat();
    bytes.extend_from_slice(payload);
    if has_checksum {
        let sum = upper_checksum(ipv4::PROTO_UDP, (src.0, dst.0), &bytes);
        bytes[6..8].copy_from_slice(&sum.to_bytes());
    }
    bytes
}
