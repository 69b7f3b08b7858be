//! Header views: Ethernet, ARP, IPv4, IPv6, TCP and its options, UDP, ICMP, ICMPv6, TOA, tunnels, checksums.
//!
//! A header is a `#[repr(C)]` structure of big-endian fields that is laid over the packet's bytes; nothing is copied
//! and nothing is parsed ahead of need. [`view`] and [`view_mut`] do the laying, and they answer `None` where the
//! packet is too short.
//!
//! Contract: a view that exists may be read and written without any further check; no accessor panics, whatever the
//! bytes are. That says nothing about sense: lengths inside a header are the sender's claims, and the `check` method
//! of a header compares them with the bytes that there are. Do that once per packet, before following them.
//!
//! Numbers in network order have the types [`U16`] and [`U32`], so mixing host and network order does not compile.
//! This crate knows no sockets, no files and no time. Only [`build`] and [`HeapBuf`], which are for tests, allocate.
#![forbid(unsafe_code)]

mod addresses;
pub mod arp;
pub mod buf;
pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod nat64;
pub mod proxy;
pub mod quote;
pub mod tcp;
pub mod toa;
pub mod tunnel;
pub mod udp;
pub mod uoa;

pub use addresses::{Addresses, Family};
pub use buf::{HeapBuf, PacketBuf};
pub use mac::{MacAddr, ParseMacError};
pub use zerocopy::big_endian::{U16, U32, U64};
pub use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Lays a header over `bytes` at `offset`; `None` when the bytes end before the header does.
#[inline(always)]
#[must_use]
pub fn view<T>(bytes: &[u8], offset: usize) -> Option<&T>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(bytes.get(offset..)?).ok().map(|(header, _)| header)
}

/// Like [`view`], writable.
#[inline(always)]
#[must_use]
pub fn view_mut<T>(bytes: &mut [u8], offset: usize) -> Option<&mut T>
where
    T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
{
    T::mut_from_prefix(bytes.get_mut(offset..)?).ok().map(|(header, _)| header)
}

#[cfg(test)]
mod tests;
