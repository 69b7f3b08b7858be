//! UDP datagrams over IPv4 and IPv6, in which a gateway tells the client (UOA).

use std::net::{IpAddr, SocketAddr};

use super::segment::checksum;

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_UOA: u8 = 248;
/// The IPv4 option's type, which the header has in it, too.
const UOA: u8 = 31;

/// What a gateway says of the client, and where.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// IPv4 options: ours, or others'.
    pub options: Vec<u8>,
    /// What stands between IP and UDP, with protocol 248.
    pub header: Vec<u8>,
}

impl Told {
    /// In an IPv4 option.
    pub fn in_option(client: SocketAddr) -> Self {
        Self { options: option(client), ..Self::default() }
    }

    /// In a header.
    pub fn in_header(client: SocketAddr) -> Self {
        let option = option(client);
        let version = if client.is_ipv4() { 0x10 } else { 0x20 };
        let header = [&[version, PROTOCOL_UDP, 0, u8::try_from(4 + option.len()).unwrap()], &option[..]];
        Self { header: header.concat(), ..Self::default() }
    }
}

fn option(client: SocketAddr) -> Vec<u8> {
    let address = octets(client.ip());
    let mut option = vec![UOA, u8::try_from(4 + address.len()).unwrap()];
    option.extend(client.port().to_be_bytes());
    option.extend(address);
    option
}

/// A whole packet with an IPv4 option. The checksum of UDP is left out over IPv4, as it may be.
pub fn write(from: SocketAddr, to: SocketAddr, client: Option<SocketAddr>, data: &[u8]) -> Vec<u8> {
    telling(from, to, &client.map_or_else(Told::default, Told::in_option), data)
}

/// A whole packet.
pub fn telling(from: SocketAddr, to: SocketAddr, told: &Told, data: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(8 + data.len()).unwrap();
    let mut udp = Vec::new();
    for word in [from.port(), to.port(), udp_len, 0] {
        udp.extend(word.to_be_bytes());
    }
    udp.extend(data);
    let protocol = if told.header.is_empty() { PROTOCOL_UDP } else { PROTOCOL_UOA };
    let mut packet = if from.is_ipv4() {
        ipv4_header(from, to, protocol, told, udp_len)
    } else {
        let pseudo = [octets(from.ip()), octets(to.ip()), vec![0, PROTOCOL_UDP]].concat();
        let sum = checksum(pseudo.iter().chain(&udp_len.to_be_bytes()).chain(&udp).copied());
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        ipv6_header(from, to, protocol, told, udp_len)
    };
    packet.extend(&told.header);
    packet.extend(udp);
    packet
}

fn ipv4_header(from: SocketAddr, to: SocketAddr, protocol: u8, told: &Told, udp_len: u16) -> Vec<u8> {
    let header_len = 20 + told.options.len();
    let total_len = u16::try_from(header_len + told.header.len()).unwrap() + udp_len;
    let mut header = vec![0x40 + u8::try_from(header_len / 4).unwrap(), 0];
    header.extend(total_len.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(octets(from.ip()));
    header.extend(octets(to.ip()));
    header.extend(&told.options);
    let sum = checksum(header.iter().copied());
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ipv6_header(from: SocketAddr, to: SocketAddr, protocol: u8, told: &Told, udp_len: u16) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((u16::try_from(told.header.len()).unwrap() + udp_len).to_be_bytes());
    header.extend([protocol, 64]);
    header.extend(octets(from.ip()));
    header.extend(octets(to.ip()));
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The payload of a datagram that is addressed to `to`.
pub fn read(packet: &[u8], to: SocketAddr) -> Option<Vec<u8>> {
    let (protocol, destination, udp) = match packet.first()? >> 4 {
        4 => (packet.get(9)?, packet.get(16..20)?, usize::from(packet[0] & 0xf) * 4),
        6 => (packet.get(6)?, packet.get(24..40)?, 40),
        _ => return None,
    };
    let udp = packet.get(udp..).filter(|_| *protocol == PROTOCOL_UDP)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let is_for = destination == octets(to.ip()) && port == to.port();
    is_for.then(|| udp[8..].to_vec())
}
