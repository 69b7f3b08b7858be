//! The client's address for a real server of either family, in every kind of option, on every segment that needs it.

use api::Protocol::Tcp;
use wire::Family::{self, V4, V6};

use crate::case::{Case, Mode, Service, Step, Steps};
use crate::conn::Conn;
use crate::load::{Load, client_ack, real_ack};

/// With TOA of this kind; families of client and real server.
const fn told(kind: u8, families: [Family; 2]) -> Service {
    Service { toa: Some(kind), ..Service::new(Mode::FullNat, Tcp, families) }
}

pub(crate) fn cases() -> Vec<Case> {
    let case =
        |number, name, about, service, steps: Steps| Case { name, about, number, conns: 1, service, steps };
    vec![
        case(
            150,
            "toa_66",
            "an IPv6 client and an IPv6 real server: kind 254 of 20 bytes",
            told(254, [V6, V6]),
            until_known,
        ),
        case(
            151,
            "toa_64",
            "an IPv6 client, an IPv4 real server: the option has the IPv6 address",
            told(254, [V6, V4]),
            until_known,
        ),
        case(
            152,
            "toa_46",
            "an IPv4 client, an IPv6 real server: the option has the IPv4 address",
            told(254, [V4, V6]),
            until_known,
        ),
        case(153, "toa_kind_253", "kind 253, IPv4", told(253, [V4, V4]), until_known),
        case(154, "toa_kind_253_66", "kind 253, IPv6", told(253, [V6, V6]), until_known),
        case(
            155,
            "toa_lost_ack",
            "the handshake's ACK is lost: the data that ends the handshake has the option, and again",
            told(254, [V4, V4]),
            lost_ack,
        ),
        case(
            156,
            "toa_fin",
            "a client that says nothing and closes: its FIN has the option",
            told(254, [V4, V4]),
            fin,
        ),
    ]
}

fn until_known(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.handshake();
    steps.extend([
        conn.inbound_with_toa("first data with TOA", &client_ack(0, 0).payload(100)),
        conn.outbound("the ACK of the first data", &real_ack(0, 100)),
        conn.inbound("data without TOA", &client_ack(100, 0).payload(10)),
    ]);
    steps
}

fn lost_ack(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.half_open();
    steps.extend([
        conn.inbound_with_toa("data that ends the handshake", &client_ack(0, 0).payload(100)),
        conn.inbound_with_toa("the same again", &client_ack(0, 0).payload(100)),
        conn.outbound("the answer", &real_ack(0, 100).payload(20)),
        conn.inbound("its ACK without TOA", &client_ack(100, 20)),
    ]);
    steps
}

fn fin(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.handshake();
    steps.push(conn.inbound_with_toa("FIN with TOA", &client_ack(0, 0).fin()));
    steps
}
