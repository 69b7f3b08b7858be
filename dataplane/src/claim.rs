//! One dataplane per device.
//!
//! A second process that opens a network interface fails, but on its way out some drivers (net_af_xdp) take the first
//! one's program off the interface, and the first goes deaf. So each device is claimed before EAL sees it: by an
//! abstract unix socket of its name, which belongs to the network namespace, as interfaces do, and which the kernel
//! removes however the process ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use config::{Config, Device};

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another dataplane has it.
    #[error(
        "port {port}: {device} is in use by another tollgate-dataplane; end that one first, or give the port another device"
    )]
    InUse {
        /// The port's name.
        port: String,
        /// The device or interface.
        device: String,
    },
    /// The claim itself failed.
    #[error("port {port}: {device} cannot be claimed: {source}")]
    Failed {
        /// The port's name.
        port: String,
        /// The device or interface.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The claims of this process; dropping them gives the devices free.
#[derive(Debug)]
pub(crate) struct Claims(#[expect(dead_code, reason = "held, not read")] Vec<UnixListener>);

/// Claims the devices of all ports.
///
/// # Errors
/// [`Error`], naming the first port that cannot have its device.
pub(crate) fn all(config: &Config) -> Result<Claims, Error> {
    let shared = config.ports.iter().filter_map(|port| Some((&port.name, what_is_shared(&port.device)?)));
    shared.map(|(port, device)| claim(port, device)).collect::<Result<_, _>>().map(Claims)
}

/// What two processes must not drive at once; `None` for devices that each process has for itself.
fn what_is_shared(device: &Device) -> Option<&str> {
    match device {
        Device::Pci(address) => Some(address),
        Device::Vdev(arguments) => arguments.split(',').find_map(|argument| argument.strip_prefix("iface=")),
    }
}

fn claim(port: &str, device: &str) -> Result<UnixListener, Error> {
    let (port, device) = (port.to_owned(), device.to_owned());
    let bound = SocketAddr::from_abstract_name(format!("tollgate-dataplane/device/{device}"))
        .and_then(|name| UnixListener::bind_addr(&name));
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { port, device },
        _ => Error::Failed { port, device, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_claimed_once_and_free_again_afterwards() {
        let name = format!("test{}", std::process::id());
        let first = claim("wan", &name).unwrap();
        let error = claim("lan", &name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("port lan: {name} is in use")), "{error}");
        drop(first);
        claim("lan", &name).unwrap();
    }

    #[test]
    fn interfaces_and_pci_devices_are_shared_and_files_are_not() {
        let vdev = |text: &str| Device::Vdev(text.to_owned());
        assert_eq!(what_is_shared(&vdev("net_af_xdp,iface=eth1,start_queue=0")), Some("eth1"));
        assert_eq!(what_is_shared(&Device::Pci("0000:01:00.0".to_owned())), Some("0000:01:00.0"));
        assert_eq!(what_is_shared(&vdev("net_pcap,rx_pcap=in.pcap")), None);
    }
}
