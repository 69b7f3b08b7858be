//! `tollgate services`: the table that users of ipvsadm know, and health.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::{Mode, Persistence, RealServerStats, ServiceKey, ServiceStats};
use serde::Serialize;

use super::{CliError, Sockets, print, print_json};
use crate::ctl;

/// Shown in place of health when nobody can tell.
pub(super) const NO_CONTROL: &str = "unknown (control not running)";

#[derive(Serialize)]
struct ServiceView<'a> {
    name: &'a str,
    protocol: String,
    #[serde(rename = "virtual")]
    virtual_: SocketAddr,
    /// Its further addresses.
    also: Vec<String>,
    scheduler: &'static str,
    scheduler_flags: Vec<String>,
    persistence: Option<PersistenceView>,
    one_packet: bool,
    no_real_server: u64,
    real_servers: Vec<RealView>,
}

#[derive(Serialize)]
struct PersistenceView {
    timeout_s: u32,
    prefix_len: u8,
}

#[derive(Serialize)]
struct RealView {
    real: SocketAddr,
    mode: String,
    /// ipvsadm's word for the mode.
    forward: &'static str,
    tunnel: Option<TunnelView>,
    is_sorry: bool,
    weight: u16,
    ramp_percent: u8,
    up: bool,
    reachable: bool,
    active: u64,
    inactive: u64,
    persistent: u64,
    health: String,
    health_error: Option<String>,
}

#[derive(Serialize)]
struct TunnelView {
    kind: String,
    source: IpAddr,
}

type HealthOf<'a> = HashMap<(ServiceKey, SocketAddr), &'a ctl::Health>;

pub(super) fn run(sockets: &Sockets, json: bool) -> Result<(), CliError> {
    let mut stats = sockets.dataplane()?.stats()?;
    let control = sockets.control_status()?;
    stats.services.sort_by_key(|service| service.key);
    for service in &mut stats.services {
        service.real_servers.sort_by_key(|real| real.real);
    }
    let health: Option<HealthOf<'_>> = control
        .as_ref()
        .map(|status| status.health.iter().map(|health| ((health.service, health.real), health)).collect());
    let views: Vec<ServiceView<'_>> =
        stats.services.iter().map(|service| view(service, health.as_ref())).collect();
    if json { print_json(&views) } else { print(&render(&views)) }
}

fn view<'a>(service: &'a ServiceStats, health: Option<&HealthOf<'_>>) -> ServiceView<'a> {
    ServiceView {
        name: &service.name,
        protocol: service.key.protocol.to_string(),
        virtual_: service.key.virtual_,
        also: service.also.iter().map(ToString::to_string).collect(),
        scheduler: service.scheduler.name(),
        scheduler_flags: service.scheduler_flags.names(service.scheduler).collect(),
        persistence: service
            .persistence
            .map(|Persistence { timeout_s, prefix_len }| PersistenceView { timeout_s, prefix_len }),
        one_packet: service.one_packet,
        no_real_server: service.no_real_server,
        real_servers: service.real_servers.iter().map(|real| real_view(service.key, real, health)).collect(),
    }
}

fn real_view(key: ServiceKey, real: &RealServerStats, health: Option<&HealthOf<'_>>) -> RealView {
    let known = health.and_then(|health| health.get(&(key, real.real)));
    let word = match (health, known) {
        _ if real.is_sorry => "sorry server".to_owned(),
        (None, _) => NO_CONTROL.to_owned(),
        (Some(_), None) => "not checked".to_owned(),
        (Some(_), Some(known)) => known.state.clone(),
    };
    RealView {
        real: real.real,
        mode: real.mode.to_string(),
        forward: real.mode.forward_word(),
        tunnel: match real.mode {
            Mode::Tun(tunnel) => Some(TunnelView { kind: tunnel.kind.to_string(), source: tunnel.source }),
            Mode::FullNat | Mode::Nat | Mode::Dr => None,
        },
        is_sorry: real.is_sorry,
        weight: real.weight,
        ramp_percent: real.ramp_percent,
        up: real.up,
        reachable: real.reachable,
        active: real.active,
        inactive: real.inactive,
        persistent: real.persistent,
        health: word,
        health_error: known.and_then(|known| known.error.clone()),
    }
}

fn render(services: &[ServiceView<'_>]) -> String {
    let mut text =
        "Prot VirtualAddress:Port Scheduler Flags Name\n  -> RealAddress:Port           Forward Weight \
                    ActiveConn InActConn  Health\n"
            .to_owned();
    for service in services {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<4} {} {}{} {}",
            service.protocol.to_uppercase(),
            service.virtual_,
            service.scheduler,
            flags(service),
            service.name
        );
        if !service.also.is_empty() {
            let _ = writeln!(text, "     and {}", service.also.join(", "));
        }
        for real in &service.real_servers {
            let _ = writeln!(
                text,
                "  -> {:<26} {:<7} {:<6} {:<10} {:<10} {}",
                real.real.to_string(),
                real.forward,
                real.weight,
                real.active,
                real.inactive,
                health_text(real)
            );
        }
        if service.real_servers.is_empty() {
            text.push_str("  (no real servers)\n");
        }
    }
    if services.is_empty() {
        text.push_str("(no services)\n");
    }
    text
}

/// Flags and persistence as ipvsadm lists them, each with a space before it. Masks of single addresses go unsaid.
fn flags(service: &ServiceView<'_>) -> String {
    let mut text = String::new();
    if !service.scheduler_flags.is_empty() {
        let _ = write!(text, " ({})", service.scheduler_flags.join(","));
    }
    if let Some(PersistenceView { timeout_s, prefix_len }) = service.persistence {
        let _ = write!(text, " persistent {timeout_s}");
        match (service.virtual_.is_ipv4(), prefix_len) {
            (true, 32) | (false, 128) => {}
            (true, len) => {
                let ones = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
                let _ = write!(text, " mask {}", Ipv4Addr::from(ones));
            }
            (false, len) => {
                let _ = write!(text, " mask {len}");
            }
        }
    }
    if service.one_packet {
        text.push_str(" ops");
    }
    text
}

fn health_text(real: &RealView) -> String {
    let mut text = real.health.clone();
    if let Some(error) = &real.health_error {
        let _ = write!(text, " ({error})");
    }
    if real.weight == 0 {
        text.push_str(", draining");
    }
    if real.ramp_percent < 100 {
        let _ = write!(text, ", at {} % of its weight", real.ramp_percent);
    }
    if real.persistent > 0 {
        let _ = write!(text, ", {} persistent", real.persistent);
    }
    if let Some(TunnelView { kind, source }) = &real.tunnel {
        let _ = write!(text, ", {kind} from {source}");
    }
    if !real.reachable {
        text.push_str(", next hop not resolved");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Protocol, Scheduler, SchedulerFlags, Tunnel, TunnelKind, VirtualRange};

    fn real(address: &str, mode: Mode) -> RealServerStats {
        RealServerStats {
            real: address.parse().unwrap(),
            mode,
            is_sorry: false,
            weight: 2,
            ramp_percent: 100,
            up: true,
            reachable: true,
            traffic: api::Traffic::default(),
            active: 7,
            inactive: 31,
            persistent: 0,
        }
    }

    fn service(address: &str, scheduler: Scheduler, real_servers: Vec<RealServerStats>) -> ServiceStats {
        ServiceStats {
            key: ServiceKey { protocol: Protocol::Tcp, virtual_: address.parse().unwrap() },
            name: "web".to_owned(),
            also: vec![],
            scheduler,
            scheduler_flags: SchedulerFlags::default(),
            one_packet: false,
            persistence: None,
            no_real_server: 0,
            real_servers,
        }
    }

    fn health(service: &ServiceStats, real: usize, error: Option<&str>) -> ctl::Health {
        ctl::Health {
            service: service.key,
            name: service.name.clone(),
            real: service.real_servers[real].real,
            mode: service.real_servers[real].mode,
            state: if error.is_some() { "down" } else { "up" }.to_owned(),
            error: error.map(str::to_owned),
            since_s: 0,
            passes: 0,
            failures: 0,
            changes: 0,
        }
    }

    #[test]
    fn services_are_shown_as_ipvsadm_users_know_them() {
        let mut service = service(
            "10.1.0.100:80",
            Scheduler::Wrr,
            ["10.2.0.11:80", "10.2.0.12:80", "10.2.0.13:80"].map(|real_| real(real_, Mode::FullNat)).into(),
        );
        service.real_servers[1].reachable = false;
        service.real_servers[2].weight = 0;
        let known = [health(&service, 0, None), health(&service, 1, Some("HTTP status 503"))];
        let health = known.iter().map(|health| ((health.service, health.real), health)).collect();
        insta::assert_snapshot!(render(&[view(&service, Some(&health)), view(&service, None)]));
    }

    #[test]
    fn modes_flags_persistence_and_ipv6_are_shown_as_ipvsadm_users_know_them() {
        let source = IpAddr::from([10, 2, 0, 1]);
        let tun = Mode::Tun(Tunnel { kind: TunnelKind::Gue { port: 6080, checksum: false }, source });
        let mut group = service(
            "10.1.0.100:80",
            Scheduler::Mh,
            vec![
                real("10.2.0.11:0", Mode::Dr),
                RealServerStats { persistent: 4, ..real("192.0.2.11:0", tun) },
                RealServerStats { ramp_percent: 40, ..real("10.2.0.12:8080", Mode::Nat) },
                RealServerStats { is_sorry: true, ..real("10.2.0.99:80", Mode::FullNat) },
            ],
        );
        let range = |ports| VirtualRange { protocol: Protocol::Tcp, address: [10, 1, 0, 101].into(), ports };
        group.also = vec![range((443, 443)), range((8000, 8100))];
        group.scheduler_flags = SchedulerFlags { fallback: true, port: true, quic_cid: false };
        group.persistence = Some(Persistence { timeout_s: 360, prefix_len: 20 });
        let mut v6 =
            service("[2001:db8::100]:53", Scheduler::Sh, vec![real("[2001:db8:0:2::11]:53", Mode::FullNat)]);
        v6.key.protocol = Protocol::Udp;
        v6.one_packet = true;
        v6.persistence = Some(Persistence { timeout_s: 60, prefix_len: 64 });
        let health = HashMap::new();
        insta::assert_snapshot!(render(&[view(&group, Some(&health)), view(&v6, Some(&health))]));
    }
}
