//! Ports: finding, asking, opening, watching.

mod flow;
mod open;
mod query;

use crate::eal::EalShared;
use crate::error::{Errno, Error};
use crate::{Eal, Mempool, ffi, log, pci};
use std::sync::{Arc, PoisonError};

pub use flow::{Flow, FlowRule};

/// The number of a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

/// How to open a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors per receive queue; the driver's limits are applied.
    pub rx_desc: u16,
    /// Descriptors per transmit queue; the driver's limits are applied.
    pub tx_desc: u16,
    /// The greatest IP packet, in bytes; `None` leaves the driver's default.
    pub mtu: Option<u16>,
    /// Receive also what is addressed to others.
    pub promiscuous: bool,
    /// Spread IP, TCP and UDP over the receive queues by hash, as far as the port can.
    pub rss: Option<RssConfig>,
    /// Take VLAN tags off and put them on in the NIC, as far as the port can.
    pub vlan_offload: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            mtu: None,
            promiscuous: false,
            rss: None,
            vlan_offload: false,
        }
    }
}

/// What a port is to hash received packets with. Without RSS, or where its driver does not take them, it
/// keeps its own.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RssConfig {
    /// The key; a longer one than the port's is cut, a shorter one is not used.
    pub key: Vec<u8>,
    /// Queues for the entries of the redirection table, again from the front when all are used up; empty: all
    /// queues in turn.
    pub table: Vec<u16>,
}

/// What a port hashes received packets with, as its driver tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RssState {
    /// The key.
    pub key: Vec<u8>,
    /// Whether the ports of TCP over IPv4 are hashed.
    pub tcp4: bool,
    /// Whether those of UDP over IPv4 are.
    pub udp4: bool,
    /// Whether those of TCP over IPv6 are.
    pub tcp6: bool,
    /// Whether those of UDP over IPv6 are.
    pub udp6: bool,
}

/// What a port is and can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// The port's name.
    pub name: String,
    /// The bus device behind it: a PCI address or the name of a virtual device.
    pub device: String,
    /// The driver's name.
    pub driver: String,
    /// The kernel interface that it sits on, for drivers that do; zero otherwise.
    pub if_index: u32,
    /// The most receive queues.
    pub max_rx_queues: u16,
    /// The most transmit queues.
    pub max_tx_queues: u16,
    /// The NUMA node that it is attached to, if that is known.
    pub numa_node: Option<u32>,
    /// Entries of the redirection table; zero when there is none.
    pub reta_size: u16,
    /// Length of the RSS key in bytes; zero when there is none.
    pub rss_key_size: u8,
    /// What it can hash, `RTE_ETH_RSS_*`; zero when it has no RSS.
    pub rss_offloads: u64,
    /// The least MTU.
    pub min_mtu: u16,
    /// The greatest MTU.
    pub max_mtu: u16,
    /// The fewest and the most descriptors per receive queue.
    pub rx_desc_limits: (u16, u16),
    /// The fewest and the most descriptors per transmit queue.
    pub tx_desc_limits: (u16, u16),
}

/// The state of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// In Mbit/s; zero when the driver does not know.
    pub speed_mbps: u32,
    /// Whether both sides may send at once.
    pub full_duplex: bool,
}

/// A port's counters since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that the hardware dropped because the receive queues were full.
    pub rx_missed: u64,
    /// Broken packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Receives that failed because the mempool was empty.
    pub rx_nombuf: u64,
}

/// A port that is running. It is stopped and closed when it and all its queues are dropped.
///
/// Any thread may ask it; the packets go through its queues.
pub struct Port {
    shared: Arc<PortShared>,
}

/// What the port and its queues keep alive. Fields are dropped after [`PortShared::drop`] has closed the port, so the
/// pool takes back what was in its queues.
pub(crate) struct PortShared {
    pub(crate) id: PortId,
    info: PortInfo,
    mac: [u8; 6],
    warnings: Vec<String>,
    /// Whether it puts VLAN tags on.
    inserts_tags: bool,
    mempool: Mempool,
    /// Mbufs booked on the pool.
    claimed: u32,
    eal: Arc<EalShared>,
}

impl Drop for PortShared {
    fn drop(&mut self) {
        let mut open_ports = self.eal.open_ports.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: neither the port nor a queue of it is left, so nobody sends or receives. Stopping what is stopped
        // does nothing.
        unsafe {
            dpdk_sys::rte_eth_dev_stop(self.id.0);
            dpdk_sys::rte_eth_dev_close(self.id.0);
        }
        self.mempool.unclaim(self.claimed);
        open_ports.remove(&self.id.0);
    }
}

/// All ports there are.
pub(crate) fn all_ports() -> impl Iterator<Item = PortId> {
    // SAFETY: any number may be asked for.
    let exists = |id: &u16| unsafe { dpdk_sys::rte_eth_dev_is_valid_port(*id) } != 0;
    (0..dpdk_sys::RTE_MAX_ETHPORTS as u16).filter(exists).map(PortId)
}

/// The port's name, if it exists.
fn port_name(id: PortId) -> Option<String> {
    let mut name = [0; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: the buffer has the length that the function demands; it terminates what it writes.
    unsafe {
        (dpdk_sys::rte_eth_dev_get_name_by_port(id.0, name.as_mut_ptr()) == 0)
            .then(|| ffi::text(name.as_ptr()))
    }
}

/// The name of the bus device behind a port.
pub(crate) fn device_name(id: PortId) -> Option<String> {
    let mut info = dpdk_sys::rte_eth_dev_info::default();
    // SAFETY: C fills the structure; the device that it names exists while the port does.
    unsafe {
        (dpdk_sys::rte_eth_dev_info_get(id.0, &mut info) == 0)
            .then(|| ffi::text(dpdk_sys::tg_device_name(info.device)))
    }
}

/// The error of a step, with what the driver said about it.
fn step_error(port: &str, driver: &str, what: impl Into<String>, ret: i32) -> Error {
    Error::Port {
        port: port.to_owned(),
        driver: driver.to_owned(),
        what: what.into(),
        errno: Errno::from_return(ret),
        said: log::complaints(),
    }
}

impl Port {
    /// All ports, lowest number first.
    pub fn all(_eal: &Eal) -> Vec<PortId> {
        all_ports().collect()
    }

    /// How many ports there are.
    pub fn count(_eal: &Eal) -> usize {
        all_ports().count()
    }

    /// Finds a port by its name, the name of its virtual device or its PCI address (long or short).
    pub fn by_name(_eal: &Eal, name: &str) -> Result<PortId, Error> {
        let address = pci::normalise(name).ok();
        let matches = |id: &PortId| {
            let device = device_name(*id);
            port_name(*id).as_deref() == Some(name)
                || device.as_deref() == Some(name)
                || (address.is_some() && device == address)
        };
        let known = || all_ports().filter_map(port_name).collect();
        all_ports().find(matches).ok_or_else(|| Error::UnknownPort { name: name.to_owned(), known: known() })
    }
}
