//! How connections begin, and who the real server is told has come.

use api::{Protocol, ToaMode, ToaNoRoom};
use wire::Family;
use wire::tcp::flags::{ACK, SYN};

use crate::case::{Case, Mode, Service, Step, step};
use crate::conn::Conn;
use crate::load::{CLIENT_ISN, Load, REAL_ISN, client_ack, mss, real_ack, seg, syn, syn_ack, timestamps};

pub(crate) fn cases() -> Vec<Case> {
    ordinary().into_iter().chain(forms()).collect()
}

fn ordinary() -> Vec<Case> {
    vec![
        Case {
            name: "handshake",
            about: "TCP over IPv4 in FULLNAT; the handshake's ACK tells the real server the client's address",
            number: 1,
            conns: 1,
            service: Service::TOA,
            steps: handshake,
        },
        Case {
            name: "toa_until_acknowledged",
            about: "TOA is on every segment of the client until the real server acknowledges data or sends some",
            number: 2,
            conns: 2,
            service: Service::TOA,
            steps: until_acknowledged,
        },
        Case {
            name: "mss_lowered",
            about: "a SYN-ACK's MSS leaves room for TOA, at even and odd offsets, and not below 528",
            number: 3,
            conns: 3,
            service: Service::TOA,
            steps: mss_lowered,
        },
        Case {
            name: "minimum_frame",
            about: "frames padded to 60 bytes: what stands behind the IP packet is cut off",
            number: 4,
            conns: 1,
            service: Service::TOA,
            steps: minimum_frame,
        },
        Case {
            name: "retransmitted_syn",
            about: "a SYN that comes again belongs to the same connection, and so does the SYN-ACK",
            number: 5,
            conns: 1,
            service: Service::TOA,
            steps: retransmitted,
        },
        Case {
            name: "timestamps_and_sack",
            about: "TOA goes in front of timestamps and SACK blocks, which stay as they are",
            number: 6,
            conns: 1,
            service: Service::TOA,
            steps: timestamps_and_sack,
        },
        Case {
            name: "toa_off",
            about: "without TOA nothing is inserted, lowered or stripped",
            number: 7,
            conns: 1,
            service: Service { toa: None, ..Service::TOA },
            steps: toa_off,
        },
        Case {
            name: "toa_kind_200",
            about: "another kind of option, as the service wants it",
            number: 8,
            conns: 1,
            service: Service { toa: Some(200), ..Service::TOA },
            steps: kind_200,
        },
    ]
}

/// What the option looks like, and what happens without room for it.
fn forms() -> Vec<Case> {
    vec![
        Case {
            name: "toa_exid_44",
            about: "the option with an experiment identifier; a forged one is overwritten",
            number: 80,
            conns: 1,
            service: tuned(EXID, Family::V4),
            steps: with_exid,
        },
        Case {
            name: "toa_exid_66",
            about: "the same of an IPv6 client",
            number: 81,
            conns: 1,
            service: tuned(EXID, Family::V6),
            steps: with_exid,
        },
        Case {
            name: "toa_or_nothing",
            about: "a segment without room for TOA is dropped where the service wants that",
            number: 82,
            conns: 1,
            service: tuned(OR_NOTHING, Family::V4),
            steps: or_nothing,
        },
    ]
}

const EXID: fn(&mut api::Service) = |service| {
    service.toa = ToaMode::Option { kind: 254 };
    service.toa_exid = true;
};

const OR_NOTHING: fn(&mut api::Service) = |service| {
    service.toa = ToaMode::Option { kind: 254 };
    service.toa_no_room = ToaNoRoom::Drop;
};

fn tuned(tune: fn(&mut api::Service), family: Family) -> Service {
    Service { tune: Some(tune), ..Service::new(Mode::FullNat, Protocol::Tcp, [family; 2]) }
}

fn with_exid(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let plain = conn.toa(254);
    let told = [&[1, 1, 254, plain.len() as u8 + 2, b'T', b'G'], &plain[2..]].concat();
    let lowered = syn_ack().options(&mss(1460 - told.len() as u16));
    let forged = client_ack(0, 0).options(&[1, 1, 254, 10, b'T', b'G', 0, 80, 8, 8, 8, 8]).payload(9);
    let stripped = client_ack(0, 0).options(&[told.clone(), vec![1; 12]].concat()).payload(9);
    vec![
        conn.opens("SYN", &syn()),
        conn.outbound_as("SYN-ACK, its MSS lowered", &syn_ack(), &lowered).counts("mss_lowered", 1),
        conn.inbound_as("ACK", &client_ack(0, 0), &client_ack(0, 0).options(&told)).counts("toa_inserted", 1),
        conn.inbound_as("a forged address", &forged, &stripped)
            .counts("toa_inserted", 1)
            .counts("toa_stripped", 1),
    ]
}

fn or_nothing(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let lowered = syn_ack().options(&mss(1452));
    let full = client_ack(0, 0).options(&[&[30, 36][..], &[7; 34], &[1; 4]].concat());
    let dropped = step("ACK with a full header", vec![conn.client_sends(&full)]).dropped("client_untold");
    vec![
        conn.opens("SYN", &syn()),
        conn.outbound_as("SYN-ACK", &syn_ack(), &lowered).counts("mss_lowered", 1),
        dropped.counts("toa_no_room", 1),
        conn.inbound_with_toa("ACK", &client_ack(0, 0)),
        conn.inbound_with_toa("1452 bytes", &client_ack(0, 0).payload(1452)),
    ]
}

fn handshake(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    // Spelled out once: kind 254, length 8, port 40010, 10.1.0.11.
    let toa = [254, 8, 0x9c, 0x4a, 10, 1, 0, 11];
    let ack = client_ack(0, 0);
    vec![
        conn.opens("SYN", &syn()),
        conn.outbound_as(
            "SYN-ACK, its MSS lowered by 8",
            &syn_ack(),
            &syn_ack().options(&[2, 4, 0x05, 0xac]),
        )
        .counts("mss_lowered", 1),
        conn.inbound_as("ACK with TOA", &ack, &ack.clone().options(&toa)).counts("toa_inserted", 1),
    ]
}

fn until_acknowledged(conns: &[Conn]) -> Vec<Step> {
    let [acked, answered] = conns else { return Vec::new() };
    let mut steps = acked.handshake();
    steps.extend([
        acked.inbound_with_toa("first data with TOA", &client_ack(0, 0).payload(100)),
        acked.inbound_with_toa("second data with TOA", &client_ack(100, 0).payload(50)),
        acked.outbound("an ACK of the SYN alone proves nothing", &real_ack(0, 0)),
        acked.inbound_with_toa("first data again, still with TOA", &client_ack(0, 0).payload(100)),
        acked.outbound("the ACK of the first data", &real_ack(0, 100)),
        acked.inbound("data without TOA", &client_ack(150, 0).payload(10)),
        acked.outbound("the answer", &real_ack(0, 160).payload(1000)),
        acked.inbound("its ACK without TOA", &client_ack(160, 1000)),
    ]);
    steps.extend(answered.handshake());
    steps.extend([
        answered.outbound("the real server speaks first", &real_ack(0, 0).payload(20)),
        answered.inbound("an ACK without TOA", &client_ack(0, 20)),
    ]);
    steps
}

fn mss_lowered(conns: &[Conn]) -> Vec<Step> {
    let [even, odd, small] = conns else { return Vec::new() };
    let lowered = |conn: &Conn, what: &str, before: &[u8], after: &[u8]| {
        conn.outbound_as(what, &syn_ack().options(before), &syn_ack().options(after)).counts("mss_lowered", 1)
    };
    let tail = [4, 2, 1];
    vec![
        even.opens("SYN", &syn()),
        lowered(even, "SYN-ACK, MSS first", &mss(1460), &mss(1452)),
        odd.opens("SYN", &syn()),
        lowered(
            odd,
            "SYN-ACK, MSS behind a NOP",
            &[&[1], &mss(1460)[..], &tail].concat(),
            &[&[1], &mss(1452)[..], &tail].concat(),
        ),
        lowered(
            odd,
            "again, MSS behind a window scale, 9000",
            &[&[3, 3, 7], &mss(9000)[..], &[1]].concat(),
            &[&[3, 3, 7], &mss(8992)[..], &[1]].concat(),
        ),
        small.opens("SYN", &syn()),
        lowered(small, "SYN-ACK with MSS 530, of which 528 stay", &mss(530), &mss(528)),
        small.outbound("again, with MSS 500, which stays", &syn_ack().options(&mss(500))),
        small.outbound("again, without MSS", &syn_ack().options(&[])),
    ]
}

fn minimum_frame(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    vec![
        conn.opens("SYN of 54 bytes and 6 of padding", &syn().options(&[]).tail(6)),
        conn.outbound("SYN-ACK likewise", &syn_ack().options(&[]).tail(6)),
        conn.inbound_with_toa("ACK: TOA takes the place of the padding", &client_ack(0, 0).tail(6)),
        conn.inbound_with_toa("one byte and 5 of padding", &client_ack(0, 0).payload(1).tail(5)),
        conn.outbound("its ACK", &real_ack(0, 1).tail(6)),
        conn.inbound("one byte without TOA", &client_ack(1, 0).payload(1).tail(5)),
    ]
}

fn retransmitted(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = vec![conn.opens("SYN", &syn()), conn.inbound("the same SYN again", &syn())];
    let with_other_options = syn().options(&[&mss(1460)[..], &[4, 2, 1, 1]].concat());
    steps.push(conn.inbound("again, with other options", &with_other_options));
    for what in ["SYN-ACK", "SYN-ACK again"] {
        let out = syn_ack().options(&mss(1452));
        steps.push(conn.outbound_as(what, &syn_ack(), &out).counts("mss_lowered", 1));
    }
    steps.push(conn.inbound("the SYN again, the client has not seen the SYN-ACK", &syn()));
    steps.push(conn.inbound_with_toa("ACK with TOA", &client_ack(0, 0)));
    let out = syn_ack().options(&mss(1452));
    steps.push(
        conn.outbound_as("the SYN-ACK again, the real server has not seen the ACK", &syn_ack(), &out)
            .counts("mss_lowered", 1),
    );
    steps.push(conn.inbound_with_toa("the ACK again", &client_ack(0, 0)));
    steps
}

fn timestamps_and_sack(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let offers = |value: u16, ts: [u32; 2]| {
        [&mss(value)[..], &[4, 2, 8, 10], &ts[0].to_be_bytes(), &ts[1].to_be_bytes(), &[1, 3, 3, 7]].concat()
    };
    let plain = timestamps(501, 701);
    // One block, and two.
    let block = |from: u32, to: u32| [from.to_be_bytes(), to.to_be_bytes()].concat();
    let one = [&timestamps(502, 701)[..], &[1, 1, 5, 10], &block(REAL_ISN, REAL_ISN + 9)].concat();
    let two = [
        &timestamps(702, 502)[..],
        &[1, 1, 5, 18],
        &block(CLIENT_ISN + 300, CLIENT_ISN + 400),
        &block(CLIENT_ISN + 500, CLIENT_ISN + 600),
    ]
    .concat();
    vec![
        conn.opens("SYN with MSS, SACK, timestamps, window scale", &syn().options(&offers(1460, [500, 0]))),
        conn.outbound_as(
            "SYN-ACK likewise, its MSS lowered",
            &syn_ack().options(&offers(1460, [700, 500])),
            &syn_ack().options(&offers(1452, [700, 500])),
        )
        .counts("mss_lowered", 1),
        conn.inbound_with_toa("ACK with timestamps", &client_ack(0, 0).options(&plain)),
        conn.inbound_with_toa("a request with timestamps", &client_ack(0, 0).options(&plain).payload(333)),
        conn.inbound_with_toa("ACK with timestamps and a SACK block", &client_ack(333, 0).options(&one)),
        conn.outbound("ACK with timestamps and two SACK blocks", &real_ack(0, 200).options(&two)),
        conn.inbound("data with timestamps, without TOA", &client_ack(333, 0).options(&plain).payload(10)),
    ]
}

fn toa_off(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let forged = client_ack(1460, 0).options(&[254, 8, 0, 80, 8, 8, 8, 8]).payload(5);
    let stripped = client_ack(1460, 0).options(&[1; 8]).payload(5);
    vec![
        conn.opens("SYN", &syn()),
        conn.outbound("SYN-ACK, its MSS as it is", &syn_ack()),
        conn.inbound("ACK", &client_ack(0, 0)),
        conn.inbound("data", &client_ack(0, 0).payload(1460)),
        conn.inbound_as("an option of the client's", &forged, &stripped).counts("toa_stripped", 1),
        conn.outbound("ACK", &real_ack(0, 1465)),
    ]
}

fn kind_200(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let ack = seg(ACK, CLIENT_ISN + 1, REAL_ISN + 1);
    let out = ack.clone().with_first(&conn.toa(200));
    let syn_ack_out = syn_ack().flags(SYN | ACK).options(&mss(1452));
    vec![
        conn.opens("SYN", &syn()),
        conn.outbound_as("SYN-ACK", &syn_ack(), &syn_ack_out).counts("mss_lowered", 1),
        conn.inbound_as("ACK with kind 200", &ack, &out).counts("toa_inserted", 1),
    ]
}
