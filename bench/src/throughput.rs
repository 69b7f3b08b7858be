//! Packets per second of the gateway beside testpmd's, on the same capture file, in turns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::Case;
use crate::cores::Cores;
use crate::flows::{Flows, Opening};
use crate::gateway::{Gateway, Rate, Setup, Window, memory_mib, replaying};
use crate::machine::HugePages;
use crate::pcap;
use crate::report::{Row, Spread, TOLLGATE};
use crate::testpmd::{Mode, Testpmd};
use crate::turns::{Looks, Patience, Turn, WHOLE_CORE, least_calm};

/// Frames that a gateway drops which only shall tell what it chooses.
const FILLERS: usize = 64;
/// How to measure.
pub(crate) struct Plan {
    /// The dataplane.
    pub(crate) dataplane: PathBuf,
    /// testpmd.
    pub(crate) testpmd: PathBuf,
    /// For capture files, sockets and logs.
    pub(crate) dir: PathBuf,
    /// How many windows per device.
    pub(crate) patience: Patience,
    /// How often the devices are started for these in the main cases: a process is a few per cent faster or slower for as
    /// long as it lives, by where its memory lies.
    pub(crate) starts: usize,
    /// Length of a window.
    pub(crate) length: Duration,
    /// Whether perf can count cycles.
    pub(crate) has_counters: bool,
    /// Time before it, in which caches and branch predictors settle.
    pub(crate) warm: Duration,
    /// What the CPUs can do.
    pub(crate) cores: Cores,
}

/// Each device once, one after the other.
struct Figures {
    ours: Window,
    macswap: Rate,
    /// Where the case is plain.
    others: Vec<(Mode, Rate)>,
}

impl Figures {
    fn other(&self, wanted: Mode) -> Option<Rate> {
        self.others.iter().find(|(mode, _)| *mode == wanted).map(|(_, rate)| *rate)
    }
}

impl Plan {
    /// A gateway for these connections on this device, which holds so many frames.
    pub(crate) fn setup<'a>(&'a self, flows: &'a Flows, device: String, frames: usize) -> Setup<'a> {
        let (program, dir) = (&self.dataplane, &self.dir);
        Setup { program, dir, device, frames, connections_max: room(flows), idle: "poll", flows }
    }
}

/// Removes a file when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Replayed files, one per queue, removed on drop.
pub(crate) struct Replay {
    files: Vec<Scratch>,
    /// Frames in all of them.
    pub(crate) frames: usize,
}

impl Replay {
    /// Writes them.
    ///
    /// # Errors
    /// Of the file system; a queue without a frame.
    pub(crate) fn write(
        dir: &Path,
        queues: impl IntoIterator<Item = impl IntoIterator<Item = Vec<u8>>>,
    ) -> Result<Replay> {
        let mut replay = Replay { files: Vec::new(), frames: 0 };
        for (number, queue) in queues.into_iter().enumerate() {
            let file = Scratch(dir.join(format!("data{number}.pcap")));
            let count = pcap::write(&file.0, queue)?;
            ensure!(count > 0, "no connection belongs to worker {number}");
            replay.frames += count;
            replay.files.push(file);
        }
        Ok(replay)
    }

    /// The device that replays them; `name` is `net_pcap`, with a number where DPDK itself is told.
    pub(crate) fn device(&self, name: &str) -> String {
        let files: Vec<PathBuf> = self.files.iter().map(|file| file.0.clone()).collect();
        format!("{name},{}", replaying(&files))
    }
}

/// Room for so many connections, with a spare for uneven shares of the workers.
fn room(flows: &Flows) -> u32 {
    flows.case.flows + flows.case.flows / 8 * u32::from(flows.case.workers) + 1024
}

/// Opens the connections on a gateway and asks it what it chose for them.
fn learn(plan: &Plan, flows: Flows) -> Result<Flows> {
    let queue = || vec![flows.filler_frame(); FILLERS];
    let replay = Replay::write(&plan.dir, (0..flows.case.workers).map(|_| queue()))?;
    let _pages = HugePages::reserve(memory_mib(replay.frames) + 64)?;
    let setup = plan.setup(&flows, replay.device("net_pcap"), replay.frames);
    let mut gateway = Gateway::with_connections(&setup, Opening::First)?;
    let connections = gateway.connections()?;
    flows.learnt(&connections)
}

/// Measures one case.
///
/// # Errors
/// When one of the devices does not start or answer.
pub(crate) fn run(plan: &Plan, flows: Flows) -> Result<Vec<Row>> {
    let flows = if flows.must_learn() { learn(plan, flows)? } else { flows };
    let case = flows.case;
    let replay = Replay::write(&plan.dir, flows.data_frames())?;
    // Two processes, and a margin for what DPDK rounds up.
    let _pages = HugePages::reserve(2 * memory_mib(replay.frames) + 64)?;
    let setup = plan.setup(&flows, replay.device("net_pcap"), replay.frames);
    let starts = if case.is_main() { plan.starts } else { 1 };
    let (mut turns, mut counts) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        let mut gateway = Gateway::with_connections(&setup, Opening::Whole)?;
        gateway.halt()?;
        let device = replay.device("net_pcap0");
        let mut testpmd = Testpmd::start(&plan.testpmd, &plan.dir, &device, case.workers, replay.frames)?;
        let part = plan.patience.part(starts);
        turns.extend(part.turns(WHOLE_CORE, || turn(plan, &case, &mut gateway, &mut testpmd))?);
        if plan.has_counters && case.is_plain() {
            counts = gateway.events(plan.length).context("counting cycles")?;
        }
    }
    let mut rows = rows(&case, &turns);
    if !counts.is_empty() {
        let ns_per_packet = rows.first().and_then(|row| row.ns_per_packet).unwrap_or(f64::NAN);
        rows.extend(counts.iter().map(|count| {
            // Of one thread, while all of them need so long for a packet each.
            let per_packet = count.per_ns * ns_per_packet * f64::from(case.workers);
            Row::new("counters", TOLLGATE, &case, count.unit, Spread::exactly(per_packet))
        }));
    }
    Ok(rows)
}

fn turn(plan: &Plan, case: &Case, gateway: &mut Gateway, testpmd: &mut Testpmd) -> Result<Turn<Figures>> {
    let mut looks = Looks::begin(&plan.cores, case.workers)?;
    let ours = gateway.measure(plan.warm, plan.length).context("measuring the gateway")?;
    looks.look()?;
    let macswap = testpmd.measure(Mode::MacSwap, plan.warm, plan.length)?;
    looks.look()?;
    let mut others = Vec::new();
    if case.is_plain() {
        for mode in [Mode::Io, Mode::FiveTupleSwap] {
            others.push((mode, testpmd.measure(mode, plan.warm, plan.length)?));
            looks.look()?;
        }
    }
    Ok(looks.end(Figures { ours, macswap, others }))
}

fn rows(case: &Case, turns: &[Turn<Figures>]) -> Vec<Row> {
    let figures: Vec<&Figures> = turns.iter().map(|turn| &turn.figures).collect();
    let row = |dut: &'static str, rate: &dyn Fn(&Figures) -> Option<Rate>| {
        let rates = figures.iter().filter_map(|figures| Some((rate(figures)?, figures.macswap)));
        let rates: Vec<(Rate, Rate)> = rates.collect();
        let spread =
            |value: fn(&(Rate, Rate)) -> f64| Spread::of(&rates.iter().map(value).collect::<Vec<f64>>());
        let (mpps, ratio) =
            (spread(|(rate, _)| rate.mpps()), spread(|(rate, base)| rate.mpps() / base.mpps()));
        Row {
            ratio_macswap: Some(ratio.median),
            ratio_macswap_spread: Some(ratio),
            windows: rates.len(),
            cpu_share: Some(spread(|(rate, _)| rate.share()).min),
            core_share: least_calm(turns),
            ns_per_packet: Some(1000.0 / mpps.median),
            ..Row::new("throughput", dut, case, "Mpps", mpps)
        }
    };
    let steady =
        |window: &Window| window.all_forwarded && window.toa_inserted == 0 && window.handed_over == 0;
    let tollgate = Row {
        all_forwarded: Some(figures.iter().all(|figures| steady(&figures.ours))),
        dropped: Some(figures.iter().map(|figures| figures.ours.dropped).sum()),
        ..row(TOLLGATE, &|figures| Some(figures.ours.rate))
    };
    let mut rows = vec![tollgate, row(Mode::MacSwap.dut(), &|figures| Some(figures.macswap))];
    if case.is_plain() {
        let others = [Mode::Io, Mode::FiveTupleSwap];
        rows.extend(others.map(|mode| row(mode.dut(), &|figures| figures.other(mode))));
    }
    rows
}
