//! Rewriting a segment: endpoints, TTL, checksums, the TOA option, the MSS.
//!
//! Checksums are always updated incrementally (RFC 1624), so a segment that came in corrupt leaves corrupt and its
//! receiver sees it.

use arrayvec::ArrayVec;
use wire::checksum::Delta;
use wire::tcp::options::Lowered;
use wire::{PacketBuf, U16, U32, ethernet, ipv4, tcp, toa};
use zerocopy::FromBytes;

use crate::conn::{Conn, Deltas, Direction};
use crate::fib::Adjacency;
use crate::snapshot::Endpoint4;

/// Bytes of the IPv4 form of the TOA option.
pub(crate) const TOA_V4_LEN: usize = toa::V4_LEN;
/// The MSS is never lowered below the smallest that every IPv4 host must take (RFC 9293 §3.7.1: 536), less TOA.
const MSS_FLOOR: u16 = 536 - TOA_V4_LEN as u16;

/// Mutable views of the headers of a frame whose TCP header starts at `l4`.
pub(crate) struct Headers<'a> {
    pub eth: &'a mut ethernet::Header,
    pub ip: &'a mut ipv4::Header,
    pub tcp: &'a mut tcp::Header,
    /// What follows the fixed TCP header.
    pub rest: &'a mut [u8],
}

/// `None` only if the frame is shorter than its parsed offsets, which cannot be.
#[inline(always)]
pub(crate) fn headers(data: &mut [u8], l4: usize) -> Option<Headers<'_>> {
    let (front, back) = data.split_at_mut_checked(l4)?;
    let (eth, front) = ethernet::Header::mut_from_prefix(front).ok()?;
    let (ip, _) = ipv4::Header::mut_from_prefix(front).ok()?;
    let (tcp, rest) = tcp::Header::mut_from_prefix(back).ok()?;
    Some(Headers { eth, ip, tcp, rest })
}

impl Headers<'_> {
    /// The TCP options.
    #[inline(always)]
    pub(crate) fn options(&mut self) -> &mut [u8] {
        let len = (usize::from(self.tcp.data_offset >> 4) * 4).saturating_sub(size_of::<tcp::Header>());
        self.rest.get_mut(..len).unwrap_or_default()
    }

    /// Puts the packet between its new endpoints and lowers the TTL; `l4` holds other changes to the segment that
    /// the TCP checksum covers, `ip` those that the IP checksum covers.
    pub(crate) fn rewrite(&mut self, conn: &Conn, direction: Direction, ip: Delta, l4: Delta) {
        let (key, deltas) = (conn.translated(direction), conn.deltas[direction as usize]);
        let (src, dst) = (key.src(), key.dst());
        self.ip.src = U32::from_bytes(src.addr.to_ne_bytes());
        self.ip.dst = U32::from_bytes(dst.addr.to_ne_bytes());
        self.tcp.src_port = U16::from_bytes(src.port.to_ne_bytes());
        self.tcp.dst_port = U16::from_bytes(dst.port.to_ne_bytes());
        self.ip.ttl = self.ip.ttl.wrapping_sub(1);
        self.ip.checksum = (ip + Delta::from_folded(deltas.ip)).apply(self.ip.checksum);
        self.tcp.checksum = (l4 + Delta::from_folded(deltas.l4)).apply(self.tcp.checksum);
    }

    /// Fills in the Ethernet header; `false` when the next hop's MAC address is not known.
    #[inline(always)]
    pub(crate) fn address(&mut self, adjacency: &Adjacency) -> bool {
        let Some(destination) = adjacency.destination else { return false };
        self.eth.src = adjacency.source;
        self.eth.dst = destination;
        true
    }

    /// Lowers the MSS of a SYN-ACK, so that a full segment of the client leaves room for TOA.
    pub(crate) fn lower_mss(&mut self, by: u16) -> Option<Lowered> {
        tcp::options::lower_mss(self.options(), by, MSS_FLOOR)
    }
}

/// What translation changes in the checksums of this connection's packets, by direction.
pub(crate) fn deltas(conn: &Conn) -> [Deltas; 2] {
    [Direction::Inbound, Direction::Outbound].map(|direction| {
        let (old, new) = (conn.key(direction), conn.translated(direction));
        let addr = |endpoint: Endpoint4| U32::from_bytes(endpoint.addr.to_ne_bytes());
        let port = |endpoint: Endpoint4| U16::from_bytes(endpoint.port.to_ne_bytes());
        let addrs = Delta::ZERO
            .replace32(addr(old.src()), addr(new.src()))
            .replace32(addr(old.dst()), addr(new.dst()));
        let ports = Delta::ZERO
            .replace16(port(old.src()), port(new.src()))
            .replace16(port(old.dst()), port(new.dst()));
        // The TTL is the first byte of its word, so one less there is 0x0100 less, whatever it was.
        let ttl = Delta::ZERO.replace16(U16::new(0x0100), U16::new(0));
        Deltas { ip: (addrs + ttl).to_folded(), l4: (addrs + ports).to_folded() }
    })
}

/// What came of inserting TOA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    Yes,
    /// The TCP header has no 8 bytes left.
    NoRoom,
    /// The packet buffer has no 8 bytes in front.
    NoHeadroom,
}

/// Inserts the TOA option right behind the fixed TCP header and adds what that changes to the two differences. The
/// headers move forward into the headroom, the payload stays where it is.
pub(crate) fn insert_toa<P: PacketBuf>(
    packet: &mut P,
    l4: usize,
    conn: &Conn,
    ip_delta: &mut Delta,
    l4_delta: &mut Delta,
) -> Inserted {
    let client = conn.client();
    let addr = U32::from_bytes(client.addr.to_ne_bytes());
    let port = U16::from_bytes(client.port.to_ne_bytes());
    let option = toa::encode_v4(conn.toa_kind, addr, port);
    let Some(mut h) = headers(packet.data_mut(), l4) else { return Inserted::NoRoom };
    if usize::from(h.tcp.data_offset >> 4) * 4 + TOA_V4_LEN > tcp::HEADER_LEN_MAX {
        let Some(change) = replace_padding(h.options(), &option) else { return Inserted::NoRoom };
        *l4_delta += change;
        return Inserted::Yes;
    }
    if !packet.push_front(TOA_V4_LEN) {
        return Inserted::NoHeadroom;
    }
    let data = packet.data_mut();
    let option_at = l4 + size_of::<tcp::Header>();
    data.copy_within(TOA_V4_LEN..TOA_V4_LEN + option_at, 0);
    if let Some(room) = data.get_mut(option_at..option_at + TOA_V4_LEN) {
        room.copy_from_slice(&option);
    }
    let Some(h) = headers(data, l4) else { return Inserted::NoRoom };
    for pair in option.chunks_exact(2) {
        *l4_delta = l4_delta.add16(U16::from_bytes([pair[0], pair[1]]));
    }
    let before = U16::from_bytes([h.tcp.data_offset, h.tcp.flags]);
    h.tcp.data_offset = h.tcp.data_offset.wrapping_add((TOA_V4_LEN as u8 / 4) << 4);
    *l4_delta = l4_delta.replace16(before, U16::from_bytes([h.tcp.data_offset, h.tcp.flags]));
    let old_len = h.ip.total_len;
    h.ip.total_len = U16::new(old_len.get().wrapping_add(TOA_V4_LEN as u16));
    *ip_delta = ip_delta.replace16(old_len, h.ip.total_len);
    // The pseudo header holds the TCP length.
    *l4_delta = l4_delta.add16(U16::new(TOA_V4_LEN as u16));
    Inserted::Yes
}

/// Puts `first` in front of the options in the space of their padding; `None`, and no change, when there is not enough.
/// What a client padded, what was stripped and what no receiver reads gives way, so it cannot hide behind that.
fn replace_padding(options: &mut [u8], first: &[u8; TOA_V4_LEN]) -> Option<Delta> {
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
