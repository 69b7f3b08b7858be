//! UOA as a receiver on a real server reads it: who a datagram says its client is, in an IPv4 option of type 31 or in a
//! header of protocol 248 between IP and UDP.

use std::net::SocketAddr;

use super::{UDP, address4, address6, be16, options, parse_ip, toa_option};
use crate::fragments::finish_header;

/// Type of the IPv4 option.
pub(crate) const OPTION_TYPE: u8 = 31;
/// IP protocol of the header.
pub(crate) const HEADER_PROTOCOL: u8 = 248;
const HEADER_LEN: usize = 4;
/// An IPv4 header takes no more bytes of options.
const IP_OPTIONS_MAX: usize = 40;

/// Where a datagram says who its client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Option,
    Header,
}

/// A datagram that says who its client is.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) client: SocketAddr,
    pub(crate) place: Place,
    /// Where the option stands among the options, or the header behind them.
    pub(crate) at: usize,
    /// Bytes that it takes.
    pub(crate) len: usize,
    /// Whether the IP header's checksum is right as it is.
    pub(crate) checksum_ok: bool,
    /// The packet without it, the IP header's checksum made right.
    pub(crate) bare: Vec<u8>,
}

/// Reads a whole IP packet; `None` when nobody is told by it.
pub(crate) fn told(ip: &[u8]) -> Option<Told> {
    let header = parse_ip(ip)?;
    let front = header.total_len - header.payload.len();
    let (place, at, client, len) = match header.protocol {
        HEADER_PROTOCOL => (Place::Header, 0, told_in_header(header.payload)?, header_len(header.payload)?),
        UDP => {
            let all = options(header.options);
            let (at, client) = all.iter().find_map(|option| Some((option.at, client_of(option.bytes)?)))?;
            (Place::Option, at, client, if client.is_ipv4() { 8 } else { 20 })
        }
        _ => return None,
    };
    let mut bare = ip[..header.total_len].to_vec();
    let start = if place == Place::Option { 20 + at } else { front };
    bare.drain(start..start + len);
    if header.src.is_ipv4() {
        let total_len = bare.len() as u16;
        let header_len = if place == Place::Option { front - len } else { front };
        bare[0] = 0x40 | (header_len / 4) as u8;
        bare[2..4].copy_from_slice(&total_len.to_be_bytes());
        bare[9] = UDP;
        finish_header(&mut bare, header_len);
    } else {
        let payload_len = (bare.len() - front) as u16;
        bare[4..6].copy_from_slice(&payload_len.to_be_bytes());
        bare[6] = UDP;
    }
    Some(Told { client, place, at, len, checksum_ok: header.checksum_ok, bare })
}

/// What an option of 8 or 20 bytes says.
fn client_of(option: &[u8]) -> Option<SocketAddr> {
    match *option {
        [OPTION_TYPE, 8, ..] if option.len() == 8 => {
            Some(SocketAddr::new(address4(option, 4), be16(option, 2)))
        }
        [OPTION_TYPE, 20, ..] if option.len() == 20 => {
            Some(SocketAddr::new(address6(option, 4), be16(option, 2)))
        }
        _ => None,
    }
}

/// Bytes of the header that stands behind an IP header of its protocol, with the option in it.
pub(crate) fn header_len(behind_ip: &[u8]) -> Option<usize> {
    match *behind_ip {
        [0x10, UDP, 0, 12, ..] => Some(12),
        [0x20, UDP, 0, 24, ..] => Some(24),
        _ => None,
    }
}

/// What stands behind an IP header of its protocol; `None` for all that is not exactly so.
pub(crate) fn told_in_header(behind_ip: &[u8]) -> Option<SocketAddr> {
    client_of(behind_ip.get(HEADER_LEN..header_len(behind_ip)?)?)
}

/// A datagram in a whole IP packet that says it were this client's; `None` when it has no room for that.
pub(crate) fn tell(ip: &[u8], place: Place, client: SocketAddr) -> Option<Vec<u8>> {
    let option = toa_option(OPTION_TYPE, client);
    if place == Place::Option {
        return put_ip_options(ip, &option);
    }
    let header = parse_ip(ip)?;
    let front = header.total_len - header.payload.len();
    let version = if client.is_ipv4() { 0x10 } else { 0x20 };
    let mut bytes = vec![version, UDP, 0, (HEADER_LEN + option.len()) as u8];
    bytes.extend(option);
    let mut out = ip[..header.total_len].to_vec();
    out.splice(front..front, bytes);
    if header.src.is_ipv4() {
        out[9] = HEADER_PROTOCOL;
        finish_lengths(&mut out, front);
    } else {
        let payload_len = (out.len() - front) as u16;
        out[4..6].copy_from_slice(&payload_len.to_be_bytes());
        out[6] = HEADER_PROTOCOL;
    }
    Some(out)
}

/// Puts IP options in front of those of an IPv4 packet, padded to whole words; `None` without room for them.
pub(crate) fn put_ip_options(ip: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let header = parse_ip(ip).filter(|header| header.src.is_ipv4())?;
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 1);
    if header.options.len() + bytes.len() > IP_OPTIONS_MAX {
        return None;
    }
    let front = header.total_len - header.payload.len() + bytes.len();
    let mut out = ip[..header.total_len].to_vec();
    out.splice(20..20, bytes);
    finish_lengths(&mut out, front);
    Some(out)
}

/// Makes an IPv4 packet's lengths those that it has.
fn finish_lengths(ip: &mut [u8], header_len: usize) {
    let total_len = ip.len() as u16;
    ip[0] = 0x40 | (header_len / 4) as u8;
    ip[2..4].copy_from_slice(&total_len.to_be_bytes());
    finish_header(ip, header_len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::udp_packet;

    #[test]
    fn what_is_told_is_read_and_the_rest_is_as_before() {
        for (from, to) in [("203.0.113.7:4660", "10.2.0.10:53"), ("[2001:db8::7]:4660", "[fd00::1]:53")] {
            let ip = udp_packet(from.parse().unwrap(), to.parse().unwrap(), b"hello");
            for client in ["192.0.2.1:99", "[2001:db8::9]:99"].map(|client| client.parse().unwrap()) {
                for place in [Place::Option, Place::Header] {
                    let Some(packet) = tell(&ip, place, client) else {
                        assert!(ip[0] >> 4 == 6 && place == Place::Option);
                        continue;
                    };
                    let told = told(&packet).unwrap();
                    assert_eq!((told.client, told.place, told.at), (client, place, 0));
                    assert_eq!((packet.len() - told.len, told.checksum_ok), (ip.len(), true));
                    assert_eq!(told.bare, ip);
                }
            }
            assert!(told(&ip).is_none());
        }
    }
}
