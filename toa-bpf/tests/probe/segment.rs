//! TCP segments over IPv4 and IPv6, written and read by hand, independent of the code under test.

use std::net::{IpAddr, SocketAddr};

/// TCP flags.
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const PSH: u8 = 0x08;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

const PROTOCOL_TCP: u8 = 6;
/// MPTCP's option with its subtype MP_CAPABLE and version 1 (RFC 8684), and its length on a SYN-ACK.
const MPTCP_CAPABLE: [u8; 3] = [30, 12, 1];

/// What is read of a segment from the server.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    pub flags: u8,
    pub seq: u32,
    pub payload_len: u32,
    /// The server's key for MPTCP, which is on its SYN-ACK if it speaks that.
    pub key: Option<[u8; 8]>,
}

/// A whole IP packet with one TCP segment. `options` are padded with end-of-list bytes.
pub fn write(
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
    ack: u32,
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    assert!(options.len() <= 40, "TCP has room for 40 bytes of options");
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.push(u8::try_from((20 + options.len()) / 4 * 16).unwrap());
    tcp.push(flags);
    tcp.extend(0xffff_u16.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(data);

    let length = u16::try_from(tcp.len()).unwrap();
    set_checksum(&mut tcp, from.ip(), to.ip());
    let mut packet = ip_header(from.ip(), to.ip(), length);
    packet.extend(tcp);
    packet
}

fn set_checksum(tcp: &mut [u8], from: IpAddr, to: IpAddr) {
    let mut pseudo = address_bytes(from);
    pseudo.extend(address_bytes(to));
    pseudo.extend([0, PROTOCOL_TCP]);
    pseudo.extend(u16::try_from(tcp.len()).unwrap().to_be_bytes());
    tcp[16..18].fill(0);
    let sum = checksum(pseudo.iter().chain(&*tcp).copied());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// Where the TCP header begins; `None` when it is no TCP segment with a whole header.
fn tcp_at(packet: &[u8]) -> Option<usize> {
    let at = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&PROTOCOL_TCP) => usize::from(packet[0] & 0xf) * 4,
        6 if packet.get(6) == Some(&PROTOCOL_TCP) => 40,
        _ => return None,
    };
    (packet.len() >= at + 20).then_some(at)
}

/// From whom to whom.
pub fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let tcp = &packet[tcp_at(packet)?..];
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let address = |at: usize| match packet[0] >> 4 {
        4 => IpAddr::from(<[u8; 4]>::try_from(&packet[12 + at * 4..16 + at * 4]).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&packet[8 + at * 16..24 + at * 16]).unwrap()),
    };
    Some((SocketAddr::new(address(0), port(0)), SocketAddr::new(address(1), port(2))))
}

/// The flags of a TCP segment.
pub fn flags(packet: &[u8]) -> u8 {
    tcp_at(packet).map_or(0, |at| packet[at + 13])
}

/// What a server chose, as recorded and as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    pub recorded: Reply,
    pub now: Reply,
}

/// The same segment with the server's choices of now: acknowledgement number and MPTCP key.
pub fn adapted(packet: &[u8], chosen: Option<Chosen>) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let (Some(at), Some((from, to)), Some(Chosen { recorded, now })) =
        (tcp_at(&packet), ends(&packet), chosen)
        && flags(&packet) & ACK != 0
    {
        let tcp = &mut packet[at..];
        let ack = u32::from_be_bytes(tcp[8..12].try_into().unwrap());
        let ack = ack.wrapping_add(now.seq.wrapping_sub(recorded.seq));
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        let options = 20..usize::from(tcp[12] >> 4) * 4;
        if let (Some(recorded), Some(now)) = (recorded.key, now.key)
            && let Some(found) = tcp[options.clone()].windows(8).position(|bytes| bytes == recorded)
        {
            tcp[options][found..found + 8].copy_from_slice(&now);
        }
        set_checksum(tcp, from.ip(), to.ip());
    }
    packet
}

/// A segment with these flags that comes behind another of the same side.
pub fn reset_after(packet: &[u8], flags: u8) -> Vec<u8> {
    let (from, to) = ends(packet).unwrap();
    let tcp = &packet[tcp_at(packet).unwrap()..];
    let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    let payload_len = u32::try_from(tcp.len() - usize::from(tcp[12] >> 4) * 4).unwrap();
    write(from, to, word(4).wrapping_add(payload_len), word(8), flags, &[], &[])
}

fn ip_header(from: IpAddr, to: IpAddr, payload_len: u16) -> Vec<u8> {
    let mut header = Vec::new();
    if from.is_ipv4() {
        header.extend([0x45, 0]);
        header.extend((payload_len + 20).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0]);
    } else {
        header.extend([0x60, 0, 0, 0]);
        header.extend(payload_len.to_be_bytes());
        header.extend([PROTOCOL_TCP, 64]);
    }
    header.extend(address_bytes(from));
    header.extend(address_bytes(to));
    if from.is_ipv4() {
        let sum = checksum(header.iter().copied());
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    header
}

fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum, RFC 1071.
pub fn checksum(bytes: impl Iterator<Item = u8>) -> u16 {
    let mut sum: u32 =
        bytes.enumerate().map(|(i, byte)| u32::from(byte) << if i % 2 == 0 { 8 } else { 0 }).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Reads a segment from the server if it is addressed to `to`.
pub fn read(packet: &[u8], to: SocketAddr) -> Option<Reply> {
    let tcp = packet.get(tcp_at(packet)?..)?;
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    if u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]) != to.port() {
        return None;
    }
    let data_at = usize::from(tcp.get(12)? >> 4) * 4;
    let payload_len = u32::try_from(tcp.len().checked_sub(data_at)?).ok()?;
    let options = tcp.get(20..data_at)?;
    let key_at = options.windows(3).position(|bytes| bytes == MPTCP_CAPABLE).map(|at| at + 4);
    let key = key_at.and_then(|at| options.get(at..at + 8)?.try_into().ok());
    Some(Reply { flags: *tcp.get(13)?, seq: word(4)?, payload_len, key })
}
