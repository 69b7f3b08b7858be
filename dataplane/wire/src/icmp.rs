//! ICMP for IPv4 (RFC 792, RFC 1122 §3.2.2, RFC 1191, RFC 1812 §4.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U16, U32, checksum, ipv4};

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// Echo reply.
pub const TYPE_ECHO_REPLY: u8 = 0;
/// Destination unreachable; see the `CODE_*`.
pub const TYPE_UNREACHABLE: u8 = 3;
/// Source quench, obsolete (RFC 6633).
pub const TYPE_SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const TYPE_REDIRECT: u8 = 5;
/// Echo request.
pub const TYPE_ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TYPE_TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const TYPE_PARAMETER_PROBLEM: u8 = 12;

/// Unreachable: no route to the network.
pub const CODE_NET_UNREACHABLE: u8 = 0;
/// Unreachable: the host does not answer.
pub const CODE_HOST_UNREACHABLE: u8 = 1;
/// Unreachable: nobody speaks the protocol.
pub const CODE_PROTOCOL_UNREACHABLE: u8 = 2;
/// Unreachable: nobody listens.
pub const CODE_PORT_UNREACHABLE: u8 = 3;
/// Unreachable: too big and not to be fragmented; `rest` holds the MTU (RFC 1191 §4).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// Unreachable: the way to the host is forbidden by the administrator.
pub const CODE_HOST_PROHIBITED: u8 = 10;
/// Unreachable: forbidden by the administrator (RFC 1812 §5.2.7.1).
pub const CODE_PROHIBITED: u8 = 13;
/// Time exceeded: in transit.
pub const CODE_TTL_EXCEEDED: u8 = 0;

/// Bytes of an error message at most, its IPv4 header included (RFC 1812 §4.3.2.3).
pub const ERROR_PACKET_LEN_MAX: usize = 576;
/// Bytes that an error message quotes at most, given an IPv4 header without options.
pub const QUOTE_LEN_MAX: usize = ERROR_PACKET_LEN_MAX - ipv4::HEADER_LEN - HEADER_LEN;

/// The ICMP header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |      type     |      code     |            checksum           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         rest: identifier and sequence, MTU, or unused         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// One of the `TYPE_*`.
    pub kind: u8,
    /// What of it; the meaning depends on the type.
    pub code: u8,
    /// Checksum over the whole message.
    pub checksum: U16,
    /// Depends on the type.
    pub rest: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

impl Header {
    /// Whether this is an error message, which quotes a packet behind this header.
    #[inline]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        is_error_type(self.kind)
    }

    /// Identifier of an echo, its "port".
    #[inline]
    #[must_use]
    pub const fn echo_id(&self) -> U16 {
        let [a, b, _, _] = self.rest.to_bytes();
        U16::from_bytes([a, b])
    }

    /// Sequence number of an echo.
    #[inline]
    #[must_use]
    pub const fn echo_seq(&self) -> U16 {
        let [_, _, a, b] = self.rest.to_bytes();
        U16::from_bytes([a, b])
    }

    /// MTU of the next hop in "fragmentation needed" (RFC 1191 §4); 0 from routers that do not know.
    #[inline]
    #[must_use]
    pub const fn next_hop_mtu(&self) -> u16 {
        self.echo_seq().get()
    }
}

/// Whether messages of this type report an error and quote a packet.
#[inline]
#[must_use]
pub const fn is_error_type(kind: u8) -> bool {
    matches!(
        kind,
        TYPE_UNREACHABLE | TYPE_SOURCE_QUENCH | TYPE_REDIRECT | TYPE_TIME_EXCEEDED | TYPE_PARAMETER_PROBLEM
    )
}

/// What `rest` holds in "fragmentation needed".
#[inline]
#[must_use]
pub const fn rest_of_mtu(mtu: u16) -> U32 {
    U32::new(mtu as u32)
}

/// Whether an error message about `packet`, which begins with its IPv4 header, may be sent at all: not about an error
/// message, not about a fragment behind the first, not about what many received, and not to nobody (RFC 1122 §3.2.2).
#[must_use]
pub fn may_answer_v4(packet: &[u8]) -> bool {
    let Some(header) = crate::view::<ipv4::Header>(packet, 0) else { return false };
    let Ok(header_len) = header.check(usize::from(u16::MAX)) else { return false };
    let addresses = ipv4::is_unicast(header.dst) && ipv4::is_unicast(header.src);
    let first = header.fragment_offset() == 0;
    // A message whose type cannot be read could be an error message.
    let about_error =
        header.protocol == ipv4::PROTO_ICMP && packet.get(header_len).is_none_or(|kind| is_error_type(*kind));
    addresses && first && !about_error
}

/// Writes an error message about `original`, which begins with its IPv4 header, into `out`: ICMP header, then the quoted
/// IPv4 header and as much of its payload as fits `out` and [`QUOTE_LEN_MAX`]. The IPv4 header in front is the caller's.
///
/// The result is the message's length. `None` when `original` is not IPv4, or when `out` cannot even hold its header and
/// the 8 bytes (or the fewer that there are) that RFC 792 asks for. Ethernet padding behind `original` is not quoted.
#[must_use]
pub fn error_v4(kind: u8, code: u8, rest: U32, original: &[u8], out: &mut [u8]) -> Option<usize> {
    let header: &ipv4::Header = crate::view(original, 0)?;
    let header_len = header.check(usize::from(u16::MAX)).ok()?;
    let original = original.get(..usize::from(header.total_len.get())).unwrap_or(original);
    let quote_len = original.len().min(QUOTE_LEN_MAX).min(out.len().checked_sub(HEADER_LEN)?);
    if quote_len < original.len().min(header_len + 8) {
        return None;
    }
    let message = out.get_mut(..HEADER_LEN + quote_len)?;
    let (head, quote) = message.split_at_mut(HEADER_LEN);
    head.copy_from_slice(Header { kind, code, checksum: U16::ZERO, rest }.as_bytes());
    quote.copy_from_slice(&original[..quote_len]);
    let check = checksum::icmp(message);
    crate::view_mut::<Header>(message, 0)?.checksum = check;
    Some(message.len())
}

#[cfg(test)]
mod tests;
