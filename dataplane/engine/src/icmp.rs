//! ICMP errors that the gateway itself sends (RFC 792, RFC 1812 §4.3), built in the buffer of their cause.

use wire::{PacketBuf, U16, U32, checksum, ethernet, icmp, ipv4};
use zerocopy::FromBytes;

use crate::parse::Segment;

/// TTL of packets that the gateway sends itself (RFC 1700).
const TTL: u8 = 64;

/// Which error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// No real server takes the connection (IPVS answers so too).
    PortUnreachable,
    /// Does not fit the next link, and must not be fragmented.
    FragmentationNeeded { mtu: u16 },
    /// TTL used up.
    TimeExceeded,
}

impl Error {
    fn header(self) -> icmp::Header {
        let (kind, code, rest) = match self {
            Error::PortUnreachable => (icmp::TYPE_UNREACHABLE, icmp::CODE_PORT_UNREACHABLE, U32::ZERO),
            Error::FragmentationNeeded { mtu } => {
                (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, icmp::rest_of_mtu(mtu))
            }
            Error::TimeExceeded => (icmp::TYPE_TIME_EXCEEDED, icmp::CODE_TTL_EXCEEDED, U32::ZERO),
        };
        icmp::Header { kind, code, checksum: U16::ZERO, rest }
    }
}

/// Turns the packet into the error about it, addressed to its sender, from the address it was sent to. `false`,
/// and the packet is spoilt, when the buffer has no room.
pub(crate) fn answer<P: PacketBuf>(packet: &mut P, segment: &Segment, error: Error) -> bool {
    const NEW: usize = size_of::<ipv4::Header>() + size_of::<icmp::Header>();
    let quote_len = (usize::from(segment.end) - ethernet::HEADER_LEN).min(icmp::QUOTE_LEN_MAX);
    let Ok((eth, _)) = ethernet::Header::read_from_prefix(packet.data()) else { return false };
    packet.truncate(ethernet::HEADER_LEN + quote_len);
    if !packet.push_front(NEW) {
        return false;
    }
    let data = packet.data_mut();
    let Ok((new_eth, rest)) = ethernet::Header::mut_from_prefix(data) else { return false };
    *new_eth = ethernet::Header { dst: eth.src, src: eth.dst, ether_type: eth.ether_type };
    let Ok((ip, icmp_packet)) = ipv4::Header::mut_from_prefix(rest) else { return false };
    *ip = ipv4::Header {
        version_ihl: 0x45,
        dscp_ecn: 0,
        total_len: U16::new((NEW + quote_len) as u16),
        id: U16::new(0),
        flags_fragment: U16::new(0),
        ttl: TTL,
        protocol: ipv4::PROTO_ICMP,
        checksum: U16::new(0),
        src: U32::from_bytes(segment.key.dst().addr.to_ne_bytes()),
        dst: U32::from_bytes(segment.key.src().addr.to_ne_bytes()),
    };
    ip.checksum = checksum::internet(zerocopy::IntoBytes::as_bytes(ip));
    let Ok((header, _)) = icmp::Header::mut_from_prefix(icmp_packet) else { return false };
    *header = error.header();
    let sum = checksum::icmp(icmp_packet);
    if let Ok((header, _)) = icmp::Header::mut_from_prefix(icmp_packet) {
        header.checksum = sum;
    }
    true
}
