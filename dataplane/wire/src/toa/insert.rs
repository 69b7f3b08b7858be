//! Putting an option, or bytes in front of the payload, into a segment, over IPv4 and IPv6.

use crate::checksum::Delta;
use crate::tcp::{self, options};
use crate::{Family, PacketBuf, U16, ipv4, ipv6};

/// What changes in the checksums of a segment that got an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// In the IPv4 header's; nothing over IPv6.
    pub ip: Delta,
    /// In the TCP checksum, the pseudo header's length included.
    pub tcp: Delta,
}

/// Why a segment got no option; it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInserted {
    /// The TCP header, or the IP packet, would be longer than it may be.
    #[error("TCP header or IP packet has no room for the option")]
    NoRoom,
    /// The packet buffer has not as many bytes in front.
    #[error("packet buffer has no headroom for the option")]
    NoHeadroom,
}

/// Puts `option` in front of the options of the TCP header at `l4_offset`, whose IP header begins at
/// `l3_offset`. Its length is a multiple of 4, and options that could be taken for it were stripped before.
///
/// The headers move forward into the headroom by the option's length, the payload stays where it is; where
/// the TCP header cannot grow, padding gives way ([`options::put_first`]) and nothing moves. Lengths are
/// corrected, checksums are the caller's, with what else he changes. Whether the packet still fits the MTU is
/// to be asked before.
///
/// # Errors
/// There is no room in the header, in the IP packet, or in the buffer.
#[inline]
pub fn insert<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    l4_offset: usize,
    option: &[u8],
) -> Result<Inserted, NotInserted> {
    let data = packet.data_mut();
    let header: &tcp::Header = crate::view(data, l4_offset).ok_or(NotInserted::NoRoom)?;
    let header_len = header.header_len() + option.len();
    if header_len > tcp::HEADER_LEN_MAX {
        let segment = data.get_mut(l4_offset..).unwrap_or_default();
        let options = tcp::options_of_mut(segment).ok_or(NotInserted::NoRoom)?;
        let tcp = options::put_first(options, option).ok_or(NotInserted::NoRoom)?;
        return Ok(Inserted { ip: Delta::ZERO, tcp });
    }
    let mut inserted = insert_at(packet, l3_offset, l4_offset, l4_offset + tcp::HEADER_LEN, option)?;
    if let Some(header) = crate::view_mut::<tcp::Header>(packet.data_mut(), l4_offset) {
        let old = U16::from_bytes([header.data_offset, header.flags]);
        header.set_header_len(header_len);
        inserted.tcp = inserted.tcp.replace16(old, U16::from_bytes([header.data_offset, header.flags]));
    }
    Ok(inserted)
}

/// Puts `bytes` in front of the payload of the segment at `l4_offset`, otherwise like [`insert`]. A payload that thereby
/// moves to an odd offset is summed up anew in both places; whatever was wrong in it stays wrong.
///
/// # Errors
/// There is no room in the IP packet, or in the buffer.
pub fn insert_before_payload<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    l4_offset: usize,
    bytes: &[u8],
) -> Result<Inserted, NotInserted> {
    let data = packet.data();
    let header: &tcp::Header = crate::view(data, l4_offset).ok_or(NotInserted::NoRoom)?;
    let payload_at = l4_offset + header.header_len();
    let payload = data.get(payload_at..).ok_or(NotInserted::NoRoom)?;
    let turned = if bytes.len().is_multiple_of(2) { Delta::ZERO } else { turned(payload) };
    let inserted = insert_at(packet, l3_offset, l4_offset, payload_at, bytes)?;
    Ok(Inserted { tcp: inserted.tcp + turned, ..inserted })
}

/// What moving by one byte changes in the sum of `bytes`: every word has its bytes the other way round (RFC 1071 §2 B).
fn turned(bytes: &[u8]) -> Delta {
    let sum = Delta::ZERO.add_bytes(bytes);
    sum.negated() + Delta::from_folded(sum.to_folded().swap_bytes())
}

/// Makes room for `bytes` at this even offset of the segment by moving what is in front of it forward.
#[inline]
fn insert_at<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    l4_offset: usize,
    at: usize,
    bytes: &[u8],
) -> Result<Inserted, NotInserted> {
    let ip = packet.data().get(l3_offset..l4_offset).unwrap_or_default();
    let (old_len, len_field) = length_field(ip).ok_or(NotInserted::NoRoom)?;
    let new_len = old_len.get().checked_add(bytes.len() as u16).ok_or(NotInserted::NoRoom)?;
    if !packet.push_front(bytes.len()) {
        return Err(NotInserted::NoHeadroom);
    }
    let data = packet.data_mut();
    data.copy_within(bytes.len()..bytes.len() + at, 0);
    if let Some(room) = data.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
    if let Some(field) = crate::view_mut::<U16>(data, l3_offset + len_field) {
        *field = U16::new(new_len);
    }
    let tcp = Delta::ZERO.add_bytes(bytes).add16(U16::new(bytes.len() as u16));
    let is_v4 = len_field == core::mem::offset_of!(ipv4::Header, total_len);
    let ip = if is_v4 { Delta::ZERO.replace16(old_len, U16::new(new_len)) } else { Delta::ZERO };
    Ok(Inserted { ip, tcp })
}

/// The length that an IP header tells, and where in it.
#[inline]
fn length_field(ip: &[u8]) -> Option<(U16, usize)> {
    match Family::of(ip)? {
        Family::V4 => {
            let header: &ipv4::Header = crate::view(ip, 0)?;
            Some((header.total_len, core::mem::offset_of!(ipv4::Header, total_len)))
        }
        Family::V6 => {
            let header: &ipv6::Header = crate::view(ip, 0)?;
            Some((header.payload_len, core::mem::offset_of!(ipv6::Header, payload_len)))
        }
    }
}
