//! UDP datagrams over IPv4, with the option by which a gateway tells the client (UOA).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::segment::checksum;

const PROTOCOL_UDP: u8 = 17;
/// The IPv4 option's type and length.
const UOA: [u8; 2] = [31, 8];

/// A whole packet. The checksum of UDP is left out, as IPv4 allows.
pub fn write(from: SocketAddr, to: SocketAddr, client: Option<SocketAddr>, data: &[u8]) -> Vec<u8> {
    let mut options = Vec::new();
    if let Some(client) = client {
        options.extend(UOA);
        options.extend(client.port().to_be_bytes());
        options.extend(ipv4(client).octets());
    }
    let header_len = 20 + options.len();
    let udp_len = u16::try_from(8 + data.len()).unwrap();
    let mut packet = vec![0x40 + u8::try_from(header_len / 4).unwrap(), 0];
    packet.extend((u16::try_from(header_len).unwrap() + udp_len).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0]);
    packet.extend(ipv4(from).octets());
    packet.extend(ipv4(to).octets());
    packet.extend(options);
    let sum = checksum(packet.iter().copied());
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for word in [from.port(), to.port(), udp_len, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(data);
    packet
}

fn ipv4(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => panic!("{v6} is no IPv4 address"),
    }
}

/// The payload of a datagram that is addressed to `to`.
pub fn read(packet: &[u8], to: SocketAddr) -> Option<Vec<u8>> {
    if packet.first()? >> 4 != 4 || packet.get(9) != Some(&PROTOCOL_UDP) {
        return None;
    }
    let udp = packet.get(usize::from(packet[0] & 0xf) * 4..)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let is_for = packet.get(16..20)? == ipv4(to).octets() && port == to.port();
    is_for.then(|| udp[8..].to_vec())
}
