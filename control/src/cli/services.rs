//! `tollgate services`: the table that users of ipvsadm know, and health.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;

use api::{RealServerStats, ServiceKey, ServiceStats};
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
    scheduler: &'a str,
    no_real_server: u64,
    real_servers: Vec<RealView>,
}

#[derive(Serialize)]
struct RealView {
    real: SocketAddr,
    mode: String,
    /// ipvsadm's word for the mode.
    forward: &'static str,
    weight: u16,
    up: bool,
    reachable: bool,
    active: u64,
    inactive: u64,
    health: String,
    health_error: Option<String>,
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
        scheduler: service.scheduler.name(),
        no_real_server: service.no_real_server,
        real_servers: service.real_servers.iter().map(|real| real_view(service.key, real, health)).collect(),
    }
}

fn real_view(key: ServiceKey, real: &RealServerStats, health: Option<&HealthOf<'_>>) -> RealView {
    let known = health.and_then(|health| health.get(&(key, real.real)));
    let word = match (health, known) {
        (None, _) => NO_CONTROL.to_owned(),
        (Some(_), None) => "not checked".to_owned(),
        (Some(_), Some(known)) => known.state.clone(),
    };
    RealView {
        real: real.real,
        mode: real.mode.to_string(),
        forward: real.mode.forward_word(),
        weight: real.weight,
        up: real.up,
        reachable: real.reachable,
        active: real.active,
        inactive: real.inactive,
        health: word,
        health_error: known.and_then(|known| known.error.clone()),
    }
}

fn render(services: &[ServiceView<'_>]) -> String {
    let mut text =
        "Prot VirtualAddress:Port Scheduler Name\n  -> RealAddress:Port           Forward Weight ActiveConn \
                    InActConn  Health\n"
            .to_owned();
    for service in services {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<4} {} {} {}",
            service.protocol.to_uppercase(),
            service.virtual_,
            service.scheduler,
            service.name
        );
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

fn health_text(real: &RealView) -> String {
    let mut text = real.health.clone();
    if let Some(error) = &real.health_error {
        let _ = write!(text, " ({error})");
    }
    if real.weight == 0 {
        text.push_str(", draining");
    }
    if !real.reachable {
        text.push_str(", next hop not resolved");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_shown_as_ipvsadm_users_know_them() {
        let real = |last: u8, health: &str, error: Option<&str>| RealView {
            real: SocketAddr::from(([10, 2, 0, last], 80)),
            mode: "fullnat".to_owned(),
            forward: "FullNat",
            weight: if last == 13 { 0 } else { 2 },
            up: health == "up",
            reachable: last != 12,
            active: 7,
            inactive: 31,
            health: health.to_owned(),
            health_error: error.map(str::to_owned),
        };
        let service = ServiceView {
            name: "web",
            protocol: "tcp".to_owned(),
            virtual_: SocketAddr::from(([10, 1, 0, 100], 80)),
            scheduler: "wrr",
            no_real_server: 0,
            real_servers: vec![
                real(11, "up", None),
                real(12, "down", Some("HTTP status 503")),
                real(13, NO_CONTROL, None),
            ],
        };
        insta::assert_snapshot!(render(&[service]));
    }
}
