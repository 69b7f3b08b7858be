//! Hop limits, MTUs, and what happens when there is nothing left: real servers, local ports, connections.

use crate::case::{Case, Service, Step, step};
use crate::conn::Conn;
use crate::load::{Load, client_ack, real_ack, syn};
use crate::trouble::{Trouble, answered};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "ttl",
            about: "a used-up TTL is answered with time exceeded (RFC 1812 §5.3.1), both ways",
            number: 40,
            conns: 2,
            service: Service::TOA,
            steps: ttl,
        },
        Case {
            name: "over_mtu",
            about: "what does not fit is answered with the MTU if it must not be fragmented",
            number: 41,
            conns: 1,
            service: Service::TOA,
            steps: over_mtu,
        },
        Case {
            name: "no_real_server",
            about: "a service whose only real server drains answers port unreachable",
            number: 42,
            conns: 1,
            service: Service { weight: 0, ..Service::TOA },
            steps: no_real_server,
        },
    ]
}

/// For a dataplane with one worker: with more, each has local ports of its own.
pub(crate) fn exhausted() -> Case {
    Case {
        name: "local_ports_exhausted",
        about: "without a free local port a new connection is refused and the old one goes on",
        number: 43,
        conns: 1,
        service: Service::TOA,
        steps: local_ports_exhausted,
    }
}

/// How many connections [`full_table`] fills the table with.
pub(crate) const TABLE_LEN: u16 = 8;

/// For a dataplane with room for [`TABLE_LEN`] connections.
pub(crate) fn full_table() -> Case {
    Case {
        name: "table_full",
        about: "a full table gives up unfinished handshakes, oldest first, and never an established connection",
        number: 44,
        conns: TABLE_LEN + 2,
        service: Service::TOA,
        steps: table_full,
    }
}

fn ttl(conns: &[Conn]) -> Vec<Step> {
    let [conn, new] = conns else { return Vec::new() };
    let mut steps = conn.settled();
    let data = client_ack(1, 0).payload(700);
    for ttl in [0, 1] {
        let client_sends = conn.client_sends(&data.clone().ttl(ttl));
        steps.push(answered(&format!("data with TTL {ttl}"), client_sends, Trouble::TimeExceeded));
        let real_sends = conn.real_sends(&real_ack(0, 1).ttl(ttl));
        steps.push(answered(&format!("an ACK back with TTL {ttl}"), real_sends, Trouble::TimeExceeded));
    }
    let with_options = conn.client_sends(&data.clone().ttl(1).ip_options(&[148, 4, 0, 0]));
    steps.push(answered("data with TTL 1 and router alert", with_options, Trouble::TimeExceeded));
    steps.push(conn.inbound("data with TTL 2", &data.ttl(2)));
    steps.push(conn.outbound("an ACK back with TTL 255", &real_ack(0, 701).ttl(255)));
    let refused = new.client_sends(&syn().ttl(1));
    steps.push(answered("SYN with TTL 1", refused, Trouble::TimeExceeded));
    steps.push(new.inbound("the SYN again, with TTL 64", &syn()).counts("connections_created", 1));
    steps
}

fn over_mtu(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.settled();
    let large = client_ack(1, 0).payload(1461);
    let back = real_ack(0, 1).payload(1600);
    steps.extend([
        answered("1501 bytes with DF", conn.client_sends(&large), Trouble::TooBig(1500)),
        answered("1640 bytes back with DF", conn.real_sends(&back), Trouble::TooBig(1500)),
        step(
            "a frame that no buffer holds in one piece",
            vec![conn.client_sends(&client_ack(1, 0).payload(3000)), conn.client_sends(&client_ack(1, 0))],
        )
        .gives(conn.real_gets(&client_ack(1, 0)))
        .counts("multi_segment", 1),
        conn.inbound("1500 bytes pass", &client_ack(1, 0).payload(1460)),
    ]);
    steps
}

fn no_real_server(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let from =
        |address: [u8; 4]| Conn { client: (address.into(), 5000), ..conn.clone() }.client_sends(&syn());
    let unreachable = |what: &str, seg| answered(what, conn.client_sends(seg), Trouble::PortUnreachable);
    vec![
        unreachable("SYN", &syn()),
        unreachable("a padded SYN: the padding is not quoted", &syn().options(&[]).tail(6)),
        // 576 bytes at most (RFC 1812 §4.3.2.3).
        unreachable("a SYN with 1400 bytes of data", &syn().payload(1400)),
        // RFC 1122 §3.2.2: errors go to single hosts only.
        step(
            "SYNs from many or from nobody get no answer",
            [[224, 0, 0, 1], [255; 4], [0; 4]].map(from).to_vec(),
        )
        .dropped("source_invalid"),
    ]
}

fn local_ports_exhausted(conns: &[Conn]) -> Vec<Step> {
    let first = &conns[0];
    let second = Conn { client: (first.client.0, 60_000), ..first.clone() };
    let mut steps = first.settled();
    for what in ["a SYN of another client", "the SYN again"] {
        steps.push(step(what, vec![second.client_sends(&syn())]).dropped("local_ports_exhausted"));
    }
    steps.push(first.inbound("data of the first", &client_ack(1, 0).payload(1000)));
    steps.push(first.outbound("its ACK", &real_ack(0, 1001)));
    steps
}

fn table_full(conns: &[Conn]) -> Vec<Step> {
    let (filling, late) = conns.split_at(TABLE_LEN.into());
    let [late, last] = late else { return Vec::new() };
    let (embryonic, established) = (&filling[0], &filling[1..]);
    let mut steps = vec![embryonic.opens("one half-open connection", &syn())];
    steps.extend(established.iter().flat_map(Conn::settled));
    steps.push(
        late.inbound("a SYN takes the place of the half-open one", &syn())
            .counts("connections_created", 1)
            .counts("embryonic_recycled", 1),
    );
    steps.extend(late.handshake().into_iter().skip(1));
    steps.push(step("another SYN finds no room", vec![last.client_sends(&syn())]).dropped("table_full"));
    steps.push(step("and again", vec![last.client_sends(&syn())]).dropped("table_full"));
    steps.extend(established.iter().map(|conn| conn.inbound("data goes on", &client_ack(1, 0).payload(8))));
    steps.push(step("the recycled one's reply", vec![embryonic.real_sends(&real_ack(0, 0))]).punted("stray"));
    steps
}
