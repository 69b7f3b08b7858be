//! The short way from one family to the other: what [`super::family`] does, for packets without options, extensions or
//! fragments. Both families' headers end where the transport header begins, and the new ones are put together in words.
//!
//! ```text
//! |     room     | Ethernet |    IPv4   | TCP or UDP …
//! | Ethernet |          IPv6            | TCP or UDP …
//! ```

use wire::checksum::Sum;
use wire::{U16, U64, ethernet, ipv4, ipv6, nat64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::tunnel::{Front4, Front6};
use crate::conn::{Conn, Direction, Wide};
use crate::plain::{Ip, Ipv4, Link};

/// How much longer the headers are with IPv6.
pub(crate) const GROWTH: usize = ipv6::HEADER_LEN - ipv4::HEADER_LEN;

/// What stands in front of the transport header with IPv6, and as much of the buffer with IPv4.
pub(crate) type Front = [u8; size_of::<Front6>()];

/// A frame from there on.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Headers<T> {
    pub front: Front,
    pub l4: T,
}

/// An IP header that becomes one of the other family.
pub(crate) trait Across {
    /// Bytes of room in front of the frame that this takes; [`GROWTH`] without them is what becomes free.
    const ROOM: usize;

    /// Replaces the headers by those that a packet which came in in `direction` leaves with, one hop less. `None`, and no
    /// change, where the connection has no such addresses.
    fn cross(
        front: &mut Front,
        conn: &Conn,
        wide: &[Wide],
        direction: Direction,
        macs: [u8; 12],
        id: u16,
    ) -> Option<()>;
}

impl Across for Ipv4 {
    const ROOM: usize = GROWTH;

    #[inline(always)]
    fn cross(
        front: &mut Front,
        conn: &Conn,
        wide: &[Wide],
        direction: Direction,
        macs: [u8; 12],
        _: u16,
    ) -> Option<()> {
        let old: &Ipv4 = zerocopy::transmute_ref!(front.last_chunk::<{ ipv4::HEADER_LEN }>()?);
        let start = old.start();
        let out = direction.other() as usize;
        let [dst, src] = wide.get(conn.addrs[out] as usize)?[out].map(u128::to_ne_bytes);
        let payload_len = (Ipv4::len_in(start) - ipv4::HEADER_LEN) as u64;
        let end = payload_len << 16 | u64::from(conn.protocol) << 8 | u64::from(old.ttl.wrapping_sub(1));
        let class = u64::from(Ipv4::class_in(start));
        let link = Link { macs, ether_type: ethernet::ETHERTYPE_IPV6 };
        *front = transmute!(Front6 { link, start: U64::new(6 << 60 | class << 52 | end), src, dst });
        Some(())
    }
}

impl Across for ipv6::Header {
    const ROOM: usize = 0;

    #[inline(always)]
    fn cross(
        front: &mut Front,
        conn: &Conn,
        _: &[Wide],
        direction: Direction,
        macs: [u8; 12],
        id: u16,
    ) -> Option<()> {
        let old: &ipv6::Header = zerocopy::transmute_ref!(front.last_chunk::<{ ipv6::HEADER_LEN }>()?);
        let start = old.start();
        let len = ipv6::Header::len_in(start) - GROWTH;
        let flags = if len > nat64::FRAGMENTABLE_LEN_MAX { u64::from(ipv4::FLAG_DONT_FRAGMENT) } else { 0 };
        let class = u64::from(ipv6::Header::class_in(start));
        let start = U64::new(0x45 << 56 | class << 48 | (len as u64) << 32 | u64::from(id) << 16 | flags);
        let ttl_protocol = U16::from_bytes([old.hops().wrapping_sub(1), conn.protocol]);
        let addrs = conn.addrs[direction.other() as usize].rotate_left(32).to_ne_bytes();
        let sum = Sum::ZERO.quad_word(start).quad_word(U64::from_bytes(addrs)).word(ttl_protocol);
        let link = Link { macs, ether_type: ethernet::ETHERTYPE_IPV4 };
        let new = Front4 { link, start, ttl_protocol, checksum: sum.checksum(), addrs };
        *front.last_chunk_mut::<{ size_of::<Front4>() }>()? = transmute!(new);
        Some(())
    }
}
