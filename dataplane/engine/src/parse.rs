//! From a frame to what the packet path needs to know of it.

use wire::{MacAddr, U16, ethernet, ipv4, tcp};
use zerocopy::FromBytes;

use crate::hash::Key;
use crate::verdict::{DropReason, PuntClass};

/// A TCP segment over IPv4 that is addressed to us on the link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    pub key: Key,
    /// Offset of the TCP header in the frame.
    pub l4: u16,
    /// Offset of the first byte behind the IP packet in the frame.
    pub end: u16,
    /// TCP flags.
    pub flags: u8,
}

/// What a frame is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Parsed {
    Segment(Segment),
    /// An IPv4 packet to this destination that is no whole TCP segment: a fragment.
    Fragment {
        destination: u32,
    },
    Punt(PuntClass),
    Drop(DropReason),
}

/// Looks at a frame that came in on a port with this MAC address.
#[inline(always)]
pub(crate) fn parse(data: &[u8], mac: MacAddr) -> Parsed {
    let Ok((eth, rest)) = ethernet::Header::ref_from_prefix(data) else {
        return Parsed::Drop(DropReason::FrameTooShort);
    };
    if eth.dst != mac {
        return not_ours(eth);
    }
    if eth.ether_type != ethernet::ETHERTYPE_IPV4 {
        return Parsed::Punt(class_of(eth.ether_type));
    }
    let Ok((ip, _)) = ipv4::Header::ref_from_prefix(rest) else {
        return Parsed::Drop(DropReason::IpTruncated);
    };
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let total_len = usize::from(ip.total_len.get());
    if ip.version_ihl >> 4 != 4 || header_len < size_of::<ipv4::Header>() {
        return Parsed::Drop(DropReason::IpHeaderInvalid);
    }
    if total_len > rest.len() || total_len < header_len {
        return Parsed::Drop(DropReason::IpTruncated);
    }
    if ip.is_fragment() {
        return Parsed::Fragment { destination: u32::from_ne_bytes(ip.dst.to_bytes()) };
    }
    if ip.protocol != ipv4::PROTO_TCP {
        return Parsed::Punt(if ip.protocol == ipv4::PROTO_ICMP {
            PuntClass::Icmp
        } else {
            PuntClass::Local
        });
    }
    segment(ip, rest, header_len, total_len)
}

#[inline(always)]
fn segment(ip: &ipv4::Header, packet: &[u8], header_len: usize, total_len: usize) -> Parsed {
    let Some(Ok((tcp, _))) = packet.get(header_len..total_len).map(tcp::Header::ref_from_prefix) else {
        return Parsed::Drop(DropReason::L4Truncated);
    };
    let tcp_header_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_header_len < size_of::<tcp::Header>() || tcp_header_len > total_len - header_len {
        return Parsed::Drop(DropReason::L4Truncated);
    }
    use tcp::flags::{ACK, FIN, RST, SYN};
    let syn_with_end = tcp.flags & SYN != 0 && tcp.flags & (FIN | RST) != 0;
    if tcp.flags & (SYN | FIN | RST | ACK) == 0 || syn_with_end {
        return Parsed::Drop(DropReason::TcpFlagsInvalid);
    }
    Parsed::Segment(Segment {
        key: Key {
            src: u32::from_ne_bytes(ip.src.to_bytes()),
            dst: u32::from_ne_bytes(ip.dst.to_bytes()),
            src_port: u16::from_ne_bytes(tcp.src_port.to_bytes()),
            dst_port: u16::from_ne_bytes(tcp.dst_port.to_bytes()),
            protocol: ipv4::PROTO_TCP,
        },
        l4: (ethernet::HEADER_LEN + header_len) as u16,
        end: (ethernet::HEADER_LEN + total_len) as u16,
        flags: tcp.flags,
    })
}

#[cold]
fn not_ours(eth: &ethernet::Header) -> Parsed {
    if !eth.dst.is_multicast() {
        return Parsed::Drop(DropReason::NotOurMac);
    }
    match eth.ether_type {
        ethernet::ETHERTYPE_IPV4 => Parsed::Punt(PuntClass::Multicast),
        other => Parsed::Punt(class_of(other)),
    }
}

fn class_of(ether_type: U16) -> PuntClass {
    match ether_type {
        ethernet::ETHERTYPE_ARP => PuntClass::Arp,
        ethernet::ETHERTYPE_IPV6 => PuntClass::Ipv6,
        _ => PuntClass::OtherEthertype,
    }
}
