//! Which real server gets which connection.

use super::flow::Flow;
use crate::case::{Case, Family, Mode, Protocol, Service, Step, configure, counts, pick, service};
use crate::frame::{Frame, far_client};

pub(super) fn cases() -> Vec<Case> {
    let exact: [(&str, &'static str, &[u16]); 12] = [
        ("rr", "rr", &[1, 1, 1]),
        ("rr_weights", "rr", &[3, 1, 2]),
        ("wrr", "wrr", &[3, 1, 2]),
        ("wrr_gcd", "wrr", &[4, 2, 6]),
        ("wrr_zero", "wrr", &[2, 0, 3]),
        ("lc", "lc", &[3, 1, 2]),
        ("wlc", "wlc", &[3, 1, 2]),
        ("sed", "sed", &[3, 1, 2]),
        ("nq", "nq", &[3, 1, 2]),
        ("fo", "fo", &[3, 1, 2]),
        ("ovf", "ovf", &[3, 1, 2]),
        ("lblc", "lblc", &[3, 1, 2]),
    ];
    let mut cases: Vec<Case> = (140..)
        .zip(exact)
        .map(|(number, (name, scheduler, weights))| in_turn(name, number, scheduler, weights))
        .collect();
    let hashes: [(&str, &'static str, &'static [&'static str]); 7] = [
        ("sh", "sh", &[]),
        ("sh_port", "sh", &["sh-port"]),
        ("sh_fallback", "sh", &["sh-fallback"]),
        ("dh", "dh", &[]),
        ("mh", "mh", &[]),
        ("mh_port", "mh", &["mh-port"]),
        ("mh_fallback", "mh", &["mh-fallback"]),
    ];
    for (number, (name, scheduler, flags)) in (160..).zip(hashes) {
        cases.push(hashed(name, number, scheduler, flags));
    }
    cases
}

fn syn(service: &Service, client: u16, port: u16) -> Frame {
    Flow::new(service, far_client(client).into(), port).syn().by_client()
}

fn syns(service: &Service, from: u16, n: u16) -> Vec<Frame> {
    (from..from + n).map(|client| syn(service, client, 1000)).collect()
}

/// Connections that come one after the other, then some that end, a real server that is drained, and one
/// that comes back.
fn in_turn(name: &'static str, number: u16, scheduler: &'static str, weights: &'static [u16]) -> Case {
    let service =
        service(Family::V4, number, Protocol::Tcp, Mode::Dr, 3).scheduler(scheduler).weights(weights);
    let rst = |client| Flow::new(&service, far_client(client).into(), 1000).client_rst(0).by_client();
    let ack = |client| Flow::new(&service, far_client(client).into(), 1000).client_ack(0, 0).by_client();
    let mut drained = weights.to_vec();
    drained[0] = 0;
    let steps: Vec<Step> = vec![
        pick("24 SYNs", syns(&service, 1, 24)),
        counts(),
        pick("ACKs of the first 12", (1..13).map(ack)),
        pick("RSTs of the first 6", (1..7).map(rst)),
        counts(),
        pick("12 SYNs", syns(&service, 101, 12)),
        counts(),
        configure("the first real server gets weight 0", vec![service.clone().weights(&drained)]),
        pick("6 SYNs", syns(&service, 201, 6)),
        configure("it gets its weight again", vec![service.clone()]),
        pick("12 SYNs", syns(&service, 301, 12)),
        counts(),
    ];
    Case { name: name.into(), about: "real servers in turn", services: vec![service.clone()], steps }
}

fn hashed(name: &'static str, number: u16, scheduler: &'static str, flags: &'static [&'static str]) -> Case {
    let service = service(Family::V4, number, Protocol::Tcp, Mode::Dr, 4)
        .scheduler(scheduler)
        .flags(flags)
        .weights(&[1, 1, 1, 2]);
    let ports = |from: u16| (from..from + 20).map(|port| syn(&service, 1, port)).collect::<Vec<_>>();
    let again = |port| (1..41).map(|client| syn(&service, client, port)).collect::<Vec<_>>();
    let steps = vec![
        pick("120 clients", syns(&service, 1, 120)),
        pick("one client from 20 ports", ports(2000)),
        pick("40 clients from another port", again(1001)),
        configure("the first real server gets weight 0", vec![service.clone().weights(&[0, 1, 1, 2])]),
        pick("40 clients from another port", again(1002)),
        configure("it is removed", vec![service.clone().weights(&[1, 1, 1, 2]).without(1)]),
        pick("40 clients from another port", again(1003)),
        configure("it is back", vec![service.clone()]),
        pick("40 clients from another port", again(1004)),
    ];
    Case { name: name.into(), about: "real servers by hash", services: vec![service.clone()], steps }
}
