//! The TOA option: what clients send of it is overwritten, ours is inserted, and the MSS is lowered to make room.

use arrayvec::ArrayVec;
use wire::checksum::Delta;
use wire::tcp::options::Lowered;
use wire::{PacketBuf, U16, U32, tcp, toa, view_mut};

use super::{Ip, headers};
use crate::addr::Endpoint;

/// The MSS is never lowered below the smallest that every IPv4 host must take (RFC 9293 §3.7.1), less TOA.
const MSS_MIN: u16 = 536;

/// Bytes that a translated packet may need in front: the longest option, and an IPv6 header for an IPv4 header.
pub(crate) const HEADROOM_MAX: usize = toa::V6_LEN + 20;

/// A TOA option, ready to be inserted.
pub(crate) type Toa = ArrayVec<u8, { toa::V6_LEN }>;

/// Length of the option that carries this client, in bytes.
#[inline(always)]
pub(crate) fn toa_len(client_is_v6: bool) -> usize {
    if client_is_v6 { toa::V6_LEN } else { toa::V4_LEN }
}

/// The option that carries `client`.
pub(crate) fn toa_of(kind: u8, client: Endpoint) -> Toa {
    let port = U16::from_bytes(client.port.to_ne_bytes());
    match client.addr.v4() {
        Some(word) => toa::encode_v4(kind, U32::from_bytes(word.to_ne_bytes()), port).into_iter().collect(),
        None => toa::encode_v6(kind, &client.addr.octets(), port).into(),
    }
}

/// Lowers the MSS of a SYN-ACK, so that a full segment of the client leaves room for TOA.
pub(crate) fn lower_mss(segment: &mut [u8], by: usize) -> Option<Lowered> {
    let by = by as u16;
    tcp::options::lower_mss(tcp::options_of_mut(segment)?, by, MSS_MIN.saturating_sub(by))
}

/// What came of inserting TOA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    Yes,
    /// The TCP header has not enough bytes left.
    NoRoom,
}

/// Inserts a TOA option right behind the fixed TCP header and adds what that changes to the two differences. The
/// headers move forward into the headroom, of which the caller saw that there is enough; the payload stays where it is.
/// Where `may_grow` is false the padding of the other options must make room.
pub(crate) fn insert_toa<P: PacketBuf>(
    packet: &mut P,
    (l4, wide): (usize, bool),
    option: &[u8],
    may_grow: bool,
    ip_delta: &mut Delta,
    l4_delta: &mut Delta,
) -> Inserted {
    let Some(h) = headers(packet.data_mut(), l4, wide) else { return Inserted::NoRoom };
    let Some(tcp) = view_mut::<tcp::Header>(h.l4, 0) else { return Inserted::NoRoom };
    let header_len = usize::from(tcp.data_offset >> 4) * 4;
    if !may_grow || header_len + option.len() > tcp::HEADER_LEN_MAX {
        let options = tcp::options_of_mut(h.l4).unwrap_or_default();
        let Some(change) = replace_padding(options, option) else { return Inserted::NoRoom };
        *l4_delta += change;
        return Inserted::Yes;
    }
    if !packet.push_front(option.len()) {
        return Inserted::NoRoom;
    }
    let data = packet.data_mut();
    let option_at = l4 + size_of::<tcp::Header>();
    data.copy_within(option.len()..option.len() + option_at, 0);
    if let Some(room) = data.get_mut(option_at..option_at + option.len()) {
        room.copy_from_slice(option);
    }
    *l4_delta = l4_delta.add_bytes(option);
    let Some(h) = headers(data, l4, wide) else { return Inserted::NoRoom };
    let Some(tcp) = view_mut::<tcp::Header>(h.l4, 0) else { return Inserted::NoRoom };
    let before = U16::from_bytes([tcp.data_offset, tcp.flags]);
    tcp.data_offset = tcp.data_offset.wrapping_add((option.len() as u8 / 4) << 4);
    *l4_delta = l4_delta.replace16(before, U16::from_bytes([tcp.data_offset, tcp.flags]));
    let grown = |len: U16| U16::new(len.get().wrapping_add(option.len() as u16));
    match h.ip {
        Ip::V4(ip) => {
            let old_len = ip.total_len;
            ip.total_len = grown(old_len);
            *ip_delta = ip_delta.replace16(old_len, ip.total_len);
        }
        Ip::V6(ip) => ip.payload_len = grown(ip.payload_len),
    }
    // The pseudo header holds the TCP length.
    *l4_delta = l4_delta.add16(U16::new(option.len() as u16));
    Inserted::Yes
}

/// Puts `first` in front of the options in the space of their padding; `None`, and no change, when there is not enough.
/// What a client padded, what was stripped and what no receiver reads gives way, so it cannot hide behind that.
fn replace_padding(options: &mut [u8], first: &[u8]) -> Option<Delta> {
    let mut packed: ArrayVec<u8, { tcp::OPTIONS_LEN_MAX }> = ArrayVec::new();
    packed.try_extend_from_slice(first).ok()?;
    // Receivers stop at the first malformed option, too; what stands behind it is padding to them.
    for option in tcp::options::iter(options).map_while(Result::ok) {
        packed.try_extend_from_slice(option.bytes(options)).ok()?;
    }
    if packed.len() > options.len() {
        return None;
    }
    let mut padded = [tcp::options::KIND_NOP; tcp::OPTIONS_LEN_MAX];
    padded[..packed.len()].copy_from_slice(&packed);
    let padded = &padded[..options.len()];
    let change = Delta::ZERO.replace_bytes(options, padded);
    options.copy_from_slice(padded);
    Some(change)
}

#[cfg(test)]
mod tests {
    use wire::build::TcpFrame;

    use super::*;

    #[test]
    fn a_small_mss_is_lowered_to_536_less_toa_of_either_family() {
        for (mss, by, lowered) in [
            (530u16, toa::V4_LEN, 528),
            (530, toa::V6_LEN, 516),
            (536, toa::V4_LEN, 528),
            (520, toa::V4_LEN, 520),
        ] {
            let [high, low] = mss.to_be_bytes();
            let mut segment = TcpFrame { options: vec![2, 4, high, low], ..TcpFrame::default() }.segment();
            assert_eq!(lower_mss(&mut segment, by).map(|done| done.new), Some(lowered), "{mss} by {by}");
        }
    }
}
