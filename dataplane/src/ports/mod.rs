//! Ports: from `[[port]]` to open DPDK ports, their queues, and their kernel twins.

mod deal;
mod twin;

use std::sync::Arc;

use config::{Config, Device};
use dpdk::{Eal, Mempool, Port, PortConfig, PortInfo, RxQueue, TxQueue};
use engine::PortId;
use wire::MacAddr;

pub(crate) use deal::{Deal, Queues, deal};

use crate::counts::TwinPage;
use crate::mirror::Twin;
use crate::slow_path::TwinEnd;
use crate::steering::Wish;
use crate::vlan::Vlan;

/// What goes wrong with ports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// DPDK's own complaint.
    #[error(transparent)]
    Dpdk(#[from] dpdk::Error),
    /// The same for a port of the configuration.
    #[error("port \"{name}\" ({device}): {error}{remedy}", remedy = remedy(error))]
    Port {
        /// The operator's name.
        name: String,
        /// The device.
        device: String,
        /// DPDK's complaint.
        error: Box<dpdk::Error>,
    },
    /// A virtual device on an interface that is not there.
    #[error(
        "port \"{name}\" ({device}): there is no interface {interface} in this network namespace; see `ip link`"
    )]
    NoInterface {
        /// The operator's name.
        name: String,
        /// The device.
        device: String,
        /// The interface.
        interface: String,
    },
    /// The name of a twin is taken.
    #[error(
        "an interface named {0} exists already, so it cannot become a kernel twin; choose another \
         `kernel_interface`, or remove it (another dataplane may be running)"
    )]
    InterfaceExists(String),
    /// A twin that does not work.
    #[error("kernel twin {name}: cannot {what}: {why}; the dataplane needs CAP_NET_ADMIN and /dev/net/tun")]
    Twin {
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        why: String,
    },
    /// More ports than the forwarding table can number.
    #[error("port \"{0}\" got number {1} from DPDK; numbers go up to {max}, use fewer ports", max = engine::fib::PORTS_MAX - 1)]
    TooManyPorts(String, u16),
}

/// Says which port of the configuration is meant by a complaint about a device.
pub(crate) fn of_port(error: dpdk::Error, config: &Config) -> Error {
    let device = match &error {
        dpdk::Error::BadPciAddress { address }
        | dpdk::Error::UnknownPci { address, .. }
        | dpdk::Error::PciNotDriven { address, .. } => address,
        dpdk::Error::Vdev { vdev, .. } | dpdk::Error::NotFoundDriver { vdev } => vdev,
        _ => return error.into(),
    };
    let mut ports = config.ports.iter().enumerate();
    match ports.find(|(number, port)| name_of(port, *number) == *device) {
        Some((_, port)) => {
            Error::Port { name: port.name.clone(), device: device.clone(), error: Box::new(error) }
        }
        None => error.into(),
    }
}

/// What to do beyond what DPDK's complaint says by itself: only where the device is taken.
fn remedy(error: &dpdk::Error) -> &'static str {
    let (errno, said) = match error {
        dpdk::Error::Port { errno, said, .. } | dpdk::Error::Vdev { errno, said, .. } => {
            (*errno, said.as_str())
        }
        dpdk::Error::PciNotDriven { said, .. } => (dpdk::Errno(0), said.as_str()),
        _ => return "",
    };
    // Drivers turn EBUSY into other numbers; what they log still has it. AF_XDP's says no more than that it failed,
    // and the sockets of an interface's queues are what another program is likeliest to have.
    let signs = ["busy", "Failed to create xsk socket"];
    let is_taken = errno.0 == nix::errno::Errno::EBUSY as i32 || signs.iter().any(|sign| said.contains(sign));
    if is_taken { "; another program may be using the device" } else { "" }
}

/// An open port, as the main thread keeps it.
pub(crate) struct OpenPort {
    /// Its number.
    pub(crate) id: PortId,
    /// Its configuration.
    pub(crate) config: config::Port,
    /// The device as DPDK was told.
    pub(crate) device: String,
    /// The port.
    pub(crate) dpdk: Port,
    /// Its MAC address.
    pub(crate) mac: MacAddr,
    /// Largest IP packet.
    pub(crate) mtu: u16,
    /// The VLAN that its network is.
    pub(crate) vlan: Option<Vlan>,
    /// Receive queues.
    pub(crate) rx_queues: u16,
    /// Transmit queues.
    pub(crate) tx_queues: u16,
    /// What it tells of its receive hash.
    pub(crate) receive_hash: String,
    /// Its kernel twin.
    pub(crate) twin: Option<Twin>,
    /// Whether its twin was last told that there is a link.
    pub(crate) link_told: bool,
    /// Why the device does not take the twin's MAC address, if it has another one.
    pub(crate) mac_refused: Option<String>,
    /// What passed to and from the twin.
    pub(crate) twin_page: Arc<TwinPage>,
}

impl OpenPort {
    /// Takes the MAC address that its twin has now.
    pub(crate) fn take_mac(&mut self, mac: MacAddr) {
        self.mac = mac;
        let refused = self.dpdk.set_mac(mac.0).err().map(|error| error.to_string());
        // Its own address it has, whether it can be told so or not.
        self.mac_refused = refused.filter(|_| self.dpdk.mac() != mac.0);
        match &self.mac_refused {
            None => tracing::info!("port {} has the MAC address {mac} now", self.config.name),
            Some(refusal) => {
                tracing::warn!("port {} does not take the MAC address {mac}: {refusal}", self.config.name)
            }
        }
    }
}

/// What the threads get of a port.
pub(crate) struct PortQueues {
    pub(crate) rx: Vec<RxQueue>,
    pub(crate) tx: Vec<TxQueue>,
    pub(crate) twin: Option<TwinEnd>,
}

/// A device that DPDK knows but that is not open yet.
pub(crate) struct Found {
    pub(crate) id: dpdk::PortId,
    pub(crate) device: String,
    pub(crate) info: PortInfo,
    pub(crate) queues: Queues,
}

/// PCI addresses and virtual devices as the EAL is told; the latter get their port's place in the list as a number.
pub(crate) fn devices(config: &Config) -> (Vec<String>, Vec<String>) {
    let (mut pci, mut vdevs) = (Vec::new(), Vec::new());
    for (number, port) in config.ports.iter().enumerate() {
        let list = match &port.device {
            Device::Pci(_) => &mut pci,
            Device::Vdev(_) => &mut vdevs,
        };
        list.push(name_of(port, number));
    }
    (pci, vdevs)
}

/// The device of the `number`th port as DPDK is told.
fn name_of(port: &config::Port, number: usize) -> String {
    match &port.device {
        Device::Pci(address) => address.clone(),
        Device::Vdev(text) => numbered(text, number),
    }
}

fn numbered(vdev: &str, number: usize) -> String {
    match vdev.split_once(',') {
        Some((driver, arguments)) => format!("{driver}{number},{arguments}"),
        None => format!("{vdev}{number}"),
    }
}

/// Checks what virtual devices sit on, because DPDK's own complaint would not say it.
///
/// # Errors
/// [`Error::NoInterface`].
pub(crate) fn check_interfaces(config: &Config) -> Result<(), Error> {
    for port in &config.ports {
        let Device::Vdev(device) = &port.device else { continue };
        if !device.starts_with("net_af_") {
            continue;
        }
        let interface = device.split(',').find_map(|argument| argument.strip_prefix("iface="));
        if let Some(interface) = interface
            && nix::net::if_::if_nametoindex(interface).is_err()
        {
            let (name, device, interface) = (port.name.clone(), device.clone(), interface.to_owned());
            return Err(Error::NoInterface { name, device, interface });
        }
    }
    Ok(())
}

/// Looks a configured port up and decides how many queues it gets.
pub(crate) fn find(eal: &Eal, config: &Config, number: usize) -> Result<Found, Error> {
    let port = &config.ports[number];
    let device = name_of(port, number);
    let name = device.split(',').next().unwrap_or(&device);
    let found = Port::by_name(eal, name).and_then(|id| Ok((id, Port::probe_info(eal, id)?)));
    let (id, info) = found.map_err(|error| Error::Port {
        name: port.name.clone(),
        device: device.clone(),
        error: Box::new(error),
    })?;
    if usize::from(id.0) >= engine::fib::PORTS_MAX {
        return Err(Error::TooManyPorts(port.name.clone(), id.0));
    }
    let queues = deal::queues(config.dataplane.workers, port.queues, info.max_rx_queues, info.max_tx_queues);
    Ok(Found { id, device, info, queues })
}

/// Opens a port, which hashes by `wish` if it can, and its twin; returns what it complains of, too.
pub(crate) fn open(
    eal: &Eal,
    mempool: &Mempool,
    found: Found,
    config: &config::Port,
    wish: &Wish,
) -> Result<(OpenPort, PortQueues, Vec<String>), Error> {
    let wishes = PortConfig {
        rx_queues: found.queues.rx,
        tx_queues: found.queues.tx,
        rx_desc: config.rx_descriptors,
        tx_desc: config.tx_descriptors,
        mtu: config.mtu,
        promiscuous: config.promiscuous,
        rss: (found.queues.rx > 1 && found.info.rss_offloads != 0).then(|| wish.of_port(found.queues.rx)),
        vlan_offload: config.vlan.is_some(),
    };
    let (dpdk, rx, tx) = Port::open(eal, found.id, &wishes, mempool).map_err(|error| Error::Port {
        name: config.name.clone(),
        device: found.device.clone(),
        error: Box::new(error),
    })?;
    let id = PortId(found.id.0);
    let (mac, mtu) = (MacAddr(dpdk.mac()), dpdk.mtu());
    let warnings: Vec<String> =
        dpdk.warnings().iter().map(|warning| format!("port {}: {warning}", config.name)).collect();
    let twin_page = Arc::new(TwinPage::default());
    let vlan = config.vlan.map(|id| Vlan { id, offload: dpdk.inserts_tags() });
    let mut open = OpenPort {
        id,
        vlan,
        config: config.clone(),
        device: found.device,
        dpdk,
        mac,
        mtu,
        rx_queues: found.queues.rx,
        tx_queues: found.queues.tx,
        receive_hash: String::new(),
        twin: None,
        // A TAP begins with a carrier.
        link_told: true,
        mac_refused: None,
        twin_page: twin_page.clone(),
    };
    let mut queues = PortQueues { rx, tx, twin: None };
    if let Some(name) = &config.kernel_interface {
        let (twin, end) = twin::open(mempool, name, (id, mac, mtu), twin_page)?;
        open.twin = Some(twin);
        queues.twin = Some(end);
    }
    Ok((open, queues, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_is_taken_is_said_to_be_in_use() {
        let complaint = |errno: i32, said: &str| {
            let error = dpdk::Error::Port {
                port: "net_af_xdp0".to_owned(),
                driver: "net_af_xdp".to_owned(),
                what: "set up receive queue 0".to_owned(),
                errno: dpdk::Errno(errno),
                said: said.to_owned(),
            };
            let (name, device) = ("wan".to_owned(), "net_af_xdp,iface=eth1".to_owned());
            Error::Port { name, device, error: Box::new(error) }.to_string()
        };
        let taken = "another program may be using the device";
        assert!(complaint(16, "nothing").contains(taken));
        assert!(complaint(22, "xsk_configure(): Failed to create xsk socket.").contains(taken));
        assert!(complaint(0, "Device or resource busy").contains(taken));
        assert!(!complaint(12, "nothing").contains(taken));
        let unknown = dpdk::Error::UnknownPort { name: "net_x0".to_owned(), known: Vec::new() };
        let (name, device) = ("wan".to_owned(), "net_x".to_owned());
        assert!(!Error::Port { name, device, error: Box::new(unknown) }.to_string().contains(taken));
    }

    #[test]
    fn virtual_devices_get_their_ports_number() {
        assert_eq!(numbered("net_af_xdp,iface=eth1", 0), "net_af_xdp0,iface=eth1");
        assert_eq!(numbered("net_null", 3), "net_null3");
    }
}
