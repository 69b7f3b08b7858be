//! Frames sent and received as they are, at an interface of the network namespace that the calling thread is
//! in.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

/// The longest frame that is received whole.
const FRAME_LEN_MAX: usize = 2048;

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

/// A packet socket that receives from one interface.
#[derive(Debug)]
pub struct FrameReceiver(OwnedFd);

impl FrameReceiver {
    /// Opens it; from then on the namespace of the calling thread no longer matters.
    pub fn open(interface: &str) -> Result<FrameReceiver> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        bind(socket.as_raw_fd(), &link(interface)?).with_context(|| format!("receiving from {interface}"))?;
        Ok(FrameReceiver(socket))
    }

    /// The next frame that `from` has sent, from the Ethernet header on; `None`: there is none now.
    pub fn receive(&self, from: &[u8; 6]) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME_LEN_MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(len) if frame.get(6..12) == Some(from) => {
                    frame.truncate(len);
                    return Ok(Some(frame));
                }
                // One that was sent from here.
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error).context("receiving a frame"),
            }
        }
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
