//! Requests to the kernel: resolve a neighbour, set a twin up.

use std::collections::HashMap;
use std::net::IpAddr;

use engine::PortId;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wire::MacAddr;

use super::Twin;
use super::socket::{Error, Socket};

/// Has the kernel resolve neighbours. Never waits.
pub(crate) struct Asker {
    socket: Socket,
    links: HashMap<PortId, u32>,
}

impl Asker {
    /// For neighbours on these twins.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub(crate) fn new(twins: &[Twin]) -> Result<Asker, Error> {
        let links = twins.iter().map(|twin| (twin.port, twin.index)).collect();
        Ok(Asker { socket: Socket::request()?, links })
    }

    /// Has the kernel find out, or verify, the MAC address of `address` on the twin of `port`. The answer comes
    /// through the mirror. Asking for what is being resolved already does no harm; a port without twin is ignored.
    pub(crate) fn ask(&mut self, port: PortId, address: IpAddr) {
        let Some(&index) = self.links.get(&port) else { return };
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        // NTF_USE: behave as if a packet was about to be sent there (neighbour.h); that starts or renews resolution.
        message.header.flags = NeighbourFlags::Use;
        let (family, destination) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        self.socket.discard_answers();
        if let Err(error) =
            self.socket.send(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REQUEST | NLM_F_CREATE)
        {
            tracing::debug!("cannot ask the kernel for {address}: {error}");
        }
    }
}

/// Gives a twin its port's MAC address and MTU and brings it up.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_up_twin(index: u32, mac: MacAddr, mtu: u16) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
    message.attributes.push(LinkAttribute::Mtu(mtu.into()));
    Socket::request()?.request_and_wait(RouteNetlinkMessage::SetLink(message))
}

/// Tells the kernel whether the port of a twin has a link; programs on the twin see it as its carrier.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_carrier(index: u32, up: bool) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Carrier(up.into()));
    Socket::request()?.request_and_wait(RouteNetlinkMessage::SetLink(message))
}
