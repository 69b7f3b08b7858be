//! Tollgate's configuration: TOML text to a validated [`Config`], or every mistake in it at once.
//!
//! The text is parsed to a tree that knows where each value stands, and walked by hand. Reading goes on after a
//! mistake, so that an operator sees all of them in one go, each as `file:line:column: what is wrong; what would be
//! right`. Nothing is accepted that is not understood: an unknown key is a mistake.
#![forbid(unsafe_code)]

mod cross;
mod diagnostic;
mod forwarding;
mod fullnat;
mod health;
mod mode;
mod model;
mod network;
mod overlap;
mod reader;
mod real_server;
mod scheduling;
mod sections;
mod service;
mod value;
mod words;

pub use diagnostic::Diagnostic;
pub use model::*;
pub use words::{counted, listed};

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use reader::{Reader, Schema};
use toml::de::DeTable;

/// The exit code of every Tollgate program that was given a bad configuration (`EX_USAGE` of sysexits).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// Where programs look for the configuration if they are not told.
pub const DEFAULT_PATH: &str = "/etc/tollgate/tollgate.toml";

/// Every table that a configuration may have, with its keys.
const SCHEMAS: &[&Schema] = &[
    &TOP,
    &sections::DATAPLANE,
    &sections::CONTROL,
    &sections::TIMEOUTS,
    &network::PORT,
    &network::LOCAL_POOL,
    &network::NEIGHBOUR,
    &network::ROUTE,
    &service::SERVICE,
    &real_server::REAL_SERVER,
    &real_server::SORRY_SERVER,
    &scheduling::PERSISTENCE,
    &health::HEALTH_CHECK,
];

const TOP: Schema = Schema {
    name: "the file",
    keys: &["dataplane", "control", "timeouts", "port", "local_pool", "service", "neighbour", "route"],
    not_built: &[("virtual_server", "write `[[service]]` for a virtual service")],
};

/// Every table of the configuration with the keys that it may have, for tools and tests.
pub fn known_keys() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    SCHEMAS.iter().map(|schema| (schema.name, schema.keys))
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the text; a file that cannot be read is one mistake.
    pub fn load(path: impl AsRef<Path>) -> Result<Config, Vec<Diagnostic>> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Config::from_str(&name, &text),
                Err(error) => Err(vec![Diagnostic::not_utf8(&name, error.as_bytes(), error.utf8_error())]),
            },
            Err(error) => Err(vec![Diagnostic::unreadable(&name, &error)]),
        }
    }

    /// Validates a text; `name` stands for the file in diagnostics.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the text.
    pub fn from_str(name: &str, text: &str) -> Result<Config, Vec<Diagnostic>> {
        let sink = diagnostic::Sink::new(name, text);
        let (tree, syntax_errors) = DeTable::parse_recoverable(text);
        for error in &syntax_errors {
            sink.report_syntax(error.span().unwrap_or(0..0), error.message());
        }
        let top = Reader::new(&sink, tree.get_ref(), tree.span(), &TOP);
        let mut config = read(&top);
        // With a broken syntax, whole values are lost, and what refers to them would be called wrong without being so.
        if syntax_errors.is_empty() {
            cross::check(&sink, &config);
            forwarding::begin_tunnels(&sink, &mut config);
        }
        let diagnostics = sink.into_diagnostics();
        if diagnostics.is_empty() { Ok(config.into_model()) } else { Err(diagnostics) }
    }
}

/// The sockets of dataplane and control that a file names, whatever mistakes it has elsewhere: the programs may run
/// with what it said before. What it does not tell, or tells wrongly, has its default.
pub fn sockets(path: impl AsRef<Path>) -> (PathBuf, PathBuf) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let sink = diagnostic::Sink::new("", &text);
    let (tree, _) = DeTable::parse_recoverable(&text);
    let top = Reader::new(&sink, tree.get_ref(), tree.span(), &TOP);
    let (dataplane, control) = read_programs(&top);
    (dataplane.api_socket, control.socket)
}

/// Everything that was read, with the places where it stood.
struct Draft {
    dataplane: Dataplane,
    control: Control,
    timeouts: api::Timeouts,
    ports: Vec<network::PortDraft>,
    pools: Vec<network::PoolDraft>,
    services: Vec<service::ServiceDraft>,
    neighbours: Vec<network::NeighbourDraft>,
    routes: Vec<network::RouteDraft>,
    /// Where the file's own complaints are placed.
    span: reader::Span,
}

fn read(top: &Reader<'_>) -> Draft {
    let timeouts = top
        .table("timeouts", &sections::TIMEOUTS)
        .map_or_else(api::Timeouts::default, |table| sections::timeouts(&table, api::Timeouts::default()));
    let (dataplane, control) = read_programs(top);
    let mut draft = Draft {
        dataplane,
        control,
        timeouts,
        ports: top.tables("port", &network::PORT).iter().map(network::port).collect(),
        pools: top.tables("local_pool", &network::LOCAL_POOL).iter().map(network::local_pool).collect(),
        services: top
            .tables("service", &service::SERVICE)
            .iter()
            .map(|table| service::service(table, timeouts))
            .collect(),
        neighbours: top.tables("neighbour", &network::NEIGHBOUR).iter().map(network::neighbour).collect(),
        routes: top.tables("route", &network::ROUTE).iter().map(network::route).collect(),
        span: 0..0,
    };
    draft.fill_references();
    draft
}

fn read_programs(top: &Reader<'_>) -> (Dataplane, Control) {
    sections::programs(
        &top.table_or_empty("dataplane", &sections::DATAPLANE),
        &top.table_or_empty("control", &sections::CONTROL),
    )
}

impl Draft {
    /// Fills in the ports and pools that the text left to us.
    fn fill_references(&mut self) {
        let ports: Vec<&Port> = self.ports.iter().map(|port| &port.model).collect();
        let containing = |address: std::net::IpAddr| {
            ports.iter().find(|port| port.addresses.iter().any(|&net| value::contains(net, address)))
        };
        for pool in &mut self.pools {
            if pool.port_span.is_none() {
                let first = pool.model.addresses.first();
                let port = first.and_then(|&address| containing(address)).or(ports.first());
                pool.model.port = port.map_or_else(String::new, |port| port.name.clone());
            }
        }
        for service in &mut self.services {
            let given = service.port.as_ref().map(|at| at.value.clone());
            let mut seen = HashSet::new();
            for vip in service.listen.iter().map(|at| at.value.address).filter(|vip| seen.insert(*vip)) {
                let port = || containing(vip).or(ports.first()).map(|port| port.name.clone());
                let port = given.clone().or_else(port).unwrap_or_default();
                service.model.vips.push((vip, port));
            }
            if let (None, [pool], true) =
                (&service.pool_span, self.pools.as_slice(), service.uses_fullnat && !service.pool_broken)
            {
                service.model.local_pool.clone_from(&pool.model.name);
            }
        }
    }

    fn into_model(self) -> Config {
        Config {
            dataplane: self.dataplane,
            control: self.control,
            timeouts: self.timeouts,
            ports: self.ports.into_iter().map(|port| port.model).collect(),
            local_pools: self.pools.into_iter().map(|pool| pool.model).collect(),
            services: self.services.into_iter().map(service::ServiceDraft::into_model).collect(),
            static_neighbours: self.neighbours.into_iter().map(|neighbour| neighbour.model).collect(),
            static_routes: self.routes.into_iter().map(|route| route.model).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
