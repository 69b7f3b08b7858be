//! ICMP errors: those that the gateway sends, and those that others send about its connections.

use std::net::IpAddr;

use wire::{Family, ipv4};

use crate::case::{Mode, Step, step};
use crate::conn::{Conn, moved};
use crate::frame::{Frame, Ip, Port, either, family_of, upper_checksum};
use crate::load::Load;

/// Bytes of a message at most that quotes an IPv4 packet: with its header 576 (RFC 1812 §4.3.2.3).
const MESSAGE_LEN_MAX: usize = 576 - 20;
/// The same for IPv6: 1280 (RFC 4443 §2.4 c).
const MESSAGE6_LEN_MAX: usize = 1280 - 40;

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    TimeExceeded,
    PortUnreachable,
    /// With the MTU.
    TooBig(u16),
}

impl Trouble {
    /// Type, code and the 4 bytes behind the checksum (RFC 792, RFC 1191, RFC 4443).
    fn numbers(self, family: Family) -> (u8, u8, u32) {
        match (self, family) {
            (Trouble::TimeExceeded, Family::V4) => (11, 0, 0),
            (Trouble::TimeExceeded, Family::V6) => (3, 0, 0),
            (Trouble::PortUnreachable, Family::V4) => (3, 3, 0),
            (Trouble::PortUnreachable, Family::V6) => (1, 4, 0),
            (Trouble::TooBig(mtu), Family::V4) => (3, 4, mtu.into()),
            (Trouble::TooBig(mtu), Family::V6) => (2, 0, mtu.into()),
        }
    }
}

/// The IP packet with an error that quotes the first bytes of a packet, of the same family.
pub(crate) fn error_packet(ip: &Ip, ends: (IpAddr, IpAddr), trouble: Trouble, quote: &[u8]) -> Vec<u8> {
    let family = family_of(ends.0);
    let protocol = if family == Family::V4 { ipv4::PROTO_ICMP } else { ipv4::PROTO_ICMPV6 };
    let (kind, code, rest) = trouble.numbers(family);
    let mut message = [&[kind, code, 0, 0], &rest.to_be_bytes()[..], quote].concat();
    let sum = upper_checksum(protocol, ends, &message);
    message[2..4].copy_from_slice(&sum.to_bytes());
    ip.packet(protocol, ends, &message)
}

/// Bytes that an error quotes at most.
fn quote_len_max(family: Family) -> usize {
    match family {
        Family::V4 => MESSAGE_LEN_MAX - 8,
        Family::V6 => MESSAGE6_LEN_MAX - 8,
    }
}

/// The gateway's own error about a frame: back to where it came from, from the address it was sent to.
pub(crate) fn answer(about: &Frame, trouble: Trouble) -> Frame {
    let packet = about.packet();
    let (len, src, dst) = addresses(packet);
    let quote = &packet[..len.min(quote_len_max(family_of(src)))];
    // Precedence of errors is internetwork control (RFC 1812 §4.3.2.5).
    let class = if src.is_ipv4() { 0xc0 } else { 0 };
    about.port.sends(&error_packet(&Ip { class, ..Ip::own(64) }, (dst, src), trouble, quote))
}

/// Length, source and destination of an IP packet.
fn addresses(packet: &[u8]) -> (usize, IpAddr, IpAddr) {
    let at = |from: usize, len: usize| &packet[from..from + len];
    let len = |from: usize| usize::from(u16::from_be_bytes([packet[from], packet[from + 1]]));
    if packet[0] >> 4 == 4 {
        let address = |from| IpAddr::from(<[u8; 4]>::try_from(at(from, 4)).unwrap_or_default());
        (len(2), address(12), address(16))
    } else {
        let address = |from| IpAddr::from(<[u8; 16]>::try_from(at(from, 16)).unwrap_or_default());
        (40 + len(4), address(8), address(24))
    }
}

/// A step in which the gateway answers a frame with an error.
pub(crate) fn answered(what: &str, frame: Frame, trouble: Trouble) -> Step {
    let error = answer(&frame, trouble);
    step(what, vec![frame]).gives(error).counts("replied", 1)
}

/// Routers on the client's and on the real server's side.
fn router(side: Port, family: Family) -> IpAddr {
    let net = side as u8 + 1;
    let v6 = [0x20, 1, 0xd, 0xb8, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54];
    either(family, [10, net, 0, 254].into(), v6.into())
}

/// How much of the segment or datagram an error quotes: as much as errors of its family may.
pub(crate) const AS_MUCH_AS_FITS: usize = usize::MAX;

impl Conn {
    /// A router on the client's side complains about what the real server sent (`load`), and quotes so much of it behind
    /// the IP header; `told` is what the real server gets to hear.
    pub(crate) fn complaint_outside<L: Load>(
        &self,
        load: &L,
        (trouble, told): (Trouble, Trouble),
        quoted: usize,
    ) -> (Frame, Frame) {
        let reporter = router(Port::Wan, self.service.outside);
        let seen = if self.service.mode.is_one_way() {
            // The real server sent it directly.
            load.packet(self.virtual_, self.client)
        } else {
            self.client_gets(load).packet().to_vec()
        };
        let quote = cut(&seen, load.ip().header_len(self.service.outside), quoted, self.service.outside);
        let comes = error_packet(&Ip::default(), (reporter, self.virtual_.0), trouble, &quote);
        let hop_less = Ip { hops: 63, ..Ip::default() };
        let leaves = match self.service.mode {
            Mode::Dr | Mode::Tun(_) => {
                let packet = error_packet(&hop_less, (reporter, self.virtual_.0), trouble, &quote);
                self.leaves_inside(packet, &hop_less, self.error_marks)
            }
            // The client's networks are no secret to the real server in NAT.
            Mode::Nat => {
                let (to, from) = self.inside();
                let was = put_back(self, load, Port::Lan).packet(from, to);
                let quote = &was[..quote.len()];
                Port::Lan.sends(&error_packet(&hop_less, (reporter, from.0), told, quote))
            }
            Mode::FullNat => {
                let (to, from) = self.inside();
                let was = put_back(self, load, Port::Lan).packet(from, to);
                self.passed_on(Port::Lan, (to.0, from.0), told, &was, quote.len())
            }
        };
        (Port::Wan.receives(&comes), leaves)
    }

    /// A router on the real server's side complains about what the client sent (`load`, with the options that the real
    /// server gets).
    pub(crate) fn complaint_inside<L: Load>(
        &self,
        load: &L,
        (trouble, told): (Trouble, Trouble),
        quoted: usize,
    ) -> (Frame, Frame) {
        let inside = self.service.inside;
        let (from, _) = self.inside();
        let seen = self.real_gets(load);
        let quote = cut(seen.packet(), load.ip().header_len(inside), quoted, inside);
        let comes = error_packet(&Ip::default(), (router(Port::Lan, inside), from.0), trouble, &quote);
        let was = put_back(self, load, Port::Wan).packet(self.client, self.virtual_);
        let ends = (self.virtual_.0, self.client.0);
        (Port::Lan.receives(&comes), self.passed_on(Port::Wan, ends, told, &was, quote.len()))
    }

    /// The error as it leaves, about a packet that was `was` before translation, when the quote came with `quote_len`
    /// bytes, the IP header with them.
    fn passed_on(
        &self,
        to: Port,
        ends: (IpAddr, IpAddr),
        trouble: Trouble,
        was: &[u8],
        quote_len: usize,
    ) -> Frame {
        let Conn { service, .. } = self;
        let (here, there) = match to {
            Port::Wan => (service.outside, service.inside),
            Port::Lan => (service.inside, service.outside),
        };
        // The quote begins with a header of the other family where there are two.
        let len = (quote_len + here.header_len() - there.header_len()).min(quote_len_max(here));
        let ip = if here == there { Ip { hops: 63, ..Ip::default() } } else { Ip::own(63) };
        to.sends(&error_packet(&ip, ends, trouble, &was[..len.min(was.len())]))
    }

    /// A step with such a complaint.
    pub(crate) fn complaint(&self, what: &str, (comes, leaves): (Frame, Frame)) -> Step {
        step(what, vec![comes]).gives(leaves).counts("icmp_errors", 1)
    }
}

/// What the sender knows of `load`, as a router behind the gateway quotes it: one hop older, and with those header
/// fields of its own family that the other one has too.
fn put_back<L: Load>(conn: &Conn, load: &L, to: Port) -> L {
    let Conn { service, .. } = conn;
    let (here, there) = match to {
        Port::Wan => (service.outside, service.inside),
        Port::Lan => (service.inside, service.outside),
    };
    let hops = load.ip().hops - 1;
    moved(moved(load.clone().ttl(hops), here, there), there, here)
}

/// The first `quoted` bytes behind the header, as far as they fit an error.
fn cut(packet: &[u8], header_len: usize, quoted: usize, family: Family) -> Vec<u8> {
    let len = header_len.saturating_add(quoted).min(quote_len_max(family)).min(packet.len());
    packet[..len].to_vec()
}
