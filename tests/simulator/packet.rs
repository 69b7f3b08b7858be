//! Reading and writing packets without the code under test: written apart from crate `wire`, so that a mistake
//! there is not made here too.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::rng::Rng;

pub(crate) type Mac = [u8; 6];

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// Where forged frames claim to come from.
pub(crate) const ROUTER_SIDE: Mac = [2, 0, 0, 0, 9, 9];

pub(crate) const ETH_LEN: usize = 14;

/// Kinds of TCP options that somebody reads as the client's address.
pub(crate) const ADDRESS_KINDS: [u8; 6] = [200, 249, 250, 252, 253, 254];

/// One TCP segment in IPv4 in Ethernet, well-formed but for its checksums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) src: SocketAddrV4,
    pub(crate) dst: SocketAddrV4,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) ip_options: &'a [u8],
    pub(crate) total_len: usize,
    pub(crate) ip_checksum_ok: bool,
    pub(crate) tcp_checksum_ok: bool,
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn address(b: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3])
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

fn tcp_sum(ip: &[u8], tcp: &[u8]) -> u64 {
    sum(&ip[12..20]) + 6 + tcp.len() as u64 + sum(tcp)
}

/// Reads a frame; `None` when it is no whole TCP segment in IPv4 (or a fragment).
pub(crate) fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    if frame.len() < ETH_LEN + 20 || frame[12..14] != [8, 0] {
        return None;
    }
    let ip = &frame[ETH_LEN..];
    let header_len = usize::from(ip[0] & 15) * 4;
    let total_len = usize::from(be16(ip, 2));
    let fragment = be16(ip, 6);
    if ip[0] >> 4 != 4 || header_len < 20 || total_len > ip.len() || total_len < header_len + 20 {
        return None;
    }
    if ip[9] != 6 || fragment & 0x3fff != 0 {
        return None;
    }
    let tcp = &ip[header_len..total_len];
    let tcp_len = usize::from(tcp[12] >> 4) * 4;
    if tcp_len < 20 || tcp_len > tcp.len() {
        return None;
    }
    Some(Segment {
        src: SocketAddrV4::new(address(ip, 12), be16(tcp, 0)),
        dst: SocketAddrV4::new(address(ip, 16), be16(tcp, 2)),
        seq: be32(tcp, 4),
        ack: be32(tcp, 8),
        flags: tcp[13],
        window: be16(tcp, 14),
        urgent: be16(tcp, 18),
        options: &tcp[20..tcp_len],
        payload: &tcp[tcp_len..],
        tos: ip[1],
        id: be16(ip, 4),
        fragment,
        ttl: ip[8],
        ip_options: &ip[20..header_len],
        total_len,
        ip_checksum_ok: fold(sum(&ip[..header_len])) == 0xffff,
        tcp_checksum_ok: fold(tcp_sum(ip, tcp)) == 0xffff,
    })
}

impl Segment<'_> {
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
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
        let bad = match (self.ip_checksum_ok, self.tcp_checksum_ok) {
            (true, true) => "",
            (false, _) => " BAD-IP-CHECKSUM",
            (true, false) => " bad-tcp-checksum",
        };
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
    match parse(frame) {
        Some(segment) => segment.summary(),
        None => format!("{} bytes {:02x?}", frame.len(), &frame[..frame.len().min(40)]),
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

/// What an address option of 8 bytes says.
pub(crate) fn toa_endpoint(option: &[u8]) -> Option<SocketAddrV4> {
    (option.len() == 8 && ADDRESS_KINDS.contains(&option[0]))
        .then(|| SocketAddrV4::new(address(option, 4), be16(option, 2)))
}

pub(crate) fn toa_option(kind: u8, client: SocketAddrV4) -> [u8; 8] {
    let (port, ip) = (client.port().to_be_bytes(), client.ip().octets());
    [kind, 8, port[0], port[1], ip[0], ip[1], ip[2], ip[3]]
}

/// What a forged segment is made of.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) src: SocketAddrV4,
    pub(crate) dst: SocketAddrV4,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Build {
    pub(crate) fn new(src: SocketAddrV4, dst: SocketAddrV4, flags: u8) -> Build {
        Build { src, dst, seq: 0, ack: 0, flags, options: Vec::new(), payload: Vec::new() }
    }

    /// The IP packet, checksums right. Options are padded with NOPs.
    pub(crate) fn ip_packet(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        while !options.len().is_multiple_of(4) {
            options.push(1);
        }
        let tcp_len = 20 + options.len();
        let total_len = (20 + tcp_len + self.payload.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(total_len.to_be_bytes());
        ip.extend([0, 7, 0x40, 0, 64, 6, 0, 0]);
        ip.extend(self.src.ip().octets());
        ip.extend(self.dst.ip().octets());
        ip.extend(self.src.port().to_be_bytes());
        ip.extend(self.dst.port().to_be_bytes());
        ip.extend(self.seq.to_be_bytes());
        ip.extend(self.ack.to_be_bytes());
        ip.extend([(tcp_len / 4) as u8 * 16, self.flags, 0x20, 0, 0, 0, 0, 0]);
        ip.extend(&options);
        ip.extend(&self.payload);
        finish_checksums(&mut ip);
        ip
    }
}

/// Computes both checksums of an IP packet with a TCP segment in it.
pub(crate) fn finish_checksums(ip: &mut [u8]) {
    let header_len = usize::from(ip[0] & 15) * 4;
    ip[10..12].fill(0);
    let checksum = !fold(sum(&ip[..header_len]));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let total_len = usize::from(be16(ip, 2));
    ip[header_len + 16..header_len + 18].fill(0);
    let checksum = !fold(tcp_sum(ip, &ip[header_len..total_len]));
    ip[header_len + 16..header_len + 18].copy_from_slice(&checksum.to_be_bytes());
}

/// Puts an Ethernet header in front; `pad` fills up to the least frame length, as wires do.
pub(crate) fn frame(dst: Mac, src: Mac, ip: &[u8], pad: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETH_LEN + ip.len());
    frame.extend(dst);
    frame.extend(src);
    frame.extend([8, 0]);
    frame.extend(ip);
    if pad && frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// A client that lies: adds an address option to a segment of its own, when there is room.
pub(crate) fn add_forged_option(ip: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let tcp_len = usize::from(*ip.get(32)? >> 4) * 4;
    if ip[0] != 0x45 || ip[9] != 6 || ip.len() < 20 + tcp_len {
        return None;
    }
    let mut bytes = forged_option(rng);
    while !bytes.len().is_multiple_of(4) {
        bytes.insert(0, 1);
    }
    if tcp_len + bytes.len() > 60 {
        return None;
    }
    let at = if rng.coin() { 40 } else { 20 + tcp_len };
    let mut out = ip.to_vec();
    out.splice(at..at, bytes.iter().copied());
    let total_len = out.len() as u16;
    out[2..4].copy_from_slice(&total_len.to_be_bytes());
    out[32] = (((tcp_len + bytes.len()) / 4) as u8 * 16) | (out[32] & 15);
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

/// An address of the simulated network, which is IPv4.
pub(crate) fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(v6) => panic!("{v6} in an IPv4 network"),
    }
}
