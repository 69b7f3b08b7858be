//! Fragments: mode × protocol × family, both directions, in any order.

use api::Protocol::{Tcp, Udp};
use wire::Family::{V4, V6};
use wire::build::{Extension, fragments_v4};

use super::cells;
use crate::case::{Case, Mode, Service, Step, step};
use crate::conn::Conn;
use crate::frame::{Frame, Port};
use crate::load::{Load, Seg, client_ack, dgram, nops, real_ack, syn};
use crate::pieces::{Cut, USUAL_ID, Way, header_len};
use crate::trouble::{Trouble, answer};

/// What every link takes here.
const MTU: usize = 1500;

/// New ones go to the end, since ports follow from the place.
const NAMES: [&str; 24] = [
    "fragments_fullnat_tcp_44",
    "fragments_fullnat_tcp_66",
    "fragments_fullnat_tcp_64",
    "fragments_fullnat_tcp_46",
    "fragments_fullnat_udp_44",
    "fragments_fullnat_udp_66",
    "fragments_fullnat_udp_64",
    "fragments_fullnat_udp_46",
    "fragments_nat_tcp_44",
    "fragments_nat_tcp_66",
    "fragments_nat_udp_44",
    "fragments_nat_udp_66",
    "fragments_dr_tcp_44",
    "fragments_dr_tcp_66",
    "fragments_dr_udp_44",
    "fragments_dr_udp_66",
    "fragments_tun_ipip_tcp_44",
    "fragments_tun_gre_tcp_66",
    "fragments_tun_gue_tcp_64",
    "fragments_tun_gre_checksum_tcp_46",
    "fragments_tun_gue_checksum_udp_44",
    "fragments_tun_ipip_udp_66",
    "fragments_tun_gre_udp_64",
    "fragments_tun_ipip_udp_46",
];

/// The number of the first case.
const FIRST: u16 = 200;
/// That of the case about the lost one.
const LOST: u16 = 199;

pub(crate) fn cases() -> Vec<Case> {
    cells::cases(FIRST, "fragments_", &NAMES, |protocol| {
        let about = "packets in fragments, in every order, and what is wrong with some";
        (about, if protocol == Tcp { tcp } else { udp })
    })
}

/// For a dataplane of its own: what waits there in vain is counted when its time is over.
pub(crate) fn lost() -> Case {
    Case {
        name: "fragments_lost",
        about: "fragments whose first one never comes are given up after 30 seconds",
        number: LOST,
        conns: 1,
        service: Service::new(Mode::FullNat, Udp, [V4, V4]),
        steps: |conns| {
            let conn = &conns[0];
            let pieces = Way { conn, outbound: false }.comes(&dgram(100), few(own_id(conn, 0)));
            vec![
                conn.opens("a datagram", &dgram(9)),
                step("fragments behind a first one that is lost", pieces[1..].to_vec())
                    .counts("fragments_waited", (pieces.len() - 1) as u64),
            ]
        },
    }
}

/// Identifications for packets that do not get through, which must not be used again for 30 seconds: eight for
/// each connection.
fn own_id(conn: &Conn, n: u16) -> u16 {
    0x8000 | (8 * (conn.client.1 - 40_000) + n)
}

/// Three fragments of the packets here.
fn few(id: u16) -> Cut {
    Cut { room: 48, id }
}

fn tcp(conns: &[Conn]) -> Vec<Step> {
    let [conn, other, new] = conns else { return Vec::new() };
    let mut steps = conn.handshake();
    if conn.service.tells_client() {
        let way = Way { conn, outbound: false };
        let cut = few(USUAL_ID);
        let step = in_order("data that would tell the client: nothing is put in", way, &request(), cut);
        steps.push(step.counts("toa_no_room", 1));
    }
    steps.push(conn.told("one byte", &client_ack(0, 0).payload(1)));
    steps.extend(other.settled());
    if !conn.service.mode.is_one_way() {
        steps.push(conn.outbound("its acknowledgement", &real_ack(0, 1)));
    }
    for way in Way::of(conn) {
        let (load, of_other) = if way.outbound {
            (real_ack(0, 1).payload(100), real_ack(0, 1))
        } else {
            (request(), client_ack(1, 0))
        };
        steps.extend(orders(way, other, &load, &of_other.payload(90)));
        steps.extend(faults(way, &load));
        steps.extend(lengths(way, &load, 24));
        steps.push(tiny(way, &load));
    }
    steps.push(stray(conn));
    if conn.service.tells_client() {
        steps.push(forged(conn));
    }
    let cut = few(USUAL_ID);
    let opening = in_order("a SYN with data", Way { conn: new, outbound: false }, &syn().payload(100), cut);
    steps.push(opening.counts("connections_created", 1).listed(new, "SYN_RECV"));
    steps
}

/// What a client sends when all is settled.
fn request() -> Seg {
    client_ack(1, 0).payload(100)
}

fn udp(conns: &[Conn]) -> Vec<Step> {
    let [conn, other, new] = conns else { return Vec::new() };
    let mut steps = vec![conn.opens("a datagram", &dgram(9)), other.opens("another one's", &dgram(9))];
    for way in Way::of(conn) {
        steps.extend(orders(way, other, &dgram(120), &dgram(110)));
        steps.extend(faults(way, &dgram(120)));
        // The header alone is enough.
        steps.extend(lengths(way, &dgram(40), 8));
        steps.extend(no_checksum(way));
    }
    let opening =
        reversed("a first datagram", Way { conn: new, outbound: false }, &dgram(120), few(USUAL_ID));
    steps.push(opening.counts("connections_created", 1).listed(new, "UDP"));
    steps
}

fn back(way: Way<'_>) -> &'static str {
    if way.outbound { " back" } else { "" }
}

fn gives_all(step: Step, frames: impl IntoIterator<Item = Frame>) -> Step {
    frames.into_iter().fold(step, Step::gives)
}

fn in_order<L: Load>(what: &str, way: Way<'_>, load: &L, cut: Cut) -> Step {
    gives_all(step(format!("{what}{}", back(way)), way.comes(load, cut)), way.leaves(load, cut))
}

/// What came early leaves behind the first one, in the order in which it came.
fn reversed<L: Load>(what: &str, way: Way<'_>, load: &L, cut: Cut) -> Step {
    let (mut comes, leaves) = (way.comes(load, cut), way.leaves(load, cut));
    comes.reverse();
    let early = comes.len() as u64 - 1;
    let step = step(format!("{what}, the last one first{}", back(way)), comes);
    gives_all(step, first_then_reversed(leaves)).counts("fragments_waited", early)
}

fn first_then_reversed(mut frames: Vec<Frame>) -> Vec<Frame> {
    frames[1..].reverse();
    frames
}

/// Orders in which all get through.
fn orders<L: Load>(way: Way<'_>, other: &Conn, load: &L, of_other: &L) -> Vec<Step> {
    let cut = few(USUAL_ID);
    let (comes, leaves) = (way.comes(load, cut), way.leaves(load, cut));
    let twice = [&comes[..1], &comes[..2], &comes[1..]].concat();
    let twice_leaves = [&leaves[..1], &leaves[..2], &leaves[1..]].concat();
    let early: Vec<Frame> = comes[1..].iter().rev().cloned().collect();
    vec![
        in_order("in order", way, load, cut),
        reversed("in one burst", way, load, cut),
        gives_all(step(format!("two of them twice{}", back(way)), twice), twice_leaves),
        step(format!("early ones wait{}", back(way)), early)
            .counts("fragments_waited", comes.len() as u64 - 1),
        gives_all(
            step(format!("the first one comes, and all go out{}", back(way)), comes[..1].to_vec()),
            first_then_reversed(leaves),
        ),
        among_others(way, Way { conn: other, ..way }, load, of_other),
    ]
}

/// Fragments of two packets and a whole one, taking turns.
fn among_others<L: Load>(way: Way<'_>, other: Way<'_>, load: &L, of_other: &L) -> Step {
    let cuts = (few(USUAL_ID), few(own_id(way.conn, 0)));
    let mix = |ours: Vec<Frame>, theirs: Vec<Frame>, whole: Frame| -> Vec<Frame> {
        let turns = ours.into_iter().zip(theirs).flat_map(|(ours, theirs)| [ours, theirs]);
        [whole].into_iter().chain(turns).collect()
    };
    let (whole_comes, whole_leaves) = whole(way, load);
    let comes = mix(way.comes(load, cuts.0), other.comes(of_other, cuts.1), whole_comes);
    let leaves = mix(way.leaves(load, cuts.0), other.leaves(of_other, cuts.1), whole_leaves);
    gives_all(step(format!("among others{}", back(way)), comes), leaves)
}

/// The packet that is not cut, before and after.
fn whole<L: Load>(way: Way<'_>, load: &L) -> (Frame, Frame) {
    if way.outbound {
        (way.conn.real_sends(load), way.conn.client_gets(load))
    } else {
        (way.conn.client_sends(load), way.conn.real_gets(load))
    }
}

/// Packets that are refused, all of them or what is left of them.
fn faults<L: Load>(way: Way<'_>, load: &L) -> Vec<Step> {
    let cut = few(own_id(way.conn, 1));
    let halves = Cut { room: cut.room / 2, ..cut };
    let (comes, between) = (way.comes(load, cut), way.comes(load, halves));
    let overlapping = vec![comes[0].clone(), between[1].clone(), comes[1].clone()];
    let hops = way.comes(&load.clone().ttl(1), few(own_id(way.conn, 2)));
    let what = format!("overlapping: the first one is gone, the others are refused{}", back(way));
    let mut steps = vec![
        step(what, overlapping).gives(way.leaves(load, cut).swap_remove(0)).counts("fragment_overlap", 2),
        // Nobody is told of later fragments (RFC 1122 §3.2.2).
        step(format!("one hop left{}", back(way)), hops[..2].to_vec())
            .gives(answer(&hops[0], Trouble::TimeExceeded))
            .counts("replied", 1)
            .counts("ttl_expired", 1),
    ];
    steps.extend(too_long(way, load));
    steps
}

/// The longest fragments of packets with such a load that fit when they leave.
fn longest(way: Way<'_>, id: u16) -> Cut {
    let len = MTU - way.growth().max(0).unsigned_abs();
    Cut { room: (len - header_len(way.families().0)) / 8 * 8, id }
}

/// Fragments that do not fit any more when they leave: cut again, if both headers are those of IPv4.
fn too_long<L: Load>(way: Way<'_>, load: &L) -> Option<Step> {
    if way.growth() <= 0 {
        return None;
    }
    let cut = longest(way, own_id(way.conn, 3));
    let cut = Cut { room: cut.room + 8, ..cut };
    let load = load.clone().payload(2 * cut.room - load.header_len());
    let (comes, leaves) = (way.comes(&load, cut), way.leaves(&load, cut));
    let step = step(format!("too long for the link behind{}", back(way)), comes.clone());
    let is_tunnel = matches!(way.conn.service.mode, Mode::Tun(_));
    if is_tunnel && (way.conn.service.outside, way.conn.service.inside) == (V4, V4) {
        let again = leaves.iter().flat_map(|frame| fragments_v4(&frame.bytes, MTU));
        let again = again.map(|bytes| Frame { port: Port::Lan, bytes });
        return Some(gives_all(step, again).counts("fragmented", 2));
    }
    let fits = MTU - way.growth().unsigned_abs();
    let told = answer(&comes[0], Trouble::TooBig(fits as u16));
    Some(step.gives(told).counts("replied", 1).counts("too_big", 1))
}

/// The shortest and the longest fragments, and more early ones than may wait; `least` bytes hold the header.
fn lengths<L: Load>(way: Way<'_>, load: &L, least: usize) -> Vec<Step> {
    let shortest = Cut { room: least, id: USUAL_ID };
    let longest = longest(way, USUAL_ID);
    let long = load.clone().payload(longest.room + 77);
    let mut steps = vec![
        in_order("as short as may be", way, load, shortest),
        in_order("as long as may be", way, &long, longest),
    ];
    let many = load.clone().payload(11 * least - load.header_len());
    let (comes, leaves) = (way.comes(&many, shortest), way.leaves(&many, shortest));
    steps.extend([
        step(format!("ten early ones, of which eight may wait{}", back(way)), comes[1..].to_vec())
            .counts("fragments_waited", 8)
            .counts("fragment_buffer_full", 2),
        gives_all(step(format!("the first one{}", back(way)), comes[..1].to_vec()), leaves[..9].to_vec()),
        gives_all(step(format!("the two once more{}", back(way)), comes[9..].to_vec()), leaves[9..].to_vec()),
    ]);
    steps.extend(atomic(way, load));
    steps
}

/// A packet in one fragment is no fragment (RFC 6946); IPv4 may cut it (RFC 7915 §5.1.1).
fn atomic<L: Load>(way: Way<'_>, load: &L) -> Option<Step> {
    if way.families().0 == V4 {
        return None;
    }
    let mut load = load.clone();
    load.ip_mut().extensions = vec![Extension::fragment(0, false, 0x0001_0000 | u32::from(USUAL_ID))];
    let (comes, mut leaves) = whole(way, &load);
    if way.families().1 == V4 {
        leaves =
            leaves.edit(|bytes| bytes[18..20].copy_from_slice(&USUAL_ID.to_be_bytes())).with_ip_checksum();
    }
    Some(step(format!("all in one fragment{}", back(way)), vec![comes]).gives(leaves))
}

/// IPv6 wants a checksum, and one fragment is not enough to make it (RFC 7915 §4.5).
fn no_checksum(way: Way<'_>) -> Option<Step> {
    let load = dgram(120).no_checksum();
    match way.families() {
        (V6, _) => None,
        (V4, V4) => Some(in_order("without checksum", way, &load, few(USUAL_ID))),
        (V4, V6) => {
            let first = way.comes(&load, few(own_id(way.conn, 4))).swap_remove(0);
            Some(step(format!("without checksum{}", back(way)), vec![first]).dropped("fragment_no_checksum"))
        }
    }
}

/// A header in two fragments, which nobody but an attacker sends (RFC 1858).
fn tiny(way: Way<'_>, load: &Seg) -> Step {
    let pieces = way.comes(load, Cut { room: 16, id: own_id(way.conn, 5) });
    step(format!("a cut header{}", back(way)), pieces[..2].to_vec()).dropped("fragment_tiny")
}

/// Behind a first fragment of no connection.
fn stray(conn: &Conn) -> Step {
    let stranger = Conn { client: (conn.client.0, 9), ..conn.clone() };
    let pieces = Way { conn: &stranger, outbound: false }.comes(&request(), few(own_id(conn, 6)));
    let later = pieces.len() as u64 - 1;
    step("an ACK with data of no connection", pieces)
        .counts("punted_stray", 1)
        .counts("no_twin", 1)
        .counts("fragment_stray", later)
}

/// What a client says of its own address goes from fragments, too.
fn forged(conn: &Conn) -> Step {
    let way = Way { conn, outbound: false };
    let cut = few(USUAL_ID);
    let lie = request().options(&[253, 8, 0, 5, 1, 2, 3, 4]);
    let comes = step("a forged address", way.comes(&lie, cut));
    gives_all(comes, way.leaves(&request().options(&nops(8)), cut)).counts("toa_stripped", 1)
}
