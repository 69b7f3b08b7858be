//! Rules by which a port gives packets to a queue (`rte_flow`).

use std::ffi::c_char;
use std::net::IpAddr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::{Port, PortShared};
use crate::error::{Errno, Error};
use crate::{ffi, log};

/// The longest reason of a driver that is passed on, in bytes.
const WHY_LEN: usize = 160;

/// TCP or UDP packets to an address go to a receive queue. The protocol is part of it because many NICs match
/// TCP and UDP apart from the rest of IP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowRule {
    /// The destination address.
    pub to: IpAddr,
    /// IANA protocol number of TCP or UDP.
    pub protocol: u8,
    /// Whether the match of the IP header names the protocol, too. The filters of igb and ixgbe take it from there
    /// alone, others refuse it.
    pub protocol_in_ip: bool,
    /// The receive queue.
    pub queue: u16,
}

impl FlowRule {
    fn raw(&self) -> dpdk_sys::tg_flow_rule {
        let mut to = [0; 16];
        match self.to {
            IpAddr::V4(address) => to[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => to = address.octets(),
        }
        dpdk_sys::tg_flow_rule {
            to,
            is_ipv6: self.to.is_ipv6().into(),
            protocol: self.protocol,
            protocol_in_ip: self.protocol_in_ip.into(),
            queue: self.queue,
        }
    }
}

/// A rule that a port has; it is taken back when this is dropped.
pub struct Flow {
    port: Arc<PortShared>,
    raw: NonNull<dpdk_sys::rte_flow>,
}

// SAFETY: the handle is only ever given back to the library, which allows that from any thread: it locks for
// drivers that do not.
unsafe impl Send for Flow {}

impl Drop for Flow {
    fn drop(&mut self) {
        // SAFETY: the port is open while `port` lives, and the rule was made for it and is not yet taken back. What
        // fails here goes with the port.
        unsafe { dpdk_sys::tg_flow_destroy(self.port.id.0, self.raw.as_ptr()) };
    }
}

impl Port {
    /// Whether it would take a rule, as far as the driver tells in advance.
    ///
    /// # Errors
    /// [`Error::Port`]: what the driver says against it.
    pub fn check_flow(&self, rule: &FlowRule) -> Result<(), Error> {
        log::forget_complaints();
        let mut why: [c_char; WHY_LEN] = [0; WHY_LEN];
        // SAFETY: the port exists; C reads the rule and writes no more than the buffer holds.
        let ret = unsafe { dpdk_sys::tg_flow_validate(self.id().0, &rule.raw(), why.as_mut_ptr(), WHY_LEN) };
        if ret == 0 { Ok(()) } else { Err(self.refused(rule, ret, &why)) }
    }

    /// Makes a rule that holds until it is dropped.
    ///
    /// # Errors
    /// [`Error::Port`]: what the driver says against it.
    pub fn add_flow(&self, rule: &FlowRule) -> Result<Flow, Error> {
        log::forget_complaints();
        let mut why: [c_char; WHY_LEN] = [0; WHY_LEN];
        // SAFETY: as for validating.
        let raw = unsafe { dpdk_sys::tg_flow_create(self.id().0, &rule.raw(), why.as_mut_ptr(), WHY_LEN) };
        // SAFETY: reads a variable of this thread.
        let errno = || unsafe { dpdk_sys::tg_errno() };
        match NonNull::new(raw) {
            Some(raw) => Ok(Flow { port: self.shared.clone(), raw }),
            None => Err(self.refused(rule, -errno(), &why)),
        }
    }

    /// The driver's own reason says more than what it logs, if it gives one.
    fn refused(&self, rule: &FlowRule, ret: i32, why: &[c_char; WHY_LEN]) -> Error {
        // SAFETY: C has terminated the text within the buffer.
        let why = unsafe { ffi::text(why.as_ptr()) };
        Error::Port {
            port: self.name().to_owned(),
            driver: self.info().driver.clone(),
            what: format!("take a flow rule for {}", rule.to),
            errno: Errno::from_return(ret),
            said: if why.is_empty() { log::complaints() } else { why },
        }
    }
}
