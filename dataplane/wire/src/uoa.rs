//! UOA: how a real server learns who the client of a UDP flow was. UDP has no options, so the address stands in an option
//! of the IPv4 header, or in a header of its own between IP and UDP. There is no RFC; the layouts are those of DPVS, whose
//! receivers know them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |version| zeros | protocol (17) |          length (12)          |   in front: the header, IP protocol 248
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   type (31)   |   length (8)  |          client port          |   the option
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      client address (IPv6: 16 bytes, lengths 20 and 24)       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The version is 1 for an IPv4 client and 2 for an IPv6 client, over IP of either family. UDP's checksum knows nothing
//! of all this: it is that of the datagram without.
//!
//! Any client can send the option, and a receiver cannot tell whose it is; so what a client sends of it is overwritten
//! ([`strip`]). Packets of protocol 248 are no datagrams of any service.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Delta;
use crate::tcp::options::{self, Stripped};
use crate::{Family, PacketBuf, U16, ipv4, ipv6};

/// Type of the IPv4 option: not copied into fragments, class "control" (RFC 791 §3.1), number 31.
pub const OPTION_TYPE: u8 = 31;
/// IP protocol of the header.
pub const PROTOCOL: u8 = 248;

/// Length of the option with an IPv4 address.
pub const OPTION_LEN_V4: usize = 8;
/// Length of the option with an IPv6 address.
pub const OPTION_LEN_V6: usize = 20;
/// Length of the header without the option.
pub const HEADER_LEN: usize = 4;
/// The longest that [`insert`] adds, in bytes.
pub const LEN_MAX: usize = HEADER_LEN + OPTION_LEN_V6;

/// Versions of the header.
const VERSION_V4: u8 = 1;
const VERSION_V6: u8 = 2;

/// Where the address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In an option of the IPv4 header; over IPv6, which has none such, in the header.
    Option,
    /// In the header, over both.
    Header,
}

impl Form {
    /// Bytes that a packet grows by; `leaves`: the family that it leaves in.
    #[inline]
    #[must_use]
    pub const fn len(self, client_is_v4: bool, leaves: Family) -> usize {
        let option = if client_is_v4 { OPTION_LEN_V4 } else { OPTION_LEN_V6 };
        match (self, leaves) {
            (Form::Option, Family::V4) => option,
            _ => HEADER_LEN + option,
        }
    }
}

/// Why a packet was not given the address; it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInserted {
    /// The IP header, or the IP packet, would be longer than it may be.
    #[error("IP header or packet has no room for the client's address")]
    NoRoom,
    /// What follows the IP header is not UDP: a fragment, or an IPv6 extension header.
    #[error("no whole UDP datagram follows the IP header")]
    NotUdp,
    /// The packet buffer has not as many bytes in front.
    #[error("packet buffer has no headroom for the client's address")]
    NoHeadroom,
}

/// Header and option, or the option alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; LEN_MAX],
    start: u8,
    end: u8,
}

impl Encoded {
    /// Its bytes: 8 or 20, with the header 12 or 24.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start.into()..self.end.into()).unwrap_or_default()
    }
}

/// The option with a client's address, behind the header if `with_header`.
#[must_use]
pub fn encode(with_header: bool, client_addr: IpAddr, client_port: U16) -> Encoded {
    let (version, option_len) = match client_addr {
        IpAddr::V4(_) => (VERSION_V4, OPTION_LEN_V4),
        IpAddr::V6(_) => (VERSION_V6, OPTION_LEN_V6),
    };
    let end = HEADER_LEN + option_len;
    let [p0, p1] = client_port.to_bytes();
    let front = [version << 4, ipv4::PROTO_UDP, 0, end as u8, OPTION_TYPE, option_len as u8, p0, p1];
    let mut bytes = [0; LEN_MAX];
    bytes[..front.len()].copy_from_slice(&front);
    match client_addr {
        IpAddr::V4(addr) => bytes[front.len()..][..4].copy_from_slice(&addr.octets()),
        IpAddr::V6(addr) => bytes[front.len()..].copy_from_slice(&addr.octets()),
    }
    Encoded { bytes, start: if with_header { 0 } else { HEADER_LEN as u8 }, end: end as u8 }
}

/// What a receiver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address.
    pub addr: IpAddr,
    /// The client's port.
    pub port: U16,
}

/// Reads one option, which must be given whole and have one of both lengths.
#[must_use]
pub fn decode_option(option: &[u8]) -> Option<Client> {
    let (&[kind, len, p0, p1], addr) = option.split_first_chunk::<4>()?;
    let addr = match (usize::from(len), option.len()) {
        _ if kind != OPTION_TYPE => return None,
        (OPTION_LEN_V4, OPTION_LEN_V4) => IpAddr::V4(Ipv4Addr::from_octets(*addr.first_chunk()?)),
        (OPTION_LEN_V6, OPTION_LEN_V6) => IpAddr::V6(Ipv6Addr::from_octets(*addr.first_chunk()?)),
        _ => return None,
    };
    Some(Client { addr, port: U16::from_bytes([p0, p1]) })
}

/// Reads what stands behind an IP header whose protocol is [`PROTOCOL`]: the client, and how many bytes are in front of
/// the UDP header. `None` for all that is not exactly as in the module's chart.
#[must_use]
pub fn decode_header(payload: &[u8]) -> Option<(Client, usize)> {
    let (&[version, protocol, l0, l1], _) = payload.split_first_chunk::<4>()?;
    let len = usize::from(U16::from_bytes([l0, l1]).get());
    let client = decode_option(payload.get(HEADER_LEN..len)?)?;
    let wanted = if client.addr.is_ipv4() { VERSION_V4 } else { VERSION_V6 };
    (version == wanted << 4 && protocol == ipv4::PROTO_UDP).then_some((client, len))
}

/// The first option of an IPv4 header that tells a client, as a receiver finds it; `options` stand behind the fixed header.
#[must_use]
pub fn find_option(options: &[u8]) -> Option<Client> {
    // END, NOP, and kinds with a length, as TCP has them (RFC 791 §3.1).
    options::iter(options).map_while(Result::ok).find_map(|option| decode_option(option.bytes(options)))
}

/// Overwrites all options of this type in an IPv4 `header`, of whatever length, with NOPs, and corrects its checksum.
#[inline]
pub fn strip(header: &mut [u8]) -> Stripped {
    let Some((fixed, options)) = header.split_at_mut_checked(ipv4::HEADER_LEN) else {
        return Stripped::default();
    };
    if options.is_empty() {
        return Stripped::default();
    }
    let stripped = options::strip_where(options, |kind, _| kind == OPTION_TYPE);
    if let Some(ip) = crate::view_mut::<ipv4::Header>(fixed, 0) {
        ip.checksum = stripped.delta.apply(ip.checksum);
    }
    stripped
}

/// Puts the client's address into a whole UDP datagram whose IP header begins at `l3_offset`: in front of all options, or
/// between IP and UDP. Lengths and the IPv4 header's checksum are corrected. Whether the packet still fits the MTU, and
/// whether options that could be taken for ours are gone, is to be asked before.
///
/// # Errors
/// There is no room in the header, in the IP packet or in the buffer, or this is no whole datagram.
pub fn insert<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    form: Form,
    client: Client,
) -> Result<(), NotInserted> {
    match Family::of(packet.data().get(l3_offset..).unwrap_or_default()) {
        Some(Family::V4) => insert_v4(packet, l3_offset, form, client),
        Some(Family::V6) => insert_v6(packet, l3_offset, client),
        None => Err(NotInserted::NotUdp),
    }
}

fn insert_v4<P: PacketBuf>(
    packet: &mut P,
    l3_offset: usize,
    form: Form,
    client: Client,
) -> Result<(), NotInserted> {
    let bytes = encode(form == Form::Header, client.addr, client.port);
    let bytes = bytes.as_bytes();
    let old: ipv4::Header = *crate::view(packet.data(), l3_offset).ok_or(NotInserted::NotUdp)?;
    if old.protocol != ipv4::PROTO_UDP || old.is_fragment() {
        return Err(NotInserted::NotUdp);
    }
    let mut new = old;
    let new_len = old.total_len.get().checked_add(bytes.len() as u16).ok_or(NotInserted::NoRoom)?;
    new.total_len = U16::new(new_len);
    let mut delta = Delta::ZERO.replace16(old.total_len, new.total_len);
    let at = match form {
        Form::Option => {
            if old.header_len() + bytes.len() > ipv4::HEADER_LEN_MAX {
                return Err(NotInserted::NoRoom);
            }
            new.version_ihl += (bytes.len() / 4) as u8;
            delta = delta.replace8_at(0, old.version_ihl, new.version_ihl).add_bytes(bytes);
            ipv4::HEADER_LEN
        }
        Form::Header => {
            new.protocol = PROTOCOL;
            delta = delta.replace8_at(1, old.protocol, new.protocol);
            old.header_len()
        }
    };
    new.checksum = delta.apply(old.checksum);
    open(packet, l3_offset + at, bytes)?;
    if let Some(header) = crate::view_mut(packet.data_mut(), l3_offset) {
        *header = new;
    }
    Ok(())
}

fn insert_v6<P: PacketBuf>(packet: &mut P, l3_offset: usize, client: Client) -> Result<(), NotInserted> {
    let bytes = encode(true, client.addr, client.port);
    let bytes = bytes.as_bytes();
    let mut new: ipv6::Header = *crate::view(packet.data(), l3_offset).ok_or(NotInserted::NotUdp)?;
    if new.next_header != ipv4::PROTO_UDP {
        return Err(NotInserted::NotUdp);
    }
    let new_len = new.payload_len.get().checked_add(bytes.len() as u16).ok_or(NotInserted::NoRoom)?;
    (new.payload_len, new.next_header) = (U16::new(new_len), PROTOCOL);
    open(packet, l3_offset + ipv6::HEADER_LEN, bytes)?;
    if let Some(header) = crate::view_mut(packet.data_mut(), l3_offset) {
        *header = new;
    }
    Ok(())
}

/// Puts `bytes` at this offset by moving what is in front of it forward into the headroom.
fn open<P: PacketBuf>(packet: &mut P, at: usize, bytes: &[u8]) -> Result<(), NotInserted> {
    if packet.data().len() < at {
        return Err(NotInserted::NotUdp);
    }
    if !packet.push_front(bytes.len()) {
        return Err(NotInserted::NoHeadroom);
    }
    let data = packet.data_mut();
    data.copy_within(bytes.len()..bytes.len() + at, 0);
    if let Some(room) = data.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
