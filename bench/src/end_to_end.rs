//! What users see, and what they would pick instead: wrk and iperf3 through Tollgate, through the kernel's nftables,
//! HAProxy and nginx, and without a balancer, in namespaces of one machine.
//!
//! Each device has a network of its own with clients and real servers; all are there all the time and are measured in
//! turns. Segmentation and checksum offloads are off on every link, as they are between machines on a wire. Everything
//! shares the machine's CPUs, so the figures compare devices and say little of what one can do at most.

mod lane;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::Value;
use tollgate_tests::load::{Wrk, WrkReport};
use tollgate_tests::netns::Netns;
use tollgate_tests::run::Cmd;

use crate::case::{Case, Family, Mode, Proto, Traffic};
use crate::machine;
use crate::report::{Row, Spread};
use lane::{DUTS, IPERF_PORT, Lane};

/// wrk's connections at a time.
const CONNECTIONS: u32 = 32;
/// Longest frame of the links, with the FCS.
const FRAME_BYTES: u32 = 1518;

/// Names of the figures.
const KEPT: &str = "keep-alive";
const CLOSED: &str = "a connection per request";
const BULK: &str = "one stream";

/// How long, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    /// Rounds in which every device has its turn.
    pub(crate) rounds: usize,
    /// Length of each of a turn's three loads; wrk takes whole seconds.
    pub(crate) load: Duration,
}

/// One figure of one device, in every round.
struct Series {
    dut: &'static str,
    detail: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    errors: u64,
}

/// Measures all devices.
///
/// # Errors
/// One of them does not start or work; programs are missing.
pub(crate) fn run(turns: Turns) -> Result<Vec<Row>> {
    let _anywhere = machine::Anywhere::enter()?;
    let mut lanes = Vec::new();
    for dut in DUTS {
        lanes.push(Lane::start(dut).with_context(|| format!("starting {dut}"))?);
    }
    let mut all: Vec<Series> = Vec::new();
    for _ in 0..turns.rounds {
        for lane in &mut lanes {
            let measured = turn(lane, turns.load).with_context(|| format!("measuring {}", lane.dut))?;
            for one in measured {
                match all.iter_mut().find(|s| (s.dut, s.detail, s.unit) == (one.dut, one.detail, one.unit)) {
                    None => all.push(one),
                    Some(series) => {
                        series.values.extend(one.values);
                        series.errors += one.errors;
                    }
                }
            }
        }
    }
    lanes.into_iter().try_for_each(Lane::end)?;
    let case = Case::new(Mode::Fullnat, Proto::Tcp, Family::Ipv4, Traffic::Both).context("a case")?;
    let case = Case { flows: CONNECTIONS, ..case.with_frames(FRAME_BYTES) };
    let row = |series: &Series| Row {
        detail: Some(series.detail),
        windows: series.values.len(),
        dropped: Some(series.errors),
        ..Row::new("end_to_end", series.dut, &case, series.unit, Spread::of(&series.values))
    };
    Ok(all.iter().map(row).collect())
}

/// All loads on one device.
fn turn(lane: &mut Lane, load: Duration) -> Result<Vec<Series>> {
    lane.resume()?;
    let dut = lane.dut;
    let mut series = Vec::new();
    for (close, detail, unit) in [(false, KEPT, "requests/s"), (true, CLOSED, "connections/s")] {
        let wrk = Wrk { connections: CONNECTIONS, duration: load, close };
        let (report, machine, own) = lane.with_cpu(|lane| wrk.run(lane.client(), &lane.url))?;
        let WrkReport { requests, per_second, ref latency, errors } = report;
        let p99 = micros(&latency.1).with_context(|| format!("wrk's 99 % `{}`", latency.1))?;
        let per_request = |ns: u64| ns as f64 / 1e3 / requests.max(1) as f64;
        let one = |unit, value, errors| Series { dut, detail, unit, values: vec![value], errors };
        series.push(one(unit, per_second, errors));
        series.push(one("µs p99", p99, 0));
        series.push(one("µs CPU/request, machine", per_request(machine), 0));
        series.extend(own.map(|ns| one("µs CPU/request, device's processes", per_request(ns), 0)));
    }
    let gbit = iperf(lane.client(), &lane.address, load)?;
    series.push(Series { dut, detail: BULK, unit: "Gbit/s", values: vec![gbit], errors: 0 });
    lane.suspend()?;
    Ok(series)
}

/// Gbit/s that one TCP stream has brought to the server.
fn iperf(client: &Netns, address: &str, load: Duration) -> Result<f64> {
    let line = format!("iperf3 -J -c {address} -p {IPERF_PORT} -t {}", load.as_secs());
    let said = Cmd::line(&line).limit(load + Duration::from_secs(20)).in_netns(client).run()?;
    let report: Value = serde_json::from_str(&said.stdout).context("iperf3's report is not JSON")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3's report has no end.sum_received.bits_per_second")? / 1e9)
}

/// Reads wrk's times, e.g. `2.10ms`, in microseconds.
fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)];
    let (unit, factor) = units.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor)
}

/// Nanoseconds that all CPUs have been busy.
fn machine_cpu_ns() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, then idle and waiting for the disk, then interrupts.
    let busy = ticks.iter().enumerate().filter(|(at, _)| [0, 1, 2, 5, 6].contains(at)).map(|(_, n)| n);
    Ok(busy.sum::<u64>() * tick_ns()?)
}

/// Nanoseconds that the processes of these groups have been on CPUs.
fn groups_cpu_ns(groups: &[u32]) -> Result<u64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        // A process may end meanwhile, and not every entry is one.
        if let Ok(text) = fs::read_to_string(entry.path().join("stat"))
            && let Some((group, spent)) = group_and_ticks(&text)
            && groups.contains(&group)
        {
            ticks += spent;
        }
    }
    Ok(ticks * tick_ns()?)
}

/// Process group, and user and system time, of a line of /proc/PID/stat.
fn group_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // The name may have spaces and parentheses in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let time = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((fields.get(2)?.parse().ok()?, time(11)? + time(12)?))
}

fn tick_ns() -> Result<u64> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel tells no clock tick")?;
    Ok(1_000_000_000 / per_second.max(1).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_wrk_have_units() {
        assert_eq!(micros("481.34us"), Some(481.34));
        assert_eq!(micros("2.10ms"), Some(2100.0));
        assert_eq!(micros("1.00s"), Some(1e6));
        assert_eq!(micros("fast"), None);
    }

    #[test]
    fn a_process_with_a_strange_name_has_its_group_and_times() {
        let stat = "12 (a) b) S 1 77 12 0 -1 4194560 1 2 3 4 100 23 9 9 20 0";
        assert_eq!(group_and_ticks(stat), Some((77, 123)));
        assert_eq!(group_and_ticks("no process"), None);
    }
}
