//! From a frame to what the packet path needs to know of it.

use wire::tcp::flags;
use wire::{MacAddr, U16, U32, ethernet, ipv4, tcp};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hash::{Key, pair32};
use crate::snapshot::Endpoint4;
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

/// An Ethernet frame with IPv4 without options and TCP: what nearly every frame begins with.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Plain {
    /// Destination and source.
    pub macs: [u8; 12],
    pub ether_type: U16,
    pub version_ihl: u8,
    pub dscp_ecn: u8,
    pub total_len: U16,
    pub id: U16,
    pub flags_fragment: U16,
    pub ttl: u8,
    pub protocol: u8,
    pub ip_checksum: U16,
    /// Source and destination address.
    pub addrs: [u8; 8],
    pub tcp: tcp::Header,
}

/// Offset of the TCP header in a [`Plain`] frame.
pub(crate) const PLAIN_L4: u16 = 34;

const _: () = assert!(size_of::<Plain>() == PLAIN_L4 as usize + size_of::<tcp::Header>());

impl Plain {
    #[inline(always)]
    fn key(&self) -> Key {
        Key {
            addrs: u64::from_ne_bytes(self.addrs),
            ports: pair32(
                u16::from_ne_bytes(self.tcp.src_port.to_bytes()),
                u16::from_ne_bytes(self.tcp.dst_port.to_bytes()),
            ),
            protocol: self.protocol,
        }
    }

    /// The segment, if this really is one and nothing about it needs a closer look.
    #[inline(always)]
    fn segment(&self, frame_len: usize, mac: MacAddr) -> Option<Segment> {
        let total_len = usize::from(self.total_len.get());
        let tcp_header_len = usize::from(self.tcp.data_offset >> 4) * 4;
        // A SYN is looked at more closely.
        let flags = self.tcp.flags & (flags::FIN | flags::RST | flags::ACK);
        let plain = self.macs[..6] == mac.0
            && self.ether_type == ethernet::ETHERTYPE_IPV4
            && self.version_ihl == 0x45
            && self.flags_fragment.get() & !ipv4::FLAG_DONT_FRAGMENT == 0
            && self.protocol == ipv4::PROTO_TCP
            && total_len + ethernet::HEADER_LEN <= frame_len
            && tcp_header_len >= size_of::<tcp::Header>()
            && total_len >= tcp_header_len + size_of::<ipv4::Header>()
            && flags != 0
            && self.tcp.flags & flags::SYN == 0;
        plain.then(|| Segment {
            key: self.key(),
            l4: PLAIN_L4,
            end: (total_len + ethernet::HEADER_LEN) as u16,
            flags: self.tcp.flags,
        })
    }
}

/// Looks at a frame that came in on a port with this MAC address.
#[inline(always)]
pub(crate) fn parse(data: &[u8], mac: MacAddr) -> Parsed {
    if let Ok((plain, _)) = Plain::ref_from_prefix(data)
        && let Some(segment) = plain.segment(data.len(), mac)
    {
        return Parsed::Segment(segment);
    }
    parse_any(data, mac)
}

/// Every frame that is not plain: other protocols, options, handshakes, faults.
#[inline(never)]
fn parse_any(data: &[u8], mac: MacAddr) -> Parsed {
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

fn segment(ip: &ipv4::Header, packet: &[u8], header_len: usize, total_len: usize) -> Parsed {
    let Some(Ok((tcp, _))) = packet.get(header_len..total_len).map(tcp::Header::ref_from_prefix) else {
        return Parsed::Drop(DropReason::L4Truncated);
    };
    let tcp_header_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_header_len < size_of::<tcp::Header>() || tcp_header_len > total_len - header_len {
        return Parsed::Drop(DropReason::L4Truncated);
    }
    use flags::{ACK, FIN, RST, SYN};
    let syn_with_end = tcp.flags & SYN != 0 && tcp.flags & (FIN | RST) != 0;
    if tcp.flags & (SYN | FIN | RST | ACK) == 0 || syn_with_end {
        return Parsed::Drop(DropReason::TcpFlagsInvalid);
    }
    Parsed::Segment(Segment {
        key: Key::new(ipv4::PROTO_TCP, endpoint(ip.src, tcp.src_port), endpoint(ip.dst, tcp.dst_port)),
        l4: (ethernet::HEADER_LEN + header_len) as u16,
        end: (ethernet::HEADER_LEN + total_len) as u16,
        flags: tcp.flags,
    })
}

fn endpoint(addr: U32, port: U16) -> Endpoint4 {
    Endpoint4 { addr: u32::from_ne_bytes(addr.to_bytes()), port: u16::from_ne_bytes(port.to_bytes()) }
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
