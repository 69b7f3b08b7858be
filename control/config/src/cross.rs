//! What no value can show alone: names given twice, references to nothing, more than there is room for.

use std::collections::HashMap;
use std::hash::Hash;

use crate::Draft;
use crate::diagnostic::Sink;
use crate::reader::{Span, printable, suggestion};
use crate::service::ServiceDraft;
use crate::{forwarding, overlap};

pub(crate) fn check(sink: &Sink<'_>, draft: &Draft) {
    ports(sink, draft);
    names(sink, draft);
    overlap::check(sink, draft);
    forwarding::check(sink, draft);
    references(sink, draft);
    limits(sink, draft);
}

/// Remembers where a thing was first seen and complains of the second time.
pub(crate) struct Seen<'s, 't, K> {
    sink: &'s Sink<'t>,
    first: HashMap<K, Span>,
}

impl<'s, 't, K: Eq + Hash> Seen<'s, 't, K> {
    pub(crate) fn new(sink: &'s Sink<'t>) -> Self {
        Seen { sink, first: HashMap::new() }
    }

    pub(crate) fn add(&mut self, key: K, span: Option<&Span>, message: impl FnOnce() -> String, help: &str) {
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

/// Names of pools and services.
fn names(sink: &Sink<'_>, draft: &Draft) {
    let mut names = Seen::new(sink);
    for pool in &draft.pools {
        let name = pool.model.name.as_str();
        let message = || format!("a local pool is named `{name}`");
        names.add(name, pool.name_span.as_ref(), message, "give each pool its own name");
    }
    let mut names = Seen::new(sink);
    for service in &draft.services {
        let name = service.model.name.as_str();
        let message = || format!("a service is named `{}`", printable(name));
        names.add(name, service.name_span.as_ref(), message, "give each service its own name");
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
        if let Some(port) = &service.port {
            check_port(&port.value, Some(&port.span));
        }
        if pools_known && !service.pool_broken && service.uses_fullnat {
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
    let real_servers: usize = draft.services.iter().map(|service| service.reals().count()).sum();
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
