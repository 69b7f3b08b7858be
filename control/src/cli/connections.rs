//! `tollgate connections`.

use std::net::SocketAddr;

use api::{
    Connection, ConnectionPage, ConnectionQuery, Request, Response, ServiceKey, ServiceStats, VirtualRange,
};
use config::listed;
use serde::Serialize;

use super::peer::Peer;
use super::table::{Align, Table};
use super::{CliError, ConnectionFilter, Sockets, print, print_json};

/// Connections per page; the dataplane caps it at 10,000.
const PAGE: u32 = 2000;

/// So many services are named where one is asked for that there is not.
const SERVICES_NAMED: usize = 20;

#[derive(Serialize)]
struct View<'a> {
    protocol: String,
    client: SocketAddr,
    #[serde(rename = "virtual")]
    virtual_: SocketAddr,
    local: Option<SocketAddr>,
    real: SocketAddr,
    mode: String,
    /// ipvsadm's word for the mode.
    forward: &'static str,
    state: &'a str,
    expires_s: u32,
    worker: u16,
}

impl<'a> View<'a> {
    fn new(connection: &'a Connection) -> Self {
        View {
            protocol: connection.protocol.to_string(),
            client: connection.client,
            virtual_: connection.virtual_,
            local: connection.local,
            real: connection.real,
            mode: connection.mode.to_string(),
            forward: connection.mode.forward_word(),
            state: &connection.state,
            expires_s: connection.expires_s,
            worker: connection.worker,
        }
    }
}

pub(super) fn run(sockets: &Sockets, filter: &ConnectionFilter, json: bool) -> Result<(), CliError> {
    let mut dataplane = sockets.dataplane()?;
    let services = match &filter.service {
        Some(wanted) => find_services(&dataplane.stats()?.services, wanted)?.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let mut found: Vec<Connection> = Vec::new();
    let mut complete = true;
    for service in services {
        complete &= add(&mut dataplane, filter, service, &mut found)?;
    }
    let views: Vec<View<'_>> = found.iter().map(View::new).collect();
    if json { print_json(&views) } else { print(&render(&views, complete)) }
}

/// Adds the connections of one service, or of all, up to the limit; whether there are no more of them.
fn add(
    dataplane: &mut Peer,
    filter: &ConnectionFilter,
    service: Option<ServiceKey>,
    found: &mut Vec<Connection>,
) -> Result<bool, CliError> {
    let mut query =
        ConnectionQuery { service, client: filter.client, real: filter.real, limit: 0, cursor: 0 };
    while found.len() < filter.limit as usize {
        let left = filter.limit - u32::try_from(found.len()).unwrap_or(filter.limit);
        query.limit = left.min(PAGE);
        let page = page(dataplane, &query)?;
        found.extend(page.connections);
        match page.next {
            // A cursor that stands still would ask the same for ever.
            Some(next) if next != query.cursor => query.cursor = next,
            _ => return Ok(true),
        }
    }
    Ok(false)
}

fn page(dataplane: &mut Peer, query: &ConnectionQuery) -> Result<ConnectionPage, CliError> {
    match dataplane.dataplane(&Request::GetConnections(query.clone()))? {
        Response::Connections(page) => Ok(page),
        _ => Err(dataplane.unexpected().into()),
    }
}

/// The service of a name, or those with an address and port, of which there is one for each protocol.
fn find_services(services: &[ServiceStats], wanted: &str) -> Result<Vec<ServiceKey>, CliError> {
    let endpoint: Option<SocketAddr> = wanted.parse().ok();
    let has = |range: &VirtualRange, at: SocketAddr| {
        range.address == at.ip() && (range.ports.0..=range.ports.1).contains(&at.port())
    };
    let is_at = |service: &&ServiceStats| {
        let listens = |at| service.key.virtual_ == at || service.also.iter().any(|range| has(range, at));
        endpoint.is_some_and(listens) || service.also.iter().any(|range| range.to_string() == wanted)
    };
    let keys = |services: Vec<&ServiceStats>| services.iter().map(|service| service.key).collect::<Vec<_>>();
    let named = keys(services.iter().filter(|service| service.name == wanted).collect());
    let found = if named.is_empty() { keys(services.iter().filter(is_at).collect()) } else { named };
    if !found.is_empty() {
        return Ok(found);
    }
    let there = match services.len() {
        0 => "none at all".to_owned(),
        _ => listed(services.iter().map(|service| service.key.virtual_.to_string()), SERVICES_NAMED),
    };
    Err(CliError::NoService { wanted: wanted.to_owned(), there })
}

fn render(connections: &[View<'_>], complete: bool) -> String {
    let left = |name| (name, Align::Left);
    let columns =
        ["pro", "expire", "state", "client", "virtual", "local", "real", "forward", "worker"].map(left);
    let mut table = Table::new(&columns);
    for connection in connections {
        table.row(vec![
            connection.protocol.to_uppercase(),
            format!("{:02}:{:02}", connection.expires_s / 60, connection.expires_s % 60),
            connection.state.to_owned(),
            connection.client.to_string(),
            connection.virtual_.to_string(),
            connection.local.map_or_else(|| "-".to_owned(), |local| local.to_string()),
            connection.real.to_string(),
            connection.forward.to_owned(),
            connection.worker.to_string(),
        ]);
    }
    let mut text = table.render();
    if connections.is_empty() {
        text.push_str("(no connections)\n");
    } else if !complete {
        text.push_str(&format!("(the first {}; --limit shows more)\n", connections.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Mode, Protocol};

    #[test]
    fn connections_are_shown_with_their_endpoints_mode_and_state() {
        let endpoint = |last: u8, port: u16| SocketAddr::from(([10, 1, 0, last], port));
        let tcp = Connection {
            key: ServiceKey { protocol: Protocol::Tcp, virtual_: endpoint(100, 80) },
            protocol: Protocol::Tcp,
            client: endpoint(2, 40_000),
            virtual_: endpoint(100, 80),
            local: Some(endpoint(200, 1024)),
            real: endpoint(11, 80),
            mode: Mode::FullNat,
            state: "ESTABLISHED".to_owned(),
            expires_s: 899,
            worker: 1,
        };
        let v6 = |host: u16, port| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], port));
        let udp = Connection {
            key: ServiceKey { protocol: Protocol::Udp, virtual_: v6(0x100, 53) },
            protocol: Protocol::Udp,
            client: v6(2, 5353),
            virtual_: v6(0x100, 53),
            local: None,
            real: v6(0x11, 53),
            mode: Mode::Dr,
            state: "UDP".to_owned(),
            expires_s: 10,
            worker: 0,
        };
        let template =
            Connection { client: endpoint(2, 0), state: "NONE".to_owned(), local: None, ..tcp.clone() };
        insta::assert_snapshot!(render(&[&tcp, &udp, &template].map(View::new), false));
    }

    fn service(protocol: Protocol, address: &str, name: &str, also: Vec<VirtualRange>) -> ServiceStats {
        ServiceStats {
            key: ServiceKey { protocol, virtual_: address.parse().unwrap() },
            name: name.to_owned(),
            also,
            scheduler: api::Scheduler::Wlc,
            scheduler_flags: api::SchedulerFlags::default(),
            one_packet: false,
            persistence: None,
            no_real_server: 0,
            real_servers: vec![],
        }
    }

    #[test]
    fn services_are_found_by_name_and_by_each_address_in_every_protocol_and_spelling() {
        let range = VirtualRange {
            protocol: Protocol::Tcp,
            address: "2001:db8::101".parse().unwrap(),
            ports: (8000, 8100),
        };
        let services = [
            service(Protocol::Tcp, "10.1.0.100:53", "dns over tcp", vec![]),
            service(Protocol::Udp, "10.1.0.100:53", "dns", vec![]),
            service(Protocol::Tcp, "[2001:db8::100]:80", "web", vec![range]),
        ];
        for (wanted, found) in [
            ("dns", vec![1]),
            ("10.1.0.100:53", vec![0, 1]),
            ("[2001:db8::100]:80", vec![2]),
            ("[2001:DB8:0:0::100]:80", vec![2]),
            ("[2001:db8::101]:8000-8100", vec![2]),
            ("[2001:db8::101]:8050", vec![2]),
        ] {
            let keys: Vec<_> = found.iter().map(|at: &usize| services[*at].key).collect();
            assert_eq!(find_services(&services, wanted).unwrap(), keys, "{wanted}");
        }
        for wanted in ["10.1.0.100:54", "10.1.0.100", "[2001:db8::101]:8101", ""] {
            let error = find_services(&services, wanted).unwrap_err().to_string();
            assert!(error.ends_with("there is 10.1.0.100:53, 10.1.0.100:53, [2001:db8::100]:80"), "{error}");
        }
        let many: Vec<_> =
            (1..=30).map(|port| service(Protocol::Tcp, &format!("10.1.0.1:{port}"), "web", vec![])).collect();
        let error = find_services(&many, "10.1.0.1:80").unwrap_err().to_string();
        assert!(error.ends_with(", 10.1.0.1:20, and 10 more"), "{error}");
    }
}
