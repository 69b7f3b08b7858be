//! Packets per second of the gateway beside testpmd's, on the same capture file, in turns.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::case::Case;
use crate::cores::Cores;
use crate::flows::{Flows, Opening};
use crate::gateway::{Gateway, Rate, Setup, Window, memory_mib, replaying};
use crate::machine::{HugePages, forwarding_cpus};
use crate::pcap;
use crate::report::{Row, Spread, TOLLGATE};
use crate::testpmd::{Mode, Testpmd};

/// Frames that a gateway drops which only shall tell what it chooses.
const FILLERS: usize = 64;
/// Turns in which the forwarding threads had less of their cores than this are made up for.
const WHOLE_CORE: f64 = 0.95;
/// How many times as many turns as are wanted there may be for that.
const TURNS_STRETCH_MAX: usize = 4;

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
    /// Whether perf can count cycles.
    pub(crate) has_counters: bool,
    /// Time before it, in which caches and branch predictors settle.
    pub(crate) warm: Duration,
    /// What the CPUs can do.
    pub(crate) cores: Cores,
    /// Time left in this run for turns beyond the ones that are wanted.
    pub(crate) patience: Cell<Duration>,
}

/// Each device once, one after the other.
struct Turn {
    /// How much of a core each forwarding thread had, the least between the devices' windows.
    core_share: f64,
    ours: Window,
    macswap: Rate,
    /// Where the case is plain.
    others: Vec<(Mode, Rate)>,
}

impl Turn {
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
    let mut gateway = Gateway::with_connections(&setup, Opening::Whole)?;
    gateway.halt()?;
    let mut testpmd =
        Testpmd::start(&plan.testpmd, &plan.dir, &replay.device("net_pcap0"), case.workers, replay.frames)?;
    let turns = turns(plan, &case, &mut gateway, &mut testpmd)?;
    let mut rows = rows(&case, &turns);
    if plan.has_counters && case.is_plain() {
        let counts = gateway.events(plan.length).context("counting cycles")?;
        let ns_per_packet = rows.first().and_then(|row| row.ns_per_packet).unwrap_or(f64::NAN);
        rows.extend(counts.iter().map(|count| {
            Row::new("counters", TOLLGATE, &case, count.unit, Spread::exactly(count.per_ns * ns_per_packet))
        }));
    }
    Ok(rows)
}

/// As many turns as are wanted, of the ones that were disturbed least; more are made while there is time for that.
fn turns(plan: &Plan, case: &Case, gateway: &mut Gateway, testpmd: &mut Testpmd) -> Result<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    loop {
        let (start, is_extra) = (Instant::now(), turns.len() >= plan.windows);
        turns.push(turn(plan, case, gateway, testpmd)?);
        if is_extra {
            plan.patience.set(plan.patience.get().saturating_sub(start.elapsed()));
        }
        let calm = turns.iter().filter(|turn| turn.core_share >= WHOLE_CORE).count();
        let is_last = turns.len() >= TURNS_STRETCH_MAX * plan.windows || plan.patience.get().is_zero();
        if calm >= plan.windows || is_last && turns.len() >= plan.windows {
            break;
        }
    }
    Ok(least_disturbed(turns, plan.windows))
}

/// Chosen by nothing but what they had of the cores, not by what they made of it; of equal ones the first.
fn least_disturbed(mut turns: Vec<Turn>, wanted: usize) -> Vec<Turn> {
    let share = |turn: &Turn| turn.core_share.min(WHOLE_CORE);
    turns.sort_by(|one, other| share(other).total_cmp(&share(one)));
    turns.truncate(wanted);
    turns
}

fn turn(plan: &Plan, case: &Case, gateway: &mut Gateway, testpmd: &mut Testpmd) -> Result<Turn> {
    let cpus = forwarding_cpus(case.workers);
    let mut core_share = plan.cores.share(&cpus)?;
    let mut look = || plan.cores.share(&cpus).map(|share| core_share = core_share.min(share));
    let ours = gateway.measure(plan.warm, plan.length).context("measuring the gateway")?;
    look()?;
    let macswap = testpmd.measure(Mode::MacSwap, plan.warm, plan.length)?;
    look()?;
    let mut others = Vec::new();
    if case.is_plain() {
        for mode in [Mode::Io, Mode::FiveTupleSwap] {
            others.push((mode, testpmd.measure(mode, plan.warm, plan.length)?));
            look()?;
        }
    }
    Ok(Turn { core_share, ours, macswap, others })
}

fn rows(case: &Case, turns: &[Turn]) -> Vec<Row> {
    let row = |dut: &'static str, rate: fn(&Turn) -> Option<Rate>| {
        let rates: Vec<(Rate, Rate)> =
            turns.iter().filter_map(|turn| Some((rate(turn)?, turn.macswap))).collect();
        let spread =
            |value: fn(&(Rate, Rate)) -> f64| Spread::of(&rates.iter().map(value).collect::<Vec<f64>>());
        let (mpps, ratio) =
            (spread(|(rate, _)| rate.mpps()), spread(|(rate, base)| rate.mpps() / base.mpps()));
        Row {
            ratio_macswap: Some(ratio.median),
            ratio_macswap_spread: Some(ratio),
            windows: rates.len(),
            cpu_share: Some(spread(|(rate, _)| rate.share()).min),
            core_share: turns.iter().map(|turn| turn.core_share).reduce(f64::min),
            ns_per_packet: Some(1000.0 / mpps.median),
            ..Row::new("throughput", dut, case, "Mpps", mpps)
        }
    };
    let steady =
        |turn: &Turn| turn.ours.all_forwarded && turn.ours.toa_inserted == 0 && turn.ours.handed_over == 0;
    let tollgate = Row {
        all_forwarded: Some(turns.iter().all(steady)),
        dropped: Some(turns.iter().map(|turn| turn.ours.dropped).sum()),
        ..row(TOLLGATE, |turn| Some(turn.ours.rate))
    };
    let mut rows = vec![tollgate, row(Mode::MacSwap.dut(), |turn| Some(turn.macswap))];
    if case.is_plain() {
        rows.push(row(Mode::Io.dut(), |turn| turn.other(Mode::Io)));
        rows.push(row(Mode::FiveTupleSwap.dut(), |turn| turn.other(Mode::FiveTupleSwap)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_chosen_by_what_they_had_of_their_cores() {
        let rate = |packets| Rate { packets, wall_ns: 1000, cpu_ns: 1000, workers: 1 };
        let turn = |core_share, packets| Turn {
            core_share,
            ours: Window {
                rate: rate(packets),
                dropped: 0,
                toa_inserted: 0,
                handed_over: 0,
                created: 0,
                all_forwarded: true,
            },
            macswap: rate(100),
            others: Vec::new(),
        };
        let chosen = least_disturbed(vec![turn(0.6, 90), turn(0.96, 40), turn(0.7, 50), turn(1.0, 30)], 3);
        let packets: Vec<u64> = chosen.iter().map(|turn| turn.ours.rate.packets).collect();
        assert_eq!(packets, [40, 30, 50], "whole cores in their order, then the least disturbed");
    }
}
