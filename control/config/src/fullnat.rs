//! What only FULLNAT real servers have a use for: `local_pool`, `toa` and its form, `uoa`, `tcp_timestamps` and
//! `rebase_sequence`.

use api::{Protocol, TcpTimestamps, ToaMode, ToaNoRoom, Uoa, UoaForm};

use crate::reader::{At, Fault, Reader};
use crate::value;

pub(crate) const NOT_OF_UDP: &str = "this is a part of TCP, and the service is UDP";
const NOT_OF_TCP: &str = "this is for UDP, and the service is TCP, which has `toa`";
pub(crate) const TAKE_AWAY: &str = "take the key away";

/// What only FULLNAT real servers have a use for.
pub(crate) struct FullNatOnly {
    pub(crate) pool: Option<At<String>>,
    pub(crate) toa: ToaMode,
    pub(crate) toa_exid: bool,
    pub(crate) toa_no_room: ToaNoRoom,
    pub(crate) uoa: Option<Uoa>,
    pub(crate) tcp_timestamps: TcpTimestamps,
    pub(crate) rebase_sequence: bool,
}

pub(crate) fn fullnat_only(
    table: &Reader<'_>,
    protocol: Option<Protocol>,
    uses_fullnat: bool,
    uses_proxy: bool,
) -> FullNatOnly {
    let pool = if table.is_word("local_pool", "auto") {
        None
    } else {
        table.parsed("local_pool", "\"inside\"", value::name)
    };
    let choices =
        [("keep", TcpTimestamps::Keep), ("strip", TcpTimestamps::Strip), ("rewrite", TcpTimestamps::Rewrite)];
    let tcp_timestamps = table.choice("tcp_timestamps", &choices).map_or(TcpTimestamps::Keep, |at| at.value);
    let rebase_sequence = table.boolean("rebase_sequence").unwrap_or(false);
    let toa = if uses_proxy { no_toa(table) } else { toa(table) };
    let (toa_exid, toa_no_room) = toa_form(table, toa);
    let uoa = uoa(table, protocol);
    let is_udp = protocol == Some(Protocol::Udp);
    let given = [
        ("local_pool", pool.is_some(), false),
        ("toa", table.has("toa") && toa != ToaMode::Off, true),
        ("toa_exid", toa_exid, true),
        ("toa_no_room", toa_no_room != ToaNoRoom::Pass, true),
        ("uoa", uoa.is_some(), false),
        ("tcp_timestamps", tcp_timestamps != TcpTimestamps::Keep, true),
        ("rebase_sequence", rebase_sequence, true),
    ];
    for (key, is_asked, is_of_tcp) in given {
        if is_asked && !uses_fullnat {
            table.unfit(
                key,
                "only real servers of mode `fullnat` have a use for it, and there is none",
                TAKE_AWAY,
            );
        } else if is_asked && is_udp && is_of_tcp {
            table.unfit(key, NOT_OF_UDP, TAKE_AWAY);
        }
    }
    let has_toa = uses_fullnat && !is_udp;
    FullNatOnly {
        pool,
        toa: if has_toa { toa } else { ToaMode::Off },
        toa_exid,
        toa_no_room,
        uoa: uoa.filter(|_| uses_fullnat && is_udp),
        tcp_timestamps,
        rebase_sequence,
    }
}

/// Beside the PROXY protocol.
fn no_toa(table: &Reader<'_>) -> ToaMode {
    if table.has("toa") && !table.is_word("toa", "off") {
        let message = "`proxy_protocol` tells real servers the client's address already";
        table.unfit("toa", message, "take one of both keys away");
    }
    ToaMode::Off
}

/// How datagrams tell the client.
fn uoa(table: &Reader<'_>, protocol: Option<Protocol>) -> Option<Uoa> {
    const DATAGRAMS_DEFAULT: u8 = 3;
    let choices = [("off", None), ("option", Some(UoaForm::Option)), ("header", Some(UoaForm::Header))];
    let form = table.choice("uoa", &choices).and_then(|at| at.value);
    let datagrams = table.integer("uoa_datagrams", 1..=255).map(|at| at.value);
    let no_room = no_room(table, "uoa_no_room");
    if form.is_some() && protocol == Some(Protocol::Tcp) {
        table.unfit("uoa", NOT_OF_TCP, TAKE_AWAY);
    }
    for (key, is_asked) in [
        ("uoa_datagrams", datagrams.is_some_and(|datagrams| datagrams != DATAGRAMS_DEFAULT)),
        ("uoa_no_room", no_room != ToaNoRoom::Pass),
    ] {
        if is_asked && form.is_none() {
            table.unfit(key, "datagrams tell nothing (`uoa`)", TAKE_AWAY);
        }
    }
    form.map(|form| Uoa { form, datagrams: datagrams.unwrap_or(DATAGRAMS_DEFAULT), no_room })
}

/// What becomes of what should carry the client's address and has no room for it.
fn no_room(table: &Reader<'_>, key: &'static str) -> ToaNoRoom {
    let choices = [("pass", ToaNoRoom::Pass), ("drop", ToaNoRoom::Drop)];
    table.choice(key, &choices).map_or(ToaNoRoom::Pass, |at| at.value)
}

/// Whether the option has an experiment identifier, and what becomes of segments without room for it.
fn toa_form(table: &Reader<'_>, toa: ToaMode) -> (bool, ToaNoRoom) {
    let exid = table.boolean("toa_exid").unwrap_or(false);
    let no_room = no_room(table, "toa_no_room");
    for (key, is_asked) in [("toa_exid", exid), ("toa_no_room", no_room != ToaNoRoom::Pass)] {
        if is_asked && toa == ToaMode::Off {
            table.unfit(key, "the option is off (`toa`)", TAKE_AWAY);
        }
    }
    if exid && toa == (ToaMode::Option { kind: 200 }) {
        let message = "only the experimental kinds have experiment identifiers (RFC 6994)";
        table.unfit("toa_exid", message, "set `toa` to 254 or 253");
    }
    (exid, no_room)
}

/// The kinds are those that receivers in the field know: 254 and 253 (LVS and its kin) and 200 (jupiter).
fn toa(table: &Reader<'_>) -> ToaMode {
    const KIND_DEFAULT: u8 = 254;
    if table.is_word("toa", "off") {
        return ToaMode::Off;
    }
    let kind: Option<u8> = if table.is_string("toa") {
        // No other word is right; this says so.
        table.integer_or_word("toa", 200..=254, "off")
    } else {
        table.integer("toa", 0..=255).and_then(|at| {
            if matches!(at.value, 200 | 253 | 254) {
                return Some(at.value);
            }
            let message = format!("option kind {} is not one that receivers know", at.value);
            table.fault(&at.span, "toa", Fault::new(message, "write 254, 253, 200 or \"off\""));
            None
        })
    };
    ToaMode::Option { kind: kind.unwrap_or(KIND_DEFAULT) }
}
