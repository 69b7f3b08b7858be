//! The slow path: one thread that carries packets between the workers and the kernel twins, and lets packets wait
//! for MAC addresses.
//!
//! - punted packets: from each worker's ring to the twin of the port that they came from;
//! - injected packets: from each twin to the worker that owns a transmit queue of its port, to be sent as they are;
//! - unresolved packets: kept until the forwarding table knows their next hop, meanwhile the kernel is asked.

mod pending;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use dpdk::{Burst, Mbuf, Mempool, RX_BURST_MAX, RingConsumer, RingProducer, Tap};
use engine::{Fib, PortId, WorkerId};

use crate::counts::{Page, PlatformDrop, TwinPage};
use crate::mirror::Asker;
use crate::worker::{Idle, Out, Sink};
use pending::{Outcome, Pending};

/// How long the kernel is left alone with one question. Asking again while it is resolving is free of consequences,
/// and it may have forgotten a neighbour at any time.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// Next hops whose last question is remembered; beyond it the memory is cleared.
const ASKED_MAX: usize = 4096;

/// Hints that are taken from one worker per turn.
const WANTED_MAX: usize = 64;

/// How often waiting packets are looked at while the forwarding table stays the same.
const SETTLE_INTERVAL: Duration = Duration::from_millis(5);

/// One worker as the slow path sees it.
pub(crate) struct Source {
    /// Packets for the kernel.
    pub(crate) punted: RingConsumer,
    /// Packets without MAC address.
    pub(crate) unresolved: RingConsumer,
    /// Next hops that it would like to know.
    pub(crate) wanted: Receiver<(PortId, IpAddr)>,
    /// Counters, written here.
    pub(crate) page: Arc<Page>,
}

/// One port as the slow path sees it.
pub(crate) struct Side {
    /// The port.
    pub(crate) port: PortId,
    /// The worker that sends for us.
    pub(crate) sender: WorkerId,
    /// Packets to it.
    pub(crate) inject: Out,
    /// The kernel twin, if there is one.
    pub(crate) twin: Option<TwinEnd>,
}

/// Our end of a kernel twin.
pub(crate) struct TwinEnd {
    tap: Tap,
    /// Where the buffers for the kernel's frames come from.
    pool: Mempool,
    /// Counters, written here.
    page: Arc<TwinPage>,
}

impl Side {
    /// The way to the worker that sends for a port.
    pub(crate) fn inject(ring: RingProducer) -> Out {
        Out::new(Sink::Ring(ring), PlatformDrop::InjectFull)
    }
}

impl TwinEnd {
    /// From its parts.
    pub(crate) fn new(tap: Tap, pool: Mempool, page: Arc<TwinPage>) -> TwinEnd {
        TwinEnd { tap, pool, page }
    }

    /// Hands a frame to the kernel; `page` counts it if the kernel does not take it.
    fn punt(&mut self, frame: &Mbuf, page: &Page) {
        if self.tap.send(frame) {
            self.page.punted.add(1);
        } else {
            page.dropped(PlatformDrop::TwinFull).add(1);
        }
    }
}

/// The slow path and all that it owns.
pub(crate) struct SlowPath {
    /// By worker.
    pub(crate) sources: Vec<Source>,
    /// All ports.
    pub(crate) sides: Vec<Side>,
    /// New forwarding tables.
    pub(crate) fibs: Receiver<Arc<Fib>>,
    /// The way to ask the kernel.
    pub(crate) asker: Asker,
    /// Back-off.
    pub(crate) idle: Idle,
    /// Set when all shall end.
    pub(crate) stop: Arc<AtomicBool>,
}

/// What the loop remembers from turn to turn.
struct Memory {
    fib: Arc<Fib>,
    pending: Pending<Mbuf>,
    settled: Instant,
    asked: HashMap<(PortId, IpAddr), Instant>,
    /// Index into `sides`, by port number.
    side_of: Vec<Option<usize>>,
}

impl SlowPath {
    /// Runs until `stop` is set.
    pub(crate) fn run(mut self) {
        self.idle.prepare_thread();
        let ports = self.sides.iter().map(|side| side.port.index() + 1).max().unwrap_or(0);
        let mut side_of = vec![None; ports];
        for (index, side) in self.sides.iter().enumerate() {
            side_of[side.port.index()] = Some(index);
        }
        let mut memory = Memory {
            fib: Arc::new(Fib::empty()),
            pending: Pending::new(),
            settled: Instant::now(),
            asked: HashMap::new(),
            side_of,
        };
        let mut burst = Burst::new();
        while !self.stop.load(Ordering::Relaxed) {
            let mut busy = self.punt(&mut burst, &memory.side_of);
            busy |= self.inject(&mut burst);
            busy |= self.resolve(&mut burst, &mut memory);
            if busy {
                self.idle.busy();
            } else {
                self.idle.empty();
            }
        }
    }

    /// Workers to kernel.
    fn punt(&mut self, burst: &mut Burst, side_of: &[Option<usize>]) -> bool {
        let mut busy = false;
        for source in &mut self.sources {
            if source.punted.pop(burst) == 0 {
                continue;
            }
            busy = true;
            for packet in &*burst {
                let side = side_of.get(usize::from(packet.port())).copied().flatten();
                match side.and_then(|index| self.sides[index].twin.as_mut()) {
                    Some(twin) => twin.punt(packet, &source.page),
                    None => source.page.dropped(PlatformDrop::NoTwin).add(1),
                }
            }
            Mbuf::free_bulk(burst);
        }
        busy
    }

    /// Kernel to workers.
    fn inject(&mut self, burst: &mut Burst) -> bool {
        let mut busy = false;
        for side in &mut self.sides {
            let Some(twin) = &mut side.twin else { continue };
            let received = twin.tap.receive(&twin.pool, burst);
            let page = &self.sources[side.sender.index()].page;
            // The kernel sends longer frames when somebody raises the twin's MTU; ports are not set up for them.
            page.dropped(PlatformDrop::MultiSegment).add(received.too_long as u64);
            if received.frames == 0 {
                continue;
            }
            busy = true;
            side.inject.with_room(RX_BURST_MAX, page).extend(burst.drain(..));
            twin.page.injected.add(side.inject.flush(page) as u64);
        }
        busy
    }

    /// Takes unresolved packets and hints, asks the kernel, and sends on what is resolved by now.
    fn resolve(&mut self, burst: &mut Burst, memory: &mut Memory) -> bool {
        let mut busy = false;
        let mut look = false;
        while let Ok(fib) = self.fibs.try_recv() {
            memory.fib = fib;
            look = true;
        }
        for index in 0..self.sources.len() {
            let id = WorkerId(index as u16);
            if self.sources[index].unresolved.pop(burst) > 0 {
                busy = true;
                let now = Instant::now();
                for packet in burst.drain(..) {
                    match memory.pending.add(packet, id, &memory.fib, now) {
                        Ok(()) => look = true,
                        Err((worker, _dropped)) => {
                            self.sources[worker.index()].page.dropped(PlatformDrop::ResolveOverflow).add(1)
                        }
                    }
                }
            }
            for _ in 0..WANTED_MAX {
                let Ok(next_hop) = self.sources[index].wanted.try_recv() else { break };
                ask(&mut self.asker, &mut memory.asked, next_hop, Instant::now());
            }
        }
        if !memory.pending.is_empty() && (look || memory.settled.elapsed() >= SETTLE_INTERVAL) {
            busy |= self.settle(memory);
        }
        busy
    }

    fn settle(&mut self, memory: &mut Memory) -> bool {
        let now = Instant::now();
        memory.settled = now;
        let (sides, sources, asker) = (&mut self.sides, &self.sources, &mut self.asker);
        let (side_of, asked) = (&memory.side_of, &mut memory.asked);
        let mut busy = false;
        memory.pending.settle(&memory.fib, now, |outcome| match outcome {
            Outcome::Send(port, packet) => {
                busy = true;
                if let Some(side) =
                    side_of.get(port.index()).copied().flatten().map(|index| &mut sides[index])
                {
                    side.inject.put(packet, &sources[side.sender.index()].page);
                }
            }
            Outcome::GiveUp(worker, _packet) => {
                busy = true;
                sources[worker.index()].page.dropped(PlatformDrop::Unresolved).add(1);
            }
            Outcome::Wait(port, next_hop) => ask(asker, asked, (port, next_hop), now),
        });
        for side in sides {
            side.inject.flush(&sources[side.sender.index()].page);
        }
        busy
    }
}

/// Asks the kernel for a next hop, unless it was asked just now.
fn ask(
    asker: &mut Asker,
    asked: &mut HashMap<(PortId, IpAddr), Instant>,
    next_hop: (PortId, IpAddr),
    now: Instant,
) {
    if asked.get(&next_hop).is_some_and(|last| now - *last < ASK_INTERVAL) {
        return;
    }
    if asked.len() >= ASKED_MAX {
        asked.clear();
    }
    asked.insert(next_hop, now);
    asker.ask(next_hop.0, next_hop.1);
}
