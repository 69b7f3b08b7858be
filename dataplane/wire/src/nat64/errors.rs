//! The tables of ICMP errors (RFC 7915 §4.2, §5.2).
//!
//! A message is type, code and the 4 bytes behind the checksum. What those said of extensions (RFC 4884) is
//! not taken along: a translated message quotes the packet and nothing else.

use crate::{U32, icmp, icmpv6, ipv4, ipv6};

/// By how much an IPv6 header is longer than an IPv4 header.
const GROWTH: u32 = (ipv6::HEADER_LEN - ipv4::HEADER_LEN) as u32;
/// Where IPv4's least MTU, 68, is counted.
const MTU_MIN_V4: u32 = ipv4::MTU_MIN as u32;
/// Where IPv6's least MTU, 1280, is counted.
const MTU_MIN_V6: u32 = ipv6::MTU_MIN as u32;

/// MTUs that are common, for routers that tell of a packet that is too long but not what would fit (RFC 1191
/// §7.1).
const PLATEAUS: [u16; 11] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// MTUs of the links to the next hops of the packets that errors are about, on either side; [`u16::MAX`]
/// where that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHopMtus {
    /// Of the link on the IPv4 side.
    pub v4: u16,
    /// Of the link on the IPv6 side.
    pub v6: u16,
}

/// The ICMPv6 error that an ICMP error becomes (RFC 7915 §4.2); `None` when it is to be dropped in silence.
/// `quoted_len` is the total length that the quoted IPv4 header tells.
#[must_use]
pub fn error_v4_to_v6(
    (kind, code, rest): (u8, u8, U32),
    quoted_len: u16,
    mtus: NextHopMtus,
) -> Option<(u8, u8, U32)> {
    match (kind, code) {
        (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED) => {
            let mtu = mtu_v6(rest.get() as u16, quoted_len, mtus);
            Some((icmpv6::TYPE_PACKET_TOO_BIG, 0, U32::new(mtu)))
        }
        (icmp::TYPE_UNREACHABLE, icmp::CODE_PROTOCOL_UNREACHABLE) => {
            let next_header = core::mem::offset_of!(ipv6::Header, next_header) as u32;
            let code = icmpv6::CODE_UNKNOWN_NEXT_HEADER;
            Some((icmpv6::TYPE_PARAMETER_PROBLEM, code, U32::new(next_header)))
        }
        (icmp::TYPE_UNREACHABLE, code) => Some((icmpv6::TYPE_UNREACHABLE, unreachable_v6(code)?, U32::ZERO)),
        (icmp::TYPE_TIME_EXCEEDED, code) => Some((icmpv6::TYPE_TIME_EXCEEDED, code, U32::ZERO)),
        // Pointer, and bad length, which has a pointer too.
        (icmp::TYPE_PARAMETER_PROBLEM, 0 | 2) => {
            let pointer = pointer_v6(rest.to_bytes()[0])?;
            Some((icmpv6::TYPE_PARAMETER_PROBLEM, icmpv6::CODE_ERRONEOUS_FIELD, U32::new(pointer)))
        }
        _ => None,
    }
}

const fn unreachable_v6(code: u8) -> Option<u8> {
    match code {
        icmp::CODE_PORT_UNREACHABLE => Some(icmpv6::CODE_PORT_UNREACHABLE),
        // Net, host, source route, net unknown, host unknown, source isolated, net and host for this type of
        // service.
        0 | 1 | 5..=8 | 11 | 12 => Some(icmpv6::CODE_NO_ROUTE),
        // Net and host by the administrator, communication by the administrator, precedence cut off.
        9 | 10 | icmp::CODE_PROHIBITED | 15 => Some(icmpv6::CODE_PROHIBITED),
        // 14, host precedence violation, and what is not known.
        _ => None,
    }
}

/// RFC 7915 §4.2, type 3 code 4.
fn mtu_v6(told: u16, quoted_len: u16, mtus: NextHopMtus) -> u32 {
    let told = match told {
        0 => PLATEAUS.into_iter().find(|plateau| *plateau < quoted_len).unwrap_or(68),
        told => told,
    };
    let path = (u32::from(told) + GROWTH).min(u32::from(mtus.v6)).min(u32::from(mtus.v4) + GROWTH);
    path.max(MTU_MIN_V6)
}

/// Figure 3: from the offset of a field in the IPv4 header to that of its kin in the IPv6 header.
const fn pointer_v6(pointer: u8) -> Option<u32> {
    match pointer {
        0 | 1 => Some(pointer as u32),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

/// The ICMP error that an ICMPv6 error becomes (RFC 7915 §5.2); `None` when it is to be dropped in silence.
/// `quoted_fragment_header` tells whether the quoted packet has a fragment header, which takes part of the
/// MTU.
#[must_use]
pub fn error_v6_to_v4(
    (kind, code, rest): (u8, u8, U32),
    quoted_fragment_header: bool,
    mtus: NextHopMtus,
) -> Option<(u8, u8, U32)> {
    match (kind, code) {
        (icmpv6::TYPE_UNREACHABLE, code) => Some((icmp::TYPE_UNREACHABLE, unreachable_v4(code)?, U32::ZERO)),
        (icmpv6::TYPE_PACKET_TOO_BIG, _) => {
            let mtu = mtu_v4(rest.get(), quoted_fragment_header, mtus);
            Some((icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, icmp::rest_of_mtu(mtu)))
        }
        (icmpv6::TYPE_TIME_EXCEEDED, code) => Some((icmp::TYPE_TIME_EXCEEDED, code, U32::ZERO)),
        (icmpv6::TYPE_PARAMETER_PROBLEM, icmpv6::CODE_ERRONEOUS_FIELD) => {
            let pointer = pointer_v4(rest.get())?;
            Some((icmp::TYPE_PARAMETER_PROBLEM, 0, U32::from_bytes([pointer, 0, 0, 0])))
        }
        (icmpv6::TYPE_PARAMETER_PROBLEM, icmpv6::CODE_UNKNOWN_NEXT_HEADER) => {
            Some((icmp::TYPE_UNREACHABLE, icmp::CODE_PROTOCOL_UNREACHABLE, U32::ZERO))
        }
        _ => None,
    }
}

const fn unreachable_v4(code: u8) -> Option<u8> {
    match code {
        // No route, beyond the scope of the source address, address unreachable.
        icmpv6::CODE_NO_ROUTE | 2 | icmpv6::CODE_ADDRESS_UNREACHABLE => Some(icmp::CODE_HOST_UNREACHABLE),
        icmpv6::CODE_PROHIBITED => Some(icmp::CODE_HOST_PROHIBITED),
        icmpv6::CODE_PORT_UNREACHABLE => Some(icmp::CODE_PORT_UNREACHABLE),
        _ => None,
    }
}

/// RFC 7915 §5.2, type 2. What tells less than every IPv6 link takes is forged or broken (RFC 8201 §4) and counts as
/// that; whatever the links say, the result is never below what IPv4 allows.
fn mtu_v4(told: u32, quoted_fragment_header: bool, mtus: NextHopMtus) -> u16 {
    let fragment_header = if quoted_fragment_header { ipv6::FRAGMENT_HEADER_LEN as u32 } else { 0 };
    let shrink = GROWTH + fragment_header;
    let path = told.max(MTU_MIN_V6).min(u32::from(mtus.v6)).saturating_sub(shrink).min(u32::from(mtus.v4));
    path.max(MTU_MIN_V4) as u16
}

/// Figure 6: from the offset of a field in the IPv6 header to that of its kin in the IPv4 header.
const fn pointer_v4(pointer: u32) -> Option<u8> {
    match pointer {
        0 | 1 => Some(pointer as u8),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}
