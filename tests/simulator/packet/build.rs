//! Packets put together, and what an enemy puts into them.

use std::net::{IpAddr, SocketAddr};

use super::{
    ADDRESS_KINDS, ETH_LEN, ICMP, ICMPV6, Mac, OPTION_TYPE, TCP, UDP, fold, l4_sum, octets, parse_ip,
    put_ip_options, sum,
};
use crate::rng::Rng;

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

/// The same of a datagram over IPv4: options of the type that tells a client, whole and broken, or so many others that
/// there is no room for one.
pub(crate) fn add_forged_uoa(ip: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let header = parse_ip(ip).filter(|header| header.protocol == UDP && header.total_len == ip.len())?;
    let mut bytes = Vec::new();
    for _ in 0..rng.range(1, 2) {
        bytes.resize(bytes.len() + rng.below(3) as usize, 1);
        let len = *rng.pick(&[8, 8, 8, 20, 3, 12]);
        let at = bytes.len();
        bytes.resize(at + len, 0);
        rng.fill(&mut bytes[at..]);
        (bytes[at], bytes[at + 1]) = (OPTION_TYPE, len as u8);
    }
    match rng.below(6) {
        // Behind the end, behind a broken one, and broken itself: nobody reads it there.
        0 => bytes.insert(0, 0),
        1 => bytes.splice(0..0, [7, 1]).for_each(drop),
        2 => bytes.extend([OPTION_TYPE, 60]),
        3 => bytes = vec![1; 40],
        _ => {}
    }
    if header.options.is_empty() { put_ip_options(ip, &bytes) } else { None }
}
