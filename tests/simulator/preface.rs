//! The PROXY protocol's header as a real server reads it in front of a client's stream, independent of the code under
//! test: HAProxy's `doc/proxy-protocol.txt`, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1.
const LINE_MAX: usize = 107;

/// Who a connection is from, and where it was to go.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// What a real server that expects the header has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Preface {
    /// None is expected.
    None,
    /// The first bytes of one.
    Begun(Vec<u8>),
    Whole(Ends),
}

impl Preface {
    /// Takes what belongs to the header off the front of received bytes.
    pub(crate) fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let Preface::Begun(begun) = self else { return Ok(bytes) };
        let known = begun.len();
        begun.extend(bytes);
        match read(begun)? {
            Some((ends, len)) => {
                *self = Preface::Whole(ends);
                Ok(&bytes[len - known..])
            }
            None => Ok(&[]),
        }
    }
}

/// A header and its length; `None` while it is not whole.
fn read(bytes: &[u8]) -> Result<Option<(Ends, usize)>, String> {
    if bytes.iter().zip(SIGNATURE).all(|(byte, wanted)| *byte == wanted) {
        return Ok(read_v2(bytes));
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.len() == bytes.len() {
        let is_one = bytes.len() <= LINE_MAX && bytes.iter().zip(b"PROXY TCP").all(|(byte, w)| byte == w);
        return if is_one { Ok(None) } else { Err(format!("no PROXY header: {bytes:02x?}")) };
    }
    let ends = std::str::from_utf8(line).ok().and_then(ends_of_line);
    ends.map(|ends| Some((ends, line.len() + 1))).ok_or_else(|| format!("no PROXY header: {line:02x?}"))
}

fn ends_of_line(line: &str) -> Option<Ends> {
    let words: Vec<&str> = line.strip_suffix('\r')?.split(' ').collect();
    let ["PROXY", family, from, to, from_port, to_port] = words[..] else { return None };
    let ends = (
        SocketAddr::new(from.parse().ok()?, from_port.parse().ok()?),
        SocketAddr::new(to.parse().ok()?, to_port.parse().ok()?),
    );
    (family == if ends.0.is_ipv4() { "TCP4" } else { "TCP6" }).then_some(ends)
}

/// Reads a header whose signature was seen as far as it is there.
fn read_v2(bytes: &[u8]) -> Option<(Ends, usize)> {
    let [0x21, family, l0, l1] = *bytes.get(12..16)? else { return None };
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let body = bytes.get(16..16 + len)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let v4 = |at: usize| -> Option<IpAddr> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?).into())
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?).into())
    };
    let ends = match (family, len) {
        (0x11, 12) => (SocketAddr::new(v4(0)?, port(8)), SocketAddr::new(v4(4)?, port(10))),
        (0x21, 36) => (SocketAddr::new(v6(0)?, port(32)), SocketAddr::new(v6(16)?, port(34))),
        _ => return None,
    };
    Some((ends, 16 + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4660 443\r\nhello";

    #[test]
    fn a_header_is_taken_off_once_however_it_comes() {
        let v2 = [
            &SIGNATURE[..],
            &[0x21, 0x11, 0, 12, 203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x34, 1, 187],
            b"hello",
        ];
        let ends = ("203.0.113.7:4660".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
        for bytes in [LINE.to_vec(), v2.concat()] {
            for step in 1..=bytes.len() {
                let mut preface = Preface::Begun(Vec::new());
                let rest: Vec<&[u8]> = bytes.chunks(step).map(|piece| preface.take(piece).unwrap()).collect();
                assert_eq!(rest.concat(), b"hello", "in pieces of {step}");
                assert_eq!(preface, Preface::Whole(ends));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_noticed() {
        for bytes in [
            &b"hello"[..],
            b"PROXY UNKNOWN\r\n",
            b"PROXY TCP6 203.0.113.7 192.0.2.1 4660 443\r\n",
            &[b'P'; 200],
        ] {
            assert!(Preface::Begun(Vec::new()).take(bytes).is_err(), "{bytes:02x?}");
        }
    }
}
