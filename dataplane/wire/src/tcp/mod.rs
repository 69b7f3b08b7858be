//! TCP (RFC 9293).
//!
//! The view covers the 20 fixed bytes; options follow it up to [`Header::header_len`] (see [`options`]).
//!
//! Contract: after [`Header::check`] is `Ok`, `20 <= header_len() <= available`.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Delta;
use crate::{U16, U32};

pub mod options;
mod reset;

pub use reset::Reset;

/// Length of the header without options.
pub const HEADER_LEN: usize = 20;
/// Length of the longest header.
pub const HEADER_LEN_MAX: usize = 60;
/// Room for options.
pub const OPTIONS_LEN_MAX: usize = HEADER_LEN_MAX - HEADER_LEN;

/// The control bits (RFC 9293 §3.1, RFC 3168 §6.1).
pub mod flags {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets a connection.
    pub const RST: u8 = 0x04;
    /// Give the data to the reader now.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion was met, or: this end can do ECN.
    pub const ECE: u8 = 0x40;
    /// The congestion window was reduced.
    pub const CWR: u8 = 0x80;
}

/// The TCP header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |          source port          |        destination port       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        sequence number                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                     acknowledgement number                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | offset| rsrvd |C|E|U|A|P|R|S|F|             window            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |            checksum           |         urgent pointer        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Port of the sender.
    pub src_port: U16,
    /// Port of the receiver.
    pub dst_port: U16,
    /// Number of the first byte of the payload, or of the SYN.
    pub seq: U32,
    /// The next number that the sender expects.
    pub ack: U32,
    /// The raw byte: header length in words (upper 4 bits), reserved (lower 4 bits).
    pub data_offset: u8,
    /// The control bits, see [`flags`].
    pub flags: u8,
    /// The receive window, to be scaled.
    pub window: U16,
    /// Checksum over pseudo header, header, options and payload.
    pub checksum: U16,
    /// Where urgent data ends.
    pub urgent: U16,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Why a TCP header cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The data offset is below 5 words.
    #[error("TCP header length {0} is below 20")]
    HeaderTooShort(usize),
    /// The data offset goes beyond the packet.
    #[error("TCP header length {header} is longer than the {available} bytes that are there")]
    Truncated {
        /// What the header says.
        header: usize,
        /// What there is.
        available: usize,
    },
}

impl Header {
    /// Length of the header with its options: 0 to 60, the sender's claim.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }

    /// Sets the header's length, which must be a multiple of 4 and at most 60; the reserved bits stay.
    #[inline]
    pub const fn set_header_len(&mut self, len: usize) {
        debug_assert!(len.is_multiple_of(4) && len <= HEADER_LEN_MAX);
        self.data_offset = (self.data_offset & 0x0f) | ((len / 4) << 4) as u8;
    }

    /// Compares the data offset with the `available` bytes from this header to the end of the IP payload; the result
    /// is the header's length.
    ///
    /// # Errors
    /// A data offset below 5, or one beyond the packet.
    #[inline]
    pub const fn check(&self, available: usize) -> Result<usize, HeaderError> {
        let header = self.header_len();
        if header < HEADER_LEN {
            return Err(HeaderError::HeaderTooShort(header));
        }
        if header > available {
            return Err(HeaderError::Truncated { header, available });
        }
        Ok(header)
    }

    /// Whether all of these control bits are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// Adds to the sequence number, modulo 2^32; the result is the change for the checksum.
    #[inline(always)]
    pub const fn shift_seq(&mut self, by: u32) -> Delta {
        let old = self.seq;
        self.seq = U32::new(old.get().wrapping_add(by));
        Delta::ZERO.replace32(old, self.seq)
    }

    /// Adds to the acknowledgement number, modulo 2^32, where it counts; the result is the change for the
    /// checksum. The SACK option beside it is [`options::map_sack`]'s.
    #[inline(always)]
    pub const fn shift_ack(&mut self, by: u32) -> Delta {
        if self.flags & flags::ACK == 0 {
            return Delta::ZERO;
        }
        let old = self.ack;
        self.ack = U32::new(old.get().wrapping_add(by));
        Delta::ZERO.replace32(old, self.ack)
    }

    /// The control bits in tcpdump's way.
    #[must_use]
    pub const fn show_flags(&self) -> ShowFlags {
        ShowFlags(self.flags)
    }
}

/// Shows control bits as tcpdump does: `S.` for SYN with ACK.
#[derive(Clone, Copy, Debug)]
pub struct ShowFlags(pub u8);

impl fmt::Display for ShowFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(u8, &str); 8] = [
            (flags::SYN, "S"),
            (flags::FIN, "F"),
            (flags::RST, "R"),
            (flags::PSH, "P"),
            (flags::URG, "U"),
            (flags::ECE, "E"),
            (flags::CWR, "W"),
            (flags::ACK, "."),
        ];
        for (bit, letter) in LETTERS {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        if self.0 == 0 { f.write_str("none") } else { Ok(()) }
    }
}

/// The options of a segment that begins with its TCP header; `None` when the data offset is below 5 or beyond it.
#[inline]
#[must_use]
pub fn options_of(segment: &[u8]) -> Option<&[u8]> {
    let header: &Header = crate::view(segment, 0)?;
    segment.get(HEADER_LEN..header.header_len())
}

/// Like [`options_of`], writable.
#[inline]
#[must_use]
pub fn options_of_mut(segment: &mut [u8]) -> Option<&mut [u8]> {
    let header: &Header = crate::view(segment, 0)?;
    let end = header.header_len();
    segment.get_mut(HEADER_LEN..end)
}
