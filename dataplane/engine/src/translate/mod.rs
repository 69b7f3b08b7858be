//! Rewriting a packet: endpoints, TTL, checksums, families, tunnels, the TOA option, the MSS.
//!
//! Checksums are always updated incrementally (RFC 1624), so a packet that came in corrupt leaves corrupt and its
//! receiver sees it.
//!
//! - this file: the headers of a frame, and new endpoints within one family.
//! - [`family`]: an IPv6 header in place of an IPv4 header, and the other way round; [`across`]: the same for ordinary
//!   packets.
//! - [`client_address`]: the TOA option and what makes room for it.
//! - [`tunnel`]: the outer headers of mode TUN.

pub(crate) mod across;
pub(crate) mod client_address;
pub(crate) mod family;
pub(crate) mod tunnel;

use wire::checksum::Delta;
use wire::{U16, U32, ethernet, ipv4, ipv6, tcp, udp, view_mut};
use zerocopy::FromBytes;

use crate::addr::{Addr, Endpoint, Tuple};
use crate::conn::{Deltas, Keys};
use crate::fib::Adjacency;
use crate::hash::{AnyKey, Key, halves64};
use crate::snapshot::Real;

/// The IP header of a frame.
pub(crate) enum Ip<'a> {
    V4(&'a mut ipv4::Header),
    V6(&'a mut ipv6::Header),
}

/// Mutable views of a frame's headers behind the Ethernet header.
pub(crate) struct Headers<'a> {
    pub ip: Ip<'a>,
    /// From the TCP or UDP header to the end of the frame; empty where there is no such header.
    pub l4: &'a mut [u8],
}

/// `None` only if the frame is shorter than its parsed offsets, which cannot be.
#[inline(always)]
pub(crate) fn headers(data: &mut [u8], l4: usize, wide: bool) -> Option<Headers<'_>> {
    let (front, l4) = data.split_at_mut_checked(l4)?;
    let front = front.get_mut(ethernet::HEADER_LEN..)?;
    let ip = if wide {
        Ip::V6(ipv6::Header::mut_from_prefix(front).ok()?.0)
    } else {
        Ip::V4(ipv4::Header::mut_from_prefix(front).ok()?.0)
    };
    Some(Headers { ip, l4 })
}

impl Headers<'_> {
    /// Puts the packet between `tuple`'s endpoints and takes one hop off its TTL. The checksums change by the
    /// connection's `deltas`, and by `ip` and `l4` for what else was changed in what they cover.
    pub(crate) fn rewrite(&mut self, tuple: &Tuple, deltas: Deltas, ip: Delta, l4: Delta) {
        match &mut self.ip {
            Ip::V4(header) => {
                header.src = word(tuple.src.addr);
                header.dst = word(tuple.dst.addr);
                header.ttl = header.ttl.wrapping_sub(1);
                header.checksum = (ip + Delta::from_folded(deltas.addrs) + TTL_DELTA).apply(header.checksum);
            }
            Ip::V6(header) => {
                header.src = tuple.src.addr.octets();
                header.dst = tuple.dst.addr.octets();
                header.hop_limit = header.hop_limit.wrapping_sub(1);
            }
        }
        rewrite_l4(self.l4, tuple, l4 + Delta::from_folded(deltas.l4));
    }

    /// Takes one hop off the TTL and changes nothing else.
    pub(crate) fn take_hop(&mut self) {
        match &mut self.ip {
            Ip::V4(header) => {
                header.ttl = header.ttl.wrapping_sub(1);
                header.checksum = TTL_DELTA.apply(header.checksum);
            }
            Ip::V6(header) => header.hop_limit = header.hop_limit.wrapping_sub(1),
        }
    }
}

/// Fills in the Ethernet header; `false` when the next hop's MAC address is not known.
#[inline(always)]
pub(crate) fn address(data: &mut [u8], adjacency: &Adjacency) -> bool {
    let (Some(eth), Some(destination)) = (view_mut::<ethernet::Header>(data, 0), adjacency.destination)
    else {
        return false;
    };
    eth.src = adjacency.source;
    eth.dst = destination;
    true
}

/// The word of an IPv4 address.
#[inline(always)]
pub(crate) fn word(addr: Addr) -> U32 {
    U32::from_bytes(addr.v4().unwrap_or(0).to_ne_bytes())
}

fn port(endpoint: Endpoint) -> U16 {
    U16::from_bytes(endpoint.port.to_ne_bytes())
}

/// Writes ports and changes the checksum of a TCP or UDP header. A UDP checksum of 0 stays.
pub(crate) fn rewrite_l4(l4: &mut [u8], tuple: &Tuple, delta: Delta) {
    if tuple.protocol == ipv4::PROTO_TCP {
        let Some(tcp) = view_mut::<tcp::Header>(l4, 0) else { return };
        (tcp.src_port, tcp.dst_port) = (port(tuple.src), port(tuple.dst));
        tcp.checksum = delta.apply(tcp.checksum);
    } else {
        let Some(udp) = view_mut::<udp::Header>(l4, 0) else { return };
        (udp.src_port, udp.dst_port) = (port(tuple.src), port(tuple.dst));
        udp.checksum = delta.apply_udp(udp.checksum);
    }
}

/// The TTL is the first byte of its word, so one less there is 0x0100 less, whatever it was.
pub(crate) const TTL_DELTA: Delta = Delta::ZERO.replace16(U16::from_bytes([1, 0]), U16::from_bytes([0, 0]));

/// What forwarding changes in the checksums of this connection's packets; of the IP header's only where the packet stays
/// IPv4. One-way modes change nothing.
pub(crate) fn deltas(keys: &Keys, real: &Real) -> Deltas {
    if real.mode.is_one_way() {
        return Deltas::naming(real.id);
    }
    if let [AnyKey::V4(inbound), AnyKey::V4(outbound)] = keys {
        return deltas4(inbound, outbound);
    }
    let (old, new) = (keys[0].tuple(), keys[1].tuple().reversed());
    let addrs = addrs_delta(&old, &new);
    let ports = Delta::ZERO.replace16(port(old.src), port(new.src)).replace16(port(old.dst), port(new.dst));
    Deltas { addrs: addrs.to_folded(), l4: (addrs + ports).to_folded() }
}

/// Of a connection that is IPv4 on both sides. In which order words stand makes no difference to their sum.
#[inline(always)]
fn deltas4(inbound: &Key, outbound: &Key) -> Deltas {
    let loaded = |word: u32| U32::from_bytes(word.to_ne_bytes());
    let (old, new) = (halves64(inbound.addrs), halves64(outbound.addrs));
    let addrs = Delta::ZERO.replace32(loaded(old.0), loaded(new.0)).replace32(loaded(old.1), loaded(new.1));
    let l4 = addrs.replace32(loaded(inbound.ports), loaded(outbound.ports));
    Deltas { addrs: addrs.to_folded(), l4: l4.to_folded() }
}

fn addrs_delta(old: &Tuple, new: &Tuple) -> Delta {
    let mut delta = Delta::ZERO;
    for (addr, add) in [(old.src, false), (old.dst, false), (new.src, true), (new.dst, true)] {
        let (octets, v4) = (addr.addr.octets(), addr.addr.is_v4());
        let bytes = if v4 { &octets[12..] } else { &octets[..] };
        delta = if add { delta.add_bytes(bytes) } else { delta.sub_bytes(bytes) };
    }
    delta
}
