//! A frame on one line, in tcpdump's manner.

use core::fmt::Write;

use super::GUE_PORT;
use crate::{U16, arp, checksum, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, toa, udp};

/// What a frame says, on one line, so that a failing test can be read. Never fails: what cannot be decoded is named.
///
/// The packet in a tunnel (IP in IP, GRE, GUE at its assigned port) follows in parentheses, as does the one
/// that an ICMP error quotes. Wrong checksums are told as `[bad ip checksum]`, `[bad tcp checksum]` and so
/// on; right ones are not mentioned.
#[must_use]
pub fn summary(frame: &[u8]) -> String {
    let mut line = String::new();
    // Writing to a string does not fail.
    let _ = frame_line(&mut line, frame);
    line
}

fn frame_line(out: &mut String, frame: &[u8]) -> core::fmt::Result {
    let Some(header) = crate::view::<ethernet::Header>(frame, 0) else {
        return write!(out, "truncated ethernet, {} bytes", frame.len());
    };
    let mut ether_type = header.ether_type;
    let mut offset = ethernet::HEADER_LEN;
    // Two tags, as 802.1ad allows.
    for _ in 0..2 {
        if ether_type != ethernet::ETHERTYPE_VLAN && ether_type != ethernet::ETHERTYPE_QINQ {
            break;
        }
        let Some(tag) = crate::view::<ethernet::VlanTag>(frame, offset) else {
            return write!(out, "truncated vlan tag");
        };
        write!(out, "vlan {} ", tag.vlan_id())?;
        ether_type = tag.ether_type;
        offset += ethernet::VLAN_TAG_LEN;
    }
    let payload = frame.get(offset..).unwrap_or_default();
    match ether_type {
        ethernet::ETHERTYPE_IPV4 => ipv4_line(out, payload, Depth::Outer),
        ethernet::ETHERTYPE_IPV6 => ipv6_line(out, payload, Depth::Outer),
        ethernet::ETHERTYPE_ARP => arp_line(out, payload),
        other => write!(
            out,
            "{} > {} ether type {:#06x} len {}",
            header.src,
            header.dst,
            other.get(),
            payload.len()
        ),
    }
}

/// Where a packet stands: in the frame, in a tunnel, or quoted in an error message. What stands in a tunnel
/// or a quote is followed into quotes only, so that nesting is bounded. A quote is cut short, and its
/// checksums mean nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Outer,
    Tunnelled,
    Quoted,
}

fn arp_line(out: &mut String, payload: &[u8]) -> core::fmt::Result {
    let Some(packet) = crate::view::<arp::Packet>(payload, 0).filter(|p| p.is_ipv4_over_ethernet()) else {
        return write!(out, "arp, not for IPv4 over Ethernet");
    };
    let (sender, target) = (ipv4::to_addr(packet.sender_ip), ipv4::to_addr(packet.target_ip));
    match packet.operation {
        arp::OP_REQUEST => write!(out, "arp who-has {target} tell {sender}"),
        arp::OP_REPLY => write!(out, "arp {sender} is-at {}", packet.sender_mac),
        other => write!(out, "arp operation {}", other.get()),
    }
}

fn ipv4_line(out: &mut String, packet: &[u8], depth: Depth) -> core::fmt::Result {
    let Some(header) = crate::view::<ipv4::Header>(packet, 0) else {
        return write!(out, "truncated ip, {} bytes", packet.len());
    };
    let available = if depth == Depth::Quoted { usize::MAX } else { packet.len() };
    let header_len = match header.check(available) {
        Ok(len) => len,
        Err(error) => return write!(out, "bad ip: {error}"),
    };
    let packet = packet.get(..usize::from(header.total_len.get())).unwrap_or(packet);
    let (src, dst) = (ipv4::to_addr(header.src).to_string(), ipv4::to_addr(header.dst).to_string());
    let payload = packet.get(header_len..).unwrap_or_default();
    let whole = depth != Depth::Quoted && !header.is_fragment();
    if header.fragment_offset() != 0 {
        let (offset, more) = (header.fragment_offset(), if header.more_fragments() { "+" } else { "" });
        write!(out, "{src} > {dst} ip proto {} frag {offset}{more} len {}", header.protocol, payload.len())?;
    } else {
        let is_right = |protocol| {
            !whole
                || match protocol {
                    ipv4::PROTO_TCP => checksum::verify_tcp_v4(header.src, header.dst, payload),
                    ipv4::PROTO_UDP => checksum::verify_udp_v4(header.src, header.dst, payload),
                    _ => checksum::Sum::ZERO.bytes(payload).is_valid(),
                }
        };
        upper_line(out, (&src, &dst), header.protocol, payload, (depth, &is_right))?;
        if header.more_fragments() {
            write!(out, " [first fragment, id {}]", header.id.get())?;
        }
    }
    if depth != Depth::Quoted && !packet.get(..header_len).is_some_and(checksum::verify_ipv4) {
        write!(out, " [bad ip checksum]")?;
    }
    Ok(())
}

fn ipv6_line(out: &mut String, packet: &[u8], depth: Depth) -> core::fmt::Result {
    let Some(header) = crate::view::<ipv6::Header>(packet, 0) else {
        return write!(out, "truncated ip6, {} bytes", packet.len());
    };
    let available = if depth == Depth::Quoted { usize::MAX } else { packet.len() };
    let upper = header.check(available).and_then(|len| {
        let packet = packet.get(..len).unwrap_or(packet);
        ipv6::walk_extensions(packet).map(|upper| (upper, packet))
    });
    let (upper, packet) = match upper {
        Ok(upper) => upper,
        Err(error) => return write!(out, "bad ip6: {error}"),
    };
    let payload = packet.get(upper.offset..).unwrap_or_default();
    let (src, dst) = (ipv6::to_addr(header.src), ipv6::to_addr(header.dst));
    let fragment = upper.fragment.filter(|f| !f.is_atomic());
    if let Some(fragment) = fragment.filter(|f| f.fragment_offset() != 0) {
        let (offset, more) = (fragment.fragment_offset(), if fragment.more_fragments() { "+" } else { "" });
        let (protocol, len) = (upper.protocol, payload.len());
        return write!(out, "{src} > {dst} ip6 proto {protocol} frag {offset}{more} len {len}");
    }
    let is_right = |protocol| match protocol {
        _ if depth == Depth::Quoted || fragment.is_some() => true,
        ipv4::PROTO_TCP => checksum::verify_tcp_v6(&header.src, &header.dst, payload),
        ipv4::PROTO_UDP => checksum::verify_udp_v6(&header.src, &header.dst, payload),
        _ => {
            let len = crate::U32::new(payload.len() as u32);
            checksum::pseudo_v6(&header.src, &header.dst, protocol, len).bytes(payload).is_valid()
        }
    };
    let ends = (format!("[{src}]"), format!("[{dst}]"));
    upper_line(out, (&ends.0, &ends.1), upper.protocol, payload, (depth, &is_right))?;
    match fragment {
        Some(fragment) => write!(out, " [first fragment, id {}]", fragment.id.get()),
        None => Ok(()),
    }
}

fn upper_line(
    out: &mut String,
    (src, dst): (&str, &str),
    protocol: u8,
    payload: &[u8],
    (depth, is_right): (Depth, &dyn Fn(u8) -> bool),
) -> core::fmt::Result {
    let name = match protocol {
        ipv4::PROTO_TCP => "tcp",
        ipv4::PROTO_UDP => "udp",
        ipv4::PROTO_ICMP => "icmp",
        ipv4::PROTO_ICMPV6 => "icmp6",
        ipv4::PROTO_IPIP | ipv4::PROTO_IPV6 => {
            write!(out, "{src} > {dst} ipip")?;
            return inner_line(out, payload, depth);
        }
        ipv4::PROTO_GRE => return gre_line(out, (src, dst), payload, depth),
        _ => return write!(out, "{src} > {dst} proto {protocol} len {}", payload.len()),
    };
    match protocol {
        ipv4::PROTO_TCP => match crate::view::<tcp::Header>(payload, 0) {
            Some(header) => tcp_line(out, (src, dst), header, payload)?,
            None => return ports_line(out, (src, dst), name, payload),
        },
        ipv4::PROTO_UDP => match crate::view::<udp::Header>(payload, 0) {
            Some(header) => {
                let (from, to) = (header.src_port.get(), header.dst_port.get());
                let len = usize::from(header.len.get()).saturating_sub(udp::HEADER_LEN);
                write!(out, "{src}:{from} > {dst}:{to} udp len {len}")?;
                gue_line(out, header, payload, depth)?;
            }
            None => return ports_line(out, (src, dst), name, payload),
        },
        _ => icmp_line(out, (src, dst), name, payload, depth)?,
    }
    if is_right(protocol) { Ok(()) } else { write!(out, " [bad {name} checksum]") }
}

/// The packet in a tunnel; nothing where it is not followed.
fn inner_line(out: &mut String, packet: &[u8], depth: Depth) -> core::fmt::Result {
    if depth != Depth::Outer {
        return Ok(());
    }
    write!(out, " (")?;
    match packet.first().map(|first| first >> 4) {
        Some(4) => ipv4_line(out, packet, Depth::Tunnelled)?,
        Some(6) => ipv6_line(out, packet, Depth::Tunnelled)?,
        _ => write!(out, "no ip, {} bytes", packet.len())?,
    }
    write!(out, ")")
}

fn gre_line(out: &mut String, (src, dst): (&str, &str), packet: &[u8], depth: Depth) -> core::fmt::Result {
    // RFC 2784 §2: with a checksum the header has 8 bytes. Other flags are told, not followed.
    match crate::view::<[U16; 2]>(packet, 0).map(|[flags, protocol]| (flags.get(), protocol.get())) {
        Some((flags @ (0 | 0x8000), 0x0800 | 0x86dd)) => {
            write!(out, "{src} > {dst} gre")?;
            let header_len = if flags == 0 { 4 } else { 8 };
            inner_line(out, packet.get(header_len..).unwrap_or_default(), depth)?;
            let is_right = flags == 0 || depth == Depth::Quoted || checksum::verify_ipv4(packet);
            if is_right { Ok(()) } else { write!(out, " [bad gre checksum]") }
        }
        Some((flags, protocol)) => {
            write!(out, "{src} > {dst} gre flags {flags:#06x} protocol {protocol:#06x}")
        }
        None => write!(out, "{src} > {dst} gre truncated"),
    }
}

/// What follows a UDP header in a datagram to the port of GUE.
fn gue_line(out: &mut String, header: &udp::Header, datagram: &[u8], depth: Depth) -> core::fmt::Result {
    if header.dst_port != GUE_PORT {
        return Ok(());
    }
    match datagram.get(udp::HEADER_LEN..) {
        // Version 0, no control message, no optional fields.
        Some([0, ipv4::PROTO_IPIP | ipv4::PROTO_IPV6, 0, 0, inner @ ..]) => {
            write!(out, " gue")?;
            inner_line(out, inner, depth)
        }
        _ => Ok(()),
    }
}

/// Ports are all that a quote of 8 bytes, or a cut packet, may hold.
fn ports_line(out: &mut String, (src, dst): (&str, &str), name: &str, payload: &[u8]) -> core::fmt::Result {
    match crate::view::<[U16; 2]>(payload, 0) {
        Some([from, to]) => write!(out, "{src}:{} > {dst}:{} {name} truncated", from.get(), to.get()),
        None => write!(out, "{src} > {dst} {name} truncated"),
    }
}

fn tcp_line(
    out: &mut String,
    (src, dst): (&str, &str),
    header: &tcp::Header,
    segment: &[u8],
) -> core::fmt::Result {
    write!(
        out,
        "{src}:{} > {dst}:{} tcp {} seq {} ack {} win {}",
        header.src_port.get(),
        header.dst_port.get(),
        header.show_flags(),
        header.seq.get(),
        header.ack.get(),
        header.window.get()
    )?;
    if let Some(options) = tcp::options_of(segment).filter(|options| !options.is_empty()) {
        options_line(out, options)?;
    }
    match header.check(segment.len()) {
        Ok(header_len) => write!(out, " len {}", segment.len() - header_len),
        Err(error) => write!(out, " bad: {error}"),
    }
}

fn options_line(out: &mut String, options: &[u8]) -> core::fmt::Result {
    use tcp::options::{self, KIND_MSS, KIND_SACK, KIND_SACK_PERMITTED, KIND_TIMESTAMPS, KIND_WINDOW_SCALE};
    write!(out, " [")?;
    for (index, item) in options::iter(options).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let opt = match item {
            Ok(opt) => opt,
            Err(error) => return write!(out, "{comma}malformed: {error}]"),
        };
        let bytes = opt.bytes(options);
        match (opt.kind, opt.data(options)) {
            (KIND_MSS, &[a, b]) => write!(out, "{comma}mss {}", u16::from_be_bytes([a, b]))?,
            (KIND_WINDOW_SCALE, &[shift]) => write!(out, "{comma}wscale {shift}")?,
            (KIND_SACK_PERMITTED, []) => write!(out, "{comma}sackOK")?,
            (KIND_SACK, blocks) => write!(out, "{comma}sack {}", blocks.len() / 8)?,
            (KIND_TIMESTAMPS, _) => match options::timestamps(bytes) {
                Some((value, echo)) => write!(out, "{comma}ts {value} {echo}")?,
                None => write!(out, "{comma}ts len {}", opt.len)?,
            },
            (kind, _) => match toa::decode(bytes) {
                Some(client) => {
                    let addr = core::net::SocketAddr::new(client.addr, client.port.get());
                    write!(out, "{comma}toa-{kind} {addr}")?;
                }
                None => write!(out, "{comma}opt-{kind} len {}", opt.len)?,
            },
        }
    }
    write!(out, "]")
}

fn icmp_line(
    out: &mut String,
    (src, dst): (&str, &str),
    name: &str,
    message: &[u8],
    depth: Depth,
) -> core::fmt::Result {
    let Some(header) = crate::view::<icmp::Header>(message, 0) else {
        return write!(out, "{src} > {dst} {name} truncated");
    };
    let (id, seq) = (header.echo_id().get(), header.echo_seq().get());
    write!(out, "{src} > {dst} {name} ")?;
    match (name, header.kind) {
        ("icmp", icmp::TYPE_ECHO_REQUEST) | ("icmp6", icmpv6::TYPE_ECHO_REQUEST) => {
            write!(out, "echo request id {id} seq {seq}")
        }
        ("icmp", icmp::TYPE_ECHO_REPLY) | ("icmp6", icmpv6::TYPE_ECHO_REPLY) => {
            write!(out, "echo reply id {id} seq {seq}")
        }
        (_, kind) => write!(out, "type {kind} code {} rest {:#x}", header.code, header.rest.get()),
    }?;
    let quote = message.get(icmp::HEADER_LEN..).unwrap_or_default();
    if depth == Depth::Quoted {
        return Ok(());
    }
    if name == "icmp" && header.is_error() {
        write!(out, " (")?;
        ipv4_line(out, quote, Depth::Quoted)?;
        write!(out, ")")?;
    } else if name == "icmp6" && icmpv6::is_error_type(header.kind) {
        write!(out, " (")?;
        ipv6_line(out, quote, Depth::Quoted)?;
        write!(out, ")")?;
    }
    Ok(())
}
