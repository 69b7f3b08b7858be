//! An IPv6 header in place of an IPv4 header, and the other way round (RFC 7915), for FULLNAT between families.
//!
//! The new addresses are the connection's; nothing of them is mapped. IPv4 options and IPv6 extension headers have no
//! counterpart and go (RFC 7915 §4.1, §5.1).

use wire::checksum::{self, Delta};
use wire::{Family, PacketBuf, U16, U32, ethernet, ipv4, ipv6, udp, view, view_mut};
use zerocopy::IntoBytes;

use super::{rewrite_l4, word};
use crate::addr::Tuple;
use crate::parse::Segment;

/// IPv4 packets up to this length may be fragmented on their way: an IPv6 sender cannot be made to send shorter ones
/// than 1280 bytes, which is 20 bytes more (RFC 7915 §5.1).
const MAY_FRAGMENT_MAX: usize = ipv6::MTU_MIN - 20;

/// Bytes that a packet grows by when it leaves in this family.
#[inline(always)]
pub(crate) fn growth(segment: &Segment, leaves_wide: bool) -> isize {
    if segment.wide == leaves_wide {
        return 0;
    }
    let new = if leaves_wide { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
    new as isize - (isize::from(segment.l4 as i16) - ethernet::HEADER_LEN as isize)
}

/// Replaces the IP header; `tuple` is what leaves, `l4_delta` what changes in the transport checksum, `id` the
/// identification of an IPv4 packet that may be fragmented. `None`, and the packet is spoilt, when the buffer has no
/// room in front.
pub(crate) fn translate<P: PacketBuf>(
    packet: &mut P,
    segment: &Segment,
    tuple: &Tuple,
    l4_delta: Delta,
    id: u16,
) -> Option<()> {
    let payload_len = usize::from(segment.end - segment.l4);
    let old = packet.data().get(..segment.l4.into())?;
    let (family, header) = if segment.wide {
        let ip = *view::<ipv6::Header>(old, ethernet::HEADER_LEN)?;
        (Family::V4, HeaderBytes::V4(v4_header(&ip, tuple, payload_len, id)))
    } else {
        let ip = *view::<ipv4::Header>(old, ethernet::HEADER_LEN)?;
        (Family::V6, HeaderBytes::V6(v6_header(&ip, tuple, payload_len)))
    };
    let grow = growth(segment, !segment.wide);
    let there =
        if grow >= 0 { packet.push_front(grow as usize) } else { packet.pull_front(grow.unsigned_abs()) };
    if !there {
        return None;
    }
    let data = packet.data_mut();
    let eth = view_mut::<ethernet::Header>(data, 0)?;
    eth.ether_type = family.ether_type();
    let header = header.as_bytes();
    let l4 = ethernet::HEADER_LEN + header.len();
    data.get_mut(ethernet::HEADER_LEN..l4)?.copy_from_slice(header);
    let l4 = data.get_mut(l4..)?;
    rewrite_l4(l4, tuple, l4_delta);
    if family == Family::V6 {
        fill_udp_checksum(l4, tuple);
    }
    Some(())
}

enum HeaderBytes {
    V4(ipv4::Header),
    V6(ipv6::Header),
}

impl HeaderBytes {
    fn as_bytes(&self) -> &[u8] {
        match self {
            HeaderBytes::V4(header) => header.as_bytes(),
            HeaderBytes::V6(header) => header.as_bytes(),
        }
    }
}

fn v4_header(old: &ipv6::Header, tuple: &Tuple, payload_len: usize, id: u16) -> ipv4::Header {
    let total_len = ipv4::HEADER_LEN + payload_len;
    let may_fragment = total_len <= MAY_FRAGMENT_MAX;
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        dscp_ecn: old.traffic_class(),
        total_len: U16::new(total_len as u16),
        id: U16::new(if may_fragment { id } else { 0 }),
        flags_fragment: U16::new(if may_fragment { 0 } else { ipv4::FLAG_DONT_FRAGMENT }),
        ttl: old.hop_limit.wrapping_sub(1),
        protocol: tuple.protocol,
        checksum: U16::ZERO,
        src: word(tuple.src.addr),
        dst: word(tuple.dst.addr),
    };
    header.checksum = checksum::internet(header.as_bytes());
    header
}

fn v6_header(old: &ipv4::Header, tuple: &Tuple, payload_len: usize) -> ipv6::Header {
    ipv6::Header {
        version_class_flow: U32::new(6 << 28 | u32::from(old.dscp_ecn) << 20),
        payload_len: U16::new(payload_len as u16),
        next_header: tuple.protocol,
        hop_limit: old.ttl.wrapping_sub(1),
        src: tuple.src.addr.octets(),
        dst: tuple.dst.addr.octets(),
    }
}

/// IPv6 wants a checksum where IPv4 may go without (RFC 8200 §8.1).
fn fill_udp_checksum(datagram: &mut [u8], tuple: &Tuple) {
    let missing = tuple.protocol == ipv4::PROTO_UDP
        && view::<udp::Header>(datagram, 0).is_some_and(|udp| udp.checksum == U16::ZERO);
    if missing {
        let sum = checksum::udp_v6(&tuple.src.addr.octets(), &tuple.dst.addr.octets(), datagram);
        if let Some(udp) = view_mut::<udp::Header>(datagram, 0) {
            udp.checksum = sum;
        }
    }
}
