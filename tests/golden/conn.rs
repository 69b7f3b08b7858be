//! One connection as it enters and as it must leave, in every mode: the oracle.

use api::{Protocol, TunnelKind};
use wire::{Family, U16, checksum, ipv4};

use crate::case::{Mode, Service};
use crate::frame::{
    CLIENT, CLIENT6, Frame, Ip, LIP, LIP6, Port, RIP, RIP6, TUNNEL, TUNNEL6, VIP, VIP6, either, family_of,
    octets,
};
use crate::load::{Endpoint, Load, udp};

/// Longest IPv4 packet that may still be cut up after it was an IPv6 packet (RFC 7915 §5.1).
const FRAGMENTABLE_LEN_MAX: usize = 1260;

/// The four endpoints of a connection and its service, on which depends what becomes of its packets.
#[derive(Debug, Clone)]
pub(crate) struct Conn {
    pub(crate) service: Service,
    pub(crate) client: Endpoint,
    pub(crate) virtual_: Endpoint,
    /// FULLNAT.
    pub(crate) local: Endpoint,
    pub(crate) real: Endpoint,
    /// What its packets are marked with in a tunnel; learnt from the first.
    pub(crate) marks: Marks,
    /// The same of ICMP errors about it.
    pub(crate) error_marks: Marks,
}

/// What routers spread a tunnel's flows by; the gateway may choose it, once for each flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// UDP source port.
    pub(crate) port: u16,
    /// IPv6 flow label.
    pub(crate) label: u32,
}

impl Conn {
    /// The `n`th connection of the case with this number. No two have a port in common.
    pub(crate) fn new(service: Service, case: u16, n: u16) -> Conn {
        let id = case * 10 + n;
        let virtual_ = (either(service.outside, VIP, VIP6), 1_000 + id);
        let real_port = if service.mode.is_one_way() { virtual_.1 } else { 8_000 + id };
        Conn {
            service,
            client: (either(service.outside, CLIENT, CLIENT6), 40_000 + id),
            virtual_,
            local: (either(service.inside, LIP, LIP6), Conn::local_port(case, n)),
            real: (either(service.inside, RIP, RIP6), real_port),
            marks: Marks::default(),
            error_marks: Marks::default(),
        }
    }

    /// The first of its two local ports; the second one is there only when there are two workers.
    pub(crate) fn local_port(case: u16, n: u16) -> u16 {
        20_000 + 2 * (case * 10 + n)
    }

    /// The number of its protocol.
    pub(crate) fn protocol(&self) -> u8 {
        match self.service.protocol {
            Protocol::Tcp => ipv4::PROTO_TCP,
            Protocol::Udp => ipv4::PROTO_UDP,
        }
    }

    /// From whom to whom its inbound packets are on the real server's side, in a tunnel the inner ones.
    pub(crate) fn inside(&self) -> (Endpoint, Endpoint) {
        match self.service.mode {
            Mode::FullNat => (self.local, self.real),
            Mode::Nat => (self.client, self.real),
            Mode::Dr | Mode::Tun(_) => (self.client, self.virtual_),
        }
    }

    pub(crate) fn client_sends<L: Load>(&self, load: &L) -> Frame {
        let mut load = load.clone();
        let tail = std::mem::take(load.tail_mut());
        Port::Wan.receives(&load.packet(self.client, self.virtual_)).tail(tail)
    }

    /// What `load`, sent by the real server, is when it reaches the client.
    pub(crate) fn client_gets<L: Load>(&self, load: &L) -> Frame {
        let (_, from) = self.inside();
        let load = moved(routed(load), family_of(from.0), family_of(self.client.0));
        Port::Wan.sends(&load.packet(self.virtual_, self.client))
    }

    pub(crate) fn real_sends<L: Load>(&self, load: &L) -> Frame {
        let (to, from) = self.inside();
        let mut load = load.clone();
        let tail = std::mem::take(load.tail_mut());
        Port::Lan.receives(&load.packet(from, to)).tail(tail)
    }

    /// What `load`, sent by the client, is when it leaves for the real server.
    pub(crate) fn real_gets<L: Load>(&self, load: &L) -> Frame {
        let (from, to) = self.inside();
        let load = moved(routed(load), family_of(self.client.0), family_of(from.0));
        self.leaves_inside(load.packet(from, to), load.ip(), self.marks)
    }

    /// The frame to the real server with this packet, in the tunnel if there is one.
    pub(crate) fn leaves_inside(&self, packet: Vec<u8>, ip: &Ip, marks: Marks) -> Frame {
        match self.service.mode {
            Mode::Tun(kind) => Port::Lan.sends(&self.wrapped(kind, &packet, ip, marks)),
            _ => Port::Lan.sends(&packet),
        }
    }

    /// The packet in its tunnel. The outer header takes over hops and DSCP of the inner one, "do not fragment" of IPv4, and
    /// ECN with "congestion met" (3) as ECT(0) (2), as Linux IPVS does.
    fn wrapped(&self, kind: TunnelKind, inner: &[u8], ip: &Ip, marks: Marks) -> Vec<u8> {
        let ends = (either(self.service.inside, TUNNEL, TUNNEL6), self.real.0);
        let is_v4 = Family::of(inner) == Some(Family::V4);
        let outer = Ip {
            class: if ip.class & 3 == 3 { ip.class & !1 } else { ip.class },
            // Routers in the tunnel may cut what comes of IPv6.
            dont_fragment: is_v4 && ip.dont_fragment,
            flow_label: marks.label,
            ..Ip::own(ip.hops)
        };
        let (inner_protocol, [a, b]) =
            if is_v4 { (ipv4::PROTO_IPIP, [8, 0]) } else { (ipv4::PROTO_IPV6, [0x86, 0xdd]) };
        let (protocol, payload) = match kind {
            TunnelKind::Ipip => (inner_protocol, inner.to_vec()),
            TunnelKind::Gre { checksum: false } => (ipv4::PROTO_GRE, [&[0, 0, a, b], inner].concat()),
            TunnelKind::Gre { checksum: true } => {
                let mut payload = [&[0x80, 0, a, b, 0, 0, 0, 0], inner].concat();
                let sum = checksum::internet(&payload);
                payload[4..6].copy_from_slice(&sum.to_bytes());
                (ipv4::PROTO_GRE, payload)
            }
            TunnelKind::Gue { port, checksum } => {
                let gue = [&[0, inner_protocol, 0, 0], inner].concat();
                // IPv6 wants one (RFC 8200 §8.1).
                let has_checksum = checksum || ends.0.is_ipv6();
                (ipv4::PROTO_UDP, udp((ends.0, marks.port), (ends.1, port), &gue, has_checksum))
            }
        };
        outer.packet(protocol, ends, &payload)
    }

    /// Bytes that an inbound packet without options grows by on its way.
    pub(crate) fn growth(&self) -> isize {
        let Service { mode, outside, inside, .. } = self.service;
        let header = |family: Family| family.header_len() as isize;
        match mode {
            Mode::Tun(kind) => {
                header(inside)
                    + match kind {
                        TunnelKind::Ipip => 0,
                        TunnelKind::Gre { checksum } => 4 + 4 * isize::from(checksum),
                        TunnelKind::Gue { .. } => 12,
                    }
            }
            _ => header(inside) - header(outside),
        }
    }

    /// The option that tells the client's address: kind, length, port, address.
    pub(crate) fn toa(&self, kind: u8) -> Vec<u8> {
        let ip = octets(self.client.0);
        [&[kind, 4 + ip.len() as u8][..], &self.client.1.to_be_bytes(), &ip].concat()
    }
}

/// A router has passed it on.
pub(crate) fn routed<L: Load>(load: &L) -> L {
    let mut load = load.clone().tail(0);
    load.ip_mut().hops -= 1;
    load
}

/// With the IP header of the other family, where there is another one (RFC 7915 §4.1, §5.1): options and extension
/// headers go, the class stays, and what was IPv6 may be cut up only where it is short.
pub(crate) fn moved<L: Load>(load: L, from: Family, to: Family) -> L {
    if from == to {
        return load;
    }
    let mut load = if to == Family::V6 { load.for_v6() } else { load };
    let nobody = |family| (either(family, CLIENT, CLIENT6), 0);
    let len = 20 + load.bytes(nobody(to), nobody(to)).len();
    let (hops, class) = (load.ip().hops, load.ip().class);
    *load.ip_mut() = Ip { class, dont_fragment: len > FRAGMENTABLE_LEN_MAX, ..Ip::own(hops) };
    load
}

/// A frame whose IPv4 identification the gateway chose, with zero in its place: any will do.
pub(crate) fn without_own_id(frame: &Frame) -> Frame {
    let is_own = frame.bytes.get(12..34).is_some_and(|bytes| {
        bytes[..3] == [8, 0, 0x45]
            && checksum::verify_ipv4(&bytes[2..])
            && U16::from_bytes([bytes[6], bytes[7]]).get() != crate::frame::HOST_ID
    });
    let frame = frame.clone();
    if is_own { frame.edit(|bytes| bytes[18..20].fill(0)).with_ip_checksum() } else { frame }
}
