//! What a port and its kernel twin tell each other: the twin its MAC address, the port its link.

use super::Core;
use crate::mirror::{Change, ask};
use crate::ports::OpenPort;

impl Core {
    /// Gives ports the MAC addresses that somebody gave to their twins: the kernel answers ARP with those.
    pub(super) fn follow_macs(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Link(id, state) = change
                && let Some(mac) = state.mac
                && let Some(port) = self.ports.iter_mut().find(|port| port.id == *id && port.mac != mac)
            {
                port.take_mac(mac);
            }
        }
    }

    /// Tells the kernel which ports have lost or got their link.
    pub(super) fn pass_links(&mut self) {
        for port in &mut self.ports {
            let (Some(twin), Some(link)) = (&port.twin, port.dpdk.link()) else { continue };
            if link.up == port.link_told {
                continue;
            }
            port.link_told = link.up;
            let word = if link.up { "up" } else { "down" };
            match ask::set_carrier(twin.index, link.up) {
                Ok(()) => tracing::info!("port {}: the link is {word}", port.config.name),
                Err(error) => tracing::warn!(
                    "port {}: the link is {word}, but its twin {} cannot be told: {error}",
                    port.config.name,
                    twin.name
                ),
            }
        }
    }
}

/// What is wrong with a port now.
pub(super) fn troubles(port: &OpenPort) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(twin), false) = (&port.twin, port.link_told) {
        found.push(format!("port {}: no link, so its twin {} has no carrier", port.config.name, twin.name));
    }
    if let Some(refusal) = &port.mac_refused {
        found.push(format!(
            "port {}: its twin has the MAC address {} now, which the device does not take ({refusal}); unless it is \
             promiscuous, packets to that address may not arrive",
            port.config.name, port.mac
        ));
    }
    found
}
