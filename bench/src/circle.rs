//! What is measured with packets that come back: latency, and whole short connections. The gateway's one port is a memif
//! whose other end is [`crate::load`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::Timeouts;

use crate::case::FLOWS;
use crate::child::Answering;
use crate::flows::Flows;
use crate::gateway::{Gateway, Setup, memory_mib};
use crate::load::{self, Conversations, Latencies};
use crate::machine::{HugePages, before_others};
use crate::report::{Row, Spread, TOLLGATE};
use crate::testpmd::{Mode, Testpmd};
use crate::throughput::Plan;
use crate::turns::{Looks, Turn, WHOLE_CORE};

/// Packets per second that leave the gateway idle nearly all the time.
const IDLE_PPS: u64 = 10_000;
/// Length of one load, in milliseconds.
const LOAD_MS: u64 = 300;
/// Length of the loads before, which find out what the loop carries.
const TRIAL_MS: u64 = 200;
/// How long the first packet may take to come back: the two ends find each other.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// Short connections at a time: enough for full bursts on both sides, and less than the rings hold.
const CONVERSATIONS: u64 = 256;
/// A thousandth of the time without a CPU spoils a turn as much as a twentieth of a core less.
const WAIT_WEIGHT: f64 = 50.0;
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
    child: Answering,
    socket: PathBuf,
}

impl Peer {
    fn start(dir: &Path, name: &str) -> Result<Peer> {
        let socket = dir.join(format!("{name}.memif"));
        let _ = std::fs::remove_file(&socket);
        let log = dir.join(format!("load-{name}.log"));
        let own = std::env::current_exe().context("finding this program")?;
        let mut command = before_others(&own);
        command.arg("--load").arg(&socket);
        command.stderr(File::create(&log).context("making the load's log")?);
        let mut child = Answering::start(&mut command)?;
        let deadline = Instant::now() + JOIN_MAX;
        while !socket.exists() {
            let is_running = child.process.ended().is_none();
            ensure!(is_running && Instant::now() < deadline, "no load; see {}", log.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Peer { child, socket })
    }

    fn latency(&mut self, per_second: u64, ms: u64) -> Result<Latencies> {
        self.child.ask(&format!("latency {per_second} {ms}"))
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

/// What a packet goes through and comes back from.
enum Device {
    Gateway(Gateway),
    Testpmd(Testpmd),
}

/// A device and the load at its other end.
struct Circle {
    device: Device,
    peer: Peer,
}

impl Circle {
    /// Of a gateway that is idle in this way.
    fn gateway(plan: &Plan, flows: &Flows, idle: &'static str) -> Result<Circle> {
        let peer = Peer::start(&plan.dir, idle)?;
        let device = Device::Gateway(gateway(plan, &peer, idle, flows, idle)?);
        Circle { device, peer }.joined()
    }

    fn testpmd(plan: &Plan) -> Result<Circle> {
        let peer = Peer::start(&plan.dir, "testpmd")?;
        let device = load::device(&peer.socket, true);
        let device = Device::Testpmd(Testpmd::start(&plan.testpmd, &plan.dir, &device, 1, 0)?);
        Circle { device, peer }.joined()
    }

    fn joined(mut self) -> Result<Circle> {
        self.going(Peer::join)?;
        Ok(self)
    }

    fn dut(&self) -> &'static str {
        match self.device {
            Device::Gateway(_) => TOLLGATE,
            Device::Testpmd(_) => Mode::MacSwap.dut(),
        }
    }

    fn going<T>(&mut self, work: impl FnOnce(&mut Peer) -> Result<T>) -> Result<T> {
        let Circle { device, peer } = self;
        match device {
            Device::Gateway(gateway) => gateway.going(|| work(peer)),
            Device::Testpmd(testpmd) => testpmd.going(Mode::MacSwap, || work(peer)),
        }
    }
}

/// The percentiles of one load: which circle has it, how much it is, and what its figures are called.
struct Load {
    circle: usize,
    /// Datagrams per second; `None`: half of what the first circle carries in this turn, since that changes with the machine.
    per_second: Option<u64>,
    details: [&'static str; 3],
}

/// Time from sending to receiving, through gateways that poll, pause or sleep when idle, and testpmd.
///
/// # Errors
/// When one of them does not start or loses all packets.
pub(crate) fn latency(plan: &Plan) -> Result<Vec<Row>> {
    let flows = load::latency_flows()?;
    let _pages = HugePages::reserve(4 * (memory_mib(0) + u64::from(load::MEMORY_MIB)) + 64)?;
    let poll = Circle::gateway(plan, &flows, "poll")?;
    let pause = Circle::gateway(plan, &flows, "pause")?;
    let adaptive = Circle::gateway(plan, &flows, "adaptive")?;
    let mut circles = [poll, pause, adaptive, Circle::testpmd(plan)?];
    let loads = [
        Load { circle: 0, per_second: Some(IDLE_PPS), details: IDLE },
        Load { circle: 0, per_second: None, details: HALF },
        Load { circle: 1, per_second: Some(IDLE_PPS), details: IDLE_PAUSE },
        Load { circle: 1, per_second: None, details: HALF_PAUSE },
        Load { circle: 2, per_second: Some(IDLE_PPS / 10), details: IDLE_ADAPTIVE },
        Load { circle: 3, per_second: Some(IDLE_PPS), details: IDLE },
        Load { circle: 3, per_second: None, details: HALF },
    ];
    let turns = plan.patience.all(WHOLE_CORE, || turn(plan, &mut circles, &loads))?;
    let mut rows = Vec::new();
    for (at, load) in loads.iter().enumerate() {
        let of_load = turns.iter().filter_map(|turn| turn.figures.rounds.get(at));
        let of_load = of_load.map(|round| Turn { calm: round.calm(), figures: *round }).collect();
        let rounds: Vec<Round> =
            plan.patience.calmest(WHOLE_CORE, of_load).into_iter().map(|turn| turn.figures).collect();
        let least = |share: fn(&Round) -> f64| rounds.iter().map(share).reduce(f64::min);
        for (percentile, detail) in load.details.into_iter().enumerate() {
            let us: Vec<f64> =
                rounds.iter().map(|round| round.percentiles_ns[percentile] as f64 / 1e3).collect();
            rows.push(Row {
                detail: Some(detail),
                windows: us.len(),
                cpu_share: least(|round| round.cpu_share),
                core_share: least(|round| round.core_share),
                ..Row::new("latency", circles[load.circle].dut(), &flows.case, "µs", Spread::of(&us))
            });
        }
    }
    let half: Vec<f64> = turns.iter().map(|turn| turn.figures.half as f64 / 1e6).collect();
    rows.push(Row {
        detail: Some("half load"),
        windows: half.len(),
        ..Row::new("latency", TOLLGATE, &flows.case, "Mpps", Spread::of(&half))
    });
    Ok(rows)
}

/// One load once.
#[derive(Clone, Copy)]
struct Round {
    percentiles_ns: [u64; 3],
    /// How much of the time the load had its CPU, and how much of their cores both CPUs had.
    cpu_share: f64,
    core_share: f64,
}

impl Round {
    /// A thousandth of the time without a CPU counts, because it is all that the 99.9th percentile tells. What the devices'
    /// threads wait for is theirs, and is measured.
    fn calm(&self) -> f64 {
        self.core_share.min(1.0 - WAIT_WEIGHT * (1.0 - self.cpu_share))
    }
}

/// Each load once.
struct Figures {
    /// Datagrams per second that are half of what the first circle carried.
    half: u64,
    rounds: Vec<Round>,
}

fn turn(plan: &Plan, circles: &mut [Circle; 4], loads: &[Load]) -> Result<Turn<Figures>> {
    let half = circles[0].going(Peer::half)?;
    let mut looks = Looks::begin(&plan.cores, 2)?;
    let mut rounds: Vec<Round> = Vec::with_capacity(loads.len());
    for load in loads {
        let circle = &mut circles[load.circle];
        let waited_ns = circle.peer.child.process.main_waited_ns()?;
        let came = circle.going(|peer| peer.latency(load.per_second.unwrap_or(half), LOAD_MS))?;
        ensure!(came.received > 0, "{} ({}) lost all packets", circle.dut(), load.details[0]);
        let waited_ms = (circle.peer.child.process.main_waited_ns()? - waited_ns) as f64 / 1e6;
        looks.look()?;
        rounds.push(Round {
            percentiles_ns: came.percentiles_ns,
            cpu_share: 1.0 - waited_ms / LOAD_MS as f64,
            core_share: looks.between(),
        });
    }
    let calm = rounds.iter().map(Round::calm).fold(f64::INFINITY, f64::min);
    Ok(Turn { calm, figures: Figures { half, rounds } })
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
        |peer: &mut Peer, ms| peer.child.ask::<Conversations>(&format!("conversations {CONVERSATIONS} {ms}"));
    let deadline = Instant::now() + JOIN_MAX;
    while load(&mut peer, TRIAL_MS)?.completed == 0 {
        ensure!(Instant::now() < deadline, "no connection came to its end in {JOIN_MAX:?}");
    }
    // Until as many expire as are closed.
    load(&mut peer, 2 * 1000 * u64::from(CLOSED_S))?;
    let (mut rates, mut stalled, mut shares) = (Vec::new(), 0, Vec::new());
    for _ in 0..plan.patience.turns {
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
