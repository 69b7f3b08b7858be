//! The API's desired state in the engine's terms, and what the dataplane cannot do yet.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use api::{
    DesiredState, ProxyVersion, RealServer, Refusal, Service, TcpTimestamps, ToaMode, ToaNoRoom, UoaForm,
    VirtualRange,
};
use engine::conn::ToaForm;
use engine::fib::{Route, network_of};
use engine::plan::{Listen, PlanError, RealSpec, ServiceSpec, Spec};
use engine::snapshot::{
    Mode, Options, Persistence, Scheduler, SchedulerFlags, Timestamps, Tunnel, TunnelKind, Uoa,
};
use engine::tcp::Timeouts;
use engine::{ConnState, PortId, Ticks};
use wire::MacAddr;
use wire::proxy::Version;
use wire::uoa::Form;

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
    let virtual_ = service.key.virtual_;
    check_host(name, "virtual address", virtual_)?;
    for local in &service.local_addresses {
        check_host(name, "local address", SocketAddr::new(*local, 0))?;
    }
    let reals = service.real_servers.iter().map(|real| real_server(name, real));
    Ok(ServiceSpec {
        protocol: service.key.protocol.number(),
        virtual_,
        also: service.also.iter().map(|range| listen(name, range)).collect::<Result<_, _>>()?,
        scheduler: match service.scheduler {
            api::Scheduler::Rr => Scheduler::Rr,
            api::Scheduler::Wrr => Scheduler::Wrr,
            api::Scheduler::Lc => Scheduler::Lc,
            api::Scheduler::Wlc => Scheduler::Wlc,
            api::Scheduler::Lblc => Scheduler::Lblc,
            api::Scheduler::Lblcr => Scheduler::Lblcr,
            api::Scheduler::Dh => Scheduler::Dh,
            api::Scheduler::Sh => Scheduler::Sh,
            api::Scheduler::Sed => Scheduler::Sed,
            api::Scheduler::Nq => Scheduler::Nq,
            api::Scheduler::Mh => Scheduler::Mh,
            api::Scheduler::Fo => Scheduler::Fo,
            api::Scheduler::Ovf => Scheduler::Ovf,
        },
        flags: SchedulerFlags {
            fallback: service.scheduler_flags.fallback,
            port: service.scheduler_flags.port,
            quic_cid: service.scheduler_flags.quic_cid,
        },
        toa: match service.toa {
            ToaMode::Off => None,
            ToaMode::Option { kind } => Some(toa_kind(name, kind)?),
        },
        timeouts: timeouts(&service.timeouts.unwrap_or(state.timeouts)),
        locals: service.local_addresses.clone(),
        local_ports: service.local_ports,
        options: Options {
            one_packet: service.one_packet,
            persistence: service.persistence.map(|persistence| Persistence {
                timeout: Ticks::from_secs(persistence.timeout_s),
                prefix_len: persistence.prefix_len,
            }),
            expire_nodest_conn: service.expire_nodest_conn,
            expire_quiescent_template: service.expire_quiescent_template,
            pass_toa: !service.strip_toa,
            toa_form: toa_form(service)?,
            uoa: service.uoa.map(|uoa| uoa_of(service, uoa)).transpose()?,
            proxy: service.proxy_protocol.map(|version| match version {
                ProxyVersion::V1 => Version::V1,
                ProxyVersion::V2 => Version::V2,
            }),
            reset_on_expiry: service.reset_on_expiry,
            rebase_sequence: service.rebase_sequence,
            timestamps: match service.tcp_timestamps {
                TcpTimestamps::Keep => Timestamps::Keep,
                TcpTimestamps::Strip => Timestamps::Strip,
                TcpTimestamps::Rewrite => Timestamps::Rewrite,
            },
        },
        sorry: service.sorry_server.as_ref().map(|real| real_server(name, real)).transpose()?,
        reals: reals.collect::<Result<_, _>>()?,
    })
}

fn listen(service: &str, range: &VirtualRange) -> Result<Listen, Refusal> {
    let (first, last) = if range.ports == (0, 0) { (1, u16::MAX) } else { range.ports };
    check_host(service, "virtual address", SocketAddr::new(range.address, first))?;
    if first == 0 || first > last {
        return Err(invalid(format!("service {service}: ports {first}-{last} are no range within 1-65535")));
    }
    Ok(Listen { protocol: range.protocol.number(), address: range.address, ports: (first, last) })
}

fn real_server(service: &str, real: &RealServer) -> Result<RealSpec, Refusal> {
    check_host(service, "real server", real.real)?;
    let (mode, tunnel) = mode(real.mode);
    Ok(RealSpec {
        real: real.real,
        mode,
        tunnel,
        weight: real.weight,
        up: real.up,
        ramp_percent: real.ramp_percent,
        upper: real.upper_threshold,
        lower: real.lower_threshold,
        end_connections: real.end_connections,
    })
}

fn mode(mode: api::Mode) -> (Mode, Option<Tunnel>) {
    match mode {
        api::Mode::FullNat => (Mode::FullNat, None),
        api::Mode::Nat => (Mode::Nat, None),
        api::Mode::Dr => (Mode::Dr, None),
        api::Mode::Tun(tunnel) => {
            let kind = match tunnel.kind {
                api::TunnelKind::Ipip => TunnelKind::Ipip,
                api::TunnelKind::Gre { checksum } => TunnelKind::Gre { checksum },
                api::TunnelKind::Gue { port, checksum } => TunnelKind::Gue { port, checksum },
            };
            (Mode::Tun, Some(Tunnel { kind, source: tunnel.source }))
        }
    }
}

/// How a connection's packets are forwarded, in the API's words.
pub(super) fn mode_of(found: &engine::ConnInfo) -> api::Mode {
    match (found.mode, found.tunnel) {
        (Mode::FullNat, _) => api::Mode::FullNat,
        (Mode::Nat, _) => api::Mode::Nat,
        (Mode::Dr, _) => api::Mode::Dr,
        (Mode::Tun, tunnel) => {
            let kind = match tunnel.map(|tunnel| tunnel.kind) {
                // The engine keeps a tunnel for as long as a connection uses it.
                Some(TunnelKind::Ipip) | None => api::TunnelKind::Ipip,
                Some(TunnelKind::Gre { checksum }) => api::TunnelKind::Gre { checksum },
                Some(TunnelKind::Gue { port, checksum }) => api::TunnelKind::Gue { port, checksum },
            };
            api::Mode::Tun(api::Tunnel { kind, source: found.local.ip() })
        }
    }
}

/// Kinds below 30 are TCP's own (IANA); a receiver would take the option for something else.
fn toa_kind(service: &str, kind: u8) -> Result<u8, Refusal> {
    if matches!(kind, 200 | 253 | 254) {
        return Ok(kind);
    }
    Err(invalid(format!("service {service}: TOA option kind {kind} is none of 254, 253 and 200")))
}

fn toa_form(service: &Service) -> Result<ToaForm, Refusal> {
    if service.toa_exid && service.toa == (ToaMode::Option { kind: 200 }) {
        let name = &service.name;
        return Err(invalid(format!("service {name}: TOA option kind 200 has no experiment identifier")));
    }
    let must = service.toa_no_room == ToaNoRoom::Drop;
    Ok(ToaForm { with_exid: service.toa_exid, must })
}

fn uoa_of(service: &Service, uoa: api::Uoa) -> Result<Uoa, Refusal> {
    if uoa.datagrams == 0 {
        let name = &service.name;
        return Err(invalid(format!("service {name}: UOA on 0 datagrams tells nothing; 1 to 255 is right")));
    }
    let form = match uoa.form {
        UoaForm::Option => Form::Option,
        UoaForm::Header => Form::Header,
    };
    Ok(Uoa { form, datagrams: uoa.datagrams, must: uoa.no_room == ToaNoRoom::Drop })
}

fn check_host(service: &str, what: &str, address: SocketAddr) -> Result<(), Refusal> {
    let is_host = match address.ip() {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback())
        }
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped().is_some();
            !(v6.is_unspecified() || v6.is_multicast() || v6.is_loopback() || mapped)
        }
    };
    if is_host {
        return Ok(());
    }
    Err(invalid(format!("service {service}: {what} {address} is not the address of a host")))
}

fn timeouts(from: &api::Timeouts) -> Timeouts {
    let base = Timeouts::default()
        .with(ConnState::Established, Ticks::from_secs(from.established_s))
        .with(ConnState::SynSent, Ticks::from_secs(from.syn_sent_s))
        .with(ConnState::SynRecv, Ticks::from_secs(from.syn_recv_s))
        .with(ConnState::FinWait, Ticks::from_secs(from.fin_wait_s))
        .with(ConnState::TimeWait, Ticks::from_secs(from.time_wait_s))
        .with(ConnState::Close, Ticks::from_secs(from.close_s))
        .with(ConnState::CloseWait, Ticks::from_secs(from.close_wait_s))
        .with(ConnState::LastAck, Ticks::from_secs(from.last_ack_s));
    base.with(ConnState::Udp, Ticks::from_secs(from.udp_s))
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
        let network = (network_of(route.network, route.prefix_len), route.prefix_len);
        statics.routes.insert(network, Route { via: route.via, port });
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
    let reals_of =
        |service: &Service| service.real_servers.len() + usize::from(service.sorry_server.is_some());
    let reals = state.services.iter().map(reals_of).sum();
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
    use api::{Protocol, ServiceKey, StaticNeighbour};

    fn state(protocol: Protocol, virtual_: &str) -> DesiredState {
        let key = ServiceKey { protocol, virtual_: virtual_.parse().unwrap() };
        let service = Service {
            toa: ToaMode::Option { kind: 254 },
            local_addresses: vec!["10.2.0.200".parse().unwrap(), "fd00::200".parse().unwrap()],
            real_servers: vec![RealServer::new("10.2.0.11:80".parse().unwrap())],
            ..Service::new(key, "web")
        };
        DesiredState { generation: 3, services: vec![service], ..DesiredState::default() }
    }

    #[test]
    fn a_tcp_service_is_carried_over() {
        let spec = spec(&state(Protocol::Tcp, "10.1.0.100:80")).unwrap();
        assert_eq!(spec.generation, 3);
        assert_eq!(spec.services[0].virtual_, "10.1.0.100:80".parse().unwrap());
        assert_eq!(spec.services[0].toa, Some(254));
        assert_eq!(spec.services[0].locals.len(), 2);
        assert_eq!(spec.services[0].timeouts.of(ConnState::Established), Ticks::from_secs(900));
    }

    #[test]
    fn sorry_servers_count_as_real_servers() {
        let mut state = state(Protocol::Tcp, "10.1.0.100:80");
        assert!(check_limits(&state, 1, 1).is_ok());
        state.services[0].sorry_server = Some(RealServer::new("10.2.0.12:80".parse().unwrap()));
        let refusal = check_limits(&state, 1, 1).unwrap_err().to_string();
        assert!(refusal.contains("real_servers_max"), "{refusal}");
        assert!(check_limits(&state, 1, 2).is_ok());
    }

    #[test]
    fn addresses_that_no_host_has_are_refused() {
        for address in ["0.0.0.0:80", "224.0.0.1:80", "[::ffff:10.1.0.1]:80", "[ff02::1]:80"] {
            let refusal = spec(&state(Protocol::Udp, address)).unwrap_err().to_string();
            assert!(refusal.contains("not the address of a host"), "{refusal}");
        }
    }

    #[test]
    fn further_addresses_and_local_ones_are_looked_at_too() {
        let with = |address: &str, ports| {
            let mut state = state(Protocol::Tcp, "10.1.0.100:80");
            let address = address.parse().unwrap();
            state.services[0].also = vec![VirtualRange { protocol: Protocol::Tcp, address, ports }];
            spec(&state).map(|spec| spec.services[0].also[0].ports)
        };
        assert_eq!(with("10.1.0.101", (0, 0)), Ok((1, u16::MAX)));
        assert_eq!(with("10.1.0.101", (80, 81)), Ok((80, 81)));
        for (address, ports) in
            [("10.1.0.101", (0, 9)), ("10.1.0.101", (9, 8)), ("::ffff:10.1.0.101", (8, 9))]
        {
            assert!(with(address, ports).is_err(), "{address} {ports:?}");
        }
        let mut state = state(Protocol::Tcp, "10.1.0.100:80");
        state.services[0].local_addresses.push("::ffff:10.2.0.200".parse().unwrap());
        let refusal = spec(&state).unwrap_err().to_string();
        assert!(refusal.contains("local address"), "{refusal}");
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
