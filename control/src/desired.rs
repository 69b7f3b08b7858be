//! From configuration and health to what the dataplane shall do and what the kernel twins shall own.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use api::{DesiredState, RealServer, Service, ServiceKey};
use config::Config;

use crate::addresses::{Twin, Wanted};
use crate::health::TargetId;

/// The key of a configured service.
pub fn service_key(service: &config::Service) -> ServiceKey {
    ServiceKey { protocol: service.protocol, virtual_: service.listen }
}

/// What health and time say of a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Whether it may get new connections.
    pub up: bool,
    /// How much of its weight counts, in percent.
    pub ramp_percent: u8,
    /// Whether its connections end.
    pub end_connections: bool,
}

/// The desired state, still without generation. `now` tells how a real server of a service is.
pub fn state(
    config: &Config,
    now: impl Fn(TargetId, &config::Service, &config::RealServer) -> Now,
) -> DesiredState {
    let pools: HashMap<&str, &config::LocalPool> =
        config.local_pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let services = config.services.iter().map(|service| {
        let key = service_key(service);
        let pool = pools.get(service.local_pool.as_str());
        let real_servers = service.real_servers.iter().map(|real| {
            let now = now(TargetId { service: key, real: real.address }, service, real);
            RealServer {
                up: now.up,
                ramp_percent: now.ramp_percent,
                end_connections: now.end_connections,
                ..real_server(real)
            }
        });
        Service {
            key,
            name: service.name.clone(),
            also: service.also.clone(),
            scheduler: service.scheduler,
            scheduler_flags: service.scheduler_flags,
            toa: service.toa,
            toa_exid: service.toa_exid,
            toa_no_room: service.toa_no_room,
            uoa: service.uoa,
            proxy_protocol: service.proxy_protocol,
            one_packet: service.one_packet,
            persistence: service.persistence,
            local_addresses: pool.map(|pool| pool.addresses.clone()).unwrap_or_default(),
            local_ports: pool.map_or(config::LOCAL_PORTS_DEFAULT, |pool| pool.ports),
            real_servers: real_servers.collect(),
            sorry_server: service.sorry_server.as_ref().map(real_server),
            timeouts: service.timeouts,
            tcp_timestamps: service.tcp_timestamps,
            rebase_sequence: service.rebase_sequence,
            expire_nodest_conn: service.expire_nodest_conn,
            expire_quiescent_template: service.expire_quiescent_template,
            reset_on_expiry: service.reset_on_expiry,
            strip_toa: service.strip_toa,
        }
    });
    DesiredState {
        generation: 0,
        services: services.collect(),
        static_neighbours: config.static_neighbours.clone(),
        static_routes: config.static_routes.clone(),
        timeouts: config.timeouts,
    }
}

/// As configured; up, and of its whole weight.
fn real_server(real: &config::RealServer) -> RealServer {
    RealServer {
        mode: real.mode,
        weight: real.weight,
        upper_threshold: real.upper_threshold,
        lower_threshold: real.lower_threshold,
        ..RealServer::new(real.address)
    }
}

/// Whether a state has the addresses of a configuration's services, so that the VIPs may be announced.
pub fn has_addresses_of(state: &DesiredState, config: &Config) -> bool {
    let wanted = config.services.iter().map(|service| (service_key(service), &service.also));
    state.services.iter().map(|service| (service.key, &service.also)).eq(wanted)
}

/// What the kernel twins shall own: the ports' addresses and LIPs of `config`, and the VIPs of `vips`.
///
/// The two differ while a change is under way: a LIP must be there before the dataplane uses it, so that real servers'
/// ARP requests are answered; a VIP must not be there before the dataplane knows it, or the kernel would answer its
/// clients with RST. With `vips` unknown none is added and nothing is removed.
pub fn twins(config: &Config, vips: Option<&Config>) -> Wanted {
    if !config.control.manage_addresses {
        return Wanted { twins: Vec::new(), remove: true };
    }
    let mut on_port: HashMap<&str, Vec<IpAddr>> = HashMap::new();
    for pool in &config.local_pools {
        on_port.entry(&pool.port).or_default().extend(&pool.addresses);
    }
    for (vip, port) in vips.iter().flat_map(|config| &config.services).flat_map(|service| &service.vips) {
        on_port.entry(port).or_default().push(*vip);
    }
    let twins = config.ports.iter().filter_map(|port| {
        let mut seen = HashSet::new();
        let mut hosts = on_port.remove(port.name.as_str()).unwrap_or_default();
        hosts.retain(|host| seen.insert(*host));
        Some(Twin { interface: port.kernel_interface.clone()?, own: port.addresses.clone(), hosts })
    });
    Wanted { twins: twins.collect(), remove: vips.is_some() }
}

/// What of a reloaded file has no effect before a restart, as sentences that name the keys. `at_start` is what control
/// itself was started with.
pub fn start_only_changes(running: &Config, at_start: &Config, new: &Config) -> Vec<String> {
    let (a, b) = (&running.dataplane, &new.dataplane);
    let dataplane = [
        ("workers", a.workers != b.workers),
        ("cpus", a.cpus != b.cpus),
        ("memory_mib", a.memory_mib != b.memory_mib),
        ("huge_pages", a.huge_pages != b.huge_pages),
        ("idle", a.idle != b.idle),
        ("idle_pause_max_us", a.idle_pause_max_us != b.idle_pause_max_us),
        ("steering", a.steering != b.steering),
        ("connections_max", a.connections_max != b.connections_max),
        ("services_max", a.services_max != b.services_max),
        ("real_servers_max", a.real_servers_max != b.real_servers_max),
        ("mbufs", a.mbufs != b.mbufs),
        ("instance", a.instance != b.instance),
        ("punt_rate_limit", a.punt_rate_limit != b.punt_rate_limit),
        ("seed", a.seed != b.seed),
        ("eal_args", a.eal_args != b.eal_args),
    ];
    let (a, b) = (&at_start.control, &new.control);
    let control = [
        ("metrics_listen", a.metrics_listen != b.metrics_listen),
        ("socket", a.socket != b.socket),
        ("log", a.log != b.log),
    ];
    let sentence = |table: &str, key: &str, program: &str| {
        format!("{key} in {table} changed, but is read at start only: restart {program} to use it")
    };
    let dataplane = dataplane.iter().filter(|(_, changed)| *changed);
    let control = control.iter().filter(|(_, changed)| *changed);
    let mut found: Vec<String> =
        dataplane.map(|(key, _)| sentence("[dataplane]", key, "tollgate-dataplane")).collect();
    found.extend(control.map(|(key, _)| sentence("[control]", key, "tollgate-control")));
    // Control goes on asking where it was told to at its start, wherever the dataplane is.
    if at_start.dataplane.api_socket != new.dataplane.api_socket {
        found.push(sentence("[dataplane]", "api_socket", "tollgate-dataplane and tollgate-control"));
    }
    found.extend(changed_ports(running, new));
    found
}

fn changed_ports(running: &Config, new: &Config) -> Vec<String> {
    let restart = "restart tollgate-dataplane to use it";
    let named = |config: &'_ Config, name: &str| config.ports.iter().find(|port| port.name == name).cloned();
    let mut found = Vec::new();
    for port in &new.ports {
        let Some(old) = named(running, &port.name) else {
            found.push(format!(
                "[[port]] `{}` is new, but ports are opened at start only: {restart}",
                port.name
            ));
            continue;
        };
        let keys = [
            ("device", old.device != port.device),
            ("kernel_interface", old.kernel_interface != port.kernel_interface),
            ("mtu", old.mtu != port.mtu),
            ("vlan", old.vlan != port.vlan),
            ("queues", old.queues != port.queues),
            ("rx_descriptors", old.rx_descriptors != port.rx_descriptors),
            ("tx_descriptors", old.tx_descriptors != port.tx_descriptors),
            ("promiscuous", old.promiscuous != port.promiscuous),
        ];
        for (key, _) in keys.iter().filter(|(_, changed)| *changed) {
            found.push(format!(
                "{key} in [[port]] `{}` changed, but is read at start only: {restart}",
                port.name
            ));
        }
    }
    for port in running.ports.iter().filter(|port| named(new, &port.name).is_none()) {
        found.push(format!(
            "[[port]] `{}` is gone, but ports are closed at the end only: {restart}",
            port.name
        ));
    }
    found
}

#[cfg(test)]
mod tests;
