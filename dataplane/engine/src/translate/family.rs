//! An IPv6 header in place of an IPv4 header, and the other way round (RFC 7915), for FULLNAT between families.
//!
//! The new addresses are the connection's; nothing of them is mapped. IPv4 options and IPv6 extension headers have no
//! counterpart and go (RFC 7915 §4.1, §5.1).

use arrayvec::ArrayVec;
use wire::checksum::{self, Delta};
use wire::{Family, PacketBuf, U16, ethernet, ipv4, ipv6, nat64, udp, view, view_mut};
use zerocopy::IntoBytes;

use super::{rewrite_l4, word};
use crate::addr::Tuple;
use crate::parse::{Piece, Segment};
use crate::verdict::DropReason;

/// Bytes that a packet grows by when it leaves in this family.
#[inline(always)]
pub(crate) fn growth(segment: &Segment, leaves_wide: bool) -> isize {
    if segment.wide == leaves_wide {
        return 0;
    }
    let fragment_len = if segment.piece == Piece::Whole { 0 } else { ipv6::FRAGMENT_HEADER_LEN };
    let new = if leaves_wide { ipv6::HEADER_LEN + fragment_len } else { ipv4::HEADER_LEN };
    new as isize - (isize::from(segment.l4 as i16) - ethernet::HEADER_LEN as isize)
}

/// Replaces the IP header; `tuple` is what leaves, `l4_delta` what changes in the transport checksum, `id` the
/// identification of an IPv4 packet that may be fragmented. On error the packet is spoilt.
pub(crate) fn translate<P: PacketBuf>(
    packet: &mut P,
    segment: &Segment,
    tuple: &Tuple,
    l4_delta: Delta,
    id: u16,
) -> Result<(), DropReason> {
    if lacks_checksum(packet.data(), segment) {
        return Err(DropReason::FragmentNoChecksum);
    }
    replace_header(packet, segment, tuple, l4_delta, id).ok_or(DropReason::NoHeadroom)
}

fn replace_header<P: PacketBuf>(
    packet: &mut P,
    segment: &Segment,
    tuple: &Tuple,
    l4_delta: Delta,
    id: u16,
) -> Option<()> {
    let header = if segment.wide {
        v4_header(packet.data(), segment, tuple, id)?
    } else {
        v6_header(packet.data(), tuple)?
    };
    let grow = growth(segment, !segment.wide);
    let there =
        if grow >= 0 { packet.push_front(grow as usize) } else { packet.pull_front(grow.unsigned_abs()) };
    if !there {
        return None;
    }
    let data = packet.data_mut();
    let family = if segment.wide { Family::V4 } else { Family::V6 };
    view_mut::<ethernet::Header>(data, 0)?.ether_type = family.ether_type();
    let l4 = ethernet::HEADER_LEN + header.len();
    data.get_mut(ethernet::HEADER_LEN..l4)?.copy_from_slice(&header);
    let l4 = data.get_mut(l4..)?;
    if segment.piece == Piece::Later {
        return Some(());
    }
    rewrite_l4(l4, tuple, l4_delta);
    if family == Family::V6 {
        fill_udp_checksum(l4, tuple);
    }
    Some(())
}

/// Either header, with the fragment header that belongs to it.
type HeaderBytes = ArrayVec<u8, { ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN }>;

/// Whether this is a fragment of a UDP datagram that IPv6 wants a checksum for, which covers more than is here
/// (RFC 7915 §4.5).
fn lacks_checksum(data: &[u8], segment: &Segment) -> bool {
    let udp = view::<udp::Header>(data, segment.l4.into());
    let first_udp = segment.is_udp() && segment.piece == Piece::First;
    first_udp && !segment.wide && udp.is_some_and(|udp| udp.checksum == U16::ZERO)
}

fn v4_header(data: &[u8], segment: &Segment, tuple: &Tuple, id: u16) -> Option<HeaderBytes> {
    let packet = data.get(ethernet::HEADER_LEN..segment.end.into())?;
    let old = view::<ipv6::Header>(packet, 0)?;
    let upper = ipv6::walk_extensions(packet).ok()?;
    let addresses = (word(tuple.src.addr), word(tuple.dst.addr));
    let new = nat64::v6_to_v4(old, &upper, addresses, U16::new(id), old.hop_limit.wrapping_sub(1))?;
    new.as_bytes().try_into().ok()
}

fn v6_header(data: &[u8], tuple: &Tuple) -> Option<HeaderBytes> {
    let old = view::<ipv4::Header>(data, ethernet::HEADER_LEN)?;
    let addresses = (&tuple.src.addr.octets(), &tuple.dst.addr.octets());
    let new = nat64::v4_to_v6(old, addresses, old.ttl.wrapping_sub(1));
    let mut bytes = HeaderBytes::from([0; _]);
    let len = new.write(&mut bytes)?;
    bytes.truncate(len);
    Some(bytes)
}

/// IPv6 wants a checksum where IPv4 may go without (RFC 8200 §8.1).
fn fill_udp_checksum(datagram: &mut [u8], tuple: &Tuple) {
    let missing = tuple.protocol == ipv4::PROTO_UDP
        && view::<udp::Header>(datagram, 0).is_some_and(|udp| udp.checksum == U16::ZERO);
    if missing {
        let (src, dst) = (tuple.src.addr.octets(), tuple.dst.addr.octets());
        let sum = checksum::udp_v6(&src, &dst, udp::datagram(datagram));
        if let Some(udp) = view_mut::<udp::Header>(datagram, 0) {
            udp.checksum = sum;
        }
    }
}
