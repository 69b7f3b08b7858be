//! Reading and writing packets without the code under test: written apart from crate `wire`, so that a mistake
//! there is not made here too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::rng::Rng;

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

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn address4(b: &[u8], at: usize) -> IpAddr {
    Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]).into()
}

fn address6(b: &[u8], at: usize) -> IpAddr {
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
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |b| u64::from(*b) << 8);
    words.map(|w| u64::from(be16(w, 0))).sum::<u64>() + odd
}

fn fold(mut sum: u64) -> u16 {
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
        UDP if l4.len() >= 8 && usize::from(be16(l4, 4)) == l4.len() => {
            let segment = base(8);
            let none = be16(l4, 6) == 0;
            Some(Segment {
                l4_checksum_ok: if none { header.src.is_ipv4() } else { segment.l4_checksum_ok },
                ..segment
            })
        }
        _ => None,
    }
}

/// A packet in a tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tunnelled<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) inner: &'a [u8],
}

pub(crate) const GUE_PORT: u16 = 6080;

/// Takes the outer headers off, as a real server does: IP in IP, GRE, GUE. `None` for all else, and for outer headers
/// with wrong checksums.
pub(crate) fn unwrap_tunnel(ip: &[u8]) -> Option<Tunnelled<'_>> {
    let outer = parse_ip(ip)?;
    if !outer.checksum_ok {
        return None;
    }
    let payload = outer.payload;
    let (says_v6, inner) = match outer.protocol {
        4 => (false, payload),
        41 => (true, payload),
        47 => unwrap_gre(payload)?,
        UDP => unwrap_gue(&outer)?,
        _ => return None,
    };
    let is_v6 = inner.first()? >> 4 == 6;
    (is_v6 == says_v6).then_some(Tunnelled { src: outer.src, dst: outer.dst, inner })
}

/// RFC 2784.
fn unwrap_gre(gre: &[u8]) -> Option<(bool, &[u8])> {
    let says_v6 = match gre.get(2..4)? {
        [8, 0] => false,
        [0x86, 0xdd] => true,
        _ => return None,
    };
    match be16(gre, 0) {
        0 => Some((says_v6, &gre[4..])),
        0x8000 if gre.len() >= 8 && fold(sum(gre)) == 0xffff => Some((says_v6, &gre[8..])),
        _ => None,
    }
}

/// UDP, and a GUE header without fields behind it.
fn unwrap_gue<'a>(outer: &Header<'a>) -> Option<(bool, &'a [u8])> {
    let udp = outer.payload;
    if udp.len() < 12 || be16(udp, 2) != GUE_PORT || usize::from(be16(udp, 4)) != udp.len() {
        return None;
    }
    let none = be16(udp, 6) == 0 && outer.src.is_ipv4();
    if !none && fold(l4_sum(outer, UDP, udp)) != 0xffff {
        return None;
    }
    match udp[8..12] {
        [0, 4, 0, 0] => Some((false, &udp[12..])),
        [0, 41, 0, 0] => Some((true, &udp[12..])),
        _ => None,
    }
}

/// An ICMP or ICMPv6 error and what it quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IcmpError {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// Of the quoted packet.
    pub(crate) quoted_src: SocketAddr,
    pub(crate) quoted_dst: SocketAddr,
    pub(crate) checksum_ok: bool,
}

/// Reads an error; `None` when it is none, or quotes no ports.
pub(crate) fn icmp_error_of(ip: &[u8]) -> Option<IcmpError> {
    let outer = parse_ip(ip)?;
    let message = outer.payload;
    let pseudo = match outer.protocol {
        ICMP if [3, 4, 5, 11, 12].contains(message.first()?) => sum(message),
        ICMPV6 if *message.first()? < 128 => l4_sum(&outer, ICMPV6, message),
        _ => return None,
    };
    let quote = message.get(8..)?;
    let (header_len, protocol, src, dst) = match quote.first()? >> 4 {
        4 if quote.len() >= 20 => {
            (usize::from(quote[0] & 15) * 4, quote[9], address4(quote, 12), address4(quote, 16))
        }
        6 if quote.len() >= 40 => (40, quote[6], address6(quote, 8), address6(quote, 24)),
        _ => return None,
    };
    let ports = quote.get(header_len..header_len + 4)?;
    Some(IcmpError {
        src: outer.src,
        dst: outer.dst,
        ttl: outer.ttl,
        protocol,
        quoted_src: SocketAddr::new(src, be16(ports, 0)),
        quoted_dst: SocketAddr::new(dst, be16(ports, 2)),
        checksum_ok: outer.checksum_ok && fold(pseudo) == 0xffff,
    })
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
    if let Some(segment) = parse(frame) {
        return segment.summary();
    }
    let ip = ip_of(frame).unwrap_or_default();
    if let Some(error) = icmp_error_of(ip) {
        return format!("{error:?}");
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

pub(crate) fn toa_option(kind: u8, client: SocketAddr) -> Vec<u8> {
    let address = octets(client.ip());
    let mut option = vec![kind, 4 + address.len() as u8];
    option.extend(client.port().to_be_bytes());
    option.extend(address);
    option
}

/// What a forged segment is made of.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Build {
    /// Both endpoints are of one family.
    pub(crate) fn new(src: SocketAddr, dst: SocketAddr, flags: u8) -> Build {
        Build { src, dst, seq: 0, ack: 0, flags, options: Vec::new(), payload: Vec::new() }
    }

    /// The IP packet, checksums right. Options are padded with NOPs.
    pub(crate) fn ip_packet(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        while !options.len().is_multiple_of(4) {
            options.push(1);
        }
        let tcp_len = 20 + options.len();
        let mut tcp = ports(self.src, self.dst);
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(tcp_len / 4) as u8 * 16, self.flags, 0x20, 0, 0, 0, 0, 0]);
        tcp.extend(&options);
        tcp.extend(&self.payload);
        ip_packet(self.src.ip(), self.dst.ip(), TCP, &tcp)
    }
}

fn ports(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat()
}

pub(crate) fn udp_packet(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut udp = ports(src, dst);
    udp.extend((8 + payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    ip_packet(src.ip(), dst.ip(), UDP, &udp)
}

/// An error of the family of both addresses about a packet, of which it quotes `quote`.
pub(crate) fn icmp_packet(src: IpAddr, dst: IpAddr, (kind, code): (u8, u8), quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 5, 0x14];
    message.extend(quote);
    ip_packet(src, dst, if src.is_ipv4() { ICMP } else { ICMPV6 }, &message)
}

/// An IP packet with right checksums.
fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = if src.is_ipv4() {
        let mut ip = vec![0x45, 0];
        ip.extend((20 + payload.len() as u16).to_be_bytes());
        ip.extend([0, 7, 0x40, 0, 64, protocol, 0, 0]);
        ip
    } else {
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((payload.len() as u16).to_be_bytes());
        ip.extend([protocol, 64]);
        ip
    };
    ip.extend(octets(src));
    ip.extend(octets(dst));
    ip.extend(payload);
    finish_checksums(&mut ip);
    ip
}

/// Computes all checksums of an IP packet.
pub(crate) fn finish_checksums(ip: &mut [u8]) {
    if ip[0] >> 4 == 4 {
        let header_len = usize::from(ip[0] & 15) * 4;
        ip[10..12].fill(0);
        let checksum = !fold(sum(&ip[..header_len]));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let Some(header) = parse_ip(ip) else { return };
    let l4_at = header.total_len - header.payload.len();
    let protocol = header.protocol;
    let at = l4_at
        + match protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return,
        };
    if at + 2 > header.total_len {
        return;
    }
    ip[at..at + 2].fill(0);
    let Some(header) = parse_ip(ip) else { return };
    let total =
        if protocol == ICMP { sum(header.payload) } else { l4_sum(&header, protocol, header.payload) };
    let checksum = match !fold(total) {
        0 if protocol == UDP => 0xffff,
        checksum => checksum,
    };
    ip[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Puts an Ethernet header in front; `pad` fills up to the least frame length, as wires do.
pub(crate) fn frame(dst: Mac, src: Mac, ip: &[u8], pad: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETH_LEN + ip.len());
    frame.extend(dst);
    frame.extend(src);
    frame.extend(if ip[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(ip);
    if pad && frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// A client that lies: adds an address option to a segment of its own, when there is room.
pub(crate) fn add_forged_option(ip: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let header = parse_ip(ip)?;
    let l4 = header.total_len - header.payload.len();
    if header.protocol != TCP || ip.len() != header.total_len {
        return None;
    }
    let tcp_len = usize::from(ip[l4 + 12] >> 4) * 4;
    let mut bytes = forged_option(rng);
    while !bytes.len().is_multiple_of(4) {
        bytes.insert(0, 1);
    }
    if tcp_len + bytes.len() > 60 {
        return None;
    }
    let at = if rng.coin() { l4 + 20 } else { l4 + tcp_len };
    let mut out = ip.to_vec();
    out.splice(at..at, bytes.iter().copied());
    let (len_at, len) = if header.src.is_ipv4() { (2, out.len()) } else { (4, out.len() - 40) };
    out[len_at..len_at + 2].copy_from_slice(&(len as u16).to_be_bytes());
    out[l4 + 12] = (((tcp_len + bytes.len()) / 4) as u8 * 16) | (out[l4 + 12] & 15);
    finish_checksums(&mut out);
    Some(out)
}

/// An option that claims an address.
pub(crate) fn forged_option(rng: &mut Rng) -> Vec<u8> {
    let kind = *rng.pick(&ADDRESS_KINDS);
    let len = *rng.pick(&[8, 8, 8, 20]);
    let mut option = vec![0; len];
    rng.fill(&mut option);
    option[0] = kind;
    option[1] = len as u8;
    option
}
