//! UDP: the client's address for a real server of either family, in an IPv4 option or in a header of protocol 248, on the
//! first datagrams of a flow.

use api::Protocol::Udp;
use api::{ToaNoRoom, Uoa, UoaForm};
use wire::Family::{self, V4, V6};

use crate::case::{Case, Mode, Service, Step, Steps, step};
use crate::conn::{Conn, moved, routed};
use crate::frame::{Frame, Ip, family_of};
use crate::load::{Dgram, Endpoint, Load, dgram};

/// Type of the option, and protocol of the header.
const OPTION: u8 = 31;
const HEADER: u8 = 248;

const IN_OPTION: fn(&mut api::Service) = |service| service.uoa = Some(of(UoaForm::Option));
const IN_HEADER: fn(&mut api::Service) = |service| service.uoa = Some(of(UoaForm::Header));

const fn of(form: UoaForm) -> Uoa {
    Uoa { form, datagrams: 3, no_room: ToaNoRoom::Pass }
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, about, number, tune, families: [Family; 2], steps: Steps| Case {
        name,
        about,
        number,
        conns: 1,
        service: Service { tune: Some(tune), ..Service::new(Mode::FullNat, Udp, families) },
        steps,
    };
    let option = "three datagrams of a flow tell the client in an IPv4 option of type 31";
    let header = "three datagrams of a flow tell the client in a header of protocol 248";
    let forged = "what a client says of itself in IPv4 options is overwritten, told or not";
    vec![
        case("uoa_option_44", option, 157, IN_OPTION, [V4, V4], in_option),
        case("uoa_header_44", header, 158, IN_HEADER, [V4, V4], in_header),
        case("uoa_header_66", header, 159, IN_HEADER, [V6, V6], in_header),
        case("uoa_header_64", header, 160, IN_HEADER, [V6, V4], in_header),
        case("uoa_header_46", header, 161, IN_HEADER, [V4, V6], in_header),
        case("uoa_forged", forged, 162, IN_OPTION, [V4, V4], forging),
    ]
}

/// A datagram behind the header that tells its client.
#[derive(Clone)]
struct Told {
    datagram: Dgram,
    header: Vec<u8>,
}

impl Load for Told {
    const PROTOCOL: u8 = HEADER;

    fn ip(&self) -> &Ip {
        self.datagram.ip()
    }

    fn ip_mut(&mut self) -> &mut Ip {
        self.datagram.ip_mut()
    }

    fn tail_mut(&mut self) -> &mut usize {
        self.datagram.tail_mut()
    }

    fn bytes(&self, src: Endpoint, dst: Endpoint) -> Vec<u8> {
        [self.header.clone(), self.datagram.bytes(src, dst)].concat()
    }

    fn payload(self, len: usize) -> Told {
        Told { datagram: self.datagram.payload(len), ..self }
    }

    fn header_len(&self) -> usize {
        self.header.len() + self.datagram.header_len()
    }
}

/// The datagram as it leaves, with the header in front.
fn headed(conn: &Conn, sent: &Dgram) -> Frame {
    let (from, to) = conn.inside();
    let datagram = moved(routed(sent), family_of(conn.client.0), family_of(from.0));
    let option = conn.toa(OPTION);
    let version = if conn.client.0.is_ipv4() { 0x10 } else { 0x20 };
    let header = [&[version, 17, 0, 4 + option.len() as u8], &option[..]].concat();
    let told = Told { datagram, header };
    conn.leaves_inside(told.packet(from, to), told.ip(), conn.marks)
}

/// Three that tell, an answer between them, and one that does not; `told` is what becomes of a datagram that tells.
fn telling(conn: &Conn, told: impl Fn(&Conn, &Dgram) -> Frame, room: usize) -> Vec<Step> {
    let tells = |what: &str, sent: &Dgram| {
        step(what, vec![conn.client_sends(sent)]).gives(told(conn, sent)).counts("uoa_inserted", 1)
    };
    let mut steps = vec![tells("the first datagram", &dgram(20)).counts("connections_created", 1)];
    steps.push(conn.outbound("an answer", &dgram(30)));
    steps.push(conn.inbound("one byte too many goes without", &dgram(room + 1)).counts("uoa_over_mtu", 1));
    steps.push(tells("as many bytes as leave room", &dgram(room)));
    if conn.client.0.is_ipv4() && conn.real.0.is_ipv4() {
        steps.push(tells("no checksum", &dgram(5).no_checksum()));
    } else {
        steps.push(tells("an odd number of bytes", &dgram(5)));
    }
    steps.push(conn.inbound("the next one tells nothing", &dgram(20)));
    steps
}

fn in_option(conns: &[Conn]) -> Vec<Step> {
    let told = |conn: &Conn, sent: &Dgram| conn.real_gets(&sent.clone().ip_options(&conn.toa(OPTION)));
    telling(&conns[0], told, 1500 - 28 - 8)
}

fn in_header(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let option_len = conn.toa(OPTION).len();
    // What fits both links: the client's and, with the header, the real server's.
    let inside = 1500 - family_of(conn.real.0).header_len() - 8 - 4 - option_len;
    telling(conn, headed, inside)
}

fn forging(conns: &[Conn]) -> Vec<Step> {
    let conn = &conns[0];
    let forged = [OPTION, 8, 0, 53, 198, 51, 100, 66];
    let mut steps = Vec::new();
    for nth in 0..4 {
        let sent = dgram(20).ip_options(&forged);
        let first = if nth < 3 { conn.toa(OPTION) } else { Vec::new() };
        let out = dgram(20).ip_options(&[&first[..], &[1; 8]].concat());
        let what = if nth < 3 { "ours, and NOPs where the client's was" } else { "NOPs" };
        steps.push(
            conn.inbound_as(what, &sent, &out)
                .counts("uoa_stripped", 1)
                .counts("uoa_inserted", u64::from(nth < 3))
                .counts("connections_created", u64::from(nth == 0)),
        );
    }
    steps
}
