//! Queues and rings on their way to the threads that own them.

use std::collections::HashMap;

use dpdk::{Eal, RingConsumer, RingProducer, ring};
use engine::{PortId, WorkerId};

use crate::counts::PlatformDrop;
use crate::ports::{Deal, OpenPort, PortQueues};
use crate::slow_path::Side;
use crate::worker::{Inlet, Out, Relay, Sink};

/// Packets that all rings towards one worker hold together, about.
const TO_WORKER_LEN: u32 = 8192;
/// Longest ring between two workers. At 1 Mpps it is 4 ms: workers that share CPUs with others are not scheduled for
/// as long, and with 1024 such pauses lost packets.
const TO_WORKER_RING_LEN_MAX: u32 = 4096;

/// Packets that a ring from one worker to another holds, to be processed or only to be sent. The more workers, the
/// shorter, so that the packet buffers for all rings grow with the workers and not with their square.
pub(crate) fn worker_ring_len(workers: u16) -> u32 {
    (TO_WORKER_LEN / u32::from(workers.max(1))).next_power_of_two().clamp(64, TO_WORKER_RING_LEN_MAX)
}

/// Packets on their way from the kernel, per port.
pub(crate) const INJECT_RING_LEN: u32 = 1024;

/// A worker's queues and rings.
#[derive(Default)]
pub(crate) struct Own {
    /// Receive queues.
    pub(crate) rx: Vec<Inlet>,
    /// Packets that it only sends.
    pub(crate) relays: Vec<Relay>,
    /// Packets that other workers hand over.
    pub(crate) handed: Vec<RingConsumer>,
    /// By port: the way out.
    pub(crate) ports: Vec<Option<Out>>,
    /// By worker: the way to it.
    pub(crate) peers: Vec<Option<Out>>,
}

/// All queues and rings, on their way to their owners.
pub(crate) struct Wiring {
    workers: Vec<Own>,
    /// From the slow path, by port number.
    inject: HashMap<PortId, (WorkerId, RingProducer)>,
}

impl Wiring {
    /// Gives the queues to `count` workers as dealt, and joins workers and slow path by rings.
    ///
    /// # Errors
    /// When DPDK's memory does not suffice for the rings.
    pub(crate) fn new(
        eal: &Eal,
        count: usize,
        deals: &[Deal],
        open: &[OpenPort],
        queues: &mut [PortQueues],
    ) -> Result<Wiring, dpdk::Error> {
        let ports = open.iter().map(|port| port.id.index() + 1).max().unwrap_or(0);
        let len = worker_ring_len(count as u16);
        let mut workers: Vec<Own> = (0..count)
            .map(|_| Own {
                ports: (0..ports).map(|_| None).collect(),
                peers: (0..count).map(|_| None).collect(),
                ..Own::default()
            })
            .collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (producer, consumer) = ring(eal, &format!("hand{from}-{to}"), len, None)?;
                workers[from].peers[to] = Some(Out::new(Sink::Ring(producer), PlatformDrop::HandoverFull));
                workers[to].handed.push(consumer);
            }
        }
        let mut inject = HashMap::new();
        for ((port, of_port), deal) in open.iter().zip(queues).zip(deals) {
            for (queue, worker) in of_port.rx.drain(..).zip(&deal.rx) {
                workers[usize::from(*worker)].rx.push(Inlet { queue, vlan: port.vlan });
            }
            for (queue, worker) in of_port.tx.drain(..).zip(&deal.tx) {
                let out = Out::new(Sink::Queue(queue, port.vlan), PlatformDrop::TxFull);
                workers[usize::from(*worker)].ports[port.id.index()] = Some(out);
            }
            for (worker, sender) in deal.sender.iter().enumerate() {
                if worker == usize::from(*sender) {
                    continue;
                }
                let (producer, ring) = ring(eal, &format!("tx{}-{worker}", port.id), len, None)?;
                workers[worker].ports[port.id.index()] =
                    Some(Out::new(Sink::Ring(producer), PlatformDrop::TxRingFull));
                workers[usize::from(*sender)].relays.push(Relay { ring, port: port.id });
            }
            let (producer, ring) = ring(eal, &format!("inject{}", port.id), INJECT_RING_LEN, None)?;
            let sender = deal.sender.first().copied().unwrap_or(0);
            workers[usize::from(sender)].relays.push(Relay { ring, port: port.id });
            inject.insert(port.id, (WorkerId(sender), producer));
        }
        Ok(Wiring { workers, inject })
    }

    /// What one worker owns.
    pub(crate) fn take(&mut self, worker: usize) -> Own {
        std::mem::take(&mut self.workers[worker])
    }

    /// What the slow path owns of each port.
    pub(crate) fn sides(&mut self, open: &[OpenPort], queues: &mut [PortQueues]) -> Vec<Side> {
        open.iter()
            .zip(queues)
            .filter_map(|(port, of_port)| {
                let (sender, ring) = self.inject.remove(&port.id)?;
                Some(Side { port: port.id, sender, inject: Side::inject(ring), twin: of_port.twin.take() })
            })
            .collect()
    }
}
