//! The packet that an ICMP or ICMPv6 error quotes: finding whose it is, and rewriting it as its connection is
//! translated.
//!
//! ```text
//! | ICMP header (8) | quoted IP header, options or extension headers | quoted TCP, UDP, SCTP … |
//! 0                 l3_offset                                         l4_offset              end
//! ```
//!
//! A quote is cut short anywhere behind the 8 bytes that RFC 792 asks for; behind its end there may be
//! extensions (RFC 4884). Lengths that it claims are those of the packet before it was cut. Whoever receives
//! the error believes it only if addresses, ports and the TCP sequence number (RFC 5927 §4.1) are those that
//! he sent, so all of them are put back, and every checksum with them: the quoted ones, where they are in the
//! quote, and the message's own.
//!
//! What the gateway sent of UDP may have told the client in a header between IP and UDP ([`uoa`]). [`find`] steps over
//! it, and [`untell`] takes it out, before anything is rewritten.
//!
//! A message here begins with its ICMP header and ends where the IP payload does, without Ethernet padding.

use crate::checksum::{self, Delta, Sum};
use crate::nat64::{self, NextHopMtus};
use crate::{Addresses, Family, IntoBytes, U16, U32, icmp, icmpv6, ipv4, ipv6, uoa};

/// Where the quoted IP header begins.
const L3_OFFSET: usize = icmp::HEADER_LEN;
const TCP_SEQ_OFFSET: usize = 4;
const TCP_CHECKSUM_OFFSET: usize = 16;
const UDP_CHECKSUM_OFFSET: usize = 6;

/// Why the quoted packet cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The message is no error, so it quotes nothing.
    #[error("ICMP type {0} is no error and quotes no packet")]
    NotAnError(u8),
    /// The message ends before it quotes addresses and ports.
    #[error("ICMP error of {0} bytes ends before the ports of the packet that it quotes")]
    TooShort(usize),
    /// What is quoted is not of the message's own family, or contradicts itself.
    #[error("ICMP error quotes something that is no valid IP header")]
    BadHeader,
    /// The quoted packet is a fragment behind the first, which has no ports.
    #[error("ICMP error quotes a fragment behind the first, which has no ports")]
    LaterFragment,
    /// The quoted packet's protocol has no ports.
    #[error("ICMP error quotes protocol {0}, which has no ports")]
    NoPorts(u8),
}

/// A quoted packet; offsets are from the first byte of the ICMP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its addresses: `src` is who sent the packet that met the error, so the message goes to him.
    pub addresses: Addresses,
    /// Its protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Its source port.
    pub src_port: U16,
    /// Its destination port.
    pub dst_port: U16,
    /// Where its IP header begins.
    pub l3_offset: usize,
    /// Where its TCP, UDP or SCTP header begins, of which at least 4 bytes are there.
    pub l4_offset: usize,
    /// Where what is there of it ends.
    pub end: usize,
    /// Whether it is the first fragment of a packet.
    pub is_fragment: bool,
    /// Bytes of the header of UOA between its IP and UDP headers; see [`untell`].
    pub told_len: usize,
}

impl Quote {
    /// Family of the quoted packet.
    #[inline]
    #[must_use]
    pub const fn family(&self) -> Family {
        self.addresses.family()
    }
}

/// Finds the packet that `message` quotes, an ICMP message ([`Family::V4`]) or an ICMPv6 message
/// ([`Family::V6`]).
///
/// # Errors
/// The message is no error, or what it quotes does not tell a connection.
pub fn find(message: &[u8], family: Family) -> Result<Quote, Unusable> {
    let too_short = Unusable::TooShort(message.len());
    let header: &icmp::Header = crate::view(message, 0).ok_or(too_short)?;
    let is_error = match family {
        Family::V4 => header.is_error(),
        Family::V6 => icmpv6::is_error_type(header.kind),
    };
    if !is_error {
        return Err(Unusable::NotAnError(header.kind));
    }
    let quoted = message.get(L3_OFFSET..quote_end(message, header, family)).unwrap_or_default();
    let found = match family {
        Family::V4 => found_v4(quoted, too_short)?,
        Family::V6 => found_v6(quoted, too_short)?,
    };
    if !found.is_first {
        return Err(Unusable::LaterFragment);
    }
    let quoted = quoted.get(..found.len).unwrap_or(quoted);
    let (protocol, told_len) = match found.protocol {
        protocol @ (ipv4::PROTO_TCP | ipv4::PROTO_UDP | ipv4::PROTO_SCTP) => (protocol, 0),
        uoa::PROTOCOL => {
            let behind_ip = quoted.get(found.l4_offset..).ok_or(too_short)?;
            let (_, len) = uoa::decode_header(behind_ip).ok_or(Unusable::NoPorts(uoa::PROTOCOL))?;
            (ipv4::PROTO_UDP, len)
        }
        other => return Err(Unusable::NoPorts(other)),
    };
    let l4_offset = found.l4_offset + told_len;
    let &[src_port, dst_port] = crate::view(quoted, l4_offset).ok_or(too_short)?;
    Ok(Quote {
        addresses: found.addresses,
        protocol,
        src_port,
        dst_port,
        l3_offset: L3_OFFSET,
        l4_offset: L3_OFFSET + l4_offset,
        end: L3_OFFSET + quoted.len(),
        is_fragment: found.is_fragment,
        told_len,
    })
}

/// Takes the header of UOA out of the packet that `message` quotes, so that it is what its sender sent, and returns the
/// quote as it is then. Checksums stay as right or wrong as they are. The message keeps its length, for others may tell
/// it (the IP header, extensions of RFC 4884): behind the quote are zeros.
///
/// `None`, and no change, when there is no such header or `quote` is not of this message.
#[must_use]
pub fn untell(message: &mut [u8], quote: &Quote) -> Option<Quote> {
    let start = quote.l4_offset.checked_sub(quote.told_len)?;
    if quote.told_len == 0 || start < quote.l3_offset || quote.l4_offset > quote.end {
        return None;
    }
    let (front, behind_ip) = message.get_mut(..quote.end)?.split_at_mut(start);
    let (header, packet) = front.split_at_mut_checked(quote.l3_offset)?;
    let in_header = untell_header(packet, quote.family(), quote.told_len as u16)?;
    let taken = Delta::ZERO.sub_bytes(behind_ip.get(..quote.told_len)?);
    behind_ip.copy_within(quote.told_len.., 0);
    let zeros = behind_ip.len() - quote.told_len;
    behind_ip[zeros..].fill(0);
    let header = crate::view_mut::<icmp::Header>(header, 0)?;
    header.checksum = (in_header + taken).apply(header.checksum);
    Some(Quote { l4_offset: start, end: quote.end - quote.told_len, told_len: 0, ..*quote })
}

/// Makes the IP header that `packet` begins with that of a datagram which is `less` bytes shorter; the result is how
/// that changes the packet's own sum.
fn untell_header(packet: &mut [u8], family: Family, less: u16) -> Option<Delta> {
    // Where the next protocol stands is the lower byte of a word in IPv4 (offset 9), the upper one in IPv6 (6).
    match family {
        Family::V4 => {
            let header: &mut ipv4::Header = crate::view_mut(packet, 0)?;
            let len = U16::new(header.total_len.get().checked_sub(less)?);
            let delta = Delta::ZERO.replace16(header.total_len, len);
            let delta = delta.replace8_at(1, header.protocol, ipv4::PROTO_UDP);
            let check = delta.apply(header.checksum);
            let in_packet = delta.replace16(header.checksum, check);
            (header.total_len, header.protocol, header.checksum) = (len, ipv4::PROTO_UDP, check);
            Some(in_packet)
        }
        Family::V6 => {
            let header: &mut ipv6::Header = crate::view_mut(packet, 0)?;
            // Behind extension headers, somebody else put it there.
            if header.next_header != uoa::PROTOCOL {
                return None;
            }
            let len = U16::new(header.payload_len.get().checked_sub(less)?);
            let delta = Delta::ZERO.replace16(header.payload_len, len);
            let in_packet = delta.replace8_at(0, header.next_header, ipv4::PROTO_UDP);
            (header.payload_len, header.next_header) = (len, ipv4::PROTO_UDP);
            Some(in_packet)
        }
    }
}

/// Where the quote ends and extensions may begin (RFC 4884 §4): some types tell its length in one of the
/// bytes that used to be zero, in words of 4 bytes in ICMP and of 8 in ICMPv6. A length beyond the message is
/// none.
fn quote_end(message: &[u8], header: &icmp::Header, family: Family) -> usize {
    let [byte_4, byte_5, ..] = header.rest.to_bytes();
    let len = match (family, header.kind) {
        (Family::V4, icmp::TYPE_UNREACHABLE | icmp::TYPE_TIME_EXCEEDED | icmp::TYPE_PARAMETER_PROBLEM) => {
            usize::from(byte_5) * 4
        }
        (Family::V6, icmpv6::TYPE_UNREACHABLE | icmpv6::TYPE_TIME_EXCEEDED) => usize::from(byte_4) * 8,
        _ => 0,
    };
    if len == 0 || L3_OFFSET + len > message.len() { message.len() } else { L3_OFFSET + len }
}

/// What an IP header says; offsets are from its first byte.
struct Found {
    addresses: Addresses,
    protocol: u8,
    l4_offset: usize,
    /// The packet's length before it was cut.
    len: usize,
    is_first: bool,
    is_fragment: bool,
}

fn found_v4(quoted: &[u8], too_short: Unusable) -> Result<Found, Unusable> {
    let header: &ipv4::Header = crate::view(quoted, 0).ok_or(too_short)?;
    let l4_offset = header.check(usize::MAX).map_err(|_| Unusable::BadHeader)?;
    Ok(Found {
        addresses: header.into(),
        protocol: header.protocol,
        l4_offset,
        len: usize::from(header.total_len.get()),
        is_first: header.fragment_offset() == 0,
        is_fragment: header.is_fragment(),
    })
}

fn found_v6(quoted: &[u8], too_short: Unusable) -> Result<Found, Unusable> {
    let header: &ipv6::Header = crate::view(quoted, 0).ok_or(too_short)?;
    let len = header.check(usize::MAX).map_err(|_| Unusable::BadHeader)?;
    let upper = ipv6::walk_extensions(quoted).map_err(|error| match error {
        ipv6::HeaderError::Truncated { .. } => too_short,
        _ => Unusable::BadHeader,
    })?;
    Ok(Found {
        addresses: header.into(),
        protocol: upper.protocol,
        l4_offset: upper.offset,
        len,
        is_first: upper.is_first(),
        is_fragment: upper.fragment.is_some_and(|fragment| !fragment.is_atomic()),
    })
}

/// What a quoted packet is to say instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Its addresses.
    pub addresses: Addresses,
    /// Its source port.
    pub src_port: U16,
    /// Its destination port.
    pub dst_port: U16,
    /// What is added to its TCP sequence number; zero where the connection's numbers are not shifted.
    pub seq_shift: u32,
}

/// Rewrites the quoted packet in place, with its own checksums and that of the message. `quote` is what
/// [`find`] found in this very message.
///
/// `outer` is what else changes in what the message's checksum covers: over IPv6 the addresses of the message
/// itself ([`Delta::replace128`]), over IPv4 nothing.
///
/// `false`, and no change, when `new` is of the other family, or when `quote` is not of this message.
#[must_use]
pub fn rewrite(message: &mut [u8], quote: &Quote, new: &Rewrite, outer: Delta) -> bool {
    let fits = quote.l4_offset + 4 <= quote.end && quote.end <= message.len();
    if !fits || new.addresses.family() != quote.family() {
        return false;
    }
    let (front, segment) = message[..quote.end].split_at_mut(quote.l4_offset);
    let Some((header, quoted)) = front.split_at_mut_checked(quote.l3_offset) else { return false };
    let Some((addresses, in_header)) = write_addresses(quoted, &new.addresses) else { return false };
    let Some(header) = crate::view_mut::<icmp::Header>(header, 0) else { return false };
    let delta = outer + in_header + rewrite_segment(segment, quote.protocol, new, addresses);
    header.checksum = delta.apply(header.checksum);
    true
}

/// Writes addresses into the IP header that `packet` begins with. The result is how that changes what a
/// pseudo header holds, and how it changes the packet's own sum, the IPv4 header's checksum included.
fn write_addresses(packet: &mut [u8], new: &Addresses) -> Option<(Delta, Delta)> {
    match new {
        Addresses::V4 { src, dst } => {
            let header: &mut ipv4::Header = crate::view_mut(packet, 0)?;
            let addresses = Delta::ZERO.replace32(header.src, *src).replace32(header.dst, *dst);
            let check = addresses.apply(header.checksum);
            let in_packet = addresses.replace16(header.checksum, check);
            (header.src, header.dst, header.checksum) = (*src, *dst, check);
            Some((addresses, in_packet))
        }
        Addresses::V6 { src, dst } => {
            let header: &mut ipv6::Header = crate::view_mut(packet, 0)?;
            let addresses = Delta::ZERO.replace128(&header.src, src).replace128(&header.dst, dst);
            (header.src, header.dst) = (*src, *dst);
            Some((addresses, addresses))
        }
    }
}

/// Rewrites what is there of a TCP, UDP or SCTP header, given how its pseudo header changes; the result is
/// how that changes the sum of `segment`.
fn rewrite_segment(segment: &mut [u8], protocol: u8, new: &Rewrite, pseudo: Delta) -> Delta {
    let mut delta = Delta::ZERO;
    if let Some([src_port, dst_port]) = crate::view_mut::<[U16; 2]>(segment, 0) {
        delta = delta.replace16(*src_port, new.src_port).replace16(*dst_port, new.dst_port);
        (*src_port, *dst_port) = (new.src_port, new.dst_port);
    }
    if protocol == ipv4::PROTO_TCP
        && let Some(seq) = crate::view_mut::<U32>(segment, TCP_SEQ_OFFSET)
    {
        let shifted = U32::new(seq.get().wrapping_add(new.seq_shift));
        delta = delta.replace32(*seq, shifted);
        *seq = shifted;
    }
    let covered = pseudo + delta;
    let checksum_at = match protocol {
        ipv4::PROTO_TCP => TCP_CHECKSUM_OFFSET,
        ipv4::PROTO_UDP => UDP_CHECKSUM_OFFSET,
        // SCTP's is no Internet checksum; nobody verifies a quoted one.
        _ => return delta,
    };
    let Some(check) = crate::view_mut::<U16>(segment, checksum_at) else { return delta };
    let old = *check;
    *check = if protocol == ipv4::PROTO_UDP { covered.apply_udp(old) } else { covered.apply(old) };
    delta.replace16(old, *check)
}

/// Writes the ICMPv6 error that an ICMP error becomes (RFC 7915 §4.2, §4.3) into `out`, which is to go
/// between the addresses `outer`. `quote` is what [`find`] found in `message`, and `new`, of IPv6, what the
/// quoted packet was before it was translated.
///
/// The result is the new message's length: the quote is cut so that it fits 1280 bytes with an IPv6 header.
/// `None` when the error is not one to be translated, when the message's checksum is wrong (a new one would
/// hide it), or when `out` has no room for the ports.
#[must_use]
pub fn translate_v4_to_v6(
    message: &[u8],
    quote: &Quote,
    new: &Rewrite,
    outer: (&[u8; 16], &[u8; 16]),
    mtus: NextHopMtus,
    out: &mut [u8],
) -> Option<usize> {
    let Addresses::V6 { src, dst } = &new.addresses else { return None };
    let header: &icmp::Header = crate::view(message, 0)?;
    let quoted: &ipv4::Header = crate::view(message, quote.l3_offset)?;
    if quote.family() != Family::V4 || !Sum::ZERO.bytes(message).is_valid() {
        return None;
    }
    let error = (header.kind, header.code, header.rest);
    let error = nat64::error_v4_to_v6(error, quoted.total_len.get(), mtus)?;
    let headers = nat64::v4_to_v6(quoted, (src, dst), quoted.ttl);
    let mut front = [0; ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN];
    let front_len = headers.write(&mut front)?;
    let pseudo = nat64::pseudo_v4_to_v6((quoted.src, quoted.dst), (src, dst));
    let segment = message.get(quote.l4_offset..quote.end)?;
    let room = icmpv6::HEADER_LEN + icmpv6::QUOTE_LEN_MAX;
    let out = assemble(&front[..front_len], segment, out.get_mut(..room.min(out.len()))?)?;
    rewrite_segment(&mut out[icmp::HEADER_LEN + front_len..], quote.protocol, new, pseudo);
    icmp::write_header(out, error, |message| checksum::icmp_v6(outer.0, outer.1, message));
    Some(out.len())
}

/// Writes the ICMP error that an ICMPv6 error becomes (RFC 7915 §5.2, §5.3) into `out`. `outer` are the
/// addresses that the ICMPv6 message came between, `quote` is what [`find`] found in it, and `new`, of IPv4,
/// what the quoted packet was before it was translated; the identification of that is not known and quoted as
/// zero.
///
/// The result is the new message's length: the quote is cut so that it fits 576 bytes with an IPv4 header.
/// `None` when the error is not one to be translated, when the message's checksum is wrong (a new one would
/// hide it), or when `out` has no room for the ports.
#[must_use]
pub fn translate_v6_to_v4(
    message: &[u8],
    quote: &Quote,
    new: &Rewrite,
    outer: (&[u8; 16], &[u8; 16]),
    mtus: NextHopMtus,
    out: &mut [u8],
) -> Option<usize> {
    let Addresses::V4 { src, dst } = new.addresses else { return None };
    let header: &icmp::Header = crate::view(message, 0)?;
    let quoted: &ipv6::Header = crate::view(message, quote.l3_offset)?;
    let len = U32::new(message.len() as u32);
    let sum = checksum::pseudo_v6(outer.0, outer.1, ipv4::PROTO_ICMPV6, len).bytes(message);
    if quote.family() != Family::V6 || !sum.is_valid() {
        return None;
    }
    let upper = ipv6::walk_extensions(message.get(quote.l3_offset..quote.end)?).ok()?;
    let error = (header.kind, header.code, header.rest);
    let error = nat64::error_v6_to_v4(error, upper.fragment.is_some(), mtus)?;
    let front = nat64::v6_to_v4(quoted, &upper, (src, dst), U16::ZERO, quoted.hop_limit)?;
    let pseudo = nat64::pseudo_v4_to_v6((src, dst), (&quoted.src, &quoted.dst)).negated();
    let segment = message.get(quote.l4_offset..quote.end)?;
    let room = icmp::HEADER_LEN + icmp::QUOTE_LEN_MAX;
    let out = assemble(front.as_bytes(), segment, out.get_mut(..room.min(out.len()))?)?;
    rewrite_segment(&mut out[icmp::HEADER_LEN + ipv4::HEADER_LEN..], quote.protocol, new, pseudo);
    icmp::write_header(out, error, checksum::icmp);
    Some(out.len())
}

/// Puts a quote together behind room for the ICMP header: the IP header, and as much of the segment as fits,
/// which must be the ports at least. The result is room and quote.
fn assemble<'a>(quoted: &[u8], segment: &[u8], out: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let room = out.len().checked_sub(icmp::HEADER_LEN + quoted.len())?;
    let segment = &segment[..segment.len().min(room)];
    if segment.len() < 4 {
        return None;
    }
    let out = out.get_mut(..icmp::HEADER_LEN + quoted.len() + segment.len())?;
    let (quoted_header, quoted_segment) = out[icmp::HEADER_LEN..].split_at_mut(quoted.len());
    quoted_header.copy_from_slice(quoted);
    quoted_segment.copy_from_slice(segment);
    Some(out)
}

#[cfg(test)]
mod tests;
