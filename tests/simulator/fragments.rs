//! Fragments: how hosts and paths make them, and how a receiver, or the oracle, puts them together again (RFC 791 §3.2,
//! RFC 8200 §4.5).

use std::collections::HashMap;
use std::net::IpAddr;

use crate::packet::{ETH_LEN, TCP, UDP, address4, address6, be16, be32, fold, ip_of, parse_ip, sum};
use crate::rng::{Rng, mix};
use crate::topology::{Families, Shape};

const FRAGMENT: u8 = 44;
const FRAGMENT_LEN: usize = 8;
/// Fragments of one packet at most, so that no more than may wait come early.
const PIECES_MAX: usize = 6;
/// Identifications of a host, so that no two hosts have the same: what a FULLNAT gateway sends on has one sender.
const IDS_PER_HOST: u32 = 7_000;

/// What all fragments of a packet share: source, destination, protocol, identification.
pub(crate) type Key = (IpAddr, IpAddr, u8, u32);

/// A fragment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) key: Key,
    pub(crate) ttl: u8,
    /// Of IPv6 always true.
    pub(crate) checksum_ok: bool,
    /// Where it begins in what the packet carries.
    pub(crate) start: usize,
    pub(crate) more: bool,
    /// The IP header without that of the fragment.
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Piece<'_> {
    pub(crate) fn end(&self) -> usize {
        self.start + self.payload.len()
    }

    /// A whole packet, in one fragment (RFC 6946).
    pub(crate) fn is_all(&self) -> bool {
        self.start == 0 && !self.more
    }

    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        (self.start == 0 && self.payload.len() >= 4).then(|| (be16(self.payload, 0), be16(self.payload, 2)))
    }
}

/// Reads a fragment; `None` for whole packets and for what is broken.
pub(crate) fn piece_of(ip: &[u8]) -> Option<Piece<'_>> {
    match ip.first()? >> 4 {
        4 => piece4(ip),
        6 => piece6(ip),
        _ => None,
    }
}

fn piece4(ip: &[u8]) -> Option<Piece<'_>> {
    let header = ip.get(..usize::from(ip[0] & 15) * 4).filter(|header| header.len() >= 20)?;
    let field = be16(ip, 6);
    (field & 0x3fff != 0).then_some(Piece {
        key: (address4(ip, 12), address4(ip, 16), ip[9], be16(ip, 4).into()),
        ttl: ip[8],
        checksum_ok: fold(sum(header)) == 0xffff,
        start: usize::from(field & 0x1fff) * 8,
        more: field & 0x2000 != 0,
        header,
        payload: ip.get(header.len()..be16(ip, 2).into())?,
    })
}

fn piece6(ip: &[u8]) -> Option<Piece<'_>> {
    let header = ip.get(..40).filter(|header| header[6] == FRAGMENT)?;
    let payload = ip.get(40..40 + usize::from(be16(ip, 4)))?;
    let (fragment, payload) = payload.split_at_checked(FRAGMENT_LEN)?;
    let field = be16(fragment, 2);
    Some(Piece {
        key: (address6(ip, 8), address6(ip, 24), fragment[0], be32(fragment, 4)),
        ttl: ip[7],
        checksum_ok: true,
        start: usize::from(field & !7),
        more: field & 1 != 0,
        header,
        payload,
    })
}

/// The packet of which these are all the fragments, in order, with the first one's header.
pub(crate) fn join(pieces: &[Piece<'_>]) -> Option<Vec<u8>> {
    let first = pieces.first()?;
    let payload = pieces.iter().flat_map(|piece| piece.payload);
    let mut ip: Vec<u8> = first.header.iter().chain(payload).copied().collect();
    if first.key.0.is_ipv4() {
        let len = ip.len() as u16;
        ip[2..4].copy_from_slice(&len.to_be_bytes());
        ip[6..8].fill(0);
        finish_header(&mut ip, first.header.len());
    } else {
        let len = (ip.len() - 40) as u16;
        ip[4..6].copy_from_slice(&len.to_be_bytes());
        ip[6] = first.key.2;
    }
    Some(ip)
}

/// Makes an IPv4 header's checksum right.
pub(crate) fn finish_header(ip: &mut [u8], header_len: usize) {
    ip[10..12].fill(0);
    let checksum = !fold(sum(&ip[..header_len]));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Fragments of a whole packet that carry `step` bytes each, a multiple of 8. An IPv4 packet that is a fragment itself is
/// cut further, and `id` is not looked at if there is none.
pub(crate) fn cut(ip: &[u8], step: usize, id: Option<u32>) -> Vec<Vec<u8>> {
    let wide = ip[0] >> 4 == 6;
    let header_len = if wide { 40 } else { usize::from(ip[0] & 15) * 4 };
    let len = if wide { 40 + usize::from(be16(ip, 4)) } else { be16(ip, 2).into() };
    let payload = &ip[header_len..len];
    let field = if wide { 0 } else { be16(ip, 6) };
    let piece = |(n, part): (usize, &[u8])| {
        let start = n * step;
        let more = start + part.len() < payload.len() || field & 0x2000 != 0;
        let mut piece = ip[..header_len].to_vec();
        if wide {
            let [a, b] = (start as u16 | u16::from(more)).to_be_bytes();
            piece.extend([ip[6], 0, a, b]);
            piece.extend(id.unwrap_or_default().to_be_bytes());
            piece[4..6].copy_from_slice(&((FRAGMENT_LEN + part.len()) as u16).to_be_bytes());
            piece[6] = FRAGMENT;
        } else {
            let field = ((field & 0x1fff) + (start / 8) as u16) | (u16::from(more) << 13);
            piece[2..4].copy_from_slice(&((header_len + part.len()) as u16).to_be_bytes());
            piece[6..8].copy_from_slice(&field.to_be_bytes());
            if let Some(id) = id {
                piece[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            }
            finish_header(&mut piece, header_len);
        }
        piece.extend(part);
        piece
    };
    payload.chunks(step).enumerate().map(piece).collect()
}

/// Puts packets together; an item is whatever belongs to one fragment.
#[derive(Debug)]
pub(crate) struct Assembler<T>(HashMap<Key, Vec<(usize, usize, bool, T)>>);

impl<T> Default for Assembler<T> {
    fn default() -> Self {
        Assembler(HashMap::new())
    }
}

impl<T> Assembler<T> {
    /// Takes a fragment; the items of all of its packet, in order, when it was the last one that was missing. A packet
    /// whose fragments overlap is forgotten (RFC 5722), one that is a double is ignored.
    pub(crate) fn add(&mut self, piece: &Piece<'_>, item: T) -> Option<Vec<T>> {
        let pieces = self.0.entry(piece.key).or_default();
        let (start, end) = (piece.start, piece.end());
        if pieces.iter().any(|(s, e, ..)| (*s, *e) == (start, end)) {
            return None;
        }
        if pieces.iter().any(|(s, e, ..)| *s < end && start < *e) {
            self.0.remove(&piece.key);
            return None;
        }
        pieces.push((start, end, piece.more, item));
        pieces.sort_by_key(|(start, ..)| *start);
        let mut at = 0;
        for (n, (start, end, more, _)) in pieces.iter().enumerate() {
            let is_last = n + 1 == pieces.len();
            if *start != at || *more == is_last {
                return None;
            }
            at = *end;
        }
        let pieces = self.0.remove(&piece.key)?;
        Some(pieces.into_iter().map(|(.., item)| item).collect())
    }

    /// All that is there is lost.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Packets as a host's stack gets them: whole.
#[derive(Debug, Default)]
pub(crate) struct Receiver(Assembler<Vec<u8>>);

impl Receiver {
    /// The packet, if it is whole or became so.
    pub(crate) fn take(&mut self, ip: &[u8]) -> Option<Vec<u8>> {
        let Some(piece) = piece_of(ip) else { return Some(ip.to_vec()) };
        if !piece.checksum_ok {
            return None;
        }
        let all = self.0.add(&piece, ip.to_vec())?;
        join(&all.iter().filter_map(|ip| piece_of(ip)).collect::<Vec<_>>())
    }
}

/// Paths that cut packets on their way to the gateway, and networks whose links differ in size.
///
/// It has random numbers of its own, so that all else in a seed's world is as it would be without.
pub(crate) struct Cutter {
    rng: Rng,
    /// Of packets, per 100,000.
    chance: u32,
    /// The last identification of each host, within its own.
    counts: HashMap<usize, u32>,
    /// The gateway's links are small, and no host forbids that its packets are cut.
    pub(crate) narrow: bool,
}

impl Cutter {
    pub(crate) fn of(seed: u64, shape: &mut Shape) -> Cutter {
        let mut rng = Rng::new(mix(seed ^ 0x6672_6167_6d65_6e74));
        let chance = if rng.chance(30_000) { rng.range(2_000, 40_000) as u32 } else { 0 };
        // Only IPv4 may be cut on its way.
        let narrow = rng.chance(8_000) && shape.families == Families::V4;
        if narrow {
            shape.mtu = rng.range(600, 1_499) as u16;
        }
        Cutter { rng, chance, counts: HashMap::new(), narrow }
    }

    /// What becomes of a packet of a host before it comes to a link: the same, or its fragments in some order.
    pub(crate) fn pass(&mut self, host: usize, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
        if self.narrow && packet[0] >> 4 == 4 {
            let id = self.next_id(host) as u16;
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[6] &= !0x40;
            let header_len = usize::from(packet[0] & 15) * 4;
            finish_header(&mut packet, header_len);
        }
        let least = match parse_ip(&packet) {
            Some(header) if header.protocol == TCP => usize::from(header.payload[12] >> 4) * 4,
            Some(header) if header.protocol == UDP => 8,
            _ => return vec![packet],
        };
        if self.chance == 0 || !self.rng.chance(self.chance) {
            return vec![packet];
        }
        let len = packet.len() - if packet[0] >> 4 == 4 { 20 } else { 40 };
        let least = least.max(len / PIECES_MAX + 1).next_multiple_of(8);
        if len <= least {
            return vec![packet];
        }
        let step = self.rng.range(least as u64, len as u64 - 1) as usize / 8 * 8;
        let id = self.next_id(host);
        let mut pieces = cut(&packet, step, Some(id));
        if self.rng.coin() {
            for n in (1..pieces.len()).rev() {
                pieces.swap(n, self.rng.below(n as u64 + 1) as usize);
            }
        }
        pieces
    }

    fn next_id(&mut self, host: usize) -> u32 {
        let count = self.counts.entry(host).or_default();
        *count = (*count + 1) % IDS_PER_HOST;
        host as u32 * IDS_PER_HOST + *count
    }
}

/// The frames that a gateway's port with this MTU makes of a frame with an IPv4 packet.
pub(crate) fn cut_frame(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let Some(ip) = ip_of(frame) else { return Vec::new() };
    let step = (usize::from(mtu) - usize::from(ip[0] & 15) * 4) / 8 * 8;
    let (ethernet, _) = frame.split_at(ETH_LEN);
    cut(ip, step, None).iter().map(|piece| [ethernet, piece].concat()).collect()
}
