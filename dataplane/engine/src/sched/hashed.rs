//! dh, sh and mh: by hash of the destination, the source, or the QUIC connection id.
//!
//! All three look their server up in a Maglev table ([`super::maglev`]) in `Service::lookup`. IPVS deals the
//! 256 places of its dh and sh tables out in the order of the list, so that a server more or less moves
//! nearly all clients; here they move no more than under mh. What tells the three apart is what they hash,
//! and that dh knows no weights.
//!
//! A server that is down has no place, so its clients go elsewhere. One that is drained or over its threshold
//! keeps its place, a drained one as with weight 1; its new clients are refused, as by IPVS, unless there is
//! `fallback`: then they go to their next hash. With `fallback` one that is down keeps its place too: nobody
//! but its own clients moves, also where gateways do not agree on who is down.

use std::sync::Arc;

use super::flow_hash::{address, hash, reduce};
use super::maglev::{self, Member};
use super::{Flow, overload, quic};
use crate::counters::Counters;
use crate::snapshot::{Real, SchedulerFlags, Service};

/// Hashes that are tried for a client whose server takes no connections, before the rest are asked one by
/// one.
const FALLBACK_HASHES_MAX: u64 = 16;

/// UDP's protocol number.
const UDP: u8 = 17;

/// What a drained server's places are reckoned by: weight 1.
const DRAINED_WEIGHT: u32 = 100;

/// The table of sh and mh.
pub(super) fn table(reals: &[Real], flags: SchedulerFlags) -> Vec<u32> {
    build(reals, |real| match real.weight {
        _ if !real.up && !flags.fallback => 0,
        0 => DRAINED_WEIGHT,
        _ => real.weight_if_up(),
    })
}

/// The table of dh.
pub(super) fn table_without_weights(reals: &[Real]) -> Vec<u32> {
    build(reals, |real| u32::from(real.up))
}

fn build(reals: &[Real], weight: impl Fn(&Real) -> u32) -> Vec<u32> {
    let members = reals.iter().enumerate().map(|(i, real)| Member {
        endpoint: real.endpoint.to_socket_addr(),
        weight: weight(real),
        index: i as u32,
    });
    maglev::build(members.filter(|member| member.weight > 0).collect(), maglev::size(reals.len()))
}

/// dh.
pub(super) fn by_destination(
    service: &Service,
    flow: &Flow<'_>,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    pick(service, address(flow.virtual_), 0, false, counters)
}

/// sh.
pub(super) fn by_source(service: &Service, flow: &Flow<'_>, counters: &[Arc<Counters>]) -> Option<usize> {
    let port = if service.flags.port { flow.client_port } else { 0 };
    pick(service, address(flow.client), port, service.flags.fallback, counters)
}

/// mh.
pub(super) fn by_source_or_connection_id(
    service: &Service,
    flow: &Flow<'_>,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    let takes_id = service.flags.quic_cid && service.protocol == UDP;
    match quic::connection_id(flow.payload).filter(|_| takes_id) {
        Some(id) => pick(service, id.into(), 0, service.flags.fallback, counters),
        None => by_source(service, flow, counters),
    }
}

fn pick(
    service: &Service,
    key: u128,
    port: u16,
    fallback: bool,
    counters: &[Arc<Counters>],
) -> Option<usize> {
    let at = |n| service.lookup.get(reduce(hash(n, key, port), service.lookup.len())).map(|i| *i as usize);
    let is_open = |i: &usize| service.reals.get(*i).is_some_and(|real| overload::is_open(real, counters));
    let first = at(0)?;
    if is_open(&first) {
        return Some(first);
    }
    if !fallback {
        return None;
    }
    let n = service.reals.len();
    let others = (1..=FALLBACK_HASHES_MAX).filter_map(at);
    others.chain((1..n).map(|step| (first + step) % n)).find(is_open)
}
