//! A reload while a client downloads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::{self, Answers};
use crate::process::{Bond, Process};
use crate::rig::{DOWNLOAD_LEN, Rig, URL, sha256};
use crate::run::Cmd;
use crate::wait::wait_until;

/// How a download over a reload went.
#[derive(Debug, Clone)]
pub struct DownloadReport {
    /// Generation before and after the reload.
    pub generations: (u64, u64),
    /// Bytes that the client had when the reload began, and when the new configuration was proven to be in force.
    pub progress: (u64, u64),
    /// Requests made with the new weights, while the download went on.
    pub answers: Answers,
    /// SHA-256 of what was to come, and of what came.
    pub sha256: (String, String),
}

/// Downloads the 200 MB file with client 1; meanwhile gives the real servers `weights`, reloads, and lets client 2
/// make 100 requests.
pub fn reload_during_download(rig: &mut Rig, weights: &[i64]) -> Result<DownloadReport> {
    let (url, expected) = rig.download_file()?;
    let path = rig.dir().join("downloaded");
    // Slow enough that it lasts longer than the reload and the requests.
    let curl = Cmd::line("curl -sS --fail --limit-rate 20M --max-time 60 -o").arg(&path).arg(url);
    let mut download = Process::spawn("download", &rig.clients[0], &curl, rig.dir(), Bond::DiesWithParent)?;
    let received = || std::fs::metadata(&path).map_or(0, |file| file.len());
    wait_until("20 MB of the download", Duration::from_secs(20), || {
        // Ended already only if something is wrong.
        download.must_run()?;
        Ok(received() > DOWNLOAD_LEN as u64 / 10)
    })?;
    let before = (generation(rig)?, received());
    rig.gateway.change_config(|config| config.set_weights(weights))?;
    rig.gateway.cli(&rig.gw, "reload")?;
    let answers = load::get_many(&rig.clients[1], URL, 100)?;
    let after = (generation(rig)?, received());
    ensure!(after.1 < DOWNLOAD_LEN as u64, "the download had ended before the reload was proven");
    let status = download.wait_exit(Duration::from_secs(60))?;
    ensure!(status.success(), "the download ended with {status}: {}", download.log_tail(3));
    let sha256 = (expected, sha256(&path)?);
    std::fs::remove_file(&path)?;
    Ok(DownloadReport { generations: (before.0, after.0), progress: (before.1, after.1), answers, sha256 })
}

fn generation(rig: &Rig) -> Result<u64> {
    rig.gateway.json(&rig.gw, "status")?["dataplane"]["generation"]
        .as_u64()
        .context("no generation in the status")
}
