//! The TOA option, the PROXY protocol's header and UOA: which one, how it gets into a packet, and the MSS that leaves
//! room for it.

use wire::checksum::Delta;
use wire::proxy::{self, Version};
use wire::tcp::options::{self, Lowered};
use wire::toa::{self, Encoded, Inserted};
use wire::uoa::{self, Form};
use wire::{Family, PacketBuf, U16, ethernet, tcp};

use crate::addr::{Endpoint, Tuple};
use crate::conn::{Conn, Direction, Preface, Stage, Uoa};

/// The MSS is never lowered below the smallest that every IPv4 host must take (RFC 9293 §3.7.1), less TOA.
const MSS_MIN: u16 = 536;

/// Bytes that a translated packet may need in front: the longest option, and an IPv6 header for an IPv4 header.
pub(crate) const HEADROOM_MAX: usize = toa::LEN_MAX + 20;
const _: () = assert!(uoa::LEN_MAX <= toa::LEN_MAX);

impl From<Form> for Uoa {
    fn from(form: Form) -> Uoa {
        match form {
            Form::Option => Uoa::Option,
            Form::Header => Uoa::Header,
        }
    }
}

impl Uoa {
    fn form(self) -> Option<Form> {
        match self {
            Uoa::Off => None,
            Uoa::Option => Some(Form::Option),
            Uoa::Header => Some(Form::Header),
        }
    }
}

/// Bytes by which a datagram of the connection grows that carries its client.
pub(crate) fn uoa_len(conn: &Conn) -> usize {
    let leaves = if conn.is_wide(Direction::Outbound) { Family::V6 } else { Family::V4 };
    conn.uoa.form().map_or(0, |form| form.len(!conn.is_wide(Direction::Inbound), leaves))
}

/// Puts the client into a datagram that is otherwise as it leaves; `None`, and no change, when there is no room.
pub(crate) fn insert_uoa<P: PacketBuf>(packet: &mut P, conn: &Conn, client: Endpoint) -> Option<()> {
    let client = uoa::Client { addr: client.addr.to_ip(), port: U16::from_bytes(client.port.to_ne_bytes()) };
    uoa::insert(packet, ethernet::HEADER_LEN, conn.uoa.form()?, client).ok()
}

/// Length of the option that carries a connection's client, in bytes.
#[inline(always)]
pub(crate) fn toa_len(conn: &Conn) -> usize {
    let plain = if conn.is_wide(Direction::Inbound) { toa::V6_LEN } else { toa::V4_LEN };
    if conn.toa_form.with_exid { plain + toa::EXID_LEN } else { plain }
}

/// The option that carries a connection's client.
pub(crate) fn toa_of(conn: &Conn, client: Endpoint) -> Encoded {
    let encode = if conn.toa_form.with_exid { toa::encode_with_exid } else { toa::encode };
    encode(conn.toa_kind, client.addr.to_ip(), U16::from_bytes(client.port.to_ne_bytes()))
}

/// Bytes that every packet of the client leaves free for whichever it is.
pub(crate) fn room_of(conn: &Conn) -> usize {
    match conn.uoa {
        Uoa::Off if conn.tells_client() => toa_len(conn),
        Uoa::Off => conn.preface.len.into(),
        Uoa::Option | Uoa::Header => uoa_len(conn),
    }
}

/// The PROXY protocol's header of a connection; `inbound` as its packets come in.
pub(crate) fn header_of(is_v1: bool, inbound: &Tuple) -> proxy::Encoded {
    let version = if is_v1 { Version::V1 } else { Version::V2 };
    proxy::encode(version, inbound.src.to_socket_addr(), inbound.dst.to_socket_addr())
}

/// What a new connection's real server is to be told by the PROXY protocol.
pub(crate) fn preface_of(version: Version, inbound: &Tuple) -> Preface {
    let is_v1 = version == Version::V1;
    let len = header_of(is_v1, inbound).as_bytes().len() as u8;
    Preface { len, is_v1, stage: Stage::Owed }
}

/// Lowers the MSS of a SYN-ACK, so that a full segment of the client leaves room for what is inserted.
pub(crate) fn lower_mss(segment: &mut [u8], by: usize) -> Option<Lowered> {
    let by = by as u16;
    options::lower_mss(tcp::options_of_mut(segment)?, by, MSS_MIN.saturating_sub(by))
}

/// Inserts a TOA option as the first; `None`, and no change, when there is no room. Where the packet must not grow, the
/// padding of the other options has to make room: what a client padded, what was stripped and what no receiver reads
/// gives way, so it cannot hide behind that.
pub(crate) fn insert_toa<P: PacketBuf>(
    packet: &mut P,
    l4: usize,
    option: &Encoded,
    may_grow: bool,
) -> Option<Inserted> {
    if may_grow {
        return toa::insert(packet, ethernet::HEADER_LEN, l4, option.as_bytes()).ok();
    }
    let options = tcp::options_of_mut(packet.data_mut().get_mut(l4..)?)?;
    let tcp = options::put_first(options, option.as_bytes())?;
    Some(Inserted { ip: Delta::ZERO, tcp })
}
