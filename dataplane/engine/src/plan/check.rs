//! What is wrong with a [`Spec`] by itself, and why it cannot be planned.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::slots::pair_keys;
use super::spec::{RealSpec, ServiceSpec, Spec};
use crate::snapshot::Mode;

/// Why a [`Spec`] cannot be planned. The planner is then as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More of something than there are slots.
    #[error("too many {what}: {wanted} wanted, {limit} slots")]
    TooMany {
        /// "services", "real servers" or "local pairs".
        what: &'static str,
        /// Slots that would be needed.
        wanted: usize,
        /// Slots there are.
        limit: usize,
    },
    /// The same service twice.
    #[error("service {0} is there twice")]
    DuplicateService(SocketAddr),
    /// The same real server twice in one service.
    #[error("service {service} has real server {real} twice")]
    DuplicateReal {
        /// The service.
        service: SocketAddr,
        /// The real server.
        real: SocketAddr,
    },
    /// A virtual address that is a local address too, or was one that connections still use.
    #[error(
        "{0} is both a virtual and a local address, or was the other while connections of that time live"
    )]
    VirtualIsLocal(IpAddr),
    /// Two services at one endpoint.
    #[error("services {0} and {1} both listen at {2}")]
    ListenTwice(SocketAddr, SocketAddr, SocketAddr),
    /// Workers without a local address of their own, where each needs one.
    #[error(
        "service {service}: {missing} of {workers} workers would have no local address of their own, which steering by \
         flow rules needs: add {missing} of the real servers' family to its local pool, or set steering = \"software\"; or \
         restart the dataplane, which deals the addresses anew: until then those that there were keep their worker"
    )]
    TooFewLocals {
        /// The service.
        service: SocketAddr,
        /// How many workers there are.
        workers: u16,
        /// How many addresses are missing.
        missing: usize,
    },
    /// A FULLNAT real server whose family has no local address.
    #[error("service {service}: no local address of the family of real server {real}")]
    NoLocalAddress {
        /// The service.
        service: SocketAddr,
        /// The real server.
        real: SocketAddr,
    },
    /// A real server that cannot be reached in its mode.
    #[error("service {service}: real server {real}: {reason}")]
    ModeImpossible {
        /// The service.
        service: SocketAddr,
        /// The real server.
        real: SocketAddr,
        /// Why.
        reason: &'static str,
    },
    /// An empty port range, or port 0 in it.
    #[error("service {service}: local ports {first}-{last} are no range within 1-65535")]
    PortRange {
        /// The service.
        service: SocketAddr,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
}

/// Whether a service contradicts itself.
pub(super) fn check_service(service: &ServiceSpec) -> Result<(), PlanError> {
    let (first, last) = service.local_ports;
    if first == 0 || first > last {
        return Err(PlanError::PortRange { service: service.virtual_, first, last });
    }
    let mut reals = HashSet::new();
    for real in service.all_reals() {
        if !reals.insert(real.real) {
            return Err(PlanError::DuplicateReal { service: service.virtual_, real: real.real });
        }
        check_mode(service, real)?;
    }
    Ok(())
}

/// Whether packets can reach a real server in its mode.
fn check_mode(service: &ServiceSpec, real: &RealSpec) -> Result<(), PlanError> {
    let impossible =
        |reason| Err(PlanError::ModeImpossible { service: service.virtual_, real: real.real, reason });
    let same_family = service.listens().all(|listen| listen.address.is_ipv4() == real.real.is_ipv4());
    let same_port = real.real.port() == 0
        || service.listens().all(|listen| listen.ports == (real.real.port(), real.real.port()));
    match real.mode {
        Mode::FullNat if pair_keys(service, real).next().is_none() => {
            Err(PlanError::NoLocalAddress { service: service.virtual_, real: real.real })
        }
        Mode::Nat if !same_family => impossible("mode nat does not translate between families; fullnat does"),
        Mode::Dr if !same_family => impossible("mode dr cannot change the family; fullnat and tun can"),
        Mode::Dr | Mode::Tun if !same_port => impossible("modes dr and tun cannot change the port"),
        Mode::Tun if real.tunnel.is_none_or(|tunnel| tunnel.source.is_ipv4() != real.real.is_ipv4()) => {
            impossible("mode tun needs a tunnel whose source is of the real server's family")
        }
        _ => Ok(()),
    }
}

/// No two services may listen at the same endpoint.
pub(super) fn check_listens(spec: &Spec) -> Result<(), PlanError> {
    let all =
        spec.services.iter().flat_map(|service| service.listens().map(|listen| (listen, service.virtual_)));
    // A whole-address service gives way to single ports, as in IPVS.
    let (whole, ranges): (Vec<_>, Vec<_>) = all.partition(|(listen, _)| listen.ports == (1, u16::MAX));
    for mut alike in [whole, ranges] {
        alike.sort_unstable();
        for pair in alike.windows(2) {
            let [(a, service_a), (b, service_b)] = pair else { continue };
            if (a.protocol, a.address) == (b.protocol, b.address) && b.ports.0 <= a.ports.1 {
                let at = SocketAddr::new(b.address, b.ports.0);
                return Err(PlanError::ListenTwice(*service_a, *service_b, at));
            }
        }
    }
    Ok(())
}
