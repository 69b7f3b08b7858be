//! What no value can show alone: names given twice, references to nothing, addresses that get in each other's way.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use crate::Draft;
use crate::diagnostic::Sink;
use crate::reader::{Span, printable, suggestion};
use crate::service::ServiceDraft;

pub(crate) fn check(sink: &Sink<'_>, draft: &Draft) {
    ports(sink, draft);
    let pool_addresses = pools(sink, draft);
    services(sink, draft, &pool_addresses);
    references(sink, draft);
    limits(sink, draft);
}

/// Remembers where a thing was first seen and complains of the second time.
struct Seen<'s, 't, K> {
    sink: &'s Sink<'t>,
    first: HashMap<K, Span>,
}

impl<'s, 't, K: Eq + Hash> Seen<'s, 't, K> {
    fn new(sink: &'s Sink<'t>) -> Self {
        Seen { sink, first: HashMap::new() }
    }

    fn add(&mut self, key: K, span: Option<&Span>, message: impl FnOnce() -> String, help: &str) {
        let Some(span) = span else { return };
        match self.first.get(&key) {
            Some(first) => {
                let line = self.sink.line(first);
                self.sink.report(span, format!("{} already, in line {line}", message()), help);
            }
            None => {
                self.first.insert(key, span.clone());
            }
        }
    }
}

fn ports(sink: &Sink<'_>, draft: &Draft) {
    if draft.ports.is_empty() {
        let help = "add a `[[port]]` with `name` and `device`".to_owned();
        sink.report_missing(&draft.span, "there is no [[port]]".to_owned(), help);
    }
    let mut names = Seen::new(sink);
    let mut devices = Seen::new(sink);
    let mut twins = Seen::new(sink);
    let mut addresses = Seen::new(sink);
    for port in &draft.ports {
        let model = &port.model;
        let name = || format!("a port is named `{}`", model.name);
        names.add(&model.name, port.name_span.as_ref(), name, "give each port its own name");
        let device = || "a port has this device".to_owned();
        devices.add(format!("{:?}", model.device), port.device_span.as_ref(), device, "name another device");
        if let Some(twin) = &model.kernel_interface {
            // Where the twin takes its name from the port, the port's name has been complained of.
            let span =
                port.kernel_interface_span.as_ref().filter(|span| Some(*span) != port.name_span.as_ref());
            let message = || format!("a kernel twin is named `{twin}`");
            twins.add(
                twin,
                span.or(port.name_span.as_ref()),
                message,
                "give each port its own kernel_interface",
            );
        }
        for ((address, _), span) in model.addresses.iter().zip(&port.address_spans) {
            let message = || format!("a port has the address {address}");
            addresses.add(*address, Some(span), message, "give it to one port");
        }
    }
}

/// Which pool has an address, and where that stands.
type PoolAddresses<'d> = HashMap<IpAddr, (&'d str, &'d Span)>;

fn pools<'d>(sink: &Sink<'_>, draft: &'d Draft) -> PoolAddresses<'d> {
    let mut own = HashMap::new();
    for port in &draft.ports {
        for ((address, _), span) in port.model.addresses.iter().zip(&port.address_spans) {
            own.entry(*address).or_insert((&port.model.name, span));
        }
    }
    let mut names = Seen::new(sink);
    let mut seen: PoolAddresses<'d> = HashMap::new();
    for pool in &draft.pools {
        let name = pool.model.name.as_str();
        let message = || format!("a local pool is named `{name}`");
        names.add(name, pool.name_span.as_ref(), message, "give each pool its own name");
        let mixed = pool.model.addresses.iter().any(|address| address.is_ipv4())
            && pool.model.addresses.iter().any(IpAddr::is_ipv6);
        if mixed {
            let help = "make one pool for each family";
            sink.report(&pool.span, format!("local pool `{name}` mixes IPv4 and IPv6"), help);
        }
        for (address, span) in pool.model.addresses.iter().zip(&pool.address_spans) {
            if let Some((port, place)) = own.get(address) {
                let line = sink.line(place);
                let message =
                    format!("local address {address} is the gateway's own on port `{port}`, line {line}");
                sink.report(span, message, "use an address that nothing else has");
            }
            if let Some((other, place)) = seen.insert(*address, (name, span)) {
                let line = sink.line(place);
                let message = format!("local address {address} is in pool `{other}` already, line {line}");
                sink.report(span, message, "list it once");
            }
        }
    }
    seen
}

fn services(sink: &Sink<'_>, draft: &Draft, pool_addresses: &PoolAddresses<'_>) {
    let mut names = Seen::new(sink);
    let mut keys = Seen::new(sink);
    let mut vips = HashMap::new();
    for service in &draft.services {
        let model = &service.model;
        let span = service.listen_span.as_ref();
        let name_span = service.name_span.as_ref();
        names.add(
            &model.name,
            name_span,
            || format!("a service is named `{}`", printable(&model.name)),
            "give each service its own name",
        );
        let key = || format!("{} {} is a service", model.protocol, model.listen);
        keys.add((model.protocol, model.listen), span, key, "list its real servers there");
        let Some(span) = span else { continue };
        vips.entry(model.listen.ip()).or_insert(span);
        if let Some((pool, place)) = pool_addresses.get(&model.listen.ip()) {
            let (ip, line) = (model.listen.ip(), sink.line(place));
            let message =
                format!("virtual address {ip} is a local address of pool `{pool}` too, line {line}");
            sink.report(span, message, "take another address for the service or out of the pool");
        }
    }
    for service in &draft.services {
        real_servers(sink, draft, service, &vips, pool_addresses);
    }
}

fn real_servers(
    sink: &Sink<'_>,
    draft: &Draft,
    service: &ServiceDraft,
    vips: &HashMap<IpAddr, &Span>,
    pool_addresses: &PoolAddresses<'_>,
) {
    let pool = draft.pools.iter().find(|pool| pool.model.name == service.model.local_pool);
    let pool_family = pool.and_then(|pool| pool.model.addresses.first()).map(IpAddr::is_ipv4);
    let mut seen = Seen::new(sink);
    let mut mismatch_told = false;
    for (real, span) in service.model.real_servers.iter().zip(&service.real_spans) {
        let Some(span) = span else { continue };
        let message = || format!("this service has the real server {}", real.address);
        seen.add(real.address, Some(span), message, "list it once; `weight` gives it a larger share");
        let ip = real.address.ip();
        if let Some(place) = vips.get(&ip) {
            let line = sink.line(place);
            let message = format!("real server {ip} is a virtual address of this gateway, line {line}");
            sink.report(span, message, "write the real server's own address");
        } else if let Some((pool, _)) = pool_addresses.get(&ip) {
            let message = format!("real server {ip} is a local address of pool `{pool}`");
            sink.report(span, message, "write the real server's own address");
        }
        if let Some(pool_is_ipv4) = pool_family.filter(|family| *family != ip.is_ipv4() && !mismatch_told) {
            mismatch_told = true;
            let (has, needs) = if pool_is_ipv4 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let pool = &service.model.local_pool;
            let message =
                format!("local pool `{pool}` has {has} addresses, but real server {ip} needs {needs}");
            let place = service.pool_span.as_ref().unwrap_or(&service.span);
            sink.report(place, message, format!("name a pool with {needs} addresses"));
        }
    }
}

/// References by name that lead nowhere.
fn references(sink: &Sink<'_>, draft: &Draft) {
    let ports: Vec<&str> = draft.ports.iter().map(|port| port.model.name.as_str()).collect();
    // With a port whose name is broken, a reference to it would be called wrong without being so.
    let ports_known = draft.ports.iter().all(|port| port.name_span.is_some());
    let check_port = |name: &str, span: Option<&Span>| {
        let Some(span) = span.filter(|_| ports_known && !ports.contains(&name)) else { return };
        sink.report(span, format!("there is no port named `{}`", printable(name)), suggestion(name, &ports));
    };
    for pool in &draft.pools {
        check_port(&pool.model.port, pool.port_span.as_ref());
    }
    for neighbour in &draft.neighbours {
        check_port(&neighbour.model.port, neighbour.port_span.as_ref());
    }
    for route in &draft.routes {
        check_port(&route.model.port, route.port_span.as_ref());
    }
    let mut neighbours = Seen::new(sink);
    for neighbour in &draft.neighbours {
        let model = &neighbour.model;
        let message = || format!("port `{}` has the neighbour {}", model.port, model.address);
        let key = (&model.port, model.address);
        neighbours.add(key, neighbour.address_span.as_ref(), message, "give it one MAC address");
    }
    let mut routes = Seen::new(sink);
    for route in &draft.routes {
        let model = &route.model;
        let message = || format!("there is a route to {}/{}", model.network, model.prefix_len);
        let key = (model.network, model.prefix_len);
        routes.add(key, route.network_span.as_ref(), message, "multipath routes are not built yet");
    }
    let pools: Vec<&str> = draft.pools.iter().map(|pool| pool.model.name.as_str()).collect();
    let pools_known = draft.pools.iter().all(|pool| pool.name_span.is_some());
    for service in &draft.services {
        check_port(&service.model.port, service.port_span.as_ref());
        if pools_known && !service.pool_broken {
            check_pool(sink, service, &pools);
        }
    }
}

fn check_pool(sink: &Sink<'_>, service: &ServiceDraft, pools: &[&str]) {
    let name = service.model.local_pool.as_str();
    match &service.pool_span {
        Some(span) if !pools.contains(&name) => {
            let message = format!("there is no local pool named `{}`", printable(name));
            sink.report(span, message, suggestion(name, pools));
        }
        None if pools.is_empty() => {
            let message = "mode `fullnat` needs a local pool, and there is none".to_owned();
            let help = "add a `[[local_pool]]` with `name` and `addresses`".to_owned();
            sink.report_missing(&service.span, message, help);
        }
        None if pools.len() > 1 => {
            let message =
                "`local_pool` is missing in [[service]], and there is more than one pool".to_owned();
            sink.report_missing(
                &service.span,
                message,
                suggestion("", pools).replace("there is", "name one of"),
            );
        }
        _ => {}
    }
}

fn limits(sink: &Sink<'_>, draft: &Draft) {
    let real_servers: usize = draft.services.iter().map(|service| service.model.real_servers.len()).sum();
    let rows = [
        ("services", draft.services.len(), draft.dataplane.services_max, "services_max"),
        ("real servers", real_servers, draft.dataplane.real_servers_max, "real_servers_max"),
    ];
    for (what, count, limit, key) in rows {
        if count > limit as usize {
            let message = format!("{count} {what}, room for {limit}");
            sink.report(&draft.span, message, format!("raise `{key}` in [dataplane] to at least {count}"));
        }
    }
}
