//! The world at the gateway: turns of its workers, and what leaves.

use engine::{PortId, PuntClass, Verdict};

use super::{Event, Node, World};
use crate::forge::error_about;
use crate::fragments::{cut_frame, piece_of};
use crate::gateway::Emitted;
use crate::packet::{ACK, Build, HEADER_PROTOCOL, Mac, RST, UDP, frame, ip_of, parse, parse_ip};
use crate::topology::{ROUTER_MAC, gateway_mac, is_routed, vips};

/// Time that a frame may be a turn away from its worker.
const TURN_US: u64 = 120;

impl World {
    pub(super) fn give_to_gateway(&mut self, port: PortId, bytes: &[u8]) {
        let Some(gateway) = &mut self.gateway else { return };
        let worker = gateway.receive(port, bytes);
        self.wake(worker);
    }

    pub(super) fn wake(&mut self, worker: usize) {
        if !std::mem::replace(&mut self.turn_due[worker], true) {
            let after = self.rng.below(TURN_US);
            self.at(self.now_us + after, Event::Turn(worker));
        }
    }

    pub(super) fn turn(&mut self, worker: usize) -> Result<(), String> {
        self.turn_due[worker] = false;
        let now = self.ticks();
        let Some(gateway) = &mut self.gateway else { return Ok(()) };
        let mut out = Vec::new();
        self.oracle.now_us = self.now_us;
        let woken = gateway.turn(worker, now, &mut self.oracle, &mut out)?;
        let again = gateway.has_work(worker);
        let wanted = gateway.take_wanted();
        for flow in self.oracle.take_displaced() {
            let all = self.gateway.as_ref().map(|g| g.connections(now)).unwrap_or_default();
            let flow = (flow.protocol, flow.client, flow.virtual_, flow.local, flow.real);
            if let Some((_, live)) =
                all.iter().find(|(_, c)| (c.protocol, c.client, c.virtual_, c.local, c.real) == flow)
            {
                return Err(format!("the local endpoint of {live:?} was given to another connection"));
            }
        }
        for (port, address) in wanted {
            let after = self.rng.range(50, 3_000);
            self.at(self.now_us + after, Event::Learn(port, address));
        }
        for worker in woken {
            self.wake(worker);
        }
        if again {
            self.wake(worker);
        }
        for emitted in out {
            self.emit(emitted)?;
        }
        Ok(())
    }

    pub(super) fn emit(&mut self, emitted: Emitted) -> Result<(), String> {
        let Emitted { worker, port, verdict, before, after } = emitted;
        if self.options.trace {
            self.trace(&format!("w{worker} {verdict:?}"), &after);
        }
        if let Verdict::Forward(_) = verdict {
            self.complain(port, &after);
        }
        match verdict {
            Verdict::Forward(_) | Verdict::Reply(_) => self.leave(port, verdict, after),
            Verdict::ForwardCut { mtu, .. } => {
                cut_frame(&after, mtu).into_iter().try_for_each(|piece| self.leave(port, verdict, piece))
            }
            Verdict::Punt(PuntClass::Stray) if self.shape.kernel_answers => {
                if let Some(answer) = kernel_rst(&before) {
                    let ip = parse_ip(&answer).map(|header| header.dst);
                    if let Some(host) = ip.and_then(|ip| self.by_ip.get(&ip).copied()) {
                        let bytes = frame(self.hosts[host].mac, gateway_mac(port), &answer, self.shape.pad);
                        self.trace("kernel answers", &bytes);
                        self.send_to_host(host, bytes);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sometimes somebody on the way to a real server has an error to tell about a datagram.
    fn complain(&mut self, port: PortId, bytes: &[u8]) {
        let ip = ip_of(bytes).unwrap_or_default();
        let Some(header) = parse_ip(ip).filter(|header| self.oracle.lips.contains(&header.src)) else {
            return;
        };
        if ![UDP, HEADER_PROTOCOL].contains(&header.protocol) || !self.tells() || !self.aside.chance(4_000) {
            return;
        }
        let longest = ip.len().min(if header.src.is_ipv4() { 548 } else { 1_232 });
        let len = if self.aside.coin() { longest } else { self.aside.range(20, longest as u64) as usize };
        let error = error_about(&mut self.aside, (header.src, port), &ip[..len], self.shape.pad);
        let after_us = self.aside.range(10, 5_000);
        self.at(self.now_us + after_us, Event::Arrive(Node::Gateway(port), error, false));
    }

    /// A frame leaves through a port: it must be addressed from us to the right neighbour.
    pub(super) fn leave(&mut self, port: PortId, verdict: Verdict, bytes: Vec<u8>) -> Result<(), String> {
        let reply = matches!(verdict, Verdict::Reply(_));
        let ip = ip_of(&bytes).unwrap_or_default();
        let dst = parse_ip(ip).map(|header| header.dst).or_else(|| piece_of(ip).map(|piece| piece.key.1));
        let Some(to) = dst else {
            return Err(format!("{verdict:?}: a frame that is no IP, of {} bytes", bytes.len()));
        };
        if !reply && bytes[6..12] != gateway_mac(port) {
            return Err(format!(
                "{verdict:?}: the source MAC address is not the port's: {:02x?}",
                &bytes[..12]
            ));
        }
        let mac: Mac = [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]];
        // In DR the real server has the virtual address, too, and only the MAC address tells which one it is.
        let host = match vips().contains(&to) {
            true => self.hosts.iter().position(|host| host.mac == mac),
            false => self.by_ip.get(&to).copied(),
        };
        let Some(host) = host else {
            let outside = is_routed(to) || vips().contains(&to) && self.shape.mac_changes == 0;
            if !reply && bytes[..6] != ROUTER_MAC && outside {
                return Err(format!("what is for {to} does not go to the router"));
            }
            return Ok(());
        };
        if !reply && self.port_of(host) != port {
            return Err(format!("what is for {to} leaves through port {port}"));
        }
        let changed = self.shape.mac_changes > 0;
        if !reply && mac != self.hosts[host].mac && !changed {
            return Err(format!("what is for {to} goes to {mac:02x?}"));
        }
        self.send_to_host(host, bytes);
        Ok(())
    }

    pub(super) fn send_to_host(&mut self, host: usize, bytes: Vec<u8>) {
        for flight in self.links[host].1.carry(bytes) {
            self.fly(Node::Host(host), flight);
        }
    }
}

/// RFC 9293 §3.10.7.1: what a kernel answers to a segment that belongs to no connection.
fn kernel_rst(bytes: &[u8]) -> Option<Vec<u8>> {
    let segment = parse(bytes)?;
    if segment.has(RST) || !segment.ip_checksum_ok || !segment.l4_checksum_ok || !segment.is_tcp() {
        return None;
    }
    let mut answer = Build::new(segment.dst, segment.src, RST);
    if segment.has(ACK) {
        answer.seq = segment.ack;
    } else {
        answer.flags |= ACK;
        answer.ack = segment.seq.wrapping_add(segment.span());
    }
    Some(answer.ip_packet())
}
