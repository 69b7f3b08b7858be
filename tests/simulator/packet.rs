//! Reading and writing packets without the code under test: written apart from crate `wire`, so that a mistake
//! there is not made here too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::fragments::piece_of;

mod build;
mod enclosed;
mod told;

pub(crate) use build::{
    Build, add_forged_option, add_forged_uoa, finish_checksums, forged_option, frame, icmp_packet,
    toa_option, udp_packet,
};
pub(crate) use enclosed::{GUE_PORT, IcmpError, icmp_error_of, udp_is_right, unwrap_tunnel};
pub(crate) use told::{HEADER_PROTOCOL, OPTION_TYPE, Place, Told, put_ip_options, tell, told};

pub(crate) type Mac = [u8; 6];

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// Where forged frames claim to come from.
pub(crate) const ROUTER_SIDE: Mac = [2, 0, 0, 0, 9, 9];

pub(crate) const ETH_LEN: usize = 14;

/// Kinds of TCP options that somebody reads as the client's address.
pub(crate) const ADDRESS_KINDS: [u8; 6] = [200, 249, 250, 252, 253, 254];

/// One TCP segment or UDP datagram in IP, well-formed but for its checksums. What UDP has not is 0 and empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) protocol: u8,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) tos: u8,
    /// Of IPv6 the flow label.
    pub(crate) id: u32,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) ip_options: &'a [u8],
    pub(crate) total_len: usize,
    /// Of IPv6 always true.
    pub(crate) ip_checksum_ok: bool,
    pub(crate) l4_checksum_ok: bool,
}

pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(crate) fn address4(b: &[u8], at: usize) -> IpAddr {
    Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]).into()
}

pub(crate) fn address6(b: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = b[at..at + 16].try_into().unwrap();
    Ipv6Addr::from(octets).into()
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// One's complement sum of 16-bit words (RFC 1071), not folded.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |b| u64::from(*b) << 8);
    words.map(|w| u64::from(be16(w, 0))).sum::<u64>() + odd
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// With the pseudo header of either family.
fn l4_sum(header: &Header<'_>, protocol: u8, l4: &[u8]) -> u64 {
    sum(&octets(header.src)) + sum(&octets(header.dst)) + u64::from(protocol) + l4.len() as u64 + sum(l4)
}

/// An IP header of either family without extension headers, and what it carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u32,
    pub(crate) fragment: u16,
    pub(crate) options: &'a [u8],
    pub(crate) total_len: usize,
    pub(crate) checksum_ok: bool,
    pub(crate) payload: &'a [u8],
}

/// Reads an IP packet; `None` when it is not whole, or a fragment.
pub(crate) fn parse_ip(ip: &[u8]) -> Option<Header<'_>> {
    match ip.first()? >> 4 {
        4 => parse_v4(ip),
        6 => parse_v6(ip),
        _ => None,
    }
}

fn parse_v4(ip: &[u8]) -> Option<Header<'_>> {
    if ip.len() < 20 {
        return None;
    }
    let header_len = usize::from(ip[0] & 15) * 4;
    let total_len = usize::from(be16(ip, 2));
    let fragment = be16(ip, 6);
    if header_len < 20 || total_len > ip.len() || total_len < header_len || fragment & 0x3fff != 0 {
        return None;
    }
    Some(Header {
        src: address4(ip, 12),
        dst: address4(ip, 16),
        protocol: ip[9],
        tos: ip[1],
        ttl: ip[8],
        id: be16(ip, 4).into(),
        fragment,
        options: &ip[20..header_len],
        total_len,
        checksum_ok: fold(sum(&ip[..header_len])) == 0xffff,
        payload: &ip[header_len..total_len],
    })
}

fn parse_v6(ip: &[u8]) -> Option<Header<'_>> {
    if ip.len() < 40 {
        return None;
    }
    let total_len = 40 + usize::from(be16(ip, 4));
    Some(Header {
        src: address6(ip, 8),
        dst: address6(ip, 24),
        protocol: ip[6],
        tos: (be32(ip, 0) >> 20) as u8,
        ttl: ip[7],
        id: be32(ip, 0) & 0x000f_ffff,
        fragment: 0,
        options: &[],
        total_len,
        checksum_ok: true,
        payload: ip.get(40..total_len)?,
    })
}

/// The IP packet of a frame whose Ethernet type tells the same family.
pub(crate) fn ip_of(frame: &[u8]) -> Option<&[u8]> {
    let family = match frame.get(12..ETH_LEN)? {
        [8, 0] => 4,
        [0x86, 0xdd] => 6,
        _ => return None,
    };
    let ip = &frame[ETH_LEN..];
    (ip.first()? >> 4 == family).then_some(ip)
}

/// Whether a frame is a fragment, or may be one: IPv6 with a fragment header.
pub(crate) fn is_fragment(frame: &[u8]) -> bool {
    match ip_of(frame) {
        Some(ip) if ip[0] >> 4 == 4 => ip.len() >= 20 && be16(ip, 6) & 0x3fff != 0,
        Some(ip) => ip.get(6) == Some(&44),
        None => false,
    }
}

/// Reads a frame; `None` when it is no whole TCP segment or UDP datagram in IP.
pub(crate) fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    segment_of(ip_of(frame)?)
}

/// Reads an IP packet; `None` when it is no whole TCP segment or UDP datagram.
pub(crate) fn segment_of(ip: &[u8]) -> Option<Segment<'_>> {
    let header = parse_ip(ip)?;
    let l4 = header.payload;
    let base = |l4_len: usize| Segment {
        protocol: header.protocol,
        src: SocketAddr::new(header.src, be16(l4, 0)),
        dst: SocketAddr::new(header.dst, be16(l4, 2)),
        seq: 0,
        ack: 0,
        flags: 0,
        window: 0,
        urgent: 0,
        options: &[],
        payload: &l4[l4_len..],
        tos: header.tos,
        id: header.id,
        fragment: header.fragment,
        ttl: header.ttl,
        ip_options: header.options,
        total_len: header.total_len,
        ip_checksum_ok: header.checksum_ok,
        l4_checksum_ok: fold(l4_sum(&header, header.protocol, l4)) == 0xffff,
    };
    match header.protocol {
        TCP if l4.len() >= 20 => {
            let tcp_len = usize::from(l4[12] >> 4) * 4;
            (tcp_len >= 20 && tcp_len <= l4.len()).then(|| Segment {
                seq: be32(l4, 4),
                ack: be32(l4, 8),
                flags: l4[13],
                window: be16(l4, 14),
                urgent: be16(l4, 18),
                options: &l4[20..tcp_len],
                ..base(tcp_len)
            })
        }
        UDP if l4.len() >= 8 => {
            // What stands behind the datagram in its packet is not under its checksum (RFC 9868 §7), and goes along.
            let datagram = l4.get(..usize::from(be16(l4, 4))).filter(|datagram| datagram.len() >= 8)?;
            let none = be16(l4, 6) == 0;
            let is_right = fold(l4_sum(&header, UDP, datagram)) == 0xffff;
            Some(Segment { l4_checksum_ok: if none { header.src.is_ipv4() } else { is_right }, ..base(8) })
        }
        _ => None,
    }
}

impl Segment<'_> {
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// A SYN that is no answer to one.
    pub(crate) fn is_opening(&self) -> bool {
        self.has(SYN) && !self.has(ACK)
    }

    /// Sequence numbers it takes.
    pub(crate) fn span(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// One line for the trace.
    pub(crate) fn summary(&self) -> String {
        let names = [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, '.')];
        let flags: String = names.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, c)| *c).collect();
        let toa = options(self.options).iter().find_map(|o| toa_endpoint(o.bytes));
        let toa = toa.map_or(String::new(), |e| format!(" toa {e}"));
        let bad = match (self.ip_checksum_ok, self.l4_checksum_ok) {
            (true, true) => "",
            (false, _) => " BAD-IP-CHECKSUM",
            (true, false) => " bad-l4-checksum",
        };
        if !self.is_tcp() {
            return format!("{} > {} udp len {}{bad}", self.src, self.dst, self.payload.len());
        }
        format!(
            "{} > {} [{flags}] seq {} ack {} win {} len {} opts {}{toa}{bad}",
            self.src,
            self.dst,
            self.seq,
            self.ack,
            self.window,
            self.payload.len(),
            self.options.len()
        )
    }
}

/// A frame in one line, whatever it is.
pub(crate) fn summary(frame: &[u8]) -> String {
    let ip = ip_of(frame).unwrap_or_default();
    if let Some(told) = told(ip)
        && let Some(segment) = segment_of(&told.bare)
    {
        return format!("{} {:?} says {}", segment.summary(), told.place, told.client);
    }
    if let Some(segment) = parse(frame) {
        return segment.summary();
    }
    if let Some(error) = icmp_error_of(ip) {
        return format!("{error:?}");
    }
    if let Some(piece) = piece_of(ip) {
        let (src, dst, protocol, id) = piece.key;
        let more = if piece.more { "+" } else { "" };
        return format!("{src} > {dst} {protocol} fragment {}..{}{more} of {id}", piece.start, piece.end());
    }
    match unwrap_tunnel(ip).and_then(|t| Some((t, segment_of(t.inner)?))) {
        Some((tunnel, inner)) => format!("{} > {} ( {} )", tunnel.src, tunnel.dst, inner.summary()),
        None => format!("{} bytes {:02x?}", frame.len(), &frame[..frame.len().min(60)]),
    }
}

/// One TCP option: where it starts, and its bytes including kind and length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opt<'a> {
    pub(crate) at: usize,
    pub(crate) bytes: &'a [u8],
}

/// The options up to the end or the first malformed one, without padding; what a careful receiver sees.
pub(crate) fn options(all: &[u8]) -> Vec<Opt<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < all.len() {
        match all[at] {
            0 => break,
            1 => at += 1,
            _ => {
                let Some(len) = all.get(at + 1).map(|l| usize::from(*l)) else { break };
                if len < 2 || at + len > all.len() {
                    break;
                }
                found.push(Opt { at, bytes: &all[at..at + len] });
                at += len;
            }
        }
    }
    found
}

/// What an address option of 8 or 20 bytes says.
pub(crate) fn toa_endpoint(option: &[u8]) -> Option<SocketAddr> {
    if !ADDRESS_KINDS.contains(option.first()?) {
        return None;
    }
    match option.len() {
        8 => Some(SocketAddr::new(address4(option, 4), be16(option, 2))),
        20 => Some(SocketAddr::new(address6(option, 4), be16(option, 2))),
        _ => None,
    }
}
