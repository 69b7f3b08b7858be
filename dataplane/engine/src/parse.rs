//! From a frame to what the packet path needs to know of it.

use wire::ipv6::{self, FragmentHeader};
use wire::tcp::flags;
use wire::{MacAddr, U16, ethernet, icmp, icmpv6, ipv4, tcp, udp, view};
use zerocopy::FromBytes;

use crate::addr::{Addr, Tuple};
use crate::hash::{Key, Key6};
use crate::verdict::{DropReason, PuntClass};

/// A TCP segment or UDP datagram that is addressed to us on the link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    /// Of an IPv6 packet without the addresses; see [`Segment::key6`].
    pub key: Key,
    /// Offset of the TCP or UDP header in the frame.
    pub l4: u16,
    /// Offset of the first byte behind the IP packet in the frame.
    pub end: u16,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// IPv6.
    pub wide: bool,
    pub piece: Piece,
}

/// How much of a TCP segment or UDP datagram a packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Piece {
    #[default]
    Whole,
    /// The first fragment, with the whole transport header.
    First,
    /// A later fragment; its ports are the first one's, it has no transport header.
    Later,
}

/// Where the addresses of an IPv4 packet begin in the frame.
const ADDRS4_AT: usize = ethernet::HEADER_LEN + 12;
/// Where the addresses of an IPv6 packet begin in the frame.
const ADDRS6_AT: usize = ethernet::HEADER_LEN + 8;

impl Segment {
    /// The five-tuple of an IPv6 packet; the addresses are read where they lie.
    #[inline(always)]
    pub(crate) fn key6(&self, data: &[u8]) -> Key6 {
        let mut addrs = [0; 2];
        if let Some(bytes) = data.get(ADDRS6_AT..).and_then(<[u8]>::first_chunk::<32>) {
            let (src, dst) = bytes.split_at(16);
            addrs =
                [src, dst].map(|half| u128::from_ne_bytes(half.first_chunk().copied().unwrap_or_default()));
        }
        Key6 { addrs, ports: self.key.ports, protocol: self.key.protocol }
    }

    /// The five-tuple.
    #[inline(always)]
    pub(crate) fn tuple(&self, data: &[u8]) -> Tuple {
        if self.wide { self.key6(data).tuple() } else { self.key.tuple() }
    }

    #[inline(always)]
    pub(crate) fn is_udp(&self) -> bool {
        self.key.protocol == ipv4::PROTO_UDP
    }

    /// Bytes of the transport header and what follows it.
    #[inline(always)]
    pub(crate) fn l4_len(&self) -> usize {
        usize::from(self.end) - usize::from(self.l4)
    }

    /// Bytes of the IP packet.
    #[inline(always)]
    pub(crate) fn total_len(&self) -> usize {
        usize::from(self.end) - ethernet::HEADER_LEN
    }
}

/// An ICMP or ICMPv6 error message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    /// Offset of the ICMP header in the frame.
    pub l4: u16,
    /// Offset of the first byte behind the message in the frame.
    pub end: u16,
    /// IPv6.
    pub wide: bool,
}

/// A fragment of a TCP segment or UDP datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment {
    /// Offset in the frame of what it carries.
    pub payload: u16,
    /// Offset of the first byte behind that in the frame.
    pub end: u16,
    /// Where that belongs in the segment or datagram, in bytes.
    pub offset: u16,
    /// Whether it is not the last one.
    pub more: bool,
    pub protocol: u8,
    /// IPv6.
    pub wide: bool,
}

impl Fragment {
    /// Bytes that it carries.
    pub(crate) fn len(&self) -> u16 {
        self.end - self.payload
    }

    /// What all fragments of one packet share: addresses, protocol, and in the place of ports the identification.
    pub(crate) fn key(&self, data: &[u8]) -> Key6 {
        let segment = self.segment(data, self.id(data));
        if segment.wide { segment.key6(data) } else { Key6::of(&segment.tuple(data)) }
    }

    fn id(&self, data: &[u8]) -> u32 {
        if !self.wide {
            return view::<ipv4::Header>(data, ethernet::HEADER_LEN).map_or(0, |ip| ip.id.get().into());
        }
        // The fragment header is the last one in front of what is carried.
        let at = usize::from(self.payload).checked_sub(ipv6::FRAGMENT_HEADER_LEN);
        at.and_then(|at| view::<FragmentHeader>(data, at)).map_or(0, |fragment| fragment.id.get())
    }

    /// The ports in the first fragment, `None` in later ones. The first must hold the whole transport header, and no
    /// later one may reach into it (RFC 1858, RFC 3128): whoever decides by the header must have seen all of it.
    pub(crate) fn ports(&self, data: &[u8]) -> Result<Option<u32>, DropReason> {
        let is_tcp = self.protocol == ipv4::PROTO_TCP;
        if self.offset > 0 {
            let tiny = is_tcp && usize::from(self.offset) < tcp::HEADER_LEN;
            return if tiny { Err(DropReason::FragmentTiny) } else { Ok(None) };
        }
        let payload = data.get(self.payload.into()..self.end.into()).unwrap_or_default();
        let tcp_len = || view::<tcp::Header>(payload, 0).map(tcp::Header::header_len);
        let header_len = if is_tcp { tcp_len() } else { Some(udp::HEADER_LEN) };
        if header_len.is_none_or(|len| len > payload.len()) {
            return Err(DropReason::FragmentTiny);
        }
        if is_tcp {
            tcp_flags(payload)?;
        } else if view::<udp::Header>(payload, 0).is_none_or(|udp| udp.check(usize::from(u16::MAX)).is_err())
        {
            return Err(DropReason::L4Truncated);
        }
        Ok(payload.first_chunk().copied().map(u32::from_ne_bytes))
    }

    /// The packet, `ports` being those of its first fragment.
    pub(crate) fn segment(&self, data: &[u8], ports: u32) -> Segment {
        let addrs = data.get(ADDRS4_AT..).and_then(<[u8]>::first_chunk).filter(|_| !self.wide);
        let first = self.offset == 0;
        let tcp = view::<tcp::Header>(data, self.payload.into());
        Segment {
            key: Key { addrs: addrs.copied().map_or(0, u64::from_ne_bytes), ports, protocol: self.protocol },
            l4: self.payload,
            end: self.end,
            flags: tcp.filter(|_| first && self.protocol == ipv4::PROTO_TCP).map_or(0, |tcp| tcp.flags),
            wide: self.wide,
            piece: if first { Piece::First } else { Piece::Later },
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Parsed {
    Segment(Segment),
    Fragment(Fragment),
    IcmpError(Message),
    Punt(PuntClass),
    Drop(DropReason),
}

/// Looks at a frame that came in on a port with this MAC address.
#[inline]
pub(crate) fn parse(data: &[u8], mac: MacAddr) -> Parsed {
    // The end of a frame is kept in 16 bits.
    let data = data.get(..usize::from(u16::MAX)).unwrap_or(data);
    let Ok((eth, rest)) = ethernet::Header::ref_from_prefix(data) else {
        return Parsed::Drop(DropReason::FrameTooShort);
    };
    if eth.dst != mac {
        return not_ours(eth);
    }
    match eth.ether_type {
        ethernet::ETHERTYPE_IPV4 => parse_v4(rest),
        ethernet::ETHERTYPE_IPV6 => parse_v6(rest),
        other => Parsed::Punt(class_of(other)),
    }
}

fn parse_v4(packet: &[u8]) -> Parsed {
    let Ok((ip, _)) = ipv4::Header::ref_from_prefix(packet) else {
        return Parsed::Drop(DropReason::IpTruncated);
    };
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let total_len = usize::from(ip.total_len.get());
    if ip.version_ihl >> 4 != 4 || header_len < size_of::<ipv4::Header>() {
        return Parsed::Drop(DropReason::IpHeaderInvalid);
    }
    if total_len > packet.len() || total_len < header_len {
        return Parsed::Drop(DropReason::IpTruncated);
    }
    let options = packet.get(size_of::<ipv4::Header>()..header_len).unwrap_or_default();
    if ipv4::has_pending_source_route(options) {
        return Parsed::Drop(DropReason::SourceRouted);
    }
    if ip.is_fragment() {
        return parse_fragment4(ip, header_len, total_len);
    }
    let Some(payload) = packet.get(header_len..total_len) else {
        return Parsed::Drop(DropReason::IpTruncated);
    };
    let addrs = u64::from_ne_bytes(addrs_of(ip));
    let upper = Upper { protocol: ip.protocol, addrs, wide: false, offset: header_len };
    match ip.protocol {
        ipv4::PROTO_TCP | ipv4::PROTO_UDP => upper.segment(payload),
        ipv4::PROTO_ICMP => match view::<icmp::Header>(payload, 0) {
            None => Parsed::Drop(DropReason::L4Truncated),
            Some(header) if header.is_error() => upper.icmp_error(payload),
            Some(_) => Parsed::Punt(PuntClass::Icmp),
        },
        _ => Parsed::Punt(PuntClass::Local),
    }
}

fn parse_fragment4(ip: &ipv4::Header, header_len: usize, total_len: usize) -> Parsed {
    match ip.protocol {
        ipv4::PROTO_TCP | ipv4::PROTO_UDP => Parsed::Fragment(Fragment {
            payload: (ethernet::HEADER_LEN + header_len) as u16,
            end: (ethernet::HEADER_LEN + total_len) as u16,
            offset: ip.fragment_offset(),
            more: ip.more_fragments(),
            protocol: ip.protocol,
            wide: false,
        }),
        ipv4::PROTO_ICMP => Parsed::Punt(PuntClass::Icmp),
        _ => Parsed::Punt(PuntClass::Local),
    }
}

fn addrs_of(ip: &ipv4::Header) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (ip.src.to_bytes(), ip.dst.to_bytes());
    [a, b, c, d, e, f, g, h]
}

fn parse_v6(packet: &[u8]) -> Parsed {
    let Ok((ip, _)) = ipv6::Header::ref_from_prefix(packet) else {
        return Parsed::Drop(DropReason::IpTruncated);
    };
    let total_len = match ip.check(packet.len()) {
        Ok(total_len) => total_len,
        Err(ipv6::HeaderError::Version(_)) => return Parsed::Drop(DropReason::IpHeaderInvalid),
        Err(_) => return Parsed::Drop(DropReason::IpTruncated),
    };
    let packet = packet.get(..total_len).unwrap_or(packet);
    let found = match ipv6::walk_extensions(packet) {
        Ok(found) => found,
        Err(ipv6::HeaderError::Truncated { .. }) => return Parsed::Drop(DropReason::IpTruncated),
        Err(_) => return Parsed::Drop(DropReason::ExtensionHeaders),
    };
    if found.offset > ipv6::HEADER_LEN && ipv6::segments_left_offset(packet).is_some() {
        return Parsed::Drop(DropReason::SourceRouted);
    }
    // A fragment in name only is a whole packet (RFC 6946).
    if let Some(fragment) = found.fragment.filter(|fragment| !fragment.is_atomic()) {
        return parse_fragment6(ip, &found, fragment, total_len);
    }
    let payload = packet.get(found.offset..).unwrap_or_default();
    let upper = Upper { protocol: found.protocol, addrs: 0, wide: true, offset: found.offset };
    match found.protocol {
        ipv4::PROTO_TCP | ipv4::PROTO_UDP => upper.segment(payload),
        ipv6::NEXT_ICMPV6 => match view::<icmp::Header>(payload, 0) {
            None => Parsed::Drop(DropReason::L4Truncated),
            Some(header) if icmpv6::is_error_type(header.kind) => upper.icmp_error(payload),
            Some(_) => Parsed::Punt(PuntClass::Ipv6),
        },
        _ => Parsed::Punt(PuntClass::Local),
    }
}

fn parse_fragment6(
    ip: &ipv6::Header,
    found: &ipv6::Upper,
    fragment: FragmentHeader,
    total_len: usize,
) -> Parsed {
    match fragment.next_header {
        // IPv4-mapped addresses stand for IPv4 here and have no place on the wire (RFC 4291 §2.5.5.2).
        ipv4::PROTO_TCP | ipv4::PROTO_UDP if [ip.src, ip.dst].iter().any(|a| Addr::from_v6(*a).is_v4()) => {
            Parsed::Drop(DropReason::SourceInvalid)
        }
        ipv4::PROTO_TCP | ipv4::PROTO_UDP => Parsed::Fragment(Fragment {
            payload: (ethernet::HEADER_LEN + found.offset) as u16,
            end: (ethernet::HEADER_LEN + total_len) as u16,
            offset: fragment.fragment_offset(),
            more: fragment.more_fragments(),
            protocol: fragment.next_header,
            wide: true,
        }),
        ipv6::NEXT_ICMPV6 => Parsed::Punt(PuntClass::Ipv6),
        // Extension headers behind the fragment header are the kernel's to follow.
        _ => Parsed::Punt(PuntClass::Local),
    }
}

/// What stands behind the IP header.
struct Upper {
    protocol: u8,
    /// As in [`Key`].
    addrs: u64,
    wide: bool,
    /// From the IP header on.
    offset: usize,
}

impl Upper {
    fn segment(&self, payload: &[u8]) -> Parsed {
        let flags = match self.protocol {
            ipv4::PROTO_TCP => match tcp_flags(payload) {
                Ok(flags) => flags,
                Err(reason) => return Parsed::Drop(reason),
            },
            _ if self.wide && lacks_checksum(payload) => return Parsed::Drop(DropReason::ChecksumInvalid),
            _ if view::<udp::Header>(payload, 0).is_some_and(|udp| udp.check(payload.len()).is_ok()) => 0,
            _ => return Parsed::Drop(DropReason::L4Truncated),
        };
        let ports = payload.first_chunk().copied().map_or(0, u32::from_ne_bytes);
        Parsed::Segment(Segment {
            key: Key { addrs: self.addrs, ports, protocol: self.protocol },
            l4: self.l4(),
            end: self.l4() + payload.len() as u16,
            flags,
            wide: self.wide,
            piece: Piece::Whole,
        })
    }

    fn icmp_error(&self, payload: &[u8]) -> Parsed {
        Parsed::IcmpError(Message { l4: self.l4(), end: self.l4() + payload.len() as u16, wide: self.wide })
    }

    fn l4(&self) -> u16 {
        (ethernet::HEADER_LEN + self.offset) as u16
    }
}

/// A UDP datagram without checksum, which IPv6 does not know (RFC 8200 §8.1).
#[inline(always)]
fn lacks_checksum(datagram: &[u8]) -> bool {
    view::<udp::Header>(datagram, 0).is_some_and(|udp| udp.checksum == U16::ZERO)
}

fn tcp_flags(payload: &[u8]) -> Result<u8, DropReason> {
    let tcp = view::<tcp::Header>(payload, 0).ok_or(DropReason::L4Truncated)?;
    let header_len = tcp.header_len();
    if header_len < size_of::<tcp::Header>() || header_len > payload.len() {
        return Err(DropReason::L4Truncated);
    }
    use flags::{ACK, FIN, RST, SYN};
    let syn_with_end = tcp.flags & SYN != 0 && tcp.flags & (FIN | RST) != 0;
    if tcp.flags & (SYN | FIN | RST | ACK) == 0 || syn_with_end {
        return Err(DropReason::TcpFlagsInvalid);
    }
    Ok(tcp.flags)
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
