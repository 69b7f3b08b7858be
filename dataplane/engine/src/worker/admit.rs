//! Segments that belong to no connection, and the connections that some of them open.

use std::net::IpAddr;

use wire::icmp::Error;
use wire::tcp::{self, flags};
use wire::{PacketBuf, checksum, ethernet, ipv4, udp, view};

use super::forward::hops;
use super::persistence::Persisting;
use super::track::{checksum_is_valid, note_sent, scale_in};
use super::upkeep::look_by;
use super::{Origin, Worker};
use crate::addr::{Addr, Endpoint, Tuple};
use crate::conn::{Conn, Direction, NIL, TOA_STRIP, ToaForm, Uoa, flag, trait_};
use crate::counters::{Counter, Counters};
use crate::hash::{AnyKey, halves32};
use crate::ids::{AdjacencyId, PairId, ServiceId, WorkerId};
use crate::parse::{Piece, Segment};
use crate::ports::PortSet;
use crate::sched::Flow;
use crate::snapshot::{Mode, Real, Service, Snapshot};
use crate::steer;
use crate::table::{Found, Table};
use crate::tcp::ConnState;
use crate::time::Ticks;
use crate::translate::{self, client_address};
use crate::verdict::{DropReason, PuntClass, Verdict};

/// Ports that are tried when one turns out to be taken by a connection of an older configuration.
const PORT_TRIES_MAX: usize = 64;

impl Worker {
    /// A packet that belongs to no connection.
    #[inline(never)]
    pub(super) fn unknown<P: PacketBuf>(&mut self, now: Ticks, packet: &mut P, segment: &Segment) -> Verdict {
        let tuple = segment.tuple(packet.data());
        // IPv4-mapped addresses stand for IPv4 here and have no place on the wire (RFC 4291 §2.5.5.2).
        if segment.wide && (tuple.src.addr.is_v4() || tuple.dst.addr.is_v4()) {
            return self.drop(DropReason::SourceInvalid);
        }
        let from_nic = self.rss.is_some() && self.origin == Origin::Port;
        if from_nic && let Some(owner) = self.somebody_else(&tuple, segment) {
            return self.hand_over(owner);
        }
        let Some(service) = self.snapshot.find_id(tuple.protocol, tuple.dst) else {
            // Also what real servers in mode NAT send of their own accord: the kernel routes it.
            let local = self.snapshot.locals.contains(tuple.dst.addr);
            return self.punt(if local { PuntClass::Stray } else { PuntClass::Local });
        };
        if segment.piece == Piece::Later {
            return self.drop(DropReason::FragmentStray);
        }
        if !segment.is_udp() && segment.flags & (flags::SYN | flags::ACK) != flags::SYN {
            return self.punt(PuntClass::Stray);
        }
        if !is_intact(packet.data(), segment) {
            return self.drop(DropReason::ChecksumInvalid);
        }
        if !may_be_client(tuple.src.addr, &self.snapshot) {
            return self.drop(DropReason::SourceInvalid);
        }
        if hops(packet.data(), segment.wide) <= 1 {
            return self.answer(packet, segment, Error::TimeExceeded, DropReason::TtlExpired);
        }
        // Handed over by a worker that did not have this configuration yet: the answers would go elsewhere.
        if self.workers > 1 && !from_nic && self.other_owner(&tuple).is_some() {
            return self.drop(DropReason::NotOwner);
        }
        match self.admit::<P>(now, packet.data(), segment, &tuple, service) {
            Ok(found) => {
                let verdict = self.send(packet, segment, found);
                // The other fragments of the packet need the connection.
                if segment.piece == Piece::Whole {
                    self.end_one_packet(found);
                }
                verdict
            }
            Err(DropReason::NoRealServer) => {
                self.answer(packet, segment, Error::PortUnreachable, DropReason::NoRealServer)
            }
            Err(reason) => self.drop(reason),
        }
    }

    /// With a NIC that is asked to bring packets to their owner: who else owns a packet of no connection
    /// here.
    fn somebody_else(&self, tuple: &Tuple, segment: &Segment) -> Option<WorkerId> {
        let rss = self.rss.as_ref()?;
        let to = tuple.dst.addr;
        let of_ours = self.snapshot.locals.contains(to) || self.snapshot.virtuals.contains(to);
        // What is the kernel's need not go round first, if it cannot be a reply to a client.
        if !of_ours && self.snapshot.by_client.is_empty() {
            return None;
        }
        let owner = self.other_owner(tuple)?;
        if segment.piece == Piece::Whole && steer::owner_by_rss(&self.snapshot, rss, tuple).is_some() {
            self.counters.event(Counter::Misdirected).add(1);
        }
        Some(owner)
    }

    /// Makes the connection that a packet asks for.
    fn admit<P: PacketBuf>(
        &mut self,
        now: Ticks,
        data: &[u8],
        segment: &Segment,
        tuple: &Tuple,
        service: ServiceId,
    ) -> Result<Found, DropReason> {
        let picked = self.schedule(now, data, segment, tuple, service)?;
        let index = self.take_record::<P>().ok_or(DropReason::TableFull)?;
        match self.enter::<P>(now, data, segment, tuple, index, (service, picked)) {
            Ok(()) => Ok(Found { conn: index, direction: Direction::Inbound }),
            Err(reason) => {
                self.table.give_back(index);
                Err(reason)
            }
        }
    }

    /// Fills in and enters record `index`; on error the caller gives it back.
    fn enter<P: PacketBuf>(
        &mut self,
        now: Ticks,
        data: &[u8],
        segment: &Segment,
        tuple: &Tuple,
        index: u32,
        (service, picked): (ServiceId, usize),
    ) -> Result<(), DropReason> {
        // Both were there a moment ago.
        let service = self.snapshot.service(service).ok_or(DropReason::NoRealServer)?;
        let real = service.real(picked).ok_or(DropReason::NoRealServer)?;
        let sources = Sources { ports: &mut self.ports, table: &self.table, counters: &self.counters };
        let (pair, outbound, hash) = match real.mode {
            Mode::FullNat => sources
                .take::<P>(real, tuple, self.remembered.next_local(real))
                .ok_or(DropReason::LocalPortsExhausted)?,
            mode => {
                let outbound = AnyKey::of(&outbound_tuple(mode, real, tuple, &self.snapshot));
                (PairId::NONE, outbound, self.table.hash_any(&outbound))
            }
        };
        let ambiguous = real.mode == Mode::Nat && self.table.find_any(&outbound, hash).is_some();
        let keys = [AnyKey::of(tuple), outbound];
        let deadline = now.plus(service.timeouts.of(state_of_new(tuple.protocol)));
        let mut conn = Conn {
            pair,
            deltas: translate::deltas(&keys, real),
            fib_epoch: self.fib.epoch(),
            next_hops: [self.remembered.next_hop(&self.fib, real), AdjacencyId::NONE],
            ..new_conn(now, data, segment, service, real)
        };
        if real.mode == Mode::FullNat && !segment.is_udp() {
            let syn = data.get(segment.l4.into()..segment.end.into()).unwrap_or_default();
            self.begin_shifts(&mut conn, service.options, &outbound, now, syn);
        }
        if !segment.is_udp()
            && !real.mode.is_one_way()
            && let Some(version) = service.options.proxy
        {
            conn.preface = client_address::preface_of(version, tuple);
            conn.traits |= trait_::SHIFTED;
        }
        self.table.conns[index as usize] = conn;
        let entered = if ambiguous {
            Err(DropReason::ReplyAmbiguous)
        } else {
            let hashes = [self.table.hash_any(&keys[0]), hash];
            let set = self.table.set_keys(index, &keys);
            set.and_then(|()| self.table.link(index, hashes)).map_err(|_| DropReason::TableFull)
        };
        if entered.is_err() {
            self.give_port_back(pair, outbound.ports());
            return entered;
        }
        self.account_new(now, index, deadline);
        Ok(())
    }

    /// The index of the real server that is to have a packet for this service.
    fn schedule(
        &mut self,
        now: Ticks,
        data: &[u8],
        segment: &Segment,
        tuple: &Tuple,
        service: ServiceId,
    ) -> Result<usize, DropReason> {
        let service = self.snapshot.service(service).ok_or(DropReason::NoRealServer)?;
        let sched = &mut self.sched[service.id.index()];
        let payload = if segment.is_udp() { usize::from(segment.l4) + udp::HEADER_LEN } else { usize::MAX };
        let flow = Flow {
            now,
            client: tuple.src.addr.as_bytes(),
            client_port: u16::from_be(tuple.src.port),
            virtual_: tuple.dst.addr.as_bytes(),
            payload: data.get(payload..segment.end.into()).unwrap_or_default(),
        };
        let templates = Persisting::of(&self.snapshot, service, &self.counters, tuple, now);
        if let Some(known) = templates.as_ref().and_then(|templates| templates.known(&self.snapshot)) {
            return Ok(known);
        }
        let picked = sched.pick(service, &flow, self.id.0, &self.all_counters);
        let picked = match (picked, &templates) {
            (Some(picked), Some(templates)) => Some(templates.remember(picked)),
            (None, _) => service.sorry.as_ref().filter(|sorry| sorry.up).map(|_| service.sorry_index()),
            (picked, None) => picked,
        };
        match picked {
            Some(picked) => Ok(picked),
            None => {
                self.counters.no_real_server(service.id).add(1);
                Err(DropReason::NoRealServer)
            }
        }
    }

    /// A free record; of a full table, that of the oldest embryonic connection.
    fn take_record<P: PacketBuf>(&mut self) -> Option<u32> {
        if let Some(index) = self.table.take() {
            return Some(index);
        }
        let oldest = self.embryonic.oldest()?;
        self.prefetch_victims::<P>(oldest);
        self.counters.event(Counter::EmbryonicRecycled).add(1);
        self.end(oldest);
        self.table.take()
    }

    /// Whoever fills the table has the next records and what the index knows of them nowhere near: fetches of the one
    /// that will be given up next its entries, and of the one behind it the record.
    #[inline(always)]
    fn prefetch_victims<P: PacketBuf>(&self, oldest: u32) {
        let next = |index: u32| {
            let conn = self.table.conns.get(index as usize)?;
            self.table.conns.get(conn.embryonic_next as usize).map(|next| (conn.embryonic_next, next))
        };
        let Some((first, _)) = next(oldest) else { return };
        for bucket in self.table.buckets_of(first).into_iter().flatten() {
            P::prefetch(bucket);
        }
        if let Some((_, second)) = next(first) {
            P::prefetch(second);
            P::prefetch(&second.scales);
        }
    }

    /// Gives back what [`Sources::take`] gave.
    pub(super) fn give_port_back(&mut self, pair: PairId, outbound_ports: u32) {
        let Some(Some(set)) = self.ports.get_mut(pair.index()) else { return };
        let (real, local) = halves32(outbound_ports);
        set.give_back(u16::from_be(local), u16::from_be(real));
        self.counters.pair(pair).in_use.sub(1);
    }

    fn account_new(&mut self, now: Ticks, index: u32, deadline: Ticks) {
        let conn = &self.table.conns[index as usize];
        let real = self.counters.real(conn.real_id);
        real.connections.add(1);
        if conn.state.is_active() { &real.active } else { &real.inactive }.add(1);
        real.held.add(1);
        self.counters.state(conn.state).add(1);
        self.counters.event(Counter::ConnectionsCreated).add(1);
        // Of one-way UDP nothing ever says that it is answered, so its age says nothing.
        let young = conn.state.is_embryonic() || (conn.state == ConnState::Udp && !conn.is(trait_::ONE_WAY));
        let look = look_by(now, deadline, self.refresh_template(index, now));
        self.wheel.arm(&mut self.table.conns, index, now, look);
        self.opened += 1;
        if young {
            self.embryonic.push(&mut self.table.conns, index);
        }
        self.count_gauges();
    }
}

/// Where local endpoints come from.
struct Sources<'a> {
    ports: &'a mut [Option<Box<PortSet>>],
    table: &'a Table,
    counters: &'a Counters,
}

impl Sources<'_> {
    /// A free local endpoint towards a real server, from its local addresses in turn, beginning with `next_local`: the pair
    /// that it is of, the key of the real server's replies and its hash.
    #[inline(always)]
    fn take<P: PacketBuf>(
        mut self,
        real: &Real,
        tuple: &Tuple,
        next_local: usize,
    ) -> Option<(PairId, AnyKey, u64)> {
        let src = real_endpoint(real, tuple);
        let (before, behind) = real.locals.split_at(next_local);
        for (addr, pair) in behind.iter().chain(before) {
            let dst = Endpoint { addr: *addr, port: 0 };
            let outbound = AnyKey::of(&Tuple { protocol: tuple.protocol, src, dst });
            if let Some((outbound, hash)) = self.take_port::<P>(*pair, outbound, src.port) {
                self.counters.pair(*pair).in_use.add(1);
                return Some((*pair, outbound, hash));
            }
        }
        // Only what is refused counts, once per local address; those of other workers have no ports for us.
        let own =
            real.locals.iter().filter(|(_, pair)| self.ports.get(pair.index()).is_some_and(Option::is_some));
        own.for_each(|(_, pair)| self.counters.pair(*pair).exhausted.add(1));
        None
    }

    /// `outbound` with a port at which no connection of this local address and real server stands. Such a one can only
    /// stem from a configuration with another port range. `real_port` in network order.
    #[inline(always)]
    fn take_port<P: PacketBuf>(
        &mut self,
        pair: PairId,
        outbound: AnyKey,
        real_port: u16,
    ) -> Option<(AnyKey, u64)> {
        let Sources { ports, table, .. } = self;
        let set = ports.get_mut(pair.index())?.as_mut()?;
        let real_port = u16::from_be(real_port);
        for _ in 0..PORT_TRIES_MAX {
            let port = set.take(real_port)?;
            let outbound = outbound.with_dst_port(port.to_be());
            let hash = table.hash_any(&outbound);
            if table.find_any(&outbound, hash).is_none() {
                // Unlike the client's side of the next connection, this one can be told before it is there.
                if let Some(next) = set.likely_next(real_port) {
                    let next = outbound.with_dst_port(next.to_be());
                    table
                        .bucket(table.bucket_of(table.hash_any(&next)))
                        .inspect(|bucket| P::prefetch(*bucket));
                }
                return Some((outbound, hash));
            }
            set.give_back(port, real_port);
        }
        None
    }
}

/// RIP:rport; a real server without port has that of the packet.
fn real_endpoint(real: &Real, tuple: &Tuple) -> Endpoint {
    let port = if real.endpoint.port == 0 { tuple.dst.port } else { real.endpoint.port };
    Endpoint { port, ..real.endpoint }
}

/// What the replies of a real server look like that is not reached in FULLNAT: addressed to the client. Of a tunnelled
/// one no replies are seen; its tuple names the source of the tunnel, which is of its family.
fn outbound_tuple(mode: Mode, real: &Real, tuple: &Tuple, snapshot: &Snapshot) -> Tuple {
    let tunnel = if mode == Mode::Tun { snapshot.wrapper(real.id) } else { None };
    let dst = match tunnel {
        Some(wrapper) => Endpoint { addr: wrapper.tunnel.source.into(), port: 0 },
        None => tuple.src,
    };
    Tuple { protocol: tuple.protocol, src: real_endpoint(real, tuple), dst }
}

pub(super) fn state_of_new(protocol: u8) -> ConnState {
    if protocol == ipv4::PROTO_TCP { ConnState::SynRecv } else { ConnState::Udp }
}

/// The record of a connection that a packet opens, but for what the caller adds.
fn new_conn(now: Ticks, data: &[u8], segment: &Segment, service: &Service, real: &Real) -> Conn {
    let state = state_of_new(segment.key.protocol);
    let (is_fullnat, is_udp) = (real.mode == Mode::FullNat, state == ConnState::Udp);
    let proxy = service.options.proxy.filter(|_| !is_udp);
    let toa = service.toa.filter(|_| is_fullnat && !is_udp && proxy.is_none());
    let uoa = service.options.uoa.filter(|_| is_fullnat && is_udp);
    let strips = !service.options.pass_toa || proxy.is_some() || uoa.is_some();
    let one_packet = service.options.one_packet && is_udp;
    let traits = [
        (real.mode.is_one_way(), trait_::ONE_WAY),
        (one_packet, trait_::ONE_PACKET),
        (service.options.persistence.is_some(), trait_::PERSISTENT),
    ];
    let mut conn = Conn {
        state,
        mode: real.mode,
        traits: traits.iter().map(|(is, bit)| if *is { *bit } else { 0 }).sum(),
        flags: flag::LIVE | if toa.is_some() || uoa.is_some() { flag::TOA_PENDING } else { 0 },
        toa_kind: toa.unwrap_or(if strips { TOA_STRIP } else { 0 }),
        toa_form: uoa
            .map_or(service.options.toa_form, |uoa| ToaForm { must: uoa.must, ..ToaForm::default() }),
        uoa: uoa.map_or(Uoa::Off, |uoa| uoa.form.into()),
        uoa_left: uoa.map_or(0, |uoa| uoa.datagrams),
        seen: now,
        real_id: real.id,
        service: service.id,
        wheel_slot: NIL,
        ..Conn::EMPTY
    };
    if state == ConnState::SynRecv {
        note_first_syn(&mut conn, data, segment);
    }
    conn
}

fn note_first_syn(conn: &mut Conn, data: &[u8], segment: &Segment) {
    let syn = view::<tcp::Header>(data, segment.l4.into());
    let options =
        data.get(segment.l4.into()..segment.end.into()).and_then(tcp::options_of).unwrap_or_default();
    conn.client_isn = syn.map_or(0, |syn| syn.seq.get());
    conn.scales[Direction::Inbound as usize] = scale_in(options);
    note_sent(conn, conn.client_isn.wrapping_add(1));
}

/// Whether connections may come from there (RFC 1122 §3.2.1.3, RFC 4291 §2.5 and §2.7; our own addresses would make a
/// loop).
fn may_be_client(source: Addr, snapshot: &Snapshot) -> bool {
    let unicast = match source.to_ip() {
        IpAddr::V4(v4) => ipv4::is_unicast(ipv4::addr(v4)) && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback(),
    };
    let ours = snapshot.locals.contains(source) || snapshot.virtuals.contains(source);
    unicast && !ours
}

/// Whether all checksums of a packet are right that is to open a connection: nothing is remembered of a corrupt one.
fn is_intact(data: &[u8], segment: &Segment) -> bool {
    let header = data.get(ethernet::HEADER_LEN..segment.l4.into()).unwrap_or_default();
    (segment.wide || checksum::verify_ipv4(header)) && checksum_is_valid(data, segment)
}
