//! TOA, the "TCP option address": how a real server learns who the client was.
//!
//! There is no RFC; the layouts are those that gateways and receivers in the field share. All lengths are multiples of
//! 4, all numbers are in network order.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  kind (254)   |   length (8)  |          client port          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |               client address (IPv6: 16 bytes, length 20)      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! | kind/length | carries |
//! |---|---|
//! | 254/8, 253/8, 200/8 | client port, client IPv4 address |
//! | 254/20, 253/20 | client port, client IPv6 address |
//! | 254/10, 253/10, 254/22, 253/22 | the same behind our experiment identifier ([`EXID`]), as RFC 6994 wants it |
//! | 254/16 | client port and IPv4 address, 2 bytes of padding, VIP port and address |
//! | 252/20 | client port and IPv4 address, network id, VIP address and port |
//! | 250/8 | VIP port, VIP IPv4 address |
//! | 249/40 | client port and IPv6 address, network id, VIP IPv6 address |
//!
//! Any client can send these, and a receiver cannot tell whose they are. So whatever a client sends of them is
//! overwritten ([`strip`]) before ours is put in, on every segment of a service that uses TOA.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::tcp::options::{
    KIND_EXPERIMENT_1, KIND_EXPERIMENT_2, KIND_FAST_OPEN, KIND_NOP, KIND_TIMESTAMPS, strip_where,
};
use crate::{U16, U32};

mod insert;

pub use crate::tcp::options::Stripped;
pub use insert::{Inserted, NotInserted, insert, insert_before_payload};

/// What most gateways send and all receivers know.
pub const KIND_DEFAULT: u8 = 254;
/// The other experimental kind; some use it for IPv6 only.
pub const KIND_ALTERNATE: u8 = 253;
/// Client and VIP with a network id, IPv4.
pub const KIND_VTOA: u8 = 252;
/// The VIP instead of the client.
pub const KIND_VIP: u8 = 250;
/// Client and VIP with a network id, IPv6.
pub const KIND_V6_VTOA: u8 = 249;
/// An own kind of some gateways.
pub const KIND_LEGACY: u8 = 200;

/// Length of the option with an IPv4 address.
pub const V4_LEN: usize = 8;
/// Length of the option with an IPv6 address.
pub const V6_LEN: usize = 20;
/// What an experiment identifier adds: itself, and two NOPs that keep what follows aligned.
pub const EXID_LEN: usize = 4;
/// The longest that [`encode`] and [`encode_with_exid`] make.
pub const LEN_MAX: usize = V6_LEN + EXID_LEN;

/// Marks options of kinds 253 and 254 as TOA, so that no stack takes a client's port for another experiment's identifier
/// (RFC 6994 §3). Not registered.
pub const EXID: [u8; 2] = *b"TG";

/// The experiment identifier by which kinds 253 and 254 carry a Fast Open cookie (RFC 6994, RFC 7413 §4.1.1).
const EXPERIMENT_FAST_OPEN: [u8; 2] = [0xf9, 0x89];

/// Whether options of this kind carry an address that a receiver may believe.
#[inline]
#[must_use]
pub const fn is_toa_kind(kind: u8) -> bool {
    matches!(kind, KIND_LEGACY | KIND_V6_VTOA | KIND_VIP | KIND_VTOA | KIND_ALTERNATE | KIND_DEFAULT)
}

/// The option with a client's IPv4 address.
#[inline]
#[must_use]
pub const fn encode_v4(kind: u8, client_addr: U32, client_port: U16) -> [u8; V4_LEN] {
    let [p0, p1] = client_port.to_bytes();
    let [a0, a1, a2, a3] = client_addr.to_bytes();
    [kind, V4_LEN as u8, p0, p1, a0, a1, a2, a3]
}

/// The option with a client's IPv6 address.
#[inline]
#[must_use]
pub fn encode_v6(kind: u8, client_addr: &[u8; 16], client_port: U16) -> [u8; V6_LEN] {
    let mut option = [0; V6_LEN];
    option[0] = kind;
    option[1] = V6_LEN as u8;
    option[2..4].copy_from_slice(&client_port.to_bytes());
    option[4..].copy_from_slice(client_addr);
    option
}

/// An option of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl Encoded {
    /// Its bytes, a multiple of 4: 8 or 20, with an experiment identifier 12 or 24.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The option with a client's address of either family.
#[inline]
#[must_use]
pub fn encode(kind: u8, client_addr: IpAddr, client_port: U16) -> Encoded {
    match client_addr {
        IpAddr::V4(addr) => {
            let mut bytes = [0; LEN_MAX];
            bytes[..V4_LEN].copy_from_slice(&encode_v4(kind, crate::ipv4::addr(addr), client_port));
            Encoded { bytes, len: V4_LEN as u8 }
        }
        IpAddr::V6(addr) => {
            let mut bytes = [0; LEN_MAX];
            bytes[..V6_LEN].copy_from_slice(&encode_v6(kind, &addr.octets(), client_port));
            Encoded { bytes, len: V6_LEN as u8 }
        }
    }
}

/// The same with our experiment identifier, behind two NOPs. For kinds 253 and 254.
#[inline]
#[must_use]
pub fn encode_with_exid(kind: u8, client_addr: IpAddr, client_port: U16) -> Encoded {
    let plain = encode(kind, client_addr, client_port);
    let len = plain.len + EXID_LEN as u8;
    let mut bytes = [0; LEN_MAX];
    bytes[..6].copy_from_slice(&[KIND_NOP, KIND_NOP, kind, plain.len + EXID.len() as u8, EXID[0], EXID[1]]);
    bytes[6..].copy_from_slice(&plain.bytes[2..V6_LEN]);
    Encoded { bytes, len }
}

/// What a TOA option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The option's kind.
    pub kind: u8,
    /// The client's address.
    pub addr: IpAddr,
    /// The client's port.
    pub port: U16,
}

/// Reads one option, which must be given whole and have exactly a length of the table above. `None` for all else, and
/// for kind 250, which does not speak of the client.
#[must_use]
pub fn decode(option: &[u8]) -> Option<Client> {
    if option.get(1).copied().map(usize::from) != Some(option.len()) {
        return None;
    }
    if let [kind @ (KIND_DEFAULT | KIND_ALTERNATE), 10 | 22, a, b, rest @ ..] = option
        && [*a, *b] == EXID
    {
        return decode_port_and_address(*kind, rest);
    }
    let (&[kind, len, p0, p1], addr) = option.split_first_chunk::<4>()?;
    let addr = match (kind, len) {
        (KIND_DEFAULT | KIND_ALTERNATE | KIND_LEGACY, 8) | (KIND_DEFAULT, 16) | (KIND_VTOA, 20) => {
            IpAddr::V4(Ipv4Addr::from_octets(*addr.first_chunk()?))
        }
        (KIND_DEFAULT | KIND_ALTERNATE, 20) | (KIND_V6_VTOA, 40) => {
            IpAddr::V6(Ipv6Addr::from_octets(*addr.first_chunk()?))
        }
        _ => return None,
    };
    Some(Client { kind, addr, port: U16::from_bytes([p0, p1]) })
}

/// What stands behind an experiment identifier.
fn decode_port_and_address(kind: u8, bytes: &[u8]) -> Option<Client> {
    let (port, addr) = bytes.split_first_chunk::<2>()?;
    let addr = match addr.first_chunk::<16>() {
        Some(v6) => IpAddr::V6(Ipv6Addr::from_octets(*v6)),
        None => IpAddr::V4(Ipv4Addr::from_octets(*addr.first_chunk()?)),
    };
    Some(Client { kind, addr, port: U16::from_bytes(*port) })
}

/// The first option that says who the client is, as a receiver finds it.
#[must_use]
pub fn find(options: &[u8]) -> Option<Client> {
    crate::tcp::options::iter(options).map_while(Result::ok).find_map(|opt| decode(opt.bytes(options)))
}

/// Overwrites all TOA options, of whatever length, with NOPs.
///
/// The checksum's change is right for `options` that begin at an even offset of the segment, as all do. A client's
/// honest use of kinds 253 and 254 is lost; there is no telling it from a forgery.
#[inline]
pub fn strip(options: &mut [u8]) -> Stripped {
    if is_harmless(options) {
        return Stripped::default();
    }
    strip_where(options, |kind, _| is_toa_kind(kind))
}

/// Overwrites Fast Open options with NOPs, the standard one and the experimental one. For SYNs of services that use TOA:
/// a Fast Open child is made by the SYN, before any TOA option could reach the real server.
#[inline]
pub fn strip_fast_open(options: &mut [u8]) -> Stripped {
    strip_where(options, is_fast_open)
}

fn is_fast_open(kind: u8, option: &[u8]) -> bool {
    match kind {
        KIND_FAST_OPEN => true,
        KIND_EXPERIMENT_1 | KIND_EXPERIMENT_2 => option.get(2..4) == Some(&EXPERIMENT_FAST_OPEN),
        _ => false,
    }
}

/// Whether these are the options of nearly every data segment, none or timestamps alone, so that there is nothing to
/// strip. `false` says nothing.
#[inline(always)]
#[must_use]
pub fn is_harmless(options: &[u8]) -> bool {
    match options {
        [] => true,
        [KIND_NOP, KIND_NOP, KIND_TIMESTAMPS, 10, ..] => options.len() == 12,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
