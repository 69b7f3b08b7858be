//! ICMP errors from inside a tunnel: they come to the tunnel's source and quote the tunnel's packet, but are about the
//! client's packet in it, so the client is told (RFC 2003 §4, RFC 2473 §8).

use wire::icmp::Error;
use wire::{Family, PacketBuf, U16, checksum, ethernet, icmp, icmpv6, ipv4, ipv6, quote, tunnel, view};

use super::Worker;
use super::errors::{MESSAGE_LEN_MAX, become_message, outer_header};
use super::forward::Fit;
use crate::addr::{Addr, Endpoint, Tuple};
use crate::conn::Direction;
use crate::counters::Counter;
use crate::parse::Message;
use crate::snapshot::{Mode, Snapshot, TunnelKind};
use crate::table::Found;
use crate::verdict::{DropReason, Verdict};

/// The packet in a tunnel that an error quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inner {
    /// Client → virtual.
    pub tuple: Tuple,
    /// Where it begins in the frame.
    at: usize,
    /// Destination of the tunnel.
    real: Addr,
    /// Destination port of a tunnel over UDP.
    gue_port: Option<U16>,
}

/// The packet in a tunnel that a message quotes; `None` when it quotes something else. Packets from virtual and local
/// addresses are those of translated connections, whatever they look like.
pub(super) fn inner(snapshot: &Snapshot, data: &[u8], message: Message) -> Option<Inner> {
    let bytes = data.get(message.l4.into()..message.end.into())?;
    let family = if message.wide { Family::V6 } else { Family::V4 };
    let quoted = bytes.get(icmp::HEADER_LEN..)?;
    let of_udp = quote::find(bytes, family).ok().filter(|quote| quote.protocol == ipv4::PROTO_UDP);
    let gue_port = of_udp.map(|quote| quote.dst_port);
    let found = tunnel::open(quoted, gue_port)?;
    let (source, real) = match found.outer {
        wire::Addresses::V4 { src, dst } => (of_word(src.to_bytes()), of_word(dst.to_bytes())),
        wire::Addresses::V6 { src, dst } => (Addr::from_v6(src), Addr::from_v6(dst)),
    };
    if snapshot.locals.contains(source) || snapshot.virtuals.contains(source) {
        return None;
    }
    let tuple = tuple_of(quoted.get(found.inner_offset..)?, found.inner)?;
    let at = usize::from(message.l4) + icmp::HEADER_LEN + found.inner_offset;
    Some(Inner { tuple, at, real, gue_port })
}

fn of_word(bytes: [u8; 4]) -> Addr {
    Addr::from_v4(u32::from_ne_bytes(bytes))
}

/// The five-tuple of a packet that may be cut behind its ports.
fn tuple_of(packet: &[u8], family: Family) -> Option<Tuple> {
    let (protocol, at, src, dst) = match family {
        Family::V4 => {
            let ip = view::<ipv4::Header>(packet, 0)?;
            let at = (ip.fragment_offset() == 0).then(|| ip.header_len())?;
            (ip.protocol, at, of_word(ip.src.to_bytes()), of_word(ip.dst.to_bytes()))
        }
        Family::V6 => {
            let ip = view::<ipv6::Header>(packet, 0)?;
            let upper = ipv6::walk_extensions(packet).ok().filter(ipv6::Upper::is_first)?;
            let (src, dst) = (Addr::from_v6(ip.src), Addr::from_v6(ip.dst));
            (!src.is_v4() && !dst.is_v4()).then_some((upper.protocol, upper.offset, src, dst))?
        }
    };
    // Both transports begin with the ports.
    let [src_port, dst_port] = *view::<[U16; 2]>(packet, at)?;
    let endpoint = |addr, port: U16| Endpoint { addr, port: u16::from_ne_bytes(port.to_bytes()) };
    Some(Tuple { protocol, src: endpoint(src, src_port), dst: endpoint(dst, dst_port) })
}

impl Worker {
    /// The connection whose packet this is, if it is one of ours in that tunnel.
    pub(super) fn of_inner(&self, inner: &Inner) -> Option<Found> {
        let found = self.table.find_tuple(&inner.tuple)?;
        let conn = &self.table.conns[found.conn as usize];
        let real = self.table.tuple(conn, Direction::Outbound).src.addr;
        let port = match self.snapshot.wrapper(conn.real_id)?.tunnel.kind {
            TunnelKind::Gue { port, .. } => Some(U16::new(port)),
            TunnelKind::Ipip | TunnelKind::Gre { .. } => None,
        };
        let ours = conn.mode == Mode::Tun && real == inner.real && port == inner.gue_port;
        (ours && found.direction == Direction::Inbound)
            .then_some(Found { direction: Direction::Outbound, ..found })
    }

    /// Tells the client what an error from inside the tunnel says.
    pub(super) fn tunnel_error<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        message: Message,
        inner: &Inner,
        found: Found,
    ) -> Verdict {
        let exit = match self.exit(found) {
            Ok(exit) => exit,
            Err(reason) => return self.drop(reason),
        };
        // A new checksum would hide that the old one was wrong.
        let intact = is_intact(packet.data(), message);
        let error = self.error_inside(packet.data(), message, found).filter(|_| intact);
        let told = error.and_then(|error| become_error(packet, inner, error));
        if told.is_none() || !self.limiter.allows_icmp() {
            return self.drop(DropReason::IcmpUntranslatable);
        }
        self.counters.event(Counter::IcmpErrors).add(1);
        self.leave(packet, found, &exit, Fit::Whole)
    }

    /// What an error about the tunnel's packet means for the one inside; `None` for what means nothing to the client.
    fn error_inside(&self, data: &[u8], message: Message, found: Found) -> Option<Error> {
        let header = view::<icmp::Header>(data, message.l4.into())?;
        let wrapper = self.snapshot.wrapper(self.table.conns[found.conn as usize].real_id)?;
        let told = if message.wide {
            // What is less is forged or broken (RFC 8201 §4).
            header.rest.get().max(ipv6::MTU_MIN as u32).try_into().unwrap_or(u16::MAX)
        } else {
            header.next_hop_mtu()
        };
        let too_big = || {
            let mtu = told.saturating_sub(wrapper.overhead() as u16);
            // A router that does not know says 0; nothing can be learnt from it.
            (told > 0).then_some(Error::TooBig { mtu })
        };
        match (message.wide, header.kind, header.code) {
            (false, icmp::TYPE_UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED) => too_big(),
            (true, icmpv6::TYPE_PACKET_TOO_BIG, _) => too_big(),
            (false, icmp::TYPE_UNREACHABLE, _) | (true, icmpv6::TYPE_UNREACHABLE, _) => {
                Some(Error::HostUnreachable)
            }
            (false, icmp::TYPE_TIME_EXCEEDED, _) | (true, icmpv6::TYPE_TIME_EXCEEDED, _) => {
                Some(Error::TimeExceeded)
            }
            _ => None,
        }
    }
}

fn is_intact(data: &[u8], message: Message) -> bool {
    let Some(bytes) = data.get(message.l4.into()..message.end.into()) else { return false };
    let sum = if message.wide {
        let Some(ip) = view::<ipv6::Header>(data, ethernet::HEADER_LEN) else { return false };
        checksum::icmp_v6(&ip.src, &ip.dst, bytes)
    } else {
        checksum::icmp(bytes)
    };
    view::<icmp::Header>(bytes, 0).is_some_and(|header| header.checksum == sum)
}

/// Makes the frame an error from the virtual address to the client about the packet inside.
fn become_error<P: PacketBuf>(packet: &mut P, inner: &Inner, error: Error) -> Option<()> {
    let mut out = [0; MESSAGE_LEN_MAX];
    let original = packet.data().get(inner.at..)?;
    let (virtual_, client) = (inner.tuple.dst.addr.octets(), inner.tuple.src.addr.octets());
    let wide = !inner.tuple.src.addr.is_v4();
    let len = if wide {
        icmpv6::error_v6(error.v6(), (&virtual_, &client), original, &mut out)?
    } else {
        let (kind, code, rest) = error.v4();
        icmp::error_v4(kind, code, rest, original, &mut out)?
    };
    let mut header = [0; ipv6::HEADER_LEN];
    let header = outer_header(&mut header, &inner.tuple, len, HOPS)?;
    become_message(packet, header, out.get(..len)?)
}

/// TTL and hop limit of packets that the gateway sends itself (RFC 1700).
const HOPS: u8 = 64;
