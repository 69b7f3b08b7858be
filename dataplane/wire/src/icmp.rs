//! ICMP for IPv4 (RFC 792, RFC 1122 §3.2.2, RFC 1191, RFC 1812 §4.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{PacketBuf, U16, U32, checksum, ethernet, icmpv6, ipv4, ipv6};

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
/// Unreachable: a source route is not followed.
pub const CODE_SOURCE_ROUTE_FAILED: u8 = 5;
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
    message[HEADER_LEN..].copy_from_slice(&original[..quote_len]);
    write_header(message, (kind, code, rest), checksum::icmp);
    Some(message.len())
}

/// An error that a gateway tells the sender of a packet, in either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// No route to the destination.
    NoRoute,
    /// The destination, or the next hop to it, does not answer.
    HostUnreachable,
    /// Nobody takes the connection.
    PortUnreachable,
    /// Forbidden by the administrator.
    Prohibited,
    /// Does not fit the next link and must not be fragmented.
    TooBig {
        /// What fits. Where that is less than every link of the family takes, that least MTU is told: nobody can
        /// send less than the headers, and IPv6 does not believe it (RFC 8201 §4).
        mtu: u16,
    },
    /// TTL or hop limit used up.
    TimeExceeded,
}

impl Error {
    /// Type, code and the rest of the header of the ICMP message.
    #[must_use]
    pub const fn v4(self) -> (u8, u8, U32) {
        match self {
            Self::NoRoute => (TYPE_UNREACHABLE, CODE_NET_UNREACHABLE, U32::ZERO),
            Self::HostUnreachable => (TYPE_UNREACHABLE, CODE_HOST_UNREACHABLE, U32::ZERO),
            Self::PortUnreachable => (TYPE_UNREACHABLE, CODE_PORT_UNREACHABLE, U32::ZERO),
            Self::Prohibited => (TYPE_UNREACHABLE, CODE_PROHIBITED, U32::ZERO),
            Self::TooBig { mtu } => {
                let mtu = at_least(mtu, ipv4::MTU_MIN);
                (TYPE_UNREACHABLE, CODE_FRAGMENTATION_NEEDED, rest_of_mtu(mtu))
            }
            Self::TimeExceeded => (TYPE_TIME_EXCEEDED, CODE_TTL_EXCEEDED, U32::ZERO),
        }
    }

    /// Type, code and the rest of the header of the ICMPv6 message.
    #[must_use]
    pub const fn v6(self) -> (u8, u8, U32) {
        match self {
            Self::NoRoute => (icmpv6::TYPE_UNREACHABLE, icmpv6::CODE_NO_ROUTE, U32::ZERO),
            Self::HostUnreachable => (icmpv6::TYPE_UNREACHABLE, icmpv6::CODE_ADDRESS_UNREACHABLE, U32::ZERO),
            Self::PortUnreachable => (icmpv6::TYPE_UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE, U32::ZERO),
            Self::Prohibited => (icmpv6::TYPE_UNREACHABLE, icmpv6::CODE_PROHIBITED, U32::ZERO),
            Self::TooBig { mtu } => {
                let mtu = at_least(mtu, ipv6::MTU_MIN);
                (icmpv6::TYPE_PACKET_TOO_BIG, 0, U32::new(mtu as u32))
            }
            Self::TimeExceeded => (icmpv6::TYPE_TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXCEEDED, U32::ZERO),
        }
    }
}

/// The greater one; [`Ord::max`] is not `const`.
const fn at_least(mtu: u16, least: usize) -> u16 {
    if (mtu as usize) < least { least as u16 } else { mtu }
}

/// Turns `packet`, whose IPv4 header begins at `l3_offset`, into the error about it (see [`Error::v4`]), from
/// `src` back to its sender, quoting as much as fits 576 bytes. Ethernet addresses change places and VLAN
/// tags stay, so it leaves where it came in. Whether it may be sent is [`may_answer_v4`]'s to say.
///
/// `false`, and no change, when the packet is not whole, or when there are less than 28 bytes of headroom.
#[must_use]
pub fn answer_in_place<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    src: U32,
    (kind, code, rest): (u8, u8, U32),
) -> bool {
    let original = packet.data().get(l3_offset..).unwrap_or_default();
    let Some(old) = crate::view::<ipv4::Header>(original, 0).copied() else { return false };
    if old.check(original.len()).is_err() {
        return false;
    }
    let quote_len = usize::from(old.total_len.get()).min(QUOTE_LEN_MAX);
    let Some(new) = room_in_front(packet, l3_offset, ipv4::HEADER_LEN + HEADER_LEN, quote_len) else {
        return false;
    };
    let (front, message) = new.split_at_mut(ipv4::HEADER_LEN);
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        dscp_ecn: PRECEDENCE,
        total_len: U16::new((ipv4::HEADER_LEN + message.len()) as u16),
        // Not to be fragmented, at this length, so it needs no identification (RFC 6864 §4.1).
        id: U16::ZERO,
        flags_fragment: U16::new(ipv4::FLAG_DONT_FRAGMENT),
        ttl: HOPS,
        protocol: ipv4::PROTO_ICMP,
        checksum: U16::ZERO,
        src,
        dst: old.src,
    };
    header.checksum = checksum::internet(header.as_bytes());
    front.copy_from_slice(header.as_bytes());
    write_header(message, (kind, code, rest), checksum::icmp);
    true
}

/// "Internetwork control": what errors of routers are sent with (RFC 1812 §4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

/// TTL and hop limit of packets that a gateway sends itself (RFC 1700, IP parameters).
pub(crate) const HOPS: u8 = 64;

/// Makes room for `new_len` bytes of headers in front of the quote of `quote_len` bytes that begins at
/// `l3_offset`, cuts the packet behind that, and turns the link header around. The result begins behind that
/// header; `None`, and no change, when there is no room.
pub(crate) fn room_in_front<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    new_len: usize,
    quote_len: usize,
) -> Option<&mut [u8]> {
    if l3_offset < ethernet::HEADER_LEN || packet.data().len() < l3_offset + quote_len {
        return None;
    }
    if !packet.push_front(new_len) {
        return None;
    }
    packet.truncate(new_len + l3_offset + quote_len);
    let data = packet.data_mut();
    data.copy_within(new_len..new_len + l3_offset, 0);
    let link: &mut ethernet::Header = crate::view_mut(data, 0)?;
    core::mem::swap(&mut link.src, &mut link.dst);
    data.get_mut(l3_offset..)
}

/// Writes the header of a message whose quote is there, and its checksum, which `checksum` computes.
pub(crate) fn write_header(
    message: &mut [u8],
    (kind, code, rest): (u8, u8, U32),
    checksum: impl Fn(&[u8]) -> U16,
) {
    if let Some(header) = crate::view_mut::<Header>(message, 0) {
        *header = Header { kind, code, checksum: U16::ZERO, rest };
    }
    let check = checksum(message);
    if let Some(header) = crate::view_mut::<Header>(message, 0) {
        header.checksum = check;
    }
}

#[cfg(test)]
mod tests;
