//! What one mode alone does, groups of addresses, and ICMP errors that are nobody's.

use std::net::IpAddr;

use api::Protocol::{self, Tcp, Udp};
use api::TunnelKind::{Gue, Ipip};
use api::VirtualRange;
use wire::Family::{V4, V6};

use crate::case::{Case, Mode, Service, Step, step};
use crate::conn::Conn;
use crate::frame::{Frame, Ip, LIP, LIP6, Port, TUNNEL, TUNNEL6, VIP, VIP6, either, upper_checksum};
use crate::load::{Load, client_ack, dgram, real_ack, syn};
use crate::look::GUE_PORT;
use crate::trouble::{AS_MUCH_AS_FITS, Trouble, error_packet};

pub(crate) fn cases() -> Vec<Case> {
    one_mode().into_iter().chain(groups()).chain(icmp()).chain(tunnels()).collect()
}

fn one_mode() -> [Case; 4] {
    [
        Case {
            name: "nat_unasked",
            about: "what a real server sends of its own accord is the kernel's to route",
            number: 60,
            conns: 1,
            service: Service::new(Mode::Nat, Tcp, [V4, V4]),
            steps: unasked,
        },
        Case {
            name: "nat_unasked_6",
            about: "the same over IPv6",
            number: 61,
            conns: 1,
            service: Service::new(Mode::Nat, Tcp, [V6, V6]),
            steps: unasked,
        },
        Case {
            name: "nat_ambiguous",
            about: "one client endpoint, one real server, two virtual addresses: replies cannot be told apart",
            number: 62,
            conns: 2,
            service: Service {
                tune: Some(|service| service.real_servers[0].real.set_port(SHARED_PORT)),
                ..Service::new(Mode::Nat, Tcp, [V4, V4])
            },
            steps: ambiguous,
        },
        Case {
            name: "one_way_replies",
            about: "what belongs to a connection whose replies take another way, and comes back all the same",
            number: 63,
            conns: 1,
            service: Service::new(Mode::Tun(Ipip), Tcp, [V4, V4]),
            steps: one_way_replies,
        },
    ]
}

fn groups() -> [Case; 4] {
    let of = |mode, protocol, tune| Service { tune: Some(tune), ..Service::new(mode, protocol, [V4, V4]) };
    let case = |name, number, service, steps| {
        let about = "a service of several addresses, ports and protocols; a real server without a port";
        Case { name, about, number, conns: 1, service, steps }
    };
    [
        case("group_nat", 64, of(Mode::Nat, Tcp, |service| grouped(service, 0)), group),
        case("group_nat_one_port", 65, of(Mode::Nat, Tcp, |service| grouped(service, 777)), group_one_port),
        case("group_dr", 66, of(Mode::Dr, Tcp, |service| grouped(service, 0)), group),
        case("real_port_0", 67, of(Mode::FullNat, Udp, portless), real_port_0),
    ]
}

fn icmp() -> [Case; 8] {
    let case = |name, number, about, families, steps| {
        let [outside, inside] = families;
        let service = Service { outside, inside, ..Service::TOA };
        Case { name, about, number, conns: 1, service, steps }
    };
    let unknown =
        "ICMP errors about nothing that we know: dropped at virtual and local addresses, else the kernel's";
    let corrupt = "a corrupt ICMP error stays corrupt within a family, and ends where the family changes";
    let toa = "a path MTU is told less TOA, while packets grow by that";
    [
        case("icmp_unknown", 68, unknown, [V4, V4], icmp_unknown),
        case("icmp_unknown_6", 69, unknown, [V6, V6], icmp_unknown),
        case("icmp_corrupt", 70, corrupt, [V4, V4], icmp_corrupt),
        case("icmp_corrupt_64", 71, corrupt, [V6, V4], icmp_corrupt),
        case("icmp_toa_44", 72, toa, [V4, V4], icmp_toa),
        case("icmp_toa_66", 73, toa, [V6, V6], icmp_toa),
        case("icmp_toa_64", 74, toa, [V6, V4], icmp_toa),
        case("icmp_toa_46", 75, toa, [V4, V6], icmp_toa),
    ]
}

fn tunnels() -> [Case; 2] {
    let case = |name, number, kind, families| {
        let service = Service::new(Mode::Tun(kind), Tcp, families);
        let about = "what routers within a tunnel complain about, the client is told";
        Case { name, about, number, conns: 1, service, steps: tunnel_errors }
    };
    [
        case("tunnel_errors_ipip", 76, Ipip, [V6, V4]),
        case("tunnel_errors_gue", 77, Gue { port: GUE_PORT, checksum: true }, [V6, V6]),
    ]
}

/// The real server's own port where two services share it.
const SHARED_PORT: u16 = 7777;

fn unasked(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let (client, real) = (conn.client, (conn.real.0, 50_000));
    let echo = {
        let (protocol, kind) = if real.0.is_ipv4() { (1, 8) } else { (58, 128) };
        let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
        let sum = upper_checksum(protocol, (real.0, client.0), &message);
        message[2..4].copy_from_slice(&sum.to_bytes());
        Port::Lan.receives(&Ip::default().packet(protocol, (real.0, client.0), &message))
    };
    let syn_out = Port::Lan.receives(&syn().packet(real, (client.0, 80)));
    let query = Port::Lan.receives(&dgram(30).packet(real, (client.0, 53)));
    let from_service = Port::Lan.receives(&real_ack(0, 0).packet(conn.real, client));
    let mut steps = vec![
        step("a SYN, and a datagram", vec![syn_out, query]).punted("local"),
        step("an answer without a connection", vec![from_service.clone()]).punted("local"),
        step("an echo request", vec![echo]).punted(if real.0.is_ipv4() { "icmp" } else { "ipv6" }),
    ];
    steps.extend(conn.settled());
    let other_port = Port::Lan.receives(&real_ack(0, 1).packet(real, client));
    steps.push(step("another port of the real server's", vec![other_port]).punted("local"));
    steps.push(conn.outbound("the connection's own", &real_ack(0, 1).payload(9)));
    steps
}

fn ambiguous(conns: &[Conn]) -> Vec<Step> {
    let [first, second] = conns else { return Vec::new() };
    let real = (first.real.0, SHARED_PORT);
    let first = Conn { real, ..first.clone() };
    let same_client = Conn { real, client: first.client, ..second.clone() };
    let other_client = Conn { real, ..second.clone() };
    let mut steps = first.settled();
    steps.push(
        step("a SYN of the same endpoint to the other address", vec![same_client.client_sends(&syn())])
            .dropped("reply_ambiguous"),
    );
    steps.extend(other_client.settled());
    steps.push(first.outbound("the first connection goes on", &real_ack(0, 1).payload(7)));
    steps
}

fn one_way_replies(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.settled();
    let direct = Port::Lan.receives(&real_ack(0, 1).packet(conn.virtual_, conn.client));
    steps.push(step("the real server's answer, if it is sent to us", vec![direct]).punted("local"));
    let far = conn.inbound("a RST far from what was sent", &client_ack(70_000, 0).rst());
    steps.push(far.counts("rst_out_of_window", 1).listed(conn, "ESTABLISHED"));
    let forged = client_ack(7, 0).options(&[254, 8, 0, 80, 8, 8, 8, 8]);
    let stripped = client_ack(7, 0).options(&[1; 8]);
    steps.push(conn.inbound_as("a forged address", &forged, &stripped).counts("toa_stripped", 1));
    steps.push(conn.inbound("a RST near it", &client_ack(1_000, 0).rst()).listed(conn, "CLOSE"));
    steps.push(
        conn.inbound("the same port again", &syn().seq(90_000))
            .counts("connections_created", 1)
            .counts("connections_reused", 1),
    );
    steps
}

/// The ports of a group, besides that of its key: the first and the last of them, and those just beyond.
const GROUP: (u16, u16) = (30_000, 30_004);
const GROUP_UDP: u16 = 30_500;

/// A further address.
const OTHER_VIP: [u8; 4] = [10, 1, 0, 102];

fn range(protocol: Protocol, address: impl Into<IpAddr>, ports: (u16, u16)) -> VirtualRange {
    VirtualRange { protocol, address: address.into(), ports }
}

fn grouped(service: &mut api::Service, real_port: u16) {
    // Cases that run at once must not meet.
    let shift = service.key.virtual_.port();
    let ports = (GROUP.0 + shift, GROUP.1 + shift);
    service.also = vec![
        range(Tcp, VIP, ports),
        range(Tcp, OTHER_VIP, ports),
        range(Udp, OTHER_VIP, (GROUP_UDP + shift, GROUP_UDP + shift)),
    ];
    service.real_servers[0].real.set_port(real_port);
}

/// The same connection to another address of its group; the real server has `real_port`, or the one asked for.
fn towards(conn: &Conn, address: impl Into<IpAddr>, port: u16, real_port: Option<u16>) -> Conn {
    let real = (conn.real.0, real_port.unwrap_or(port));
    Conn { virtual_: (address.into(), port), real, ..conn.clone() }
}

fn group_with(conn: &Conn, real_port: Option<u16>) -> Vec<Step> {
    let shift = conn.virtual_.1;
    let mut steps = towards(conn, conn.virtual_.0, shift, real_port).settled();
    for (n, address) in [VIP, OTHER_VIP.into()].into_iter().enumerate() {
        for (m, port) in [GROUP.0, GROUP.0 + 2, GROUP.1].into_iter().enumerate() {
            // In NAT, one client endpoint cannot have two connections to one real server's port.
            let client = (conn.client.0, 5_000 + shift + 10 * n as u16 + m as u16);
            let of_range = Conn { client, ..towards(conn, address, port + shift, real_port) };
            steps.extend(of_range.settled());
        }
    }
    let beyond = [(VIP, GROUP.0 - 1), (VIP, GROUP.1 + 1), (OTHER_VIP.into(), GROUP.1 + 1)];
    let frames =
        beyond.map(|(address, port)| towards(conn, address, port + shift, None).client_sends(&syn()));
    steps.push(step("ports beyond the range", frames.to_vec()).punted("local"));
    let udp = towards(conn, OTHER_VIP, GROUP_UDP + shift, real_port);
    steps.push(udp.opens("a datagram to the port that is of the group over UDP", &dgram(5)));
    if !conn.service.mode.is_one_way() {
        steps.push(udp.outbound("its answer", &dgram(6)));
    }
    let other_protocol = towards(conn, OTHER_VIP, GROUP.0 + shift, None).client_sends(&dgram(5));
    steps.push(step("a datagram to one of the ports over TCP", vec![other_protocol]).punted("local"));
    steps
}

fn group(conns: &[Conn]) -> Vec<Step> {
    group_with(&conns[0], None)
}

fn group_one_port(conns: &[Conn]) -> Vec<Step> {
    group_with(&conns[0], Some(777))
}

/// FULLNAT with a real server at whatever port was asked for.
fn portless(service: &mut api::Service) {
    service.real_servers[0].real.set_port(0);
}

fn real_port_0(conns: &[Conn]) -> Vec<Step> {
    let conn = towards(&conns[0], VIP, conns[0].virtual_.1, None);
    vec![
        conn.opens("a datagram", &dgram(3)),
        conn.outbound("its answer from the port that was asked for", &dgram(4)),
        step("an answer from another port", vec![towards(&conn, VIP, 9, None).real_sends(&dgram(4))])
            .punted("stray"),
    ]
}

fn icmp_unknown(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let is_v4 = conn.client.0.is_ipv4();
    let mut steps = conn.settled();
    let (vip, lip): (IpAddr, IpAddr) =
        if is_v4 { (VIP.into(), LIP.into()) } else { (VIP6.into(), LIP6.into()) };
    let own: IpAddr = if is_v4 { [10, 1, 0, 1].into() } else { [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1].into() };
    let ours = conn.client_gets(&real_ack(0, 1)).packet().to_vec();
    let other = Conn { client: (conn.client.0, 9), ..conn.clone() }.client_gets(&real_ack(0, 1));
    let mut later = ours.clone();
    let header_len = if is_v4 { 20 } else { 40 };
    if is_v4 {
        later[7] = 1;
    } else {
        later[6] = 44;
        later[header_len..header_len + 4].copy_from_slice(&[6, 0, 0, 8]);
    }
    let mut no_ports = ours.clone();
    no_ports[if is_v4 { 9 } else { 6 }] = if is_v4 { 1 } else { 58 };
    let mut wrong_version = ours.clone();
    wrong_version[0] = 0x10 | wrong_version[0] & 0x0f;
    let about = |to: IpAddr, quote: &[u8]| -> Frame {
        let ip = Ip::default();
        Port::Wan.receives(&error_packet(&ip, (conn.client.0, to), Trouble::PortUnreachable, quote))
    };
    let quotes: [(&str, &[u8]); 7] = [
        ("a connection that there is not", other.packet()),
        ("nothing at all", &[]),
        ("a header without ports", &ours[..header_len]),
        ("half a header", &ours[..header_len / 2]),
        ("a fragment behind the first", &later),
        ("a protocol without ports", &no_ports),
        ("a version that is none", &wrong_version),
    ];
    for (what, quote) in quotes {
        let frames = vec![about(vip, quote), about(lip, quote)];
        steps.push(step(format!("an error that quotes {what}"), frames).dropped("icmp_unknown"));
        let class = if is_v4 { "icmp" } else { "ipv6" };
        let what = format!("the same to an address of the gateway's own: {what}");
        steps.push(step(what, vec![about(own, quote)]).punted(class));
    }
    let (comes, _) = conn.complaint_outside(
        &real_ack(0, 1),
        (Trouble::TimeExceeded, Trouble::TimeExceeded),
        AS_MUCH_AS_FITS,
    );
    let hops_at = if is_v4 { 22 } else { 21 };
    let last_hop = comes.edit(|bytes| bytes[hops_at] = 1);
    let last_hop = if is_v4 { last_hop.with_ip_checksum() } else { last_hop };
    steps.push(step("an error about the connection, one hop left", vec![last_hop]).dropped("ttl_expired"));
    steps.push(conn.inbound("data goes on", &client_ack(1, 0).payload(9)));
    steps
}

fn tunnel_errors(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.settled();
    let sent = conn.real_gets(&client_ack(1, 0).payload(300));
    let ends = (conn.real.0, either(conn.service.inside, TUNNEL, TUNNEL6));
    let error = error_packet(&Ip::default(), ends, Trouble::TooBig(1400), sent.packet());
    let overhead = conn.growth().unsigned_abs();
    let told = Trouble::TooBig((1400 - overhead as u16).max(1280));
    let to_client = (conn.virtual_.0, conn.client.0);
    let expected = error_packet(&Ip::own(64), to_client, told, &sent.packet()[overhead..]);
    steps.push(
        step("a link within the tunnel is smaller", vec![Port::Lan.receives(&error)])
            .gives(Port::Wan.sends(&expected))
            .counts("icmp_errors", 1),
    );
    steps.push(conn.inbound("data goes on", &client_ack(1, 0).payload(9)));
    steps
}

/// A flipped bit in what an error quotes.
fn icmp_corrupt(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.settled();
    let unreachable = (Trouble::PortUnreachable, Trouble::PortUnreachable);
    let (comes, leaves) = conn.complaint_inside(&client_ack(1, 0), unreachable, AS_MUCH_AS_FITS);
    let broken = |frame: &Frame| {
        frame.clone().edit(|bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 0x20;
        })
    };
    let corrupt = step("a corrupt error", vec![broken(&comes)]);
    steps.push(if conn.service.inside == conn.service.outside {
        corrupt.gives(broken(&leaves)).counts("icmp_errors", 1)
    } else {
        corrupt.dropped("icmp_untranslatable")
    });
    steps.push(conn.complaint("the same, intact", (comes, leaves)));
    steps
}

/// Until the real server knows the client's address, packets grow by the option on their way.
fn icmp_toa(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let mut steps = conn.handshake();
    let request = client_ack(0, 0).payload(900);
    steps.push(conn.inbound_with_toa("a request with TOA", &request));
    let told = |mtu: u16, less: usize| Trouble::TooBig((mtu as isize - conn.growth()) as u16 - less as u16);
    let toa_len = conn.toa(254).len();
    let with_toa = (Trouble::TooBig(1400), told(1400, toa_len));
    let about = conn.with_toa(&request);
    for (quoted, what) in [(AS_MUCH_AS_FITS, "it does not fit"), (8, "the same, 8 bytes quoted")] {
        steps.push(conn.complaint(what, conn.complaint_inside(&about, with_toa, quoted)));
    }
    let least = |told: u16| match (conn.service.inside, conn.service.outside) {
        (V4, V4) => told.min(1) * 68,
        (V6, V4) => 1260,
        (_, V6) => 1280,
    };
    for (mtu, what) in [
        (0, "a router that does not know what would fit"),
        (5, "a router that tells less than any link takes"),
    ] {
        let told = (Trouble::TooBig(mtu), Trouble::TooBig(least(mtu)));
        steps.push(conn.complaint(what, conn.complaint_inside(&about, told, AS_MUCH_AS_FITS)));
    }
    steps.push(conn.outbound("the real server acknowledges", &real_ack(0, 900)));
    let without = (Trouble::TooBig(1400), told(1400, 0));
    let later = client_ack(900, 0).payload(30);
    steps.push(conn.complaint("without TOA", conn.complaint_inside(&later, without, AS_MUCH_AS_FITS)));
    steps
}
