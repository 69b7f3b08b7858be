//! The outer headers of mode TUN.

use wire::checksum::{Sum, checksum_of};
use wire::tunnel::{Inner, Kind, OuterV4, OuterV6, outer_dscp_ecn};
use wire::{Family, PacketBuf, U16, U32, ethernet, ipv4, ipv6};
use zerocopy::FromBytes;

use super::word;
use crate::addr::Addr;
use crate::hash::{Key, pair64};
use crate::plain::{Frame, Ip, Ipv4};
use crate::snapshot::{Tunnel, TunnelKind};

/// A [`Tunnel`], ready to be used for packet after packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrapper {
    /// What it was made of.
    pub tunnel: Tunnel,
    source: Addr,
    real: Addr,
    kind: Kind,
    family: Family,
    /// `None`: other headers.
    bare: Option<Bare>,
}

/// What IPv4 headers around all packets to a real server have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare {
    /// Source and real server.
    addrs: [u8; 8],
    /// The checksum's share of them, folded.
    sum: u16,
}

impl Bare {
    fn new(source: Addr, real: Addr) -> Option<Bare> {
        let addrs = source.v4().zip(real.v4()).map(|(source, real)| pair64(source, real).to_ne_bytes())?;
        Some(Bare { addrs, sum: Sum::ZERO.bytes(&addrs).to_folded() })
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
        let bare = Bare::new(source, real).filter(|_| kind == Kind::Ip);
        Wrapper { tunnel, source, real, kind, family, bare }
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
    pub(crate) fn bare(&self) -> Option<&Bare> {
        self.bare.as_ref()
    }

    /// [`Wrapper::wrap`] for IP in IP over IPv6: around a plain header, whole at the front of the packet, which is of so many
    /// bytes, with `macs` to leave with. `false`, with nothing changed, for every other tunnel and where there is no room.
    #[inline(always)]
    pub(crate) fn wrap_bare6<P: PacketBuf, I: Ip>(
        &self,
        packet: &mut P,
        inner: (&I, usize),
        macs: &[u8; 12],
        flow: Key,
    ) -> bool {
        self.kind == Kind::Ip
            && self.family == Family::V6
            && wrap_over_v6(packet, inner, macs, [self.source, self.real], flow_hash(flow))
    }
}

impl Bare {
    /// As [`Wrapper::wrap_bare6`], over IPv4.
    #[inline(always)]
    pub(crate) fn wrap<P: PacketBuf, I: Ip>(
        &self,
        packet: &mut P,
        (inner, len): (&I, usize),
        macs: &[u8; 12],
        id: u16,
    ) -> bool {
        if !packet.push_front(ipv4::HEADER_LEN) {
            return false;
        }
        let Ok((front, _)) = Frame::<Ipv4, [u8; 0]>::mut_from_prefix(packet.data_mut()) else { return false };
        let ip = Ipv4 {
            version_ihl: 0x45,
            dscp_ecn: outer_dscp_ecn(inner.dscp_ecn()),
            total_len: U16::new((len + ipv4::HEADER_LEN) as u16),
            id: U16::new(id),
            flags_fragment: U16::new(if inner.dont_fragment() { ipv4::FLAG_DONT_FRAGMENT } else { 0 }),
            ttl: inner.hops(),
            protocol: if I::WIDE { ipv4::PROTO_IPV6 } else { ipv4::PROTO_IPIP },
            checksum: U16::ZERO,
            addrs: self.addrs,
        };
        let [first, fifth] = [[ip.version_ihl, ip.dscp_ecn], [ip.ttl, ip.protocol]].map(U16::from_bytes);
        let checksum = checksum_of(self.sum, [first, ip.total_len, ip.id, ip.flags_fragment, fifth]);
        *front =
            Frame { macs: *macs, ether_type: ethernet::ETHERTYPE_IPV4, ip: Ipv4 { checksum, ..ip }, l4: [] };
        true
    }
}

/// An IPv6 header around the packet behind `inner`, which is of so many bytes.
#[inline(always)]
fn wrap_over_v6<P: PacketBuf, I: Ip>(
    packet: &mut P,
    (inner, len): (&I, usize),
    macs: &[u8; 12],
    [source, real]: [Addr; 2],
    flow_hash: u32,
) -> bool {
    let Ok(payload_len) = u16::try_from(len) else { return false };
    if !packet.push_front(ipv6::HEADER_LEN) {
        return false;
    }
    let Ok((front, _)) = Frame::<_, [u8; 0]>::mut_from_prefix(packet.data_mut()) else { return false };
    let class = u32::from(outer_dscp_ecn(inner.dscp_ecn()));
    *front = Frame {
        macs: *macs,
        ether_type: ethernet::ETHERTYPE_IPV6,
        ip: ipv6::Header {
            version_class_flow: U32::new(6 << 28 | class << 20 | flow_hash & 0x000f_ffff),
            payload_len: U16::new(payload_len),
            next_header: if I::WIDE { ipv4::PROTO_IPV6 } else { ipv4::PROTO_IPIP },
            hop_limit: inner.hops(),
            src: source.octets(),
            dst: real.octets(),
        },
        l4: [],
    };
    true
}

/// The same for all packets of a flow. What routers between need is spread, not secrecy.
#[inline(always)]
fn flow_hash(flow: Key) -> u32 {
    let bits = flow.addrs ^ u64::from(flow.ports) << 16 ^ u64::from(flow.protocol);
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
