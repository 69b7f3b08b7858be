//! The main thread: takes requests and kernel changes one after the other, plans, hands the parts to the workers and
//! drops what they give back.
//!
//! It alone builds and frees what workers read. It waits on its inbox; the workers' replies it polls, because a
//! waiting receiver would cost a worker a system call to wake it.

mod links;
mod pace;
mod pairs;
mod report;
mod routing;
mod threads;
mod translate;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{
    Connection, ConnectionPage, ConnectionQuery, DesiredState, Mode, Protocol, Refusal, Request, Response,
    ServiceKey,
};
use config::counted;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use engine::fib::FibPort;
use engine::{ConnFilter, Counters, Fib, Planner, PortId, Update};

use crate::counts::Page;
use crate::flow_rules::Rules;
use crate::mirror::{Asker, Change};
use crate::ports::OpenPort;
use crate::worker::{Export, FromWorker, ToWorker};
use pace::Pace;
use pairs::PairCounts;
use routing::Routing;
use threads::Threads;

/// What the main thread is told.
pub(crate) enum Inbox {
    /// A client's request; the answer goes into the channel.
    Request(Request, Sender<Response>),
    /// The kernel mirror's news.
    Kernel(Vec<Change>),
    /// A signal to end.
    Stop(i32),
}

/// Messages for the main thread that may wait.
pub(crate) const INBOX_LEN: usize = 256;

/// How often the main thread looks after things when nobody tells it anything.
const TICK: Duration = Duration::from_secs(1);

/// How long a worker may take to answer. It answers between two bursts, so this only guards against a hanging one.
const WORKER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a worker's answer is looked for.
const POLL_INTERVAL: Duration = Duration::from_micros(50);

/// Connections per page at most.
const CONNECTIONS_MAX: u32 = 10_000;

/// Records that a worker looks at for one export message; some tens of microseconds.
const EXPORT_SCAN: u32 = 2048;

/// Next hops that the kernel is asked for at one tick.
const ASK_MAX: usize = 4096;

/// A fault that the dataplane cannot go on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A worker that does not answer, or has ended.
    #[error("worker {0} does not answer (a bug in the dataplane); restart it")]
    Worker(usize),
    /// The slow path has ended.
    #[error("the slow path has ended (a bug in the dataplane); restart it")]
    SlowPath,
    /// The kernel mirror has ended.
    #[error(
        "the thread that follows the kernel's routes and neighbours has ended (a bug in the dataplane); restart it"
    )]
    Mirror,
}

/// A worker as the main thread sees it.
pub(crate) struct WorkerLink {
    /// Messages to it.
    pub(crate) to: Sender<ToWorker>,
    /// Its replies.
    pub(crate) from: Receiver<FromWorker>,
    /// CPUs that it may run on.
    pub(crate) cpus: Vec<u32>,
    /// Bytes of its table.
    pub(crate) table_bytes: u64,
    /// Connections that fit.
    pub(crate) connections_max: u64,
    /// The engine's counters.
    pub(crate) counters: Arc<Counters>,
    /// The platform's counters, written by the worker.
    pub(crate) page: Arc<Page>,
    /// The same, written by the slow path.
    pub(crate) slow_page: Arc<Page>,
}

/// What the start found out and status pages tell.
pub(crate) struct Facts {
    pub(crate) dpdk_version: String,
    pub(crate) started: Instant,
    pub(crate) warnings: Vec<String>,
    pub(crate) steering: &'static str,
    pub(crate) steering_note: String,
    pub(crate) idle: &'static str,
}

/// The main thread's state.
pub(crate) struct Core {
    workers: Vec<WorkerLink>,
    ports: Vec<OpenPort>,
    port_ids: HashMap<String, PortId>,
    planner: Planner,
    rules: Rules,
    pair_counts: PairCounts,
    routing: Routing,
    slow_path: Sender<Arc<Fib>>,
    asker: Asker,
    facts: Facts,
    services_max: u64,
    reals_max: u64,
    /// The state in force.
    desired: DesiredState,
    threads: Threads,
}

/// What [`Core`] is made of.
pub(crate) struct Parts {
    pub(crate) workers: Vec<WorkerLink>,
    pub(crate) ports: Vec<OpenPort>,
    pub(crate) planner: Planner,
    pub(crate) rules: Rules,
    pub(crate) slow_path: Sender<Arc<Fib>>,
    pub(crate) asker: Asker,
    pub(crate) facts: Facts,
    /// Services that the configuration allows.
    pub(crate) services_max: u64,
    /// Real servers that the configuration allows.
    pub(crate) reals_max: u64,
    /// Whether a worker, or behind them the slow path, is still running.
    pub(crate) is_running: Box<dyn Fn(usize) -> bool>,
}

impl Core {
    /// From its parts, and the mirror's thread.
    pub(crate) fn new(parts: Parts, mirror: JoinHandle<()>) -> Core {
        let threads = Threads { workers: parts.workers.len(), is_running: parts.is_running, mirror };
        let fib_ports =
            parts.ports.iter().map(|port| (port.id, FibPort { mac: port.mac, mtu: port.mtu })).collect();
        Core {
            port_ids: parts.ports.iter().map(|port| (port.config.name.clone(), port.id)).collect(),
            workers: parts.workers,
            ports: parts.ports,
            planner: parts.planner,
            rules: parts.rules,
            pair_counts: PairCounts::default(),
            routing: Routing::new(fib_ports),
            slow_path: parts.slow_path,
            asker: parts.asker,
            facts: parts.facts,
            services_max: parts.services_max,
            reals_max: parts.reals_max,
            desired: DesiredState::default(),
            threads,
        }
    }

    /// Serves until a stop comes; returns the signal.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn run(&mut self, inbox: &Receiver<Inbox>) -> Result<i32, Fault> {
        self.hand_over_fib()?;
        let mut next_tick = Instant::now() + TICK;
        let mut pace = Pace::new(Instant::now());
        let mut put_back = None;
        loop {
            let until = pace.wait_until(next_tick);
            let message = put_back.take().map_or_else(|| inbox.recv_deadline(until), Ok);
            match message {
                Ok(Inbox::Stop(signal)) => return Ok(signal),
                Ok(Inbox::Kernel(changes)) => {
                    let differs;
                    (differs, put_back) = self.follow_kernel(&changes, inbox);
                    if differs {
                        pace.changed(Instant::now(), self.routing.is_quick_to_build());
                    }
                }
                Ok(Inbox::Request(request, reply)) => {
                    let response = self.answer(request)?;
                    // A client that has gone away needs no answer.
                    let _ = reply.send(response);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
            let now = Instant::now();
            if pace.is_due(now) {
                let took = self.hand_over_fib()?;
                pace.made(Instant::now(), took);
            }
            if now >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick()?;
            }
        }
    }

    /// Takes the kernel's news and all further news that wait, so that many changes make one table. Returns whether
    /// the table differs, and the first message that was something else.
    fn follow_kernel(&mut self, changes: &[Change], inbox: &Receiver<Inbox>) -> (bool, Option<Inbox>) {
        let mut differs = self.take_changes(changes);
        for _ in 0..INBOX_LEN {
            match inbox.try_recv() {
                Ok(Inbox::Kernel(changes)) => differs |= self.take_changes(&changes),
                Ok(other) => return (differs, Some(other)),
                Err(_) => break,
            }
        }
        (differs, None)
    }

    /// Whether the forwarding table differs now.
    fn take_changes(&mut self, changes: &[Change]) -> bool {
        self.follow_macs(changes);
        self.routing.kernel_changed(changes)
    }

    /// Waits for the mirror, which ends with everything else.
    pub(crate) fn end(self) {
        // Whether it panicked on the way out changes nothing any more.
        let _ = self.threads.mirror.join();
    }

    fn tick(&mut self) -> Result<(), Fault> {
        self.threads.check()?;
        self.pass_links();
        self.ask_for_neighbours();
        Ok(())
    }

    /// Has the kernel resolve what connections will need before they need it.
    fn ask_for_neighbours(&mut self) {
        let reals = self.desired.services.iter().flat_map(|service| &service.real_servers);
        let reals: std::collections::HashSet<IpAddr> = reals.map(|real| real.real.ip()).collect();
        for (port, address) in self.routing.unresolved(reals.into_iter()).into_iter().take(ASK_MAX) {
            self.asker.ask(port, address);
        }
    }

    fn answer(&mut self, request: Request) -> Result<Response, Fault> {
        Ok(match request {
            Request::Apply(state) => match self.apply(*state)? {
                Ok(generation) => Response::Applied { generation },
                Err(refusal) => Response::Refused(refusal),
            },
            Request::GetStatus => Response::Status(Box::new(self.status())),
            Request::GetStats => Response::Stats(Box::new(self.stats())),
            Request::GetConnections(query) => Response::Connections(self.connections(&query)?),
        })
    }

    fn apply(&mut self, state: DesiredState) -> Result<Result<u64, Refusal>, Fault> {
        let planned = translate::check_limits(&state, self.services_max, self.reals_max)
            .and_then(|()| translate::statics(&state, &self.port_ids))
            .and_then(|statics| Ok((statics, translate::spec(&state)?)))
            .and_then(|(statics, spec)| Ok((statics, self.planner.plan(&spec).map_err(translate::refusal)?)));
        // A refused plan frees slots as well.
        let exhausted = |id| self.workers.iter().map(|worker| worker.counters.pair(id).exhausted.get()).sum();
        self.pair_counts.follow(self.planner.pairs(), exhausted);
        let (statics, mut updates) = match planned {
            Ok(planned) => planned,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.routing.set_statics(statics) {
            let fib = self.routing.build();
            updates.iter_mut().for_each(|update| update.fib = Some(fib.clone()));
            // The slow path is slower to take a table than this thread to make one only when it hangs.
            let _ = self.slow_path.send_timeout(fib, WORKER_TIMEOUT);
        }
        // Before the workers take local addresses, so that already the first replies are brought to them.
        self.rules.follow(&self.ports, &self.planner.dealt_locals());
        self.hand_over(updates)?;
        let generation = state.generation;
        let services = counted(state.services.len(), "service");
        tracing::info!("generation {generation} with {services} is in force");
        self.desired = state;
        self.ask_for_neighbours();
        Ok(Ok(generation))
    }

    /// Returns how long it took to make the table.
    fn hand_over_fib(&mut self) -> Result<Duration, Fault> {
        let began = Instant::now();
        let fib = self.routing.build();
        let took = began.elapsed();
        let updates = self.workers.iter().map(|_| Update::of_fib(fib.clone())).collect();
        let _ = self.slow_path.send_timeout(fib, WORKER_TIMEOUT);
        self.hand_over(updates)?;
        Ok(took)
    }

    /// Gives each worker its update, waits until all have given the old parts back, and drops those.
    fn hand_over(&mut self, updates: Vec<Update>) -> Result<(), Fault> {
        for (index, update) in updates.into_iter().enumerate() {
            self.send(index, ToWorker::Apply(update))?;
        }
        for index in 0..self.workers.len() {
            let FromWorker::Applied(replaced) = self.receive(index)? else {
                return Err(Fault::Worker(index));
            };
            drop(replaced);
        }
        Ok(())
    }

    fn send(&self, worker: usize, message: ToWorker) -> Result<(), Fault> {
        self.workers[worker].to.try_send(message).map_err(|_| Fault::Worker(worker))
    }

    fn receive(&self, worker: usize) -> Result<FromWorker, Fault> {
        let deadline = Instant::now() + WORKER_TIMEOUT;
        loop {
            if let Ok(reply) = self.workers[worker].from.try_recv() {
                return Ok(reply);
            }
            if Instant::now() >= deadline {
                return Err(Fault::Worker(worker));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// One page: worker by worker. The cursor's upper half is the worker, the lower half the place in its table.
    fn connections(&mut self, query: &ConnectionQuery) -> Result<ConnectionPage, Fault> {
        let limit =
            if query.limit == 0 { CONNECTIONS_MAX } else { query.limit.min(CONNECTIONS_MAX) } as usize;
        let filter = ConnFilter {
            service: query.service.map(|key| (key.protocol.number(), key.virtual_)),
            client: query.client,
            real: query.real,
        };
        let mut worker = (query.cursor >> 32) as usize;
        let mut cursor = query.cursor as u32;
        let mut page = ConnectionPage::default();
        while worker < self.workers.len() {
            let found = Vec::with_capacity(limit - page.connections.len());
            let export = Export { filter: filter.clone(), cursor: Some(cursor), scan: EXPORT_SCAN, found };
            self.send(worker, ToWorker::Export(Box::new(export)))?;
            let FromWorker::Exported(export) = self.receive(worker)? else {
                return Err(Fault::Worker(worker));
            };
            page.connections.extend(export.found.iter().map(|found| connection(found, worker)));
            match export.cursor {
                Some(next) => cursor = next,
                None => (worker, cursor) = (worker + 1, 0),
            }
            if page.connections.len() >= limit {
                page.next =
                    (worker < self.workers.len()).then_some((worker as u64) << 32 | u64::from(cursor));
                return Ok(page);
            }
        }
        Ok(page)
    }
}

fn connection(found: &engine::ConnInfo, worker: usize) -> Connection {
    let protocol = |number| if number == Protocol::Udp.number() { Protocol::Udp } else { Protocol::Tcp };
    let (of_service, virtual_) = found.service.unwrap_or((found.protocol, found.virtual_));
    let mode = translate::mode_of(found);
    Connection {
        key: ServiceKey { protocol: protocol(of_service), virtual_ },
        protocol: protocol(found.protocol),
        client: found.client,
        virtual_: found.virtual_,
        local: (mode == Mode::FullNat).then_some(found.local),
        real: found.real,
        mode,
        state: found.state.name().to_owned(),
        expires_s: found.expires_in.0 / engine::time::TICKS_PER_SECOND,
        worker: worker as u16,
    }
}
