//! What does not fit, and ICMP errors.

use std::net::IpAddr;

use wire::U16;
use wire::build::Wrap;

use super::flow::Flow;
use crate::case::{Case, Family, Mode, Protocol, Step, send, service};
use crate::describe::GUE_PORT;
use crate::frame::{LAN_IP, LAN_IP6, echo, far_client, far_client6, icmp_error, rip, rip6};

pub(super) fn cases() -> Vec<Case> {
    let modes =
        [("dr", Mode::Dr), ("nat", Mode::Nat), ("ipip", Mode::Ipip), ("gre", Mode::Gre), ("gue", Mode::Gue)];
    let mut cases = Vec::new();
    for (number, (name, mode)) in (30..).step_by(4).zip(modes) {
        cases.push(oversize(format!("oversize_{name}"), number, mode, Family::V4));
        cases.push(oversize(format!("oversize_{name}_v6"), number + 1, mode, Family::V6));
        cases.push(icmp(format!("icmp_{name}"), number + 2, mode, Family::V4));
        cases.push(icmp(format!("icmp_{name}_v6"), number + 3, mode, Family::V6));
    }
    cases
}

/// Without the IP header and a TCP header of 20 bytes.
fn tcp_payload(family: Family, ip_len: usize) -> usize {
    ip_len - 20 - if family == Family::V4 { 20 } else { 40 }
}

/// What a tunnel puts around a packet.
fn overhead(mode: Mode, family: Family) -> usize {
    let ip = if family == Family::V4 { 20 } else { 40 };
    match mode {
        Mode::Dr | Mode::Nat => 0,
        Mode::Ipip => ip,
        Mode::Gre => ip + 4,
        Mode::GreChecksum => ip + 8,
        // UDP and GUE.
        Mode::Gue | Mode::GueChecksum => ip + 8 + 4,
    }
}

fn oversize(name: String, number: u16, mode: Mode, family: Family) -> Case {
    let service = service(family, number, Protocol::Tcp, mode, 1);
    let flow = Flow::new(&service, family.client(), 40_001);
    let mut steps = vec![send("a connection", flow.frames(&flow.handshake(mode)))];
    let fits = 1500 - overhead(mode, family);
    for len in [fits, fits + 1] {
        let data = flow.client_ack(0, 0).payload(tcp_payload(family, len));
        steps.push(send(format!("{len} bytes with DF"), flow.inbound(&data)));
        if family == Family::V4 {
            steps.push(send(format!("{len} bytes without DF"), flow.inbound(&data.may_fragment())));
        }
    }
    if mode == Mode::Nat {
        for len in [1500, 1501] {
            let data = flow.real_ack(0, 0).payload(tcp_payload(family, len));
            steps.push(send(format!("{len} bytes back with DF"), flow.outbound(&data)));
            if family == Family::V4 {
                steps.push(send(format!("{len} bytes back without DF"), flow.outbound(&data.may_fragment())));
            }
        }
    }
    Case { name, about: "what does not fit the MTU of 1500", services: vec![service], steps }
}

/// A router on the way.
fn router(family: Family, inside: bool) -> IpAddr {
    match (family, inside) {
        (Family::V4, false) => far_client(0x0101).into(),
        (Family::V4, true) => rip(2).into(),
        (Family::V6, false) => far_client6(0x0101).into(),
        (Family::V6, true) => rip6(2).into(),
    }
}

type Sender = (&'static str, IpAddr);

/// Every kind of error from an end of the connection, and one from a router.
fn errors_from(
    family: Family,
    end: Sender,
    inside: bool,
) -> impl Iterator<Item = (&'static str, Sender, (u8, u8, u32))> {
    let router = ("a router", router(family, inside));
    let kinds = kinds(family);
    let of_end = kinds.into_iter().map(move |(kind, error)| (kind, end, error));
    of_end.chain(kinds.into_iter().skip(1).take(1).map(move |(kind, error)| (kind, router, error)))
}

/// Port unreachable and "does not fit 1400 bytes".
fn kinds(family: Family) -> [(&'static str, (u8, u8, u32)); 3] {
    match family {
        Family::V4 => [
            ("port unreachable", (3, 3, 0)),
            ("fragmentation needed", (3, 4, 1400)),
            ("time exceeded", (11, 0, 0)),
        ],
        Family::V6 => {
            [("port unreachable", (1, 4, 0)), ("packet too big", (2, 0, 1400)), ("hop limit", (3, 0, 0))]
        }
    }
}

fn icmp(name: String, number: u16, mode: Mode, family: Family) -> Case {
    let tcp = service(family, number, Protocol::Tcp, mode, 1);
    let udp = service(family, number, Protocol::Udp, mode, 1);
    let flow = Flow::new(&tcp, family.client(), 40_001);
    let datagrams = Flow::new(&udp, family.client(), 40_002);
    let mut steps = vec![
        send("a connection", flow.frames(&flow.handshake(mode))),
        send("a datagram", datagrams.inbound(&datagrams.client_udp())),
    ];
    let answers = [("tcp", flow, flow.real_ack(0, 0).payload(30)), ("udp", datagrams, datagrams.real_udp())];
    for (protocol, flow, answer) in &answers {
        let seen = flow.translated_back(answer);
        for (kind, from, error) in errors_from(family, ("the client", flow.client.ip()), false) {
            let error = icmp_error(from.1, flow.virtual_.ip(), error, &seen);
            steps.push(send(format!("{kind} from {} about {protocol}", from.0), flow.inbound(&error)));
        }
    }
    steps.extend(from_inside(&flow, &datagrams, mode, family));
    let stranger = Flow { client: (family.client(), 50_000).into(), ..flow };
    let about = stranger.translated_back(&stranger.real_ack(0, 0));
    let error = icmp_error(stranger.client.ip(), stranger.virtual_.ip(), kinds(family)[0].1, &about);
    steps.push(send("port unreachable about nothing that there is", stranger.inbound(&error)));
    let ping = echo((family.client(), 77).into(), (family.vip(), 0).into(), false);
    steps.push(send("echo request", flow.inbound(&ping)));
    Case { name, about: "ICMP errors about connections", services: vec![tcp, udp], steps }
}

/// Errors from the real servers' side.
fn from_inside(flow: &Flow, datagrams: &Flow, mode: Mode, family: Family) -> Vec<Step> {
    let gue = Wrap::Gue { src_port: U16::new(55_555), dst_port: U16::new(GUE_PORT) };
    match mode {
        Mode::Nat => from_behind_nat(&[("tcp", *flow), ("udp", *datagrams)], family),
        Mode::Ipip => about_tunnel(flow, Wrap::Ip, family),
        Mode::Gre => about_tunnel(flow, Wrap::Gre, family),
        Mode::Gue => about_tunnel(flow, gue, family),
        Mode::Dr | Mode::GreChecksum | Mode::GueChecksum => Vec::new(),
    }
}

fn from_behind_nat(flows: &[(&str, Flow)], family: Family) -> Vec<Step> {
    let mut steps = Vec::new();
    for (protocol, flow) in flows {
        let sent = if *protocol == "tcp" { flow.client_ack(0, 0).payload(30) } else { flow.client_udp() };
        let seen = flow.translated(&sent);
        for (kind, from, error) in errors_from(family, ("the real server", flow.real.ip()), true) {
            let error = icmp_error(from.1, flow.client.ip(), error, &seen);
            steps
                .push(send(format!("{kind} from {} inside about {protocol}", from.0), flow.outbound(&error)));
        }
    }
    steps
}

/// A real server, or a router before it, says that the packet in the tunnel did not get there.
fn about_tunnel(flow: &Flow, wrap: Wrap, family: Family) -> Vec<Step> {
    let inner = flow.client_ack(0, 0).payload(30).ttl(63);
    let gateway: IpAddr = match family {
        Family::V4 => LAN_IP.into(),
        Family::V6 => LAN_IP6.into(),
    };
    let tunnelled = inner.in_tunnel((gateway, flow.real.ip()), wrap);
    let mut steps = Vec::new();
    for (kind, from, error) in errors_from(family, ("the real server", flow.real.ip()), true) {
        let error = icmp_error(from.1, gateway, error, &tunnelled);
        steps.push(send(format!("{kind} from {} about the tunnel", from.0), flow.outbound(&error)));
        if kind != "port unreachable" {
            let large = flow.client_ack(0, 0).payload(1380);
            steps.push(send("1420 bytes (IPv6: 1440) after that", flow.inbound(&large)));
        }
    }
    steps
}
