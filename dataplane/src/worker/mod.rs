//! A worker: one lcore that runs everything to completion, from its receive queues to the transmit queues.
//!
//! Invariants: once [`Worker::run`] has started it allocates nothing, frees nothing but packets, takes no lock, logs
//! nothing and makes no system call but the sleep of [`Idle`]. What it needs from others comes over rings and bounded
//! channels that it only ever polls; what it gives to others goes the same way, and a full ring or channel costs the
//! packet (counted) or the hint, never time.

mod clock;
mod cut;
mod out;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use dpdk::{Arrived, BURST_LEN_MAX, Burst, Mbuf, RX_BURST_MAX, RingConsumer, RxQueue};
use engine::{ConnFilter, ConnInfo, PortId, Ticks, Update, Verdict, WAIT_SLOTS};

pub(crate) use clock::{Clock, Idle, IdleMode, Turns};
pub(crate) use out::{Out, Outputs, Sink, Waiting};

use crate::counts::{Page, PlatformDrop};
use crate::vlan::Vlan;

/// What the main thread asks of a worker.
pub(crate) enum ToWorker {
    /// Take these parts; answered by [`FromWorker::Applied`].
    Apply(Update),
    /// List connections; answered by [`FromWorker::Exported`].
    Export(Box<Export>),
}

/// What a worker gives back.
pub(crate) enum FromWorker {
    /// The parts that were replaced, to be dropped.
    Applied(Update),
    /// The answer.
    Exported(Box<Export>),
}

/// A question for connections, with room for the answer.
pub(crate) struct Export {
    /// Which ones.
    pub(crate) filter: ConnFilter,
    /// Where to start; afterwards where to go on, `None` at the end.
    pub(crate) cursor: Option<u32>,
    /// Records to look at, at most.
    pub(crate) scan: u32,
    /// Filled up to its capacity.
    pub(crate) found: Vec<ConnInfo>,
}

/// Packets that somebody else prepared and that only have to leave through a port of ours.
pub(crate) struct Relay {
    /// Where they come from.
    pub(crate) ring: RingConsumer,
    /// The port.
    pub(crate) port: PortId,
}

/// A receive queue.
pub(crate) struct Inlet {
    /// The queue.
    pub(crate) queue: RxQueue,
    /// The VLAN whose tag its frames bear.
    pub(crate) vlan: Option<Vlan>,
}

/// How many turns pass between two looks at the control channel. A look costs about as much as one packet; 64 turns
/// are some tens of microseconds under load.
const CONTROL_INTERVAL: u32 = 64;

/// A worker and all that it owns.
pub(crate) struct Worker {
    /// The gateway.
    pub(crate) engine: engine::Worker,
    /// Its receive queues.
    pub(crate) rx: Vec<Inlet>,
    /// Packets ready to be sent.
    pub(crate) relays: Vec<Relay>,
    /// Packets of connections that it owns, from the other workers.
    pub(crate) handed: Vec<RingConsumer>,
    /// Ways out.
    pub(crate) out: Outputs,
    /// From the main thread.
    pub(crate) control: Receiver<ToWorker>,
    /// To the main thread, which polls it: a waiting receiver would have to be woken by a system call.
    pub(crate) replies: Sender<FromWorker>,
    /// To the slow path, which polls it.
    pub(crate) wanted: Sender<(PortId, IpAddr)>,
    /// Its counters.
    pub(crate) page: Arc<Page>,
    /// Time.
    pub(crate) clock: Clock,
    /// How long its turns take, and what time they have for upkeep.
    pub(crate) turns: Turns,
    /// Back-off.
    pub(crate) idle: Idle,
    /// Set when all shall end.
    pub(crate) stop: Arc<AtomicBool>,
}

/// What a turn found to do.
struct Found {
    /// Packets.
    packets: bool,
    /// Connections that may have to end: each turn ends some, and there may be more.
    upkeep: bool,
}

impl dpdk::cpu::Job for Worker {
    /// Runs until `stop` is set.
    #[inline(always)]
    fn run(mut self) {
        self.idle.prepare_thread();
        let mut burst = Burst::new();
        let mut verdicts = [Verdict::NONE; BURST_LEN_MAX];
        let mut turns = 0u32;
        self.turns.begin(dpdk::tsc());
        while !self.stop.load(Ordering::Relaxed) {
            let tsc = dpdk::tsc();
            self.turns.next(tsc, &self.page);
            let now = self.clock.at(tsc);
            let found = self.turn(now, &mut burst, &mut verdicts);
            turns = turns.wrapping_add(1);
            self.page.turns.add(1);
            if found.packets {
                self.page.busy_turns.add(1);
                self.idle.busy();
            }
            if !found.packets || turns.is_multiple_of(CONTROL_INTERVAL) {
                self.look_at_control(now);
            }
            if !found.packets && !found.upkeep && self.idle.empty() {
                self.turns.begin(dpdk::tsc());
            }
        }
    }
}

impl Worker {
    /// One turn of the loop.
    #[inline(always)]
    fn turn(&mut self, now: Ticks, burst: &mut Burst, verdicts: &mut [Verdict; BURST_LEN_MAX]) -> Found {
        let mut busy = self.relay();
        for ring in &mut self.handed {
            if ring.pop(burst) > 0 {
                busy = true;
                self.engine.process_handed_over(now, burst, verdicts);
                self.out.dispatch(burst, verdicts, &self.page);
                release(&mut self.engine, &mut self.out, &self.page, (now, burst, verdicts));
            }
        }
        let last = self.rx.len().wrapping_sub(1);
        for (index, inlet) in self.rx.iter_mut().enumerate() {
            let Arrived { packets, segmented } = inlet.queue.receive(burst);
            if packets > 0 {
                busy = true;
                self.page.rx_packets.add(packets as u64);
                let first = burst.len() - packets;
                if segmented {
                    drop_multi_segment(burst, &mut self.out, &self.page);
                }
                if let Some(vlan) = inlet.vlan {
                    take_tags_off(vlan, burst, first, &self.page);
                }
            }
            // Queues with few packets share a burst, so that the engine's prefetching has something to overlap.
            let full = burst.remaining_capacity() < RX_BURST_MAX;
            if full || index == last && !burst.is_empty() {
                self.engine.process(now, burst, verdicts);
                self.out.dispatch(burst, verdicts, &self.page);
                release(&mut self.engine, &mut self.out, &self.page, (now, burst, verdicts));
            }
        }
        self.out.flush(&self.page);
        let upkeep = self.engine.housekeep_after::<Mbuf>(now, || self.turns.is_upkeep_time_left()) > 0;
        self.turns.end_upkeep();
        release(&mut self.engine, &mut self.out, &self.page, (now, burst, verdicts));
        self.send_resets(burst, verdicts);
        if busy {
            for wanted in self.engine.take_wanted() {
                // A full channel loses a hint, which the next packet gives again.
                let _ = self.wanted.try_send(wanted);
            }
        }
        Found { packets: busy, upkeep }
    }

    /// Sends the RSTs of connections that ended; they leave with the next turn. Without buffers they wait.
    #[inline]
    fn send_resets(&mut self, burst: &mut Burst, verdicts: &mut [Verdict; BURST_LEN_MAX]) {
        let waiting = self.engine.resets_waiting();
        if waiting == 0 || self.out.pool.alloc_burst(burst, waiting) == 0 {
            return;
        }
        let mut written = 0;
        for (packet, verdict) in burst.iter_mut().zip(verdicts.iter_mut()) {
            let Some(reset) = self.engine.write_reset(packet) else { break };
            *verdict = reset;
            written += 1;
        }
        for unused in burst.drain(written..) {
            self.out.free(unused);
        }
        self.out.dispatch(burst, verdicts, &self.page);
    }

    /// Moves prepared packets to their ports.
    fn relay(&mut self) -> bool {
        let mut busy = false;
        for relay in &mut self.relays {
            // Start-up gives a worker only relays for ports that it has a queue on.
            if let Some(Some(out)) = self.out.ports.get_mut(relay.port.index()) {
                let burst = out.with_room(RX_BURST_MAX, &self.page);
                busy |= relay.ring.pop(burst) > 0;
            }
        }
        busy
    }

    /// Carries out one message of the main thread, if there is one.
    #[inline(never)]
    fn look_at_control(&mut self, now: Ticks) {
        let reply = match self.control.try_recv() {
            Ok(ToWorker::Apply(mut update)) => {
                self.engine.apply(&mut update);
                FromWorker::Applied(update)
            }
            Ok(ToWorker::Export(mut export)) => {
                let cursor = export.cursor.unwrap_or(0);
                export.cursor =
                    self.engine.export(now, &export.filter, cursor, export.scan, &mut export.found);
                FromWorker::Exported(export)
            }
            Err(_) => return,
        };
        // The main thread never has more messages under way than the channel holds.
        if let Err(lost) = self.replies.try_send(reply) {
            // Dropping it here would free memory on a worker; the process is ending, or this is a bug of ours.
            std::mem::forget(lost);
        }
    }
}

/// Goes on with fragments that need not wait any longer, and empties the slots of those that waited in vain: after each
/// burst, so that the next one has slots.
#[inline(never)]
fn release(
    engine: &mut engine::Worker,
    out: &mut Outputs,
    page: &Page,
    (now, burst, verdicts): (Ticks, &mut Burst, &mut [Verdict; BURST_LEN_MAX]),
) {
    for _ in 0..WAIT_SLOTS {
        let Some(released) = engine.take_released() else { break };
        out.release(released, burst);
        engine.process(now, burst, verdicts);
        out.dispatch(burst, verdicts, page);
    }
}

/// Of the packets from `first` on, frees those of other networks.
fn take_tags_off(vlan: Vlan, burst: &mut Burst, first: usize, page: &Page) {
    let mut index = 0;
    burst.retain(|packet| {
        let ours = index < first || vlan.receive(packet);
        index += 1;
        if !ours {
            page.dropped(PlatformDrop::Untagged).add(1);
        }
        ours
    });
}

/// Frees packets that came in several buffers: the engine sees only the first.
#[cold]
fn drop_multi_segment(burst: &mut Burst, out: &mut Outputs, page: &Page) {
    let mut kept = Burst::new();
    for packet in burst.drain(..) {
        if packet.segment_count() > 1 {
            page.dropped(PlatformDrop::MultiSegment).add(1);
            out.free(packet);
        } else {
            kept.push(packet);
        }
    }
    std::mem::swap(burst, &mut kept);
}

#[cfg(test)]
mod tests;
