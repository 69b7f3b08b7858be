//! Translation between IPv4 and IPv6 (RFC 7915) of packets whose new addresses are known: those of a
//! connection, no mapping of addresses into prefixes (RFC 6052).
//!
//! ```text
//! | IPv4 header, options             | TCP, UDP, ICMP echo … |
//! | IPv6 header  [fragment header]   | TCP, UDP, ICMPv6 echo … |
//! ```
//!
//! Here are the IP headers, what that changes in the checksums above them, ICMP echo, and the tables of ICMP
//! errors; the packets that errors quote are [`crate::quote`]'s. IPv4 options and IPv6 extension headers are
//! not translated (§4.1, §5.1), fragments are, one by one. To fragment a packet on its way from IPv4 to IPv6
//! (§4.1), cut it into IPv4 fragments that are 28 bytes shorter than the MTU and translate those.
//!
//! A UDP datagram without a checksum has none to correct; over IPv6 it needs one (§4.5), which
//! [`crate::checksum::udp_v6`] computes from the whole datagram. A fragment of such a datagram cannot be
//! translated.

use crate::checksum::Delta;
use crate::{IntoBytes, U16, U32, icmp, icmpv6, ipv4, ipv6};

mod errors;

pub use errors::{NextHopMtus, error_v4_to_v6, error_v6_to_v4};

/// The longest IPv4 packet that may be fragmented on its way when it was an IPv6 packet without a fragment
/// header (RFC 7915 §5.1): its IPv6 form fitted the least IPv6 MTU.
pub const FRAGMENTABLE_LEN_MAX: usize = ipv6::MTU_MIN - ipv6::HEADER_LEN + ipv4::HEADER_LEN;

/// The headers that an IPv4 header becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadersV6 {
    /// The fixed header.
    pub ip: ipv6::Header,
    /// The fragment header behind it, where the IPv4 packet is a fragment.
    pub fragment: Option<ipv6::FragmentHeader>,
}

impl HeadersV6 {
    /// Length of both.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        match self.fragment {
            None => ipv6::HEADER_LEN,
            Some(_) => ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN,
        }
    }

    /// Writes both to the front of `out`; the result is their length, or `None`, and no change, when `out` is
    /// shorter.
    #[inline]
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let (front, back) = out.get_mut(..self.header_len())?.split_at_mut(ipv6::HEADER_LEN);
        front.copy_from_slice(self.ip.as_bytes());
        if let Some(fragment) = &self.fragment {
            back.copy_from_slice(fragment.as_bytes());
        }
        Some(self.header_len())
    }
}

/// The IPv6 headers of what was an IPv4 packet (RFC 7915 §4.1), from `src` to `dst`. `header` has passed its
/// check; `hop_limit` is the caller's, who takes a hop off as a router does.
#[inline]
#[must_use]
pub fn v4_to_v6(header: &ipv4::Header, (src, dst): (&[u8; 16], &[u8; 16]), hop_limit: u8) -> HeadersV6 {
    let protocol = match header.protocol {
        ipv4::PROTO_ICMP => ipv4::PROTO_ICMPV6,
        other => other,
    };
    let fragment = header.is_fragment().then(|| ipv6::FragmentHeader {
        next_header: protocol,
        reserved: 0,
        offset_more: U16::new(header.fragment_offset() | u16::from(header.more_fragments())),
        id: U32::new(u32::from(header.id.get())),
    });
    let fragment_len = if fragment.is_some() { ipv6::FRAGMENT_HEADER_LEN as u16 } else { 0 };
    let payload_len = header.total_len.get().saturating_sub(header.header_len() as u16);
    let ip = ipv6::Header {
        version_class_flow: U32::new(6 << 28 | u32::from(header.dscp_ecn) << 20),
        // At most 65,535 - 20 + 8.
        payload_len: U16::new(payload_len.saturating_add(fragment_len)),
        next_header: if fragment.is_some() { ipv6::NEXT_FRAGMENT } else { protocol },
        hop_limit,
        src: *src,
        dst: *dst,
    };
    HeadersV6 { ip, fragment }
}

/// The IPv4 header of what was an IPv6 packet (RFC 7915 §5.1), from `src` to `dst`, in front of what stands
/// behind the extension headers. `header` has passed its check, and `upper` is what [`ipv6::walk_extensions`]
/// found.
///
/// `id` is the identification of a packet that is no fragment; a fragment keeps the lower half of its own.
/// `ttl` is the caller's, who takes a hop off as a router does. `None` when the packet is too long for IPv4,
/// or when it is a fragment whose extension headers were cut up with the payload (§5.1.1), so that offsets
/// would be wrong without them.
#[inline]
#[must_use]
pub fn v6_to_v4(
    header: &ipv6::Header,
    upper: &ipv6::Upper,
    (src, dst): (U32, U32),
    id: U16,
    ttl: u8,
) -> Option<ipv4::Header> {
    let packet_len = ipv6::HEADER_LEN + usize::from(header.payload_len.get());
    let total_len = ipv4::HEADER_LEN + packet_len.checked_sub(upper.offset)?;
    let (id, flags_fragment) = match upper.fragment {
        Some(fragment) => {
            if !fragment.is_atomic() && ipv6::is_extension(fragment.next_header) {
                return None;
            }
            let more = if fragment.more_fragments() { ipv4::FLAG_MORE_FRAGMENTS } else { 0 };
            (U16::new(fragment.id.get() as u16), more | fragment.fragment_offset() >> 3)
        }
        None if total_len <= FRAGMENTABLE_LEN_MAX => (id, 0),
        None => (id, ipv4::FLAG_DONT_FRAGMENT),
    };
    let protocol = match upper.protocol {
        ipv4::PROTO_ICMPV6 => ipv4::PROTO_ICMP,
        other => other,
    };
    let mut new = ipv4::Header {
        version_ihl: 0x45,
        dscp_ecn: header.traffic_class(),
        total_len: U16::new(u16::try_from(total_len).ok()?),
        id,
        flags_fragment: U16::new(flags_fragment),
        ttl,
        protocol,
        checksum: U16::ZERO,
        src,
        dst,
    };
    new.checksum = crate::checksum::internet(new.as_bytes());
    Some(new)
}

/// What changes in a TCP or UDP checksum when the pseudo header becomes that of IPv6: the addresses only,
/// since length and protocol are the same sums in either form. The way back is [`Delta::negated`].
#[inline]
#[must_use]
pub fn pseudo_v4_to_v6((old_src, old_dst): (U32, U32), (src, dst): (&[u8; 16], &[u8; 16])) -> Delta {
    Delta::ZERO.sub32(old_src).sub32(old_dst).add_bytes(src).add_bytes(dst)
}

/// What an ICMPv6 checksum covers and an ICMP checksum does not: the pseudo header of a message of this
/// length (RFC 4443 §2.3).
#[inline]
#[must_use]
pub fn icmp_pseudo((src, dst): (&[u8; 16], &[u8; 16]), len: u32) -> Delta {
    let protocol = U16::from_bytes([0, ipv4::PROTO_ICMPV6]);
    Delta::ZERO.add_bytes(src).add_bytes(dst).add32(U32::new(len)).add16(protocol)
}

/// Makes an ICMPv6 echo of an ICMP echo, which is to go from `src` to `dst`; `false`, and no change, when the
/// message is no echo. Identifier and sequence number stay.
#[must_use]
pub fn echo_v4_to_v6(message: &mut [u8], addresses: (&[u8; 16], &[u8; 16])) -> bool {
    let delta = icmp_pseudo(addresses, message.len() as u32);
    let Some(header) = crate::view_mut::<icmp::Header>(message, 0) else { return false };
    let kind = match header.kind {
        icmp::TYPE_ECHO_REQUEST => icmpv6::TYPE_ECHO_REQUEST,
        icmp::TYPE_ECHO_REPLY => icmpv6::TYPE_ECHO_REPLY,
        _ => return false,
    };
    header.checksum = delta.replace8_at(0, header.kind, kind).apply(header.checksum);
    header.kind = kind;
    true
}

/// Makes an ICMP echo of an ICMPv6 echo, which came from `src` and went to `dst`; `false`, and no change,
/// when the message is no echo. Identifier and sequence number stay.
#[must_use]
pub fn echo_v6_to_v4(message: &mut [u8], addresses: (&[u8; 16], &[u8; 16])) -> bool {
    let delta = icmp_pseudo(addresses, message.len() as u32).negated();
    let Some(header) = crate::view_mut::<icmp::Header>(message, 0) else { return false };
    let kind = match header.kind {
        icmpv6::TYPE_ECHO_REQUEST => icmp::TYPE_ECHO_REQUEST,
        icmpv6::TYPE_ECHO_REPLY => icmp::TYPE_ECHO_REPLY,
        _ => return false,
    };
    header.checksum = delta.replace8_at(0, header.kind, kind).apply(header.checksum);
    // An echo reply may be all zeroes, the one message whose checksum is 0xffff; for any other that is as
    // good as 0.
    if header.checksum == U16::ZERO {
        header.checksum = U16::MAX_VALUE;
    }
    header.kind = kind;
    true
}

#[cfg(test)]
mod tests;
