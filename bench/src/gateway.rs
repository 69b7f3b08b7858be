//! The dataplane under test: its configuration, its connections, its counters.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{Connection, ConnectionQuery, Request, Response, Stats, Status, WorkerStatus, frame};
use nix::sys::signal::Signal;

use crate::child::Owned;
use crate::feeder::Feeder;
use crate::flows::{DATA_MAC, DATA_PORT, Flows, Opening, SETUP_MAC, SETUP_PORT};
use crate::machine::{forwarding_cpus, on_both_cpus};
use crate::perf;

/// How long start may take.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the opening of all connections may take, and for how many of them a second more.
const CONNECT_MAX: Duration = Duration::from_secs(90);
const CONNECTIONS_PER_SECOND: u32 = 50_000;
/// Connections in an answer of the API.
const PAGE_LEN: u32 = 1000;
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

/// Arguments of net_pcap for replaying files for ever, one per queue.
pub(crate) fn replaying(data: &[PathBuf]) -> String {
    let files = data.iter().map(|file| format!("rx_pcap={},", file.display()));
    files.collect::<String>() + "infinite_rx=1"
}

/// What a gateway is started for.
pub(crate) struct Setup<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Where its files go.
    pub(crate) dir: &'a Path,
    /// Device of the data port, for DPDK.
    pub(crate) device: String,
    /// Frames that this device holds in memory.
    pub(crate) frames: usize,
    /// Connections that fit.
    pub(crate) connections_max: u32,
    /// What its workers do without packets, as the configuration has it.
    pub(crate) idle: &'static str,
    /// Its service.
    pub(crate) flows: &'a Flows,
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
    handed_over: u64,
    created: u64,
    workers: u16,
}

/// Counters of packets that end neither in a drop nor on their way to a client or real server.
const ELSEWHERE: [&str; 2] = ["replied", "unresolved"];

/// Limits, in microseconds, for which the dataplane counts turns of its loop that took longer.
pub(crate) const TURNS_OVER_US: [u32; 3] = [20, 50, 100];
/// Limits for which the dataplane counts turns whose upkeep took longer without its longest step.
pub(crate) const UPKEEP_OVER_US: [u32; 2] = [20, 50];
/// How long a million connections may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Long turns of the forwarding threads' loops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongTurns {
    /// Those that took longer than [`TURNS_OVER_US`].
    pub(crate) all: [u64; TURNS_OVER_US.len()],
    /// Those whose upkeep took longer than [`UPKEEP_OVER_US`].
    pub(crate) upkeep: [u64; UPKEEP_OVER_US.len()],
}

impl LongTurns {
    /// How many more than `before`.
    pub(crate) fn since(&self, before: &LongTurns) -> LongTurns {
        LongTurns {
            all: std::array::from_fn(|at| self.all[at].saturating_sub(before.all[at])),
            upkeep: std::array::from_fn(|at| self.upkeep[at].saturating_sub(before.upkeep[at])),
        }
    }
}

/// Packets, and the time that they took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Packets sent.
    pub(crate) packets: u64,
    /// Length of the window.
    pub(crate) wall_ns: u64,
    /// Time that the forwarding threads had CPUs in it, in sum.
    pub(crate) cpu_ns: u64,
    /// Forwarding threads.
    pub(crate) workers: u16,
}

impl Rate {
    /// Millions of packets per second in which all threads have their CPUs.
    pub(crate) fn mpps(self) -> f64 {
        self.packets as f64 * 1000.0 * f64::from(self.workers) / self.cpu_ns.max(1) as f64
    }

    /// How much of the window the threads had their CPUs: 1 on a quiet machine.
    pub(crate) fn share(self) -> f64 {
        self.cpu_ns as f64 / f64::from(self.workers) / self.wall_ns.max(1) as f64
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
    /// Packets that met another worker than their connection's.
    pub(crate) handed_over: u64,
    /// Connections that were made.
    pub(crate) created: u64,
    /// Whether every packet received was forwarded and sent.
    pub(crate) all_forwarded: bool,
}

/// A running dataplane.
pub(crate) struct Gateway {
    process: Owned,
    api: UnixStream,
    log: PathBuf,
    workers: u16,
}

impl Gateway {
    /// Starts the dataplane and opens the connections over a second port.
    ///
    /// # Errors
    /// When anything does not come about in time; the dataplane's log is named.
    pub(crate) fn with_connections(setup: &Setup<'_>, opening: Opening) -> Result<Gateway> {
        let pipe = setup.dir.join("setup.pipe");
        let mut feeder = Feeder::start(&pipe, setup.flows.clone(), opening)?;
        let mut gateway = Gateway::launch(setup, Some(&pipe))?;
        gateway
            .connect(&mut feeder, setup.flows, opening)
            .with_context(|| format!("the connections could not be opened; see {}", gateway.log.display()))?;
        Ok(gateway)
    }

    /// Starts the dataplane, which has no service yet.
    ///
    /// # Errors
    /// When it does not start; its log is named.
    pub(crate) fn launch(setup: &Setup<'_>, pipe: Option<&Path>) -> Result<Gateway> {
        let (socket, log) = (setup.dir.join("api.sock"), setup.dir.join("dataplane.log"));
        let config_path = setup.dir.join("bench.toml");
        fs::write(&config_path, config(setup, &socket, pipe)).context("writing bench.toml")?;
        let _ = fs::remove_file(&socket);
        let output = File::create(&log).context("making the dataplane's log")?;
        let process = on_both_cpus(setup.program)
            .arg("--config")
            .arg(&config_path)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", setup.program.display()))?;
        let mut process = Owned(process);
        let started = wait_for_api(&mut process, &socket);
        let api = started.with_context(|| format!("the dataplane did not start; see {}", log.display()))?;
        Ok(Gateway { process, api, log, workers: setup.flows.case.workers })
    }

    /// Puts the service in force.
    ///
    /// # Errors
    /// When the dataplane refuses it.
    pub(crate) fn apply(&mut self, flows: &Flows) -> Result<()> {
        match self.ask(&Request::Apply(Box::new(flows.desired_state())))? {
            Response::Applied { .. } => Ok(()),
            Response::Refused(refusal) => bail!("the dataplane refused the service: {refusal}"),
            other => bail!("an unexpected answer to Apply: {other:?}"),
        }
    }

    fn connect(&mut self, feeder: &mut Feeder, flows: &Flows, opening: Opening) -> Result<()> {
        let status = self.status()?;
        for (name, mac) in [(DATA_PORT, DATA_MAC), (SETUP_PORT, SETUP_MAC)] {
            let port = status.ports.iter().find(|port| port.name == name);
            let has = port.map_or("none", |port| port.mac.as_str());
            ensure!(
                has == mac.to_string(),
                "port {name} has MAC address {has}, but the frames are for {mac}: net_pcap numbers its ports otherwise"
            );
        }
        self.apply(flows)?;
        feeder.connect();
        let limit = CONNECT_MAX + Duration::from_secs((flows.case.flows / CONNECTIONS_PER_SECOND).into());
        let deadline = Instant::now() + limit;
        let mut before = 0;
        loop {
            let done = feeder.is_done()?;
            let (stats, status) = (self.stats()?, self.status()?);
            let sum = |field: fn(&WorkerStatus) -> u64| status.workers.iter().map(field).sum::<u64>();
            let (all, embryonic) = (sum(|worker| worker.connections), sum(|worker| worker.embryonic));
            let open = match opening {
                Opening::Whole => total(&stats.states, flows.open_state()).min(all - embryonic.min(all)),
                Opening::First => all,
            };
            if done && open == u64::from(flows.case.flows) {
                return Ok(());
            }
            if done && open == before {
                feeder.connect();
            }
            before = open;
            ensure!(
                Instant::now() < deadline,
                "{open} of {} connections are open after {limit:?}, {embryonic} unanswered; counted: {}",
                flows.case.flows,
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
        self.process.run(self.workers, warm)?;
        let before = self.sample()?;
        self.process.run(self.workers, length)?;
        let after = self.sample()?;
        self.halt()?;
        Ok(window(&before, &after))
    }

    /// Lets it run while something is done, then halts it.
    ///
    /// # Errors
    /// Of what is done, or when it is gone.
    pub(crate) fn going<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.process.signal(Signal::SIGCONT)?;
        let done = work()?;
        self.halt()?;
        Ok(done)
    }

    /// Does something while it runs; what it sent meanwhile.
    ///
    /// # Errors
    /// Of what is done, or when it does not answer.
    pub(crate) fn during<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(T, Rate)> {
        let before = self.sample()?;
        let done = work()?;
        Ok((done, window(&before, &self.sample()?).rate))
    }

    /// Turns that took long, since its start.
    ///
    /// # Errors
    /// When it does not answer, or does not count them.
    pub(crate) fn long_turns(&mut self) -> Result<LongTurns> {
        let counters = self.stats()?.counters;
        let over = |what: &str, limit: u32| {
            let name = format!("{what}_over_{limit}us");
            let is_told = counters.iter().any(|counter| counter.name == name);
            ensure!(is_told, "the dataplane has no counter {name}");
            Ok(total(&counters, &name))
        };
        let mut turns = LongTurns { all: [0; TURNS_OVER_US.len()], upkeep: [0; UPKEEP_OVER_US.len()] };
        for (count, limit) in turns.all.iter_mut().zip(TURNS_OVER_US) {
            *count = over("turns", limit)?;
        }
        for (count, limit) in turns.upkeep.iter_mut().zip(UPKEEP_OVER_US) {
            *count = over("upkeep", limit)?;
        }
        Ok(turns)
    }

    /// Waits until fewer than so many connections are open. Turns that took long until the last look before that.
    ///
    /// # Errors
    /// When it does not answer, or none ends.
    pub(crate) fn until_fewer_than(&mut self, connections: u64) -> Result<LongTurns> {
        let start = Instant::now();
        let mut before = self.long_turns()?;
        while self.open()? >= connections {
            ensure!(start.elapsed() < DRAIN_MAX, "no connection has ended after {DRAIN_MAX:?}");
            std::thread::sleep(POLL);
            before = self.long_turns()?;
        }
        Ok(before)
    }

    /// Waits until no more than `left` connections are open; how long that took.
    ///
    /// # Errors
    /// When it does not answer, or they do not end.
    pub(crate) fn drain(&mut self, left: u64) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let open = self.open()?;
            if open <= left {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < DRAIN_MAX, "{open} connections are still open after {DRAIN_MAX:?}");
            std::thread::sleep(POLL);
        }
    }

    /// Lets it go on for so long, asking it as often as [`Gateway::drain`] does.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn go_on(&mut self, length: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < length {
            self.open()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<u64> {
        Ok(self.status()?.workers.iter().map(|worker| worker.connections).sum())
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

    /// Events of the forwarding threads, by perf, while it runs for `length`.
    ///
    /// # Errors
    /// When perf fails.
    pub(crate) fn events(&self, length: Duration) -> Result<Vec<perf::Count>> {
        let threads = self.process.forwarding_threads(self.workers)?;
        self.going(|| perf::count(&threads, length))
    }

    /// KiB that the process has in memory, huge pages too.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn memory_kib(&self) -> Result<u64> {
        self.process.memory_kib()
    }

    /// All connections.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn connections(&mut self) -> Result<Vec<Connection>> {
        let mut query = ConnectionQuery { limit: PAGE_LEN, ..ConnectionQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = match self.ask(&Request::GetConnections(query.clone()))? {
                Response::Connections(page) => page,
                other => bail!("an unexpected answer to GetConnections: {other:?}"),
            };
            found.extend(page.connections);
            let Some(next) = page.next else { return Ok(found) };
            query.cursor = next;
        }
    }

    fn sample(&mut self) -> Result<Sample> {
        let before = Instant::now();
        let status = self.status()?;
        let took = before.elapsed();
        let cpu_ns = self.process.forwarding_cpu_ns(self.workers)?;
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
            handed_over: status.workers.iter().map(|worker| worker.handed_over).sum(),
            created: total(&stats.counters, "connections_created"),
            workers: self.workers,
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
        rate: Rate { packets: sent, wall_ns, cpu_ns: after.cpu_ns - before.cpu_ns, workers: after.workers },
        dropped,
        toa_inserted: after.toa_inserted - before.toa_inserted,
        handed_over: after.handed_over - before.handed_over,
        created: after.created - before.created,
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

/// The data port, and one that reads the frames that open the connections from a pipe; neither has a kernel twin.
fn config(setup: &Setup<'_>, socket: &Path, pipe: Option<&Path>) -> String {
    let Setup { device, connections_max, idle, flows, .. } = setup;
    let (memory_mib, mbufs) = (memory_mib(setup.frames), mbufs(setup.frames));
    // Two of them may run at a time, each with a folder of its own.
    let instance = setup.dir.file_name().unwrap_or_default().to_string_lossy();
    let (workers, cpus) = (flows.case.workers, forwarding_cpus(flows.case.workers));
    let setup_port = pipe.map_or(String::new(), |pipe| {
        let device = format!("net_pcap,rx_pcap={}", pipe.display());
        port(SETUP_PORT, &device, 1)
    });
    format!(
        r#"[dataplane]
workers = {workers}
cpus = {cpus:?}
memory_mib = {memory_mib}
huge_pages = "require"
idle = "{idle}"
connections_max = {connections_max}
services_max = 16
real_servers_max = 64
mbufs = {mbufs}
api_socket = "{}"
instance = "tollgate-{instance}"
seed = 1

[control]
metrics_listen = "none"
manage_addresses = false
{}{setup_port}"#,
        socket.display(),
        port(DATA_PORT, device, workers)
    )
}

fn port(name: &str, device: &str, queues: u16) -> String {
    format!(
        "\n[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\nkernel_interface = \"\"\nqueues = {queues}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Family, Mode, Proto, Traffic};

    #[test]
    fn the_gateways_configuration_is_valid() {
        let case = Case::new(Mode::Fullnat, Proto::Tcp, Family::Ipv4, Traffic::Both).unwrap();
        let flows = Flows::new(Case { flows: 1_000_000, workers: 2, ..case }).unwrap();
        let files = ["/d/0.pcap", "/d/1.pcap"].map(PathBuf::from);
        let setup = Setup {
            program: Path::new("/d/program"),
            dir: Path::new("/d"),
            device: format!("net_pcap,{}", replaying(&files)),
            frames: 1 << 20,
            connections_max: 1_100_000,
            idle: "poll",
            flows: &flows,
        };
        let text = config(&setup, Path::new("/d/sock"), Some(Path::new("/d/pipe")));
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
            handed_over: 0,
            created: 0,
            workers: 1,
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
