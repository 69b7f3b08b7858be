//! Mode × protocol × family, both directions: one case for each, and the same steps for all that do the same.

use api::Protocol::{Tcp, Udp};
use wire::Family::{self, V4, V6};
use wire::build::fragments_v4;
use wire::ipv6::{EXTENSIONS_MAX, NEXT_DESTINATION, NEXT_HOP_BY_HOP};

use super::cells;
use crate::case::{Case, Service, Step, step};
use crate::conn::Conn;
use crate::frame::Frame;
use crate::load::{Load, client_ack, dgram, real_ack, syn, timestamps};
use crate::trouble::{AS_MUCH_AS_FITS, Trouble, answered};

/// What every link takes here.
const MTU: isize = 1500;

/// New ones go to the end, since ports follow from the place.
const NAMES: [&str; 34] = [
    "fullnat_tcp_44",
    "fullnat_tcp_66",
    "fullnat_tcp_64",
    "fullnat_tcp_46",
    "fullnat_udp_44",
    "fullnat_udp_66",
    "fullnat_udp_64",
    "fullnat_udp_46",
    "nat_tcp_44",
    "nat_tcp_66",
    "nat_udp_44",
    "nat_udp_66",
    "dr_tcp_44",
    "dr_tcp_66",
    "dr_udp_44",
    "dr_udp_66",
    "tun_ipip_tcp_44",
    "tun_ipip_tcp_66",
    "tun_ipip_tcp_64",
    "tun_ipip_tcp_46",
    "tun_ipip_udp_44",
    "tun_ipip_udp_66",
    "tun_ipip_udp_64",
    "tun_ipip_udp_46",
    "tun_gre_tcp_44",
    "tun_gre_tcp_66",
    "tun_gre_checksum_tcp_64",
    "tun_gre_checksum_udp_46",
    "tun_gue_tcp_44",
    "tun_gue_tcp_66",
    "tun_gue_udp_44",
    "tun_gue_checksum_tcp_64",
    "tun_gue_checksum_tcp_46",
    "tun_gue_checksum_udp_66",
];

/// The number of the first case.
const FIRST: u16 = 100;

pub(crate) fn cases() -> Vec<Case> {
    cells::cases(FIRST, "", &NAMES, |protocol| match protocol {
        Tcp => ("a connection's life, limits, IP options, ICMP errors: TCP", tcp),
        Udp => ("datagrams both ways, limits, IP options, ICMP errors: UDP", udp),
    })
}

fn tcp(conns: &[Conn]) -> Vec<Step> {
    let [conn, new, other] = conns else { return Vec::new() };
    let mut steps = life(conn);
    steps.extend(closing(conn));
    let hops = new.client_sends(&syn().ttl(1));
    steps.push(answered("a SYN with one hop left", hops, Trouble::TimeExceeded));
    steps.extend(new.settled());
    let (sent, back) = (client_ack(1, 0).payload(40), real_ack(0, 1).payload(40));
    steps.extend(limits(new, &sent, &back));
    steps.extend(ip_headers(new, &sent, &back));
    steps.extend(errors(new, &sent.clone().payload(900), &back.clone().payload(900)));
    steps.push(new.inbound("data goes on", &sent));
    steps.push(new.inbound("the client's RST", &client_ack(1, 0).rst()).listed(new, "CLOSE"));
    if !other.service.mode.is_one_way() {
        steps.extend(other.settled());
        let rst = other.outbound("the real server's RST", &real_ack(0, 1).rst());
        steps.push(rst.listed(other, "CLOSE"));
    }
    steps
}

/// A handshake, data of all lengths.
fn life(conn: &Conn) -> Vec<Step> {
    let mut steps = conn.half_open();
    let last = steps.pop().map(|step| step.listed(conn, "SYN_RECV"));
    steps.extend(last);
    let ack = client_ack(0, 0);
    steps.extend([
        conn.told("ACK, padded", &ack.clone().tail(6)).listed(conn, "ESTABLISHED"),
        conn.told("one byte, padded", &ack.clone().payload(1).tail(5)),
        conn.told("333 bytes with timestamps", &ack.clone().payload(333).options(&timestamps(5, 7))),
    ]);
    let Fulls { told, bare, back } = Fulls::of(conn, &ack);
    if conn.service.tells_client() {
        steps.push(conn.told("as many bytes as leave room for TOA", &ack.clone().payload(told)));
    }
    if told < bare {
        let what = "one more: they go without";
        steps.push(conn.inbound(what, &ack.clone().payload(told + 1)).counts("toa_over_mtu", 1));
        let padded = ack.clone().payload(bare - 40).options(&[1; 40]);
        let packed = [conn.toa(254), vec![1; 40 - conn.toa(254).len()]].concat();
        steps.push(
            conn.inbound_as(
                "the option takes the place of padding",
                &padded,
                &padded.clone().options(&packed),
            )
            .counts("toa_inserted", 1),
        );
    }
    if !conn.service.mode.is_one_way() {
        steps.extend([
            conn.outbound("an ACK that proves nothing, padded", &real_ack(0, 0).tail(6)),
            conn.outbound("an answer of one byte", &real_ack(0, 0).payload(1)),
            conn.outbound("as many bytes as fit", &real_ack(1, 334).payload(back)),
            conn.outbound(
                "33 bytes with timestamps",
                &real_ack(1, 334).payload(33).options(&timestamps(7, 5)),
            ),
        ]);
    }
    steps.push(conn.inbound("as many bytes as fit", &client_ack(334, 1).payload(bare)));
    steps.extend(classes(conn, &client_ack(334, 1).payload(3), &real_ack(1, 334).payload(3)));
    steps
}

/// DSCP and ECN: expedited forwarding; able to tell of congestion, and congestion met.
fn classes<L: Load>(conn: &Conn, sent: &L, back: &L) -> Vec<Step> {
    let mut steps = Vec::new();
    for class in [0xb8, 0x01, 0xbb] {
        let what = format!("traffic class {class:#x}");
        steps.push(conn.inbound(&what, &sent.clone().class(class)));
        if !conn.service.mode.is_one_way() {
            steps.push(conn.outbound(&format!("{what} back"), &back.clone().class(class)));
        }
    }
    steps
}

/// Segments and datagrams that just fit: with TOA, without it, and back.
struct Fulls {
    told: usize,
    bare: usize,
    back: usize,
}

impl Fulls {
    /// Of loads like this.
    fn of<L: Load>(conn: &Conn, like: &L) -> Fulls {
        let (outside, inside) = room(conn, like);
        let toa = if conn.service.tells_client() { conn.toa(254).len() } else { 0 };
        let told = (MTU - conn.growth() - toa as isize) as usize - overhead(conn.service.outside, like);
        Fulls { told, bare: outside, back: inside }
    }
}

/// Bytes in front of a load's payload.
fn overhead<L: Load>(family: Family, like: &L) -> usize {
    family.header_len() + like.header_len()
}

/// The greatest payloads that pass, inbound and outbound.
fn room<L: Load>(conn: &Conn, like: &L) -> (usize, usize) {
    let fits = |growth: isize, family| (MTU - growth) as usize - overhead(family, like);
    (fits(conn.growth(), conn.service.outside), fits(-conn.growth(), conn.service.inside))
}

/// FINs, as far as they come this way.
fn closing(conn: &Conn) -> Vec<Step> {
    let fin = conn.inbound("the client's FIN", &client_ack(334, 1).fin());
    let last = conn.inbound("the last ACK", &client_ack(335, 2));
    if conn.service.mode.is_one_way() {
        // Of one that is seen in one direction only, IPVS's table says nothing more (INPUT_ONLY).
        return vec![fin.listed(conn, "FIN_WAIT"), last.listed(conn, "FIN_WAIT")];
    }
    let answer = conn.outbound("the real server's FIN", &real_ack(1, 335).fin());
    vec![fin.listed(conn, "CLOSE_WAIT"), answer.listed(conn, "TIME_WAIT"), last.listed(conn, "TIME_WAIT")]
}

fn udp(conns: &[Conn]) -> Vec<Step> {
    let [conn, new, _] = conns else { return Vec::new() };
    let mut steps = datagrams(conn);
    let hops = new.client_sends(&dgram(9).ttl(1));
    steps.push(answered("a first datagram with one hop left", hops, Trouble::TimeExceeded));
    steps.push(new.opens("a first datagram", &dgram(9)));
    let (sent, back) = (dgram(40), dgram(41));
    steps.extend(limits(new, &sent, &back));
    steps.extend(ip_headers(new, &sent, &back));
    steps.extend(errors(new, &dgram(900), &dgram(901)));
    steps.push(new.inbound("a datagram passes", &sent));
    steps
}

fn datagrams(conn: &Conn) -> Vec<Step> {
    let one_way = conn.service.mode.is_one_way();
    let mut steps = Vec::new();
    if conn.service.outside == V6 {
        let bare = conn.client_sends(&dgram(4).no_checksum());
        steps.push(step("a first datagram without checksum", vec![bare]).dropped("checksum_invalid"));
    }
    steps.push(conn.opens("an empty datagram, padded", &dgram(0).tail(18)).listed(conn, "UDP"));
    if !one_way {
        steps.push(conn.outbound("an empty answer, padded", &dgram(0).tail(18)));
    }
    for len in [1, 2, 17] {
        steps.push(conn.inbound(&format!("{len} bytes"), &dgram(len)));
        if !one_way {
            steps.push(conn.outbound(&format!("{} bytes back", len + 2), &dgram(len + 2)));
        }
    }
    let surplus = "bytes behind the datagram in its packet";
    steps.push(conn.inbound(surplus, &dgram(21).surplus(7)));
    if !one_way {
        steps.push(conn.outbound(&format!("{surplus}, back"), &dgram(20).surplus(9)));
    }
    if conn.service.outside == V4 {
        steps.push(conn.inbound("without checksum", &dgram(21).no_checksum()));
        steps
            .push(conn.inbound(&format!("{surplus}, without checksum"), &dgram(21).no_checksum().surplus(6)));
    }
    if conn.service.inside == V4 && !one_way {
        steps.push(conn.outbound("an answer without checksum", &dgram(22).no_checksum()));
    }
    let (bare, back) = room(conn, &dgram(0));
    steps.push(conn.inbound("as many bytes as fit", &dgram(bare)));
    if !one_way {
        steps.push(conn.outbound("as many bytes back as fit", &dgram(back)));
    }
    steps.extend(classes(conn, &dgram(3), &dgram(4)));
    steps
}

/// Hops and MTUs.
fn limits<L: Load>(conn: &Conn, sent: &L, back: &L) -> Vec<Step> {
    let one_way = conn.service.mode.is_one_way();
    let mut steps = Vec::new();
    for hops in [0, 1] {
        let frame = conn.client_sends(&sent.clone().ttl(hops));
        steps.push(answered(&format!("{hops} hops left"), frame, Trouble::TimeExceeded));
        if !one_way {
            let frame = conn.real_sends(&back.clone().ttl(hops));
            steps.push(answered(&format!("{hops} hops left on the way back"), frame, Trouble::TimeExceeded));
        }
    }
    steps.push(conn.inbound("two hops left", &sent.clone().ttl(2)));
    let (forth, home) = room(conn, sent);
    let mtu = |growth: isize| Trouble::TooBig((MTU - growth) as u16);
    let frame = conn.client_sends(&sent.clone().payload(forth + 1));
    steps.push(answered("one byte too many", frame, mtu(conn.growth())));
    if !one_way {
        let frame = conn.real_sends(&back.clone().payload(home + 1));
        steps.push(answered("one byte too many on the way back", frame, mtu(-conn.growth())));
    }
    steps.extend(too_long_to_be_whole(conn, sent, back));
    steps
}

/// IPv4 packets that do not fit and may be cut: they are where they leave as IPv4, also in a tunnel.
fn too_long_to_be_whole<L: Load>(conn: &Conn, sent: &L, back: &L) -> Vec<Step> {
    let Service { mode, outside, inside, .. } = conn.service;
    let mut steps = Vec::new();
    let (forth, home) = room(conn, sent);
    for extra in [1, 400] {
        if outside == V4 {
            let load = sent.clone().payload(forth + extra).may_fragment();
            let what = format!("{extra} bytes too many, which may be cut");
            let frames = (conn.client_sends(&load), conn.real_gets(&load));
            steps.push(cut_or_answered(&what, frames, inside, conn.growth()));
        }
        if inside == V4 && !mode.is_one_way() {
            let load = back.clone().payload(home + extra).may_fragment();
            let what = format!("{extra} bytes too many on the way back, which may be cut");
            let frames = (conn.real_sends(&load), conn.client_gets(&load));
            steps.push(cut_or_answered(&what, frames, outside, -conn.growth()));
        }
    }
    steps
}

fn cut_or_answered(what: &str, (comes, leaves): (Frame, Frame), leaves_as: Family, growth: isize) -> Step {
    if leaves_as == V6 {
        return answered(what, comes, Trouble::TooBig((MTU - growth) as u16));
    }
    let pieces = fragments_v4(&leaves.bytes, MTU as usize);
    let step = pieces
        .into_iter()
        .fold(step(what, vec![comes]), |step, bytes| step.gives(Frame { port: leaves.port, bytes }));
    step.counts("fragmented", 1)
}

/// IPv4 options and IPv6 extension headers: they stay within a family, and go where it changes.
fn ip_headers<L: Load>(conn: &Conn, sent: &L, back: &L) -> Vec<Step> {
    let one_way = conn.service.mode.is_one_way();
    let mut steps = Vec::new();
    // Router alert (RFC 2113), and NOPs up to the 40 bytes that fit.
    for options in [&[148, 4, 0, 0][..], &[1; 40]] {
        let what = format!("{} bytes of IP options", options.len());
        if conn.service.outside == V4 {
            steps.push(conn.inbound(&what, &sent.clone().ip_options(options)));
        }
        if conn.service.inside == V4 && !one_way {
            steps.push(conn.outbound(&format!("{what} back"), &back.clone().ip_options(options)));
        }
    }
    let both = [NEXT_HOP_BY_HOP, NEXT_DESTINATION];
    let many = [NEXT_DESTINATION; EXTENSIONS_MAX + 1];
    for kinds in [&both[..], &[NEXT_DESTINATION], &many[1..]] {
        let what = format!("extension headers {kinds:?}");
        if conn.service.outside == V6 {
            steps.push(conn.inbound(&what, &sent.clone().extensions(kinds)));
        }
        if conn.service.inside == V6 && !one_way {
            steps.push(conn.outbound(&format!("{what} back"), &back.clone().extensions(kinds)));
        }
    }
    if conn.service.outside == V6 {
        let frames = [&many[..], &[NEXT_DESTINATION, NEXT_HOP_BY_HOP]]
            .map(|kinds| conn.client_sends(&sent.clone().extensions(kinds)));
        let what = "too many extension headers, and hop-by-hop options not in front";
        steps.push(step(what, frames.to_vec()).dropped("extension_headers"));
    }
    steps
}

/// ICMP errors about packets of the connection.
fn errors<L: Load>(conn: &Conn, sent: &L, back: &L) -> Vec<Step> {
    let one_way = conn.service.mode.is_one_way();
    let mut steps = Vec::new();
    for (trouble, mtus) in
        [(Trouble::TooBig(1400), true), (Trouble::PortUnreachable, false), (Trouble::TimeExceeded, false)]
    {
        // From one family to the other the difference of the headers counts (RFC 7915 §4.2, §5.2).
        let as_told = |growth: isize| match trouble {
            Trouble::TooBig(mtu) if mtus => Trouble::TooBig((mtu as isize + growth) as u16),
            other => other,
        };
        for quoted in [AS_MUCH_AS_FITS, 8] {
            let length = if quoted == 8 { ", 8 bytes quoted" } else { "" };
            let told = if one_way { trouble } else { as_told(conn.growth()) };
            let frames = conn.complaint_outside(back, (trouble, told), quoted);
            steps.push(conn.complaint(&format!("{trouble:?} about an answer{length}"), frames));
            if !one_way {
                let frames = conn.complaint_inside(sent, (trouble, as_told(-conn.growth())), quoted);
                steps.push(conn.complaint(&format!("{trouble:?} about what was sent{length}"), frames));
            }
        }
    }
    steps
}
