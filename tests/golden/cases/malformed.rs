//! What no sane sender sends. All of it is counted, none of it opens a connection or harms one.

use wire::tcp::flags::{ACK, FIN, PSH, RST, SYN, URG};

use crate::case::{Case, Service, Step, step};
use crate::conn::Conn;
use crate::frame::Frame;
use crate::load::{Load, Seg, client_ack, mss, real_ack, seg, syn, syn_ack, timestamps};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "truncated",
            about: "frames cut at every byte, with and without an IP length that admits it",
            number: 30,
            conns: 1,
            service: Service::TOA,
            steps: truncated,
        },
        Case {
            name: "flags",
            about: "combinations of TCP flags that no stack sends",
            number: 31,
            conns: 1,
            service: Service::TOA,
            steps: flags,
        },
        Case {
            name: "wrong_checksums",
            about: "a corrupt SYN opens nothing; other corrupt segments leave as corrupt as they came",
            number: 32,
            conns: 1,
            service: Service::TOA,
            steps: wrong_checksums,
        },
        Case {
            name: "fragments",
            about: "fragments for the gateway itself are the kernel's, but those that lie over the TCP header",
            number: 33,
            conns: 1,
            service: Service::TOA,
            steps: fragments,
        },
        Case {
            name: "ip_options",
            about: "IP options are carried along, with TOA too; impossible IP headers are dropped",
            number: 34,
            conns: 1,
            service: Service::TOA,
            steps: ip_options,
        },
    ]
}

/// The first `len` bytes, the IP length corrected to it.
fn honest_cut(frame: &Frame, len: usize) -> Frame {
    let cut = frame.clone().edit(|bytes| {
        bytes.truncate(len);
        bytes[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    });
    cut.with_ip_checksum()
}

fn truncated(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let options = [&mss(1460)[..], &timestamps(1, 0)].concat();
    let whole = conn.client_sends(&syn().options(&options).payload(7));
    let (tcp, end) = (34, 34 + 20 + 16);
    assert_eq!(whole.bytes.len(), end + 7);
    let cuts = |range: std::ops::Range<usize>| -> Vec<Frame> {
        range.map(|len| whole.clone().edit(|bytes| bytes.truncate(len))).collect()
    };
    let honest =
        |range: std::ops::Range<usize>| -> Vec<Frame> { range.map(|len| honest_cut(&whole, len)).collect() };
    let mut steps = vec![
        step("cut in the Ethernet header", cuts(0..14)).dropped("frame_too_short"),
        step("cut behind it", cuts(14..whole.bytes.len())).dropped("ip_truncated"),
        step("cut in the TCP header, and IP says so", honest(tcp..end)).dropped("l4_truncated"),
        step("cut in the payload, and IP says so", honest(end..end + 7)).dropped("checksum_invalid"),
    ];
    let longer = |len: u16| whole.clone().edit(|b| b[16..18].copy_from_slice(&len.to_be_bytes()));
    steps.push(
        step("an IP length shorter than its header", vec![longer(19).with_ip_checksum()])
            .dropped("ip_truncated"),
    );
    steps.push(
        step("an IP length beyond the frame", vec![longer(64).with_ip_checksum(), longer(65_535)])
            .dropped("ip_truncated"),
    );
    let offset = |words: u8| whole.clone().edit(|bytes| bytes[46] = words << 4);
    steps.push(
        step("a TCP header shorter than 20 bytes", (0..5).map(offset).collect()).dropped("l4_truncated"),
    );
    steps.push(
        step("a TCP header longer than the packet", (11..16).map(offset).collect()).dropped("l4_truncated"),
    );
    steps.push(conn.opens("the whole SYN opens a connection", &syn().options(&options).payload(7)));
    let data = conn.client_sends(&client_ack(0, 0).payload(9));
    let reply = conn.real_sends(&real_ack(0, 0).payload(9));
    for (what, frame) in [("data", data), ("a reply", reply)] {
        let cut = |len: usize| frame.clone().edit(|bytes| bytes.truncate(len));
        let frames = (14..frame.bytes.len()).map(cut).collect();
        steps.push(step(format!("{what} of the connection, cut"), frames).dropped("ip_truncated"));
    }
    steps
}

fn flags(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let refused = [
        ("none at all", 0),
        ("PSH alone", PSH),
        ("URG and PSH", URG | PSH),
        ("SYN and FIN", SYN | FIN),
        ("SYN and RST", SYN | RST),
        ("SYN, FIN and ACK", SYN | FIN | ACK),
        ("all of them", 0xff),
    ];
    let mut steps = Vec::new();
    let refuse = |when: &str, steps: &mut Vec<Step>| {
        for (what, flags) in refused {
            let seg = syn().flags(flags);
            steps.push(
                step(format!("{when}: {what}"), vec![conn.client_sends(&seg), conn.real_sends(&seg)])
                    .dropped("tcp_flags_invalid"),
            );
        }
    };
    refuse("before a connection", &mut steps);
    let xmas = vec![conn.client_sends(&syn().flags(FIN | PSH | URG))];
    steps.push(step("before a connection: FIN, PSH and URG", xmas).punted("stray"));
    steps.extend(conn.settled());
    refuse("in a connection", &mut steps);
    steps.push(conn.inbound("data goes on", &client_ack(1, 0).payload(4)));
    steps
}

fn wrong_checksums(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let whole = conn.client_sends(&syn().payload(5));
    let (ip_id, seq, payload) = (18, 38, 60);
    let broken = |at: usize| whole.clone().flipped(at);
    let mut steps = vec![
        step("SYN with a flipped bit in its IP header", vec![broken(ip_id)]).dropped("checksum_invalid"),
        step("SYN with one in its TCP header", vec![broken(seq)]).dropped("checksum_invalid"),
        step("SYN with one in its payload", vec![broken(payload)]).dropped("checksum_invalid"),
    ];
    steps.extend(conn.half_open());
    let corrupt = |what: &str, seg: &Seg, out: &Seg, at: usize, then: usize| {
        step(what, vec![conn.client_sends(seg).flipped(at)]).gives(conn.real_gets(out).flipped(then))
    };
    // 8 bytes of TOA stand between header and payload.
    let first = client_ack(0, 0).payload(10);
    let with_toa = first.clone().with_first(&conn.toa(254));
    steps.push(
        corrupt(
            "data with a flipped bit in its payload, TOA inserted",
            &first,
            &with_toa,
            payload,
            payload + 8,
        )
        .counts("toa_inserted", 1),
    );
    steps.push(conn.inbound_with_toa("the same data, intact", &first));
    steps.push(conn.outbound("its ACK", &real_ack(0, 10)));
    let later = client_ack(10, 0).payload(10);
    steps.push(corrupt("later data with a flipped bit in its payload", &later, &later, payload, payload));
    steps.push(corrupt("later data with one in its IP header", &later, &later, ip_id, ip_id));
    let rst = client_ack(10, 0).rst();
    steps.push(corrupt("a RST with a flipped bit in its window changes nothing", &rst, &rst, 48, 48));
    steps.push(conn.inbound("data goes on", &client_ack(10, 0).payload(10)));
    steps
}

fn fragments(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let fragment = |frame: Frame, field: u16| {
        frame.edit(|bytes| bytes[20..22].copy_from_slice(&field.to_be_bytes())).with_ip_checksum()
    };
    // More fragments; offset 8 bytes with more; the last one.
    let three = |frame: &Frame| [0x2000, 0x2001, 0x0002].map(|field| fragment(frame.clone(), field)).to_vec();
    let inbound = conn.client_sends(&client_ack(0, 0).payload(100));
    let other = inbound.clone().edit(|bytes| bytes[30..34].copy_from_slice(&[10, 1, 0, 1]));
    let mut steps = conn.settled();
    steps.extend([
        step("a first fragment to the gateway itself", three(&other)[..1].to_vec()).punted("local"),
        step("later ones that lie over the TCP header", three(&other)[1..].to_vec()).dropped("fragment_tiny"),
        conn.inbound("data goes on", &client_ack(1, 0).payload(4)),
    ]);
    steps
}

fn ip_options(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    // Router alert (RFC 2113), and NOPs up to the 40 bytes that fit.
    let (alert, most) = ([148, 4, 0, 0], [1; 40]);
    let opens = conn.inbound("SYN with router alert", &syn().ip_options(&alert));
    let syn_ack_with = |seg: Seg| seg.ip_options(&most);
    let mut steps = vec![
        opens.counts("connections_created", 1),
        conn.outbound_as(
            "SYN-ACK with 40 bytes of IP options",
            &syn_ack_with(syn_ack()),
            &syn_ack_with(syn_ack().options(&mss(1452))),
        )
        .counts("mss_lowered", 1),
        conn.inbound_with_toa("ACK with router alert", &client_ack(0, 0).ip_options(&alert)),
        conn.inbound_with_toa(
            "data with 40 bytes of IP options",
            &client_ack(0, 0).payload(5).ip_options(&most),
        ),
        conn.outbound("its ACK", &real_ack(0, 5)),
        conn.inbound("data without TOA", &client_ack(5, 0).payload(5).ip_options(&alert)),
    ];
    let with_first_byte = |byte: u8| conn.client_sends(&seg(ACK, 1, 1)).edit(|bytes| bytes[14] = byte);
    let impossible: Vec<u8> = (0x40..0x45).chain([0x05, 0x35, 0x55, 0x65, 0xf5]).collect();
    steps.push(
        step(
            "header lengths and versions that cannot be",
            impossible.into_iter().map(with_first_byte).collect(),
        )
        .dropped("ip_header_invalid"),
    );
    // 40 bytes of packet hold a header of 44 bytes and more in no way, and of 40 without a TCP header.
    let long: Vec<Frame> = (0x4b..=0x4f).map(with_first_byte).collect();
    steps.push(step("IP headers longer than the packet", long).dropped("ip_truncated"));
    let short: Vec<Frame> = (0x46..=0x4a).map(with_first_byte).collect();
    steps.push(step("IP headers that leave no room for TCP's", short).dropped("l4_truncated"));
    steps
}
