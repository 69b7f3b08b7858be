//! ICMP errors that the gateway itself sends (RFC 792, RFC 1812 §4.3, RFC 4443), built in the buffer of their cause.

use wire::{PacketBuf, U16, U32, checksum, ethernet, icmp, icmpv6, ipv4, ipv6, view};
use zerocopy::{FromBytes, IntoBytes};

use crate::parse::Segment;

/// TTL of packets that the gateway sends itself (RFC 1700).
const TTL: u8 = 64;

/// Which error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// No real server takes the connection (IPVS answers so too).
    PortUnreachable,
    /// Does not fit the next link, and must not be fragmented.
    TooBig { mtu: u16 },
    /// TTL or hop limit used up.
    TimeExceeded,
}

impl Error {
    fn header(self, wide: bool) -> icmp::Header {
        let (kind, code, rest) = if wide { self.v6() } else { self.v4() };
        icmp::Header { kind, code, checksum: U16::ZERO, rest }
    }

    fn v4(self) -> (u8, u8, U32) {
        match self {
            Error::PortUnreachable => (icmp::TYPE_UNREACHABLE, icmp::CODE_PORT_UNREACHABLE, U32::ZERO),
            Error::TooBig { mtu } => {
                (icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, icmp::rest_of_mtu(mtu))
            }
            Error::TimeExceeded => (icmp::TYPE_TIME_EXCEEDED, icmp::CODE_TTL_EXCEEDED, U32::ZERO),
        }
    }

    fn v6(self) -> (u8, u8, U32) {
        match self {
            Error::PortUnreachable => (icmpv6::TYPE_UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE, U32::ZERO),
            // No link of IPv6 takes less (RFC 8200 §5), and nobody would believe it (RFC 8201 §4).
            Error::TooBig { mtu } => (icmpv6::TYPE_PACKET_TOO_BIG, 0, U32::new(u32::from(mtu).max(1280))),
            Error::TimeExceeded => (icmpv6::TYPE_TIME_EXCEEDED, 0, U32::ZERO),
        }
    }
}

/// Whether an error about this frame's packet may be sent at all.
pub(crate) fn may_answer(data: &[u8], wide: bool) -> bool {
    let packet = data.get(ethernet::HEADER_LEN..).unwrap_or_default();
    if wide { icmpv6::may_answer_v6(icmpv6::TYPE_UNREACHABLE, packet) } else { icmp::may_answer_v4(packet) }
}

/// Turns the packet into the error about it, addressed to its sender, from the address it was sent to. `false`,
/// and the packet is spoilt, when the buffer has no room.
pub(crate) fn answer<P: PacketBuf>(packet: &mut P, segment: &Segment, error: Error) -> bool {
    let (new, quote_max) = if segment.wide {
        (ipv6::HEADER_LEN + icmp::HEADER_LEN, icmpv6::QUOTE_LEN_MAX)
    } else {
        (ipv4::HEADER_LEN + icmp::HEADER_LEN, icmp::QUOTE_LEN_MAX)
    };
    let quote_len = segment.total_len().min(quote_max);
    let Ok((eth, _)) = ethernet::Header::read_from_prefix(packet.data()) else { return false };
    packet.truncate(ethernet::HEADER_LEN + quote_len);
    if !packet.push_front(new) {
        return false;
    }
    let data = packet.data_mut();
    let Ok((new_eth, rest)) = ethernet::Header::mut_from_prefix(data) else { return false };
    *new_eth = ethernet::Header { dst: eth.src, src: eth.dst, ether_type: eth.ether_type };
    if segment.wide { fill_v6(rest, error) } else { fill_v4(rest, error) }.is_some()
}

/// `packet`: room for the new headers, then the quote.
fn fill_v4(packet: &mut [u8], error: Error) -> Option<()> {
    let total_len = U16::new(packet.len() as u16);
    let (ip, message) = ipv4::Header::mut_from_prefix(packet).ok()?;
    let cause = *view::<ipv4::Header>(message, icmp::HEADER_LEN)?;
    *ip = ipv4::Header {
        version_ihl: 0x45,
        dscp_ecn: 0,
        total_len,
        id: U16::new(0),
        flags_fragment: U16::new(0),
        ttl: TTL,
        protocol: ipv4::PROTO_ICMP,
        checksum: U16::new(0),
        src: cause.dst,
        dst: cause.src,
    };
    ip.checksum = checksum::internet(ip.as_bytes());
    wire::view_mut::<icmp::Header>(message, 0).map(|header| *header = error.header(false))?;
    let sum = checksum::icmp(message);
    wire::view_mut::<icmp::Header>(message, 0).map(|header| header.checksum = sum)
}

fn fill_v6(packet: &mut [u8], error: Error) -> Option<()> {
    let (ip, message) = ipv6::Header::mut_from_prefix(packet).ok()?;
    let cause = *view::<ipv6::Header>(message, icmp::HEADER_LEN)?;
    *ip = ipv6::Header {
        version_class_flow: U32::new(6 << 28),
        payload_len: U16::new(message.len() as u16),
        next_header: ipv6::NEXT_ICMPV6,
        hop_limit: TTL,
        src: cause.dst,
        dst: cause.src,
    };
    wire::view_mut::<icmp::Header>(message, 0).map(|header| *header = error.header(true))?;
    let sum = checksum::icmp_v6(&cause.dst, &cause.src, message);
    wire::view_mut::<icmp::Header>(message, 0).map(|header| header.checksum = sum)
}
