//! Real servers that are told their clients by the PROXY protocol, in front of the client's stream.

use api::{Protocol, ProxyVersion};
use wire::Family::{V4, V6};
use wire::tcp::flags::ACK;

use crate::case::{Case, Mode, Service, Step, step};
use crate::conn::Conn;
use crate::frame::octets;
use crate::load::{CLIENT_ISN, Load, Seg, client_ack, mss, real_ack, syn, syn_ack};

const V1: fn(&mut api::Service) = |service| service.proxy_protocol = Some(ProxyVersion::V1);
const V2: fn(&mut api::Service) = |service| service.proxy_protocol = Some(ProxyVersion::V2);

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, number, mode, tune, families, steps| Case {
        name,
        about: "the PROXY protocol's header goes with what begins the client's stream, until it is acknowledged",
        number,
        conns: 1,
        service: Service { tune: Some(tune), ..Service::new(mode, Protocol::Tcp, families) },
        steps,
    };
    vec![
        case("proxy_v1_fullnat_44", 83, Mode::FullNat, V1, [V4, V4], version_1),
        case("proxy_v2_fullnat_44", 84, Mode::FullNat, V2, [V4, V4], version_2),
        case("proxy_v1_fullnat_64", 85, Mode::FullNat, V1, [V6, V4], version_1),
        case("proxy_v2_nat_66", 86, Mode::Nat, V2, [V6, V6], version_2),
    ]
}

fn text(conn: &Conn) -> Vec<u8> {
    let family = if conn.client.0.is_ipv4() { "TCP4" } else { "TCP6" };
    let ((from, from_port), (to, to_port)) = (conn.client, conn.virtual_);
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

fn binary(conn: &Conn) -> Vec<u8> {
    let ends = [conn.client, conn.virtual_];
    let kind = if conn.client.0.is_ipv4() { [0x11, 0, 12] } else { [0x21, 0, 36] };
    let addresses = ends.map(|(ip, _)| octets(ip)).concat();
    let ports = ends.map(|(_, port)| port.to_be_bytes()).concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &kind, &addresses, &ports].concat()
}

fn version_1(conns: &[Conn]) -> Vec<Step> {
    steps(&conns[0], &text(&conns[0]))
}

fn version_2(conns: &[Conn]) -> Vec<Step> {
    steps(&conns[0], &binary(&conns[0]))
}

/// The segment with the header in front of its payload.
fn headed(seg: &Seg, header: &[u8]) -> Seg {
    Seg { payload: [header, &seg.payload].concat(), ..seg.clone() }
}

fn steps(conn: &Conn, header: &[u8]) -> Vec<Step> {
    let len = header.len() as u32;
    let behind = |seg: Seg| Seg { seq: seg.seq.wrapping_add(len), ..seg };
    let narrower = |seg: Seg, by: u32| Seg { window: seg.window - by as u16, ..seg };
    let lowered = narrower(syn_ack(), len).options(&mss(1460 - len as u16));
    let (ack, first, second) =
        (client_ack(0, 0), client_ack(0, 0).payload(100), client_ack(100, 0).payload(51));
    let twice = {
        let edges = [0, len].map(|n| (CLIENT_ISN + 1 + n).to_be_bytes()).concat();
        real_ack(0, len).options(&[&[1, 1, 5, 10][..], &edges].concat())
    };
    let early = syn().payload(9);
    vec![
        conn.opens("SYN", &syn()),
        conn.outbound_as("SYN-ACK, its MSS lowered", &syn_ack(), &lowered).counts("mss_lowered", 1),
        step("a SYN with data", vec![conn.client_sends(&early)]).dropped("syn_data"),
        conn.inbound_as("ACK with the header", &ack, &headed(&ack, header)).counts("proxy_inserted", 1),
        conn.outbound_as(
            "the real server speaks first",
            &real_ack(0, 0).payload(20),
            &narrower(real_ack(0, 0).payload(20), len),
        ),
        conn.inbound_as("first data with the header", &first, &headed(&first, header))
            .counts("proxy_inserted", 1),
        conn.inbound_as("second data behind it", &second, &behind(second.clone())),
        conn.outbound_as(
            "part of the header is acknowledged",
            &real_ack(20, len - 3),
            &narrower(real_ack(20, 0), 3),
        ),
        conn.inbound_as("first data again", &first, &headed(&first, header)).counts("proxy_inserted", 1),
        conn.outbound_as("the header came twice", &twice, &real_ack(0, 0).options(&[1; 12])),
        conn.inbound_as("first data alone", &first, &behind(first.clone())),
        conn.outbound_as("all is acknowledged", &real_ack(20, len + 151), &real_ack(20, 151)),
        conn.inbound_as("FIN", &client_ack(151, 20).fin(), &behind(client_ack(151, 20).fin())),
        conn.outbound_as("its ACK", &real_ack(20, len + 152).flags(ACK), &real_ack(20, 152)),
    ]
}
