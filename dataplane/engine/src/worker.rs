//! One core's share of the gateway.
//!
//! A burst goes through in stages, each over all its packets, so that cache misses overlap instead of adding up: a glance
//! at the addresses (prefetching index buckets), a look at the tags (prefetching records), then packet by packet the
//! [`steady`] short way or the long one. Nothing here locks, allocates, logs, reads a clock or makes a system call.

mod admit;
mod errors;
mod forward;
mod fragment;
mod persistence;
mod remembered;
mod reset;
mod shift;
mod steady;
mod tell;
mod track;
mod tunnel_errors;
mod upkeep;

pub(crate) use track::note_next_ack;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use wire::{MacAddr, PacketBuf, ipv4, ipv6};
use zerocopy::FromBytes;

use crate::BURST_LEN_MAX;
use crate::addr::Tuple;
use crate::conn::{ConnFilter, ConnInfo, Direction, NIL, condition};
use crate::counters::{Counter, Counters};
use crate::embryonic::EmbryonicList;
use crate::fib::Fib;
use crate::fragments::Fragments;
use crate::hash::{Key, Secret};
use crate::ids::{PortId, WorkerId};
use crate::limiter::Limiter;
use crate::parse::{Parsed, Segment, parse};
use crate::plain::{Frame, Ipv4, MacWord, Ports};
use crate::plan::{Limits, Update};
use crate::ports::PortSet;
use crate::rss::Rss;
use crate::sched::SchedState;
use crate::snapshot::{Mode, Snapshot};
use crate::steer;
use crate::table::{Found, Table, is_live};
use crate::tcp::{ConnState, Timeouts};
use crate::time::Ticks;
use crate::traffic::Sweep;
use crate::verdict::{DropReason, PuntClass, Released, Verdict};
use crate::wheel::Wheel;
use remembered::Remembered;

/// Next hops that are remembered for [`Worker::take_wanted`] between two calls.
pub const WANTED_MAX: usize = 16;

/// RSTs that wait for [`Worker::write_reset`]; 32 connections per turn are millions per second.
pub const RESETS_MAX: usize = 64;

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

/// What the first stage sees of a packet, without having looked at whether it is in order.
#[derive(Debug, Clone, Copy)]
struct Glance {
    hash: u64,
    /// The index entry that will most likely be it; before that is known, its bucket.
    likely: u32,
    kind: Kind,
}

/// What a frame seems to be. As wide as what stands beside it in [`Glance`], so that one is copied without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Tcp4,
    Udp4,
    Tcp6,
    Udp6,
    Other,
}

impl Glance {
    const OTHER: Glance = Glance { hash: 0, likely: NIL, kind: Kind::Other };
}

/// Who a burst is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Port,
    Worker,
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
    /// Connections since the last [`Worker::housekeep_after`].
    opened: u32,
    /// Packets of the burst that is being processed that were not for the short way. In memory, to leave the loop a register.
    long_ways: u64,
    limiter: Limiter,
    /// By pair.
    ports: Vec<Option<Box<PortSet>>>,
    /// By service.
    sched: Vec<SchedState>,
    remembered: Remembered,
    snapshot: Arc<Snapshot>,
    fib: Arc<Fib>,
    counters: Arc<Counters>,
    traffic: Sweep,
    /// Pages of all workers, for least-connection schedulers.
    all_counters: Vec<Arc<Counters>>,
    wanted: ArrayVec<(PortId, IpAddr), WANTED_MAX>,
    packet_id: PacketId,
    fragments: Fragments,
    /// RSTs that are to be written: of these connections, as if sent in these directions.
    resets: ArrayVec<Found, RESETS_MAX>,
    /// The first record that was not yet asked whether it has to end.
    ending: Option<u32>,
    /// The first bucket of templates that was not yet swept in this round, how many are to be, and since when.
    sweep_at: usize,
    to_sweep: usize,
    swept: Ticks,
}

/// Identifications for IPv4 headers that the gateway writes (RFC 6864 §4.2). Each worker has every so many-th of them, as
/// there are workers: what two of them send to one receiver may be cut on its way.
#[derive(Debug)]
struct PacketId {
    next: Cell<u16>,
    first: u16,
    step: u16,
}

impl PacketId {
    fn new(worker: WorkerId, workers: u16) -> PacketId {
        PacketId { next: Cell::new(worker.0), first: worker.0, step: workers.max(1) }
    }

    #[inline(always)]
    fn next(&self) -> u16 {
        let id = self.next.get();
        self.next.set(id.checked_add(self.step).unwrap_or(self.first));
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
            opened: 0,
            long_ways: 0,
            limiter: Limiter::new(config.punt_per_second, config.now),
            ports: std::iter::repeat_with(|| None).take(config.limits.pairs_max).collect(),
            sched: vec![SchedState::default(); config.limits.services_max],
            remembered: Remembered::new(config.limits.reals_max),
            snapshot: Arc::new(Snapshot::default()),
            fib: Arc::new(Fib::empty()),
            counters,
            traffic: Sweep::new(config.now),
            all_counters,
            wanted: ArrayVec::new(),
            packet_id: PacketId::new(config.id, config.workers),
            fragments: Fragments::new(),
            resets: ArrayVec::new(),
            ending: None,
            sweep_at: 0,
            to_sweep: 0,
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
    #[inline(always)]
    pub fn process<P: PacketBuf>(
        &mut self,
        now: Ticks,
        packets: &mut [P],
        verdicts: &mut [Verdict; BURST_LEN_MAX],
    ) {
        self.origin = Origin::Port;
        // Where the NIC brings packets to their owner, only those are looked at that are found to be nobody's
        // here.
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
        let mut glances = [Glance::OTHER; BURST_LEN_MAX];
        let mut came_on = PortId(u16::MAX);
        let mut mac = MacWord::from(MacAddr::ZERO);
        for (packet, glance) in packets.iter().zip(&mut glances) {
            let port = PortId(packet.port());
            if port != came_on {
                came_on = port;
                mac = self.mac_of(port).into();
            }
            *glance = self.glance(packet, mac);
        }
        let mut any_wide = false;
        for (glance, _) in glances.iter_mut().zip(&*packets) {
            any_wide |= matches!(glance.kind, Kind::Tcp6 | Kind::Udp6);
            glance.likely = self.table.likely(glance.likely, glance.hash);
            if let Some(conn) = self.table.record(glance.likely) {
                P::prefetch(conn);
            }
        }
        if any_wide {
            self.prefetch_addresses::<P>(&glances);
        }
        let epoch = condition(0, 0, 0, 0, self.fib.epoch());
        self.long_ways = 0;
        for ((packet, glance), verdict) in packets.iter_mut().zip(&glances).zip(verdicts) {
            if !self.short_way(now, epoch, packet, glance, verdict) {
                *verdict = self.long_way::<P, STEER>(now, origin, packet);
            }
        }
        let forwarded = packets.len().min(BURST_LEN_MAX) as u64 - self.long_ways;
        self.counters.event(Counter::Forwarded).add(forwarded);
    }

    /// Our MAC address on a port.
    #[inline(always)]
    fn mac_of(&self, port: PortId) -> MacAddr {
        self.fib.port(port).map_or(MacAddr::ZERO, |port| port.mac)
    }

    /// First stage: what a packet seems to be; hashes, and fetches where the index may know it.
    #[inline(always)]
    fn glance<P: PacketBuf>(&self, packet: &P, mac: MacWord) -> Glance {
        let Ok((frame, _)) = Frame::<Ipv4, Ports>::ref_from_prefix(packet.data()) else {
            return Glance::OTHER;
        };
        if !frame.is_to(mac) {
            return Glance::OTHER;
        }
        if !frame.is_plain() {
            return self.glance6(packet);
        }
        // Each with its protocol as a constant.
        let key = frame.key();
        let (kind, hash) = match key.protocol {
            ipv4::PROTO_TCP => (Kind::Tcp4, self.table.hash(Key { protocol: ipv4::PROTO_TCP, ..key })),
            ipv4::PROTO_UDP => (Kind::Udp4, self.table.hash(Key { protocol: ipv4::PROTO_UDP, ..key })),
            _ => return Glance::OTHER,
        };
        Glance { hash, likely: self.prefetch_bucket::<P>(hash), kind }
    }

    #[inline(always)]
    fn prefetch_bucket<P: PacketBuf>(&self, hash: u64) -> u32 {
        let number = self.table.bucket_of(hash);
        if let Some(bucket) = self.table.bucket(number) {
            P::prefetch(bucket);
        }
        number
    }

    #[inline(always)]
    fn glance6<P: PacketBuf>(&self, packet: &P) -> Glance {
        let frame = Frame::<ipv6::Header, Ports>::ref_from_prefix(packet.data());
        let Some((frame, _)) = frame.ok().filter(|(frame, _)| frame.is_plain()) else { return Glance::OTHER };
        let kind = match frame.ip.next_header {
            ipv4::PROTO_TCP => Kind::Tcp6,
            ipv4::PROTO_UDP => Kind::Udp6,
            _ => return Glance::OTHER,
        };
        let hash = self.table.hash6(&frame.key());
        Glance { hash, likely: self.prefetch_bucket::<P>(hash), kind }
    }

    /// The addresses of IPv6 connections are one step further than the records, which are on their way by now.
    #[inline(never)]
    fn prefetch_addresses<P: PacketBuf>(&self, glances: &[Glance]) {
        for glance in glances.iter().filter(|glance| matches!(glance.kind, Kind::Tcp6 | Kind::Udp6)) {
            if let Some(conn) = self.table.record(glance.likely)
                && let Some(addrs) = self.table.wide(conn, Direction::Inbound)
            {
                P::prefetch(addrs);
            }
        }
    }

    /// Every packet that is not for the short way.
    #[inline(never)]
    fn long_way<P: PacketBuf, const STEER: bool>(
        &mut self,
        now: Ticks,
        origin: Origin,
        packet: &mut P,
    ) -> Verdict {
        self.long_ways += 1;
        let data = packet.data();
        let mac = self.mac_of(PortId(packet.port()));
        match parse(data, mac) {
            Parsed::Segment(segment) => {
                if STEER && let Some(owner) = self.other_owner(&segment.tuple(data)) {
                    self.note_misdirected(&segment.tuple(data));
                    return self.hand_over(owner);
                }
                self.segment(now, packet, &segment)
            }
            Parsed::IcmpError(message) => {
                // An error belongs to who owns what it quotes.
                let by_nic = self.rss.is_some() && origin == Origin::Port;
                if (STEER || by_nic)
                    && let Some(about) = errors::about(&self.snapshot, data, message)
                    && let Some(owner) = self.other_owner(&about)
                {
                    return self.hand_over(owner);
                }
                self.icmp_error(packet, message)
            }
            Parsed::Fragment(fragment) => self.fragment(now, origin, packet, fragment),
            Parsed::Punt(class) => self.punt(class),
            Parsed::Drop(reason) => self.drop(reason),
        }
    }

    /// Who owns a packet, if it is somebody else.
    #[inline(always)]
    fn other_owner(&self, tuple: &Tuple) -> Option<WorkerId> {
        let by_rss = self.rss.as_ref().and_then(|rss| steer::owner_by_rss(&self.snapshot, rss, tuple));
        let owner =
            by_rss.unwrap_or_else(|| steer::owner(&self.snapshot, self.steering, self.workers, tuple));
        (owner != self.id).then_some(owner)
    }

    /// Counts a packet that a flow rule should have brought to its owner, which is somebody else.
    fn note_misdirected(&self, tuple: &Tuple) {
        if self.snapshot.dealt.get(tuple.dst.addr).is_some() {
            self.counters.event(Counter::Misdirected).add(1);
        }
    }

    fn hand_over(&self, owner: WorkerId) -> Verdict {
        self.counters.event(Counter::HandedOver).add(1);
        Verdict::HandOver(owner)
    }

    #[inline(always)]
    fn segment<P: PacketBuf>(&mut self, now: Ticks, packet: &mut P, segment: &Segment) -> Verdict {
        let found = if segment.wide {
            let key = segment.key6(packet.data());
            self.table.find6(&key, self.table.hash6(&key))
        } else {
            self.table.find(segment.key, self.table.hash(segment.key))
        };
        match found {
            Some(found) => self.forward(now, packet, segment, found),
            None => self.unknown(now, packet, segment),
        }
    }

    /// A slot of [`Verdict::Wait`] that is to be emptied; to be asked until there is none, after packets were processed
    /// and after [`Worker::housekeep`].
    #[inline]
    pub fn take_released(&mut self) -> Option<Released> {
        self.fragments.take_released()
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
        for (service, memory) in &mut update.memories {
            if let Some(state) = self.sched.get_mut(service.index()) {
                std::mem::swap(&mut state.memory, memory);
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
                tunnel: self
                    .snapshot
                    .wrapper(conn.real_id)
                    .filter(|_| conn.mode == Mode::Tun)
                    .map(|wrapper| wrapper.tunnel),
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
