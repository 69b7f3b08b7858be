//! The world at its hosts: what they send, what arrives, and what they learn of each other.

use std::net::SocketAddr;

use engine::snapshot::Mode;

use super::{Conn, Event, Node, World};
use crate::link::InFlight;
use crate::oracle::Oracle;
use crate::packet::{ETH_LEN, TCP, UDP, add_forged_option, add_forged_uoa, frame, parse_ip};
use crate::preface::Preface;
use crate::stream::End;
use crate::topology::{gateway_mac, vips};

/// Longer than any frame is on its way.
const SEGMENT_LIFE_US: u64 = 100_000;

impl World {
    pub(super) fn connect(&mut self, conn: usize) -> Result<(), String> {
        let plan = &self.plans[conn];
        let host = &mut self.hosts[plan.client];
        // Few ports, so that they are used again and again.
        let usual = 40_000 + self.rng.below(5) as u16;
        let ended_us = self.ended_us.get(&(plan.client, usual)).copied();
        // One way a connection may count as over when only its client has closed; an old SYN that is still on a link
        // would then lead to another real server, as in IPVS.
        let one_way = self.shape.modes.iter().any(|mode| mode.is_one_way());
        let too_early = one_way && ended_us.is_some_and(|at| self.now_us < at + SEGMENT_LIFE_US);
        let port = if too_early || host.port_in_use(usual) { self.next_port } else { usual };
        self.next_port += u16::from(port != usual);
        host.connect(conn as u32, plan, port)?;
        let ip = host.ips[usize::from(plan.virtual_.is_ipv6())];
        self.conns[conn].client = Some(SocketAddr::new(ip, port));
        self.report.connections += 1;
        let client = plan.client;
        self.run_host(client)
    }

    pub(super) fn arrive(&mut self, host: usize, bytes: &[u8], corrupt: bool) -> Result<(), String> {
        self.trace(if corrupt { "corrupt at host" } else { "at host" }, bytes);
        let target = &mut self.hosts[host];
        if bytes.len() < ETH_LEN || bytes[..6] != target.mac {
            return Ok(());
        }
        target.receive(bytes, corrupt);
        self.run_host(host)
    }

    pub(super) fn run_host(&mut self, host: usize) -> Result<(), String> {
        let packets = self.hosts[host].run(self.now_us, &self.plans)?;
        self.next_run_us[host] = u64::MAX;
        if let Some(at) = self.hosts[host].wake_at_us(self.now_us) {
            self.next_run_us[host] = at;
            self.at(at, Event::Run(host));
        }
        let port = self.port_of(host);
        for mut packet in packets {
            if host < self.shape.clients && self.rng.chance(self.shape.lying_clients) {
                let forged = add_forged_option(&packet, &mut self.rng);
                packet = forged.or_else(|| add_forged_uoa(&packet, &mut self.aside)).unwrap_or(packet);
            }
            let direct = self.direct(host, &packet);
            let to_mac = direct.map_or(gateway_mac(port), |to| self.hosts[to].mac);
            let to = direct.map_or(Node::Gateway(port), Node::Host);
            for packet in self.cutter.pass(host, packet) {
                let bytes = frame(to_mac, self.hosts[host].mac, &packet, self.shape.pad);
                self.trace("sent by host", &bytes);
                for flight in self.links[host].0.carry(bytes) {
                    self.fly(to, flight);
                }
            }
        }
        self.identify(host)?;
        self.identify_asked(host)?;
        self.believe(host)?;
        self.collect(host)
    }

    pub(super) fn fly(&mut self, to: Node, flight: InFlight) {
        for word in flight.bytes.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.report.fingerprint = crate::rng::mix(self.report.fingerprint ^ u64::from_le_bytes(bytes));
        }
        self.at(self.now_us + flight.after_us, Event::Arrive(to, flight.bytes, flight.corrupt));
    }

    /// Compares what a real server was told about its peer with who it really is.
    pub(super) fn identify(&mut self, host: usize) -> Result<(), String> {
        let own = &self.hosts[host];
        for session in &own.sessions {
            let Some(conn) = session.pump.conn.and_then(|id| self.conns.get_mut(id as usize)) else {
                continue;
            };
            if host < self.shape.clients {
                conn.established |= session.pump.peer.is_some();
                continue;
            }
            if conn.identified {
                continue;
            }
            conn.identified = true;
            let Some(remote) = session.remote else { continue };
            identify_peer(&self.oracle, TCP, conn, remote, session.local)?;
        }
        Ok(())
    }

    /// The same of datagrams.
    pub(super) fn identify_asked(&mut self, host: usize) -> Result<(), String> {
        for asked in std::mem::take(&mut self.hosts[host].asked) {
            let Some(conn) = self.conns.get(asked.conn as usize) else {
                return Err(format!("{asked:?} by a connection that does not exist"));
            };
            // A late double may arrive when its flow is over; its place may be another's by then.
            if conn.client_end == End::Open {
                identify_peer(&self.oracle, UDP, conn, asked.remote, asked.local)?;
            }
        }
        Ok(())
    }

    /// Who a datagram says its client is, that is he who sent it, whatever became of it on its way.
    fn believe(&mut self, host: usize) -> Result<(), String> {
        for (conn, client) in std::mem::take(&mut self.hosts[host].told) {
            let Some(from) = self.conns.get(conn as usize).map(|conn| conn.client) else { continue };
            if from != Some(client) {
                return Err(format!("a real server is told {client} by UOA, and it is {from:?}"));
            }
            self.report.told += 1;
        }
        Ok(())
    }

    /// Whom a real server's packet goes to without the gateway: it comes from a virtual address.
    pub(super) fn direct(&self, host: usize, packet: &[u8]) -> Option<usize> {
        let header = parse_ip(packet).filter(|_| host >= self.shape.clients)?;
        vips().contains(&header.src).then(|| self.by_ip.get(&header.dst).copied())?
    }

    /// Takes note of sessions that are over.
    pub(super) fn collect(&mut self, host: usize) -> Result<(), String> {
        for (id, seq) in self.hosts[host].answered() {
            self.conns[id as usize].established |= seq > 0;
        }
        for (id, end) in std::mem::take(&mut self.hosts[host].exchanged) {
            let conn = &mut self.conns[id as usize];
            conn.established |= end == End::Whole;
            (conn.client_end, conn.server_end) = (end, end);
            self.note(&format!("connection {id}: datagrams {end:?}"));
        }
        for session in std::mem::take(&mut self.hosts[host].finished) {
            let Some(id) = session.pump.conn else { continue };
            let Some(conn) = self.conns.get_mut(id as usize) else { continue };
            let client = host < self.shape.clients;
            if client {
                self.ended_us.insert((host, session.local.port()), self.now_us);
            }
            if let Preface::Whole(ends) = session.pump.preface {
                let right = conn.client.map(|client| (client, self.plans[id as usize].virtual_));
                if Some(ends) != right {
                    return Err(format!("connection {id} is {right:?}, its server was told {ends:?}"));
                }
                self.report.prefaces += 1;
            }
            let end = if client { &mut conn.client_end } else { &mut conn.server_end };
            if *end == End::Whole {
                return Err(format!("connection {id} was accepted a second time"));
            }
            *end = session.pump.end;
            if self.options.trace {
                let side = if client { "client" } else { "server" };
                eprintln!(
                    "{:>13.6} ---- connection {id}: {side} {:?}",
                    self.now_us as f64 / 1e6,
                    session.pump.end
                );
            }
        }
        Ok(())
    }
}

/// Whoever speaks with a real server is who the gateway said.
fn identify_peer(
    oracle: &Oracle,
    protocol: u8,
    conn: &Conn,
    remote: SocketAddr,
    real: SocketAddr,
) -> Result<(), String> {
    let flow = oracle.by_real_side(protocol, remote, real);
    // In DR and TUN the real server speaks for the virtual address, in NAT the client is seen as it is.
    let bare = oracle.blind || vips().contains(&real.ip()) || flow.is_some_and(|flow| flow.mode == Mode::Nat);
    if bare && Some(remote) == conn.client {
        return Ok(());
    }
    if !oracle.lips.contains(&remote.ip()) && !conn.excused {
        return Err(format!("{real} was connected to by {remote}, which is no local address"));
    }
    if !oracle.blind && !conn.excused && flow.map(|f| f.client) != conn.client {
        return Err(format!("{real} speaks with {:?} through {remote}, seen is {flow:?}", conn.client));
    }
    Ok(())
}
