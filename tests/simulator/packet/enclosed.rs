//! Packets in packets: tunnels, and what ICMP errors quote.

use std::net::{IpAddr, SocketAddr};

use super::told::{HEADER_PROTOCOL, header_len, told_in_header};
use super::{Header, ICMP, ICMPV6, UDP, address4, address6, be16, be32, fold, l4_sum, octets, parse_ip, sum};

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
pub(crate) struct IcmpError<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// Of the quoted packet.
    pub(crate) quoted_src: SocketAddr,
    pub(crate) quoted_dst: SocketAddr,
    /// The client that a header in the quoted packet tells.
    pub(crate) told: Option<SocketAddr>,
    /// The quoted packet from its ports on, and zeros that may stand behind it.
    pub(crate) quoted: &'a [u8],
    /// The MTU that it tells, if it is about that.
    pub(crate) mtu: Option<u32>,
    pub(crate) checksum_ok: bool,
}

/// Reads an error; `None` when it is none, or quotes no ports.
pub(crate) fn icmp_error_of(ip: &[u8]) -> Option<IcmpError<'_>> {
    let outer = parse_ip(ip)?;
    let message = outer.payload;
    let pseudo = match outer.protocol {
        ICMP if [3, 4, 5, 11, 12].contains(message.first()?) => sum(message),
        ICMPV6 if *message.first()? < 128 => l4_sum(&outer, ICMPV6, message),
        _ => return None,
    };
    let quote = message.get(8..)?;
    let (ip_len, protocol, src, dst) = match quote.first()? >> 4 {
        4 if quote.len() >= 20 => {
            (usize::from(quote[0] & 15) * 4, quote[9], address4(quote, 12), address4(quote, 16))
        }
        // A first fragment; its header stands in front of the ports.
        6 if quote.len() >= 48 && quote[6] == 44 && be16(quote, 42) & !7 == 0 => {
            (48, quote[40], address6(quote, 8), address6(quote, 24))
        }
        6 if quote.len() >= 40 => (40, quote[6], address6(quote, 8), address6(quote, 24)),
        _ => return None,
    };
    let behind_ip = quote.get(ip_len..)?;
    let (protocol, told, quoted) = if protocol == HEADER_PROTOCOL {
        let client = told_in_header(behind_ip)?;
        (UDP, Some(client), behind_ip.get(header_len(behind_ip)?..)?)
    } else {
        (protocol, None, behind_ip)
    };
    let ports = quoted.get(..4)?;
    let tells_mtu = [(ICMP, 3, 4), (ICMPV6, 2, 0)].contains(&(outer.protocol, message[0], message[1]));
    Some(IcmpError {
        src: outer.src,
        dst: outer.dst,
        ttl: outer.ttl,
        protocol,
        quoted_src: SocketAddr::new(src, be16(ports, 0)),
        quoted_dst: SocketAddr::new(dst, be16(ports, 2)),
        told,
        quoted,
        mtu: tells_mtu.then(|| be32(message, 4)),
        checksum_ok: outer.checksum_ok && fold(pseudo) == 0xffff,
    })
}

/// Whether a quoted datagram is there to its end and its checksum is right.
pub(crate) fn udp_is_right(src: IpAddr, dst: IpAddr, quoted: &[u8]) -> bool {
    let len = quoted.get(4..6).map_or(usize::MAX, |len| be16(len, 0).into());
    let Some(datagram) = quoted.get(..len).filter(|_| len >= 8) else { return false };
    let ends = sum(&octets(src)) + sum(&octets(dst));
    be16(datagram, 6) != 0 && fold(ends + u64::from(UDP) + len as u64 + sum(datagram)) == 0xffff
}
