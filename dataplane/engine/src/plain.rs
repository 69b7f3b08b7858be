//! What nearly every frame is, as one overlay: Ethernet, an IP header without options or extensions, TCP or UDP. One look
//! at the frame's length is enough for all fields of all its headers.

use wire::checksum::Delta;
use wire::tcp::{self, flags};
use wire::tunnel::outer_dscp_ecn;
use wire::{MacAddr, U16, ethernet, ipv4, ipv6, toa, udp};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::conn::{Conn, Direction, Wide, flag};
use crate::hash::{Key, Key6, halves32};
use crate::tcp::ConnState;
use crate::translate::TTL_DELTA;
use crate::translate::across::Across;
use crate::translate::tunnel::{Front, Front4, Front6};

/// A frame's headers; `L` is what stands in front of the IP header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Frame<I, T, L = Link> {
    pub link: L,
    pub ip: I,
    pub l4: T,
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Link {
    /// Destination and source.
    pub macs: [u8; 12],
    pub ether_type: U16,
}

impl<I, T> Frame<I, T> {
    /// Whether it is addressed to this station.
    #[inline(always)]
    pub(crate) fn is_to(&self, mac: MacWord) -> bool {
        self.link.macs.first_chunk().is_some_and(|word| u64::from_ne_bytes(*word) & MAC_MASK == mac.0)
    }
}

/// A MAC address as the first word of a frame, behind which two bytes of the source follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MacWord(u64);

const MAC_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

impl From<MacAddr> for MacWord {
    fn from(mac: MacAddr) -> MacWord {
        let [a, b, c, d, e, f] = mac.0;
        MacWord(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

/// What TCP and UDP headers begin with.
pub(crate) type Ports = [u8; 4];

/// An IPv4 header without options.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Ipv4 {
    pub version_ihl: u8,
    pub dscp_ecn: u8,
    pub total_len: U16,
    pub id: U16,
    pub flags_fragment: U16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: U16,
    /// Source and destination address.
    pub addrs: [u8; 8],
}

const _: () = assert!(size_of::<Ipv4>() == ipv4::HEADER_LEN);

impl Frame<Ipv4, Ports> {
    /// Whether it begins so; what follows has not been looked at.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.link.ether_type == ethernet::ETHERTYPE_IPV4 && self.ip.version_ihl == 0x45
    }

    /// The five-tuple, if it is a segment or datagram.
    #[inline(always)]
    pub(crate) fn key(&self) -> Key {
        Key {
            addrs: u64::from_ne_bytes(self.ip.addrs),
            ports: u32::from_ne_bytes(self.l4),
            protocol: self.ip.protocol,
        }
    }
}

impl Frame<ipv6::Header, Ports> {
    /// As [`Frame::<Ipv4, Ports>::is_plain`].
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.link.ether_type == ethernet::ETHERTYPE_IPV6 && self.ip.version() == 6
    }

    /// The five-tuple, if it is a segment or datagram.
    #[inline(always)]
    pub(crate) fn key(&self) -> Key6 {
        Key6 {
            addrs: [self.ip.src, self.ip.dst].map(u128::from_ne_bytes),
            ports: u32::from_ne_bytes(self.l4),
            protocol: self.ip.next_header,
        }
    }
}

/// The IP header of a [`Frame`].
pub(crate) trait Ip:
    Across + Copy + FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned
{
    /// IPv6.
    const WIDE: bool;
    /// Bytes of this header.
    const HEADER_LEN: usize;

    /// What stands in front of packets in tunnels of this family, and of the other one.
    type Front: Front;
    type OtherFront: Front;

    /// The first bytes, in the upper ones of a number: what stands there is got at by one load.
    fn start(&self) -> u64;

    /// Bytes from the header that starts so to the end of the packet, as the header has it; below [`Ip::HEADER_LEN`] in a
    /// corrupt one.
    fn len_in(start: u64) -> usize;

    /// Whether the header that starts so is no fragment's.
    fn is_whole_in(start: u64) -> bool;

    /// DSCP and ECN of the header that starts so.
    fn class_in(start: u64) -> u8;

    /// What an IPv4 header around the packet of the header that starts so starts with, without identification. Together
    /// they are no longer than IPv4 allows.
    fn start_of_v4_around(start: u64) -> u64;

    /// TTL or hop limit.
    fn hops(&self) -> u8;

    /// A connection's addresses, both directions', where they do not stand in its record.
    type Addrs<'a>: Copy;

    /// Those of this connection, of which packets of this family come in in `direction`.
    fn addrs_of<'a>(conn: &Conn, wide: &'a [Wide], direction: Direction) -> Option<Self::Addrs<'a>>;

    /// Whether it has the addresses of what comes in in this direction.
    fn has(&self, conn: &Conn, addrs: Self::Addrs<'_>, direction: Direction) -> bool;

    /// Gives it the addresses that packets leave with which came in in this direction.
    fn readdress(&mut self, conn: &Conn, addrs: Self::Addrs<'_>, direction: Direction);

    /// Takes one hop off.
    fn take_hop(&mut self);

    /// The same where addresses were changed, too, which change the checksum by `addrs`.
    fn take_hop_and(&mut self, addrs: u16);
}

impl Ip for Ipv4 {
    const WIDE: bool = false;
    const HEADER_LEN: usize = ipv4::HEADER_LEN;

    type Front = Front4;
    type OtherFront = Front6;

    #[inline(always)]
    fn start(&self) -> u64 {
        self.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    #[inline(always)]
    fn class_in(start: u64) -> u8 {
        (start >> 48) as u8
    }

    #[inline(always)]
    fn len_in(start: u64) -> usize {
        ((start >> 32) as u16).into()
    }

    #[inline(always)]
    fn is_whole_in(start: u64) -> bool {
        start as u16 & !ipv4::FLAG_DONT_FRAGMENT == 0
    }

    #[inline(always)]
    fn start_of_v4_around(start: u64) -> u64 {
        // Version, DSCP and ECN, length, and "do not fragment".
        let kept = start & (0xffff_ffff << 32 | u64::from(ipv4::FLAG_DONT_FRAGMENT));
        // As `outer_dscp_ecn`.
        let met = start & start >> 1 & 1 << 48;
        (kept ^ met) + ((ipv4::HEADER_LEN as u64) << 32)
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.ttl
    }

    type Addrs<'a> = ();

    #[inline(always)]
    fn addrs_of(_: &Conn, _: &[Wide], _: Direction) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn has(&self, conn: &Conn, (): (), direction: Direction) -> bool {
        u64::from_ne_bytes(self.addrs) == conn.addrs[direction as usize]
    }

    #[inline(always)]
    fn readdress(&mut self, conn: &Conn, (): (), direction: Direction) {
        self.addrs = conn.addrs[direction.other() as usize].rotate_left(32).to_ne_bytes();
    }

    #[inline(always)]
    fn take_hop(&mut self) {
        self.ttl = self.ttl.wrapping_sub(1);
        // One less in the TTL's half of its word, turned round by the complement, with end-around carry: what
        // `take_hop_and` does with 0, in two steps. Never 0xffff (RFC 1624).
        let old = u16::from_le_bytes(self.checksum.to_bytes());
        let new = old.wrapping_add(2).wrapping_sub(u16::from(old < 0xfffe));
        self.checksum = U16::from_bytes(new.to_le_bytes());
    }

    #[inline(always)]
    fn take_hop_and(&mut self, addrs: u16) {
        self.ttl = self.ttl.wrapping_sub(1);
        self.checksum = Delta::apply_folded(Delta::add_folded(addrs, TTL_DELTA.to_folded()), self.checksum);
    }
}

impl Ip for ipv6::Header {
    const WIDE: bool = true;
    const HEADER_LEN: usize = ipv6::HEADER_LEN;

    type Front = Front6;
    type OtherFront = Front4;

    #[inline(always)]
    fn start(&self) -> u64 {
        // Where only the length is asked for, nothing else is loaded.
        u64::from(self.version_class_flow.get()) << 32 | u64::from(self.payload_len.get()) << 16
    }

    #[inline(always)]
    fn class_in(start: u64) -> u8 {
        (start >> 52) as u8
    }

    #[inline(always)]
    fn len_in(start: u64) -> usize {
        ipv6::HEADER_LEN + usize::from((start >> 16) as u16)
    }

    #[inline(always)]
    fn is_whole_in(_: u64) -> bool {
        true
    }

    #[inline(always)]
    fn start_of_v4_around(start: u64) -> u64 {
        let len = ipv4::HEADER_LEN + Self::len_in(start);
        0x45 << 56 | u64::from(outer_dscp_ecn(Self::class_in(start))) << 48 | (len as u64) << 32
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hop_limit
    }

    type Addrs<'a> = &'a Wide;

    #[inline(always)]
    fn addrs_of<'a>(conn: &Conn, wide: &'a [Wide], direction: Direction) -> Option<&'a Wide> {
        wide.get(conn.addrs[direction as usize] as usize)
    }

    #[inline(always)]
    fn has(&self, _: &Conn, addrs: &Wide, direction: Direction) -> bool {
        let own = self.as_bytes().last_chunk::<{ 2 * size_of::<u128>() }>();
        own.is_some_and(|own| own == addrs[direction as usize].as_bytes())
    }

    #[inline(always)]
    fn readdress(&mut self, _: &Conn, addrs: &Wide, direction: Direction) {
        [self.dst, self.src] = addrs[direction.other() as usize].map(u128::to_ne_bytes);
    }

    #[inline(always)]
    fn take_hop(&mut self) {
        self.hop_limit = self.hop_limit.wrapping_sub(1);
    }

    #[inline(always)]
    fn take_hop_and(&mut self, _: u16) {
        self.take_hop();
    }
}

impl<I: Ip, T: Transport, L> Frame<I, T, L> {
    /// Bytes of the packet, whose IP header has this [`Ip::start`], if it came in in this direction of this connection, is
    /// whole, has all of these headers and is not longer than that.
    #[inline(always)]
    pub(crate) fn len_of(
        &self,
        conn: &Conn,
        addrs: I::Addrs<'_>,
        direction: Direction,
        start: u64,
        len_max: usize,
    ) -> Option<usize> {
        let len = I::len_in(start);
        let fits = self.l4.ports() == conn.ports[direction as usize]
            && self.ip.has(conn, addrs, direction)
            && I::is_whole_in(start)
            && len >= I::HEADER_LEN + size_of::<T>()
            && len <= len_max;
        fits.then_some(len)
    }

    /// [`Transport::ordinary`] of a packet of so many bytes that has a hop to spare.
    #[inline(always)]
    pub(crate) fn ordinary(
        &self,
        conn: &Conn,
        direction: Direction,
        len: usize,
        rest: &[u8],
    ) -> Option<usize> {
        let payload_len = self.l4.ordinary(conn, direction, len - I::HEADER_LEN, rest, I::WIDE);
        payload_len.filter(|_| self.ip.hops() > 1)
    }
}

/// The transport header of a [`Frame`].
pub(crate) trait Transport: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {
    /// Its IP protocol.
    const PROTOCOL: u8;
    /// State and flags of connections whose packets are ordinary.
    const STATE: ConnState;
    const FLAGS: u8;
    /// Flags without which what comes back is ordinary.
    const NOT_OUTBOUND: u8;

    /// Source and destination port, as loaded.
    fn ports(&self) -> u32;

    /// Bytes of payload of an ordinary packet: in order, changing nothing of its connection but what [`Transport::note`] does,
    /// with nothing to be stripped. `None`: it is not. `len` is that of header and payload, at least the header's; `rest` what
    /// follows the header in the frame; `wide`: of an IPv6 packet.
    fn ordinary(
        &self,
        conn: &Conn,
        direction: Direction,
        len: usize,
        rest: &[u8],
        wide: bool,
    ) -> Option<usize>;

    /// Whether there is a checksum.
    fn is_summed(&self) -> bool;

    /// New ports, source first as loaded, and what changed in the checksum.
    fn rewrite(&mut self, ports: u32, delta: u16);

    /// Remembers what an ordinary packet says. `ONE_WAY`: of a connection whose replies do not come this way.
    fn note<const ONE_WAY: bool>(&self, conn: &mut Conn, direction: Direction, payload_len: usize);
}

impl Transport for tcp::Header {
    const PROTOCOL: u8 = ipv4::PROTO_TCP;
    const STATE: ConnState = ConnState::Established;
    const FLAGS: u8 = flag::INBOUND_ACK | flag::OUTBOUND_ACK;
    const NOT_OUTBOUND: u8 = 0;

    #[inline(always)]
    fn ports(&self) -> u32 {
        ports_of(self.as_bytes())
    }

    #[inline(always)]
    fn ordinary(&self, conn: &Conn, direction: Direction, len: usize, rest: &[u8], _: bool) -> Option<usize> {
        use flags::{ACK, FIN, RST, SYN};
        let quiet = u16::from_ne_bytes([0, SYN | FIN | RST | ACK]);
        let bare = u16::from_ne_bytes([0xf0, SYN | FIN | RST | ACK]);
        let at = std::mem::offset_of!(tcp::Header, data_offset);
        let word =
            self.as_bytes().get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b));
        let behind = len - tcp::HEADER_LEN;
        if word & bare == u16::from_ne_bytes([0x50, ACK]) {
            return Some(behind);
        }
        // Options that are in order, and say nothing that a client may not say.
        let options_len = (usize::from(self.data_offset >> 4) * 4).wrapping_sub(tcp::HEADER_LEN);
        let ordinary = word & quiet == u16::from_ne_bytes([0, ACK])
            && options_len <= behind
            && (direction == Direction::Outbound
                || conn.toa_kind == 0
                || rest.get(..options_len).is_some_and(toa::is_harmless));
        ordinary.then(|| behind - options_len)
    }

    #[inline(always)]
    fn is_summed(&self) -> bool {
        true
    }

    #[inline(always)]
    fn rewrite(&mut self, ports: u32, delta: u16) {
        [self.src_port, self.dst_port] = two_ports(ports);
        self.checksum = Delta::apply_folded(delta, self.checksum);
    }

    #[inline(always)]
    fn note<const ONE_WAY: bool>(&self, conn: &mut Conn, direction: Direction, payload_len: usize) {
        crate::worker::note_next_ack::<ONE_WAY>(conn, direction, self, payload_len as u32);
    }
}

impl Transport for udp::Header {
    const PROTOCOL: u8 = ipv4::PROTO_UDP;
    const STATE: ConnState = ConnState::Udp;
    const FLAGS: u8 = 0;
    // The first answer takes the connection off the list of those that are given up first.
    const NOT_OUTBOUND: u8 = flag::EMBRYONIC;

    #[inline(always)]
    fn ports(&self) -> u32 {
        ports_of(self.as_bytes())
    }

    #[inline(always)]
    fn ordinary(&self, _: &Conn, _: Direction, len: usize, _: &[u8], wide: bool) -> Option<usize> {
        // IPv6 knows no datagrams without checksum (RFC 8200 §8.1).
        (self.fits(len) && (!wide || self.is_summed())).then(|| len - udp::HEADER_LEN)
    }

    #[inline(always)]
    fn is_summed(&self) -> bool {
        self.checksum != U16::ZERO
    }

    #[inline(always)]
    fn rewrite(&mut self, ports: u32, delta: u16) {
        [self.src_port, self.dst_port] = two_ports(ports);
        self.checksum = Delta::apply_udp_folded(delta, self.checksum);
    }

    #[inline(always)]
    fn note<const ONE_WAY: bool>(&self, _: &mut Conn, _: Direction, _: usize) {}
}

/// The ports, source first as loaded, that a TCP or UDP header begins with.
#[inline(always)]
fn ports_of(header: &[u8]) -> u32 {
    header.first_chunk().copied().map_or(0, u32::from_ne_bytes)
}

#[inline(always)]
fn two_ports(ports: u32) -> [U16; 2] {
    let (src, dst) = halves32(ports);
    [U16::from_bytes(src.to_ne_bytes()), U16::from_bytes(dst.to_ne_bytes())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_less_changes_every_checksum_as_a_delta_does() {
        for checksum in 0..=u16::MAX {
            let mut bytes = [0; ipv4::HEADER_LEN];
            bytes[8] = 64;
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            let mut header = Ipv4::read_from_bytes(&bytes).unwrap();
            header.take_hop();
            assert_eq!((header.ttl, header.checksum), (63, TTL_DELTA.apply(U16::new(checksum))));
        }
    }
}
