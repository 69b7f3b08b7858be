//! The two families of IP, and the addresses of one packet of either.

use crate::{U16, U32, ethernet, ipv4, ipv6};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of a packet that begins with its IP header; `None` for another version than 4 and 6.
    #[inline]
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Length of the IP header without options or extension headers.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => ipv4::HEADER_LEN,
            Self::V6 => ipv6::HEADER_LEN,
        }
    }

    /// The ether type, which is GRE's protocol type as well.
    #[inline(always)]
    #[must_use]
    pub const fn ether_type(self) -> U16 {
        match self {
            Self::V4 => ethernet::ETHERTYPE_IPV4,
            Self::V6 => ethernet::ETHERTYPE_IPV6,
        }
    }

    /// The protocol number of a whole packet inside of another one.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::V4 => ipv4::PROTO_IPIP,
            Self::V6 => ipv4::PROTO_IPV6,
        }
    }
}

/// Sender and receiver of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// Of an IPv4 packet.
    V4 {
        /// Address of the sender.
        src: U32,
        /// Address of the receiver.
        dst: U32,
    },
    /// Of an IPv6 packet.
    V6 {
        /// Address of the sender.
        src: [u8; 16],
        /// Address of the receiver.
        dst: [u8; 16],
    },
}

impl Addresses {
    /// The family of both.
    #[inline]
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::V4 { .. } => Family::V4,
            Self::V6 { .. } => Family::V6,
        }
    }
}

impl From<&ipv4::Header> for Addresses {
    #[inline]
    fn from(header: &ipv4::Header) -> Self {
        Self::V4 { src: header.src, dst: header.dst }
    }
}

impl From<&ipv6::Header> for Addresses {
    #[inline]
    fn from(header: &ipv6::Header) -> Self {
        Self::V6 { src: header.src, dst: header.dst }
    }
}
