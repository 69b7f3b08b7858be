//! What is measured with packets that come back: latency, and whole short connections. The gateway's one port is a memif
//! whose other end is [`crate::load`].

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::Timeouts;
use serde::de::DeserializeOwned;

use crate::case::FLOWS;
use crate::child::Owned;
use crate::flows::Flows;
use crate::gateway::{Gateway, Setup, memory_mib};
use crate::load::{self, Conversations, Latencies};
use crate::machine::{HugePages, on_both_cpus};
use crate::report::{Row, Spread, TOLLGATE};
use crate::testpmd::{Mode, Testpmd};
use crate::throughput::Plan;

/// Packets per second that leave the gateway idle nearly all the time.
const IDLE_PPS: u64 = 10_000;
/// Length of one load, in milliseconds.
const LOAD_MS: u64 = 500;
/// Length of the loads before, which find out what the loop carries.
const TRIAL_MS: u64 = 200;
/// How long the first packet may take to come back: the two ends find each other.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// Short connections at a time: enough for full bursts on both sides, and less than the rings hold.
const CONVERSATIONS: u64 = 256;
/// Room for those that are in TIME_WAIT; a million per second at a second each.
const CONVERSATIONS_MAX: u32 = 2_000_000;
/// Time after which closed connections expire: the shortest that there is.
const CLOSED_S: u32 = 1;

/// The figures of one load, as [`Latencies::percentiles_ns`] has them, without and with load.
const IDLE: [&str; 3] = ["idle, p50", "idle, p99", "idle, p99.9"];
const HALF: [&str; 3] = ["half loaded, p50", "half loaded, p99", "half loaded, p99.9"];
const IDLE_PAUSE: [&str; 3] =
    ["idle, idle = \"pause\", p50", "idle, idle = \"pause\", p99", "idle, idle = \"pause\", p99.9"];
const HALF_PAUSE: [&str; 3] = [
    "half loaded, idle = \"pause\", p50",
    "half loaded, idle = \"pause\", p99",
    "half loaded, idle = \"pause\", p99.9",
];
const IDLE_ADAPTIVE: [&str; 3] =
    ["idle, idle = \"adaptive\", p50", "idle, idle = \"adaptive\", p99", "idle, idle = \"adaptive\", p99.9"];

/// The process at the other end.
struct Peer {
    process: Owned,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Peer {
    fn start(dir: &Path, name: &str) -> Result<Peer> {
        let socket = dir.join(format!("{name}.memif"));
        let _ = std::fs::remove_file(&socket);
        let log = dir.join(format!("load-{name}.log"));
        let own = std::env::current_exe().context("finding this program")?;
        let process = on_both_cpus(&own)
            .arg("--load")
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("making the load's log")?)
            .spawn()
            .context("starting the load")?;
        let mut process = Owned(process);
        let input = process.0.stdin.take().context("the load's input")?;
        let output = BufReader::new(process.0.stdout.take().context("the load's output")?);
        let deadline = Instant::now() + JOIN_MAX;
        while !socket.exists() {
            ensure!(process.ended().is_none() && Instant::now() < deadline, "no load; see {}", log.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Peer { process, input, output, socket })
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        writeln!(self.input, "{command}").context("telling the load what to do")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("reading the load's report")?;
        if line.is_empty() {
            bail!("the load ended: {:?}", self.process.ended());
        }
        serde_json::from_str(&line).with_context(|| format!("the load said `{}`", line.trim()))
    }

    fn latency(&mut self, per_second: u64, ms: u64) -> Result<Latencies> {
        self.ask(&format!("latency {per_second} {ms}"))
    }

    /// Waits until packets come back.
    fn join(&mut self) -> Result<()> {
        let deadline = Instant::now() + JOIN_MAX;
        while self.latency(IDLE_PPS, TRIAL_MS / 4)?.received == 0 {
            ensure!(
                Instant::now() < deadline,
                "nothing came back over {} after {JOIN_MAX:?}",
                self.socket.display()
            );
        }
        Ok(())
    }

    /// Half of what comes back per second when it sends as much as it can.
    fn half(&mut self) -> Result<u64> {
        let most = self.latency(0, TRIAL_MS)?;
        Ok(most.received * 1_000_000_000 / most.wall_ns.max(1) / 2)
    }
}

/// A gateway on a memif.
fn gateway(plan: &Plan, peer: &Peer, name: &str, flows: &Flows, idle: &'static str) -> Result<Gateway> {
    let dir = plan.dir.join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let setup = Setup {
        program: &plan.dataplane,
        dir: &dir,
        device: load::device(&peer.socket, true).replacen("net_memif0", "net_memif", 1),
        frames: 0,
        connections_max: CONVERSATIONS_MAX,
        idle,
        flows,
    };
    let mut gateway = Gateway::launch(&setup, None)?;
    gateway.apply(flows)?;
    Ok(gateway)
}

/// One device's figures in every round.
struct Figures {
    dut: &'static str,
    details: [&'static str; 3],
    rounds: Vec<[u64; 3]>,
}

impl Figures {
    fn rows(&self, flows: &Flows) -> Vec<Row> {
        let row = |at: usize| {
            let us: Vec<f64> = self.rounds.iter().map(|round| round[at] as f64 / 1e3).collect();
            Row {
                detail: Some(self.details[at]),
                windows: us.len(),
                ..Row::new("latency", self.dut, &flows.case, "µs", Spread::of(&us))
            }
        };
        (0..self.details.len()).map(row).collect()
    }
}

/// Time from sending to receiving, through gateways that poll, pause or sleep when idle, and testpmd.
///
/// # Errors
/// When one of them does not start or loses all packets.
pub(crate) fn latency(plan: &Plan) -> Result<Vec<Row>> {
    let flows = load::latency_flows()?;
    let _pages = HugePages::reserve(4 * (memory_mib(0) + u64::from(load::MEMORY_MIB)) + 64)?;
    let mut peers = ["poll", "pause", "adaptive", "testpmd"]
        .into_iter()
        .map(|name| Peer::start(&plan.dir, name))
        .collect::<Result<Vec<_>>>()?;
    let [poll_peer, pause_peer, adaptive_peer, testpmd_peer] = &mut peers[..] else { bail!("four peers") };
    let poll = gateway(plan, poll_peer, "poll", &flows, "poll")?;
    poll.going(|| poll_peer.join())?;
    let half = poll.going(|| poll_peer.half())?;
    let pause = gateway(plan, pause_peer, "pause", &flows, "pause")?;
    pause.going(|| pause_peer.join())?;
    let adaptive = gateway(plan, adaptive_peer, "adaptive", &flows, "adaptive")?;
    adaptive.going(|| adaptive_peer.join())?;
    let device = load::device(&testpmd_peer.socket, true);
    let mut testpmd = Testpmd::start(&plan.testpmd, &plan.dir, &device, 1, 0)?;
    testpmd.going(Mode::MacSwap, || testpmd_peer.join())?;
    let figures = |dut, details| Figures { dut, details, rounds: Vec::new() };
    let mut all = [
        figures(TOLLGATE, IDLE),
        figures(TOLLGATE, HALF),
        figures(TOLLGATE, IDLE_PAUSE),
        figures(TOLLGATE, HALF_PAUSE),
        figures(TOLLGATE, IDLE_ADAPTIVE),
        figures(Mode::MacSwap.dut(), IDLE),
        figures(Mode::MacSwap.dut(), HALF),
    ];
    for _ in 0..plan.windows {
        let rounds = [
            poll.going(|| poll_peer.latency(IDLE_PPS, LOAD_MS))?,
            poll.going(|| poll_peer.latency(half, LOAD_MS))?,
            pause.going(|| pause_peer.latency(IDLE_PPS, LOAD_MS))?,
            pause.going(|| pause_peer.latency(half, LOAD_MS))?,
            adaptive.going(|| adaptive_peer.latency(IDLE_PPS / 10, LOAD_MS))?,
            testpmd.going(Mode::MacSwap, || testpmd_peer.latency(IDLE_PPS, LOAD_MS))?,
            testpmd.going(Mode::MacSwap, || testpmd_peer.latency(half, LOAD_MS))?,
        ];
        for (figures, round) in all.iter_mut().zip(rounds) {
            ensure!(round.received > 0, "{} ({}) lost all packets", figures.dut, figures.details[0]);
            figures.rounds.push(round.percentiles_ns);
        }
    }
    let load = Row {
        detail: Some("half load"),
        ..Row::new("latency", TOLLGATE, &flows.case, "Mpps", Spread::exactly(half as f64 / 1e6))
    };
    Ok(all.iter().flat_map(|figures| figures.rows(&flows)).chain([load]).collect())
}

/// Connections per second from the SYN to the last ACK.
///
/// # Errors
/// When the gateway does not start, or connections do not come to their end.
pub(crate) fn conversations(plan: &Plan) -> Result<Vec<Row>> {
    let mut flows = load::conversation_flows()?;
    flows.timeouts = Timeouts {
        fin_wait_s: CLOSED_S,
        time_wait_s: CLOSED_S,
        close_s: CLOSED_S,
        close_wait_s: CLOSED_S,
        last_ack_s: CLOSED_S,
        ..Timeouts::default()
    };
    let _pages = HugePages::reserve(memory_mib(0) + u64::from(load::MEMORY_MIB) + 64)?;
    let mut peer = Peer::start(&plan.dir, "conversations")?;
    let mut gateway = gateway(plan, &peer, "conversations", &flows, "poll")?;
    let load =
        |peer: &mut Peer, ms| peer.ask::<Conversations>(&format!("conversations {CONVERSATIONS} {ms}"));
    let deadline = Instant::now() + JOIN_MAX;
    while load(&mut peer, TRIAL_MS)?.completed == 0 {
        ensure!(Instant::now() < deadline, "no connection came to its end in {JOIN_MAX:?}");
    }
    // Until as many expire as are closed.
    load(&mut peer, 2 * 1000 * u64::from(CLOSED_S))?;
    let (mut rates, mut stalled, mut shares) = (Vec::new(), 0, Vec::new());
    for _ in 0..plan.windows {
        let (report, rate) = gateway.during(|| load(&mut peer, LOAD_MS))?;
        rates.push(report.completed as f64 * 1e9 / report.wall_ns.max(1) as f64);
        shares.push(rate.share());
        stalled += report.stalled;
    }
    let mut case = flows.case;
    case.flows = FLOWS;
    Ok(vec![Row {
        detail: Some("whole short connection"),
        windows: rates.len(),
        dropped: Some(stalled),
        cpu_share: Some(Spread::of(&shares).min),
        ..Row::new("new_connections", TOLLGATE, &case, "connections/s", Spread::of(&rates))
    }])
}
