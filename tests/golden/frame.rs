//! Frames put together from scratch, with checksums over all that they cover: the oracle's bricks.
//!
//! Nothing of the engine's translation is used, so a frame that equals one made here byte for byte is right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::build::{Extension, Ipv4Base, Ipv6Base, ethernet, with_extensions};
use wire::{Family, MacAddr, U16, checksum, ipv4};

pub(crate) use crate::port::{CLIENT_MAC, Frame, Port, WAN_MAC};

pub(crate) const REAL_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 2, 0x11]);

/// On the client's side.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100);
/// On the real server's side.
pub(crate) const LIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 200);
pub(crate) const LIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x200);
pub(crate) const RIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
pub(crate) const RIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x11);
/// The gateway's own, where its tunnels begin.
pub(crate) const TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
pub(crate) const TUNNEL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// Identification in every IPv4 header that a host or a router writes; those that the gateway writes have others.
pub(crate) const HOST_ID: u16 = 0x1234;

/// The address of this family.
pub(crate) fn either(family: Family, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}

/// The family of an address.
pub(crate) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

impl Port {
    /// Our own hardware address, and that of everybody else there.
    pub(crate) fn macs(self) -> (MacAddr, MacAddr) {
        let theirs = match self {
            Port::Wan => CLIENT_MAC,
            Port::Lan => REAL_MAC,
        };
        (self.mac(), theirs)
    }

    /// A frame with this IP packet that somebody sends us.
    pub(crate) fn receives(self, packet: &[u8]) -> Frame {
        let (ours, theirs) = self.macs();
        self.frame(ours, theirs, packet)
    }

    /// A frame with this IP packet that we send.
    pub(crate) fn sends(self, packet: &[u8]) -> Frame {
        let (ours, theirs) = self.macs();
        self.frame(theirs, ours, packet)
    }

    fn frame(self, to: MacAddr, from: MacAddr, packet: &[u8]) -> Frame {
        let ether_type = Family::of(packet).unwrap_or(Family::V4).ether_type();
        Frame { port: self, bytes: ethernet(to, from, ether_type, packet) }
    }
}

impl Frame {
    /// With other bytes.
    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Frame {
        change(&mut self.bytes);
        self
    }

    /// With one bit flipped that no checksum was told of.
    pub(crate) fn flipped(self, at: usize) -> Frame {
        self.edit(|bytes| bytes[at] ^= 0x20)
    }

    /// With zeros behind the IP packet.
    pub(crate) fn tail(self, len: usize) -> Frame {
        self.edit(|bytes| bytes.resize(bytes.len() + len, 0))
    }

    /// With the IPv4 header's checksum right again.
    pub(crate) fn with_ip_checksum(self) -> Frame {
        self.edit(|bytes| {
            let end = 14 + usize::from(bytes[14] & 0x0f) * 4;
            bytes[24..26].fill(0);
            let sum = checksum::internet(&bytes[14..end]);
            bytes[24..26].copy_from_slice(&sum.to_bytes());
        })
    }

    /// The IP packet.
    pub(crate) fn packet(&self) -> &[u8] {
        &self.bytes[14..]
    }
}

/// What an IP header says besides protocol, length and addresses.
#[derive(Debug, Clone)]
pub(crate) struct Ip {
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// DSCP and ECN.
    pub(crate) class: u8,
    /// IPv4: identification.
    pub(crate) id: u16,
    /// IPv4.
    pub(crate) dont_fragment: bool,
    /// IPv4 options, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6.
    pub(crate) flow_label: u32,
    /// IPv6 extension headers.
    pub(crate) extensions: Vec<Extension>,
}

impl Default for Ip {
    /// As our hosts send.
    fn default() -> Ip {
        Ip {
            hops: 64,
            class: 0,
            id: HOST_ID,
            dont_fragment: true,
            options: Vec::new(),
            flow_label: 0x54321,
            extensions: Vec::new(),
        }
    }
}

impl Ip {
    /// As the gateway writes it where it writes a whole new header.
    pub(crate) fn own(hops: u8) -> Ip {
        Ip { hops, id: 0, flow_label: 0, ..Ip::default() }
    }

    /// Bytes of the header with options or extension headers.
    pub(crate) fn header_len(&self, family: Family) -> usize {
        let zeros = either(family, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        self.packet(6, (zeros, zeros), &[]).len()
    }

    /// A whole IP packet.
    pub(crate) fn packet(&self, protocol: u8, ends: (IpAddr, IpAddr), payload: &[u8]) -> Vec<u8> {
        let frame = match ends {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.v4(protocol, (src, dst), payload),
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let base = Ipv6Base {
                    src: src.octets(),
                    dst: dst.octets(),
                    protocol,
                    hop_limit: self.hops,
                    traffic_class: self.class,
                    flow_label: self.flow_label,
                    ..Ipv6Base::default()
                };
                with_extensions(&base.frame(payload), &self.extensions)
            }
            _ => Vec::new(),
        };
        assert!(!frame.is_empty(), "{ends:?} are of two families");
        frame[14..].to_vec()
    }

    /// As a frame, whose Ethernet header means nothing.
    fn v4(&self, protocol: u8, (src, dst): (Ipv4Addr, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4), "{self:?}");
        let base = Ipv4Base {
            src: ipv4::addr(src),
            dst: ipv4::addr(dst),
            protocol,
            ttl: self.hops,
            dscp_ecn: self.class,
            id: U16::new(self.id),
            flags_fragment: U16::new(if self.dont_fragment { ipv4::FLAG_DONT_FRAGMENT } else { 0 }),
            ..Ipv4Base::default()
        };
        let bytes = base.frame(&[&self.options[..], payload].concat());
        let frame = Frame { port: Port::Wan, bytes };
        frame.edit(|bytes| bytes[14] += (self.options.len() / 4) as u8).with_ip_checksum().bytes
    }
}

/// The checksum of TCP, UDP, ICMP and ICMPv6 over the whole payload, whose checksum field is zero, and a pseudo header
/// where there is one (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1).
pub(crate) fn upper_checksum(protocol: u8, (src, dst): (IpAddr, IpAddr), payload: &[u8]) -> U16 {
    let len = (payload.len() as u16).to_be_bytes();
    let pseudo = if protocol == ipv4::PROTO_ICMP {
        Vec::new()
    } else {
        [&octets(src)[..], &octets(dst), &[0, protocol], &len].concat()
    };
    let sum = checksum::internet(&[pseudo, payload.to_vec()].concat());
    if protocol == ipv4::PROTO_UDP && sum == U16::ZERO { U16::MAX_VALUE } else { sum }
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
