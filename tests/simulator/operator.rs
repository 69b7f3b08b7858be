//! What an operator and the network do to a world: reloads, new MAC addresses, crashes.

use std::net::IpAddr;

use engine::PortId;

use crate::stream::End;
use crate::topology::{ROUTER, ROUTER_MAC, ROUTER6};
use crate::world::{Event, World};

impl World {
    pub(crate) fn reload(&mut self) -> Result<(), String> {
        self.note(&format!("reload: {:?}", self.spec));
        self.oracle.configure(&self.spec);
        if let Some(gateway) = &mut self.gateway {
            gateway.configure(&self.spec)?;
        }
        self.send_updates();
        Ok(())
    }

    /// Every worker takes what is sent to it between two of its bursts, not all at the same time.
    pub(crate) fn send_updates(&mut self) {
        self.last_change_us = self.now_us;
        for worker in 0..usize::from(self.shape.workers) {
            let after = self.rng.below(300);
            self.at(self.now_us + after, Event::Update(worker));
        }
    }

    pub(crate) fn blackout(&mut self, begins: bool) -> Result<(), String> {
        self.blackout_seen = true;
        if begins {
            self.saved_spec = Some(self.spec.clone());
            self.spec.services.iter_mut().flat_map(|s| &mut s.reals).for_each(|real| real.weight = 0);
            let after = self.rng.below(3_000_000);
            self.at(self.now_us + after, Event::Blackout(false));
        } else if let Some(spec) = self.saved_spec.take() {
            self.spec = spec;
        }
        self.spec.generation += 2;
        self.reload()
    }

    pub(crate) fn new_mac(&mut self, host: usize) {
        // No other host's.
        let mac = [2, 0, 0, 5, host as u8, self.rng.next() as u8];
        self.note(&format!("{} has a new MAC address", self.hosts[host].ips[0]));
        self.hosts[host].mac = mac;
        if host >= self.shape.clients {
            self.oracle.learn_mac(mac, host - self.shape.clients);
        }
        let port = self.port_of(host);
        for ip in self.hosts[host].ips {
            let after = self.rng.below(50_000);
            self.at(self.now_us + after, Event::Learn(port, ip));
        }
    }

    pub(crate) fn learn(&mut self, port: PortId, address: IpAddr) {
        let host = self.by_ip.get(&address).map(|host| self.hosts[*host].mac);
        let router = [IpAddr::from(ROUTER), ROUTER6.into()].contains(&address);
        let Some(mac) = (if router { Some(ROUTER_MAC) } else { host }) else { return };
        if let Some(gateway) = &mut self.gateway {
            gateway.set_neighbour(port, address, mac);
            self.send_updates();
        } else if let Some(network) = &mut self.network {
            // The kernel learns on while the gateway is down.
            network.set_neighbour(port, address, Some(wire::MacAddr(mac)));
        }
    }

    /// The dataplane dies; after a while it is started anew with the same configuration.
    pub(crate) fn crash(&mut self) -> Result<(), String> {
        self.note("crash");
        let Some(gateway) = self.gateway.take() else { return Ok(()) };
        gateway.check_accounts()?;
        self.network = Some(gateway.into_network());
        self.oracle.crash();
        let after = self.rng.below(100_000);
        let back = self.now_us + after;
        for (conn, plan) in self.conns.iter_mut().zip(&self.plans) {
            let over = conn.client_end != End::Open && conn.server_end != End::Open;
            conn.excused |= plan.start_us <= back && !over;
        }
        self.at(back, Event::Restart);
        Ok(())
    }
}
