//! The kernel twin of a port: a net_tap port whose kernel side looks like the NIC to Linux.

use std::process::Command;
use std::sync::Arc;

use dpdk::{Eal, Mempool, Port, PortConfig};
use engine::PortId;
use wire::MacAddr;

use super::Error;
use crate::counts::TwinPage;
use crate::mirror::{Twin, ask};
use crate::slow_path::TwinQueues;

/// Descriptors per queue; the kernel's own queue behind the TAP holds 500 packets.
const DESCRIPTORS: u16 = 512;

/// An open twin.
pub(super) struct OpenTwin {
    pub(super) twin: Twin,
    pub(super) queues: TwinQueues,
    /// Keeps the DPDK side open.
    pub(super) dpdk: Port,
    pub(super) warnings: Vec<String>,
}

/// Makes and brings up the twin `name` of `port`, the `number`th of this process.
pub(super) fn open(
    eal: &Eal,
    mempool: &Mempool,
    number: usize,
    name: &str,
    port: (PortId, MacAddr, u16),
    page: Arc<TwinPage>,
) -> Result<OpenTwin, Error> {
    let (id, mac, mtu) = port;
    if nix::net::if_::if_nametoindex(name).is_ok() {
        return Err(Error::InterfaceExists(name.to_owned()));
    }
    // The MAC address is given at birth, so the kernel side is never seen with another one.
    let tap = eal.attach_vdev(&format!("net_tap{number},iface={name},mac={mac}"))?;
    let config = PortConfig {
        rx_queues: 1,
        tx_queues: 1,
        rx_desc: DESCRIPTORS,
        tx_desc: DESCRIPTORS,
        mtu: None,
        promiscuous: false,
        rss: false,
    };
    let (dpdk, mut rx, mut tx) = Port::open(eal, tap, &config, mempool)?;
    let index = nix::net::if_::if_nametoindex(name).map_err(|errno| Error::Twin {
        name: name.to_owned(),
        what: "find the interface",
        why: errno.to_string(),
    })?;
    ask::set_up_twin(index, mac, mtu).map_err(|error| Error::Twin {
        name: name.to_owned(),
        what: "set MAC address and MTU",
        why: error.to_string(),
    })?;
    let (Some(rx), Some(tx)) = (rx.pop(), tx.pop()) else {
        return Err(Error::Twin {
            name: name.to_owned(),
            what: "get its queues",
            why: "there are none".to_owned(),
        });
    };
    Ok(OpenTwin {
        twin: Twin { port: id, name: name.to_owned(), index },
        queues: TwinQueues::new(rx, tx, page),
        warnings: turn_offloads_off(name).into_iter().chain(dpdk.warnings().iter().cloned()).collect(),
        dpdk,
    })
}

/// Turns off what the kernel would leave to the device: nobody completes checksums or cuts super-frames between the
/// TAP and the wire. Returns a warning when that does not work.
///
/// The settings are only reachable by an ioctl, which safe Rust has no way to, or generic netlink; the `ethtool` program
/// is present wherever NICs are looked after.
fn turn_offloads_off(name: &str) -> Option<String> {
    let arguments = ["-K", name, "tx", "off", "rx", "off", "gso", "off", "tso", "off", "gro", "off"];
    let why = match Command::new("ethtool").args(arguments).output() {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        Err(error) => error.to_string(),
    };
    Some(format!(
        "offloads of {name} stay on, which makes the gateway's own TCP sessions slow; install ethtool or run \
         \"ethtool {}\" ({why})",
        arguments.join(" ")
    ))
}
