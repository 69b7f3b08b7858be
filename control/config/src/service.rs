//! `[[service]]` and `[[service.real_server]]`.

use std::net::{Ipv4Addr, SocketAddr};

use api::{Mode, Protocol, Scheduler, Timeouts, ToaMode};

use crate::health::{HEALTH_CHECK, health_check};
use crate::model::{HealthCheck, RealServer, Service};
use crate::network::optional_port;
use crate::reader::{Fault, Reader, Schema, Span, choose};
use crate::sections::{TIMEOUTS, timeouts};
use crate::value;

const PERSISTENCE: &str = "persistence is not built yet; each connection is scheduled on its own";
const THRESHOLD: &str = "thresholds are not built yet; limit new connections with `weight`";

pub(crate) const SERVICE: Schema = Schema {
    name: "[[service]]",
    keys: &[
        "name",
        "listen",
        "protocol",
        "port",
        "mode",
        "scheduler",
        "local_pool",
        "toa",
        "health_check",
        "timeouts",
        "real_server",
    ],
    not_built: &[
        ("persistence", PERSISTENCE),
        ("persistent", PERSISTENCE),
        ("persistence_timeout", PERSISTENCE),
        ("persistence_granularity", PERSISTENCE),
        ("fwmark", "services by firewall mark are not built yet; name address and port with `listen`"),
        ("syn_proxy", "the SYN proxy is not built yet"),
        ("synproxy", "the SYN proxy is not built yet"),
        ("sorry_server", "sorry servers are not built yet"),
        (
            "proxy_protocol",
            "the PROXY protocol is not built yet; `toa` tells real servers the client's address",
        ),
        ("ops", "one-packet scheduling is not built yet"),
        ("sched_flags", "scheduler flags are not built yet"),
        ("virtual", "write `listen`, e.g. `listen = \"10.1.0.100:80\"`"),
        ("vip", "write `listen`, e.g. `listen = \"10.1.0.100:80\"`"),
        ("address", "write `listen`, e.g. `listen = \"10.1.0.100:80\"`"),
        ("real_servers", "write a `[[service.real_server]]` table for each"),
    ],
};

pub(crate) const REAL_SERVER: Schema = Schema {
    name: "[[service.real_server]]",
    keys: &["address", "weight", "health_check"],
    not_built: &[
        ("u_threshold", THRESHOLD),
        ("l_threshold", THRESHOLD),
        ("uthreshold", THRESHOLD),
        ("lthreshold", THRESHOLD),
        ("mode", "one mode serves all real servers of a service; set it in [[service]]"),
    ],
};

/// A service and where its parts stand. A span that is `None` belongs to a value that was wrong or not given.
pub(crate) struct ServiceDraft {
    pub(crate) model: Service,
    pub(crate) span: Span,
    pub(crate) name_span: Option<Span>,
    pub(crate) listen_span: Option<Span>,
    pub(crate) port_span: Option<Span>,
    pub(crate) pool_span: Option<Span>,
    /// Whether the pool was given but cannot be read, so that nothing is known about it.
    pub(crate) pool_broken: bool,
    /// One per real server of the model.
    pub(crate) real_spans: Vec<Option<Span>>,
}

pub(crate) fn service(table: &Reader<'_>, base: Timeouts) -> ServiceDraft {
    table.require("listen", "\"10.1.0.100:80\"");
    table.require("protocol", "\"tcp\"");
    table.require("mode", "\"fullnat\"");
    let listen = table.parsed("listen", "\"10.1.0.100:80\"", virtual_endpoint);
    let protocol = table.parsed("protocol", "\"tcp\"", protocol);
    let mode = table.parsed("mode", "\"fullnat\"", mode);
    let port = optional_port(table);
    let pool = if table.is_word("local_pool", "auto") {
        None
    } else {
        table.parsed("local_pool", "\"inside\"", value::name)
    };
    let pool_broken = table.has("local_pool") && !table.is_word("local_pool", "auto") && pool.is_none();
    let check = table.table_check();
    let endpoint = listen.as_ref().map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |at| at.value);
    let protocol = protocol.map_or(Protocol::Tcp, |at| at.value);
    let (name, name_span) = name(table, protocol, endpoint);
    let (real_servers, real_spans) = table
        .tables("real_server", &REAL_SERVER)
        .iter()
        .map(|real| real_server(real, check.as_ref()))
        .unzip();
    ServiceDraft {
        model: Service {
            name,
            protocol,
            listen: endpoint,
            port: port.as_ref().map_or_else(String::new, |at| at.value.clone()),
            mode: mode.map_or(Mode::FullNat, |at| at.value),
            scheduler: table.parsed("scheduler", "\"wrr\"", scheduler).map_or(Scheduler::Wlc, |at| at.value),
            local_pool: pool.as_ref().map_or_else(String::new, |at| at.value.clone()),
            toa: toa(table),
            timeouts: service_timeouts(table, base),
            health_check: check,
            real_servers,
        },
        span: table.span.clone(),
        name_span,
        listen_span: listen.map(|at| at.span),
        port_span: port.map(|at| at.span),
        pool_span: pool.map(|at| at.span),
        pool_broken,
        real_spans,
    }
}

impl Reader<'_> {
    fn table_check(&self) -> Option<HealthCheck> {
        self.table("health_check", &HEALTH_CHECK).and_then(|table| health_check(&table))
    }
}

fn name(table: &Reader<'_>, protocol: Protocol, listen: SocketAddr) -> (String, Option<Span>) {
    let given = if table.is_word("name", "auto") {
        None
    } else {
        table.parsed("name", "\"web\"", value::service_name)
    };
    match given {
        Some(at) => (at.value, Some(at.span)),
        None => (format!("{listen}/{protocol}"), None),
    }
}

fn service_timeouts(table: &Reader<'_>, base: Timeouts) -> Option<Timeouts> {
    let own = table.table("timeouts", &TIMEOUTS)?;
    let found = timeouts(&own, base);
    (found != base).then_some(found)
}

fn real_server(table: &Reader<'_>, of_service: Option<&HealthCheck>) -> (RealServer, Option<Span>) {
    table.require("address", "\"10.2.0.11:80\"");
    let address = table.parsed("address", "\"10.2.0.11:80\"", virtual_endpoint);
    let health_check = if !table.has("health_check") || table.is_word("health_check", "service") {
        of_service.cloned()
    } else {
        table.table_check()
    };
    let real = RealServer {
        address: address.as_ref().map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |at| at.value),
        weight: table.integer("weight", 0..=65_535).map_or(1, |at| at.value),
        health_check,
    };
    (real, address.map(|at| at.span))
}

/// An endpoint that the engine of this version can serve.
fn virtual_endpoint(text: &str) -> Result<SocketAddr, Fault> {
    let found = value::endpoint(text)?;
    if found.is_ipv6() {
        return Err(Fault::new("IPv6 is not built yet", "what exists is IPv4, e.g. \"10.1.0.100:80\""));
    }
    if found.ip().is_unspecified() || found.ip().is_multicast() || found.ip().is_loopback() {
        let message = format!("{} is not the address of a host on a network", found.ip());
        return Err(Fault::new(message, "write a unicast address"));
    }
    Ok(found)
}

fn protocol(text: &str) -> Result<Protocol, Fault> {
    match text {
        "udp" | "sctp" => Err(value::not_built("protocol", text, &["tcp"])),
        _ => choose(text, &[("tcp", Protocol::Tcp)]),
    }
}

fn mode(text: &str) -> Result<Mode, Fault> {
    match text {
        "dr" | "nat" | "tun" | "snat" => Err(value::not_built("mode", text, &["fullnat"])),
        "fnat" | "FULLNAT" => Err(Fault::new(format!("`{text}` is not known"), "did you mean `fullnat`?")),
        _ => choose(text, &[("fullnat", Mode::FullNat)]),
    }
}

fn scheduler(text: &str) -> Result<Scheduler, Fault> {
    match text {
        "lc" | "lblc" | "lblcr" | "dh" | "sh" | "sed" | "nq" | "fo" | "ovf" | "mh" => {
            Err(value::not_built("scheduler", text, &["rr", "wrr", "wlc"]))
        }
        _ => choose(text, &[("wlc", Scheduler::Wlc), ("wrr", Scheduler::Wrr), ("rr", Scheduler::Rr)]),
    }
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
