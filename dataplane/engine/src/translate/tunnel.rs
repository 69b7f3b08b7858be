//! The outer headers of mode TUN.

use std::num::NonZeroU16;

use wire::checksum::Sum;
use wire::tunnel::{Inner, Kind, OuterV4, OuterV6, outer_dscp_ecn};
use wire::{Family, PacketBuf, U16, U64, ethernet, ipv4, ipv6};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::word;
use crate::addr::Addr;
use crate::conn::{Conn, Direction};
use crate::hash::{Key, pair64};
use crate::ids::RealId;
use crate::plain::{Ip, Link};
use crate::snapshot::{Snapshot, Tunnel, TunnelKind};

/// A [`Tunnel`], ready to be used for packet after packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrapper {
    /// What it was made of.
    pub tunnel: Tunnel,
    source: Addr,
    real: Addr,
    kind: Kind,
    family: Family,
}

/// What IPv4 headers around all packets to a real server have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare {
    /// Source and real server.
    addrs: u64,
    /// The checksum's share of them, folded.
    sum: NonZeroU16,
}

impl Bare {
    fn new(source: Addr, real: Addr) -> Option<Bare> {
        let addrs = source.v4().zip(real.v4()).map(|(source, real)| pair64(source, real))?;
        let sum = NonZeroU16::new(Sum::ZERO.bytes(&addrs.to_ne_bytes()).to_folded())?;
        Some(Bare { addrs, sum })
    }
}

impl Wrapper {
    /// Of packets to that real server.
    pub(crate) fn new(tunnel: Tunnel, real: Addr) -> Wrapper {
        // Source and real server are of one family.
        let family = if tunnel.source.is_ipv4() { Family::V4 } else { Family::V6 };
        let kind = match tunnel.kind {
            TunnelKind::Ipip => Kind::Ip,
            TunnelKind::Gre { checksum } => Kind::Gre { checksum },
            // Receivers drop UDP over IPv6 without a checksum unless they are told otherwise (RFC 8200 §8.1).
            TunnelKind::Gue { port, checksum } => {
                Kind::Gue { dst_port: U16::new(port), checksum: checksum || family == Family::V6 }
            }
        };
        let source = Addr::from(tunnel.source);
        Wrapper { tunnel, source, real, kind, family }
    }

    /// Bytes that packets grow by.
    #[inline(always)]
    pub(crate) fn overhead(&self) -> usize {
        self.kind.overhead(self.family)
    }

    /// Whether the outer header is IPv4.
    #[inline(always)]
    pub(crate) fn is_over_v4(&self) -> bool {
        self.family == Family::V4
    }

    /// Wraps a packet of the flow with this key; the Ethernet header is still to be addressed. `id` is
    /// the identification of an outer IPv4 header. `false`, and the packet is spoilt, when the buffer has no room in
    /// front or the packet becomes longer than IP allows.
    #[inline(always)]
    pub(crate) fn wrap<P: PacketBuf>(&self, packet: &mut P, flow: Key, id: u16) -> bool {
        let Some(mut inner) = packet.data().get(ethernet::HEADER_LEN..).and_then(Inner::read) else {
            return false;
        };
        // As IPVS does: routers in the tunnel may fragment, rather than tell the gateway what it cannot pass on.
        inner.dont_fragment &= inner.family == Family::V4;
        if !packet.push_front(self.overhead()) {
            return false;
        }
        let Some((eth, outer)) = packet.data_mut().split_at_mut_checked(ethernet::HEADER_LEN) else {
            return false;
        };
        let (kind, flow_hash) = (self.kind, flow_hash(flow));
        let written = match self.family {
            Family::V4 => {
                let (src, dst) = (word(self.source), word(self.real));
                OuterV4 { src, dst, kind, id: U16::new(id), flow_hash }.write(outer, &inner)
            }
            Family::V6 => {
                let (src, dst) = (self.source.octets(), self.real.octets());
                OuterV6 { src, dst, kind, flow_hash }.write(outer, &inner)
            }
        };
        if let Some(ether_type) = eth.get_mut(12..) {
            ether_type.copy_from_slice(&self.family.ether_type().to_bytes());
        }
        written.is_some()
    }

    /// What there is for IP in IP over IPv4, which is met most; `None` for every other tunnel.
    #[inline(always)]
    pub(crate) fn bare(&self) -> Option<Bare> {
        Bare::new(self.source, self.real).filter(|_| self.kind == Kind::Ip)
    }
}

/// What stands in front of a packet that leaves in IP in IP: Ethernet, and one of both IP headers.
pub(crate) trait Front: Sized + FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {
    /// Bytes of the IP header.
    const OVERHEAD: usize;

    /// What all packets to a real server have in common.
    type Template;

    /// That of the real server of this slot; `None` when its tunnel is another one.
    fn template(snapshot: &Snapshot, id: RealId) -> Option<&Self::Template>;

    /// That of a packet of this connection of so many bytes, whose header starts so and has these hops left, with `macs` to
    /// leave with. `id` gives the identification of an IPv4 header. With it the packet is no longer than IP allows.
    fn around<I: Ip>(
        template: &Self::Template,
        conn: &Conn,
        inner: (u64, u8, usize),
        macs: [u8; 12],
        id: impl FnOnce() -> u16,
    ) -> Self;
}

/// Ethernet and IPv4. The start of the IPv4 header, up to TTL and protocol, is one word, as is what it is made of.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Front4 {
    pub(super) link: Link,
    pub(super) start: U64,
    pub(super) ttl_protocol: U16,
    pub(super) checksum: U16,
    pub(super) addrs: [u8; 8],
}

const _: () = assert!(size_of::<Front4>() == ethernet::HEADER_LEN + ipv4::HEADER_LEN);

impl Front for Front4 {
    const OVERHEAD: usize = ipv4::HEADER_LEN;

    type Template = Bare;

    #[inline(always)]
    fn template(snapshot: &Snapshot, id: RealId) -> Option<&Bare> {
        snapshot.bare_tunnel(id)
    }

    #[inline(always)]
    fn around<I: Ip>(
        template: &Bare,
        _: &Conn,
        (start, ttl, _): (u64, u8, usize),
        macs: [u8; 12],
        id: impl FnOnce() -> u16,
    ) -> Front4 {
        let start = U64::new(I::start_of_v4_around(start) | u64::from(id()) << 16);
        let protocol = if I::WIDE { ipv4::PROTO_IPV6 } else { ipv4::PROTO_IPIP };
        let ttl_protocol = U16::from_bytes([ttl, protocol]);
        let checksum = Sum::from_folded(template.sum.get()).word(ttl_protocol).quad_word(start).checksum();
        let link = Link { macs, ether_type: ethernet::ETHERTYPE_IPV4 };
        Front4 { link, start, ttl_protocol, checksum, addrs: template.addrs.to_ne_bytes() }
    }
}

/// Ethernet and IPv6.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Front6 {
    pub(super) link: Link,
    pub(super) start: U64,
    pub(super) src: [u8; 16],
    pub(super) dst: [u8; 16],
}

const _: () = assert!(size_of::<Front6>() == ethernet::HEADER_LEN + ipv6::HEADER_LEN);

impl Front for Front6 {
    const OVERHEAD: usize = ipv6::HEADER_LEN;

    type Template = Wrapper;

    #[inline(always)]
    fn template(snapshot: &Snapshot, id: RealId) -> Option<&Wrapper> {
        snapshot.wrapper(id).filter(|wrapper| wrapper.kind == Kind::Ip && wrapper.family == Family::V6)
    }

    #[inline(always)]
    fn around<I: Ip>(
        template: &Wrapper,
        conn: &Conn,
        (start, hops, len): (u64, u8, usize),
        macs: [u8; 12],
        _: impl FnOnce() -> u16,
    ) -> Front6 {
        let class = u64::from(outer_dscp_ecn(I::class_in(start)));
        let flow = u64::from(flow_hash(flow_of::<I>(conn)) & 0x000f_ffff);
        let next_header = if I::WIDE { ipv4::PROTO_IPV6 } else { ipv4::PROTO_IPIP };
        let end = (len as u64) << 16 | u64::from(next_header) << 8 | u64::from(hops);
        Front6 {
            link: Link { macs, ether_type: ethernet::ETHERTYPE_IPV6 },
            start: U64::new(6 << 60 | class << 52 | flow << 32 | end),
            src: template.source.octets(),
            dst: template.real.octets(),
        }
    }
}

/// What a tunnel knows of a flow of this family: as the parser has it, without the addresses of an IPv6 packet.
#[inline(always)]
pub(crate) fn flow_of<I: Ip>(conn: &Conn) -> Key {
    let key = conn.key(Direction::Inbound);
    if I::WIDE { Key { addrs: 0, ..key } } else { key }
}

/// The same for all packets of a flow. What routers between need is spread, not secrecy.
#[inline(always)]
fn flow_hash(flow: Key) -> u32 {
    let bits = flow.addrs ^ u64::from(flow.ports) << 16 ^ u64::from(flow.protocol);
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::HeapBuf;
    use zerocopy::transmute;

    use super::*;
    use crate::plain::Ipv4;

    const MACS: [u8; 12] = [7; 12];
    const L4_LEN: usize = 20;

    /// A packet of a connection, as [`Wrapper::wrap`] and as a [`Front`] wrap it.
    fn both_ways<I: Ip, F: Front>(inner: I, [source, real]: [&str; 2], ports: u32, id: u16) -> [Vec<u8>; 2] {
        let conn = Conn { ports: [ports, 0], protocol: ipv4::PROTO_TCP, ..Conn::EMPTY };
        let tunnel = Tunnel { kind: TunnelKind::Ipip, source: source.parse().unwrap() };
        let real: std::net::IpAddr = real.parse().unwrap();
        let wrapper = Wrapper::new(tunnel, real.into());
        let packet = [inner.as_bytes(), &[9; L4_LEN]].concat();

        let ether_type = if I::WIDE { ethernet::ETHERTYPE_IPV6 } else { ethernet::ETHERTYPE_IPV4 };
        let link = Link { macs: MACS, ether_type };
        let mut buf = HeapBuf::from_frame(&[link.as_bytes(), &packet].concat());
        assert!(wrapper.wrap(&mut buf, flow_of::<I>(&conn), id));
        let mut wrapped = buf.to_vec();
        wrapped[..12].copy_from_slice(&MACS);

        let snapshot = Snapshot {
            bare_tunnels: [wrapper.bare()].into(),
            tunnels: [Some(wrapper)].into(),
            ..Snapshot::default()
        };
        let template = F::template(&snapshot, RealId(0)).unwrap();
        let what = (inner.start(), inner.hops(), packet.len());
        let front = F::around::<I>(template, &conn, what, MACS, || id);
        [wrapped, [front.as_bytes(), &packet].concat()]
    }

    const V4: [&str; 2] = ["10.2.0.199", "10.2.0.11"];
    const V6: [&str; 2] = ["2001:db8::199", "2001:db8::11"];

    proptest! {
        #[test]
        fn ip_in_ip_in_words_is_what_it_is_in_fields(
            class: u8, hops: u8, dont_fragment: bool, inner_id: u16, addrs: [u8; 32], ports: u32, id: u16,
        ) {
            let inner = Ipv4 {
                version_ihl: 0x45,
                dscp_ecn: class,
                total_len: U16::new((ipv4::HEADER_LEN + L4_LEN) as u16),
                id: U16::new(inner_id),
                flags_fragment: U16::new(if dont_fragment { ipv4::FLAG_DONT_FRAGMENT } else { 0 }),
                ttl: hops,
                protocol: ipv4::PROTO_TCP,
                checksum: U16::new(inner_id),
                addrs: *addrs.first_chunk().unwrap(),
            };
            let [src, dst]: [[u8; 16]; 2] = transmute!(addrs);
            let inner6 = ipv6::Header {
                version_class_flow: (6 << 28 | u32::from(class) << 20 | u32::from(inner_id)).into(),
                payload_len: U16::new(L4_LEN as u16),
                next_header: ipv4::PROTO_TCP,
                hop_limit: hops,
                src,
                dst,
            };
            for [fields, words] in [
                both_ways::<_, Front4>(inner, V4, ports, id),
                both_ways::<_, Front6>(inner, V6, ports, id),
                both_ways::<_, Front4>(inner6, V4, ports, id),
                both_ways::<_, Front6>(inner6, V6, ports, id),
            ] {
                prop_assert_eq!(fields, words);
            }
        }
    }
}
