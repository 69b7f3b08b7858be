//! `[[service.real_server]]` and `sorry_server`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use api::{Mode, Tunnel};

use crate::health::{HEALTH_CHECK, health_check};
use crate::mode::{self, Forwarding, Said, Word};
use crate::model::{HealthCheck, RealServer};
use crate::reader::{At, Fault, Reader, Schema, Span};
use crate::value;

pub(crate) const REAL_SERVER: Schema = Schema {
    name: "[[service.real_server]]",
    keys: &[
        "address",
        "mode",
        "tunnel",
        "tunnel_port",
        "tunnel_checksum",
        "tunnel_source",
        "weight",
        "upper_threshold",
        "lower_threshold",
        "drain_deadline",
        "health_check",
    ],
    not_built: &[
        ("u_threshold", "write `upper_threshold`"),
        ("l_threshold", "write `lower_threshold`"),
        ("uthreshold", "write `upper_threshold`"),
        ("lthreshold", "write `lower_threshold`"),
        ("lvs_method", "write `mode`"),
    ],
};

pub(crate) const SORRY_SERVER: Schema = Schema {
    name: "sorry_server = { … }",
    keys: &["address", "mode", "tunnel", "tunnel_port", "tunnel_checksum", "tunnel_source"],
    not_built: &[("health_check", "a sorry server counts as up always")],
};

/// A real server and where its parts stand.
pub(crate) struct RealDraft {
    pub(crate) model: RealServer,
    /// `None`: the address cannot be read.
    pub(crate) address_span: Option<Span>,
    pub(crate) forwarding: Forwarding,
}

/// What real servers take from their service.
pub(crate) struct Context<'s> {
    pub(crate) said: &'s Said,
    pub(crate) ports: Ports,
    /// `None`: it cannot be told.
    pub(crate) is_ipv4: Option<bool>,
    pub(crate) check: Option<HealthCheck>,
    pub(crate) drain_deadline: Option<Duration>,
}

/// The ports that clients may ask for.
#[derive(Clone, Copy)]
pub(crate) enum Ports {
    One(NonZeroU16),
    Several,
    Unknown,
}

impl Reader<'_> {
    pub(crate) fn table_check(&self) -> Option<HealthCheck> {
        self.table("health_check", &HEALTH_CHECK).and_then(|table| health_check(&table))
    }
}

/// A time in whole seconds; `None` for "none".
pub(crate) fn optional_seconds(
    table: &Reader<'_>,
    key: &'static str,
    parse: fn(&str) -> Result<u32, Fault>,
) -> Option<Duration> {
    if table.is_word(key, "none") {
        return None;
    }
    table.parsed(key, "\"30s\"", parse).map(|at| Duration::from_secs(at.value.into()))
}

pub(crate) fn real_server(table: &Reader<'_>, context: &Context<'_>) -> RealDraft {
    let mut draft = bare_real_server(table, context);
    let model = &mut draft.model;
    if !table.has("health_check") || table.is_word("health_check", "service") {
        model.health_check.clone_from(&context.check);
    } else {
        model.health_check = table.table_check();
    }
    if !table.has("drain_deadline") || table.is_word("drain_deadline", "service") {
        model.drain_deadline = context.drain_deadline;
    } else {
        model.drain_deadline = optional_seconds(table, "drain_deadline", value::seconds);
    }
    model.weight = table.integer("weight", 0..=65_535).map_or(1, |at| at.value);
    let threshold = |key| table.integer(key, 0..=i32::MAX as u64).map_or(0, |at| at.value);
    (model.upper_threshold, model.lower_threshold) =
        (threshold("upper_threshold"), threshold("lower_threshold"));
    if model.lower_threshold > model.upper_threshold {
        let message =
            format!("{} is above the upper threshold, {}", model.lower_threshold, model.upper_threshold);
        table.unfit("lower_threshold", message, "write a smaller number, or raise `upper_threshold`");
    }
    let check_port = model.health_check.as_ref().map(|check| check.port);
    if let (Some(None), 0, Some(span), false) =
        (check_port, model.address.port(), &draft.address_span, matches!(context.ports, Ports::Unknown))
    {
        let message = "its health check has no port to ask, as clients may ask for several";
        table.fault(span, "address", Fault::new(message, "add e.g. `port = 80` to the `health_check`"));
    }
    draft
}

/// Address and mode, which a sorry server has too.
pub(crate) fn bare_real_server(table: &Reader<'_>, context: &Context<'_>) -> RealDraft {
    table.require("address", "\"10.2.0.11:80\"");
    let address = table.parsed("address", "\"10.2.0.11:80\"", value::real_endpoint);
    let forwarding = mode::of_real_server(table, context.said);
    if let (Some(At { value: (ip, port), span }), Some(mode)) = (&address, forwarding.mode) {
        check_port(table, span, mode, *port, context.ports);
        check_family(table, span, mode, *ip, context.is_ipv4);
    }
    let of_service = if let Ports::One(port) = context.ports { Some(port) } else { None };
    let (ip, port) = address.as_ref().map_or((Ipv4Addr::UNSPECIFIED.into(), None), |at| at.value);
    RealDraft {
        model: RealServer {
            address: SocketAddr::new(ip, port.or(of_service).map_or(0, NonZeroU16::get)),
            mode: match forwarding.mode.unwrap_or(Word::FullNat) {
                Word::FullNat => Mode::FullNat,
                Word::Nat => Mode::Nat,
                Word::Dr => Mode::Dr,
                // Where it begins is found out when the ports are known.
                Word::Tun => Mode::Tun(Tunnel { kind: forwarding.tunnel, source: ip }),
            },
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            drain_deadline: None,
            health_check: None,
        },
        address_span: address.map(|at| at.span),
        forwarding,
    }
}

/// DR and TUN leave the packet as it is.
fn check_port(table: &Reader<'_>, span: &Span, mode: Word, given: Option<NonZeroU16>, ports: Ports) {
    let (Word::Dr | Word::Tun, Some(given)) = (mode, given) else { return };
    let cannot = format!("mode `{}` cannot translate ports", mode.text());
    let fault = match ports {
        Ports::One(port) if port != given => Fault::new(
            format!("{cannot}, and the real server has port {given}, the service {port}"),
            format!("write port {port} or none, or take mode `fullnat` or `nat`"),
        ),
        Ports::Several => Fault::new(
            format!("{cannot}, and the service has several"),
            "leave the port out, or take mode `fullnat` or `nat`",
        ),
        Ports::One(_) | Ports::Unknown => return,
    };
    table.fault(span, "address", fault);
}

fn check_family(table: &Reader<'_>, span: &Span, mode: Word, real: IpAddr, is_ipv4: Option<bool>) {
    let help = match mode {
        Word::Nat => "take mode `fullnat`, which can",
        Word::Dr => "take mode `fullnat` or `tun`, which can",
        Word::FullNat | Word::Tun => return,
    };
    if is_ipv4.is_some_and(|is_ipv4| is_ipv4 != real.is_ipv4()) {
        let (of_real, of_service) = if real.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let message = format!(
            "mode `{}` cannot change the address family, and the real server is {of_real}, the service {of_service}",
            mode.text()
        );
        table.fault(span, "address", Fault::new(message, help));
    }
}
