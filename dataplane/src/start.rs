//! From the configuration to running threads, in the order that lets every fault be told before traffic flows.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::{Config, HugePages, counted};
use crossbeam_channel::{Sender, bounded};
use dpdk::{Eal, EalConfig, Lcore, LcoreExit, Mempool, ring};
use engine::{Counters, Fib, Limits, Planner, PortId, Ticks, TooFew, WorkerConfig, WorkerId};

use crate::counts::{Page, PlatformDrop};
use crate::cpus::{self, Layout};
use crate::flow_rules::{self, Rules};
use crate::memory;
use crate::mirror::{self, Asker, Twin};
use crate::ports::{self, Deal, Found, OpenPort, PortQueues};
use crate::slow_path::{SlowPath, Source};
use crate::state::{Core, Facts, Inbox, Parts, WorkerLink};
use crate::steering::{self, Steering, Told, Wish};
use crate::wiring::{INJECT_RING_LEN, Own, Wiring, worker_ring_len};
use crate::worker::{Clock, Idle, IdleMode, Out, Outputs, Sink, Turns, Waiting, Worker};

/// What keeps the dataplane from starting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// EAL, pools, rings.
    #[error(transparent)]
    Dpdk(#[from] dpdk::Error),
    /// Ports and twins.
    #[error(transparent)]
    Ports(#[from] ports::Error),
    /// The kernel mirror.
    #[error("kernel mirror: {0}")]
    Mirror(#[from] mirror::Error),
    /// Tables that do not fit.
    #[error(transparent)]
    Memory(#[from] memory::TooManyConnections),
    /// No random numbers.
    #[error("the system has no random numbers to give: {0}")]
    Random(getrandom::Error),
    /// The CPUs cannot be asked for.
    #[error("cannot find out which CPUs this process may use: {0}")]
    Affinity(nix::errno::Errno),
}

/// Packets on their way to the kernel, per worker.
const PUNT_RING_LEN: u32 = 1024;
/// Packets on their way to wait for a MAC address, per worker.
const RESOLVE_RING_LEN: u32 = 256;
/// Next hops that one worker may wish for before the slow path looks.
const WANTED_LEN: usize = 256;
/// Control messages to one worker that are under way.
const CONTROL_LEN: usize = 4;
/// Forwarding tables on their way to the slow path.
const FIBS_LEN: usize = 64;

/// Longest sleep of an idle worker: what the first packet after a pause may be delayed by.
const WORKER_SLEEP_MAX: Duration = Duration::from_micros(200);
/// Longest sleep of the idle slow path.
const SLOW_PATH_SLEEP_MAX: Duration = Duration::from_micros(500);

/// Pairs of a local address and a real server, per real server. A service with more local addresses than this uses up
/// the share of others.
const PAIRS_PER_REAL: usize = 16;

/// The running threads.
pub(crate) struct Running {
    eal: Arc<Eal>,
    stop: Arc<AtomicBool>,
    lcores: Vec<u16>,
    /// What is left to do on the main thread.
    pub(crate) core: Core,
}

impl Running {
    /// Stops the threads and closes the ports.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for lcore in &self.lcores {
            if self.eal.wait(*lcore) == LcoreExit::Panicked {
                tracing::error!("lcore {lcore} had panicked; that is a bug in the dataplane");
            }
        }
        self.core.end();
    }
}

/// Starts everything but the API.
///
/// # Errors
/// [`Error`]: one sentence that says what to do.
pub(crate) fn start(config: &Config, inbox: Sender<Inbox>, stop: Arc<AtomicBool>) -> Result<Running, Error> {
    assemble(config, stop)?.launch(inbox)
}

/// Opens the ports and makes all threads' parts, without starting one.
///
/// # Errors
/// [`Error`].
pub(crate) fn assemble(config: &Config, stop: Arc<AtomicBool>) -> Result<Assembled, Error> {
    let layout = cpus::lay_out(config.dataplane.workers, &config.dataplane.cpus, &allowed_cpus()?);
    let idle_mode = cpus::idle_mode(&config.dataplane, &layout);
    ports::check_interfaces(config)?;
    memory::check_connections(config.dataplane.connections_max, memory::available_mib())?;
    let eal = Eal::init(&eal_config(config, &layout)).map_err(|error| ports::of_port(error, config))?;
    let eal = Arc::new(eal);
    let mut warnings = eal.warnings().to_vec();

    let found = (0..config.ports.len())
        .map(|number| ports::find(&eal, config, number))
        .collect::<Result<Vec<_>, _>>()?;
    tracing::info!("workers run the code for {} CPUs", dpdk::cpu::Level::of_cpu().name());
    if let IdleMode::Pause(max) = idle_mode {
        tracing::info!("idle workers wait by {}, {max:?} at most", dpdk::cpu::Wait::of_cpu().name());
    }
    let deals =
        ports::deal(config.dataplane.workers, &found.iter().map(|found| found.queues).collect::<Vec<_>>());
    let wish = Wish::new(config.dataplane.seed, found.iter().map(|found| found.info.reta_size))
        .map_err(Error::Random)?;
    let pools = pools(&eal, config, &found, &mut warnings)?;
    let (mut open, mut queues) = (Vec::new(), Vec::new());
    for (number, found) in found.into_iter().enumerate() {
        let (port, of_port, complaints) =
            ports::open(&eal, pools.of(found.info.numa_node), found, &config.ports[number], &wish)?;
        tracing::info!(
            "port {} is {} ({}, {}), {} and {}",
            port.config.name,
            port.device,
            port.dpdk.info().driver,
            port.mac,
            counted(port.rx_queues, "receive queue"),
            counted(port.tx_queues, "transmit queue")
        );
        warnings.extend(complaints);
        open.push(port);
        queues.push(of_port);
    }
    let steering = steer(config, &mut open, &deals, &mut warnings);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let (deals, pool) = (&deals, &pools.first);
    let plan = Plan { eal: &eal, config, deals, pool, idle_mode, steering: &steering, stop: &stop };
    plan.assemble(open, queues, &layout, warnings)
}

/// Finds out how packets are brought to their owners.
fn steer(config: &Config, open: &mut [OpenPort], deals: &[Deal], warnings: &mut Vec<String>) -> Steering {
    let told: Vec<Told> = open.iter().zip(deals).map(|(port, deal)| Told::by(port, deal)).collect();
    for (port, told) in open.iter_mut().zip(&told) {
        port.receive_hash = told.summary();
    }
    let open = &*open;
    let (wanted, workers) = (config.dataplane.steering, config.dataplane.workers);
    let steering = steering::choose(wanted, workers, &told, || flow_rules::probe(open, deals, workers));
    match steering.note.as_str() {
        "" => tracing::info!("steering: {}", steering.name),
        note => tracing::info!("steering: {}; {note}", steering.name),
    }
    if steering.falls_short {
        let wanted = if wanted == config::Steering::Flow { "flow" } else { "rss" };
        warnings
            .push(format!("steering = \"{wanted}\" is not possible, so it is software: {}", steering.note));
    }
    steering
}

fn allowed_cpus() -> Result<Vec<usize>, Error> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map_err(Error::Affinity)?;
    Ok((0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

fn eal_config(config: &Config, layout: &Layout) -> EalConfig {
    let (pci, vdevs) = ports::devices(config);
    let mut workers: Vec<Lcore> = layout
        .workers
        .iter()
        .enumerate()
        .map(|(worker, cpus)| Lcore { id: worker_lcore(worker), cpus: cpus.clone() })
        .collect();
    // The slow path is an lcore too, so that it has a cache of mbufs of its own.
    workers.push(Lcore { id: worker_lcore(workers.len()), cpus: layout.main.clone() });
    EalConfig {
        main: Lcore { id: 0, cpus: layout.main.clone() },
        workers,
        memory_mib: config.dataplane.memory_mib,
        huge_pages: match config.dataplane.huge_pages {
            HugePages::Require => dpdk::HugePages::Require,
            HugePages::Prefer => dpdk::HugePages::Prefer,
            HugePages::Never => dpdk::HugePages::Never,
        },
        pci,
        vdevs,
        file_prefix: config.dataplane.instance.clone(),
        in_memory: true,
        extra_args: config.dataplane.eal_args.clone(),
    }
}

fn worker_lcore(worker: usize) -> u16 {
    worker as u16 + 1
}

/// Makes the packet buffers: a pool for each NUMA node that ports are on. Each is large enough for everything, because
/// buffers of one node wait in rings and queues of others.
fn pools(eal: &Eal, config: &Config, found: &[Found], warnings: &mut Vec<String>) -> Result<Pools, Error> {
    let rings = memory::Rings {
        per_worker_pair: worker_ring_len(config.dataplane.workers),
        per_worker: PUNT_RING_LEN + RESOLVE_RING_LEN,
        per_port: INJECT_RING_LEN + worker_ring_len(config.dataplane.workers),
    };
    let ports: Vec<_> = config.ports.iter().zip(found).map(|(port, found)| (port, found.queues)).collect();
    let mbufs = match config.dataplane.mbufs {
        0 => memory::mbufs(config.dataplane.workers, &ports, &rings),
        given => given,
    };
    let mtu = config.ports.iter().filter_map(|port| port.mtu).max();
    let make =
        |name: &str, node| Mempool::new(eal, name, mbufs, memory::CACHE_LEN, memory::data_room(mtu), node);
    let nodes = memory::nodes(found.iter().map(|found| found.info.numa_node));
    let mut pools = Pools { first: make("tollgate", nodes.first().copied())?, others: Vec::new() };
    for node in nodes.into_iter().skip(1) {
        match make(&format!("tollgate-{node}"), Some(node)) {
            Ok(pool) => pools.others.push((node, pool)),
            // Slower, but it forwards.
            Err(error) => {
                warnings.push(format!("ports on NUMA node {node} use packet buffers of another: {error}"))
            }
        }
    }
    Ok(pools)
}

/// The packet buffers.
struct Pools {
    /// For the first port's node, and for ports without node.
    first: Mempool,
    /// For the other nodes.
    others: Vec<(u32, Mempool)>,
}

impl Pools {
    fn of(&self, node: Option<u32>) -> &Mempool {
        self.others.iter().find(|(of, _)| Some(*of) == node).map_or(&self.first, |(_, pool)| pool)
    }
}

/// The threads to be, and what stays on the main thread.
pub(crate) struct Assembled {
    eal: Arc<Eal>,
    stop: Arc<AtomicBool>,
    twins: Vec<Twin>,
    pub(crate) workers: Vec<Worker>,
    slow_path: SlowPath,
    pub(crate) parts: Parts,
}

impl Assembled {
    /// Sets the threads going.
    fn launch(self, inbox: Sender<Inbox>) -> Result<Running, Error> {
        let mirror = mirror::spawn(self.twins, inbox, self.stop.clone())?;
        let mut lcores = Vec::new();
        for (index, worker) in self.workers.into_iter().enumerate() {
            self.eal.launch(worker_lcore(index), move || dpdk::cpu::run(worker))?;
            lcores.push(worker_lcore(index));
        }
        let (last, slow_path) = (worker_lcore(lcores.len()), self.slow_path);
        self.eal.launch(last, move || slow_path.run())?;
        lcores.push(last);
        Ok(Running { eal: self.eal, stop: self.stop, lcores, core: Core::new(self.parts, mirror) })
    }
}

/// What the assembly refers to all the time.
struct Plan<'a> {
    eal: &'a Arc<Eal>,
    config: &'a Config,
    deals: &'a [Deal],
    /// Where workers take buffers from.
    pool: &'a Mempool,
    idle_mode: IdleMode,
    steering: &'a Steering,
    stop: &'a Arc<AtomicBool>,
}

/// What all workers are given alike.
struct Common<'a> {
    clock: Clock,
    secret: [u64; 2],
    limits: Limits,
    counters: &'a [Arc<Counters>],
}

impl Plan<'_> {
    fn assemble(
        &self,
        open: Vec<OpenPort>,
        mut queues: Vec<PortQueues>,
        layout: &Layout,
        warnings: Vec<String>,
    ) -> Result<Assembled, Error> {
        let count = usize::from(self.config.dataplane.workers);
        let limits = self.limits();
        let counters: Vec<Arc<Counters>> = (0..count)
            .map(|_| Arc::new(Counters::new(limits.services_max, limits.reals_max, limits.pairs_max)))
            .collect();
        let twins: Vec<Twin> = open.iter().filter_map(|port| port.twin.clone()).collect();
        let mut wiring = Wiring::new(self.eal, count, self.deals, &open, &mut queues)?;
        let (mut links, mut sources, mut workers) = (Vec::new(), Vec::new(), Vec::new());
        let common = Common {
            clock: Clock::new(dpdk::tsc(), dpdk::tsc_hz(self.eal)),
            secret: self.secret()?,
            limits,
            counters: &counters,
        };
        for (index, cpus) in layout.workers.iter().enumerate() {
            let (worker, source, link) = self.worker(index, cpus, &common, wiring.take(index))?;
            workers.push(worker);
            sources.push(source);
            links.push(link);
        }
        let (fib_sender, fibs) = bounded::<Arc<Fib>>(FIBS_LEN);
        let slow_path = SlowPath {
            sources,
            sides: wiring.sides(&open, &mut queues),
            fibs,
            asker: Asker::new(&twins)?,
            idle: Idle::new(IdleMode::Adaptive, SLOW_PATH_SLEEP_MAX, dpdk::tsc_hz(self.eal)),
            stop: self.stop.clone(),
        };
        let eal = self.eal.clone();
        let parts = Parts {
            workers: links,
            ports: open,
            planner: self.planner(limits, counters),
            rules: Rules::new(self.steering.takers.clone()),
            slow_path: fib_sender,
            asker: Asker::new(&twins)?,
            services_max: self.config.dataplane.services_max.into(),
            reals_max: self.config.dataplane.real_servers_max.into(),
            facts: self.facts(warnings),
            is_running: Box::new(move |worker| eal.is_running(worker_lcore(worker))),
        };
        Ok(Assembled { eal: self.eal.clone(), stop: self.stop.clone(), twins, workers, slow_path, parts })
    }

    fn planner(&self, limits: Limits, counters: Vec<Arc<Counters>>) -> Planner {
        let planner = Planner::new(limits, counters).with_rss(self.steering.rss.clone());
        match (self.steering.name, self.config.dataplane.steering) {
            ("flow", config::Steering::Flow) => planner.with_dealt_locals(TooFew::Refuse),
            ("flow", _) => planner.with_dealt_locals(TooFew::Share),
            _ => planner,
        }
    }

    fn facts(&self, warnings: Vec<String>) -> Facts {
        Facts {
            dpdk_version: dpdk::version(),
            started: Instant::now(),
            warnings,
            steering: self.steering.name,
            steering_note: self.steering.note.clone(),
            idle: self.idle_mode.name(),
        }
    }

    /// Slots: twice what the configuration allows, because what a reload takes away keeps its slot while connections
    /// remember it, and a reload may replace all. Pairs, of which there are many, have a quarter more.
    fn limits(&self) -> Limits {
        let with_room = |max: u32| 2 * max as usize + 16;
        let reals_max = with_room(self.config.dataplane.real_servers_max);
        Limits {
            services_max: with_room(self.config.dataplane.services_max),
            reals_max,
            pairs_max: (reals_max / 2 + reals_max / 8) * PAIRS_PER_REAL,
        }
    }

    fn secret(&self) -> Result<[u64; 2], Error> {
        match self.config.dataplane.seed {
            // Both halves differ from each other and from zero for any seed.
            Some(seed) => Ok([seed ^ 0x9e37_79b9_7f4a_7c15, seed.rotate_left(32) ^ 0xd1b5_4a32_d192_ed03]),
            None => Ok([getrandom::u64().map_err(Error::Random)?, getrandom::u64().map_err(Error::Random)?]),
        }
    }

    /// One worker, what the slow path gets of it, and what the main thread keeps.
    fn worker(
        &self,
        index: usize,
        cpus: &[usize],
        common: &Common<'_>,
        own: Own,
    ) -> Result<(Worker, Source, WorkerLink), Error> {
        let dataplane = &self.config.dataplane;
        let engine = engine::Worker::new(
            &WorkerConfig {
                id: WorkerId(index as u16),
                workers: dataplane.workers,
                connections_max: dataplane.connections_max.div_ceil(dataplane.workers.into()),
                limits: common.limits,
                secret: common.secret,
                punt_per_second: dataplane.punt_rate_limit,
                now: Ticks(0),
            },
            common.counters[index].clone(),
            common.counters.to_vec(),
        )
        .with_rss(self.steering.rss.clone());
        let (punt, punted) = ring(self.eal, &format!("punt{index}"), PUNT_RING_LEN, None)?;
        let (resolve, unresolved) = ring(self.eal, &format!("resolve{index}"), RESOLVE_RING_LEN, None)?;
        let (to, control) = bounded(CONTROL_LEN);
        let (replies, from) = bounded(CONTROL_LEN);
        let (wanted_sender, wanted) = bounded::<(PortId, IpAddr)>(WANTED_LEN);
        let source = Source { punted, unresolved, wanted, page: Arc::new(Page::default()) };
        let link = WorkerLink {
            to,
            from,
            cpus: cpus.iter().map(|cpu| *cpu as u32).collect(),
            table_bytes: engine.table_bytes() as u64,
            connections_max: engine.connections_max().into(),
            counters: common.counters[index].clone(),
            page: Arc::new(Page::default()),
            slow_page: source.page.clone(),
        };
        let worker = Worker {
            engine,
            rx: own.rx,
            relays: own.relays,
            handed: own.handed,
            out: Outputs {
                ports: own.ports,
                peers: own.peers,
                punt: Out::new(Sink::Ring(punt), PlatformDrop::PuntFull),
                resolve: Out::new(Sink::Ring(resolve), PlatformDrop::ResolveRingFull),
                waiting: Waiting::new(),
                pool: self.pool.clone(),
                freed: dpdk::Burst::new(),
            },
            control,
            replies,
            wanted: wanted_sender,
            page: link.page.clone(),
            clock: common.clock,
            turns: Turns::new(dpdk::tsc_hz(self.eal)),
            idle: Idle::new(self.idle_mode, WORKER_SLEEP_MAX, dpdk::tsc_hz(self.eal)),
            stop: self.stop.clone(),
        };
        Ok((worker, source, link))
    }
}
