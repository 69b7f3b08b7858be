//! The header of the PROXY protocol: who the client is, in front of the first byte of its stream.
//!
//! The protocol is HAProxy's (`doc/proxy-protocol.txt` there); version 1 is a line of text, version 2 is binary. Only what a
//! proxy of TCP says of a connection is written here.
//!
//! ```text
//! 1:  PROXY TCP4 203.0.113.7 192.0.2.1 4660 443\r\n
//!
//! 2:  +--------------------------------------+------+------+---------+
//!     | signature (12 bytes)                 | 0x21 | 0x11 |  12     |
//!     +-------------------+------------------+------+------+---------+
//!     | source address    | dest. address    | ports, source first   |
//!     +-------------------+------------------+-----------------------+
//!     (IPv6: 0x21, 36 and 16 bytes for each address)
//! ```

use core::net::{IpAddr, SocketAddr};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of somebody else.
const V2_PROXY: u8 = 0x21;
/// TCP over IPv4 and IPv6.
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

/// Length of the longest header: version 1 with two IPv6 addresses that have no zeros to leave out.
pub const LEN_MAX: usize = "PROXY TCP6  65535 65535\r\n".len() + 2 * 39 + 1;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl Encoded {
    /// Its bytes, at most [`LEN_MAX`].
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Appends; what has no room, which cannot be, is left out.
    fn push(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        if let Some(room) = self.bytes.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len() as u8;
        }
    }

    fn push_decimal(&mut self, number: u16) {
        let digits: [u8; 5] = core::array::from_fn(|n| b'0' + (number / 10u16.pow(4 - n as u32) % 10) as u8);
        let first = digits.iter().take(4).take_while(|digit| **digit == b'0').count();
        self.push(digits.get(first..).unwrap_or_default());
    }

    fn push_hex(&mut self, number: u16) {
        let digits: [u8; 4] = core::array::from_fn(|n| HEX[usize::from(number >> (12 - 4 * n)) & 15]);
        let first = digits.iter().take(3).take_while(|digit| **digit == b'0').count();
        self.push(digits.get(first..).unwrap_or_default());
    }

    fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                for (n, octet) in v4.octets().into_iter().enumerate() {
                    self.push(if n > 0 { b"." } else { b"" });
                    self.push_decimal(octet.into());
                }
            }
            IpAddr::V6(v6) => self.push_groups(&v6.segments()),
        }
    }

    /// In the form that logs and access lists have (RFC 5952 §4): the longest run of zeros is left out.
    fn push_groups(&mut self, groups: &[u16; 8]) {
        let (start, len) = longest_zeros(groups);
        let left_out = if len > 1 { start..start + len } else { 0..0 };
        for (n, group) in groups.iter().enumerate() {
            if left_out.contains(&n) {
                self.push(if n == left_out.start { b"::" } else { b"" });
                continue;
            }
            self.push(if n == 0 || n == left_out.end && !left_out.is_empty() { b"" } else { b":" });
            self.push_hex(*group);
        }
    }
}

/// Where the first of the longest runs of zeros begins, and how long it is.
fn longest_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let mut longest = (0, 0);
    for start in 0..groups.len() {
        let len = groups.iter().skip(start).take_while(|group| **group == 0).count();
        if len > longest.1 {
            longest = (start, len);
        }
    }
    longest
}

const HEX: [u8; 16] = *b"0123456789abcdef";

/// The header of a connection from `source` to `destination`, which are of one family.
#[must_use]
pub fn encode(version: Version, source: SocketAddr, destination: SocketAddr) -> Encoded {
    let mut header = Encoded { bytes: [0; LEN_MAX], len: 0 };
    match version {
        Version::V1 => write_v1(&mut header, source, destination),
        Version::V2 => write_v2(&mut header, source, destination),
    }
    header
}

fn write_v1(header: &mut Encoded, source: SocketAddr, destination: SocketAddr) {
    header.push(if source.is_ipv4() { b"PROXY TCP4 " } else { b"PROXY TCP6 " });
    header.push_address(source.ip());
    header.push(b" ");
    header.push_address(destination.ip());
    header.push(b" ");
    header.push_decimal(source.port());
    header.push(b" ");
    header.push_decimal(destination.port());
    header.push(b"\r\n");
}

fn write_v2(header: &mut Encoded, source: SocketAddr, destination: SocketAddr) {
    header.push(&SIGNATURE);
    header.push(if source.is_ipv4() { &[V2_PROXY, V2_TCP4, 0, 12] } else { &[V2_PROXY, V2_TCP6, 0, 36] });
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(v4) => header.push(&v4.octets()),
            IpAddr::V6(v6) => header.push(&v6.octets()),
        }
    }
    header.push(&source.port().to_be_bytes());
    header.push(&destination.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(source: &str, destination: &str) -> String {
        let header = encode(Version::V1, source.parse().unwrap(), destination.parse().unwrap());
        String::from_utf8(header.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        assert_eq!(
            v1("203.0.113.7:4660", "192.0.2.100:80"),
            "PROXY TCP4 203.0.113.7 192.0.2.100 4660 80\r\n"
        );
        assert_eq!(v1("10.0.200.9:1", "1.2.3.4:65535"), "PROXY TCP4 10.0.200.9 1.2.3.4 1 65535\r\n");
        assert_eq!(
            v1("[2001:db8::7]:4660", "[2001:db8:0:10::a0]:443"),
            "PROXY TCP6 2001:db8::7 2001:db8:0:10::a0 4660 443\r\n"
        );
    }

    #[test]
    fn every_address_is_written_as_elsewhere() {
        for n in 0..=u16::MAX {
            // Each of the first eight bits is a group.
            let groups: [u16; 8] =
                core::array::from_fn(|at| if n >> at & 1 == 0 { 0 } else { 0xffff >> (n >> 12) });
            let source = SocketAddr::new(IpAddr::V6(groups.into()), n);
            let header = encode(Version::V1, source, source);
            let text = core::str::from_utf8(header.as_bytes()).unwrap();
            let words: Vec<_> = text.trim_end().split(' ').collect();
            let is_mapped = groups[..6] == [0, 0, 0, 0, 0, 0xffff] || groups[..6] == [0; 6];
            assert!(is_mapped || words[2] == source.ip().to_string(), "{text}");
            assert_eq!(words[2].parse(), Ok(source.ip()), "{text}");
            assert_eq!(words[4].parse(), Ok(n), "{text}");
        }
    }

    #[test]
    fn the_longest_header_fits() {
        let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let header = v1(all, all);
        assert_eq!((header.len(), &header[header.len() - 13..]), (LEN_MAX, "65535 65535\r\n"));
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = encode(Version::V2, "203.0.113.7:4660".parse().unwrap(), "192.0.2.100:80".parse().unwrap());
        assert_eq!(v4.as_bytes()[..12], [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]);
        assert_eq!(
            v4.as_bytes()[12..],
            [0x21, 0x11, 0, 12, 203, 0, 113, 7, 192, 0, 2, 100, 0x12, 0x34, 0, 80]
        );
        let v6 =
            encode(Version::V2, "[2001:db8::7]:4660".parse().unwrap(), "[2001:db8::100]:80".parse().unwrap());
        assert_eq!(v6.as_bytes()[12..20], [0x21, 0x21, 0, 36, 0x20, 1, 0xd, 0xb8]);
        assert_eq!((v6.as_bytes().len(), &v6.as_bytes()[48..]), (52, &[0x12, 0x34, 0, 80][..]));
    }
}
