//! Clients of UDP servers, told in an option or in a header.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::fixture::{Fixture, lip};
use crate::probe::cases::{CLIENT, CLIENT_V6};
use crate::probe::datagram::{self, Told};
use crate::probe::peer::PATIENCE;
use crate::probe::{LIP_UNTRUSTED, LIP_V6, SERVER, SERVER_V6};

/// Sends a datagram to the server, and returns whom the server sees it from and what came back to `to`.
fn ask_udp(fixture: &Fixture, server: &UdpSocket, from: SocketAddr, told: Option<&str>) -> SocketAddr {
    let told = told.map(|client| Told::in_option(client.parse().unwrap()));
    ask_telling(fixture, server, from, &told.unwrap_or_default())
}

fn ask_telling(fixture: &Fixture, server: &UdpSocket, from: SocketAddr, told: &Told) -> SocketAddr {
    let port = server.local_addr().unwrap().port();
    let to = SocketAddr::new(if from.is_ipv4() { SERVER } else { SERVER_V6 }.parse().unwrap(), port);
    fixture.tun.send(&datagram::telling(from, to, told, b"question")).unwrap();
    let mut buffer = [0; 64];
    let (length, seen) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", seen).unwrap();
    let came = fixture.tun.receive(PATIENCE, |packet| datagram::read(packet, from)).unwrap();
    assert_eq!(came, b"answer");
    seen
}

#[test]
fn a_udp_server_sees_the_client_and_its_answers_go_to_the_gateway() {
    let fixture = Fixture::new("udp");
    fixture.attach_with(&["--udp"]);
    let client: SocketAddr = CLIENT.parse().unwrap();
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    let dual = UdpSocket::bind("[::]:0").unwrap();
    for server in [&server, &dual] {
        server.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(ask_udp(&fixture, &server, lip(44_000), None), lip(44_000));
    assert_eq!(ask_udp(&fixture, &server, lip(44_001), Some(CLIENT)), client);
    // Gateways tell it on a flow's first datagrams only.
    assert_eq!(ask_udp(&fixture, &server, lip(44_001), None), client);
    assert_eq!(
        ask_udp(&fixture, &server, lip(44_001), Some("203.0.113.8:53")),
        "203.0.113.8:53".parse().unwrap()
    );
    let mapped: SocketAddr = format!("[::ffff:{}]:{}", client.ip(), client.port()).parse().unwrap();
    assert_eq!(ask_udp(&fixture, &dual, lip(44_002), Some(CLIENT)), mapped);

    let stranger = SocketAddr::new(LIP_UNTRUSTED.parse().unwrap(), 44_003);
    assert_eq!(ask_udp(&fixture, &server, stranger, Some(CLIENT)), stranger);
    assert_eq!(ask_udp(&fixture, &server, lip(44_004), Some("127.0.0.1:1")), lip(44_004));

    let status = fixture.status();
    assert_eq!(status["udp"], true);
    assert_eq!(status["udp_header"], serde_json::json!([]));
    for (counter, value) in
        [("udp_learnt", 3), ("udp_shown", 4), ("udp_returned", 4), ("untrusted", 1), ("bad_address", 1)]
    {
        assert_eq!(status["counters"][counter], value, "{status}");
    }
}

/// A server with a socket of its own for the client: that talks to the gateway, too.
#[test]
fn a_connected_udp_socket_talks_to_the_gateway() {
    let fixture = Fixture::new("udpc");
    fixture.attach_with(&["--udp"]);
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = ask_udp(&fixture, &server, lip(44_010), Some(CLIENT));
    server.connect(client).unwrap();
    server.send(b"more").unwrap();
    let came = fixture.tun.receive(PATIENCE, |packet| datagram::read(packet, lip(44_010))).unwrap();
    assert_eq!(came, b"more");
}

/// Where the header of protocol 248 is looked for: the device of [`Fixture`].
const HEADER: [&str; 3] = ["--udp", "--udp-header", "tgtoa0"];

fn lip6(port: u16) -> SocketAddr {
    SocketAddr::new(LIP_V6.parse().unwrap(), port)
}

#[test]
fn a_header_between_ip_and_udp_is_learnt_and_taken_out_over_both_families() {
    let fixture = Fixture::new("udph");
    fixture.attach_with(&HEADER);
    let (v4, v6): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), CLIENT_V6.parse().unwrap());
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    let server6 = UdpSocket::bind((SERVER_V6, 0)).unwrap();
    let dual = UdpSocket::bind("[::]:0").unwrap();
    for server in [&server, &server6, &dual] {
        server.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(ask_telling(&fixture, &server, lip(45_000), &Told::in_header(v4)), v4);
    assert_eq!(ask_udp(&fixture, &server, lip(45_000), None), v4);
    assert_eq!(ask_telling(&fixture, &server6, lip6(45_001), &Told::in_header(v6)), v6);
    assert_eq!(ask_udp(&fixture, &server6, lip6(45_001), None), v6);
    assert_eq!(ask_telling(&fixture, &dual, lip6(45_002), &Told::in_header(v6)), v6);
    let mapped = SocketAddr::new(probe_mapped(v4), v4.port());
    assert_eq!(ask_telling(&fixture, &dual, lip(45_003), &Told::in_header(v4)), mapped);
    // Other IPv4 options go with the header.
    let behind_options = Told { options: vec![1; 8], ..Told::in_header(v4) };
    assert_eq!(ask_telling(&fixture, &server, lip(45_004), &behind_options), v4);
    // Datagrams that tell nothing are as ever.
    assert_eq!(ask_udp(&fixture, &server6, lip6(45_005), None), lip6(45_005));
    let status = fixture.status();
    assert_eq!(status["udp_header"], serde_json::json!(["tgtoa0"]));
    for (counter, value) in
        [("udp_learnt", 5), ("udp_unwrapped", 5), ("udp_shown", 7), ("udp_returned", 7), ("malformed", 0)]
    {
        assert_eq!(status["counters"][counter], value, "{counter} {status}");
    }
}

fn probe_mapped(v4: SocketAddr) -> IpAddr {
    match v4.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

#[test]
fn a_client_of_another_family_than_the_gateways_is_not_shown() {
    let fixture = Fixture::new("udpf");
    fixture.attach_with(&HEADER);
    let (v4, v6): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), CLIENT_V6.parse().unwrap());
    let dual = UdpSocket::bind("[::]:0").unwrap();
    dual.set_read_timeout(Some(PATIENCE)).unwrap();
    let shown = |port: u16| SocketAddr::new(probe_mapped(lip(port)), port);
    assert_eq!(ask_telling(&fixture, &dual, lip(45_010), &Told::in_option(v6)), shown(45_010));
    assert_eq!(ask_telling(&fixture, &dual, lip(45_011), &Told::in_header(v6)), shown(45_011));
    assert_eq!(ask_telling(&fixture, &dual, lip6(45_012), &Told::in_header(v4)), lip6(45_012));
    let counters = &fixture.status()["counters"];
    assert_eq!((&counters["udp_other_family"], &counters["udp_unwrapped"]), (&3.into(), &2.into()));
}

#[test]
fn a_header_that_is_not_believed_is_left_where_it_is() {
    let fixture = Fixture::new("udpm");
    fixture.attach_with(&HEADER);
    let client: SocketAddr = CLIENT.parse().unwrap();
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = server.local_addr().unwrap();
    let stranger = SocketAddr::new(LIP_UNTRUSTED.parse().unwrap(), 45_020);
    let good = Told::in_header(client);
    let told = |at: usize, byte: u8| {
        let mut told = good.clone();
        told.header[at] = byte;
        told
    };
    let broken = [(0, 0x20), (0, 0x11), (1, 6), (2, 1), (3, 13), (3, 0), (4, 30), (5, 9), (5, 255)];
    fixture.tun.send(&datagram::telling(stranger, to, &good, b"question")).unwrap();
    for (at, byte) in broken {
        fixture.tun.send(&datagram::telling(lip(45_021), to, &told(at, byte), b"question")).unwrap();
    }
    let mut cut = datagram::telling(lip(45_021), to, &good, b"");
    cut.truncate(30);
    fixture.tun.send(&cut).unwrap();
    // The next one that the server gets is this: of the others the kernel knows no protocol.
    assert_eq!(ask_telling(&fixture, &server, lip(45_022), &good), client);
    let counters = &fixture.status()["counters"];
    assert_eq!(counters["untrusted"], 1, "{counters}");
    assert_eq!(counters["malformed"], broken.len() + 1, "{counters}");
    assert_eq!((&counters["udp_learnt"], &counters["udp_unwrapped"]), (&1.into(), &1.into()), "{counters}");
}

#[test]
fn an_interface_that_is_not_there_is_told_and_nothing_stays() {
    let fixture = Fixture::new("udpi");
    let group = fixture.group.to_str().unwrap().to_owned();
    let arguments =
        ["attach", "--trust", "10.9.0.0/24", "--cgroup", &group, "--udp", "--udp-header", "none0"];
    let output = fixture.tool(&arguments);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("on interface none0"), "{said}");
    assert!(!fixture.pins.exists());
}

#[test]
fn connected_sockets_of_both_families_talk_to_the_gateway_and_name_the_client() {
    let fixture = Fixture::new("udpc6");
    fixture.attach_with(&HEADER);
    for (address, gateway, client) in [(SERVER, lip(45_030), CLIENT), (SERVER_V6, lip6(45_031), CLIENT_V6)] {
        let client: SocketAddr = client.parse().unwrap();
        let server = UdpSocket::bind((address, 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(ask_telling(&fixture, &server, gateway, &Told::in_header(client)), client);
        server.connect(client).unwrap();
        assert_eq!(server.peer_addr().unwrap(), client);
        server.send(b"more").unwrap();
        let came = fixture.tun.receive(PATIENCE, |packet| datagram::read(packet, gateway)).unwrap();
        assert_eq!(came, b"more");
        // What comes in afterwards is the connected socket's, from the client.
        let to = server.local_addr().unwrap();
        fixture.tun.send(&datagram::telling(gateway, to, &Told::default(), b"again")).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"again"[..], client));
    }
}

/// More flows than are remembered: the newest are shown, and whoever is shown gets the answers.
#[test]
fn flows_give_way_and_none_that_is_shown_loses_its_answers() {
    const FLOWS: u16 = 5_000;
    let fixture = Fixture::new("udpl");
    fixture.attach_with(&["--udp", "--udp-flows", "1024"]);
    let server = UdpSocket::bind((SERVER, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = |flow: u16| format!("203.0.113.8:{}", 1 + flow);
    for flow in 0..FLOWS {
        let seen = ask_udp(&fixture, &server, lip(20_000 + flow), Some(&client(flow)));
        assert_eq!(seen, client(flow).parse().unwrap());
    }
    let (mut shown, mut forgotten) = (0, 0);
    for flow in 0..FLOWS {
        let gateway = lip(20_000 + flow);
        match ask_udp(&fixture, &server, gateway, None) {
            seen if seen == client(flow).parse().unwrap() => shown += 1,
            seen if seen == gateway => forgotten += 1,
            seen => panic!("flow {flow} is shown as {seen}"),
        }
    }
    assert!((512..=1024).contains(&shown), "{shown} shown, {forgotten} forgotten");
}
