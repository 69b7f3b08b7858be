//! Forged addresses, Fast Open, and headers without room.

use crate::case::{Case, Service, Step, step};
use crate::conn::Conn;
use crate::load::{CLIENT_ISN, Load, client_ack, mss, nops, real_ack, syn, timestamps};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "forged_toa",
            about: "options by which a client could lie about its address never reach the real server",
            number: 10,
            conns: 1,
            service: Service::TOA,
            steps: forged,
        },
        Case {
            name: "fast_open",
            about: "a SYN's Fast Open option is overwritten: the real server would believe before TOA can come",
            number: 11,
            conns: 3,
            service: Service::TOA,
            steps: fast_open,
        },
        Case {
            name: "option_space_full",
            about: "padding gives way to TOA; a header without 8 bytes to spare goes without it, and is counted",
            number: 12,
            conns: 1,
            service: Service::TOA,
            steps: full,
        },
        Case {
            name: "malformed_options",
            about: "what no receiver reads is left alone; TOA goes in front of it",
            number: 13,
            conns: 1,
            service: Service::TOA,
            steps: malformed,
        },
        Case {
            name: "odd_payload",
            about: "payloads of odd lengths, with and without TOA, both ways",
            number: 14,
            conns: 1,
            service: Service::TOA,
            steps: odd_payload,
        },
        Case {
            name: "full_segments",
            about: "a segment that TOA would make larger than the MTU goes without, and is counted",
            number: 15,
            conns: 1,
            service: Service::TOA,
            steps: full_segments,
        },
    ]
}

/// Every kind and length that some receiver takes for an address.
fn forgeries() -> Vec<(&'static str, Vec<u8>)> {
    let option = |kind: u8, len: u8| {
        let mut bytes = vec![kind, len];
        bytes.extend((2..len).map(|n| 0xc0 + n));
        bytes.resize(bytes.len().next_multiple_of(4), 1);
        bytes
    };
    vec![
        ("254", option(254, 8)),
        ("254 with an IPv6 address", option(254, 20)),
        ("254 with client and VIP", option(254, 16)),
        ("254 of an odd length", option(254, 7)),
        ("254 without content", option(254, 2)),
        ("253", option(253, 8)),
        ("253 with an IPv6 address", option(253, 20)),
        ("252", option(252, 20)),
        ("250", option(250, 8)),
        ("249", option(249, 40)),
        ("200", option(200, 8)),
        ("254 twice", [option(254, 8), option(254, 8)].concat()),
        ("254 and 253 and 200", [option(254, 8), option(253, 8), option(200, 8)].concat()),
    ]
}

fn forged(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let lie = [254, 8, 0, 80, 8, 8, 8, 8];
    let with_lie = syn().options(&[&mss(1460)[..], &lie].concat());
    let mut steps = vec![
        conn.inbound_as("SYN with 254", &with_lie, &syn().options(&[&mss(1460)[..], &nops(8)].concat()))
            .counts("connections_created", 1)
            .counts("toa_stripped", 1),
    ];
    for (what, option) in forgeries() {
        let out = syn().options(&nops(option.len()));
        steps.push(
            conn.inbound_as(&format!("the SYN again, with {what}"), &syn().options(&option), &out)
                .counts("toa_stripped", 1),
        );
    }
    steps.push(conn.half_open().swap_remove(1));
    for (what, option) in forgeries() {
        // Of 40 bytes the last 8 give way to ours: they are padding by now.
        let padding = nops(option.len().min(32));
        for (segment, payload) in [("ACK", 0), ("data", 11)] {
            let seg = client_ack(0, 0).payload(payload);
            let out = seg.clone().options(&padding).with_first(&conn.toa(254));
            steps.push(
                conn.inbound_as(&format!("{segment} with {what}"), &seg.options(&option), &out)
                    .counts("toa_stripped", 1)
                    .counts("toa_inserted", 1),
            );
        }
    }
    steps.push(conn.outbound("the ACK", &real_ack(0, 11)));
    let behind = |option: &[u8]| [&timestamps(1, 2)[..], option].concat();
    let late = client_ack(11, 0).payload(3);
    steps.push(
        conn.inbound_as(
            "later data with 254 behind timestamps",
            &late.clone().options(&behind(&lie)),
            &late.options(&behind(&nops(8))),
        )
        .counts("toa_stripped", 1),
    );
    steps
}

fn fast_open(conns: &[Conn]) -> Vec<Step> {
    let [standard, experimental, request] = conns else { return Vec::new() };
    let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let old_cookie = [254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8];
    let steps = [
        (standard, "SYN with a cookie and data", cookie.to_vec(), 20),
        (experimental, "SYN with a cookie in the experimental option", old_cookie.to_vec(), 20),
        (request, "SYN that asks for a cookie", vec![34, 2, 1, 1], 0),
    ];
    steps
        .into_iter()
        .map(|(conn, what, option, payload)| {
            let syn = |option: &[u8]| syn().options(&[&mss(1460)[..], option].concat()).payload(payload);
            conn.inbound_as(what, &syn(&option), &syn(&nops(option.len())))
                .counts("connections_created", 1)
                .counts("fast_open_stripped", 1)
        })
        .collect()
}

fn full(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.half_open();
    let with = |len: usize| client_ack(0, 0).options(&[timestamps(1, 2), nops(len - 12)].concat());
    for len in [40, 36] {
        let what = format!("ACK with {len} bytes of options, most of them padding");
        let packed = [&conn.toa(254)[..], &timestamps(1, 2)[2..], &nops(len - 18)].concat();
        let out = client_ack(0, 0).options(&packed);
        steps.push(conn.inbound_as(&what, &with(len), &out).counts("toa_inserted", 1));
    }
    steps.push(conn.inbound_with_toa("ACK with 32 bytes of options: it just fits", &with(32)));
    let sack: Vec<u8> = [&[5, 26][..], &[7; 24]].concat();
    let ack = client_ack(0, 0).options(&[&timestamps(1, 2)[..], &sack, &[1, 1]].concat());
    steps.push(conn.inbound("ACK with timestamps and three SACK blocks", &ack).counts("toa_no_room", 1));
    steps
}

fn malformed(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.half_open();
    let faults: [(&str, &[u8]); 4] = [
        ("an option of length 0", &[254, 0, 1, 2, 3, 4, 5, 6]),
        ("an option of length 1", &[254, 1, 1, 2, 3, 4, 5, 6]),
        ("an option that is longer than the header", &[254, 20, 1, 2, 3, 4, 5, 6]),
        ("a kind without a length", &[1, 1, 1, 254]),
    ];
    for (what, options) in faults {
        let ack = client_ack(0, 0).options(options);
        steps.push(
            conn.inbound_with_toa(&format!("ACK with {what}"), &ack).counts("tcp_options_malformed", 1),
        );
    }
    let behind_end = client_ack(0, 0).options(&[0, 254, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    steps.push(conn.inbound_with_toa("ACK with something behind the end of options", &behind_end));
    let hidden = client_ack(0, 0).options(&[5, 6, 254, 8, 1, 2, 1, 1]);
    steps.push(conn.inbound_with_toa("ACK with a kind inside another option", &hidden));
    steps
}

fn odd_payload(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.handshake();
    for len in [1, 3, 17, 1451] {
        let what = format!("{len} bytes with TOA");
        steps.push(conn.inbound_with_toa(&what, &client_ack(0, 0).payload(len)));
    }
    steps.push(conn.outbound("1459 bytes back", &real_ack(0, 1451).payload(1459)));
    for len in [1, 3, 1459] {
        let what = format!("{len} bytes without TOA");
        steps.push(conn.inbound(&what, &client_ack(1451, 1459).payload(len)));
    }
    steps
}

fn full_segments(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.handshake();
    let data = |len: usize| client_ack(0, 0).payload(len);
    steps.push(conn.inbound("1460 bytes: no room for TOA", &data(1460)).counts("toa_over_mtu", 1));
    steps.push(conn.inbound("1453 bytes: one too many", &data(1453)).counts("toa_over_mtu", 1));
    steps.push(conn.inbound_with_toa("1452 bytes: with TOA it is 1500", &data(1452)));
    let burst: Vec<_> = (0..40).map(|n| data(1452).seq(CLIENT_ISN + 1 + n * 1452)).collect();
    let mut many = step("40 of them at once", burst.iter().map(|seg| conn.client_sends(seg)).collect());
    for seg in burst {
        many = many.gives(conn.real_gets(&seg.with_first(&conn.toa(254))));
    }
    steps.push(many.counts("toa_inserted", 40));
    steps.push(conn.outbound("1460 bytes back", &real_ack(0, 1460).payload(1460)));
    steps.push(conn.inbound("1460 bytes, TOA is known now", &client_ack(1460, 1460).payload(1460)));
    steps
}
