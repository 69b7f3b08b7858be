//! What the demo shows and the end-to-end tests assert: each scenario does one thing to a running [`Rig`] and reports
//! what it saw. Judging it is the caller's.

mod crash;
mod reload;
mod seen;

use std::time::Duration;

use anyhow::{Context, Result};

pub use self::crash::{CrashReport, crash_and_return};
pub use self::reload::{DownloadReport, reload_during_download};
pub use self::seen::{SeenClient, what_real_server_sees};
use crate::load::{Wrk, WrkReport, parse_wrk};
use crate::process::{Bond, Process};
use crate::rig::{Rig, URL};

/// How `kill -9` of control under load went.
#[derive(Debug, Clone)]
pub struct ControlReport {
    /// What the load saw.
    pub load: WrkReport,
    /// Whether the same dataplane process was there before, in between and after.
    pub dataplane_unmoved: bool,
}

/// Loads the service for `duration`; kills control a third in, starts it again two thirds in.
pub fn kill_control_under_load(rig: &mut Rig, duration: Duration) -> Result<ControlReport> {
    let pid = dataplane_pid(rig)?;
    let wrk = Wrk { connections: 32, duration, close: true };
    let command = wrk.command(URL);
    let mut load = Process::spawn("wrk", &rig.clients[0], &command, rig.dir(), Bond::DiesWithParent)?;
    wait_for_traffic(rig, duration / 3)?;
    rig.gateway.control.take().context("control was not running")?.kill()?;
    let between = dataplane_pid(rig)?;
    wait_for_traffic(rig, duration / 3)?;
    rig.gateway.start_control(&rig.gw)?;
    let status = load.wait_exit(duration + Duration::from_secs(20))?;
    anyhow::ensure!(status.success(), "wrk ended with {status}\n{}", load.log_tail(10));
    let load = parse_wrk(&load.log_text())?;
    let dataplane_unmoved = between == pid && dataplane_pid(rig)? == pid;
    Ok(ControlReport { load, dataplane_unmoved })
}

/// Waits until the workers have forwarded packets for so long.
fn wait_for_traffic(rig: &mut Rig, during: Duration) -> Result<()> {
    let before = received(rig)?;
    let start = std::time::Instant::now();
    crate::wait_until("packets forwarded under load", during + Duration::from_secs(10), || {
        Ok(start.elapsed() >= during && received(rig)? > before)
    })?;
    Ok(())
}

fn received(rig: &Rig) -> Result<u64> {
    let status = rig.gateway.json(&rig.gw, "status")?;
    let workers = status["dataplane"]["workers"].as_array().context("no workers in the status")?;
    Ok(workers.iter().filter_map(|worker| worker["rx_packets"].as_u64()).sum())
}

fn dataplane_pid(rig: &Rig) -> Result<u64> {
    rig.gateway.json(&rig.gw, "status")?["dataplane"]["pid"].as_u64().context("no process id in the status")
}
