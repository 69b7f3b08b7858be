//! IPv4 (RFC 791, RFC 1812, RFC 6864).
//!
//! The view covers the 20 fixed bytes; options, where there are any, follow it up to [`Header::header_len`].
//!
//! Contract: after [`Header::check`] is `Ok`, `header_len() <= total_len <= available`, so slicing by either is safe.

use core::net::Ipv4Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Delta;
use crate::{U16, U32};

mod fragment;

pub use fragment::{CannotFragment, Fragment, Fragments};

/// Length of the header without options.
pub const HEADER_LEN: usize = 20;
/// Length of the longest header.
pub const HEADER_LEN_MAX: usize = 60;
/// The MTU that every IPv4 link has (RFC 791 §3.2).
pub const MTU_MIN: usize = 68;

/// ICMP (RFC 792).
pub const PROTO_ICMP: u8 = 1;
/// IGMP (RFC 3376).
pub const PROTO_IGMP: u8 = 2;
/// IPv4 in IP (RFC 2003), the TUN forwarding mode.
pub const PROTO_IPIP: u8 = 4;
/// TCP (RFC 9293).
pub const PROTO_TCP: u8 = 6;
/// UDP (RFC 768).
pub const PROTO_UDP: u8 = 17;
/// IPv6 in IP (RFC 4213).
pub const PROTO_IPV6: u8 = 41;
/// GRE (RFC 2784).
pub const PROTO_GRE: u8 = 47;
/// ESP (RFC 4303).
pub const PROTO_ESP: u8 = 50;
/// AH (RFC 4302).
pub const PROTO_AH: u8 = 51;
/// ICMPv6 (RFC 4443).
pub const PROTO_ICMPV6: u8 = 58;
/// OSPF (RFC 2328).
pub const PROTO_OSPF: u8 = 89;
/// VRRP (RFC 5798).
pub const PROTO_VRRP: u8 = 112;
/// SCTP (RFC 9260).
pub const PROTO_SCTP: u8 = 132;

/// "Do not fragment", in [`Header::flags_fragment`].
pub const FLAG_DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments follow", in [`Header::flags_fragment`].
pub const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// The IPv4 header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |version|  IHL  |    DSCP   |ECN|          total length         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         identification        |0|D|M|     fragment offset     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  time to live |    protocol   |        header checksum        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         source address                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      destination address                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Version (upper 4 bits) and header length in words (lower 4 bits).
    pub version_ihl: u8,
    /// DSCP (upper 6 bits) and ECN (lower 2 bits).
    pub dscp_ecn: u8,
    /// Length of header and payload.
    pub total_len: U16,
    /// What the fragments of one packet share.
    pub id: U16,
    /// Flags (upper 3 bits) and fragment offset in units of 8 bytes (lower 13 bits).
    pub flags_fragment: U16,
    /// Hops that are left.
    pub ttl: u8,
    /// What follows, one of the `PROTO_*`.
    pub protocol: u8,
    /// Checksum over the header.
    pub checksum: U16,
    /// Address of the sender.
    pub src: U32,
    /// Address of the receiver.
    pub dst: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Why an IPv4 header cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The version is not 4.
    #[error("IP version is {0}, 4 is expected")]
    Version(u8),
    /// The header length is below 20.
    #[error("IPv4 header length {0} is below 20")]
    HeaderTooShort(usize),
    /// The total length is below the header length.
    #[error("IPv4 total length {total} is below the header length {header}")]
    TotalBelowHeader {
        /// What the header says of the packet.
        total: usize,
        /// What the header says of itself.
        header: usize,
    },
    /// The total length goes beyond the frame.
    #[error("IPv4 total length {total} is longer than the {available} bytes that are there")]
    Truncated {
        /// What the header says.
        total: usize,
        /// What there is.
        available: usize,
    },
}

impl Header {
    /// The version, which must be 4.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Length of the header with its options: 0 to 60, the sender's claim.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Whether this is a piece of a packet: the first, a middle or the last one.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (FLAG_MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) != 0
    }

    /// Whether this is a fragment that is not the last one.
    #[inline(always)]
    #[must_use]
    pub const fn more_fragments(&self) -> bool {
        self.flags_fragment.get() & FLAG_MORE_FRAGMENTS != 0
    }

    /// Where this fragment's payload belongs, in bytes; at most 65,528.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        (self.flags_fragment.get() & FRAGMENT_OFFSET_MASK) << 3
    }

    /// Whether the sender forbids fragmentation.
    #[inline(always)]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_fragment.get() & FLAG_DONT_FRAGMENT != 0
    }

    /// Compares the lengths with each other and with the `available` bytes from this header on; the result is the
    /// header's length. Bytes beyond the total length are Ethernet padding and no error.
    ///
    /// # Errors
    /// Another version, or lengths that contradict each other or the packet.
    #[inline]
    pub fn check(&self, available: usize) -> Result<usize, HeaderError> {
        // One test for nearly every packet there is: version 4 without options.
        if self.version_ihl != 0x45 {
            if self.version() != 4 {
                return Err(HeaderError::Version(self.version()));
            }
            if self.header_len() < HEADER_LEN {
                return Err(HeaderError::HeaderTooShort(self.header_len()));
            }
        }
        let (header, total) = (self.header_len(), usize::from(self.total_len.get()));
        if total < header {
            return Err(HeaderError::TotalBelowHeader { total, header });
        }
        if total > available {
            return Err(HeaderError::Truncated { total, available });
        }
        Ok(header)
    }

    /// Takes one hop off the TTL and corrects the checksum; `false`, and no change, when none is left to take (RFC 1812
    /// §5.3.1: such a packet is answered with "time exceeded").
    #[inline]
    #[must_use]
    pub fn decrement_ttl(&mut self) -> bool {
        if self.ttl <= 1 {
            return false;
        }
        let word = |ttl| U16::from_bytes([ttl, self.protocol]);
        let delta = Delta::ZERO.replace16(word(self.ttl), word(self.ttl - 1));
        self.checksum = delta.apply(self.checksum);
        self.ttl -= 1;
        true
    }
}

/// Whether `options`, which stand behind the fixed header, hold a source route that is not used up (RFC 791
/// §3.1): the packet's destination address is not its last. Gateways and translators refuse such packets with
/// "source route failed" (RFC 7915 §4.1); the walk ends at the first option whose length makes no sense.
#[must_use]
pub fn has_pending_source_route(options: &[u8]) -> bool {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut rest = options;
    loop {
        match *rest {
            [NOP, ref next @ ..] => rest = next,
            [END, ..] | [] | [_] => return false,
            // The pointer, counted from 1, is beyond the option when no address is left.
            [LOOSE | STRICT, len, pointer, ..] if pointer <= len => return true,
            [_, len, ..] if len < 2 => return false,
            [_, len, ..] => rest = rest.get(usize::from(len)..).unwrap_or_default(),
        }
    }
}

/// An address as it stands in a header.
#[inline]
#[must_use]
pub const fn addr(address: Ipv4Addr) -> U32 {
    U32::from_bytes(address.octets())
}

/// An address of a header, as the standard library knows it.
#[inline]
#[must_use]
pub const fn to_addr(address: U32) -> Ipv4Addr {
    Ipv4Addr::from_octets(address.to_bytes())
}

/// Whether the address names one host: not zero, multicast, reserved (class E) or broadcast.
#[inline]
#[must_use]
pub const fn is_unicast(address: U32) -> bool {
    let first = address.to_bytes()[0];
    first != 0 && first < 224
}
