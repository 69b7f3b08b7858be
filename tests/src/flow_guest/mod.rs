//! A guest that runs the gateway on ports that take flow rules: DPDK's TAP driver makes them rules of the
//! kernel's traffic control, with modules that Debian's kernel has.
//!
//! The kernel is the network at the other end of each TAP: clients are programs that speak from its address at
//! one, real servers listen at its address at the other.

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway_guest::{self, GatewayGuest};
use crate::guest_image::{self, Contents, program};

/// Modules that are loaded, besides those that they need. The driver marks what arrives, and queues by the mark.
const MODULES: [&str; 5] = ["tun", "sch_multiq", "sch_ingress", "cls_flower", "act_skbedit"];
/// What EAL opens by itself out of its folder of plug-ins.
const PLUG_INS: [&str; 3] = ["bus_vdev", "mempool_ring", "net_tap"];
/// Debian's packages iproute2, ethtool, nginx, curl and wrk.
const PROGRAMS: [&str; 6] = ["ip", "tc", "ethtool", "nginx", "curl", "wrk"];

/// A running guest; ended when dropped.
#[derive(Debug)]
pub struct Guest {
    inner: GatewayGuest,
    _dir: TempDir,
}

impl Guest {
    /// Boots it and waits until it takes commands.
    pub fn start() -> Result<Guest> {
        let dir = tempfile::tempdir()?;
        let mut programs = gateway_guest::programs(dir.path())?;
        for name in PROGRAMS {
            programs.push(program(name)?);
        }
        let plug_ins = gateway_guest::plug_ins(&PLUG_INS)?;
        let contents = Contents {
            init: include_bytes!("init.sh"),
            programs: &programs,
            plug_ins: &plug_ins,
            modules: &MODULES,
        };
        let image = guest_image::make(dir.path(), &contents)?;
        let inner = GatewayGuest::boot(&image, dir.path(), &[], "/".as_ref(), &[])?;
        Ok(Guest { inner, _dir: dir })
    }

    /// Starts dataplane and control and waits until the services are in force and both ports have a link.
    pub fn start_gateway(&mut self, config: &str) -> Result<()> {
        self.inner.start_gateway(config, 2)
    }

    /// Ends both.
    pub fn stop_gateway(&mut self) -> Result<()> {
        self.inner.stop_gateway()
    }

    /// Makes this the configuration, for a reload.
    pub fn write_config(&mut self, config: &str) -> Result<()> {
        self.inner.write_config(config)
    }

    /// `tollgate status --json`.
    pub fn status(&mut self) -> Result<Value> {
        self.inner.json("status")
    }

    /// Runs a line of shell, which must succeed; what it prints.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.inner.agent.run(line).map_err(|error| error.context(self.inner.last_words()))
    }

    /// Runs a line of shell, which must fail; what it prints.
    pub fn run_failing(&mut self, line: &str) -> Result<String> {
        let said = self.inner.agent.run_any(line)?;
        anyhow::ensure!(said.status != 0, "`{line}` did not fail:\n{}", said.text);
        Ok(said.text)
    }
}
