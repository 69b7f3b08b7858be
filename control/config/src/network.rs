//! `[[port]]`, `[[local_pool]]`, `[[neighbour]]` and `[[route]]`.

use std::net::{IpAddr, Ipv4Addr};

use api::{StaticNeighbour, StaticRoute};

use crate::model::{Device, LocalPool, Port};
use crate::reader::{Fault, Reader, Schema, Span};
use crate::value;

pub(crate) const PORT: Schema = Schema {
    name: "[[port]]",
    keys: &[
        "name",
        "device",
        "kernel_interface",
        "addresses",
        "mtu",
        "vlan",
        "queues",
        "rx_descriptors",
        "tx_descriptors",
        "promiscuous",
    ],
    not_built: &[],
};

pub(crate) const LOCAL_POOL: Schema =
    Schema { name: "[[local_pool]]", keys: &["name", "port", "addresses", "ports"], not_built: &[] };

pub(crate) const NEIGHBOUR: Schema =
    Schema { name: "[[neighbour]]", keys: &["port", "address", "mac"], not_built: &[] };

pub(crate) const ROUTE: Schema =
    Schema { name: "[[route]]", keys: &["network", "via", "port"], not_built: &[] };

/// A port and where its parts stand. A span that is `None` belongs to a value that was wrong or not given.
pub(crate) struct PortDraft {
    pub(crate) model: Port,
    pub(crate) name_span: Option<Span>,
    pub(crate) device_span: Option<Span>,
    pub(crate) kernel_interface_span: Option<Span>,
    /// One per address of the model.
    pub(crate) address_spans: Vec<Span>,
    /// Whether there are addresses that cannot be read.
    pub(crate) addresses_broken: bool,
}

pub(crate) fn port(table: &Reader<'_>) -> PortDraft {
    table.require("name", "\"wan\"");
    table.require("device", "\"0000:01:00.0\"");
    let name = table.parsed("name", "\"wan\"", value::name);
    let device = table.parsed("device", "\"0000:01:00.0\"", value::device);
    let example = "[\"10.1.0.1/24\"]";
    let listed = table.list("addresses", example);
    let addresses: Vec<_> = listed
        .iter()
        .flatten()
        .filter_map(|item| item.parsed("\"10.1.0.1/24\"", value::interface_address))
        .collect();
    let addresses_broken = listed.map_or(table.has("addresses"), |listed| listed.len() != addresses.len());
    let descriptors =
        |key| table.integer::<u16>(key, 32..=32_768).map_or(crate::model::DESCRIPTORS_DEFAULT, |at| at.value);
    let (kernel_interface, kernel_interface_span) =
        kernel_interface(table, name.as_ref().map(|at| &*at.value));
    if let (None, Some(at)) = (&kernel_interface, addresses.first()) {
        let fault = Fault::new(
            "addresses live on the kernel twin, and this port has none",
            "give the port a kernel_interface or take its addresses away",
        );
        table.fault(&at.span, "addresses", fault);
    }
    let (addresses, address_spans) = addresses.into_iter().map(|at| (at.value, at.span)).unzip();
    PortDraft {
        model: Port {
            name: name.as_ref().map_or_else(String::new, |at| at.value.clone()),
            device: device.as_ref().map_or_else(|| Device::Pci(String::new()), |at| at.value.clone()),
            kernel_interface,
            addresses,
            // RFC 791 asks every link for 68, but below 576 nothing useful passes; above is what NICs call jumbo.
            mtu: table.integer_or_word("mtu", 576..=9600, "device"),
            // IEEE 802.1Q §9.6: 0 means "no VLAN, priority only", 4095 is reserved.
            vlan: table.integer_or_word("vlan", 1..=4094, "none"),
            queues: table.integer_or_word("queues", 1..=128, "workers"),
            rx_descriptors: descriptors("rx_descriptors"),
            tx_descriptors: descriptors("tx_descriptors"),
            promiscuous: table.boolean("promiscuous").unwrap_or(false),
        },
        name_span: name.map(|at| at.span),
        device_span: device.map(|at| at.span),
        kernel_interface_span,
        address_spans,
        addresses_broken,
    }
}

/// The twin's name and the place that gave it: the key itself, or the port's name.
fn kernel_interface(table: &Reader<'_>, name: Option<&str>) -> (Option<String>, Option<Span>) {
    if table.is_word("kernel_interface", "") {
        return (None, None);
    }
    let key = if table.has("kernel_interface") { "kernel_interface" } else { "name" };
    if key == "name" && name.is_none() {
        return (Some(String::new()), None);
    }
    match table.parsed(key, "\"wan\"", value::interface_name) {
        Some(at) => (Some(at.value), Some(at.span)),
        None => (Some(String::new()), None),
    }
}

/// A local pool and where its parts stand.
pub(crate) struct PoolDraft {
    pub(crate) model: LocalPool,
    pub(crate) name_span: Option<Span>,
    pub(crate) port_span: Option<Span>,
    /// One per address of the model.
    pub(crate) address_spans: Vec<Span>,
}

pub(crate) fn local_pool(table: &Reader<'_>) -> PoolDraft {
    let example = "[\"10.2.0.200-10.2.0.203\"]";
    table.require("name", "\"inside\"");
    table.require("addresses", example);
    let name = table.parsed("name", "\"inside\"", value::name);
    let port = optional_port(table);
    let items = table.list("addresses", example);
    let sets: Vec<_> = items
        .iter()
        .flatten()
        .filter_map(|item| item.parsed("\"10.2.0.200-10.2.0.203\"", value::address_set))
        .collect();
    if items.is_some_and(|items| items.is_empty()) {
        let fault = Fault::new("the list is empty", format!("add at least one address, e.g. {example}"));
        table.fault(&table.span, "addresses", fault);
    }
    let each =
        sets.into_iter().flat_map(|at| at.value.into_iter().map(move |address| (address, at.span.clone())));
    let (addresses, address_spans) = each.unzip();
    PoolDraft {
        model: LocalPool {
            name: name.as_ref().map_or_else(String::new, |at| at.value.clone()),
            port: port.as_ref().map_or_else(String::new, |at| at.value.clone()),
            addresses,
            ports: table
                .parsed("ports", "\"1024-65535\"", value::port_range)
                .map_or(crate::model::LOCAL_PORTS_DEFAULT, |at| at.value),
        },
        name_span: name.map(|at| at.span),
        port_span: port.map(|at| at.span),
        address_spans,
    }
}

/// `port` where "auto" or nothing means: by the address.
pub(crate) fn optional_port(table: &Reader<'_>) -> Option<crate::reader::At<String>> {
    if table.is_word("port", "auto") { None } else { table.parsed("port", "\"wan\"", value::name) }
}

/// A static neighbour and where its parts stand.
pub(crate) struct NeighbourDraft {
    pub(crate) model: StaticNeighbour,
    pub(crate) port_span: Option<Span>,
    pub(crate) address_span: Option<Span>,
}

pub(crate) fn neighbour(table: &Reader<'_>) -> NeighbourDraft {
    table.require("port", "\"wan\"");
    table.require("address", "\"10.1.0.254\"");
    table.require("mac", "\"02:00:00:00:00:01\"");
    let port = table.parsed("port", "\"wan\"", value::name);
    let address = table.parsed("address", "\"10.1.0.254\"", value::address);
    let mac = table.parsed("mac", "\"02:00:00:00:00:01\"", value::mac);
    NeighbourDraft {
        port_span: port.as_ref().map(|at| at.span.clone()),
        address_span: address.as_ref().map(|at| at.span.clone()),
        model: StaticNeighbour {
            port: port.map_or_else(String::new, |at| at.value),
            address: address.map_or(Ipv4Addr::UNSPECIFIED.into(), |at| at.value),
            mac: mac.map_or([0; 6], |at| at.value),
        },
    }
}

/// A static route and where its parts stand.
pub(crate) struct RouteDraft {
    pub(crate) model: StaticRoute,
    pub(crate) port_span: Option<Span>,
    pub(crate) network_span: Option<Span>,
}

pub(crate) fn route(table: &Reader<'_>) -> RouteDraft {
    table.require("network", "\"0.0.0.0/0\"");
    table.require("port", "\"wan\"");
    let network = table.parsed("network", "\"0.0.0.0/0\"", value::network);
    let port = table.parsed("port", "\"wan\"", value::name);
    let via = if table.is_word("via", "on-link") {
        None
    } else {
        table.parsed("via", "\"10.1.0.254\"", value::address)
    };
    if let (Some(network), Some(via)) = (&network, &via)
        && network.value.0.is_ipv4() != via.value.is_ipv4()
    {
        let fault =
            Fault::new("the next hop is of another address family than the network", "use one family");
        table.fault(&via.span, "via", fault);
    }
    let (address, prefix_len) =
        network.as_ref().map_or((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), |network| network.value);
    RouteDraft {
        port_span: port.as_ref().map(|at| at.span.clone()),
        network_span: network.map(|at| at.span),
        model: StaticRoute {
            network: address,
            prefix_len,
            via: via.map(|at| at.value),
            port: port.map_or_else(String::new, |at| at.value),
        },
    }
}
