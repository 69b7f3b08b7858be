//! The API's desired state in the engine's terms, and what the dataplane cannot do yet.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use api::{DesiredState, Protocol, Refusal, Service, ToaMode};
use engine::fib::Route;
use engine::plan::{PlanError, RealSpec, ServiceSpec, Spec};
use engine::snapshot::{Mode, Scheduler, SchedulerFlags};
use engine::tcp::Timeouts;
use engine::{PortId, TcpState, Ticks};
use wire::MacAddr;

use super::routing::Statics;

fn invalid(text: String) -> Refusal {
    Refusal::Invalid(text)
}

/// The engine's part of a desired state.
pub(crate) fn spec(state: &DesiredState) -> Result<Spec, Refusal> {
    let services = state.services.iter().map(|one| service(one, state)).collect::<Result<_, _>>()?;
    Ok(Spec { generation: state.generation, services })
}

fn service(service: &Service, state: &DesiredState) -> Result<ServiceSpec, Refusal> {
    let name = &service.name;
    if service.key.protocol != Protocol::Tcp {
        return Err(invalid(format!("service {name} ({}): only tcp services are built yet", service.key)));
    }
    let locals = service.local_addresses.iter().map(|local| match local {
        IpAddr::V4(v4) => Ok(*v4),
        IpAddr::V6(v6) => Err(invalid(format!("service {name}: local address {v6}: IPv6 is not built yet"))),
    });
    let reals = service.real_servers.iter().map(|real| {
        let endpoint = endpoint(name, "real server", real.real)?;
        Ok(RealSpec { up: real.up, ..RealSpec::new(endpoint, real.weight) })
    });
    Ok(ServiceSpec {
        protocol: service.key.protocol.number(),
        virtual_: endpoint(name, "virtual address", service.key.virtual_)?,
        mode: match service.mode {
            api::Mode::FullNat => Mode::FullNat,
        },
        scheduler: match service.scheduler {
            api::Scheduler::Rr => Scheduler::Rr,
            api::Scheduler::Wrr => Scheduler::Wrr,
            api::Scheduler::Wlc => Scheduler::Wlc,
        },
        flags: SchedulerFlags::default(),
        toa: match service.toa {
            ToaMode::Off => None,
            ToaMode::Option { kind } => Some(toa_kind(name, kind)?),
        },
        timeouts: timeouts(&service.timeouts.unwrap_or(state.timeouts)),
        locals: locals.collect::<Result<_, _>>()?,
        local_ports: service.local_ports,
        reals: reals.collect::<Result<_, _>>()?,
    })
}

/// Kinds below 30 are TCP's own (IANA); a receiver would take the option for something else.
fn toa_kind(service: &str, kind: u8) -> Result<u8, Refusal> {
    if matches!(kind, 200 | 253 | 254) {
        return Ok(kind);
    }
    Err(invalid(format!("service {service}: TOA option kind {kind} is none of 254, 253 and 200")))
}

fn endpoint(service: &str, what: &str, address: SocketAddr) -> Result<SocketAddrV4, Refusal> {
    let SocketAddr::V4(v4) = address else {
        return Err(invalid(format!("service {service}: {what} {address}: IPv6 is not built yet")));
    };
    if v4.port() == 0 || !is_host(*v4.ip()) {
        return Err(invalid(format!("service {service}: {what} {address} is not the endpoint of a host")));
    }
    Ok(v4)
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback())
}

fn timeouts(from: &api::Timeouts) -> Timeouts {
    let base = Timeouts::default()
        .with(TcpState::Established, Ticks::from_secs(from.established_s))
        .with(TcpState::SynSent, Ticks::from_secs(from.syn_sent_s))
        .with(TcpState::SynRecv, Ticks::from_secs(from.syn_recv_s))
        .with(TcpState::FinWait, Ticks::from_secs(from.fin_wait_s))
        .with(TcpState::TimeWait, Ticks::from_secs(from.time_wait_s))
        .with(TcpState::Close, Ticks::from_secs(from.close_s))
        .with(TcpState::CloseWait, Ticks::from_secs(from.close_wait_s))
        .with(TcpState::LastAck, Ticks::from_secs(from.last_ack_s));
    Timeouts { udp: Ticks::from_secs(from.udp_s), ..base }
}

/// The static neighbours and routes of a desired state.
pub(crate) fn statics(state: &DesiredState, ports: &HashMap<String, PortId>) -> Result<Statics, Refusal> {
    let port = |what: String, name: &str| {
        ports.get(name).copied().ok_or_else(|| {
            let mut known: Vec<&str> = ports.keys().map(String::as_str).collect();
            known.sort_unstable();
            invalid(format!("{what} names port \"{name}\", which does not exist; the ports are {known:?}"))
        })
    };
    let mut statics = Statics::default();
    for neighbour in &state.static_neighbours {
        let port = port(format!("static neighbour {}", neighbour.address), &neighbour.port)?;
        statics.neighbours.insert((port, neighbour.address), MacAddr(neighbour.mac));
    }
    for route in &state.static_routes {
        let text = format!("static route {}/{}", route.network, route.prefix_len);
        let port = port(text.clone(), &route.port)?;
        if route.prefix_len > if route.network.is_ipv4() { 32 } else { 128 } {
            return Err(invalid(format!("{text}: the prefix is longer than the address")));
        }
        statics.routes.insert((route.network, route.prefix_len), Route { via: route.via, port });
    }
    Ok(statics)
}

/// Checks what the configuration allows. The planner has room for more, see [`crate::start`].
pub(crate) fn check_limits(state: &DesiredState, services_max: u64, reals_max: u64) -> Result<(), Refusal> {
    let too_many = |what: &str, wanted: usize, limit: u64, key: &str| {
        let wanted = wanted as u64;
        if wanted <= limit {
            return Ok(());
        }
        Err(Refusal::TooMany { what: what.to_owned(), wanted, limit, key: key.to_owned() })
    };
    let reals = state.services.iter().map(|service| service.real_servers.len()).sum();
    too_many("services", state.services.len(), services_max, "services_max")?;
    too_many("real servers", reals, reals_max, "real_servers_max")
}

/// The planner's refusal in the API's terms.
pub(crate) fn refusal(error: PlanError) -> Refusal {
    match error {
        PlanError::TooMany { what, wanted, limit } => {
            let key = if what == "services" { "services_max" } else { "real_servers_max" };
            Refusal::TooMany {
                what: what.to_owned(),
                wanted: wanted as u64,
                limit: limit as u64,
                key: key.to_owned(),
            }
        }
        other => Refusal::Invalid(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Mode as ApiMode, Scheduler as ApiScheduler, ServiceKey, StaticNeighbour};

    fn state(protocol: Protocol, virtual_: &str) -> DesiredState {
        DesiredState {
            generation: 3,
            services: vec![Service {
                key: ServiceKey { protocol, virtual_: virtual_.parse().unwrap() },
                name: "web".into(),
                mode: ApiMode::FullNat,
                scheduler: ApiScheduler::Wrr,
                toa: ToaMode::Option { kind: 254 },
                local_addresses: vec!["10.2.0.200".parse().unwrap()],
                local_ports: (1024, 65_535),
                real_servers: Vec::new(),
                timeouts: None,
            }],
            ..DesiredState::default()
        }
    }

    #[test]
    fn a_tcp_service_is_carried_over() {
        let spec = spec(&state(Protocol::Tcp, "10.1.0.100:80")).unwrap();
        assert_eq!(spec.generation, 3);
        assert_eq!(spec.services[0].virtual_, "10.1.0.100:80".parse().unwrap());
        assert_eq!(spec.services[0].toa, Some(254));
        assert_eq!(spec.services[0].timeouts.of(TcpState::Established), Ticks::from_secs(900));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (protocol, address, word) in
            [(Protocol::Udp, "10.1.0.100:53", "tcp"), (Protocol::Tcp, "[2001:db8::1]:80", "IPv6")]
        {
            let refusal = spec(&state(protocol, address)).unwrap_err().to_string();
            assert!(refusal.contains("web") && refusal.contains(word), "{refusal}");
        }
    }

    #[test]
    fn a_static_neighbour_on_an_unknown_port_is_refused_with_the_ports_there_are() {
        let mut state = state(Protocol::Tcp, "10.1.0.100:80");
        state.static_neighbours =
            vec![StaticNeighbour { port: "lan".into(), address: "10.2.0.1".parse().unwrap(), mac: [2; 6] }];
        let ports = HashMap::from([("wan".to_owned(), PortId(0))]);
        let refusal = statics(&state, &ports).unwrap_err().to_string();
        assert!(refusal.contains("\"lan\"") && refusal.contains("\"wan\""), "{refusal}");
    }
}
