//! Packets in tunnels. The bytes are put together here on their own, so that they can be compared with those
//! that [`crate::tunnel`] writes.

use super::{Ipv4Base, Ipv6Base, datagram};
use crate::{U16, checksum, ipv4};

/// The port that is assigned to GUE.
pub const GUE_PORT: U16 = U16::new(6080);

/// What stands between the outer and the inner IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// Nothing (RFC 2003, RFC 2473).
    Ip,
    /// GRE without a checksum (RFC 2784).
    Gre,
    /// GRE with a checksum.
    GreChecksum,
    /// UDP without a checksum and GUE.
    Gue {
        /// Source port.
        src_port: U16,
        /// Destination port.
        dst_port: U16,
    },
    /// UDP with a checksum and GUE.
    GueChecksum {
        /// Source port.
        src_port: U16,
        /// Destination port.
        dst_port: U16,
    },
}

impl Wrap {
    /// The frame with `inner`, which begins with its IP header, in a tunnel over IPv4 between the addresses
    /// of `outer`.
    #[must_use]
    pub fn over_v4(self, outer: Ipv4Base, inner: &[u8]) -> Vec<u8> {
        let (protocol, mut payload) = self.payload(inner);
        if matches!(self, Wrap::GueChecksum { .. }) {
            let check = checksum::udp_v4(outer.src, outer.dst, &payload);
            payload[6..8].copy_from_slice(&check.to_bytes());
        }
        Ipv4Base { protocol, ..outer }.frame(&payload)
    }

    /// The frame with `inner`, which begins with its IP header, in a tunnel over IPv6 between the addresses
    /// of `outer`.
    #[must_use]
    pub fn over_v6(self, outer: Ipv6Base, inner: &[u8]) -> Vec<u8> {
        let (protocol, mut payload) = self.payload(inner);
        if matches!(self, Wrap::GueChecksum { .. }) {
            let check = checksum::udp_v6(&outer.src, &outer.dst, &payload);
            payload[6..8].copy_from_slice(&check.to_bytes());
        }
        Ipv6Base { protocol, ..outer }.frame(&payload)
    }

    /// The outer packet's protocol and its payload, a UDP checksum left zero.
    fn payload(self, inner: &[u8]) -> (u8, Vec<u8>) {
        let is_v6 = inner.first().is_some_and(|first| first >> 4 == 6);
        let protocol = if is_v6 { ipv4::PROTO_IPV6 } else { ipv4::PROTO_IPIP };
        let [a, b]: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        match self {
            Wrap::Ip => (protocol, inner.to_vec()),
            Wrap::Gre => (ipv4::PROTO_GRE, [&[0, 0, a, b], inner].concat()),
            Wrap::GreChecksum => {
                let mut packet = [&[0x80, 0, a, b, 0, 0, 0, 0], inner].concat();
                let check = checksum::internet(&packet);
                packet[4..6].copy_from_slice(&check.to_bytes());
                (ipv4::PROTO_GRE, packet)
            }
            Wrap::Gue { src_port, dst_port } | Wrap::GueChecksum { src_port, dst_port } => {
                let gue = [&[0, protocol, 0, 0], inner].concat();
                (ipv4::PROTO_UDP, datagram((src_port, dst_port), &gue))
            }
        }
    }
}
