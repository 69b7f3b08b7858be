//! What a packet looks like behind the gateway, in each mode.

use super::flow::Flow;
use crate::case::{Case, Family, Mode, Protocol, Service, Step, connections, counts, send, service, traffic};

/// A mode over a family of addresses.
struct Way {
    name: &'static str,
    about: &'static str,
    mode: Mode,
    family: Family,
}

const WAYS: [Way; 12] = [
    Way { name: "dr", about: "DR", mode: Mode::Dr, family: Family::V4 },
    Way { name: "dr_v6", about: "DR, IPv6", mode: Mode::Dr, family: Family::V6 },
    Way { name: "nat", about: "NAT", mode: Mode::Nat, family: Family::V4 },
    Way { name: "nat_v6", about: "NAT, IPv6", mode: Mode::Nat, family: Family::V6 },
    Way { name: "ipip", about: "TUN, IP in IP", mode: Mode::Ipip, family: Family::V4 },
    Way { name: "ipip_v6", about: "TUN, IPv6 in IPv6", mode: Mode::Ipip, family: Family::V6 },
    Way { name: "gre", about: "TUN, GRE", mode: Mode::Gre, family: Family::V4 },
    Way { name: "gre_sum", about: "TUN, GRE with checksum", mode: Mode::GreChecksum, family: Family::V4 },
    Way { name: "gre_v6", about: "TUN, GRE over IPv6", mode: Mode::Gre, family: Family::V6 },
    Way { name: "gue", about: "TUN, GUE", mode: Mode::Gue, family: Family::V4 },
    Way { name: "gue_sum", about: "TUN, GUE with checksum", mode: Mode::GueChecksum, family: Family::V4 },
    Way { name: "gue_v6", about: "TUN, GUE over IPv6", mode: Mode::GueChecksum, family: Family::V6 },
];

pub(super) fn cases() -> Vec<Case> {
    WAYS.iter().enumerate().map(|(number, way)| case(way, 10 + number as u16)).collect()
}

fn case(way: &Way, number: u16) -> Case {
    let tcp = service(way.family, number, Protocol::Tcp, way.mode, 1);
    let udp = service(way.family, number, Protocol::Udp, way.mode, 1);
    let mut steps = handshake(&tcp, way);
    steps.extend(inbound(&tcp, way.family));
    if way.mode == Mode::Nat {
        steps.extend(outbound(&tcp, way.family));
    }
    steps.extend(datagrams(&udp, way));
    steps.extend([connections(), counts()]);
    // Reading these takes IPVS two seconds; all tunnels count alike.
    if matches!(way.mode, Mode::Dr | Mode::Nat | Mode::Ipip) {
        steps.push(traffic());
    }
    Case { name: way.name.into(), about: way.about, services: vec![tcp, udp], steps }
}

fn handshake(service: &Service, way: &Way) -> Vec<Step> {
    let flow = Flow::new(service, way.family.client(), 40_001);
    let packets = flow.handshake(way.mode);
    let names = if way.mode == Mode::Nat { &["SYN", "SYN-ACK", "ACK"][..] } else { &["SYN", "ACK"] };
    names.iter().zip(&packets).map(|(what, packet)| send(*what, flow.frames([packet]))).collect()
}

fn inbound(service: &Service, family: Family) -> Vec<Step> {
    let flow = Flow::new(service, family.client(), 40_001);
    let data = flow.client_ack(0, 0).payload(10);
    vec![
        send("data with DSCP AF11 and ECT(1)", flow.inbound(&data.clone().tos(0x29))),
        send("data with ECN CE", flow.inbound(&data.clone().tos(0x03))),
        send("data without DF", flow.inbound(&data.clone().may_fragment())),
        send("data with TTL 2", flow.inbound(&data.clone().ttl(2))),
        send("data with TTL 1", flow.inbound(&data.clone().ttl(1))),
        send("data with TTL 255", flow.inbound(&data.ttl(255))),
    ]
}

fn outbound(service: &Service, family: Family) -> Vec<Step> {
    let flow = Flow::new(service, family.client(), 40_001);
    let data = flow.real_ack(0, 0).payload(10);
    vec![
        send("data back with DSCP AF11 and ECT(1)", flow.outbound(&data.clone().tos(0x29))),
        send("data back without DF", flow.outbound(&data.clone().may_fragment())),
        send("data back with TTL 2", flow.outbound(&data.clone().ttl(2))),
        send("data back with TTL 1", flow.outbound(&data.ttl(1))),
    ]
}

fn datagrams(service: &Service, way: &Way) -> Vec<Step> {
    let flow = Flow::new(service, way.family.client(), 40_002);
    let mut steps = vec![send("a datagram", flow.inbound(&flow.client_udp()))];
    if way.family == Family::V4 {
        let without = flow.client_udp().without_checksum();
        steps.push(send("a datagram without checksum", flow.inbound(&without)));
    }
    if way.mode == Mode::Nat {
        steps.push(send("an answer", flow.outbound(&flow.real_udp())));
        if way.family == Family::V4 {
            let without = flow.real_udp().without_checksum();
            steps.push(send("an answer without checksum", flow.outbound(&without)));
        }
    }
    steps
}
