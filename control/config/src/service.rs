//! `[[service]]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use api::{Protocol, ProxyVersion, Scheduler, Timeouts, ToaMode, VirtualRange};

use crate::fullnat::{NOT_OF_UDP, TAKE_AWAY, fullnat_only};
use crate::mode::{self, Forwarding, Word};
use crate::model::Service;
use crate::network::optional_port;
use crate::reader::{At, Fault, Reader, Schema, Span, choose};
use crate::real_server::{
    Context, Ports, REAL_SERVER, RealDraft, SORRY_SERVER, bare_real_server, optional_seconds, real_server,
};
use crate::scheduling::{Scheduling, scheduling};
use crate::sections::{TIMEOUTS, timeouts};
use crate::value;

const LISTEN: &str = "write `listen`, e.g. `listen = \"10.1.0.100:80\"`";
const GROUP: &str = "list the addresses, e.g. `listen = [\"10.1.0.100:80\", \"10.1.0.100:443\"]`";
const PROXY: &str = "write `proxy_protocol`, e.g. `proxy_protocol = \"v2\"`";
const PERSISTENCE: &str = "write e.g. `persistence = { timeout = \"6m\", netmask = \"255.255.255.0\" }`";

pub(crate) const SERVICE: Schema = Schema {
    name: "[[service]]",
    keys: &[
        "name",
        "listen",
        "protocol",
        "port",
        "mode",
        "tunnel",
        "tunnel_port",
        "tunnel_checksum",
        "tunnel_source",
        "scheduler",
        "scheduler_flags",
        "one_packet",
        "persistence",
        "local_pool",
        "toa",
        "toa_exid",
        "toa_no_room",
        "uoa",
        "uoa_datagrams",
        "uoa_no_room",
        "proxy_protocol",
        "strip_toa",
        "tcp_timestamps",
        "rebase_sequence",
        "expire_nodest_conn",
        "expire_quiescent_template",
        "reset_on_expiry",
        "sorry_server",
        "slow_start",
        "drain_deadline",
        "health_check",
        "timeouts",
        "real_server",
    ],
    not_built: &[
        ("persistent", PERSISTENCE),
        ("persistence_timeout", PERSISTENCE),
        ("persistence_granularity", PERSISTENCE),
        ("fwmark", GROUP),
        ("group", GROUP),
        ("virtual_server_group", GROUP),
        ("syn_proxy", "the SYN proxy is not built yet"),
        ("synproxy", "the SYN proxy is not built yet"),
        ("send_proxy", PROXY),
        ("send_proxy_v2", PROXY),
        ("ops", "write `one_packet = true`"),
        ("hashed", "write `one_packet = true`"),
        ("sched_flags", "write `scheduler_flags`, e.g. `scheduler_flags = [\"mh-port\"]`"),
        ("lb_algo", "write `scheduler`"),
        ("lvs_sched", "write `scheduler`"),
        ("lb_kind", "write `mode`"),
        ("lvs_method", "write `mode`"),
        ("virtual", LISTEN),
        ("vip", LISTEN),
        ("address", LISTEN),
        ("real_servers", "write a `[[service.real_server]]` table for each"),
    ],
};

/// A service and where its parts stand. A span that is `None` belongs to a value that was wrong or not given.
pub(crate) struct ServiceDraft {
    pub(crate) model: Service,
    pub(crate) span: Span,
    pub(crate) name_span: Option<Span>,
    /// Its addresses, as far as they are right, the first one first.
    pub(crate) listen: Vec<At<VirtualRange>>,
    pub(crate) port: Option<At<String>>,
    pub(crate) pool_span: Option<Span>,
    /// Whether the pool was given but cannot be read, so that nothing is known about it.
    pub(crate) pool_broken: bool,
    /// Whether a real server is reached by FULLNAT, or would be if there were one.
    pub(crate) uses_fullnat: bool,
    pub(crate) real_servers: Vec<RealDraft>,
    pub(crate) sorry_server: Option<RealDraft>,
}

impl ServiceDraft {
    /// All that packets may be forwarded to.
    pub(crate) fn reals(&self) -> impl Iterator<Item = &RealDraft> {
        self.real_servers.iter().chain(&self.sorry_server)
    }

    pub(crate) fn into_model(self) -> Service {
        Service {
            real_servers: self.real_servers.into_iter().map(|real| real.model).collect(),
            sorry_server: self.sorry_server.map(|sorry| sorry.model),
            ..self.model
        }
    }
}

pub(crate) fn service(table: &Reader<'_>, base: Timeouts) -> ServiceDraft {
    table.require("listen", "\"10.1.0.100:80\"");
    table.require("protocol", "\"tcp\"");
    let protocol = table.parsed("protocol", "\"tcp\"", protocol).map(|at| at.value);
    let (listen, is_complete) = listen(table, protocol.unwrap_or(Protocol::Tcp));
    let is_ipv4 = listen.first().map(|at| at.value.address.is_ipv4());
    let scheduling = scheduling(table, protocol, is_ipv4);
    port_zero_needs_persistence(table, &listen, &scheduling);
    let said = mode::of_service(table);
    let context = Context {
        ports: ports(&listen, is_complete),
        is_ipv4,
        check: table.table_check(),
        drain_deadline: optional_seconds(table, "drain_deadline", value::seconds),
        said: &said,
    };
    let real_servers: Vec<RealDraft> =
        table.tables("real_server", &REAL_SERVER).iter().map(|real| real_server(real, &context)).collect();
    let sorry_server = table
        .table_or_word("sorry_server", "none", &SORRY_SERVER)
        .map(|sorry| bare_real_server(&sorry, &context));
    let mut all: Vec<Forwarding> =
        real_servers.iter().chain(&sorry_server).map(|real| real.forwarding.clone()).collect();
    if all.is_empty() {
        all.push(said.alone(table.sink));
    }
    mode::complain_of_unfit(table, &all);
    let uses_fullnat = all.iter().any(|forwarding| matches!(forwarding.mode, None | Some(Word::FullNat)));
    let translates = uses_fullnat || all.iter().any(|forwarding| forwarding.mode == Some(Word::Nat));
    assemble(
        table,
        base,
        Parts { protocol, listen, scheduling, context, real_servers, sorry_server, uses_fullnat, translates },
    )
}

/// What [`service`] has read before it puts all together.
struct Parts<'s> {
    protocol: Option<Protocol>,
    listen: Vec<At<VirtualRange>>,
    scheduling: Scheduling,
    context: Context<'s>,
    real_servers: Vec<RealDraft>,
    sorry_server: Option<RealDraft>,
    uses_fullnat: bool,
    /// Whether a real server is reached by FULLNAT or NAT.
    translates: bool,
}

fn assemble(table: &Reader<'_>, base: Timeouts, parts: Parts<'_>) -> ServiceDraft {
    let Parts { protocol, listen, scheduling, context, real_servers, sorry_server, uses_fullnat, translates } =
        parts;
    let key = listen.first().map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |at| {
        SocketAddr::new(at.value.address, at.value.ports.0)
    });
    let (name, name_span) = name(table, protocol.unwrap_or(Protocol::Tcp), key);
    let proxy = proxy_protocol(table, protocol, translates);
    let fullnat = fullnat_only(table, protocol, uses_fullnat, proxy.is_some());
    let switch = |key| table.boolean(key).unwrap_or(false);
    let pool = fullnat.pool;
    ServiceDraft {
        model: Service {
            name,
            protocol: protocol.unwrap_or(Protocol::Tcp),
            listen: key,
            also: also(&listen),
            vips: Vec::new(),
            scheduler: scheduling.scheduler,
            scheduler_flags: scheduling.flags,
            one_packet: scheduling.one_packet,
            persistence: scheduling.persistence,
            local_pool: pool.as_ref().map_or_else(String::new, |at| at.value.clone()),
            toa: fullnat.toa,
            toa_exid: fullnat.toa_exid,
            toa_no_room: fullnat.toa_no_room,
            uoa: fullnat.uoa,
            proxy_protocol: proxy,
            tcp_timestamps: fullnat.tcp_timestamps,
            rebase_sequence: fullnat.rebase_sequence,
            expire_nodest_conn: switch("expire_nodest_conn"),
            expire_quiescent_template: switch("expire_quiescent_template"),
            reset_on_expiry: reset_on_expiry(table, protocol),
            strip_toa: strip_toa(
                table,
                fullnat.toa != ToaMode::Off || proxy.is_some() || fullnat.uoa.is_some(),
            ),
            sorry_server: None,
            slow_start: slow_start(table, &scheduling),
            health_check: context.check,
            timeouts: service_timeouts(table, base),
            real_servers: Vec::new(),
        },
        span: table.span.clone(),
        name_span,
        listen,
        port: optional_port(table),
        pool_broken: table.has("local_pool") && !table.is_word("local_pool", "auto") && pool.is_none(),
        pool_span: pool.map(|at| at.span),
        uses_fullnat,
        real_servers,
        sorry_server,
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

/// The addresses as far as they can be read, and whether these are all.
fn listen(table: &Reader<'_>, protocol: Protocol) -> (Vec<At<VirtualRange>>, bool) {
    let example = "\"10.1.0.100:80\"";
    let (found, count) = if table.is_list("listen") {
        let items = table.list("listen", example).unwrap_or_default();
        if items.is_empty() {
            table.unfit("listen", "the list is empty", format!("name an address and port, e.g. {example}"));
        }
        let found = items.iter().filter_map(|item| item.parsed(example, value::virtual_range)).collect();
        (found, items.len())
    } else {
        (Vec::from_iter(table.parsed("listen", example, value::virtual_range)), 1)
    };
    let found: Vec<At<(IpAddr, (u16, u16))>> = found;
    if let Some(first) = found.first().map(|at| at.value.0.is_ipv4())
        && let Some(other) = found.iter().find(|at| at.value.0.is_ipv4() != first)
    {
        let fault = Fault::new("a service has addresses of one family", "make a service for each family");
        table.fault(&other.span, "listen", fault);
    }
    let is_complete = found.len() == count && count > 0;
    let ranges = found.into_iter().map(|At { value: (address, ports), span }| At {
        value: VirtualRange { protocol, address, ports },
        span,
    });
    (ranges.collect(), is_complete)
}

/// What the addresses have beyond the first port of the first one.
fn also(listen: &[At<VirtualRange>]) -> Vec<VirtualRange> {
    let Some((first, further)) = listen.split_first() else { return Vec::new() };
    let (low, high) = first.value.ports;
    let rest = (high > low).then(|| VirtualRange { ports: (low + 1, high), ..first.value });
    rest.into_iter().chain(further.iter().map(|at| at.value)).collect()
}

/// The port, if clients can ask for one only.
fn ports(listen: &[At<VirtualRange>], is_complete: bool) -> Ports {
    let mut all = listen.iter().map(|at| at.value.ports);
    let first = all.next().filter(|_| is_complete);
    let Some((low, high)) = first else { return Ports::Unknown };
    match NonZeroU16::new(low) {
        Some(port) if low == high && all.all(|other| other == (low, high)) => Ports::One(port),
        _ => Ports::Several,
    }
}

/// Without persistence a client's connections to several ports would go to several servers (as IPVS has it).
fn port_zero_needs_persistence(table: &Reader<'_>, listen: &[At<VirtualRange>], scheduling: &Scheduling) {
    let zero = listen.iter().find(|at| at.value.ports.0 == 0);
    if let Some(at) = zero.filter(|_| scheduling.persistence.is_none() && !scheduling.persistence_broken) {
        let message = "port 0 stands for every port, which needs persistence";
        let fault = Fault::new(message, "add `persistence = { timeout = \"6m\" }` or name the port");
        table.fault(&at.span, "listen", fault);
    }
}

fn service_timeouts(table: &Reader<'_>, base: Timeouts) -> Option<Timeouts> {
    let own = table.table("timeouts", &TIMEOUTS)?;
    let found = timeouts(&own, base);
    (found != base).then_some(found)
}

fn protocol(text: &str) -> Result<Protocol, Fault> {
    match text {
        "sctp" => Err(value::not_built("protocol", text, &["tcp", "udp"])),
        _ => choose(text, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]),
    }
}

/// A returning server gets its share slowly only where shares are by weight.
fn slow_start(table: &Reader<'_>, scheduling: &Scheduling) -> Option<Duration> {
    let found = optional_seconds(table, "slow_start", value::seconds_up_to_an_hour)?;
    let why = match scheduling.scheduler {
        Scheduler::Rr | Scheduler::Lc | Scheduler::Dh => "does not look at weights",
        Scheduler::Fo => "takes the weight for a rank",
        _ => return Some(found),
    };
    let message = format!("scheduler `{}` {why}", scheduling.scheduler);
    table.unfit("slow_start", message, "take a weighted scheduler, e.g. `wlc`, or take the key away");
    None
}

fn proxy_protocol(table: &Reader<'_>, protocol: Option<Protocol>, translates: bool) -> Option<ProxyVersion> {
    let choices = [("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    let version = table.choice("proxy_protocol", &choices)?.value?;
    if protocol == Some(Protocol::Udp) {
        table.unfit("proxy_protocol", NOT_OF_UDP, TAKE_AWAY);
    } else if !translates {
        let message = "only real servers of mode `fullnat` or `nat` can be told so, and there is none";
        table.unfit("proxy_protocol", message, TAKE_AWAY);
    }
    Some(version)
}

/// Beside an address that the gateway tells, another one would only be a forgery.
fn strip_toa(table: &Reader<'_>, tells_client: bool) -> bool {
    let wanted = table.boolean("strip_toa").unwrap_or(true);
    if !wanted && tells_client {
        let message = "the gateway tells the client's address itself, so another one could only be forged";
        table.unfit("strip_toa", message, "set `toa = \"off\"` (`uoa`, over UDP) or take the key away");
    }
    wanted
}

fn reset_on_expiry(table: &Reader<'_>, protocol: Option<Protocol>) -> bool {
    let wanted = table.boolean("reset_on_expiry").unwrap_or(false);
    if wanted && protocol == Some(Protocol::Udp) {
        table.unfit("reset_on_expiry", NOT_OF_UDP, TAKE_AWAY);
    }
    wanted
}
