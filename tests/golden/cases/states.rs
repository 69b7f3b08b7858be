//! Ends of connections, and new beginnings.

use wire::tcp::flags::{ACK, RST, SYN};

use crate::case::{Case, Service, Step};
use crate::conn::Conn;
use crate::load::{CLIENT_ISN, Load, REAL_ISN, client_ack, mss, real_ack, seg, syn, syn_ack};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "reset",
            about: "a RST in the window ends the connection, one outside does not; both are forwarded, without TOA",
            number: 20,
            conns: 3,
            service: Service::TOA,
            steps: reset,
        },
        Case {
            name: "close_and_reuse",
            about: "FINs both ways; then the same client port opens a new connection",
            number: 21,
            conns: 3,
            service: Service::TOA,
            steps: close_and_reuse,
        },
        Case {
            name: "blind_segments",
            about: "ACKs and FINs with numbers that only a guesser sends are forwarded but change nothing",
            number: 22,
            conns: 2,
            service: Service::TOA,
            steps: blind,
        },
    ]
}

/// Two sequence spaces away from everything.
const FAR: u32 = 0x4000_0000;

fn reset(conns: &[Conn]) -> Vec<Step> {
    let [by_client, by_real, refused] = conns else { return Vec::new() };
    let mut steps = by_client.settled();
    let rst = client_ack(1, 0).rst();
    let blind = rst.clone().seq(CLIENT_ISN.wrapping_add(FAR));
    let again = syn().seq(CLIENT_ISN + 77_777);
    steps.extend([
        by_client.inbound("a RST far outside the window", &blind).counts("rst_out_of_window", 1),
        by_client.inbound("data goes on", &client_ack(1, 0).payload(9)),
        // The connection still stands, so a SYN does not open another one.
        by_client.inbound("a SYN into the living connection", &again),
        by_client.inbound("the client's RST", &client_ack(10, 0).rst()),
        by_client
            .inbound("a new SYN from the same port opens anew", &again)
            .counts("connections_created", 1)
            .counts("connections_reused", 1),
    ]);
    steps.extend(by_real.settled());
    steps.extend([
        by_real
            .outbound("a RST far outside the window", &real_ack(FAR, 1).rst())
            .counts("rst_out_of_window", 1),
        by_real.outbound("the real server's RST", &real_ack(0, 1).rst()),
        by_real
            .inbound("a new SYN from the same port opens anew", &again)
            .counts("connections_created", 1)
            .counts("connections_reused", 1),
    ]);
    steps.extend([
        refused.opens("SYN", &syn()),
        refused
            .outbound("a forged refusal", &seg(RST | ACK, 0, CLIENT_ISN + 2))
            .counts("rst_out_of_window", 1),
        refused.outbound("the real server refuses", &seg(RST | ACK, 0, CLIENT_ISN + 1)),
        refused
            .inbound("a new SYN from the same port opens anew", &again)
            .counts("connections_created", 1)
            .counts("connections_reused", 1),
    ]);
    steps
}

fn close_and_reuse(conns: &[Conn]) -> Vec<Step> {
    let [client_first, real_first, delayed] = conns else { return Vec::new() };
    let mut steps = client_first.settled();
    steps.extend([
        client_first.inbound("the client's FIN", &client_ack(1, 0).fin()),
        client_first.outbound("its ACK", &real_ack(0, 2)),
        client_first.outbound("data still flows", &real_ack(0, 2).payload(500)),
        client_first.inbound("and is acknowledged", &client_ack(2, 500)),
        client_first.outbound("the real server's FIN", &real_ack(500, 2).fin()),
        client_first.inbound("the last ACK", &client_ack(2, 501)),
    ]);
    let isn = CLIENT_ISN + 500_000;
    let real_isn = REAL_ISN.wrapping_add(9_000);
    let new_syn = syn().seq(isn);
    let answer = seg(SYN | ACK, real_isn, isn + 1).options(&mss(1460));
    let ack = seg(ACK, isn + 1, real_isn.wrapping_add(1));
    steps.extend([
        client_first
            .inbound("a SYN with another number opens anew", &new_syn)
            .counts("connections_created", 1)
            .counts("connections_reused", 1),
        client_first
            .outbound_as("SYN-ACK", &answer, &answer.clone().options(&mss(1452)))
            .counts("mss_lowered", 1),
        client_first.inbound_with_toa("ACK with TOA", &ack),
    ]);
    steps.extend(real_first.settled());
    steps.extend([
        real_first.outbound("the real server's FIN with data", &real_ack(0, 1).payload(30).fin()),
        real_first.inbound("its ACK", &client_ack(1, 31)),
        real_first.inbound("the client's FIN", &client_ack(1, 31).fin()),
        real_first.outbound("the last ACK", &real_ack(31, 2)),
        real_first
            .inbound("a SYN with another number opens anew", &new_syn)
            .counts("connections_created", 1)
            .counts("connections_reused", 1),
    ]);
    steps.extend(delayed.settled());
    steps.extend([
        delayed.inbound("the client's FIN", &client_ack(1, 0).fin()),
        delayed.outbound("the real server's FIN", &real_ack(0, 2).fin()),
        delayed.inbound("the last ACK", &client_ack(2, 1)),
        delayed.inbound("the first SYN, long delayed, is let through", &syn()),
        delayed.inbound("a SYN with another number still finds the old connection", &new_syn),
        delayed
            .outbound_as("its SYN-ACK", &answer, &answer.clone().options(&mss(1452)))
            .counts("mss_lowered", 1),
        delayed.inbound_with_toa("its ACK, with TOA", &ack),
    ]);
    steps
}

fn blind(conns: &[Conn]) -> Vec<Step> {
    let [half_open, open] = conns else { return Vec::new() };
    let mut steps = vec![
        half_open.opens("SYN", &syn()),
        half_open
            .inbound_with_toa("an ACK before there is a SYN-ACK", &client_ack(0, 0))
            .counts("handshake_ack_invalid", 1),
        half_open.outbound_as("SYN-ACK", &syn_ack(), &syn_ack().options(&mss(1452))).counts("mss_lowered", 1),
        half_open
            .inbound_with_toa("an ACK of another number", &seg(ACK, CLIENT_ISN + 1, REAL_ISN))
            .counts("handshake_ack_invalid", 1),
        half_open.inbound_with_toa("the right ACK", &client_ack(0, 0)),
    ];
    steps.extend(open.settled());
    steps.extend([
        open.inbound("a FIN far outside the window", &client_ack(FAR, 0).fin())
            .counts("fin_out_of_window", 1),
        open.inbound("data goes on", &client_ack(1, 0).payload(9)),
        open.outbound("its ACK", &real_ack(0, 10)),
    ]);
    steps
}
