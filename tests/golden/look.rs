//! A second opinion on frames, taken from the bytes: which packet is in which, and whether all checksums are right.

use std::net::IpAddr;

use wire::{checksum, ipv4};

use crate::frame::upper_checksum;

/// Protocol of the header that tells a UDP flow's client.
pub(crate) const UOA: u8 = 248;
/// The port by which GUE is told from other UDP in all cases.
pub(crate) const GUE_PORT: u16 = 6080;

/// An IP packet.
pub(crate) struct Packet<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Of what stands behind options and extension headers.
    pub(crate) protocol: u8,
    pub(crate) flow_label: u32,
    /// IPv4: its header.
    header: Option<&'a [u8]>,
    pub(crate) is_fragment: bool,
    /// A fragment behind the first one, which has no transport header.
    is_later: bool,
    pub(crate) payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl<'a> Packet<'a> {
    /// The packet that `bytes` begin with; `None` when it is not whole.
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Packet<'a>> {
        match bytes.first()? >> 4 {
            4 => Packet::v4(bytes),
            6 => Packet::v6(bytes),
            _ => None,
        }
    }

    fn v4(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        Some(Packet {
            src: address(12)?,
            dst: address(16)?,
            protocol: *bytes.get(9)?,
            flow_label: 0,
            header: Some(bytes.get(..header_len)?),
            is_fragment: word(bytes, 6)? & 0x3fff != 0,
            is_later: word(bytes, 6)? & 0x1fff != 0,
            payload: bytes.get(header_len..word(bytes, 2)?.into())?,
        })
    }

    fn v6(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
        let mut payload = bytes.get(40..40 + usize::from(word(bytes, 4)?))?;
        let mut protocol = bytes[6];
        let (mut is_fragment, mut is_later) = (false, false);
        // Hop-by-hop, routing and destination options have one layout (RFC 8200 §4.2).
        while let (0 | 43 | 44 | 60, false) = (protocol, is_later) {
            let mut len = (usize::from(*payload.get(1)?) + 1) * 8;
            if protocol == 44 {
                let field = word(payload, 2)?;
                // Of a packet in one fragment all is there (RFC 6946).
                (is_fragment, is_later, len) = (field & 0xfff9 != 0, field >> 3 != 0, 8);
            }
            protocol = *payload.first()?;
            payload = payload.get(len..)?;
        }
        let flow_label = u32::from_be_bytes(bytes[..4].try_into().ok()?) & 0x000f_ffff;
        let (src, dst) = (address(8)?, address(24)?);
        Some(Packet { src, dst, protocol, flow_label, header: None, is_fragment, is_later, payload })
    }

    /// Source and destination port of TCP and UDP, as far as they are here.
    pub(crate) fn ports(&self) -> Option<[u16; 2]> {
        let has_ports = matches!(self.protocol, ipv4::PROTO_TCP | ipv4::PROTO_UDP | UOA) && !self.is_later;
        // Behind a header that tells the client (UOA), whose length it says.
        let at = if self.protocol == UOA { usize::from(word(self.payload, 2)?) } else { 0 };
        if has_ports { Some([word(self.payload, at)?, word(self.payload, at + 2)?]) } else { None }
    }

    /// The packet in this one, if it is a tunnel's.
    pub(crate) fn inner(&self) -> Option<Packet<'a>> {
        let skipped = match self.protocol {
            ipv4::PROTO_IPIP | ipv4::PROTO_IPV6 => 0,
            ipv4::PROTO_GRE => 4 + usize::from(self.payload.first()? >> 7) * 4,
            ipv4::PROTO_UDP if self.ports()?[1] == GUE_PORT => 12,
            _ => return None,
        };
        Packet::of(self.payload.get(skipped..)?)
    }

    /// The innermost packet.
    pub(crate) fn innermost(self) -> Packet<'a> {
        match self.inner() {
            Some(inner) => inner.innermost(),
            None => self,
        }
    }

    /// The options of a TCP segment.
    pub(crate) fn tcp_options(&self) -> Option<&'a [u8]> {
        let len = usize::from(self.payload.get(12)? >> 4) * 4;
        self.payload.get(20..len)
    }

    /// Whether all checksums are right, those in the tunnel too.
    pub(crate) fn is_intact(&self) -> bool {
        let header = self.header.is_none_or(checksum::verify_ipv4);
        let upper = self.is_fragment || self.upper_is_intact().unwrap_or(false);
        header && upper && self.inner().is_none_or(|inner| inner.is_intact())
    }

    fn upper_is_intact(&self) -> Option<bool> {
        let at = match self.protocol {
            ipv4::PROTO_TCP => 16,
            ipv4::PROTO_UDP => 6,
            ipv4::PROTO_ICMP | ipv4::PROTO_ICMPV6 => 2,
            ipv4::PROTO_GRE if self.payload.first()? >> 7 == 1 => {
                return Some(checksum::internet(self.payload).get() == 0);
            }
            _ => return Some(true),
        };
        let found = self.payload.get(at..at + 2)?;
        // UDP may go without over IPv4, and over IPv6 in tunnels (RFC 8200 §8.1).
        if self.protocol == ipv4::PROTO_UDP && found == [0, 0] {
            return Some(self.header.is_some() || self.inner().is_some());
        }
        let mut payload = self.payload.to_vec();
        if self.protocol == ipv4::PROTO_UDP {
            // What stands behind the datagram is not under its checksum (RFC 9868).
            payload.truncate(word(self.payload, 4)?.into());
        }
        payload.get_mut(at..at + 2)?.fill(0);
        Some(upper_checksum(self.protocol, (self.src, self.dst), &payload).to_bytes() == found)
    }
}
