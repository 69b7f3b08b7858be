//! ICMPv6 (RFC 4443) and the message types of neighbour discovery (RFC 4861).
//!
//! The header has the shape of ICMP's ([`Header`] is the same type); types differ, errors are below 128, and the
//! checksum covers a pseudo header.

use zerocopy::IntoBytes;

use crate::{PacketBuf, U16, U32, checksum, icmp, ipv6};

pub use crate::icmp::{HEADER_LEN, Header};

/// Destination unreachable.
pub const TYPE_UNREACHABLE: u8 = 1;
/// Packet too big; `rest` holds the MTU.
pub const TYPE_PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TYPE_TIME_EXCEEDED: u8 = 3;
/// Parameter problem; `rest` holds the offset of the offending byte.
pub const TYPE_PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const TYPE_ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const TYPE_ECHO_REPLY: u8 = 129;
/// Router solicitation.
pub const TYPE_ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement.
pub const TYPE_ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation.
pub const TYPE_NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement.
pub const TYPE_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect; information as far as numbers go, not to be answered with errors (RFC 4443 §2.4 e).
pub const TYPE_REDIRECT: u8 = 137;

/// Unreachable: no route.
pub const CODE_NO_ROUTE: u8 = 0;
/// Unreachable: forbidden by the administrator.
pub const CODE_PROHIBITED: u8 = 1;
/// Unreachable: the address does not answer.
pub const CODE_ADDRESS_UNREACHABLE: u8 = 3;
/// Unreachable: nobody listens.
pub const CODE_PORT_UNREACHABLE: u8 = 4;
/// Time exceeded: in transit.
pub const CODE_HOP_LIMIT_EXCEEDED: u8 = 0;

/// Parameter problem: a field has a value that it may not have.
pub const CODE_ERRONEOUS_FIELD: u8 = 0;
/// Parameter problem: a next header that is not known.
pub const CODE_UNKNOWN_NEXT_HEADER: u8 = 1;

/// Bytes that an error message quotes at most: the whole must fit the least MTU (RFC 4443 §2.4 c).
pub const QUOTE_LEN_MAX: usize = ipv6::MTU_MIN - ipv6::HEADER_LEN - HEADER_LEN;

/// Whether messages of this type report an error and quote a packet.
#[inline]
#[must_use]
pub const fn is_error_type(kind: u8) -> bool {
    kind < 128
}

/// Whether this type belongs to neighbour discovery, which is the kernel's.
#[inline]
#[must_use]
pub const fn is_neighbour_discovery(kind: u8) -> bool {
    matches!(kind, TYPE_ROUTER_SOLICITATION..=TYPE_REDIRECT)
}

/// Whether an error message about `packet`, which begins with its IPv6 header, may be sent: not about an error message or
/// a redirect, not about a fragment behind the first, not about multicast (packet too big excepted), and not to nobody
/// (RFC 4443 §2.4 e).
#[must_use]
pub fn may_answer_v6(kind: u8, packet: &[u8]) -> bool {
    let Some(header) = crate::view::<ipv6::Header>(packet, 0) else { return false };
    let (src, dst) = (ipv6::to_addr(header.src), ipv6::to_addr(header.dst));
    let Ok(upper) = ipv6::walk_extensions(packet) else { return false };
    let about_error = upper.protocol == ipv6::NEXT_ICMPV6
        && packet.get(upper.offset).is_none_or(|kind| is_error_type(*kind) || *kind == TYPE_REDIRECT);
    let to_one = !src.is_multicast() && !src.is_unspecified();
    let from_one = !dst.is_multicast() || kind == TYPE_PACKET_TOO_BIG;
    header.version() == 6 && upper.is_first() && !about_error && to_one && from_one
}

/// Writes an error message about `original`, which begins with its IPv6 header, into `out`: ICMPv6 header, then as much of
/// `original` as fits `out` and [`QUOTE_LEN_MAX`]. The IPv6 header in front, from `src` to `dst`, is the caller's.
///
/// The result is the message's length. `None` when `original` is not IPv6, or when `out` cannot even hold its header and
/// 8 bytes more (or the fewer that there are).
#[must_use]
pub fn error_v6(
    (kind, code, rest): (u8, u8, U32),
    (src, dst): (&[u8; 16], &[u8; 16]),
    original: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let header: &ipv6::Header = crate::view(original, 0)?;
    let packet_len = header.check(usize::MAX).ok()?;
    let original = original.get(..packet_len).unwrap_or(original);
    let quote_len = original.len().min(QUOTE_LEN_MAX).min(out.len().checked_sub(HEADER_LEN)?);
    if quote_len < original.len().min(ipv6::HEADER_LEN + 8) {
        return None;
    }
    let message = out.get_mut(..HEADER_LEN + quote_len)?;
    message[HEADER_LEN..].copy_from_slice(&original[..quote_len]);
    icmp::write_header(message, (kind, code, rest), |message| checksum::icmp_v6(src, dst, message));
    Some(message.len())
}

/// Turns `packet`, whose IPv6 header begins at `l3_offset`, into the error about it (see
/// [`icmp::Error::v6`]), from `src` back to its sender, quoting as much as fits 1280 bytes. Ethernet
/// addresses change places and VLAN tags stay, so it leaves where it came in. Whether it may be sent is
/// [`may_answer_v6`]'s to say.
///
/// `false`, and no change, when the packet is not whole, or when there are less than 48 bytes of headroom.
#[must_use]
pub fn answer_in_place<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    src: &[u8; 16],
    error: (u8, u8, U32),
) -> bool {
    let original = packet.data().get(l3_offset..).unwrap_or_default();
    let Some(old) = crate::view::<ipv6::Header>(original, 0).copied() else { return false };
    let Ok(packet_len) = old.check(original.len()) else { return false };
    let quote_len = packet_len.min(QUOTE_LEN_MAX);
    let Some(new) = icmp::room_in_front(packet, l3_offset, ipv6::HEADER_LEN + HEADER_LEN, quote_len) else {
        return false;
    };
    let (front, message) = new.split_at_mut(ipv6::HEADER_LEN);
    let header = ipv6::Header {
        version_class_flow: U32::new(6 << 28),
        payload_len: U16::new(message.len() as u16),
        next_header: ipv6::NEXT_ICMPV6,
        hop_limit: icmp::HOPS,
        src: *src,
        dst: old.src,
    };
    front.copy_from_slice(header.as_bytes());
    icmp::write_header(message, error, |message| checksum::icmp_v6(src, &old.src, message));
    true
}
