//! A guest that runs the gateway on ports that take flow rules: DPDK's TAP driver makes them rules of the
//! kernel's traffic control, with modules that Debian's kernel has.
//!
//! The kernel is the network at the other end of each TAP: clients are programs that speak from its address at
//! one, real servers listen at its address at the other.

use anyhow::Result;

use crate::gateway_guest::{self, GatewayGuest};
use crate::guest_image::{self, Contents, program};

/// Modules that are loaded, besides those that they need. The driver marks what arrives, and queues by the mark.
const MODULES: [&str; 5] = ["tun", "sch_multiq", "sch_ingress", "cls_flower", "act_skbedit"];
/// What EAL opens by itself out of its folder of plug-ins.
const PLUG_INS: [&str; 3] = ["bus_vdev", "mempool_ring", "net_tap"];
/// Debian's packages iproute2, ethtool, nginx, curl and wrk.
const PROGRAMS: [&str; 6] = ["ip", "tc", "ethtool", "nginx", "curl", "wrk"];

/// Boots it and waits until it takes commands.
pub fn boot() -> Result<GatewayGuest> {
    let dir = tempfile::tempdir()?;
    let mut programs = gateway_guest::programs(dir.path())?;
    for name in PROGRAMS {
        programs.push(program(name)?);
    }
    let plug_ins = gateway_guest::plug_ins(&PLUG_INS)?;
    let contents = Contents {
        prepare: include_bytes!("prepare.sh"),
        programs: &programs,
        plug_ins: &plug_ins,
        modules: &MODULES,
    };
    let image = guest_image::make(dir.path(), &contents)?;
    GatewayGuest::boot(&image, dir, &[], "/".as_ref(), Vec::new())
}
