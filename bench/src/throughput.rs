//! Packets per second of the gateway beside testpmd's, on the same capture file, in turns.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Case, Traffic};
use crate::flows::Flows;
use crate::gateway::{Gateway, Rate, Window, memory_mib};
use crate::machine::HugePages;
use crate::pcap;
use crate::report::{Row, Spread, TOLLGATE};
use crate::testpmd::{Mode, Testpmd};

/// How to measure.
pub(crate) struct Plan {
    /// The dataplane.
    pub(crate) dataplane: PathBuf,
    /// testpmd.
    pub(crate) testpmd: PathBuf,
    /// For capture files, sockets and logs.
    pub(crate) dir: PathBuf,
    /// Windows per device.
    pub(crate) windows: usize,
    /// Length of a window.
    pub(crate) length: Duration,
    /// Time before it, in which caches and branch predictors settle.
    pub(crate) warm: Duration,
}

/// Removes a file when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Measures one case.
///
/// # Errors
/// When one of the devices does not start or answer.
pub(crate) fn run(plan: &Plan, flows: Flows) -> Result<Vec<Row>> {
    let case = flows.case;
    let data = Scratch(plan.dir.join("data.pcap"));
    let frames = flows.data_frames();
    let count = frames.len();
    pcap::write(&data.0, &frames)?;
    drop(frames);
    // Two processes, and a margin for what DPDK rounds up.
    let _pages = HugePages::reserve(2 * memory_mib(count) + 64)?;
    let mut gateway = Gateway::start(&plan.dataplane, &plan.dir, &data.0, count, flows)?;
    let bytes = gateway.bytes_per_connection()?;
    gateway.halt()?;
    let mut testpmd = Testpmd::start(&plan.testpmd, &plan.dir, &data.0, count)?;
    let (mut ours, mut macswap, mut io) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.windows {
        ours.push(gateway.measure(plan.warm, plan.length).context("measuring the gateway")?);
        macswap.push(testpmd.measure(Mode::MacSwap, plan.warm, plan.length)?);
        if case.is_plainest() {
            io.push(testpmd.measure(Mode::Io, plan.warm, plan.length)?);
        }
    }
    let mut rows = rows(&case, &ours, &macswap, &io);
    if case.is_plainest() && case.traffic == Traffic::Inbound {
        let bytes = Spread::exactly(bytes);
        rows.push(Row::new("memory", TOLLGATE, &case, "bytes/connection", bytes));
    }
    Ok(rows)
}

fn rows(case: &Case, ours: &[Window], macswap: &[Rate], io: &[Rate]) -> Vec<Row> {
    let row = |dut: &'static str, rates: &[Rate]| {
        let ratios: Vec<f64> =
            rates.iter().zip(macswap).map(|(rate, base)| rate.mpps() / base.mpps()).collect();
        let mpps: Vec<f64> = rates.iter().map(|rate| rate.mpps()).collect();
        let shares: Vec<f64> = rates.iter().map(|rate| rate.share()).collect();
        let (rate, ratio) = (Spread::of(&mpps), Spread::of(&ratios));
        Row {
            ratio_macswap: Some(ratio.median),
            ratio_macswap_spread: Some(ratio),
            windows: rates.len(),
            cpu_share: Some(Spread::of(&shares).min),
            ns_per_packet: Some(1000.0 / rate.median),
            ..Row::new("throughput", dut, case, "Mpps", rate)
        }
    };
    let rates: Vec<Rate> = ours.iter().map(|window| window.rate).collect();
    let steady = |window: &Window| window.all_forwarded && window.toa_inserted == 0;
    let tollgate = Row {
        all_forwarded: Some(ours.iter().all(steady)),
        dropped: Some(ours.iter().map(|window| window.dropped).sum()),
        ..row(TOLLGATE, &rates)
    };
    let mut rows = vec![tollgate, row(Mode::MacSwap.dut(), macswap)];
    if !io.is_empty() {
        rows.push(row(Mode::Io.dut(), io));
    }
    rows
}
