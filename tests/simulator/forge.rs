//! What an enemy sends: packets from outside that no honest stack sent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use engine::PortId;
use engine::snapshot::Mode;

use crate::oracle::Flow;
use crate::packet::{
    ACK, Build, FIN, PSH, Place, ROUTER_SIDE, RST, SYN, TCP, forged_option, frame, icmp_packet, octets, tell,
    udp_packet,
};
use crate::rng::Rng;
use crate::topology::{Shape, client_ip, gateway_mac, lip, server_ip, vip};

/// One forged frame, and the port it comes in on. `flows` are the connections that the enemy may know of.
pub(crate) fn forge(
    rng: &mut Rng,
    shape: &Shape,
    flows: &[Flow],
    services: &[(u8, SocketAddr)],
) -> (PortId, Vec<u8>) {
    let outside = PortId(0);
    let (protocol, service) = *rng.pick(services);
    let wide = service.is_ipv6();
    let stranger = SocketAddr::new(client_ip(101, wide), rng.range(1024, 65_000) as u16);
    let kind = rng.below(16);
    let flow = if flows.is_empty() { None } else { Some(rng.pick(flows)) };
    let quiet = |rng: &mut Rng| {
        let mut junk = vec![0x66; rng.range(1, 100) as usize];
        rng.fill(&mut junk);
        junk[0] = 0;
        junk
    };
    // A RST or FIN cannot be judged where the real server's answers do not come by: it ends the connection, as in IPVS.
    let tcp = flow.filter(|flow| flow.protocol == TCP);
    let same = |a: &Flow, b: &Flow| (a.client, a.virtual_) == (b.client, b.virtual_);
    let judged = tcp.filter(|flow| !flows.iter().any(|other| other.mode.is_one_way() && same(flow, other)));
    match (kind, flow) {
        (14, Some(flow)) => return icmp_error(rng, shape, flow),
        (4, Some(flow)) if flow.protocol != TCP => {
            let packet = udp_packet(flow.client, flow.virtual_, &quiet(rng));
            return (outside, frame(gateway_mac(outside), ROUTER_SIDE, &packet, shape.pad));
        }
        (5, _) if protocol != TCP => {
            let packet = udp_packet(stranger, service, &quiet(rng));
            return (outside, frame(gateway_mac(outside), ROUTER_SIDE, &packet, shape.pad));
        }
        _ => {}
    }
    let flow = if kind == 3 { tcp } else { judged };
    let packet = match (kind, flow) {
        // Within a connection, but far from its sequence numbers.
        (0 | 1, Some(flow)) => inbound(rng, flow, *[RST, RST | ACK].get(kind as usize).unwrap_or(&RST)),
        (2, Some(flow)) => inbound(rng, flow, FIN | ACK),
        (3, Some(flow)) => {
            let mut packet = inbound(rng, flow, ACK | PSH);
            packet.payload = vec![0x66; rng.range(1, 100) as usize];
            packet.options = forged_option(rng);
            packet
        }
        (4, Some(flow)) => {
            let mut packet = Build::new(flow.real, flow.local, RST | ACK);
            packet.seq = far(rng, flow.outbound_seq);
            packet.ack = far(rng, flow.inbound_seq);
            let packet = packet.ip_packet();
            return (
                shape.server_port,
                frame(gateway_mac(shape.server_port), [2, 0, 0, 0, 7, 7], &packet, shape.pad),
            );
        }
        // Without one.
        (5, _) => with_options(rng, Build::new(stranger, service, SYN)),
        (6, _) => Build::new(stranger, service, ACK),
        (7, _) => Build::new(stranger, SocketAddr::new(vip(0, wide), rng.range(1, 65_000) as u16), SYN),
        (8, _) => Build::new(stranger, SocketAddr::new(lip(0, wide), rng.range(1024, 65_000) as u16), SYN),
        (9, _) => with_options(rng, Build::new(SocketAddr::new(client_ip(0, wide), 5), service, SYN)),
        (10, _) => return (outside, noise(rng)),
        (11, _) => return (outside, cut(rng, shape, stranger, service)),
        (12, _) => return (outside, fragment(shape, stranger, service)),
        _ => return (outside, odd(rng, shape, stranger, service)),
    };
    (outside, frame(gateway_mac(outside), ROUTER_SIDE, &packet.ip_packet(), shape.pad))
}

fn inbound(rng: &mut Rng, flow: &Flow, flags: u8) -> Build {
    let mut packet = Build::new(flow.client, flow.virtual_, flags);
    packet.seq = far(rng, flow.inbound_seq);
    packet.ack = far(rng, flow.outbound_seq);
    packet
}

/// An ICMP error about a connection: from a router on either side, or from nobody, cut short.
fn icmp_error(rng: &mut Rng, shape: &Shape, flow: &Flow) -> (PortId, Vec<u8>) {
    let from_inside = rng.coin();
    // What the gateway sent and the error quotes.
    let (src, dst) = match flow.mode {
        _ if !from_inside => (flow.virtual_, flow.client),
        mode if mode.is_one_way() => (flow.client, flow.virtual_),
        _ => (flow.local, flow.real),
    };
    let mut quoted = if flow.protocol == TCP {
        Build { seq: rng.next() as u32, ..Build::new(src, dst, ACK) }.ip_packet()
    } else {
        udp_packet(src, dst, &[7; 30])
    };
    if rng.coin() {
        quoted.truncate(rng.below(quoted.len() as u64 + 1) as usize);
    }
    let wide = src.is_ipv6();
    let kinds = if wide { [(1, 4), (2, 0), (3, 0)] } else { [(3, 3), (3, 4), (11, 0)] };
    let router: IpAddr = if wide { client_ip(103, true) } else { Ipv4Addr::new(203, 0, 113, 77).into() };
    let packet = icmp_packet(router, src.ip(), *rng.pick(&kinds), &quoted);
    let port = if from_inside { shape.server_port } else { PortId(0) };
    (port, frame(gateway_mac(port), ROUTER_SIDE, &packet, shape.pad))
}

/// Who is told by whom: headers of UOA from outside, and errors that quote such datagrams as the gateway sends.
pub(crate) fn forge_uoa(
    rng: &mut Rng,
    shape: &Shape,
    flows: &[Flow],
    services: &[SocketAddr],
) -> (PortId, Vec<u8>) {
    let outside = PortId(0);
    let service = *rng.pick(services);
    let stranger = SocketAddr::new(client_ip(101, service.is_ipv6()), rng.range(1024, 65_000) as u16);
    let told: Vec<&Flow> =
        flows.iter().filter(|flow| flow.protocol != TCP && flow.mode == Mode::FullNat).collect();
    let lie = SocketAddr::new(client_ip(102, rng.coin()), rng.next() as u16);
    let place = *rng.pick(&[Place::Option, Place::Header]);
    if told.is_empty() || rng.coin() {
        // A client that there is, or one that there is not.
        let from = if told.is_empty() || rng.coin() { stranger } else { rng.pick(&told).client };
        let to = if from.is_ipv4() == service.is_ipv4() { service } else { rng.pick(&told).virtual_ };
        let packet = udp_packet(from, to, &[0; 30]);
        let packet = tell(&packet, place, lie).unwrap_or(packet);
        return (outside, frame(gateway_mac(outside), ROUTER_SIDE, &packet, shape.pad));
    }
    let flow = *rng.pick(&told);
    // As it is sent, turned round, and with a client of which nothing is known.
    let (from, to) =
        *rng.pick(&[(flow.local, flow.real), (flow.real, flow.local), (flow.virtual_, flow.client)]);
    let client = if rng.coin() { flow.client } else { lie };
    let packet = udp_packet(from, to, &[7; 30]);
    let mut quoted = tell(&packet, place, client).unwrap_or(packet);
    if rng.coin() {
        quoted.truncate(rng.below(quoted.len() as u64 + 1) as usize);
    }
    let port = if rng.coin() { shape.server_port } else { outside };
    (port, error_about(rng, (from.ip(), port), &quoted, shape.pad))
}

/// An error from somewhere about a packet, to whom it is from, that comes in on a port.
pub(crate) fn error_about(rng: &mut Rng, (to, port): (IpAddr, PortId), quoted: &[u8], pad: bool) -> Vec<u8> {
    let kinds =
        if to.is_ipv6() { [(1, 4), (2, 0), (3, 0), (4, 1)] } else { [(3, 2), (3, 3), (3, 4), (11, 0)] };
    let router: IpAddr =
        if to.is_ipv6() { client_ip(103, true) } else { Ipv4Addr::new(203, 0, 113, 77).into() };
    let packet = icmp_packet(router, to, *rng.pick(&kinds), quoted);
    frame(gateway_mac(port), ROUTER_SIDE, &packet, pad)
}

/// A guess that is certainly wrong: further away than any window.
fn far(rng: &mut Rng, from: u32) -> u32 {
    from.wrapping_add(rng.range(1 << 24, (1 << 32) - (1 << 24)) as u32)
}

fn with_options(rng: &mut Rng, mut packet: Build) -> Build {
    packet.seq = rng.next() as u32;
    packet.options = match rng.below(4) {
        0 => forged_option(rng),
        // Fast Open, standard and experimental.
        1 => vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        2 => vec![254, 4, 0xf9, 0x89],
        // A bad length, and a claim behind it.
        _ => vec![2, 4, 5, 0xb4, 8, 1, 254, 8, 9, 9, 9, 9, 9, 9],
    };
    packet
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; rng.range(0, 200) as usize];
    rng.fill(&mut bytes);
    if bytes.len() >= 34 && rng.chance(70_000) {
        bytes[..6].copy_from_slice(&gateway_mac(PortId(0)));
        bytes[12..14].copy_from_slice(&[8, 0]);
        if rng.coin() {
            bytes[14] = 0x45;
            bytes[23] = 6;
            bytes[30..34].copy_from_slice(&octets(vip(0, false)));
        }
    }
    bytes
}

fn cut(rng: &mut Rng, shape: &Shape, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Build::new(from, to, SYN | ACK);
    packet.options = vec![254; rng.below(41) as usize];
    packet.payload = vec![0; rng.below(50) as usize];
    let mut bytes = frame(gateway_mac(PortId(0)), ROUTER_SIDE, &packet.ip_packet(), shape.pad);
    bytes.truncate(rng.below(bytes.len() as u64) as usize);
    bytes
}

fn fragment(shape: &Shape, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Build::new(from, to, ACK);
    packet.payload = vec![1; 64];
    let mut ip = packet.ip_packet();
    if to.is_ipv4() {
        ip[6] = 0x20;
    } else {
        // A fragment header in name, of what there is of the segment.
        ip[6] = 44;
        ip[40..48].copy_from_slice(&[6, 0, 0, 1, 0, 0, 0, 9]);
    }
    crate::packet::finish_checksums(&mut ip);
    frame(gateway_mac(PortId(0)), ROUTER_SIDE, &ip, shape.pad)
}

/// Other stations' frames, other protocols, strange flags and lengths.
fn odd(rng: &mut Rng, shape: &Shape, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Build::new(from, to, rng.next() as u8);
    packet.options = forged_option(rng);
    let mut ip = packet.ip_packet();
    let ours = gateway_mac(PortId(0));
    let wide = to.is_ipv6();
    let (header_len, protocol_at, ttl_at) = if wide { (40, 6, 7) } else { (20, 9, 8) };
    match rng.below(8) {
        0 => return frame([2, 0, 0, 0, 3, 3], ROUTER_SIDE, &ip, shape.pad),
        1 => return frame([0xff; 6], ROUTER_SIDE, &ip, shape.pad),
        2 => ip[protocol_at] = 17,
        3 => ip[protocol_at] = 1,
        4 => ip[header_len + 12] = (rng.below(16) as u8) << 4,
        5 => ip[0] = ip[0] & 0xf0 | rng.below(16) as u8,
        6 => ip[ttl_at] = 1,
        _ if wide => ip[24..40].copy_from_slice(&octets(server_ip(0, true))),
        _ => ip[16..20].copy_from_slice(&octets(server_ip(0, false))),
    }
    frame(ours, ROUTER_SIDE, &ip, shape.pad)
}
