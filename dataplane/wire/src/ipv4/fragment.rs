//! Cutting a packet into fragments (RFC 791 §2.3 and §3.2), for a link that it does not fit.
//!
//! ```text
//! | header, options | payload ........................... |     a packet, or a fragment itself
//! | header, options | ....... |  | header, some options | ....... |  | header, some options | ... |
//! ```
//!
//! Nothing is copied here: [`Fragments`] tells, piece by piece, the header and which bytes of the packet
//! follow it.

use core::ops::Range;

use super::{FLAG_DONT_FRAGMENT, FLAG_MORE_FRAGMENTS, HEADER_LEN, HEADER_LEN_MAX, Header, HeaderError};
use crate::checksum::Delta;
use crate::{IntoBytes, U16};

/// Where the checksum stands in the header.
const CHECKSUM: Range<usize> = 10..12;

/// Why a packet cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotFragment {
    /// Its sender forbids it; he is to be told what fits.
    #[error("IPv4 packet must not be fragmented")]
    DontFragment,
    /// Its header cannot be followed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The packet is a fragment that would end behind the longest packet.
    #[error("IPv4 fragment ends at byte {0}, behind the 65,535 of the longest packet")]
    BeyondLongest(usize),
    /// Not even 8 bytes of payload fit behind a header.
    #[error("MTU {mtu} leaves no room for a fragment behind a header of {header} bytes")]
    MtuTooSmall {
        /// The MTU.
        mtu: usize,
        /// Length of the header with its options.
        header: usize,
    },
}

/// One fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    header: [u8; HEADER_LEN_MAX],
    header_len: usize,
    /// Which bytes of the packet, counted from its IPv4 header, follow this fragment's header.
    pub payload: Range<usize>,
}

impl Fragment {
    /// The header with its options and checksum.
    #[inline]
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }

    /// Length of header and payload.
    #[inline]
    #[must_use]
    pub fn packet_len(&self) -> usize {
        self.header_len + self.payload.len()
    }

    /// Writes the whole fragment of `packet` to the front of `out`; the result is its length, or `None`, and
    /// no change, when `out` is shorter.
    #[must_use]
    pub fn write(&self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let payload = packet.get(self.payload.clone())?;
        let (front, back) = out.get_mut(..self.packet_len())?.split_at_mut(self.header_len);
        front.copy_from_slice(self.header());
        back.copy_from_slice(payload);
        Some(self.packet_len())
    }
}

/// Walks over the fragments of a packet, first to last; see [`Fragments::new`].
#[derive(Clone, Debug)]
pub struct Fragments {
    /// Header of the next fragment: at first the packet's own, then one without the options that are not
    /// copied.
    header: [u8; HEADER_LEN_MAX],
    header_len: usize,
    /// What the packet said of itself.
    old: Header,
    /// What a checksum loses with the packet's header. Those of the fragments are that of the packet with a
    /// change, so that a damaged header stays damaged.
    lost: Delta,
    /// Where the packet's payload begins, and ends.
    payload: Range<usize>,
    /// Where the next fragment's payload begins, while there is one.
    next: Option<usize>,
    mtu: usize,
}

impl Fragments {
    /// The fragments of `packet`, which begins with its IPv4 header, for a link with this MTU: all as long as
    /// fits. A packet that fits has one fragment, itself. Identification, TTL and all else stay; a fragment
    /// may be cut again.
    ///
    /// # Errors
    /// The packet does not fit and may not be cut, is not whole, or the MTU is below what IPv4 asks of a link
    /// (68).
    pub fn new(packet: &[u8], mtu: usize) -> Result<Self, CannotFragment> {
        let available = packet.len();
        let truncated = HeaderError::Truncated { total: HEADER_LEN, available };
        let old: Header = *crate::view(packet, 0).ok_or(truncated)?;
        let header_len = old.check(available)?;
        let total_len = usize::from(old.total_len.get());
        let fits = total_len <= mtu;
        if !fits && old.dont_fragment() {
            return Err(CannotFragment::DontFragment);
        }
        let end = usize::from(old.fragment_offset()) + total_len - header_len;
        if end > usize::from(u16::MAX) {
            return Err(CannotFragment::BeyondLongest(end));
        }
        if !fits && mtu < header_len + 8 {
            return Err(CannotFragment::MtuTooSmall { mtu, header: header_len });
        }
        let mut header = [0; HEADER_LEN_MAX];
        header[..header_len].copy_from_slice(&packet[..header_len]);
        header[CHECKSUM].fill(0);
        let lost = Delta::ZERO.sub_bytes(&header[..header_len]);
        let (payload, next) = (header_len..total_len, Some(header_len));
        Ok(Self { header, header_len, old, lost, payload, next, mtu })
    }

    /// Keeps only the options that every fragment has.
    fn drop_first_options(&mut self) {
        let mut kept = [0; HEADER_LEN_MAX];
        kept[..HEADER_LEN].copy_from_slice(&self.header[..HEADER_LEN]);
        let mut kept_len = HEADER_LEN;
        let mut rest = &self.header[HEADER_LEN..self.header_len];
        while let Some(option) = next_option(rest) {
            // RFC 791 §3.1: the copied flag.
            if option[0] & 0x80 != 0 {
                kept[kept_len..kept_len + option.len()].copy_from_slice(option);
                kept_len += option.len();
            }
            rest = &rest[option.len()..];
        }
        // What fills up to a whole word is zero, END.
        (self.header, self.header_len) = (kept, kept_len.next_multiple_of(4));
    }
}

/// The first option, NOPs as options of one byte; `None` at END and at the first one whose length makes no
/// sense.
fn next_option(options: &[u8]) -> Option<&[u8]> {
    match *options {
        [] | [0, ..] => None,
        [1, ..] => options.get(..1),
        [_, len, ..] if len >= 2 => options.get(..usize::from(len)),
        _ => None,
    }
}

impl Iterator for Fragments {
    type Item = Fragment;

    fn next(&mut self) -> Option<Fragment> {
        let start = self.next?;
        let left = self.payload.end - start;
        let room = self.mtu.saturating_sub(self.header_len);
        let payload = start..start + if left <= room { left } else { room / 8 * 8 };
        self.next = (payload.end < self.payload.end).then_some(payload.end);
        let more = self.next.is_some() || self.old.more_fragments();
        let offset = (usize::from(self.old.fragment_offset()) + start - self.payload.start) / 8;
        let flags =
            self.old.flags_fragment.get() & FLAG_DONT_FRAGMENT | if more { FLAG_MORE_FRAGMENTS } else { 0 };
        let header = Header {
            version_ihl: 0x40 | (self.header_len / 4) as u8,
            total_len: U16::new((self.header_len + payload.len()) as u16),
            // The packet's end was checked to be within the longest packet.
            flags_fragment: U16::new(flags | offset as u16),
            checksum: U16::ZERO,
            ..self.old
        };
        self.header[..HEADER_LEN].copy_from_slice(header.as_bytes());
        let check = self.lost.add_bytes(&self.header[..self.header_len]).apply(self.old.checksum);
        let mut fragment = Fragment { header: self.header, header_len: self.header_len, payload };
        fragment.header[CHECKSUM].copy_from_slice(&check.to_bytes());
        if start == self.payload.start {
            self.drop_first_options();
        }
        Some(fragment)
    }
}

#[cfg(test)]
mod tests;
