//! Whether real servers can be reached in their modes: DR only on a link of ours, FULLNAT only with a local address of
//! their family, TUN only if it is known where the tunnel begins.

use std::collections::HashMap;
use std::net::IpAddr;

use api::{Mode, Tunnel};

use crate::Draft;
use crate::diagnostic::Sink;
use crate::mode::Word;
use crate::reader::Span;
use crate::service::ServiceDraft;
use crate::value::contains;

pub(crate) fn check(sink: &Sink<'_>, draft: &Draft) {
    let surroundings = Surroundings::new(draft);
    let pools: HashMap<&str, (bool, bool)> = draft
        .pools
        .iter()
        .map(|pool| {
            let addresses = &pool.model.addresses;
            let has = (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6));
            (pool.model.name.as_str(), has)
        })
        .collect();
    for service in &draft.services {
        on_link(sink, service, &surroundings);
        if let Some(has) = pools.get(service.model.local_pool.as_str()) {
            local_addresses(sink, service, *has);
        }
    }
}

/// Fills in where tunnels begin.
pub(crate) fn begin_tunnels(sink: &Sink<'_>, draft: &mut Draft) {
    let surroundings = Surroundings::new(draft);
    let services = draft.services.iter_mut();
    for real in services.flat_map(|service| service.real_servers.iter_mut().chain(&mut service.sorry_server))
    {
        let Some(span) = real.address_span.as_ref().filter(|_| real.forwarding.mode == Some(Word::Tun))
        else {
            continue;
        };
        let ip = real.model.address.ip();
        let source = match &real.forwarding.source {
            Some(at) => {
                given_source(sink, at.value, &at.span, ip);
                at.value
            }
            None => surroundings.address_towards(ip).unwrap_or_else(|| {
                if surroundings.are_readable {
                    let message = format!("it is not known from which address the tunnel to {ip} begins");
                    let help = format!("add `tunnel_source` with an {} address of this gateway", family(ip));
                    sink.report(span, message, help);
                }
                ip
            }),
        };
        real.model.mode = Mode::Tun(Tunnel { kind: real.forwarding.tunnel, source });
    }
}

fn given_source(sink: &Sink<'_>, source: IpAddr, span: &Span, real: IpAddr) {
    if source.is_ipv4() != real.is_ipv4() {
        let message = format!("a tunnel from {source} cannot lead to {real}, which is of the other family");
        sink.report(span, message, format!("write an {} address", family(real)));
    } else if source == real {
        let message = format!("the tunnel to {real} would begin where it ends");
        sink.report(span, message, "write an address of this gateway");
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A DR real server must be a neighbour: only its MAC address tells it from others.
fn on_link(sink: &Sink<'_>, service: &ServiceDraft, surroundings: &Surroundings) {
    for real in service.reals().filter(|real| real.forwarding.mode == Some(Word::Dr)) {
        let Some(span) = &real.address_span else { continue };
        let ip = real.model.address.ip();
        if surroundings.are_known(ip) && !surroundings.are_on_link(ip) {
            let message =
                format!("mode `dr` reaches real servers on a network of a port only, and {ip} is on none");
            let help =
                "add its network to a port's `addresses` or as an on-link [[route]], or take mode `tun`";
            sink.report(span, message, help);
        }
    }
}

/// Whether the pool has addresses of the families that its FULLNAT real servers need.
fn local_addresses(sink: &Sink<'_>, service: &ServiceDraft, (has_ipv4, has_ipv6): (bool, bool)) {
    for (is_ipv4, has) in [(true, has_ipv4), (false, has_ipv6)] {
        let needs = service.reals().find(|real| {
            let is_known = real.address_span.is_some() && real.forwarding.mode == Some(Word::FullNat);
            is_known && real.model.address.is_ipv4() == is_ipv4
        });
        // An empty pool has been complained of.
        let Some(real) = needs.filter(|_| !has && (has_ipv4 || has_ipv6)) else { continue };
        let ip = real.model.address.ip();
        let (pool, family) = (&service.model.local_pool, family(ip));
        let message = format!("local pool `{pool}` has no {family} address, which real server {ip} needs");
        let place = service.pool_span.as_ref().unwrap_or(&service.span);
        sink.report(place, message, format!("add {family} addresses to it, or name another pool"));
    }
}

/// Networks that the configuration knows. The kernel may know more, but only these can be judged before it is asked.
struct Surroundings {
    /// Whether all that the configuration says of them could be read.
    are_readable: bool,
    /// Addresses of the ports with their prefix lengths, and the ports' names.
    attached: Vec<(IpAddr, u8, String)>,
    /// Destination networks of static routes, whether they are on link, and their ports' names.
    routes: Vec<(IpAddr, u8, bool, String)>,
}

impl Surroundings {
    fn new(draft: &Draft) -> Self {
        let ports = draft.ports.iter().map(|port| &port.model);
        let attached = ports.flat_map(|port| {
            port.addresses.iter().map(|(address, prefix)| (*address, *prefix, port.name.clone()))
        });
        let routes = draft.routes.iter().map(|route| &route.model);
        let routes =
            routes.map(|route| (route.network, route.prefix_len, route.via.is_none(), route.port.clone()));
        let are_readable = !draft.ports.iter().any(|port| port.addresses_broken);
        Surroundings { are_readable, attached: attached.collect(), routes: routes.collect() }
    }

    /// Whether networks of the address's family are known, and all of them.
    fn are_known(&self, address: IpAddr) -> bool {
        self.are_readable && self.attached.iter().any(|(own, ..)| own.is_ipv4() == address.is_ipv4())
    }

    fn are_on_link(&self, address: IpAddr) -> bool {
        let attached = self.attached.iter().map(|(own, prefix, _)| (*own, *prefix));
        let routes = self.routes.iter().filter(|(_, _, is_on_link, _)| *is_on_link);
        let routes = routes.map(|(network, prefix, ..)| (*network, *prefix));
        attached.chain(routes).any(|network| contains(network, address))
    }

    /// Our address on the network of `address`, or else on the port that the best route to it leads through.
    fn address_towards(&self, address: IpAddr) -> Option<IpAddr> {
        let attached = self.attached.iter().filter(|(own, prefix, _)| contains((*own, *prefix), address));
        if let Some((own, ..)) = attached.max_by_key(|(_, prefix, _)| *prefix) {
            return Some(*own);
        }
        let routes =
            self.routes.iter().filter(|(network, prefix, ..)| contains((*network, *prefix), address));
        let (.., port) = routes.max_by_key(|(_, prefix, ..)| *prefix)?;
        let own = self.attached.iter().find(|(own, _, on)| on == port && own.is_ipv4() == address.is_ipv4());
        own.map(|(own, ..)| *own)
    }
}
