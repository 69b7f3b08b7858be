//! The life of TCP connections: states and timeouts, both ends' FIN and RST, and client ports that are used
//! again.

use wire::tcp::flags::{ACK, FIN, PSH, RST, SYN, URG};

use super::flow::Flow;
use crate::case::{Case, Family, Mode, Protocol, Step, connections, connections_from, counts, send, service};
use crate::frame::{Body, Packet};

pub(super) fn cases() -> Vec<Case> {
    vec![
        close("close_nat", 60, Mode::Nat),
        close("close_dr", 61, Mode::Dr),
        server_closes(),
        reset_by_client("reset_nat", 63, Mode::Nat),
        reset_by_client("reset_dr", 64, Mode::Dr),
        reset_by_server(),
        handshakes(),
        reuse("reuse_nat", 67, Mode::Nat),
        reuse("reuse_dr", 68, Mode::Dr),
        strays(),
        odd_flags(),
    ]
}

/// Sends a packet and lists the connections after it.
fn then_list(steps: &mut Vec<Step>, flow: &Flow, what: &str, packet: &Packet) {
    steps.push(send(what, flow.frames([packet])));
    steps.push(connections_from(flow.client.port()));
}

/// What both sides have said until the connection stands; only the client's part where replies do not come
/// by.
fn open(steps: &mut Vec<Step>, flow: &Flow, mode: Mode) {
    then_list(steps, flow, "SYN", &flow.syn());
    if mode == Mode::Nat {
        then_list(steps, flow, "SYN-ACK", &flow.syn_ack());
    }
    then_list(steps, flow, "ACK", &flow.client_ack(0, 0));
}

fn close(name: &'static str, number: u16, mode: Mode) -> Case {
    let service = service(Family::V4, number, Protocol::Tcp, mode, 1);
    let flow = Flow::new(&service, Family::V4.client(), 40_001);
    let mut steps = Vec::new();
    open(&mut steps, &flow, mode);
    steps.push(counts());
    then_list(&mut steps, &flow, "FIN of the client", &flow.client_fin(0, 0));
    if mode == Mode::Nat {
        then_list(&mut steps, &flow, "ACK of it", &flow.real_ack(0, 1));
        then_list(&mut steps, &flow, "data of the real server", &flow.real_ack(0, 1).payload(10));
        then_list(&mut steps, &flow, "FIN of the real server", &flow.real_fin(10, 1));
    }
    then_list(&mut steps, &flow, "ACK of the client", &flow.client_ack(1, 11));
    steps.push(counts());
    Case { name: name.into(), about: "the client closes first", services: vec![service], steps }
}

fn server_closes() -> Case {
    let service = service(Family::V4, 62, Protocol::Tcp, Mode::Nat, 1);
    let flow = Flow::new(&service, Family::V4.client(), 40_001);
    let mut steps = Vec::new();
    open(&mut steps, &flow, Mode::Nat);
    then_list(&mut steps, &flow, "FIN of the real server", &flow.real_fin(0, 0));
    then_list(&mut steps, &flow, "ACK of it", &flow.client_ack(0, 1));
    then_list(&mut steps, &flow, "data of the client", &flow.client_ack(0, 1).payload(10));
    then_list(&mut steps, &flow, "FIN of the client", &flow.client_fin(10, 1));
    then_list(&mut steps, &flow, "ACK of the real server", &flow.real_ack(1, 11));
    Case {
        name: "close_by_server".into(),
        about: "the real server closes first",
        services: vec![service],
        steps,
    }
}

fn reset_by_client(name: &'static str, number: u16, mode: Mode) -> Case {
    let service = service(Family::V4, number, Protocol::Tcp, mode, 1);
    let flow = Flow::new(&service, Family::V4.client(), 40_001);
    let mut steps = Vec::new();
    open(&mut steps, &flow, mode);
    then_list(&mut steps, &flow, "RST of the client", &flow.client_rst(0));
    then_list(&mut steps, &flow, "data of the client after that", &flow.client_ack(0, 0).payload(10));
    let far = Flow::new(&service, Family::V4.client(), 40_002);
    open(&mut steps, &far, mode);
    then_list(&mut steps, &far, "RST far outside the window", &far.client_rst(0x4000_0000));
    Case { name: name.into(), about: "the client resets", services: vec![service], steps }
}

fn reset_by_server() -> Case {
    let service = service(Family::V4, 65, Protocol::Tcp, Mode::Nat, 1);
    let flow = Flow::new(&service, Family::V4.client(), 40_001);
    let mut steps = Vec::new();
    open(&mut steps, &flow, Mode::Nat);
    then_list(&mut steps, &flow, "RST of the real server", &flow.real_rst(0, 0));
    let refused = Flow::new(&service, Family::V4.client(), 40_002);
    then_list(&mut steps, &refused, "SYN of another connection", &refused.syn());
    let answer = with_flags(refused.syn_ack().options(&[]), RST | ACK);
    then_list(&mut steps, &refused, "the real server refuses it", &answer);
    Case { name: "reset_by_server".into(), about: "the real server resets", services: vec![service], steps }
}

fn handshakes() -> Case {
    let service = service(Family::V4, 66, Protocol::Tcp, Mode::Nat, 2);
    let client = Family::V4.client();
    let (a, b) = (Flow::new(&service, client, 40_001), Flow::new(&service, client, 40_002));
    let mut steps = Vec::new();
    then_list(&mut steps, &a, "SYN", &a.syn());
    then_list(&mut steps, &a, "the SYN again", &a.syn());
    let mut other = a.syn();
    if let Body::Tcp { seq, .. } = &mut other.body {
        *seq += 77_000;
    }
    then_list(&mut steps, &a, "a SYN with another sequence number", &other);
    then_list(&mut steps, &a, "ACK without a SYN-ACK", &a.client_ack(0, 0));
    then_list(&mut steps, &b, "SYN of another connection", &b.syn());
    let second = b.to(&service, 2);
    then_list(&mut steps, &second, "SYN-ACK", &second.syn_ack());
    then_list(&mut steps, &b, "ACK of something else", &b.client_ack(0, 5000));
    then_list(&mut steps, &b, "ACK", &b.client_ack(0, 0));
    steps.push(counts());
    let about = "SYNs that come again, and ACKs that do not fit";
    Case { name: "handshakes".into(), about, services: vec![service], steps }
}

/// The packets by which a connection comes into a state, behind its handshake.
type End = fn(&Flow) -> Vec<Packet>;

/// A new SYN from the same port in every state. Each state has a service of its own, so that its first
/// connection goes to the first real server, and one that is scheduled anew to the second.
fn reuse(name: &'static str, number: u16, mode: Mode) -> Case {
    let ends: [(&str, End); 5] = [
        ("ESTABLISHED", |_| Vec::new()),
        ("the client's FIN", |flow| vec![flow.client_fin(0, 0)]),
        ("both sides' FIN", |flow| vec![flow.client_fin(0, 0), flow.real_fin(0, 1), flow.client_ack(1, 1)]),
        ("the real server's FIN", |flow| vec![flow.real_fin(0, 0), flow.client_ack(0, 1)]),
        ("a RST", |flow| vec![flow.client_rst(0)]),
    ];
    let mut services = Vec::new();
    let mut steps = Vec::new();
    for ((number, port), (state, end)) in (number * 10..).zip(40_001..).zip(ends) {
        let service = service(Family::V4, number, Protocol::Tcp, mode, 2);
        let flow = Flow::new(&service, Family::V4.client(), port);
        services.push(service);
        let mut packets = flow.handshake(mode);
        packets.extend(end(&flow));
        packets.retain(|packet| mode == Mode::Nat || packet.dst == flow.virtual_);
        let frames = flow.frames(&packets);
        steps.push(send(format!("a connection up to {state}"), frames));
        steps.push(connections_from(port));
        let mut again = flow.syn();
        if let Body::Tcp { seq, .. } = &mut again.body {
            *seq += 1_000_000;
        }
        then_list(&mut steps, &flow, &format!("a new SYN after {state}"), &again);
    }
    steps.push(counts());
    Case { name: name.into(), about: "a client uses its port again", services, steps }
}

/// Packets of no connection.
fn strays() -> Case {
    let tcp = service(Family::V4, 69, Protocol::Tcp, Mode::Nat, 1);
    let flow = Flow::new(&tcp, Family::V4.client(), 40_001);
    let syn_ack = with_flags(flow.client_ack(0, 0), SYN | ACK);
    let all = [
        ("ACK of no connection", flow.client_ack(0, 0)),
        ("data of no connection", flow.client_ack(0, 0).payload(10)),
        ("FIN of no connection", flow.client_fin(0, 0)),
        ("RST of no connection", flow.client_rst(0)),
        ("data of the real server of no connection", flow.real_ack(0, 0).payload(10)),
        ("SYN-ACK of the real server of no connection", flow.syn_ack()),
        ("RST of the real server of no connection", flow.real_rst(0, 0)),
        ("SYN-ACK of no connection", syn_ack),
    ];
    let mut steps: Vec<Step> = all.iter().map(|(what, packet)| send(*what, flow.frames([packet]))).collect();
    steps.push(connections());
    let mut unknown = flow;
    unknown.virtual_.set_port(7);
    steps.push(send("SYN to a port without service", unknown.inbound(&unknown.syn())));
    steps.push(send("a datagram to a port without service", unknown.inbound(&unknown.client_udp())));
    Case { name: "strays".into(), about: "packets of no connection", services: vec![tcp], steps }
}

fn with_flags(mut packet: Packet, wanted: u8) -> Packet {
    if let Body::Tcp { flags, .. } = &mut packet.body {
        *flags = wanted;
    }
    packet
}

fn odd_flags() -> Case {
    let service = service(Family::V4, 70, Protocol::Tcp, Mode::Nat, 1);
    let mut steps = Vec::new();
    let odd = [
        ("no flag", 0),
        ("SYN FIN", SYN | FIN),
        ("SYN RST", SYN | RST),
        ("FIN PSH URG", FIN | PSH | URG),
        ("SYN PSH", SYN | PSH),
    ];
    for (port, (what, odd)) in (40_001..).zip(odd) {
        let flow = Flow::new(&service, Family::V4.client(), port);
        let packet = with_flags(flow.client_ack(0, 0), odd);
        then_list(&mut steps, &flow, &format!("{what} of no connection"), &packet);
    }
    for (port, (what, odd)) in (41_001..).zip(odd) {
        let flow = Flow::new(&service, Family::V4.client(), port);
        steps.push(send("a connection", flow.frames(&flow.handshake(Mode::Nat))));
        let packet = with_flags(flow.client_ack(0, 0), odd | if odd == SYN | PSH { ACK } else { 0 });
        then_list(&mut steps, &flow, &format!("{what} in it"), &packet);
    }
    Case {
        name: "odd_flags".into(),
        about: "combinations of flags that no stack sends",
        services: vec![service],
        steps,
    }
}
