//! Frames made of other frames: with a VLAN tag, or cut into fragments.

use super::v6::{Extension, with_extensions};
use crate::{U16, checksum, ethernet, ipv4, ipv6};

/// Where the IP header of a frame begins: behind the Ethernet header and its tags.
#[must_use]
pub fn l3_offset(frame: &[u8]) -> usize {
    let mut offset = ethernet::HEADER_LEN;
    while let Some(ether_type) = crate::view::<U16>(frame, offset - 2)
        && [ethernet::ETHERTYPE_VLAN, ethernet::ETHERTYPE_QINQ].contains(ether_type)
    {
        offset += ethernet::VLAN_TAG_LEN;
    }
    offset
}

/// The same frame in this VLAN, priority 0. A frame that has tags gets another one in front of them.
#[must_use]
pub fn tagged(frame: &[u8], vlan_id: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(ethernet::HEADER_LEN - 2);
    [addresses, &ethernet::ETHERTYPE_VLAN.to_bytes(), &vlan_id.to_be_bytes(), rest].concat()
}

/// Where the pieces of a payload begin and end that has `room` bytes per piece.
fn cuts(len: usize, room: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = room / 8 * 8;
    assert!(step > 0, "no fragment fits this MTU");
    // What fits one piece is not cut, even where it is no multiple of 8.
    let step = if len <= room { len.max(1) } else { step };
    (0..len.max(1)).step_by(step).map(move |start| (start, (start + step).min(len)))
}

/// The frames that an IPv4 frame becomes on a link with this MTU (RFC 791 §3.2), whether or not it forbids
/// that; the fragments allow it. Options stay on every fragment. A frame that fits comes back as it is.
///
/// # Panics
/// When the frame has no whole IPv4 packet, or when not even 8 bytes of payload fit the MTU.
#[must_use]
#[expect(clippy::expect_used, reason = "frames of tests, made here")]
pub fn fragments_v4(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let l3 = l3_offset(frame);
    let header: ipv4::Header = *crate::view(frame, l3).expect("an IPv4 header");
    let header_len = header.check(frame.len() - l3).expect("a whole IPv4 packet");
    let (front, rest) = frame.split_at(l3 + header_len);
    let payload = &rest[..usize::from(header.total_len.get()) - header_len];
    if header_len + payload.len() <= mtu {
        return vec![frame.to_vec()];
    }
    let piece = |(start, end): (usize, usize)| {
        let mut piece = [front, &payload[start..end]].concat();
        let more = end < payload.len() || header.more_fragments();
        let offset = start as u16 / 8 + header.fragment_offset() / 8;
        let ip: &mut ipv4::Header = crate::view_mut(&mut piece, l3).expect("the same header");
        ip.total_len = U16::new((header_len + end - start) as u16);
        ip.flags_fragment = U16::new(offset | if more { ipv4::FLAG_MORE_FRAGMENTS } else { 0 });
        ip.checksum = U16::ZERO;
        let check = checksum::internet(&piece[l3..l3 + header_len]);
        piece[l3 + 10..l3 + 12].copy_from_slice(&check.to_bytes());
        piece
    };
    cuts(payload.len(), mtu.saturating_sub(header_len)).map(piece).collect()
}

/// The fragments with this identification that an IPv6 sender makes of a frame for a path with this MTU (RFC
/// 8200 §4.5); one atomic fragment (RFC 6946) where it fits. The frame's extension headers, if any, go into
/// the fragments.
///
/// # Panics
/// When the frame has no whole IPv6 packet, or when not even 8 bytes of payload fit the MTU.
#[must_use]
#[expect(clippy::expect_used, reason = "frames of tests, made here")]
pub fn fragments_v6(frame: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let l3 = l3_offset(frame);
    let header: &ipv6::Header = crate::view(frame, l3).expect("an IPv6 header");
    let len = header.check(frame.len() - l3).expect("a whole IPv6 packet");
    let (front, payload) = frame[..l3 + len].split_at(l3 + ipv6::HEADER_LEN);
    let piece = |(start, end): (usize, usize)| {
        let whole = [front, &payload[start..end]].concat();
        with_extensions(&whole, &[Extension::fragment(start, end < payload.len(), id)])
    };
    let room = mtu.saturating_sub(ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN);
    cuts(payload.len(), room).map(piece).collect()
}
