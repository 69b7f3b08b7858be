//! UDP, fragments, persistence, and tunnels to real servers of the other family.

use super::flow::Flow;
use crate::case::{
    Case, Family, Mode, Protocol, Setting, configure, connections, counts, pick, send, service, set,
};
use crate::frame::{far_client, far_client6, rip, rip6};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        udp_connections(),
        one_packet("one_packet_nat", 101, Mode::Nat),
        one_packet("one_packet_dr", 102, Mode::Dr),
        persistence("persistence", 103, false),
        persistence("persistence_quiescent", 104, true),
        every_port(),
    ];
    let modes = [("dr", Mode::Dr), ("nat", Mode::Nat), ("ipip", Mode::Ipip)];
    for (number, (name, mode)) in (110..).step_by(2).zip(modes) {
        cases.push(fragments(format!("fragments_{name}"), number, mode, Family::V4));
        cases.push(fragments(format!("fragments_{name}_v6"), number + 1, mode, Family::V6));
    }
    let tunnels = [("ipip", Mode::Ipip), ("gre", Mode::Gre), ("gue", Mode::Gue)];
    for (number, (name, mode)) in (120..).step_by(2).zip(tunnels) {
        cases.push(other_family(format!("{name}_4in6"), number, mode, Family::V4));
        cases.push(other_family(format!("{name}_6in4"), number + 1, mode, Family::V6));
    }
    cases
}

fn udp_connections() -> Case {
    let service = service(Family::V4, 100, Protocol::Udp, Mode::Nat, 2);
    let flow = |port| Flow::new(&service, Family::V4.client(), port);
    let (a, b) = (flow(40_001), flow(40_002));
    let steps = vec![
        pick("three datagrams of a client", [a, a, a].map(|flow| flow.client_udp().by_client())),
        connections(),
        pick("another client port", [b.client_udp().by_client()]),
        send("an answer", a.outbound(&a.real_udp())),
        send("an empty datagram", a.inbound(&a.client_udp().payload(0))),
        send("an answer of a real server that has none", b.outbound(&b.real_udp())),
        connections(),
        counts(),
    ];
    Case { name: "udp".into(), about: "UDP connections", services: vec![service.clone()], steps }
}

fn one_packet(name: &'static str, number: u16, mode: Mode) -> Case {
    let mut service = service(Family::V4, number, Protocol::Udp, mode, 2);
    service.one_packet = true;
    let flow = Flow::new(&service, Family::V4.client(), 40_001);
    let mut steps = vec![
        pick("five datagrams of a client", [flow; 5].map(|flow| flow.client_udp().by_client())),
        connections(),
    ];
    if mode == Mode::Nat {
        steps.push(send("an answer", flow.outbound(&flow.real_udp())));
    }
    steps.push(counts());
    Case { name: name.into(), about: "every packet is scheduled on its own", services: vec![service], steps }
}

fn persistence(name: &'static str, number: u16, expire: bool) -> Case {
    let service = service(Family::V4, number, Protocol::Tcp, Mode::Nat, 3).persistent(360);
    let flow = |client: u16, port| Flow::new(&service, far_client(client).into(), port).syn().by_client();
    let steps = vec![
        set(Setting::ExpireQuiescentTemplate, expire),
        pick("three clients", [flow(1, 1), flow(2, 1), flow(3, 1)]),
        pick("the same clients from other ports", [flow(3, 2), flow(1, 2), flow(2, 2), flow(1, 3)]),
        connections(),
        counts(),
        configure("the first client's real server gets weight 0", vec![service.clone().weights(&[1, 0, 1])]),
        pick("the clients again", [flow(1, 4), flow(2, 4), flow(3, 4)]),
        configure("its real server is removed", vec![service.clone().without(2)]),
        pick("the clients again", [flow(1, 5), flow(2, 5), flow(3, 5)]),
        counts(),
        set(Setting::ExpireQuiescentTemplate, false),
    ];
    Case { name: name.into(), about: "persistence of 360 s", services: vec![service.clone()], steps }
}

/// Port 0: every port of an address, and the client's port stays what it was.
fn every_port() -> Case {
    let all = service(Family::V4, 105, Protocol::Tcp, Mode::Nat, 2).persistent(360).port(0);
    let at = |client: u16, port: u16| {
        let mut flow = Flow::new(&all, far_client(client).into(), 1);
        flow.virtual_.set_port(port);
        flow
    };
    let (first, second) = (at(1, 80), at(1, 443));
    let steps = vec![
        send("a client to port 80", first.inbound(&first.syn())),
        send("the same to port 443", second.inbound(&second.syn())),
        send("another client", at(2, 443).inbound(&at(2, 443).syn())),
        counts(),
    ];
    Case { name: "every_port".into(), about: "a service on all ports", services: vec![all.clone()], steps }
}

fn fragments(name: String, number: u16, mode: Mode, family: Family) -> Case {
    let service = service(family, number, Protocol::Udp, mode, 2);
    let flow = |port| Flow::new(&service, family.client(), port);
    let pieces = |port: u16, len: usize| {
        flow(port).client_udp().payload(len).may_fragment().by_client().fragments(1300)
    };
    let reversed = pieces(40_002, 3000).into_iter().rev().collect::<Vec<_>>();
    let full = |port: u16| {
        let datagram = flow(port).client_udp().payload(3000).may_fragment();
        datagram.by_client().fragments(1500)
    };
    // From a client of its own: what is left of it must not be taken for part of another packet.
    let far = match family {
        Family::V4 => far_client(number).into(),
        Family::V6 => far_client6(number).into(),
    };
    let lonely = Flow::new(&service, far, 40_003).client_udp().payload(3000).may_fragment();
    let mut first_only = lonely.by_client().fragments(1300);
    first_only.truncate(1);
    let mut steps = vec![
        send("three fragments", pieces(40_001, 3000)),
        send("three fragments, last first", reversed),
        send("full-size fragments", full(40_004)),
        send("a first fragment alone", first_only),
        connections(),
    ];
    if mode == Mode::Nat {
        let answer = flow(40_001).real_udp().payload(3000).may_fragment();
        steps.push(send("an answer in fragments", answer.by_real(1).fragments(1300)));
    }
    Case { name, about: "fragments", services: vec![service.clone()], steps }
}

/// A tunnel over the other family of addresses.
fn other_family(name: String, number: u16, mode: Mode, family: Family) -> Case {
    let mut tcp = service(family, number, Protocol::Tcp, mode, 1);
    let port = tcp.virtual_.port();
    tcp.reals[0].real = match family {
        Family::V4 => (rip6(1), port).into(),
        Family::V6 => (rip(1), port).into(),
    };
    let flow = Flow::new(&tcp, family.client(), 40_001);
    let data = flow.client_ack(0, 0).payload(10);
    let mut steps = vec![
        send("SYN", flow.inbound(&flow.syn())),
        send("data with DSCP AF11 and ECT(1)", flow.inbound(&data.clone().tos(0x29))),
        send("data with TTL 2", flow.inbound(&data.clone().ttl(2))),
        send("data with TTL 1", flow.inbound(&data.clone().ttl(1))),
        send("1460 bytes of data", flow.inbound(&data.clone().payload(1440))),
        connections(),
    ];
    if family == Family::V4 {
        steps.push(send("data without DF", flow.inbound(&data.clone().may_fragment())));
        steps.push(send("1480 bytes without DF", flow.inbound(&data.payload(1440).may_fragment())));
    }
    Case { name, about: "a tunnel over the other family", services: vec![tcp], steps }
}
