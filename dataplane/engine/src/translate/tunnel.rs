//! The outer headers of mode TUN.

use wire::tunnel::{Inner, Kind, OuterV4, OuterV6};
use wire::{Family, PacketBuf, U16, ethernet};

use super::word;
use crate::addr::Addr;
use crate::parse::Segment;
use crate::snapshot::{Tunnel, TunnelKind};

/// How packets to `real` are wrapped.
fn kind(tunnel: &Tunnel, real: Addr) -> Kind {
    match tunnel.kind {
        TunnelKind::Ipip => Kind::Ip,
        TunnelKind::Gre { checksum } => Kind::Gre { checksum },
        // Receivers drop UDP over IPv6 without a checksum unless they are told otherwise (RFC 8200 §8.1).
        TunnelKind::Gue { port, checksum } => {
            Kind::Gue { dst_port: U16::new(port), checksum: checksum || !real.is_v4() }
        }
    }
}

fn family(addr: Addr) -> Family {
    if addr.is_v4() { Family::V4 } else { Family::V6 }
}

/// Bytes that packets to `real` grow by.
#[inline(always)]
pub(crate) fn overhead(tunnel: &Tunnel, real: Addr) -> usize {
    kind(tunnel, real).overhead(family(real))
}

/// Wraps the packet; its Ethernet header is still to be addressed. `id` is the identification of an outer IPv4 header.
/// `false`, and the packet is spoilt, when the buffer has no room in front or the packet becomes longer than IP allows.
#[inline(always)]
pub(crate) fn encapsulate<P: PacketBuf>(
    packet: &mut P,
    segment: &Segment,
    tunnel: &Tunnel,
    real: Addr,
    id: u16,
) -> bool {
    let Some(mut inner) = packet.data().get(ethernet::HEADER_LEN..).and_then(Inner::read) else {
        return false;
    };
    // As IPVS does: routers in the tunnel may fragment, rather than tell the gateway what it cannot pass on.
    inner.dont_fragment &= !segment.wide;
    if !packet.push_front(overhead(tunnel, real)) {
        return false;
    }
    let Some((eth, outer)) = packet.data_mut().split_at_mut_checked(ethernet::HEADER_LEN) else {
        return false;
    };
    let (kind, flow_hash) = (kind(tunnel, real), flow_hash(segment));
    let source = Addr::from(tunnel.source);
    let written = if real.is_v4() {
        let (src, dst) = (word(source), word(real));
        OuterV4 { src, dst, kind, id: U16::new(id), flow_hash }.write(outer, &inner)
    } else {
        OuterV6 { src: source.octets(), dst: real.octets(), kind, flow_hash }.write(outer, &inner)
    };
    if let Some(ether_type) = eth.get_mut(12..) {
        ether_type.copy_from_slice(&family(real).ether_type().to_bytes());
    }
    written.is_some()
}

/// The same for all packets of a flow. What routers between need is spread, not secrecy.
#[inline(always)]
fn flow_hash(segment: &Segment) -> u32 {
    let bits = segment.key.addrs ^ u64::from(segment.key.ports) << 16 ^ u64::from(segment.key.protocol);
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
