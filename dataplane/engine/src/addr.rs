//! Addresses of either family, as the slow path and the configuration handle them.
//!
//! The short ways compare IPv4 addresses as one word and IPv6 addresses where they lie in the packet. Everything that
//! is asked once per connection uses these types instead, which hold either: an IPv4 address is kept in its mapped
//! form (RFC 4291 §2.5.5.2), which no packet on the wire may carry, so the two families never meet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address; 16 bytes in network order in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Addr(u128);

/// Bytes in place of an IPv4 address, and those of the mapped form in front of it.
const V4: u128 = u128::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
const MAPPED: u128 = u128::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);

impl Addr {
    /// From 16 bytes as they stand in an IPv6 header.
    #[inline(always)]
    pub fn from_v6(bytes: [u8; 16]) -> Addr {
        Addr(u128::from_ne_bytes(bytes))
    }

    /// From the word that the four bytes of an IPv4 header make when they are loaded.
    #[inline(always)]
    pub fn from_v4(word: u32) -> Addr {
        let [a, b, c, d] = word.to_ne_bytes();
        Addr(MAPPED | u128::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]))
    }

    /// The IPv4 address as a loaded word; `None` for an IPv6 address.
    #[inline(always)]
    pub fn v4(self) -> Option<u32> {
        let [.., a, b, c, d] = self.0.to_ne_bytes();
        self.is_v4().then_some(u32::from_ne_bytes([a, b, c, d]))
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_v4(self) -> bool {
        self.0 & !V4 == MAPPED
    }

    /// The 16 bytes; of an IPv4 address the mapped form.
    #[inline(always)]
    pub fn octets(self) -> [u8; 16] {
        self.0.to_ne_bytes()
    }

    /// The bytes as they stand in a header: 4 or 16.
    #[inline(always)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        let bytes = zerocopy::IntoBytes::as_bytes(&self.0);
        if self.is_v4() { bytes.get(12..).unwrap_or_default() } else { bytes }
    }

    /// As a number to hash and compare.
    #[inline(always)]
    pub(crate) fn bits(self) -> u128 {
        self.0
    }

    #[inline(always)]
    pub(crate) fn from_bits(bits: u128) -> Addr {
        Addr(bits)
    }

    /// As the standard library has it.
    pub fn to_ip(self) -> IpAddr {
        match self.v4() {
            Some(word) => IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes())),
            None => IpAddr::V6(Ipv6Addr::from(self.octets())),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Addr {
        match address {
            IpAddr::V4(v4) => Addr::from_v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => Addr::from_v6(v6.octets()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// An address and a port, the port in network order in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port, network order in memory.
    pub port: u16,
}

impl Endpoint {
    /// As a socket address.
    pub fn to_socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.addr.to_ip(), u16::from_be(self.port))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint { addr: address.ip().into(), port: address.port().to_be() }
    }
}

/// The five-tuple of a packet of either family; both endpoints are of the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Tuple {
    pub protocol: u8,
    pub src: Endpoint,
    pub dst: Endpoint,
}

impl Tuple {
    /// The tuple of packets that answer this one's.
    pub(crate) fn reversed(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_survive_the_way_there_and_back(v4: [u8; 4], v6: [u8; 16]) {
            let v4 = IpAddr::from(v4);
            prop_assert_eq!(Addr::from(v4).to_ip(), v4);
            prop_assert!(Addr::from(v4).is_v4());
            let v6 = IpAddr::from(v6);
            prop_assert_eq!(Addr::from(v6).octets(), match v6 { IpAddr::V6(v6) => v6.octets(), IpAddr::V4(_) => [0; 16] });
            prop_assert_eq!(Addr::from(v6).is_v4(), v6.to_canonical().is_ipv4());
        }
    }
}
