//! Changes of the configuration while there are connections, and services that nobody can serve.

use super::flow::Flow;
use crate::case::{
    Case, Family, Mode, Protocol, Setting, configure, connections, counts, pick, send, service, set,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        no_real_server("no_server", 80, Family::V4),
        no_real_server("no_server_v6", 81, Family::V6),
        weight_zero(),
        removed("removed_nat", 83, Mode::Nat, false),
        removed("removed_expire_nat", 84, Mode::Nat, true),
        removed("removed_dr", 85, Mode::Dr, false),
        removed("removed_expire_dr", 86, Mode::Dr, true),
        service_removed(),
        thresholds(),
    ]
}

fn no_real_server(name: &'static str, number: u16, family: Family) -> Case {
    let tcp = service(family, number, Protocol::Tcp, Mode::Dr, 1).weights(&[0]);
    let udp = service(family, number, Protocol::Udp, Mode::Nat, 1).weights(&[0]);
    let none = service(family, number + 500, Protocol::Tcp, Mode::Dr, 0);
    let (flow, datagrams) =
        (Flow::new(&tcp, family.client(), 40_001), Flow::new(&udp, family.client(), 40_002));
    let nobody = Flow::new(&none, family.client(), 40_003);
    let steps = vec![
        send("SYN, the only real server has weight 0", flow.inbound(&flow.syn())),
        send("ACK", flow.inbound(&flow.client_ack(0, 0))),
        send("SYN with 1400 bytes", flow.inbound(&flow.syn().payload(1400))),
        send("SYN with TTL 1", flow.inbound(&flow.syn().ttl(1))),
        send("a datagram", datagrams.inbound(&datagrams.client_udp())),
        send("SYN, there is no real server", nobody.inbound(&nobody.syn())),
        connections(),
    ];
    Case { name: name.into(), about: "services that nobody can serve", services: vec![tcp, udp, none], steps }
}

fn weight_zero() -> Case {
    let service = service(Family::V4, 82, Protocol::Tcp, Mode::Nat, 2);
    let drained = service.clone().weights(&[0, 1]);
    let client = Family::V4.client();
    let flow = |port| Flow::new(&service, client, port);
    let old = flow(40_001);
    let syns = |from: u16| (from..from + 4).map(move |port| flow(port).syn().by_client());
    let steps = vec![
        pick("two connections", [old.syn().by_client(), flow(40_002).syn().by_client()]),
        configure("the first real server gets weight 0", vec![drained]),
        pick("the first connection goes on", [old.client_ack(0, 0).by_client()]),
        send("and back", old.outbound(&old.real_ack(0, 0))),
        pick("new connections", syns(40_010)),
        counts(),
        configure("it gets weight 1 again", vec![service.clone()]),
        pick("new connections", syns(40_020)),
        counts(),
    ];
    Case {
        name: "weight_zero".into(),
        about: "a real server is drained",
        services: vec![service.clone()],
        steps,
    }
}

fn removed(name: &'static str, number: u16, mode: Mode, expire: bool) -> Case {
    let service = service(Family::V4, number, Protocol::Tcp, mode, 2);
    let client = Family::V4.client();
    let flow = |port| Flow::new(&service, client, port);
    let (old, other) = (flow(40_001), flow(40_003));
    let established = |flow: &Flow| flow.frames(&flow.handshake(mode)[1..]);
    let mut steps = vec![
        set(Setting::ExpireNodestConn, expire),
        pick("connections", [40_001, 40_002, 40_003, 40_004].map(|port| flow(port).syn().by_client())),
        send("two of them are established", [old, other].iter().flat_map(established)),
        configure("the first real server is removed", vec![service.clone().without(1)]),
        connections(),
        send("data of a client of it", old.inbound(&old.client_ack(0, 0).payload(10))),
        connections(),
        send("the same data again", old.inbound(&old.client_ack(0, 0).payload(10))),
        send("a new SYN of the same client", old.inbound(&old.syn())),
        connections(),
    ];
    if mode == Mode::Nat {
        steps
            .push(send("data of the removed real server", other.outbound(&other.real_ack(0, 0).payload(10))));
    }
    steps.extend([
        counts(),
        configure("it is back", vec![service.clone()]),
        connections(),
        send("data of another client of it", other.inbound(&other.client_ack(0, 0).payload(10))),
        counts(),
        set(Setting::ExpireNodestConn, false),
    ]);
    Case {
        name: name.into(),
        about: "a real server with connections is removed",
        services: vec![service.clone()],
        steps,
    }
}

fn service_removed() -> Case {
    let service = service(Family::V4, 87, Protocol::Tcp, Mode::Nat, 1);
    let another = crate::case::service(Family::V4, 587, Protocol::Tcp, Mode::Nat, 1);
    let flow = Flow::new(&service, Family::V4.client(), 40_001);
    let new = Flow::new(&service, Family::V4.client(), 40_002);
    let steps = vec![
        send("a connection", flow.frames(&flow.handshake(Mode::Nat))),
        configure("the service is removed", vec![another.clone()]),
        send("data of the client", flow.inbound(&flow.client_ack(0, 0).payload(10))),
        send("data of the real server", flow.outbound(&flow.real_ack(0, 0).payload(10))),
        send("a new SYN", new.inbound(&new.syn())),
        configure("it is back", vec![service.clone(), another.clone()]),
        send("data of the client", flow.inbound(&flow.client_ack(0, 0).payload(10))),
        send("data of the real server", flow.outbound(&flow.real_ack(0, 0).payload(10))),
        connections(),
        counts(),
    ];
    let about = "a service with connections is removed, not the only one";
    Case { name: "service_removed".into(), about, services: vec![service, another], steps }
}

fn thresholds() -> Case {
    let service = service(Family::V4, 88, Protocol::Tcp, Mode::Nat, 2).thresholds(3, 0);
    let client = Family::V4.client();
    let flow = |port| Flow::new(&service, client, port);
    let syns = |from: u16, n: u16| (from..from + n).map(move |port| flow(port).syn().by_client());
    let gone = Flow::new(&service, client, 40_001);
    let steps = vec![
        pick("six connections", syns(40_001, 6)),
        counts(),
        send("a seventh", flow(40_007).inbound(&flow(40_007).syn())),
        pick("the first ends", [gone.client_rst(0).by_client()]),
        send("an eighth", flow(40_008).inbound(&flow(40_008).syn())),
        counts(),
    ];
    Case {
        name: "thresholds".into(),
        about: "an upper threshold of 3",
        services: vec![service.clone()],
        steps,
    }
}
