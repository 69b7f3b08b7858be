//! Segments that belong to no connection, and the connections that some of them open.

use std::net::Ipv4Addr;

use wire::tcp::{self, flags};
use wire::{PacketBuf, checksum, ethernet, ipv4, view};

use super::Worker;
use super::forward::ttl;
use super::track::checksum_is_valid;
use crate::conn::{Acked, Conn, Direction, NIL, flag};
use crate::counters::{Counter, Counters};
use crate::hash::Key;
use crate::icmp;
use crate::ids::{PairId, ServiceId};
use crate::parse::Segment;
use crate::ports::PortSet;
use crate::sched::Flow;
use crate::snapshot::{Endpoint4, Service, Snapshot};
use crate::table::{Found, Table};
use crate::tcp::TcpState;
use crate::time::Ticks;
use crate::translate;
use crate::verdict::{DropReason, PuntClass, Verdict};

/// Ports that are tried when one turns out to be taken by a connection of an older configuration.
const PORT_TRIES_MAX: usize = 8;

impl Worker {
    /// A segment that belongs to no connection.
    #[inline(never)]
    pub(super) fn unknown<P: PacketBuf>(&mut self, now: Ticks, packet: &mut P, segment: &Segment) -> Verdict {
        let destination = segment.key.dst();
        if self.snapshot.find(segment.key.protocol, destination).is_none() {
            let local = self.snapshot.locals.contains(destination.addr);
            return self.punt(if local { PuntClass::Stray } else { PuntClass::Local });
        }
        if segment.flags & (flags::SYN | flags::ACK) != flags::SYN {
            return self.punt(PuntClass::Stray);
        }
        if !is_intact(packet.data(), segment) {
            return self.drop(DropReason::ChecksumInvalid);
        }
        if !may_be_client(segment.key.src(), &self.snapshot) {
            return self.drop(DropReason::SourceInvalid);
        }
        if ttl(packet.data()) <= 1 {
            return self.answer(packet, segment, icmp::Error::TimeExceeded, DropReason::TtlExpired);
        }
        match self.admit(now, packet.data(), segment) {
            Ok(found) => self.send(packet, segment, found),
            Err(DropReason::NoRealServer) => {
                self.answer(packet, segment, icmp::Error::PortUnreachable, DropReason::NoRealServer)
            }
            Err(reason) => self.drop(reason),
        }
    }

    /// Makes the connection that a SYN asks for.
    fn admit(&mut self, now: Ticks, data: &[u8], segment: &Segment) -> Result<Found, DropReason> {
        let (service, picked) = self.schedule(now, segment)?;
        let index = self.take_record().ok_or(DropReason::TableFull)?;
        // Both were there a moment ago.
        let service = self.snapshot.service(service).ok_or(DropReason::NoRealServer)?;
        let real = service.reals.get(picked).ok_or(DropReason::NoRealServer)?;
        let next_local = &mut self.sched[service.id.index()].local;
        let sources = Sources { ports: &mut self.ports, table: &self.table, counters: &self.counters };
        let Some((pair, local)) = sources.take(service, &real.pairs, real.endpoint, next_local) else {
            self.table.give_back(index);
            return Err(DropReason::LocalPortsExhausted);
        };
        let conn = &mut self.table.conns[index as usize];
        *conn = Conn { real_id: real.id, pair, ..new_conn(now, data, segment, service) };
        conn.set_endpoints(segment.key, Key::new(segment.key.protocol, real.endpoint, local));
        conn.deltas = translate::deltas(conn);
        let deadline = now.plus(service.timeouts.of(conn.state));
        if self.table.link(index).is_err() {
            self.give_port_back(pair, local.port);
            self.table.give_back(index);
            return Err(DropReason::TableFull);
        }
        self.account_new(now, index, deadline);
        Ok(Found { conn: index, direction: Direction::Inbound })
    }

    /// The service that a SYN is for, and the index of the real server that is to have it.
    fn schedule(&mut self, now: Ticks, segment: &Segment) -> Result<(ServiceId, usize), DropReason> {
        let service =
            self.snapshot.find(segment.key.protocol, segment.key.dst()).ok_or(DropReason::NoRealServer)?;
        let sched = &mut self.sched[service.id.index()];
        let (client, virtual_) = (segment.key.src(), segment.key.dst());
        let flow = Flow {
            now,
            client: &client.addr.to_ne_bytes(),
            client_port: u16::from_be(client.port),
            virtual_: &virtual_.addr.to_ne_bytes(),
            payload: &[],
        };
        match sched.pick(service, &flow, self.id.0, &self.all_counters) {
            Some(picked) => Ok((service.id, picked)),
            None => {
                self.counters.no_real_server(service.id).add(1);
                Err(DropReason::NoRealServer)
            }
        }
    }

    /// A free record; of a full table, that of the oldest embryonic connection.
    fn take_record(&mut self) -> Option<u32> {
        if let Some(index) = self.table.take() {
            return Some(index);
        }
        let oldest = self.embryonic.oldest()?;
        self.counters.event(Counter::EmbryonicRecycled).add(1);
        self.end(oldest);
        self.table.take()
    }

    fn give_port_back(&mut self, pair: PairId, port: u16) {
        if let Some(set) = &mut self.ports[pair.index()] {
            set.give_back(u16::from_be(port));
        }
        self.counters.pair(pair).in_use.sub(1);
    }

    fn account_new(&mut self, now: Ticks, index: u32, deadline: Ticks) {
        let conn = &self.table.conns[index as usize];
        let real = self.counters.real(conn.real_id);
        real.connections.add(1);
        real.active.add(1);
        real.held.add(1);
        self.counters.state(conn.state).add(1);
        self.counters.event(Counter::ConnectionsCreated).add(1);
        self.wheel.arm(&mut self.table.conns, index, now, deadline);
        self.embryonic.push(&mut self.table.conns, index);
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
    /// A free local endpoint towards a real server, from the service's local addresses in turn.
    fn take(
        mut self,
        service: &Service,
        pairs: &[PairId],
        real: Endpoint4,
        next_local: &mut u32,
    ) -> Option<(PairId, Endpoint4)> {
        let n = pairs.len().min(service.locals.len());
        let first = *next_local as usize;
        *next_local = next_local.wrapping_add(1) % n.max(1) as u32;
        for step in 0..n {
            let i = (first + step) % n;
            let (pair, addr) = (pairs[i], service.locals[i]);
            if let Some(port) = self.take_port(pair, addr, real, service.protocol) {
                self.counters.pair(pair).in_use.add(1);
                return Some((pair, Endpoint4 { addr, port }));
            }
            self.counters.pair(pair).exhausted.add(1);
        }
        None
    }

    /// A port, in network order, at which no connection of this local address and real server stands. Such a one can
    /// only stem from a configuration with another port range.
    fn take_port(&mut self, pair: PairId, local: u32, real: Endpoint4, protocol: u8) -> Option<u16> {
        let set = self.ports.get_mut(pair.index())?.as_mut()?;
        for _ in 0..PORT_TRIES_MAX {
            let port = set.take()?;
            let key = Key::new(protocol, real, Endpoint4 { addr: local, port: port.to_be() });
            if self.table.find(key, self.table.hash(key)).is_none() {
                return Some(port.to_be());
            }
            set.give_back(port);
        }
        None
    }
}

/// The record of a connection that a SYN opens, but for what the caller adds.
fn new_conn(now: Ticks, data: &[u8], segment: &Segment, service: &Service) -> Conn {
    let syn = view::<tcp::Header>(data, segment.l4.into());
    let options =
        data.get(segment.l4.into()..segment.end.into()).and_then(tcp::options_of).unwrap_or_default();
    let scale = tcp::options::window_scale(options);
    let client_side = Acked {
        scale: scale.unwrap_or(0).min(tcp::options::WINDOW_SCALE_MAX),
        scale_offered: scale.is_some(),
        ..Acked::default()
    };
    Conn {
        state: TcpState::SynRecv,
        flags: flag::LIVE | if service.toa.is_some() { flag::TOA_PENDING } else { 0 },
        toa_kind: service.toa.unwrap_or(0),
        seen: now,
        service: service.id,
        client_isn: syn.map_or(0, |syn| syn.seq.get()),
        acked: [client_side, Acked::default()],
        wheel_slot: NIL,
        ..Conn::EMPTY
    }
}

/// Whether connections may come from there (RFC 1122 §3.2.1.3; our own addresses would make a loop).
fn may_be_client(source: Endpoint4, snapshot: &Snapshot) -> bool {
    let addr = Ipv4Addr::from(source.addr.to_ne_bytes());
    let ours = snapshot.locals.contains(source.addr) || snapshot.virtuals.contains(source.addr);
    ipv4::is_unicast(ipv4::addr(addr)) && !addr.is_loopback() && !ours
}

/// Whether both checksums of a SYN are right: nothing is remembered of a corrupt one.
fn is_intact(data: &[u8], segment: &Segment) -> bool {
    let header = data.get(ethernet::HEADER_LEN..segment.l4.into()).unwrap_or_default();
    view::<ipv4::Header>(data, ethernet::HEADER_LEN).is_some()
        && checksum::verify_ipv4(header)
        && checksum_is_valid(data, segment)
}
