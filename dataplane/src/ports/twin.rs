//! The kernel twin of a port: a TAP device that looks like the NIC to Linux.

use std::sync::Arc;

use dpdk::{Mempool, Tap};
use engine::PortId;
use wire::MacAddr;

use super::Error;
use crate::counts::TwinPage;
use crate::mirror::{Twin, ask};
use crate::slow_path::TwinEnd;

/// Makes and brings up the twin `name` of a port: its number, MAC address and MTU.
pub(super) fn open(
    mempool: &Mempool,
    name: &str,
    port: (PortId, MacAddr, u16),
    page: Arc<TwinPage>,
) -> Result<(Twin, TwinEnd), Error> {
    let (id, mac, mtu) = port;
    let failed = |what, why: &dyn ToString| Error::Twin { name: name.to_owned(), what, why: why.to_string() };
    if nix::net::if_::if_nametoindex(name).is_ok() {
        return Err(Error::InterfaceExists(name.to_owned()));
    }
    let tap = Tap::open(name).map_err(|error| failed("make the interface", &error))?;
    let index = nix::net::if_::if_nametoindex(name).map_err(|errno| failed("find the interface", &errno))?;
    ask::set_up_twin(index, mac, mtu).map_err(|error| failed("set MAC address and MTU", &error))?;
    Ok((Twin { port: id, name: name.to_owned(), index }, TwinEnd::new(tap, mempool.clone(), page)))
}
