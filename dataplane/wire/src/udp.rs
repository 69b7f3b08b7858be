//! UDP (RFC 768, RFC 8200 §8.1).
//!
//! A checksum of zero means "none". It is allowed over IPv4, and over IPv6 only for tunnels (RFC 6936); a checksum that
//! computes to zero is sent as 0xffff. [`crate::checksum::Delta::apply_udp`] keeps both rules.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::U16;

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// The UDP header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |          source port          |        destination port       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             length            |            checksum           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Port of the sender.
    pub src_port: U16,
    /// Port of the receiver.
    pub dst_port: U16,
    /// Length of header and payload.
    pub len: U16,
    /// Checksum over pseudo header, header and payload; 0 for none.
    pub checksum: U16,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Why a UDP header cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The length field is below that of the header.
    #[error("UDP length {0} is shorter than the header of 8 bytes")]
    LengthTooSmall(u16),
    /// The length field goes beyond the packet.
    #[error("UDP length {claimed} is longer than the {available} bytes that are there")]
    LengthBeyondPacket {
        /// What the header says.
        claimed: u16,
        /// What there is.
        available: usize,
    },
}

impl Header {
    /// Whether [`Header::check`] accepts; `available` is at least the header's length.
    #[inline(always)]
    #[must_use]
    pub const fn fits(&self, available: usize) -> bool {
        let len = self.len.get() as usize;
        // Nearly always all of it.
        len == available || len >= HEADER_LEN && len < available
    }

    /// Compares the length field with the `available` bytes from this header to the end of the IP payload, and answers
    /// the length of header and payload.
    ///
    /// # Errors
    /// A length below 8, or beyond the packet.
    #[inline]
    pub fn check(&self, available: usize) -> Result<usize, HeaderError> {
        let claimed = self.len.get();
        if usize::from(claimed) < HEADER_LEN {
            return Err(HeaderError::LengthTooSmall(claimed));
        }
        if usize::from(claimed) > available {
            return Err(HeaderError::LengthBeyondPacket { claimed, available });
        }
        Ok(usize::from(claimed))
    }
}

/// The datagram that an IP payload begins with, as long as its header says. What follows in the packet (UDP options, RFC
/// 9868 §7) is not under its checksum. All of the payload where the header cannot be followed.
#[inline]
#[must_use]
pub fn datagram(payload: &[u8]) -> &[u8] {
    let len = crate::view::<Header>(payload, 0).and_then(|header| header.check(payload.len()).ok());
    len.and_then(|len| payload.get(..len)).unwrap_or(payload)
}
