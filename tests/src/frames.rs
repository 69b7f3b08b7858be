//! Frames sent as they are, out of an interface of the network namespace that the calling thread is in.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// A packet socket for one interface.
#[derive(Debug)]
pub struct FrameSender {
    socket: OwnedFd,
    link: LinkAddr,
}

impl FrameSender {
    /// Opens it; from then on the namespace of the calling thread no longer matters.
    pub fn open(interface: &str) -> Result<FrameSender> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(FrameSender { socket, link: link(interface)? })
    }

    /// Sends a frame, from the Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.link, MsgFlags::empty())
            .with_context(|| format!("sending a frame of {} bytes", frame.len()))?;
        Ok(())
    }
}

/// The MAC address of an interface.
pub fn mac(interface: &str) -> Result<[u8; 6]> {
    link(interface)?.addr().with_context(|| format!("{interface} has no MAC address"))
}

fn link(interface: &str) -> Result<LinkAddr> {
    let mut addresses = getifaddrs()?.filter(|address| address.interface_name == interface);
    let link = addresses.find_map(|address| address.address?.as_link_addr().copied());
    link.with_context(|| format!("there is no interface {interface}"))
}
