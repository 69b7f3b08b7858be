//! IPv6 and its extension headers (RFC 8200).
//!
//! Contract: after [`Header::check`] is `Ok`, `40 + payload_len <= available`.

use core::net::Ipv6Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U16, U32};

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// The MTU that every IPv6 link has (RFC 8200 §5).
pub const MTU_MIN: usize = 1280;
/// Length of the fragment header.
pub const FRAGMENT_HEADER_LEN: usize = 8;

/// Hop-by-hop options (RFC 8200 §4.3).
pub const NEXT_HOP_BY_HOP: u8 = 0;
/// Routing (RFC 8200 §4.4).
pub const NEXT_ROUTING: u8 = 43;
/// Fragment (RFC 8200 §4.5).
pub const NEXT_FRAGMENT: u8 = 44;
/// Authentication (RFC 4302).
pub const NEXT_AUTH: u8 = 51;
/// ICMPv6 (RFC 4443).
pub const NEXT_ICMPV6: u8 = 58;
/// Nothing follows (RFC 8200 §4.7).
pub const NEXT_NONE: u8 = 59;
/// Destination options (RFC 8200 §4.6).
pub const NEXT_DESTINATION: u8 = 60;
/// Mobility (RFC 6275 §6.1).
pub const NEXT_MOBILITY: u8 = 135;

/// Extension headers that are followed at most. RFC 8200 §4.1 gives an order with 7 of them; more is an attack or an
/// accident (RFC 8504 §5.3 allows a limit).
pub const EXTENSIONS_MAX: usize = 8;

/// The IPv6 header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |version| traffic class |               flow label              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         payload length        |  next header  |   hop limit   |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                                                               |
/// +                                                               +
/// |                         source address                        |
/// +                                                               +
/// |                                                               |
/// +                                                               +
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                                                               |
/// +                                                               +
/// |                      destination address                      |
/// +                                                               +
/// |                                                               |
/// +                                                               +
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    /// Length of all that follows this header, extension headers included.
    pub payload_len: U16,
    /// What follows: an extension header, or the protocol.
    pub next_header: u8,
    /// Hops that are left.
    pub hop_limit: u8,
    /// Address of the sender.
    pub src: [u8; 16],
    /// Address of the receiver.
    pub dst: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Why an IPv6 packet cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The version is not 6.
    #[error("IP version is {0}, 6 is expected")]
    Version(u8),
    /// The payload length, or an extension header, goes beyond the packet.
    #[error("IPv6 packet needs {needed} bytes, {available} are there")]
    Truncated {
        /// Bytes that the headers claim.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// More extension headers than are followed.
    #[error("IPv6 packet has more than {EXTENSIONS_MAX} extension headers")]
    TooManyExtensions,
    /// Hop-by-hop options stand elsewhere than first (RFC 8200 §4.1).
    #[error("IPv6 hop-by-hop options are not the first extension header")]
    HopByHopNotFirst,
    /// A second fragment header.
    #[error("IPv6 packet has two fragment headers")]
    SecondFragmentHeader,
}

impl Header {
    /// The version, which must be 6.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_class_flow.to_bytes()[0] >> 4
    }

    /// DSCP and ECN.
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// The flow label, 20 bits.
    #[inline]
    #[must_use]
    pub const fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0x000f_ffff
    }

    /// Compares version and payload length with the `available` bytes from this header on; the result is the length of
    /// the packet with this header. A payload length of zero is taken as it is: jumbograms (RFC 2675) are not known.
    ///
    /// # Errors
    /// Another version, or a payload beyond the bytes that there are.
    #[inline]
    pub const fn check(&self, available: usize) -> Result<usize, HeaderError> {
        if self.version() != 6 {
            return Err(HeaderError::Version(self.version()));
        }
        let needed = HEADER_LEN + self.payload_len.get() as usize;
        if needed > available {
            return Err(HeaderError::Truncated { needed, available });
        }
        Ok(needed)
    }

    /// Takes one hop off the hop limit; `false`, and no change, when none is left to take.
    #[inline]
    #[must_use]
    pub const fn decrement_hop_limit(&mut self) -> bool {
        if self.hop_limit <= 1 {
            return false;
        }
        self.hop_limit -= 1;
        true
    }
}

/// The fragment header.
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  next header  |    reserved   |     fragment offset     |rsv|M|
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         identification                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentHeader {
    /// What the fragmentable part begins with.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes (upper 13 bits), reserved (2 bits), more fragments (1 bit).
    pub offset_more: U16,
    /// What the fragments of one packet share.
    pub id: U32,
}

const _: () = assert!(size_of::<FragmentHeader>() == FRAGMENT_HEADER_LEN);

impl FragmentHeader {
    /// Where this fragment's payload belongs, in bytes.
    #[inline]
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        self.offset_more.get() & 0xfff8
    }

    /// Whether this is not the last fragment.
    #[inline]
    #[must_use]
    pub const fn more_fragments(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }

    /// Whether this is a fragment in name only: first and last at once (RFC 6946).
    #[inline]
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.fragment_offset() == 0 && !self.more_fragments()
    }
}

/// What stands behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The upper-layer protocol. Of a fragment that is not the first, what the sender said that the first begins with;
    /// there is no such header here.
    pub protocol: u8,
    /// Where it begins, from the first byte of the IPv6 header.
    pub offset: usize,
    /// The fragment header, where there is one.
    pub fragment: Option<FragmentHeader>,
    /// Whether there are hop-by-hop options, which every router should see (RFC 8200 §4.3).
    pub hop_by_hop: bool,
}

impl Upper {
    /// Where a walk begins: right behind the fixed header.
    #[inline]
    const fn begin(header: &Header) -> Self {
        Self { protocol: header.next_header, offset: HEADER_LEN, fragment: None, hop_by_hop: false }
    }

    /// Whether an upper-layer header stands at `offset`: not so in fragments behind the first.
    #[inline]
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.fragment.is_none_or(|f| f.fragment_offset() == 0)
    }
}

/// Finds the upper-layer header of `packet`, which begins with the IPv6 header and ends where the payload does.
///
/// # Errors
/// A chain that is longer than [`EXTENSIONS_MAX`], that leaves the packet, or that no sender may build.
#[inline]
pub fn walk_extensions(packet: &[u8]) -> Result<Upper, HeaderError> {
    let available = packet.len();
    let header: &Header =
        crate::view(packet, 0).ok_or(HeaderError::Truncated { needed: HEADER_LEN, available })?;
    let mut upper = Upper::begin(header);
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(upper.protocol) || !upper.is_first() {
            return Ok(upper);
        }
        step(packet, &mut upper)?;
    }
    if is_extension(upper.protocol) && upper.is_first() {
        return Err(HeaderError::TooManyExtensions);
    }
    Ok(upper)
}

/// Where `packet`, which begins with its IPv6 header, tells that its destination address is not its last: the
/// offset of the "segments left" of a routing header that is not zero. Who has the address and does not route
/// must not take such a packet for its own; he answers with "parameter problem", erroneous field, and this
/// offset (RFC 8200 §4.4).
///
/// Only packets with extension headers need to be asked; the walk over them must have succeeded.
#[must_use]
pub fn segments_left_offset(packet: &[u8]) -> Option<usize> {
    let mut upper = Upper::begin(crate::view(packet, 0)?);
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(upper.protocol) || !upper.is_first() {
            return None;
        }
        let segments_left = upper.offset + 3;
        if upper.protocol == NEXT_ROUTING && packet.get(segments_left).is_some_and(|left| *left != 0) {
            return Some(segments_left);
        }
        step(packet, &mut upper).ok()?;
    }
    None
}

#[inline]
pub(crate) const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_AUTH | NEXT_DESTINATION | NEXT_MOBILITY
    )
}

/// Goes over one extension header.
fn step(packet: &[u8], upper: &mut Upper) -> Result<(), HeaderError> {
    let available = packet.len();
    let offset = upper.offset;
    // Every extension header is a multiple of 8 bytes, AH of 4 and at least 8 in practice.
    let truncated = |needed| HeaderError::Truncated { needed, available };
    let &[next, units] =
        packet.get(offset..).and_then(<[u8]>::first_chunk::<2>).ok_or(truncated(offset + 8))?;
    let len = match upper.protocol {
        NEXT_FRAGMENT => FRAGMENT_HEADER_LEN,
        // RFC 4302 §2.2: in words of 4 bytes, minus 2.
        NEXT_AUTH => (usize::from(units) + 2) * 4,
        // RFC 8200 §4.3: in units of 8 bytes, the first not counted.
        _ => (usize::from(units) + 1) * 8,
    };
    if offset + len > available {
        return Err(truncated(offset + len));
    }
    match upper.protocol {
        NEXT_HOP_BY_HOP if offset != HEADER_LEN => return Err(HeaderError::HopByHopNotFirst),
        NEXT_HOP_BY_HOP => upper.hop_by_hop = true,
        NEXT_FRAGMENT if upper.fragment.is_some() => return Err(HeaderError::SecondFragmentHeader),
        NEXT_FRAGMENT => upper.fragment = crate::view::<FragmentHeader>(packet, offset).copied(),
        _ => {}
    }
    upper.protocol = next;
    upper.offset = offset + len;
    Ok(())
}

/// An address of a header, as the standard library knows it.
#[inline]
#[must_use]
pub const fn to_addr(address: [u8; 16]) -> Ipv6Addr {
    Ipv6Addr::from_octets(address)
}

#[cfg(test)]
mod tests;
