//! The dataplane under test: its configuration, its connections, its counters.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{Request, Response, Stats, Status, frame};
use nix::sys::signal::Signal;

use crate::child::Owned;
use crate::feeder::Feeder;
use crate::flows::{DATA_MAC, DATA_PORT, Flows, SETUP_MAC, SETUP_PORT};
use crate::machine::{MEASURED_CPU, on_both_cpus};

/// How long start and the opening of all connections may take.
const START_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
/// Packet buffers beside those that hold the replayed file.
const MBUFS_SPARE: u32 = 16_384;
/// DPDK's memory beside the packet buffers, in MiB.
const MEMORY_SPARE_MIB: u64 = 192;
/// Bytes of a packet buffer in its pool: header, headroom, 2 KiB, alignment.
const MBUF_LEN: u64 = 2432;

/// MiB of huge pages for a process that replays so many frames.
pub(crate) fn memory_mib(frames: usize) -> u64 {
    (frames as u64 + u64::from(MBUFS_SPARE)) * MBUF_LEN / (1 << 20) + MEMORY_SPARE_MIB
}

/// Packet buffers for so many frames.
pub(crate) fn mbufs(frames: usize) -> u32 {
    frames as u32 + MBUFS_SPARE
}

/// Counters at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    at: Instant,
    cpu_ns: u64,
    received: u64,
    sent: u64,
    dropped: u64,
    elsewhere: u64,
    toa_inserted: u64,
}

/// Counters of packets that end neither in a drop nor on their way to a client or real server.
const ELSEWHERE: [&str; 2] = ["replied", "unresolved"];

/// Packets, and the time that they took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Packets sent.
    pub(crate) packets: u64,
    /// Length of the window.
    pub(crate) wall_ns: u64,
    /// Time that the forwarding thread had a CPU in it.
    pub(crate) cpu_ns: u64,
}

impl Rate {
    /// Millions of packets per second of CPU time.
    pub(crate) fn mpps(self) -> f64 {
        self.packets as f64 * 1000.0 / self.cpu_ns.max(1) as f64
    }

    /// How much of the window the thread had its CPU: 1 on a quiet machine.
    pub(crate) fn share(self) -> f64 {
        self.cpu_ns as f64 / self.wall_ns.max(1) as f64
    }
}

/// What happened between two samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Packets sent, and in how much time.
    pub(crate) rate: Rate,
    /// Packets dropped by the engine.
    pub(crate) dropped: u64,
    /// Packets that got the address option, which the steady state has not.
    pub(crate) toa_inserted: u64,
    /// Whether every packet received was forwarded and sent.
    pub(crate) all_forwarded: bool,
}

/// A running dataplane.
pub(crate) struct Gateway {
    process: Owned,
    api: UnixStream,
    log: PathBuf,
}

impl Gateway {
    /// Starts the dataplane with one worker on `data` and opens the connections.
    ///
    /// # Errors
    /// When anything does not come about in time; the dataplane's log is named.
    pub(crate) fn start(
        program: &Path,
        dir: &Path,
        data: &Path,
        frames: usize,
        flows: Flows,
    ) -> Result<Gateway> {
        let (pipe, socket, log) = (dir.join("setup.pipe"), dir.join("api.sock"), dir.join("dataplane.log"));
        let config_path = dir.join("bench.toml");
        fs::write(&config_path, config(data, &pipe, &socket, frames, flows)).context("writing bench.toml")?;
        let mut feeder = Feeder::start(&pipe, flows)?;
        let output = File::create(&log).context("making the dataplane's log")?;
        let process = on_both_cpus(program)
            .arg("--config")
            .arg(&config_path)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut process = Owned(process);
        let started = wait_for_api(&mut process, &socket);
        let api = started.with_context(|| format!("the dataplane did not start; see {}", log.display()))?;
        let mut gateway = Gateway { process, api, log };
        gateway
            .connect(&mut feeder, flows)
            .with_context(|| format!("the connections could not be opened; see {}", gateway.log.display()))?;
        Ok(gateway)
    }

    fn connect(&mut self, feeder: &mut Feeder, flows: Flows) -> Result<()> {
        let status = self.status()?;
        for (name, mac) in [(DATA_PORT, DATA_MAC), (SETUP_PORT, SETUP_MAC)] {
            let port = status.ports.iter().find(|port| port.name == name);
            let has = port.map_or("none", |port| port.mac.as_str());
            ensure!(
                has == mac.to_string(),
                "port {name} has MAC address {has}, but the frames are for {mac}: net_pcap numbers its ports otherwise"
            );
        }
        match self.ask(&Request::Apply(Box::new(flows.desired_state())))? {
            Response::Applied { .. } => {}
            Response::Refused(refusal) => bail!("the dataplane refused the service: {refusal}"),
            other => bail!("an unexpected answer to Apply: {other:?}"),
        }
        feeder.connect();
        let deadline = Instant::now() + CONNECT_MAX;
        loop {
            let done = feeder.is_done()?;
            let stats = self.stats()?;
            let open = total(&stats.states, flows.open_state());
            let embryonic: u64 = self.status()?.workers.iter().map(|worker| worker.embryonic).sum();
            if done && open == u64::from(flows.case.flows) && embryonic == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{open} of {} connections are {} after {CONNECT_MAX:?}, {embryonic} unanswered; counted: {}",
                flows.case.flows,
                flows.open_state(),
                non_zero(&stats)
            );
            if let Some(status) = self.process.ended() {
                bail!("the dataplane ended: {status}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Lets it run for `warm`, then measures for `length`, then halts it.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn measure(&mut self, warm: Duration, length: Duration) -> Result<Window> {
        self.process.signal(Signal::SIGCONT)?;
        self.process.run(warm)?;
        let before = self.sample()?;
        self.process.run(length)?;
        let after = self.sample()?;
        self.halt()?;
        Ok(window(&before, &after))
    }

    /// Takes it off its CPU.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn halt(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Bytes of table and index per connection that fits.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn bytes_per_connection(&mut self) -> Result<f64> {
        let status = self.status()?;
        let bytes: u64 = status.workers.iter().map(|worker| worker.table_bytes).sum();
        let room: u64 = status.workers.iter().map(|worker| worker.connections_max).sum();
        Ok(bytes as f64 / room.max(1) as f64)
    }

    fn sample(&mut self) -> Result<Sample> {
        let before = Instant::now();
        let status = self.status()?;
        let took = before.elapsed();
        let cpu_ns = self.process.forwarding_cpu_ns()?;
        let stats = self.stats()?;
        let port = status.ports.iter().find(|port| port.name == DATA_PORT).context("no data port")?;
        Ok(Sample {
            at: before + took / 2,
            cpu_ns,
            received: port.rx_packets,
            sent: port.tx_packets,
            elsewhere: elsewhere(&stats),
            dropped: stats.drops.iter().flat_map(|drop| &drop.per_worker).sum(),
            toa_inserted: total(&stats.counters, "toa_inserted"),
        })
    }

    fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::GetStatus)? {
            Response::Status(status) => Ok(*status),
            other => bail!("an unexpected answer to GetStatus: {other:?}"),
        }
    }

    fn stats(&mut self) -> Result<Stats> {
        match self.ask(&Request::GetStats)? {
            Response::Stats(stats) => Ok(*stats),
            other => bail!("an unexpected answer to GetStats: {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response> {
        frame::write(&mut self.api, request)?;
        frame::read(&mut self.api)?.context("the dataplane closed its API")
    }
}

/// All packets were forwarded if none ended in any other way. That as many were sent as received is only a check of the
/// check: the two are read one after the other, and on a busy machine there are milliseconds between.
fn window(before: &Sample, after: &Sample) -> Window {
    let wall_ns = (after.at - before.at).as_nanos() as u64;
    let (received, sent) = (after.received - before.received, after.sent - before.sent);
    let dropped = after.dropped - before.dropped;
    let near = received.abs_diff(sent) * 20 <= received;
    Window {
        rate: Rate { packets: sent, wall_ns, cpu_ns: after.cpu_ns - before.cpu_ns },
        dropped,
        toa_inserted: after.toa_inserted - before.toa_inserted,
        all_forwarded: dropped == 0 && after.elsewhere == before.elsewhere && received > 0 && near,
    }
}

fn elsewhere(stats: &Stats) -> u64 {
    let is_elsewhere = |name: &str| ELSEWHERE.contains(&name) || name.starts_with("punted_");
    stats.counters.iter().filter(|c| is_elsewhere(&c.name)).flat_map(|c| &c.per_worker).sum()
}

fn wait_for_api(process: &mut Owned, socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + START_MAX;
    loop {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            stream.set_read_timeout(Some(START_MAX))?;
            frame::greet(&mut stream)?;
            return Ok(stream);
        }
        if let Some(status) = process.ended() {
            bail!("it ended: {status}");
        }
        ensure!(Instant::now() < deadline, "no API at {} after {START_MAX:?}", socket.display());
        std::thread::sleep(POLL);
    }
}

fn total(counters: &[api::WorkerCounter], name: &str) -> u64 {
    counters.iter().filter(|counter| counter.name == name).flat_map(|counter| &counter.per_worker).sum()
}

fn non_zero(stats: &Stats) -> String {
    let all = stats.states.iter().chain(&stats.counters).chain(&stats.drops);
    let named = all.map(|counter| (counter.name.as_str(), counter.per_worker.iter().sum::<u64>()));
    named.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

/// One port replays the data, the other reads the frames that open the connections; neither has a kernel twin.
fn config(data: &Path, pipe: &Path, socket: &Path, frames: usize, flows: Flows) -> String {
    let (data, pipe, socket) = (data.display(), pipe.display(), socket.display());
    let connections_max = flows.case.flows + flows.case.flows / 8 + 1024;
    let memory_mib = memory_mib(frames);
    let mbufs = mbufs(frames);
    format!(
        r#"[dataplane]
workers = 1
cpus = [{MEASURED_CPU}]
memory_mib = {memory_mib}
huge_pages = "require"
idle = "poll"
connections_max = {connections_max}
services_max = 16
real_servers_max = 64
mbufs = {mbufs}
api_socket = "{socket}"
instance = "tollgate-bench"
seed = 1

[control]
metrics_listen = "none"
manage_addresses = false

[[port]]
name = "{DATA_PORT}"
device = "net_pcap,rx_pcap={data},infinite_rx=1"
kernel_interface = ""
queues = 1

[[port]]
name = "{SETUP_PORT}"
device = "net_pcap,rx_pcap={pipe}"
kernel_interface = ""
queues = 1
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Family, Mode, Proto, Traffic};

    #[test]
    fn the_gateways_configuration_is_valid() {
        let case = Case::new(Mode::Fullnat, Proto::Tcp, Family::Ipv4, Traffic::Both).unwrap();
        let flows = Flows::new(Case { flows: 1_000_000, ..case }).unwrap();
        let text =
            config(Path::new("/d/data.pcap"), Path::new("/d/pipe"), Path::new("/d/sock"), 1 << 20, flows);
        let parsed = config::Config::from_str("bench.toml", &text);
        assert!(parsed.is_ok(), "{parsed:?}");
    }

    #[test]
    fn a_window_with_a_loss_is_not_all_forwarded() {
        let before = Sample {
            at: Instant::now(),
            cpu_ns: 0,
            received: 0,
            sent: 0,
            dropped: 0,
            elsewhere: 0,
            toa_inserted: 0,
        };
        let at = before.at + Duration::from_secs(1);
        let good = Sample { at, cpu_ns: 500_000_000, received: 2_000_000, sent: 1_999_990, ..before.clone() };
        assert!(window(&before, &good).all_forwarded);
        assert!((window(&before, &good).rate.mpps() - 4.0).abs() < 0.001);
        assert!((window(&before, &good).rate.share() - 0.5).abs() < 0.001);
        let lossy = Sample { dropped: 1, ..good };
        assert!(!window(&before, &lossy).all_forwarded);
    }
}
