//! Addresses that get in each other's way: VIPs, LIPs, the gateway's own ones and those of real servers.

use std::collections::HashMap;
use std::net::IpAddr;

use api::{Protocol, VirtualRange};

use crate::Draft;
use crate::cross::Seen;
use crate::diagnostic::Sink;
use crate::reader::Span;
use crate::service::ServiceDraft;

/// What the gateway has an address for, and where that stands.
struct Taken<'d> {
    /// Which port.
    own: HashMap<IpAddr, (&'d str, &'d Span)>,
    /// Which pool.
    pools: HashMap<IpAddr, (&'d str, &'d Span)>,
    vips: HashMap<IpAddr, &'d Span>,
}

pub(crate) fn check(sink: &Sink<'_>, draft: &Draft) {
    let mut taken = Taken { own: HashMap::new(), pools: HashMap::new(), vips: HashMap::new() };
    for port in &draft.ports {
        for ((address, _), span) in port.model.addresses.iter().zip(&port.address_spans) {
            taken.own.entry(*address).or_insert((&port.model.name, span));
        }
    }
    pools(sink, draft, &mut taken);
    vips(sink, draft, &mut taken);
    overlapping_services(sink, &draft.services);
    for service in &draft.services {
        real_servers(sink, service, &taken);
    }
}

fn pools<'d>(sink: &Sink<'_>, draft: &'d Draft, taken: &mut Taken<'d>) {
    for pool in &draft.pools {
        for (address, span) in pool.model.addresses.iter().zip(&pool.address_spans) {
            if let Some((port, place)) = taken.own.get(address) {
                let line = sink.line(place);
                let message =
                    format!("local address {address} is the gateway's own on port `{port}`, line {line}");
                sink.report(span, message, "use an address that nothing else has");
            }
            if let Some((other, place)) = taken.pools.insert(*address, (&pool.model.name, span)) {
                let line = sink.line(place);
                let message = format!("local address {address} is in pool `{other}` already, line {line}");
                sink.report(span, message, "list it once");
            }
        }
    }
}

fn vips<'d>(sink: &Sink<'_>, draft: &'d Draft, taken: &mut Taken<'d>) {
    for at in draft.services.iter().flat_map(|service| &service.listen) {
        let vip = at.value.address;
        taken.vips.entry(vip).or_insert(&at.span);
        if let Some((pool, place)) = taken.pools.get(&vip) {
            let line = sink.line(place);
            let message =
                format!("virtual address {vip} is a local address of pool `{pool}` too, line {line}");
            sink.report(&at.span, message, "take another address for the service or out of the pool");
        }
    }
}

/// Every port of an address belongs to one service, but a service of all ports leaves those that are named to others.
fn overlapping_services(sink: &Sink<'_>, services: &[ServiceDraft]) {
    type Place = (Protocol, IpAddr, u16);
    let mut named: Vec<(Place, u16, &Span)> = Vec::new();
    let mut of_all_ports = Seen::new(sink);
    for at in services.iter().flat_map(|service| &service.listen) {
        let VirtualRange { protocol, address, ports: (first, last) } = at.value;
        if first > 0 {
            named.push(((protocol, address, first), last, &at.span));
            continue;
        }
        let message = || format!("all ports of {protocol} {address} belong to a service");
        of_all_ports.add((protocol, address), Some(&at.span), message, "list its real servers there");
    }
    named.sort_by_key(|(place, ..)| *place);
    let mut widest: Option<(Place, u16, &Span)> = None;
    for (place, last, span) in named {
        let is_same = |other: &Place| (other.0, other.1) == (place.0, place.1);
        let before = widest.filter(|(other, ..)| is_same(other));
        if let Some((_, _, other)) = before.filter(|(_, end, _)| *end >= place.2) {
            // The one further down in the text is called wrong.
            let (first, second) = if other.start < span.start { (other, span) } else { (span, other) };
            let (protocol, address, port) = place;
            let message = format!(
                "port {port} of {protocol} {address} belongs to a service already, in line {}",
                sink.line(first)
            );
            sink.report(second, message, "give each port to one service; list all its real servers there");
        }
        if before.is_none_or(|(_, end, _)| end < last) {
            widest = Some((place, last, span));
        }
    }
}

fn real_servers(sink: &Sink<'_>, service: &ServiceDraft, taken: &Taken<'_>) {
    let mut seen = Seen::new(sink);
    for real in service.reals() {
        let Some(span) = &real.address_span else { continue };
        let (address, ip) = (real.model.address, real.model.address.ip());
        let message = || format!("this service has the real server {address}");
        seen.add(address, Some(span), message, "list it once; `weight` gives it a larger share");
        let what = if let Some(place) = taken.vips.get(&ip) {
            format!("a virtual address of this gateway, line {}", sink.line(place))
        } else if let Some((pool, _)) = taken.pools.get(&ip) {
            format!("a local address of pool `{pool}`")
        } else if let Some((port, place)) = taken.own.get(&ip) {
            format!("the gateway's own on port `{port}`, line {}", sink.line(place))
        } else {
            continue;
        };
        sink.report(span, format!("real server {ip} is {what}"), "write the real server's own address");
    }
}
