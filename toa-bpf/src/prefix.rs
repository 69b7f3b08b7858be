//! Address prefixes of trusted gateways, kept as IPv6 with IPv4 mapped, the form that the BPF trust map has.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Bits before the IPv4 address in `::ffff:a.b.c.d`.
const MAPPED_BITS: u8 = 96;

/// An address prefix without host bits, such as `10.9.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix {
    addr: Ipv6Addr,
    len: u8,
}

/// What is wrong with a prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PrefixError {
    /// The part before the slash.
    #[error("`{0}` is not an IPv4 or IPv6 address; a prefix looks like 10.9.0.0/24")]
    Address(String),
    /// The part after the slash.
    #[error("`{length}` is not a prefix length for this address: 0 to {max} is right")]
    Length { length: String, max: u8 },
    /// Bits set behind the prefix length: probably a typing mistake, so it is not guessed at.
    #[error("{given} has bits set behind its prefix length; {right} is right, or /{max} for the one address")]
    HostBits { given: String, right: Prefix, max: u8 },
    /// The IPv4 addresses mapped into IPv6 are written as IPv4.
    #[error("{0} is an IPv4 address mapped into IPv6; write it as IPv4")]
    Mapped(Ipv6Addr),
}

impl Prefix {
    /// From the bytes and length that the trust map holds.
    pub(crate) fn from_map(octets: [u8; 16], len: u32) -> Self {
        Self { addr: octets.into(), len: u8::try_from(len.min(128)).unwrap_or(128) }
    }

    /// The bytes of the address in the trust map.
    pub(crate) fn octets(self) -> [u8; 16] {
        self.addr.octets()
    }

    /// The prefix length in the trust map: 96 more than written for IPv4.
    pub(crate) fn map_len(self) -> u32 {
        u32::from(self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr_text, len_text) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let given = addr_text.parse().map_err(|_| PrefixError::Address(addr_text.to_owned()))?;
        let (addr, max) = match given {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 32),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => return Err(PrefixError::Mapped(v6)),
            IpAddr::V6(v6) => (v6, 128),
        };
        let written_len = match len_text {
            None => max,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|len| *len <= max)
                .ok_or_else(|| PrefixError::Length { length: digits.to_owned(), max })?,
        };
        let len = written_len + (128 - max);
        // A shift by all 128 bits is no shift in Rust.
        let mask = u128::MAX.checked_shl(u32::from(128 - len)).unwrap_or(0);
        let right = Self { addr: Ipv6Addr::from_bits(addr.to_bits() & mask), len };
        if right.addr != addr {
            return Err(PrefixError::HostBits { given: text.to_owned(), right, max });
        }
        Ok(right)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr.to_ipv4_mapped() {
            Some(v4) if self.len >= MAPPED_BITS => write!(f, "{v4}/{}", self.len - MAPPED_BITS),
            _ => write!(f, "{}/{}", self.addr, self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Prefix, PrefixError> {
        text.parse()
    }

    #[test]
    fn ipv4_prefixes_are_mapped_and_shown_as_written() {
        let prefix = parse("10.9.0.0/24").unwrap();
        assert_eq!(prefix.map_len(), 120);
        assert_eq!(prefix.octets(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 9, 0, 0]);
        assert_eq!(prefix.to_string(), "10.9.0.0/24");
        assert_eq!(Prefix::from_map(prefix.octets(), prefix.map_len()), prefix);
    }

    #[test]
    fn an_address_alone_is_a_host() {
        assert_eq!(parse("10.9.0.2").unwrap().to_string(), "10.9.0.2/32");
        assert_eq!(parse("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
    }

    #[test]
    fn all_ipv4_does_not_mean_all_ipv6() {
        assert_eq!(parse("0.0.0.0/0").unwrap().map_len(), 96);
        assert_eq!(parse("::/0").unwrap().map_len(), 0);
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert!(told("10.9.0.5/24").contains("10.9.0.0/24 is right"), "{}", told("10.9.0.5/24"));
        assert!(told("10.9.0.0/33").contains("0 to 32"));
        assert!(told("2001:db8::/x").contains("0 to 128"));
        assert!(told("gateway").contains("not an IPv4 or IPv6 address"));
        assert!(told("::ffff:10.9.0.0/120").contains("write it as IPv4"));
    }
}
