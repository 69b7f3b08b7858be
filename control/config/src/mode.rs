//! `mode` and the keys of its tunnel, of a service and of its real servers.
//!
//! What a real server does not say it has from its service. Where tunnels begin is found out later, when the ports and
//! routes are known (`forwarding`).

use std::net::IpAddr;

use api::TunnelKind;

use crate::diagnostic::Sink;
use crate::reader::{At, Fault, Reader, choose};
use crate::value;

/// A mode as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    FullNat,
    Nat,
    Dr,
    Tun,
}

impl Word {
    const ALL: [Word; 4] = [Word::FullNat, Word::Nat, Word::Dr, Word::Tun];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Word::FullNat => "fullnat",
            Word::Nat => "nat",
            Word::Dr => "dr",
            Word::Tun => "tun",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ipip,
    Gre,
    Gue,
}

const TUNNEL_KEYS: [&str; 4] = ["tunnel", "tunnel_port", "tunnel_checksum", "tunnel_source"];

/// What a table says of mode and tunnel.
pub(crate) struct Said {
    mode: Option<Word>,
    kind: Option<At<Kind>>,
    port: Option<u16>,
    checksum: Option<bool>,
    source: Option<At<IpAddr>>,
    /// Something is said that cannot be read.
    is_broken: bool,
}

/// Mode and tunnel of one real server, put together from what is said there and in its service.
#[derive(Debug, Clone)]
pub(crate) struct Forwarding {
    /// `None`: it cannot be read.
    pub(crate) mode: Option<Word>,
    /// The tunnel; means something in mode `tun` only.
    pub(crate) tunnel: TunnelKind,
    /// Where the tunnel begins, if it is said.
    pub(crate) source: Option<At<IpAddr>>,
}

/// What a service says.
pub(crate) fn of_service(table: &Reader<'_>) -> Said {
    said(table, None)
}

/// `inherit` is the word for what is said elsewhere.
fn said(table: &Reader<'_>, inherit: Option<&str>) -> Said {
    let kinds = [("ipip", Kind::Ipip), ("gre", Kind::Gre), ("gue", Kind::Gue)];
    let mode = unless(table, "mode", inherit, |key| table.parsed(key, "\"fullnat\"", word));
    let kind = unless(table, "tunnel", inherit, |key| table.choice(key, &kinds));
    let source = unless(table, "tunnel_source", inherit.or(Some("auto")), |key| {
        table.parsed(key, "\"10.2.0.1\"", |text| value::host_address(value::address(text)?))
    });
    let port = table.integer::<u16>("tunnel_port", 1..=65_535).map(|at| at.value);
    Said {
        is_broken: mode.is_err()
            || kind.is_err()
            || source.is_err()
            || (table.has("tunnel_port") && port.is_none()),
        mode: mode.unwrap_or_default().map(|at| at.value),
        kind: kind.unwrap_or_default(),
        port,
        checksum: table.boolean("tunnel_checksum"),
        source: source.unwrap_or_default(),
    }
}

/// A value that cannot be read and has been complained of.
struct Unreadable;

/// A key's value; `None` if it is not given, or is the word for that.
fn unless<T>(
    table: &Reader<'_>,
    key: &'static str,
    default: Option<&str>,
    read: impl FnOnce(&'static str) -> Option<At<T>>,
) -> Result<Option<At<T>>, Unreadable> {
    if !table.has(key) || default.is_some_and(|word| table.is_word(key, word)) {
        return Ok(None);
    }
    read(key).map(Some).ok_or(Unreadable)
}

/// With the words that ipvsadm, keepalived and the FULLNAT fork have for the same.
fn word(text: &str) -> Result<Word, Fault> {
    let meant = match text.to_ascii_lowercase().as_str() {
        "fnat" | "full-nat" => "fullnat",
        "masq" | "masquerading" => "nat",
        "route" | "gatewaying" | "direct" => "dr",
        "tunnel" | "ipip" => "tun",
        _ => return choose(text, &Word::ALL.map(|word| (word.text(), word))),
    };
    Err(Fault::new(format!("`{text}` is not known"), format!("did you mean `{meant}`?")))
}

impl Said {
    /// The mode of real servers that say nothing.
    fn default_mode(&self) -> Word {
        self.mode.unwrap_or(Word::FullNat)
    }

    /// Mode and tunnel of a real server that says nothing itself.
    pub(crate) fn alone(&self, sink: &Sink<'_>) -> Forwarding {
        let nothing =
            Said { mode: None, kind: None, port: None, checksum: None, source: None, is_broken: false };
        nothing.within(self, sink)
    }

    /// Mode and tunnel of a real server that says this, in a service that says `service`.
    fn within(self, service: &Said, sink: &Sink<'_>) -> Forwarding {
        let mode = self.mode.unwrap_or(service.default_mode());
        let kind = self.kind.as_ref().or(service.kind.as_ref());
        let port = self.port.or(service.port);
        let checksum = self.checksum.or(service.checksum).unwrap_or(false);
        let is_broken = self.is_broken || service.is_broken;
        let tunnel = match kind.map(|at| (at.value, port)) {
            None | Some((Kind::Ipip, _)) => TunnelKind::Ipip,
            Some((Kind::Gre, _)) => TunnelKind::Gre { checksum },
            Some((Kind::Gue, port)) => TunnelKind::Gue { port: port.unwrap_or(0), checksum },
        };
        if let (Word::Tun, TunnelKind::Gue { port: 0, .. }, Some(kind), false) =
            (mode, tunnel, kind, is_broken)
        {
            let message = "tunnel `gue` needs the UDP port on which real servers take it";
            sink.report(&kind.span, message, "add e.g. `tunnel_port = 6080`");
        }
        let source = self.source.or_else(|| service.source.clone());
        Forwarding { mode: (!is_broken).then_some(mode), tunnel, source }
    }
}

/// Mode and tunnel of a real server.
pub(crate) fn of_real_server(table: &Reader<'_>, service: &Said) -> Forwarding {
    let forwarding = said(table, Some("service")).within(service, table.sink);
    complain_of_unfit(table, std::slice::from_ref(&forwarding));
    forwarding
}

/// Complains of tunnel keys in a table that mean nothing to any of those that they are for.
pub(crate) fn complain_of_unfit(table: &Reader<'_>, all: &[Forwarding]) {
    if all.iter().any(|forwarding| forwarding.mode.is_none()) {
        return;
    }
    let tunnels = || all.iter().filter(|it| it.mode == Some(Word::Tun)).map(|it| it.tunnel);
    for key in TUNNEL_KEYS.into_iter().filter(|key| table.has(key)) {
        let is_of_use = match key {
            "tunnel_port" => tunnels().any(|kind| matches!(kind, TunnelKind::Gue { .. })),
            "tunnel_checksum" => tunnels().any(|kind| kind != TunnelKind::Ipip),
            _ => tunnels().next().is_some(),
        };
        if is_of_use {
            continue;
        }
        if tunnels().next().is_none() {
            table.unfit(key, "this is a part of mode `tun`", "set `mode = \"tun\"` or take the key away");
        } else if key == "tunnel_port" {
            table.unfit(key, "only tunnel `gue` has a port", "set `tunnel = \"gue\"` or take the key away");
        } else {
            let help = "set `tunnel = \"gre\"` or \"gue\", or take the key away";
            table.unfit(key, "tunnel `ipip` has no checksum", help);
        }
    }
}
