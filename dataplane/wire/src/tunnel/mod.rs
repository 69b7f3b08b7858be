//! The outer headers of the TUN forwarding mode: IP in IP (RFC 2003, RFC 2473, RFC 4213), GRE (RFC 2784) and
//! GUE (draft-ietf-intarea-gue), each over IPv4 and IPv6, around IPv4 and IPv6.
//!
//! ```text
//! | outer IP | inner packet …                         IP in IP
//! | outer IP | GRE | inner packet …                   GRE, with a checksum 4 bytes longer
//! | outer IP | UDP | GUE | inner packet …             GUE
//! ```
//!
//! What the outer header takes from the inner one is what Linux IPVS takes, so that either can stand in for
//! the other: TTL and DSCP as they are, "do not fragment" when path MTU discovery is on, and ECN as
//! [`outer_dscp_ecn`] says. The inner packet is not changed; its hop is taken off by the caller, before.
//!
//! Contract: the writers change nothing but the bytes of the outer headers, and nothing at all when they
//! answer `None`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Addresses, Family, U16, U32, checksum, ipv4, ipv6, udp};

/// Length of the GRE header without a checksum.
pub const GRE_LEN: usize = 4;
/// Length of the GRE header with a checksum.
pub const GRE_CHECKSUM_LEN: usize = 8;
/// Length of the GUE header without optional fields.
pub const GUE_LEN: usize = 4;

/// "A checksum follows", in [`Gre::flags_version`].
pub const GRE_CHECKSUM: u16 = 0x8000;
/// "Routing follows", in [`Gre::flags_version`]; deprecated by RFC 2784 and not followed.
const GRE_ROUTING: u16 = 0x4000;
/// "A key follows", in [`Gre::flags_version`] (RFC 2890).
const GRE_KEY: u16 = 0x2000;
/// "A sequence number follows", in [`Gre::flags_version`] (RFC 2890).
const GRE_SEQUENCE: u16 = 0x1000;
const GRE_VERSION_MASK: u16 = 0x0007;

/// The fixed part of the GRE header (RFC 2784 §2.1).
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |C|       reserved        | ver |         protocol type         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |       checksum (if C)         |        reserved (if C)        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Gre {
    /// Flags (upper 13 bits) and version (lower 3 bits).
    pub flags_version: U16,
    /// Ether type of the inner packet.
    pub protocol: U16,
}

const _: () = assert!(size_of::<Gre>() == GRE_LEN);

impl Gre {
    /// Length of the whole header; `None` for a version or a layout that is not known.
    #[must_use]
    pub const fn header_len(&self) -> Option<usize> {
        let bits = self.flags_version.get();
        if bits & (GRE_VERSION_MASK | GRE_ROUTING) != 0 {
            return None;
        }
        let fields = bits & (GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE);
        Some(GRE_LEN + 4 * fields.count_ones() as usize)
    }
}

/// The GUE header, variant 0 (draft-ietf-intarea-gue §3.1).
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | 0 |C|  length |  proto/ctype  |             flags             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Gue {
    /// Variant (2 bits), control message (1 bit), length of optional fields in words (5 bits).
    pub variant_len: u8,
    /// Protocol of the inner packet, or type of a control message.
    pub protocol: u8,
    /// Which optional fields there are.
    pub flags: U16,
}

const _: () = assert!(size_of::<Gue>() == GUE_LEN);

impl Gue {
    /// Length of the whole header; `None` for another variant and for control messages, which hold no packet.
    #[must_use]
    pub const fn header_len(&self) -> Option<usize> {
        if self.variant_len & 0xe0 != 0 {
            return None;
        }
        Some(GUE_LEN + 4 * (self.variant_len & 0x1f) as usize)
    }
}

/// What stands between the outer and the inner IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Ip,
    /// GRE.
    Gre {
        /// Whether with a checksum over the GRE header and all behind it.
        checksum: bool,
    },
    /// UDP and GUE.
    Gue {
        /// The UDP port that the real server decapsulates at.
        dst_port: U16,
        /// Whether with a UDP checksum. Without one over IPv6, the receiver must have been told (RFC 6936).
        checksum: bool,
    },
}

impl Kind {
    /// Bytes that this puts between the outer and the inner IP header.
    #[inline]
    #[must_use]
    pub const fn wrap_len(self) -> usize {
        match self {
            Self::Ip => 0,
            Self::Gre { checksum: false } => GRE_LEN,
            Self::Gre { checksum: true } => GRE_CHECKSUM_LEN,
            Self::Gue { .. } => udp::HEADER_LEN + GUE_LEN,
        }
    }

    /// Bytes that a packet grows by in such a tunnel over IPv4 or IPv6: what the MTU of the way inside is
    /// smaller by.
    #[inline]
    #[must_use]
    pub const fn overhead(self, outer: Family) -> usize {
        outer.header_len() + self.wrap_len()
    }

    /// The protocol that the outer IP header names.
    const fn protocol(self, inner: Family) -> u8 {
        match self {
            Self::Ip => inner.protocol(),
            Self::Gre { .. } => ipv4::PROTO_GRE,
            Self::Gue { .. } => ipv4::PROTO_UDP,
        }
    }
}

/// What the outer header takes from the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The inner packet's family.
    pub family: Family,
    /// Its length, from its IP header on.
    pub len: usize,
    /// Its DSCP and ECN.
    pub dscp_ecn: u8,
    /// Its TTL or hop limit.
    pub hops: u8,
    /// Whether routers in the tunnel must not fragment it. To be cleared where path MTU discovery is off.
    pub dont_fragment: bool,
}

impl Inner {
    /// What `packet` says, which begins with its IP header; routers do not fragment IPv6, so those in a
    /// tunnel need not either. `None` when it has no whole IP header.
    #[inline]
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        match Family::of(packet)? {
            Family::V4 => {
                let header: &ipv4::Header = crate::view(packet, 0)?;
                Some(Self {
                    family: Family::V4,
                    len: usize::from(header.total_len.get()),
                    dscp_ecn: header.dscp_ecn,
                    hops: header.ttl,
                    dont_fragment: header.dont_fragment(),
                })
            }
            Family::V6 => {
                let header: &ipv6::Header = crate::view(packet, 0)?;
                Some(Self {
                    family: Family::V6,
                    len: ipv6::HEADER_LEN + usize::from(header.payload_len.get()),
                    dscp_ecn: header.traffic_class(),
                    hops: header.hop_limit,
                    dont_fragment: true,
                })
            }
        }
    }
}

/// DSCP and ECN of the outer header: those of the inner one, but "congestion met" becomes "can do ECN",
/// ECT(0).
///
/// This is the full-functionality option of RFC 3168 §9.1.1, and what Linux does. RFC 6040 §4.1 copies
/// "congestion met" too; the inner header keeps the mark, so what leaves the tunnel's other end is the same
/// (RFC 6040 §4.2).
#[inline]
#[must_use]
pub const fn outer_dscp_ecn(inner: u8) -> u8 {
    // "Congestion met" is 0b11, ECT(0) is 0b10: the low bit goes where both are set.
    inner & !(inner & (inner >> 1) & 1)
}

/// The UDP source port of a flow in a tunnel, 49152 to 65535 (RFC 8085 §5.1.1, RFC 6335 §6): routers between
/// spread flows by it, and all packets of one flow must have the same.
#[inline]
#[must_use]
pub const fn source_port(flow_hash: u32) -> U16 {
    let folded = (flow_hash ^ flow_hash >> 16) as u16;
    U16::new(0xc000 | folded & 0x3fff)
}

/// A tunnel over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterV4 {
    /// Our address.
    pub src: U32,
    /// The real server's address.
    pub dst: U32,
    /// What stands between the headers.
    pub kind: Kind,
    /// Identification; of packets that may be fragmented, no two to one real server may share it for a while.
    pub id: U16,
    /// Hash of the inner flow, from which GUE's source port is made.
    pub flow_hash: u32,
}

impl OuterV4 {
    /// Writes the outer headers in front of the inner packet: `packet` begins with [`Kind::overhead`] bytes
    /// of any content, behind which the inner packet, of which `inner` speaks, stands whole. The result is
    /// the overhead.
    ///
    /// `None` when `packet` is shorter than both, or when both are longer than the 65,535 bytes of an IPv4
    /// packet.
    #[must_use]
    pub fn write(&self, packet: &mut [u8], inner: &Inner) -> Option<usize> {
        let overhead = self.kind.overhead(Family::V4);
        let packet = packet.get_mut(..overhead.saturating_add(inner.len))?;
        let mut header = ipv4::Header {
            version_ihl: 0x45,
            dscp_ecn: outer_dscp_ecn(inner.dscp_ecn),
            total_len: U16::new(u16::try_from(packet.len()).ok()?),
            id: self.id,
            flags_fragment: U16::new(if inner.dont_fragment { ipv4::FLAG_DONT_FRAGMENT } else { 0 }),
            ttl: inner.hops,
            protocol: self.kind.protocol(inner.family),
            checksum: U16::ZERO,
            src: self.src,
            dst: self.dst,
        };
        header.checksum = checksum::internet(header.as_bytes());
        let (front, payload) = packet.split_at_mut(ipv4::HEADER_LEN);
        front.copy_from_slice(header.as_bytes());
        let udp_checksum = |datagram: &[u8]| checksum::udp_v4(self.src, self.dst, datagram);
        write_wrap(payload, self.kind, inner.family, source_port(self.flow_hash), udp_checksum)?;
        Some(overhead)
    }
}

/// A tunnel over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterV6 {
    /// Our address.
    pub src: [u8; 16],
    /// The real server's address.
    pub dst: [u8; 16],
    /// What stands between the headers.
    pub kind: Kind,
    /// Hash of the inner flow, from which the flow label (RFC 6438 §3) and GUE's source port are made.
    pub flow_hash: u32,
}

impl OuterV6 {
    /// Like [`OuterV4::write`], over IPv6. There is no "do not fragment" in an IPv6 header: no router
    /// fragments.
    ///
    /// `None` when `packet` is shorter than outer headers and inner packet, or when the outer payload is
    /// longer than 65,535 bytes.
    #[must_use]
    pub fn write(&self, packet: &mut [u8], inner: &Inner) -> Option<usize> {
        let overhead = self.kind.overhead(Family::V6);
        let packet = packet.get_mut(..overhead.saturating_add(inner.len))?;
        let class = u32::from(outer_dscp_ecn(inner.dscp_ecn));
        let header = ipv6::Header {
            version_class_flow: U32::new(6 << 28 | class << 20 | self.flow_hash & 0x000f_ffff),
            payload_len: U16::new(u16::try_from(packet.len() - ipv6::HEADER_LEN).ok()?),
            next_header: self.kind.protocol(inner.family),
            hop_limit: inner.hops,
            src: self.src,
            dst: self.dst,
        };
        let (front, payload) = packet.split_at_mut(ipv6::HEADER_LEN);
        front.copy_from_slice(header.as_bytes());
        let udp_checksum = |datagram: &[u8]| checksum::udp_v6(&self.src, &self.dst, datagram);
        write_wrap(payload, self.kind, inner.family, source_port(self.flow_hash), udp_checksum)?;
        Some(overhead)
    }
}

/// Writes what stands between the IP headers at the front of the outer packet's payload.
#[inline]
fn write_wrap(
    payload: &mut [u8],
    kind: Kind,
    inner: Family,
    src_port: U16,
    udp_checksum: impl Fn(&[u8]) -> U16,
) -> Option<()> {
    match kind {
        Kind::Ip => {}
        Kind::Gre { checksum: false } => {
            *crate::view_mut(payload, 0)? = Gre { flags_version: U16::ZERO, protocol: inner.ether_type() };
        }
        Kind::Gre { checksum: true } => {
            *crate::view_mut(payload, 0)? =
                Gre { flags_version: U16::new(GRE_CHECKSUM), protocol: inner.ether_type() };
            *crate::view_mut(payload, GRE_LEN)? = U32::ZERO;
            *crate::view_mut(payload, GRE_LEN)? = checksum::internet(payload);
        }
        Kind::Gue { dst_port, checksum } => {
            // An IP packet of 65,535 bytes at most is around it, so its length fits.
            let len = U16::new(payload.len() as u16);
            *crate::view_mut(payload, 0)? = udp::Header { src_port, dst_port, len, checksum: U16::ZERO };
            let gue = Gue { variant_len: 0, protocol: inner.protocol(), flags: U16::ZERO };
            *crate::view_mut(payload, udp::HEADER_LEN)? = gue;
            if checksum {
                let check = udp_checksum(payload);
                crate::view_mut::<udp::Header>(payload, 0)?.checksum = check;
            }
        }
    }
    Some(())
}

/// A packet in a tunnel, found by [`open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// Addresses of the outer header.
    pub outer: Addresses,
    /// Family of the inner packet.
    pub inner: Family,
    /// Where the inner packet begins, from the first byte of the outer header.
    pub inner_offset: usize,
}

/// Finds the inner packet of one that begins with its outer IP header, whatever of it is there: an ICMP error
/// quotes a tunnel's packet cut short. Checksums are not looked at.
///
/// UDP is GUE when it goes to `gue_port`. `None` when this is no tunnel's packet, or when it ends before the
/// inner packet's first byte, or in fragments behind the first.
#[must_use]
pub fn open(packet: &[u8], gue_port: Option<U16>) -> Option<Tunnelled> {
    let (outer, protocol, offset) = match Family::of(packet)? {
        Family::V4 => {
            let header: &ipv4::Header = crate::view(packet, 0)?;
            let header_len = header.check(usize::MAX).ok()?;
            let first = header.fragment_offset() == 0;
            first.then(|| (Addresses::from(header), header.protocol, header_len))?
        }
        Family::V6 => {
            let header: &ipv6::Header = crate::view(packet, 0)?;
            let upper = ipv6::walk_extensions(packet).ok()?;
            upper.is_first().then(|| (Addresses::from(header), upper.protocol, upper.offset))?
        }
    };
    let inner_offset = match protocol {
        ipv4::PROTO_IPIP | ipv4::PROTO_IPV6 => offset,
        ipv4::PROTO_GRE => offset + crate::view::<Gre>(packet, offset)?.header_len()?,
        ipv4::PROTO_UDP => {
            let header: &udp::Header = crate::view(packet, offset)?;
            let gue: &Gue = crate::view(packet, offset + udp::HEADER_LEN)?;
            let to_gue = gue_port == Some(header.dst_port);
            to_gue.then_some(offset + udp::HEADER_LEN + gue.header_len()?)?
        }
        _ => return None,
    };
    let inner = Family::of(packet.get(inner_offset..)?)?;
    Some(Tunnelled { outer, inner, inner_offset })
}

#[cfg(test)]
mod tests;
