//! A frame as text: every field that a gateway may change, layer by layer, so that two gateways' frames can
//! be compared and read.
//!
//! What is chosen at random or means nothing is left out: IPv4 identifications that are not the client's
//! (but not whether they are 0 where the packet may be fragmented), flow labels and source ports of
//! tunnels, and TOS, identification, DF and flow label of ICMP errors that the gateway makes itself.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use wire::{MacAddr, checksum, icmp, icmpv6, ipv4, ipv6, tcp, udp};

use crate::frame::{CLIENT_MAC, Frame, IP_ID, LAN_MAC, Port, REALS, WAN_MAC, real_mac};

/// The port that GUE tunnels go to in all cases.
pub(crate) const GUE_PORT: u16 = 6080;

/// One line.
pub(crate) fn describe(frame: &Frame) -> String {
    let mut out = String::new();
    let Some(header) = wire::view::<wire::ethernet::Header>(&frame.bytes, 0) else {
        return "no whole Ethernet header".into();
    };
    let own = if frame.port == Port::Wan { WAN_MAC } else { LAN_MAC };
    let from = if header.src == own { String::new() } else { format!("{} ", header.src) };
    let _ = write!(out, "{} {from}to {}: ", frame.port.name(), station(header.dst));
    match header.ether_type.get() {
        0x0800 => ipv4_text(&mut out, &frame.bytes[14..], Place::Outer),
        0x86dd => ipv6_text(&mut out, &frame.bytes[14..], Place::Outer),
        other => {
            let _ = write!(out, "Ethernet type {other:#06x}");
        }
    }
    out
}

/// Which real server a frame goes to, by its station.
pub(crate) fn real_of(frame: &Frame) -> Option<u8> {
    let to = wire::view::<wire::ethernet::Header>(&frame.bytes, 0)?.dst;
    (1..=REALS).find(|&n| real_mac(n) == to).filter(|_| frame.port == Port::Lan)
}

fn station(mac: MacAddr) -> String {
    if mac == CLIENT_MAC {
        return "client".into();
    }
    (1..=REALS).find(|&n| real_mac(n) == mac).map_or_else(|| mac.to_string(), |n| format!("real {n}"))
}

/// A quote in an ICMP error, or a packet in a fragment, is cut short, so lengths and checksums of it say
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outer,
    Quoted,
}

fn ipv4_text(out: &mut String, packet: &[u8], place: Place) {
    let Some(header) = wire::view::<ipv4::Header>(packet, 0) else {
        out.push_str("no whole IPv4 header");
        return;
    };
    let header_len = usize::from(header.version_ihl & 15) * 4;
    let total_len = usize::from(header.total_len.get());
    let (src, dst) = (ipv4::to_addr(header.src), ipv4::to_addr(header.dst));
    let _ = write!(out, "{src} > {dst} ttl {}", header.ttl);
    let dont_fragment = header.flags_fragment.get() & ipv4::FLAG_DONT_FRAGMENT != 0;
    let is_own_error = header.id.get() != IP_ID
        && header.protocol == ipv4::PROTO_ICMP
        && packet.get(header_len).is_some_and(|kind| icmp::is_error_type(*kind));
    if !is_own_error {
        let _ = write!(out, " tos {:#04x}", header.dscp_ecn);
        match header.id.get() {
            IP_ID => {
                let _ = write!(out, " id {IP_ID:#x}");
            }
            // It means nothing (RFC 6864 §4.1).
            _ if dont_fragment => {}
            0 => out.push_str(" id 0"),
            _ => out.push_str(" id any"),
        }
        out.push_str(if dont_fragment { " DF" } else { "" });
    }
    if header.is_fragment() {
        let more = if header.more_fragments() { "+" } else { "" };
        let _ = write!(out, " frag {}{more}", header.fragment_offset());
    }
    if packet.get(..header_len).is_none_or(|header| !checksum::verify_ipv4(header)) {
        out.push_str(" BAD IP SUM");
    }
    if place == Place::Outer && packet.len() != total_len {
        let _ = write!(out, " {} bytes behind it", packet.len().wrapping_sub(total_len).cast_signed());
    }
    let payload = packet.get(header_len..total_len.min(packet.len())).unwrap_or_default();
    if header.fragment_offset() != 0 {
        let _ = write!(out, " | proto {} {}", header.protocol, data(payload));
        return;
    }
    let pseudo = Pseudo::V4(src, dst);
    let whole = place == Place::Outer && !header.is_fragment();
    upper_text(out, header.protocol, payload, (pseudo, whole));
}

fn ipv6_text(out: &mut String, packet: &[u8], place: Place) {
    let Some(header) = wire::view::<ipv6::Header>(packet, 0) else {
        out.push_str("no whole IPv6 header");
        return;
    };
    let (src, dst) = (ipv6::to_addr(header.src), ipv6::to_addr(header.dst));
    let class = header.traffic_class();
    let _ = write!(out, "{src} > {dst} hop {} class {class:#04x}", header.hop_limit);
    // No packet that goes in has one.
    let is_new = [ipv4::PROTO_IPIP, ipv4::PROTO_IPV6, ipv4::PROTO_GRE, ipv4::PROTO_UDP, ipv4::PROTO_ICMPV6]
        .contains(&header.next_header);
    if header.flow_label() != 0 && !is_new {
        out.push_str(" flow label");
    }
    let end = ipv6::HEADER_LEN + usize::from(header.payload_len.get());
    if place == Place::Outer && packet.len() != end {
        let _ = write!(out, " {} bytes behind it", packet.len().wrapping_sub(end).cast_signed());
    }
    let mut next = header.next_header;
    let mut at = ipv6::HEADER_LEN;
    let mut whole = place == Place::Outer;
    if next == ipv6::NEXT_FRAGMENT
        && let Some(fragment) = packet.get(at..at + ipv6::FRAGMENT_HEADER_LEN)
    {
        let word = u16::from_be_bytes([fragment[2], fragment[3]]);
        let _ = write!(out, " frag {}{}", word & 0xfff8, if word & 1 == 1 { "+" } else { "" });
        (next, at, whole) = (fragment[0], at + ipv6::FRAGMENT_HEADER_LEN, false);
        if word & 0xfff8 != 0 {
            let _ = write!(out, " | proto {next} {}", data(packet.get(at..).unwrap_or_default()));
            return;
        }
    }
    // Tunnel encapsulation limit (RFC 2473 §4.1.1) and the like.
    while next == ipv6::NEXT_DESTINATION
        && let Some(&[following, len]) = packet.get(at..at + 2).and_then(|bytes| bytes.first_chunk())
    {
        let len = 8 + usize::from(len) * 8;
        let _ = write!(out, " | destination options {}", hex(packet.get(at..at + len).unwrap_or_default()));
        (next, at) = (following, at + len);
    }
    let payload = packet.get(at..end.min(packet.len())).unwrap_or_default();
    upper_text(out, next, payload, (Pseudo::V6(src, dst), whole));
}

/// What a transport checksum is over, besides the payload.
#[derive(Clone, Copy)]
enum Pseudo {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Pseudo {
    fn is_right(self, protocol: u8, payload: &[u8]) -> bool {
        let len = payload.len();
        let sum = match self {
            Pseudo::V4(..) if protocol == ipv4::PROTO_ICMP => checksum::Sum::ZERO,
            Pseudo::V4(src, dst) => {
                checksum::pseudo_v4(ipv4::addr(src), ipv4::addr(dst), protocol, wire::U16::new(len as u16))
            }
            Pseudo::V6(src, dst) => {
                checksum::pseudo_v6(&src.octets(), &dst.octets(), protocol, wire::U32::new(len as u32))
            }
        };
        sum.bytes(payload).is_valid()
    }
}

fn upper_text(out: &mut String, protocol: u8, payload: &[u8], (pseudo, whole): (Pseudo, bool)) {
    out.push_str(" | ");
    let checked = match protocol {
        ipv4::PROTO_TCP => tcp_text(out, payload, whole),
        ipv4::PROTO_UDP => udp_text(out, payload, whole),
        ipv4::PROTO_ICMP => icmp_text(out, payload, icmp::is_error_type, ipv4_text),
        ipv4::PROTO_ICMPV6 => icmp_text(out, payload, icmpv6::is_error_type, ipv6_text),
        _ => {
            let place = if whole { Place::Outer } else { Place::Quoted };
            other_text(out, protocol, payload, place);
            false
        }
    };
    if checked && whole && !pseudo.is_right(protocol, payload) {
        out.push_str(" BAD SUM");
    }
}

/// The upper layer of what a tunnel carries, and what is not decoded.
fn other_text(out: &mut String, protocol: u8, payload: &[u8], place: Place) {
    match protocol {
        ipv4::PROTO_IPIP => ipv4_text(out, payload, place),
        ipv4::PROTO_IPV6 => ipv6_text(out, payload, place),
        ipv4::PROTO_GRE => gre_text(out, payload, place),
        _ => {
            let _ = write!(out, "proto {protocol} {}", data(payload));
        }
    }
}

fn gre_text(out: &mut String, payload: &[u8], place: Place) {
    let Some(&[flags, version, a, b]) = payload.first_chunk() else {
        out.push_str("no whole GRE header");
        return;
    };
    let _ = write!(out, "gre flags {flags:02x}{version:02x} proto {a:02x}{b:02x}");
    let has_checksum = flags & 0x80 != 0;
    if has_checksum && place == Place::Outer && checksum::internet(payload).get() != 0 {
        out.push_str(" BAD SUM");
    }
    out.push_str(" | ");
    let inner = payload.get(if has_checksum { 8 } else { 4 }..).unwrap_or_default();
    if (a, b) == (0x08, 0x00) {
        ipv4_text(out, inner, place);
    } else {
        ipv6_text(out, inner, place);
    }
}

fn tcp_text(out: &mut String, segment: &[u8], whole: bool) -> bool {
    let Some(header) = wire::view::<tcp::Header>(segment, 0) else {
        let _ = write!(out, "tcp, its first {} bytes {}", segment.len(), hex(segment));
        return false;
    };
    let (src, dst) = (header.src_port.get(), header.dst_port.get());
    let _ = write!(out, "tcp {src} > {dst} {}", header.show_flags());
    let _ = write!(out, " seq {} ack {}", header.seq.get(), header.ack.get());
    let header_len = usize::from(header.data_offset >> 4) * 4;
    if let Some(options) = segment.get(20..header_len).filter(|options| !options.is_empty()) {
        let _ = write!(out, " opt {}", hex(options));
    }
    if whole {
        let _ = write!(out, " {}", data(segment.get(header_len..).unwrap_or_default()));
    }
    true
}

fn udp_text(out: &mut String, datagram: &[u8], whole: bool) -> bool {
    let Some(header) = wire::view::<udp::Header>(datagram, 0) else {
        out.push_str("no whole UDP header");
        return false;
    };
    let (src, dst) = (header.src_port.get(), header.dst_port.get());
    let is_gue = dst == GUE_PORT;
    // A port by which routers and NICs can tell flows apart (RFC 6335 §6, RFC 6438).
    let src = if is_gue && src >= 32_768 { "any".to_owned() } else { src.to_string() };
    let _ = write!(out, "udp {src} > {dst}");
    let has_checksum = header.checksum.get() != 0;
    out.push_str(if has_checksum { "" } else { " sum 0" });
    let payload = datagram.get(8..).unwrap_or_default();
    let place = if whole { Place::Outer } else { Place::Quoted };
    if is_gue && let Some((gue, inner)) = payload.split_at_checked(4) {
        let _ = write!(out, " | gue {}", hex(gue));
        out.push_str(" | ");
        if gue[1] == ipv4::PROTO_IPV6 {
            ipv6_text(out, inner, place);
        } else {
            ipv4_text(out, inner, place);
        }
    } else if whole {
        let _ = write!(out, " {}", data(payload));
    }
    has_checksum
}

fn icmp_text(
    out: &mut String,
    message: &[u8],
    is_error: impl Fn(u8) -> bool,
    quote_text: impl Fn(&mut String, &[u8], Place),
) -> bool {
    let Some(header) = wire::view::<icmp::Header>(message, 0) else {
        out.push_str("no whole ICMP header");
        return false;
    };
    let _ = write!(out, "icmp {}/{} rest {:#x}", header.kind, header.code, header.rest.get());
    let quote = message.get(icmp::HEADER_LEN..).unwrap_or_default();
    if is_error(header.kind) {
        let _ = write!(out, " about {} bytes (", quote.len());
        quote_text(out, quote, Place::Quoted);
        out.push(')');
    } else {
        let _ = write!(out, " {}", data(quote));
    }
    true
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Length and a sum of what is carried.
fn data(bytes: &[u8]) -> String {
    match bytes.len() {
        0 => "no data".into(),
        len => format!("{len} bytes #{:04x}", checksum::internet(bytes).get()),
    }
}
