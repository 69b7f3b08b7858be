//! One core's share of the gateway.
//!
//! A burst goes through in stages, each over all its packets, so that cache misses overlap instead of adding up:
//! parse and hash (prefetching index buckets), look tags up (prefetching records), then translate or admit packet by
//! packet. Nothing here locks, allocates, logs, reads a clock or makes a system call.

mod admit;
mod errors;
mod forward;
mod fragment;
mod persistence;
mod shift;
mod steady;
mod track;
mod tunnel_errors;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use wire::{MacAddr, PacketBuf};

use crate::BURST_LEN_MAX;
use crate::addr::Tuple;
use crate::conn::{ConnFilter, ConnInfo, Direction, NIL};
use crate::counters::{Counter, Counters};
use crate::embryonic::EmbryonicList;
use crate::fib::Fib;
use crate::fragments::Fragments;
use crate::hash::{Key, Key6, Secret};
use crate::ids::{PortId, WorkerId};
use crate::limiter::Limiter;
use crate::parse::{Fragment, Message, Parsed, Segment, parse};
use crate::plan::{Limits, Update};
use crate::ports::PortSet;
use crate::rss::Rss;
use crate::sched::SchedState;
use crate::snapshot::{Mode, Snapshot};
use crate::steer;
use crate::table::{Found, Table, is_live};
use crate::tcp::{ConnState, Timeouts};
use crate::time::Ticks;
use crate::verdict::{DropReason, PuntClass, Released, Verdict};
use crate::wheel::Wheel;

/// Records that one [`Worker::housekeep`] looks at: about 10 µs when every one is a cache miss.
const HOUSEKEEP_MAX: usize = 64;
/// Records that one [`Worker::housekeep`] asks whether they have to end because of a change of the configuration.
const ENDING_MAX: u32 = 256;
/// Next hops that are remembered for [`Worker::take_wanted`] between two calls.
pub const WANTED_MAX: usize = 16;

/// How a worker starts.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its number.
    pub id: WorkerId,
    /// How many workers there are.
    pub workers: u16,
    /// Connections that fit its table.
    pub connections_max: u32,
    /// Slots for services, real servers and pairs, as the planner has them.
    pub limits: Limits,
    /// Secret of the steering hash; the same for all workers. The table's secret is derived from it.
    pub secret: [u64; 2],
    /// Packets per second and class that may be punted.
    pub punt_per_second: u32,
    /// The present.
    pub now: Ticks,
}

/// What is known of a packet between the stages.
#[derive(Debug, Clone, Copy, Default)]
struct Meta {
    segment: Segment,
    hash: u64,
    /// The index entry that will most likely be it.
    likely: u32,
    other: Option<Other>,
}

/// What is no segment of ours, or needs nothing more.
#[derive(Debug, Clone, Copy)]
enum Other {
    /// The first stage knew the verdict.
    Settled(Verdict),
    IcmpError(Message),
    Fragment(Fragment),
}

/// Who a burst is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Port,
    Worker,
}

impl Meta {
    fn other(other: Other) -> Meta {
        Meta { other: Some(other), ..Meta::default() }
    }
}

/// One core's share of the gateway. See the module.
#[derive(Debug)]
pub struct Worker {
    id: WorkerId,
    workers: u16,
    steering: Secret,
    rss: Option<Arc<Rss>>,
    /// Who the burst that is being processed is from.
    origin: Origin,
    table: Table,
    wheel: Wheel,
    embryonic: EmbryonicList,
    limiter: Limiter,
    /// By pair.
    ports: Vec<Option<Box<PortSet>>>,
    /// By service.
    sched: Vec<SchedState>,
    snapshot: Arc<Snapshot>,
    fib: Arc<Fib>,
    counters: Arc<Counters>,
    /// Pages of all workers, for least-connection schedulers.
    all_counters: Vec<Arc<Counters>>,
    wanted: ArrayVec<(PortId, IpAddr), WANTED_MAX>,
    packet_id: PacketId,
    fragments: Fragments,
    /// The first record that was not yet asked whether it has to end.
    ending: Option<u32>,
    /// The first bucket of templates that was not yet swept in this round, and when the last was.
    sweep_at: usize,
    swept: Ticks,
}

/// Identifications for IPv4 headers that the gateway writes (RFC 6864 §4.2).
#[derive(Debug, Default)]
struct PacketId(Cell<u16>);

impl PacketId {
    #[inline(always)]
    fn next(&self) -> u16 {
        let id = self.0.get();
        self.0.set(id.wrapping_add(1));
        id
    }
}

impl Worker {
    /// A worker without configuration and forwarding table, which knows no port's MAC address: it forwards nothing. Allocates all that it will ever need.
    pub fn new(config: &WorkerConfig, counters: Arc<Counters>, all_counters: Vec<Arc<Counters>>) -> Worker {
        let steering = Secret(config.secret);
        Worker {
            id: config.id,
            workers: config.workers.max(1),
            steering,
            rss: None,
            origin: Origin::Port,
            table: Table::new(config.connections_max, steering.derive(u64::from(config.id.0) + 1)),
            wheel: Wheel::new(config.now),
            embryonic: EmbryonicList::new(),
            limiter: Limiter::new(config.punt_per_second, config.now),
            ports: std::iter::repeat_with(|| None).take(config.limits.pairs_max).collect(),
            sched: vec![SchedState::default(); config.limits.services_max],
            snapshot: Arc::new(Snapshot::default()),
            fib: Arc::new(Fib::empty()),
            counters,
            all_counters,
            wanted: ArrayVec::new(),
            packet_id: PacketId::default(),
            fragments: Fragments::new(),
            ending: None,
            sweep_at: 0,
            swept: config.now,
        }
    }

    /// Packets are owned by the worker that the NIC's hash leads to; the planner must know it too
    /// ([`crate::Planner::with_rss`]).
    pub fn with_rss(mut self, rss: Option<Arc<Rss>>) -> Worker {
        self.rss = rss;
        self
    }

    /// Processes packets from ports. At most [`BURST_LEN_MAX`]; `verdicts[..packets.len()]` are filled.
    #[inline]
    pub fn process<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packets: &mut [P],
        verdicts: &mut [Verdict; BURST_LEN_MAX],
    ) {
        self.origin = Origin::Port;
        // Where the NIC brings packets to their owner, only those are looked at that are found to be nobody's here.
        if self.workers == 1 || self.rss.is_some() {
            self.run::<P, false>(now, Origin::Port, packets, verdicts);
        } else {
            self.run::<P, true>(now, Origin::Port, packets, verdicts);
        }
    }

    /// Processes packets that another worker handed over. Only fragments are handed on, once: from the worker that knows
    /// their ports to the owner of their connection.
    #[inline]
    pub fn process_handed_over<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packets: &mut [P],
        verdicts: &mut [Verdict; BURST_LEN_MAX],
    ) {
        self.origin = Origin::Worker;
        self.run::<P, false>(now, Origin::Worker, packets, verdicts);
    }

    #[inline(always)]
    fn run<P: PacketBuf, const STEER: bool>(
        &mut self,
        now: Ticks,
        origin: Origin,
        packets: &mut [P],
        verdicts: &mut [Verdict; BURST_LEN_MAX],
    ) {
        self.limiter.refill(now);
        let mut metas: ArrayVec<Meta, BURST_LEN_MAX> = ArrayVec::new();
        let mut came_on = PortId(u16::MAX);
        let mut mac = MacAddr::ZERO;
        for packet in packets.iter().take(BURST_LEN_MAX) {
            let port = PortId(packet.port());
            if port != came_on {
                came_on = port;
                mac = self.fib.port(port).map_or(MacAddr::ZERO, |port| port.mac);
            }
            metas.push(self.look::<P, STEER>(packet, mac));
        }
        let mut any_wide = false;
        for meta in metas.iter_mut().filter(|meta| meta.other.is_none()) {
            meta.likely = self.table.likely(meta.hash);
            any_wide |= meta.segment.wide;
            if let Some(conn) = self.table.record(meta.likely) {
                P::prefetch(conn);
                P::prefetch(&conn.client_isn);
            }
        }
        if any_wide {
            self.prefetch_addresses::<P>(&metas);
        }
        for ((packet, meta), verdict) in packets.iter_mut().zip(&metas).zip(verdicts) {
            *verdict = match meta.other {
                None => self.segment(now, packet, meta),
                Some(Other::Settled(verdict)) => verdict,
                Some(Other::IcmpError(message)) => self.icmp_error(packet, message),
                Some(Other::Fragment(fragment)) => self.fragment(now, origin, packet, fragment),
            };
        }
    }

    /// First stage: parses, finds the owner, hashes.
    #[inline(always)]
    fn look<P: PacketBuf, const STEER: bool>(&mut self, packet: &P, mac: MacAddr) -> Meta {
        let data = packet.data();
        let segment = match parse(data, mac) {
            Parsed::Segment(segment) => segment,
            other => return self.look_other(other, data, STEER),
        };
        if STEER {
            let owner = if segment.wide {
                steer::owner(&self.snapshot, self.steering, self.workers, &segment.tuple(data))
            } else {
                steer::owner4(&self.snapshot, self.steering, self.workers, segment.key)
            };
            if owner != self.id {
                return Meta::other(Other::Settled(self.hand_over(owner)));
            }
        }
        let hash =
            if segment.wide { self.table.hash6(&segment.key6(data)) } else { self.table.hash(segment.key) };
        P::prefetch(self.table.bucket(hash));
        Meta { segment, hash, likely: NIL, other: None }
    }

    /// The owner of a packet.
    fn owner(&self, tuple: &Tuple) -> WorkerId {
        let by_rss = self.rss.as_ref().and_then(|rss| steer::owner_by_rss(&self.snapshot, rss, tuple));
        by_rss.unwrap_or_else(|| steer::owner(&self.snapshot, self.steering, self.workers, tuple))
    }

    fn hand_over(&self, owner: WorkerId) -> Verdict {
        self.counters.event(Counter::HandedOver).add(1);
        Verdict::HandOver(owner)
    }

    /// First stage of what is no segment.
    #[cold]
    fn look_other(&mut self, parsed: Parsed, data: &[u8], steer: bool) -> Meta {
        let verdict = match parsed {
            Parsed::IcmpError(message) => {
                // An error belongs to who owns what it quotes.
                let from_port = self.rss.is_some() && self.origin == Origin::Port;
                if (steer || from_port)
                    && let Some(about) = errors::about(&self.snapshot, data, message)
                {
                    let owner = self.owner(&about);
                    if owner != self.id {
                        return Meta::other(Other::Settled(self.hand_over(owner)));
                    }
                }
                return Meta::other(Other::IcmpError(message));
            }
            Parsed::Fragment(fragment) => return Meta::other(Other::Fragment(fragment)),
            Parsed::Punt(class) => self.punt(class),
            Parsed::Drop(reason) => self.drop(reason),
            Parsed::Segment(_) => Verdict::NONE,
        };
        Meta::other(Other::Settled(verdict))
    }

    /// The addresses of IPv6 connections are one step further than the records, which are on their way by now.
    #[inline(never)]
    fn prefetch_addresses<P: PacketBuf>(&self, metas: &[Meta]) {
        for meta in metas.iter().filter(|meta| meta.segment.wide) {
            if let Some(conn) = self.table.record(meta.likely)
                && let Some(addrs) = self.table.wide(conn, Direction::Inbound)
            {
                P::prefetch(addrs);
            }
        }
    }

    #[inline(always)]
    fn segment<P: PacketBuf>(&mut self, now: Ticks, packet: &mut P, meta: &Meta) -> Verdict {
        let segment = &meta.segment;
        // Packets before this one may have changed the table; `check` proves the entry anew.
        let found = if segment.wide {
            let key = segment.key6(packet.data());
            match self.table.check6(meta.likely, &key) {
                Some(found) => Some(found),
                None => self.find_again6(&key, meta.hash),
            }
        } else {
            let key = segment.key;
            match self.table.check(meta.likely, key) {
                Some(found) => Some(found),
                None => self.find_again(key, meta.hash),
            }
        };
        let Some(found) = found else { return self.unknown(now, packet, segment) };
        let steady = self.short_way(now, packet, segment, found);
        match steady {
            Some(verdict) => verdict,
            None => self.forward(now, packet, segment, found),
        }
    }

    /// The short way of the packet's family and protocol; `None`, with nothing changed, where there is none.
    #[inline(always)]
    fn short_way<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packet: &mut P,
        segment: &Segment,
        found: Found,
    ) -> Option<Verdict> {
        match (segment.wide, segment.is_udp()) {
            (false, false) => self.steady::<P, false>(now, packet, segment, found),
            (false, true) => self.steady::<P, true>(now, packet, segment, found),
            (true, false) => self.steady6::<P, false>(now, packet, segment, found),
            (true, true) => self.steady6::<P, true>(now, packet, segment, found),
        }
    }

    /// Looks a key up whose likely entry was another's; apart, because it is rare.
    #[inline(never)]
    fn find_again(&self, key: Key, hash: u64) -> Option<Found> {
        self.table.find(key, hash)
    }

    #[inline(never)]
    fn find_again6(&self, key: &Key6, hash: u64) -> Option<Found> {
        self.table.find6(key, hash)
    }

    /// Ends connections whose time is up: bounded work, to be called once per loop turn. Returns how many ended.
    pub fn housekeep(&mut self, now: Ticks) -> usize {
        self.sweep_templates(now);
        let mut ended = self.end_some();
        for _ in 0..HOUSEKEEP_MAX {
            let Some(index) = self.wheel.pop(&mut self.table.conns, now) else { break };
            let deadline = self.deadline(index);
            let template = self.refresh_template(index, now);
            if now.reached(deadline) {
                self.end(index);
                ended += 1;
            } else {
                // A template that outlives its refreshments would be lost under a silent connection.
                let sooner = template.map(|lives| now.plus(Ticks(lives.0 / 2 + 1)));
                let deadline = sooner.filter(|sooner| deadline.reached(*sooner)).unwrap_or(deadline);
                self.wheel.arm(&mut self.table.conns, index, now, deadline);
            }
        }
        self.fragments.expire(now, HOUSEKEEP_MAX, &self.counters);
        ended
    }

    /// A slot of [`Verdict::Wait`] that is to be emptied; to be asked until there is none, after packets were processed
    /// and after [`Worker::housekeep`].
    #[inline]
    pub fn take_released(&mut self) -> Option<Released> {
        self.fragments.take_released()
    }

    /// Ends connections of real servers whose connections end now: looks at some records per call until it has seen all.
    fn end_some(&mut self) -> usize {
        let Some(start) = self.ending else { return 0 };
        let used = self.table.used().len() as u32;
        let end = start.saturating_add(ENDING_MAX).min(used);
        let mut ended = 0;
        for index in start..end {
            let conn = &self.table.conns[index as usize];
            if is_live(conn) && self.snapshot.has_ended(conn.real_id) {
                self.counters.event(Counter::ConnectionsEnded).add(1);
                self.end(index);
                ended += 1;
            }
        }
        self.ending = (end < used).then_some(end);
        ended
    }

    /// Takes the new parts of an update and leaves the old ones in it, for the main thread to drop.
    pub fn apply(&mut self, update: &mut Update) {
        if let Some(snapshot) = &mut update.snapshot {
            if snapshot.ends != self.snapshot.ends {
                self.ending = Some(0);
            }
            std::mem::swap(&mut self.snapshot, snapshot);
        }
        if let Some(fib) = &mut update.fib {
            std::mem::swap(&mut self.fib, fib);
        }
        for (pair, set) in &mut update.port_sets {
            if let Some(slot) = self.ports.get_mut(pair.index()) {
                if let Some(set) = set {
                    // Not a secret, but different after each restart.
                    set.start_at(self.steering.derive(u64::from(pair.0)).0[0]);
                }
                std::mem::swap(slot, set);
            }
        }
        for (service, locality) in &mut update.localities {
            if let Some(state) = self.sched.get_mut(service.index()) {
                std::mem::swap(&mut state.locality, locality);
            }
        }
    }

    /// Next hops that packets wanted and whose MAC address is not known, since the last call.
    pub fn take_wanted(&mut self) -> ArrayVec<(PortId, IpAddr), WANTED_MAX> {
        std::mem::take(&mut self.wanted)
    }

    /// Appends matching connections to `out`, as far as its capacity goes, looking at no more than `scan` records
    /// from `cursor` on. Returns the next cursor, `None` at the end.
    pub fn export(
        &self,
        now: Ticks,
        filter: &ConnFilter,
        cursor: u32,
        scan: u32,
        out: &mut Vec<ConnInfo>,
    ) -> Option<u32> {
        let used = self.table.used();
        let start = (cursor as usize).min(used.len());
        let end = start.saturating_add(scan as usize).min(used.len());
        for (offset, conn) in used[start..end].iter().enumerate() {
            let tuples = self.table.tuples((start + offset) as u32);
            if !is_live(conn) || !filter.matches(&tuples) {
                continue;
            }
            if out.len() == out.capacity() {
                return Some((start + offset) as u32);
            }
            let index = (start + offset) as u32;
            out.push(ConnInfo {
                protocol: conn.protocol,
                client: tuples.client().to_socket_addr(),
                virtual_: tuples.virtual_().to_socket_addr(),
                local: tuples.local().to_socket_addr(),
                real: tuples.real().to_socket_addr(),
                mode: conn.mode,
                tunnel: self.snapshot.tunnel(conn.real_id).filter(|_| conn.mode == Mode::Tun).copied(),
                service: self
                    .snapshot
                    .service(conn.service)
                    .map(|service| (service.protocol, service.virtual_.to_socket_addr())),
                state: conn.state,
                expires_in: self.deadline(index).since(now),
            });
        }
        (end < used.len()).then_some(end as u32)
    }

    /// Bytes of connection records and index.
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Connections that fit the table.
    pub fn connections_max(&self) -> u32 {
        self.table.conns.len() as u32
    }

    /// Connections in the table.
    pub fn connections(&self) -> u32 {
        self.table.len()
    }

    /// Generation of the configuration in force.
    pub fn generation(&self) -> u64 {
        self.snapshot.generation
    }

    /// When the connection ends if no packet comes.
    fn deadline(&self, index: u32) -> Ticks {
        let conn = &self.table.conns[index as usize];
        conn.seen.plus(timeout(&self.snapshot, conn.service, conn.state))
    }

    /// Removes a connection and everything it holds.
    fn end(&mut self, index: u32) {
        self.table.unlink(index);
        self.wheel.disarm(&mut self.table.conns, index);
        self.embryonic.remove(&mut self.table.conns, index);
        let outbound = self.table.tuples(index).outbound;
        self.give_port_back(self.table.conns[index as usize].pair, &outbound);
        let conn = &self.table.conns[index as usize];
        let real = self.counters.real(conn.real_id);
        if conn.state.is_active() { &real.active } else { &real.inactive }.sub(1);
        real.held.sub(1);
        self.counters.state(conn.state).sub(1);
        self.counters.event(Counter::ConnectionsExpired).add(1);
        self.table.give_back(index);
        self.count_gauges();
    }

    fn count_gauges(&self) {
        self.counters.connections.set(self.table.len().into());
        self.counters.embryonic.set(self.embryonic.len().into());
    }

    fn drop(&self, reason: DropReason) -> Verdict {
        drop_packet(&self.counters, reason)
    }

    fn punt(&mut self, class: PuntClass) -> Verdict {
        punt_packet(&self.counters, &mut self.limiter, class)
    }
}

#[inline(always)]
fn timeout(snapshot: &Snapshot, service: crate::ids::ServiceId, state: ConnState) -> Ticks {
    match snapshot.service(service) {
        Some(service) => service.timeouts.of(state),
        // The service is gone; its connections live on.
        None => Timeouts::default().of(state),
    }
}

fn drop_packet(counters: &Counters, reason: DropReason) -> Verdict {
    counters.dropped(reason).add(1);
    Verdict::Drop(reason)
}

fn punt_packet(counters: &Counters, limiter: &mut Limiter, class: PuntClass) -> Verdict {
    if limiter.allows_punt(class) {
        counters.punt(class).add(1);
        Verdict::Punt(class)
    } else {
        drop_packet(counters, DropReason::PuntRateLimited)
    }
}

#[cfg(test)]
mod tests;
