//! ICMP errors about connections: they go to whom the quoted packet came from, and quote what he sent.
//!
//! An error quotes a packet as the gateway sent it, so the quoted tuple turned round is one that comes in: it finds the
//! connection, and the connection's other tuple is what the packet was before translation (IPVS: ip_vs_in_icmp,
//! ip_vs_out_icmp; RFC 5508 §4).

use wire::checksum::Delta;
use wire::icmpv6::QUOTE_LEN_MAX;
use wire::nat64::NextHopMtus;
use wire::quote::{self, Quote, Rewrite};
use wire::{Addresses, Family, PacketBuf, U16, U32, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, view, view_mut};
use zerocopy::IntoBytes;

use super::forward::{Exit, Fit, adjacency_of, hops};
use super::{Worker, tunnel_errors};
use crate::addr::{Addr, Endpoint, Tuple};
use crate::conn::{Conn, Direction, flag};
use crate::counters::Counter;
use crate::hash::Key;
use crate::ids::AdjacencyId;
use crate::parse::{Message, Piece, Segment};
use crate::snapshot::{Mode, Snapshot};
use crate::table::Found;
use crate::translate::client_address::room_of;
use crate::translate::word;
use crate::verdict::{DropReason, PuntClass, Verdict};

/// The longest message of either family, from the ICMP header on.
pub(super) const MESSAGE_LEN_MAX: usize = icmp::HEADER_LEN + QUOTE_LEN_MAX;

/// The tuple of what would answer the packet that a message quotes; `None` when it quotes nothing that tells.
pub(super) fn about(snapshot: &Snapshot, data: &[u8], message: Message) -> Option<Tuple> {
    match tunnel_errors::inner(snapshot, data, message) {
        Some(inner) => Some(inner.tuple),
        None => quoted(data, message).map(|(_, tuple)| tuple),
    }
}

fn quoted(data: &[u8], message: Message) -> Option<(Quote, Tuple)> {
    let family = if message.wide { Family::V6 } else { Family::V4 };
    let quote = quote::find(data.get(message.l4.into()..message.end.into())?, family).ok()?;
    let (src, dst) = match quote.addresses {
        Addresses::V4 { src, dst } => (
            Addr::from_v4(u32::from_ne_bytes(src.to_bytes())),
            Addr::from_v4(u32::from_ne_bytes(dst.to_bytes())),
        ),
        Addresses::V6 { src, dst } => (Addr::from_v6(src), Addr::from_v6(dst)),
    };
    // A mapped address stands for IPv4 here; over IPv6 nobody may send one.
    if message.wide && (src.is_v4() || dst.is_v4()) {
        return None;
    }
    let endpoint = |addr, port: U16| Endpoint { addr, port: u16::from_ne_bytes(port.to_bytes()) };
    let tuple = Tuple {
        protocol: quote.protocol,
        src: endpoint(dst, quote.dst_port),
        dst: endpoint(src, quote.src_port),
    };
    Some((quote, tuple))
}

impl Worker {
    /// An ICMP or ICMPv6 error.
    #[cold]
    pub(super) fn icmp_error<P: PacketBuf>(&mut self, packet: &mut P, message: Message) -> Verdict {
        if let Some(inner) = tunnel_errors::inner(&self.snapshot, packet.data(), message)
            && let Some(found) = self.of_inner(&inner)
        {
            return self.tunnel_error(packet, message, &inner, found);
        }
        let Some((quote, about)) = quoted(packet.data(), message) else {
            return self.stray_error(packet, message);
        };
        let Some(found) = self.table.find_tuple(&about).filter(|found| self.may_have_sent(&quote, *found))
        else {
            return self.stray_error(packet, message);
        };
        if is_redirect(packet.data(), message) {
            return self.drop(DropReason::IcmpUntranslatable);
        }
        if hops(packet.data(), message.wide) <= 1 {
            return self.drop(DropReason::TtlExpired);
        }
        let exit = match self.exit(found) {
            Ok(exit) => exit,
            Err(reason) => return self.drop(reason),
        };
        let segment = Segment {
            key: Key { protocol: about.protocol, ..Key::default() },
            l4: message.l4,
            end: message.end,
            flags: 0,
            wide: message.wide,
            // What stands there is no TCP header.
            piece: Piece::Later,
        };
        let Some(quote) = untold(packet, message, quote) else {
            return self.drop(DropReason::IcmpUntranslatable);
        };
        let sent = match self.table.conns[found.conn as usize].mode {
            Mode::FullNat | Mode::Nat => self.translate_error(packet, message, &quote, found, &exit),
            Mode::Dr => {
                self.send_direct(packet, &segment, found, exit.mtu).is_ok_and(|fit| fit == Fit::Whole)
            }
            Mode::Tun => {
                self.send_tunnelled(packet, &segment, found, exit.mtu).is_ok_and(|fit| fit == Fit::Whole)
            }
        };
        if !sent {
            return self.drop(DropReason::IcmpUntranslatable);
        }
        self.counters.event(Counter::IcmpErrors).add(1);
        self.leave(packet, found, &exit, Fit::Whole)
    }

    /// A client is told to the real servers of FULLNAT alone; with a header for it, nothing else is ours.
    fn may_have_sent(&self, quote: &Quote, found: Found) -> bool {
        let conn = &self.table.conns[found.conn as usize];
        quote.told_len == 0 || conn.mode == Mode::FullNat && found.direction == Direction::Outbound
    }

    /// An error about no connection of ours: to one of the addresses that only connections use it means nothing, all
    /// else is the kernel's.
    fn stray_error<P: PacketBuf>(&mut self, packet: &P, message: Message) -> Verdict {
        let packet = packet.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let destination = if message.wide {
            view::<ipv6::Header>(packet, 0).map(|ip| Addr::from_v6(ip.dst))
        } else {
            view::<ipv4::Header>(packet, 0).map(|ip| Addr::from_v4(u32::from_ne_bytes(ip.dst.to_bytes())))
        };
        if destination
            .is_some_and(|to| self.snapshot.locals.contains(to) || self.snapshot.virtuals.contains(to))
        {
            return self.drop(DropReason::IcmpUnknown);
        }
        self.punt(if message.wide { PuntClass::Ipv6 } else { PuntClass::Icmp })
    }

    /// Rewrites an error about a translated packet; `false` when that cannot be.
    fn translate_error<P: PacketBuf>(
        &self,
        packet: &mut P,
        message: Message,
        quote: &Quote,
        found: Found,
        exit: &Exit,
    ) -> bool {
        let conn = &self.table.conns[found.conn as usize];
        let was = Was {
            tuple: self.table.tuple(conn, found.direction.other()),
            seq_shift: if found.direction == Direction::Outbound {
                quoted_shift(conn, packet.data(), message, quote)
            } else {
                0
            },
        };
        // Who reports is hidden as well as who was reported to, but for clients' networks in NAT, which know each other.
        let keeps_reporter = conn.mode == Mode::Nat && found.direction == Direction::Inbound;
        let toa_pending = conn.has(flag::TOA_PENDING) && found.direction == Direction::Outbound;
        let preface_owed = conn.preface.is_owed() && found.direction == Direction::Outbound;
        let room = if toa_pending || preface_owed { room_of(conn) as u16 } else { 0 };
        packet.truncate(message.end.into());
        if message.wide == conn.is_wide(found.direction.other()) {
            rewrite_error(packet.data_mut(), message, quote, &was, keeps_reporter, room).is_some()
        } else {
            let mtus = self.mtus(found, exit.mtu);
            limit_mtu_first(packet.data_mut(), message, room);
            cross_error(packet, message, quote, &was, mtus).is_some()
        }
    }

    /// What the links on both sides of a connection take, for an error that arrives from one and leaves by the other.
    fn mtus(&self, found: Found, leaves: u16) -> NextHopMtus {
        let conn = &self.table.conns[found.conn as usize];
        let other = Found { direction: found.direction.other(), ..found };
        let back = match conn.next_hops[other.direction as usize] {
            // No packet has wanted it yet.
            AdjacencyId::NONE => adjacency_of(self.fib.lookup(self.target(other).to_ip())),
            known => known,
        };
        let back = self.fib.adjacency(back);
        let arrives = back.map_or(leaves, |adjacency| adjacency.mtu);
        if conn.is_wide(found.direction) {
            NextHopMtus { v4: leaves, v6: arrives }
        } else {
            NextHopMtus { v4: arrives, v6: leaves }
        }
    }
}

/// A redirect is for its link alone (RFC 1122 §3.2.2.2): passed on, it would let whoever sends one choose a host's routes.
fn is_redirect(data: &[u8], message: Message) -> bool {
    let header = view::<icmp::Header>(data, message.l4.into());
    !message.wide && header.is_some_and(|header| header.kind == icmp::TYPE_REDIRECT)
}

/// Takes out of a quoted datagram what told its client, if anything did; `None` where the gateway puts nothing.
fn untold<P: PacketBuf>(packet: &mut P, message: Message, quote: Quote) -> Option<Quote> {
    if quote.told_len == 0 {
        return Some(quote);
    }
    quote::untell(packet.data_mut().get_mut(message.l4.into()..message.end.into())?, &quote)
}

pub(super) fn addresses(tuple: &Tuple) -> Addresses {
    match (tuple.src.addr.v4(), tuple.dst.addr.v4()) {
        (Some(_), Some(_)) => Addresses::V4 { src: word(tuple.src.addr), dst: word(tuple.dst.addr) },
        _ => Addresses::V6 { src: tuple.src.addr.octets(), dst: tuple.dst.addr.octets() },
    }
}

/// What is to be added to the sequence number of a quoted segment of a client's.
fn quoted_shift(conn: &Conn, data: &[u8], message: Message, quote: &Quote) -> u32 {
    const SEQ: usize = std::mem::offset_of!(tcp::Header, seq);
    let seq = view::<U32>(data, usize::from(message.l4) + quote.l4_offset + SEQ);
    seq.map_or(0, |seq| conn.shifted_back(seq.get()).wrapping_sub(seq.get()))
}

/// What the quoted packet was before the gateway changed it.
struct Was {
    tuple: Tuple,
    /// What is to be added to the quoted sequence number.
    seq_shift: u32,
}

impl Was {
    fn rewrite(&self) -> Rewrite {
        Rewrite {
            addresses: addresses(&self.tuple),
            src_port: U16::from_bytes(self.tuple.src.port.to_ne_bytes()),
            dst_port: U16::from_bytes(self.tuple.dst.port.to_ne_bytes()),
            seq_shift: self.seq_shift,
        }
    }
}

/// Within one family. `room` is what the gateway added to the quoted packet, so its sender must stay below the told MTU.
fn rewrite_error(
    data: &mut [u8],
    message: Message,
    quote: &Quote,
    was: &Was,
    keeps_reporter: bool,
    room: u16,
) -> Option<()> {
    let (front, icmp_message) = data.split_at_mut_checked(message.l4.into())?;
    let told = limit_mtu(icmp_message, message.wide, room);
    let outer = if message.wide {
        let ip = view_mut::<ipv6::Header>(front, ethernet::HEADER_LEN)?;
        let (old_src, old_dst) = (ip.src, ip.dst);
        if !keeps_reporter {
            ip.src = was.tuple.dst.addr.octets();
        }
        ip.dst = was.tuple.src.addr.octets();
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        Delta::ZERO.replace128(&old_src, &ip.src).replace128(&old_dst, &ip.dst)
    } else {
        let ip = view_mut::<ipv4::Header>(front, ethernet::HEADER_LEN)?;
        let (old_src, old_dst) = (ip.src, ip.dst);
        if !keeps_reporter {
            ip.src = word(was.tuple.dst.addr);
        }
        ip.dst = word(was.tuple.src.addr);
        ip.ttl = ip.ttl.wrapping_sub(1);
        let hop = Delta::ZERO.replace16(U16::new(0x0100), U16::ZERO);
        let change = hop.replace32(old_src, ip.src).replace32(old_dst, ip.dst);
        ip.checksum = change.apply(ip.checksum);
        Delta::ZERO
    };
    quote::rewrite(icmp_message, quote, &was.rewrite(), outer + told).then_some(())
}

/// Takes `room` off the MTU that an error tells, if it tells one, but leaves what every link takes: an error that says
/// less is forged, or of a broken router.
fn limit_mtu(message: &mut [u8], wide: bool, room: u16) -> Delta {
    let Some(header) = view_mut::<icmp::Header>(message, 0) else { return Delta::ZERO };
    let tells = if wide {
        header.kind == icmpv6::TYPE_PACKET_TOO_BIG
    } else {
        header.kind == icmp::TYPE_UNREACHABLE && header.code == icmp::CODE_FRAGMENTATION_NEEDED
    };
    let old = header.rest;
    // In IPv4 it is the lower half of the word (RFC 1191 §4); what stands in the upper one may be a length (RFC 4884 §4.1).
    let (mtu, least) = if wide {
        (old.get(), ipv6::MTU_MIN as u32)
    } else {
        (header.next_hop_mtu().into(), ipv4::MTU_MIN as u32)
    };
    // A router of IPv4 that does not know says 0 (RFC 1191 §5), and the sender guesses.
    if !tells || (mtu == 0 && !wide) {
        return Delta::ZERO;
    }
    header.rest = U32::new(old.get() - mtu + mtu.saturating_sub(room.into()).max(least));
    Delta::ZERO.replace32(old, header.rest)
}

/// The same before the message is written anew: its checksum stays as right or wrong as it is.
fn limit_mtu_first(data: &mut [u8], message: Message, room: u16) {
    let Some(icmp_message) = data.get_mut(message.l4.into()..) else { return };
    let change = limit_mtu(icmp_message, message.wide, room);
    if let Some(header) = view_mut::<icmp::Header>(icmp_message, 0) {
        header.checksum = change.apply(header.checksum);
    }
}

/// From one family to the other.
fn cross_error<P: PacketBuf>(
    packet: &mut P,
    message: Message,
    quote: &Quote,
    was: &Was,
    mtus: NextHopMtus,
) -> Option<()> {
    let mut out = [0; MESSAGE_LEN_MAX];
    let data = packet.data();
    let old = data.get(message.l4.into()..message.end.into())?;
    let rewrite = was.rewrite();
    let (len, hops) = if message.wide {
        let ip = view::<ipv6::Header>(data, ethernet::HEADER_LEN)?;
        let between = (&ip.src, &ip.dst);
        (quote::translate_v6_to_v4(old, quote, &rewrite, between, mtus, &mut out)?, ip.hop_limit)
    } else {
        let ip = view::<ipv4::Header>(data, ethernet::HEADER_LEN)?;
        let between = (&was.tuple.dst.addr.octets(), &was.tuple.src.addr.octets());
        (quote::translate_v4_to_v6(old, quote, &rewrite, between, mtus, &mut out)?, ip.ttl)
    };
    let new = out.get(..len)?;
    let mut header = [0; ipv6::HEADER_LEN];
    let header = outer_header(&mut header, &was.tuple, len, hops.wrapping_sub(1))?;
    become_message(packet, header, new)
}

/// Replaces what stands behind the Ethernet addresses by an IP header and the message behind it; `None` when the buffer
/// has no room.
pub(super) fn become_message<P: PacketBuf>(packet: &mut P, header: &[u8], message: &[u8]) -> Option<()> {
    let total = ethernet::HEADER_LEN + header.len() + message.len();
    if !packet.push_back(total.saturating_sub(packet.data().len())) {
        return None;
    }
    packet.truncate(total);
    let data = packet.data_mut();
    view_mut::<ethernet::Header>(data, 0)?.ether_type = Family::of(header)?.ether_type();
    let (front, back) = data.get_mut(ethernet::HEADER_LEN..)?.split_at_mut_checked(header.len())?;
    front.copy_from_slice(header);
    back.copy_from_slice(message);
    Some(())
}

/// The IP header of an error to the sender of what it quotes, from whom he sent it to.
pub(super) fn outer_header<'a>(
    room: &'a mut [u8; ipv6::HEADER_LEN],
    was: &Tuple,
    message_len: usize,
    hops: u8,
) -> Option<&'a [u8]> {
    match addresses(was) {
        Addresses::V4 { src, dst } => {
            let mut header = ipv4::Header {
                version_ihl: 0x45,
                dscp_ecn: 0,
                total_len: U16::new((ipv4::HEADER_LEN + message_len) as u16),
                id: U16::ZERO,
                flags_fragment: U16::new(ipv4::FLAG_DONT_FRAGMENT),
                ttl: hops,
                protocol: ipv4::PROTO_ICMP,
                checksum: U16::ZERO,
                src: dst,
                dst: src,
            };
            header.checksum = wire::checksum::internet(header.as_bytes());
            room.get_mut(..ipv4::HEADER_LEN)?.copy_from_slice(header.as_bytes());
            room.get(..ipv4::HEADER_LEN)
        }
        Addresses::V6 { src, dst } => {
            let header = ipv6::Header {
                version_class_flow: U32::new(6 << 28),
                payload_len: U16::new(message_len as u16),
                next_header: ipv6::NEXT_ICMPV6,
                hop_limit: hops,
                src: dst,
                dst: src,
            };
            room.copy_from_slice(header.as_bytes());
            Some(room)
        }
    }
}
