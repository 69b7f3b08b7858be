//! From the configuration to running threads, in the order that lets every fault be told before traffic flows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::{Config, HugePages};
use crossbeam_channel::{Receiver, Sender, bounded};
use dpdk::{Eal, EalConfig, Lcore, LcoreExit, Mempool, RingConsumer, RingProducer, ring};
use engine::{Counters, Fib, Limits, Planner, PortId, Ticks, WorkerConfig, WorkerId};

use crate::counts::{Page, PlatformDrop};
use crate::cpus::{self, Layout};
use crate::mirror::{self, Asker, Twin};
use crate::ports::{self, Deal, Found, OpenPort, PortQueues};
use crate::slow_path::{Side, SlowPath, Source};
use crate::state::{Core, Facts, Inbox, Parts, WorkerLink};
use crate::worker::{Clock, Idle, IdleMode, Out, Outputs, Relay, Sink, Worker};
use crate::{memory, worker};

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
    /// No random numbers.
    #[error("the system has no random numbers to give: {0}")]
    Random(getrandom::Error),
    /// The CPUs cannot be asked for.
    #[error("cannot find out which CPUs this process may use: {0}")]
    Affinity(nix::errno::Errno),
}

/// Packets that a ring between two workers holds. At 1 Mpps this is 1 ms, longer than a worker's longest turn.
const HANDOVER_RING_LEN: u32 = 1024;
/// Packets on their way to a worker that only sends them.
const TX_RING_LEN: u32 = 1024;
/// Packets on their way to the kernel, per worker.
const PUNT_RING_LEN: u32 = 1024;
/// Packets on their way to wait for a MAC address, per worker.
const RESOLVE_RING_LEN: u32 = 256;
/// Packets on their way from the kernel, per port.
const INJECT_RING_LEN: u32 = 1024;
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
const PAIRS_PER_REAL: usize = 4;

/// The running threads.
pub(crate) struct Running {
    eal: Arc<Eal>,
    stop: Arc<AtomicBool>,
    lcores: Vec<u16>,
    mirror: std::thread::JoinHandle<()>,
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
        let _ = self.mirror.join();
        drop(self.core);
    }
}

/// Starts everything but the API.
///
/// # Errors
/// [`Error`]: one sentence that says what to do.
pub(crate) fn start(config: &Config, inbox: Sender<Inbox>, stop: Arc<AtomicBool>) -> Result<Running, Error> {
    let layout = cpus::lay_out(config.dataplane.workers, &config.dataplane.cpus, &allowed_cpus()?);
    let idle_mode = cpus::idle_mode(config.dataplane.idle, &layout);
    let eal = Arc::new(Eal::init(&eal_config(config, &layout))?);
    let mut warnings = eal.warnings().to_vec();
    warnings.extend(steering_warning(config));

    let found = (0..config.ports.len())
        .map(|number| ports::find(&eal, config, number))
        .collect::<Result<Vec<_>, _>>()?;
    let deals =
        ports::deal(config.dataplane.workers, &found.iter().map(|found| found.queues).collect::<Vec<_>>());
    let mempool = mempool(&eal, config, &found)?;
    let (mut open, mut queues) = (Vec::new(), Vec::new());
    for (number, found) in found.into_iter().enumerate() {
        let (port, of_port, complaints) = ports::open(&eal, &mempool, found, &config.ports[number], number)?;
        tracing::info!(
            "port {} is {} ({}, {}), {} receive and {} transmit queues",
            port.config.name,
            port.device,
            port.dpdk.info().driver,
            port.mac,
            port.rx_queues,
            port.tx_queues
        );
        warnings.extend(complaints);
        open.push(port);
        queues.push(of_port);
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let plan = Plan { eal: &eal, config, deals: &deals, idle_mode, stop: &stop };
    plan.launch(open, queues, layout, inbox, warnings)
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

fn steering_warning(config: &Config) -> Option<String> {
    (config.dataplane.steering == config::Steering::Rss && config.dataplane.workers > 1)
        .then(|| "steering = \"rss\" is not built yet: workers hand packets over in software".to_owned())
}

fn mempool(eal: &Eal, config: &Config, found: &[Found]) -> Result<Mempool, Error> {
    let rings = memory::Rings {
        per_worker_pair: HANDOVER_RING_LEN,
        per_worker: PUNT_RING_LEN + RESOLVE_RING_LEN,
        per_port: INJECT_RING_LEN + TX_RING_LEN,
    };
    let ports: Vec<_> = config.ports.iter().zip(found).map(|(port, found)| (port, found.queues)).collect();
    let mbufs = match config.dataplane.mbufs {
        0 => memory::mbufs(config.dataplane.workers, &ports, &rings),
        given => given,
    };
    let mtu = config.ports.iter().filter_map(|port| port.mtu).max();
    let numa = found.iter().find_map(|found| found.info.numa_node);
    Ok(Mempool::new(eal, "tollgate", mbufs, memory::CACHE_LEN, memory::data_room(mtu), numa)?)
}

/// What the launch refers to all the time.
struct Plan<'a> {
    eal: &'a Arc<Eal>,
    config: &'a Config,
    deals: &'a [Deal],
    idle_mode: IdleMode,
    stop: &'a Arc<AtomicBool>,
}

/// A worker's ends of the channels, and what goes to the slow path and the main thread.
struct Ends {
    source: Source,
    link: LinkEnds,
    page: Arc<Page>,
}

struct LinkEnds {
    to: Sender<worker::ToWorker>,
    from: Receiver<worker::FromWorker>,
}

impl Plan<'_> {
    fn launch(
        &self,
        open: Vec<OpenPort>,
        mut queues: Vec<PortQueues>,
        layout: Layout,
        inbox: Sender<Inbox>,
        warnings: Vec<String>,
    ) -> Result<Running, Error> {
        let count = usize::from(self.config.dataplane.workers);
        let limits = self.limits();
        let counters: Vec<Arc<Counters>> = (0..count)
            .map(|_| Arc::new(Counters::new(limits.services_max, limits.reals_max, limits.pairs_max)))
            .collect();
        let twins: Vec<Twin> = open.iter().filter_map(|port| port.twin.clone()).collect();
        let mut wiring = Wiring::new(self, &open, &mut queues)?;
        let clock = Clock::new(dpdk::tsc(), dpdk::tsc_hz(self.eal));
        let secret = self.secret()?;
        let mut links = Vec::new();
        let mut sources = Vec::new();
        let mut workers = Vec::new();
        for index in 0..count {
            let engine = engine::Worker::new(
                &WorkerConfig {
                    id: WorkerId(index as u16),
                    workers: self.config.dataplane.workers,
                    connections_max: self.config.dataplane.connections_max.div_ceil(count as u32),
                    limits,
                    secret,
                    punt_per_second: self.config.dataplane.punt_rate_limit,
                    now: Ticks(0),
                },
                counters[index].clone(),
                counters.clone(),
            );
            let link = (engine.table_bytes() as u64, u64::from(engine.connections_max()));
            let (worker, ends) = self.worker(index, engine, clock, &mut wiring)?;
            links.push(WorkerLink {
                to: ends.link.to,
                from: ends.link.from,
                cpus: layout.workers[index].iter().map(|cpu| *cpu as u32).collect(),
                table_bytes: link.0,
                connections_max: link.1,
                counters: counters[index].clone(),
                page: ends.page,
                slow_page: ends.source.page.clone(),
            });
            sources.push(ends.source);
            workers.push(worker);
        }
        let (fib_sender, fibs) = bounded::<Arc<Fib>>(FIBS_LEN);
        let slow_path = SlowPath {
            sources,
            sides: wiring.sides(&open, &mut queues),
            fibs,
            asker: Asker::new(&twins)?,
            idle: Idle::new(IdleMode::Adaptive, SLOW_PATH_SLEEP_MAX),
            stop: self.stop.clone(),
        };
        let asker = Asker::new(&twins)?;
        let mirror = mirror::spawn(twins, inbox, self.stop.clone())?;
        let mut lcores = Vec::new();
        for (index, worker) in workers.into_iter().enumerate() {
            self.eal.launch(worker_lcore(index), move || worker.run())?;
            lcores.push(worker_lcore(index));
        }
        self.eal.launch(worker_lcore(count), move || slow_path.run())?;
        lcores.push(worker_lcore(count));
        let (eal, watched) = (self.eal.clone(), lcores.clone());
        let core = Core::new(Parts {
            workers: links,
            ports: open,
            planner: Planner::new(limits, counters),
            slow_path: fib_sender,
            asker,
            facts: self.facts(warnings),
            is_running: Box::new(move |worker| {
                watched.get(worker).is_some_and(|lcore| eal.is_running(*lcore))
            }),
        });
        Ok(Running { eal: self.eal.clone(), stop: self.stop.clone(), lcores, mirror, core })
    }

    fn facts(&self, warnings: Vec<String>) -> Facts {
        Facts {
            dpdk_version: dpdk::version(),
            started: Instant::now(),
            warnings,
            steering: if self.config.dataplane.workers == 1 { "single" } else { "software" },
            idle: match self.idle_mode {
                IdleMode::Poll => "poll",
                IdleMode::Adaptive => "adaptive",
            },
        }
    }

    fn limits(&self) -> Limits {
        let reals_max = self.config.dataplane.real_servers_max as usize;
        Limits {
            services_max: self.config.dataplane.services_max as usize,
            reals_max,
            pairs_max: reals_max * PAIRS_PER_REAL,
        }
    }

    fn secret(&self) -> Result<[u64; 2], Error> {
        match self.config.dataplane.seed {
            // Both halves differ from each other and from zero for any seed.
            Some(seed) => Ok([seed ^ 0x9e37_79b9_7f4a_7c15, seed.rotate_left(32) ^ 0xd1b5_4a32_d192_ed03]),
            None => Ok([getrandom::u64().map_err(Error::Random)?, getrandom::u64().map_err(Error::Random)?]),
        }
    }

    /// One worker with all its ends.
    fn worker(
        &self,
        index: usize,
        engine: engine::Worker,
        clock: Clock,
        wiring: &mut Wiring,
    ) -> Result<(Worker, Ends), Error> {
        let (punt, punted) = ring(self.eal, &format!("punt{index}"), PUNT_RING_LEN, None)?;
        let (resolve, unresolved) = ring(self.eal, &format!("resolve{index}"), RESOLVE_RING_LEN, None)?;
        let (to, control) = bounded(CONTROL_LEN);
        let (replies, from) = bounded(CONTROL_LEN);
        let (wanted_sender, wanted) = bounded::<(PortId, IpAddr)>(WANTED_LEN);
        let page = Arc::new(Page::default());
        let own = wiring.take(index);
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
                freed: dpdk::Burst::new(),
            },
            control,
            replies,
            wanted: wanted_sender,
            page: page.clone(),
            clock,
            idle: Idle::new(self.idle_mode, WORKER_SLEEP_MAX),
            stop: self.stop.clone(),
        };
        let source = Source { punted, unresolved, wanted, page: Arc::new(Page::default()) };
        Ok((worker, Ends { source, link: LinkEnds { to, from }, page }))
    }
}

/// A worker's queues and rings.
#[derive(Default)]
struct Own {
    rx: Vec<dpdk::RxQueue>,
    relays: Vec<Relay>,
    handed: Vec<RingConsumer>,
    ports: Vec<Option<Out>>,
    peers: Vec<Option<Out>>,
}

/// All queues and rings, on their way to their owners.
struct Wiring {
    workers: Vec<Own>,
    /// From the slow path, by port number.
    inject: HashMap<PortId, (WorkerId, RingProducer)>,
}

impl Wiring {
    fn new(plan: &Plan<'_>, open: &[OpenPort], queues: &mut [PortQueues]) -> Result<Wiring, Error> {
        let count = usize::from(plan.config.dataplane.workers);
        let ports = open.iter().map(|port| port.id.index() + 1).max().unwrap_or(0);
        let mut workers: Vec<Own> = (0..count)
            .map(|_| Own {
                ports: (0..ports).map(|_| None).collect(),
                peers: (0..count).map(|_| None).collect(),
                ..Own::default()
            })
            .collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (producer, consumer) =
                    ring(plan.eal, &format!("hand{from}-{to}"), HANDOVER_RING_LEN, None)?;
                workers[from].peers[to] = Some(Out::new(Sink::Ring(producer), PlatformDrop::HandoverFull));
                workers[to].handed.push(consumer);
            }
        }
        let mut inject = HashMap::new();
        for ((port, of_port), deal) in open.iter().zip(queues).zip(plan.deals) {
            for (queue, worker) in of_port.rx.drain(..).zip(&deal.rx) {
                workers[usize::from(*worker)].rx.push(queue);
            }
            for (queue, worker) in of_port.tx.drain(..).zip(&deal.tx) {
                let out = Out::new(Sink::Queue(queue), PlatformDrop::TxFull);
                workers[usize::from(*worker)].ports[port.id.index()] = Some(out);
            }
            for (worker, sender) in deal.sender.iter().enumerate() {
                if worker == usize::from(*sender) {
                    continue;
                }
                let (producer, ring) = ring(plan.eal, &format!("tx{}-{worker}", port.id), TX_RING_LEN, None)?;
                workers[worker].ports[port.id.index()] =
                    Some(Out::new(Sink::Ring(producer), PlatformDrop::TxRingFull));
                workers[usize::from(*sender)].relays.push(Relay { ring, port: port.id });
            }
            let (producer, ring) = ring(plan.eal, &format!("inject{}", port.id), INJECT_RING_LEN, None)?;
            let sender = deal.sender.first().copied().unwrap_or(0);
            workers[usize::from(sender)].relays.push(Relay { ring, port: port.id });
            inject.insert(port.id, (WorkerId(sender), producer));
        }
        Ok(Wiring { workers, inject })
    }

    fn take(&mut self, worker: usize) -> Own {
        std::mem::take(&mut self.workers[worker])
    }

    fn sides(&mut self, open: &[OpenPort], queues: &mut [PortQueues]) -> Vec<Side> {
        open.iter()
            .zip(queues)
            .filter_map(|(port, of_port)| {
                let (sender, ring) = self.inject.remove(&port.id)?;
                Some(Side { port: port.id, sender, inject: Side::inject(ring), twin: of_port.twin.take() })
            })
            .collect()
    }
}
