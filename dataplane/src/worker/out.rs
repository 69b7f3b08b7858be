//! Where packets go after a burst: port queues and rings, each with a small burst of its own that is flushed once
//! per turn.

use arrayvec::ArrayVec;
use dpdk::{BURST_LEN_MAX, Burst, Mbuf, Mempool, RingProducer, TxQueue};
use engine::{PortId, Released, Verdict, WAIT_LEN_MAX, WAIT_SLOTS, WaitSlot, WorkerId};
use wire::PacketBuf;

use super::cut::cut;
use crate::counts::{Page, PlatformDrop};
use crate::vlan::Vlan;

/// How often a full transmit queue is offered the same packets before they are dropped. Waiting longer would only
/// move the loss to the receive queue, where nobody counts it by cause.
const TX_TRIES: u32 = 4;

/// What takes the packets.
pub(crate) enum Sink {
    /// A transmit queue of ours, and the VLAN whose tag its frames get.
    Queue(TxQueue, Option<Vlan>),
    /// A ring to the thread that goes on with them.
    Ring(RingProducer),
}

/// A sink and the packets on their way to it.
pub(crate) struct Out {
    sink: Sink,
    burst: Burst,
    when_full: PlatformDrop,
}

impl Out {
    /// `when_full` is what packets count as that the sink has no room for.
    pub(crate) fn new(sink: Sink, when_full: PlatformDrop) -> Out {
        Out { sink, burst: Burst::new(), when_full }
    }

    /// Takes one packet along.
    #[inline(always)]
    pub(crate) fn put(&mut self, packet: Mbuf, page: &Page) {
        if self.burst.is_full() {
            self.flush(page);
        }
        // A flush empties the burst, so there is room.
        self.burst.push(packet);
    }

    /// The burst, with room for at least `room` more packets.
    pub(crate) fn with_room(&mut self, room: usize, page: &Page) -> &mut Burst {
        if self.burst.remaining_capacity() < room {
            self.flush(page);
        }
        &mut self.burst
    }

    /// Sends what has gathered; returns how many packets the sink took. Drops and counts what it does not take.
    #[inline]
    pub(crate) fn flush(&mut self, page: &Page) -> usize {
        if self.burst.is_empty() {
            return 0;
        }
        let sent = self.sink.take(&mut self.burst, page);
        drop_rest(&mut self.burst, self.when_full, page);
        sent
    }

    /// Sends a whole burst behind what has gathered, and leaves it empty.
    #[inline]
    fn send_all(&mut self, burst: &mut Burst, page: &Page) {
        self.flush(page);
        self.sink.take(burst, page);
        drop_rest(burst, self.when_full, page);
    }
}

impl Sink {
    /// Takes what it has room for from the front of a burst; returns how many that were.
    #[inline]
    fn take(&mut self, burst: &mut Burst, page: &Page) -> usize {
        let (queue, vlan) = match self {
            Sink::Ring(ring) => return ring.push(burst),
            Sink::Queue(queue, vlan) => (queue, *vlan),
        };
        if let Some(vlan) = vlan {
            put_tags_on(vlan, burst, page);
        }
        let mut sent = 0;
        for _ in 0..TX_TRIES {
            sent += queue.send(burst);
            if burst.is_empty() {
                break;
            }
        }
        page.tx_packets.add(sent as u64);
        sent
    }
}

/// Drops and counts what a sink did not take.
#[inline]
fn drop_rest(burst: &mut Burst, when_full: PlatformDrop, page: &Page) {
    if !burst.is_empty() {
        page.dropped(when_full).add(burst.len() as u64);
        Mbuf::free_bulk(burst);
    }
}

/// Each frame comes here once: what the queue does not take is dropped.
fn put_tags_on(vlan: Vlan, burst: &mut Burst, page: &Page) {
    burst.retain(|packet| {
        let room = vlan.send(packet);
        if !room {
            page.dropped(PlatformDrop::NoTagRoom).add(1);
        }
        room
    });
}

/// The port that all packets are forwarded to.
#[inline]
fn only_port(verdicts: &[Verdict]) -> Option<PortId> {
    let &Verdict::Forward(port) = verdicts.first()? else { return None };
    let all = verdicts.iter().all(|verdict| matches!(verdict, Verdict::Forward(other) if *other == port));
    all.then_some(port)
}

/// All ways out of a worker.
pub(crate) struct Outputs {
    /// By port number; `None` where there is no such port.
    pub(crate) ports: Vec<Option<Out>>,
    /// By worker; `None` for the worker itself.
    pub(crate) peers: Vec<Option<Out>>,
    /// To the slow path, for the kernel.
    pub(crate) punt: Out,
    /// To the slow path, to wait for a MAC address.
    pub(crate) resolve: Out,
    /// Fragments that wait for the first one of their packet.
    pub(crate) waiting: Waiting,
    /// Where the buffers for fragments come from.
    pub(crate) pool: Mempool,
    /// To be freed.
    pub(crate) freed: Burst,
}

/// Packets that wait in the slots that the engine named.
pub(crate) struct Waiting(Box<[ArrayVec<Mbuf, WAIT_LEN_MAX>]>);

impl Waiting {
    /// No packets; allocates all that it will ever need.
    pub(crate) fn new() -> Waiting {
        Waiting((0..WAIT_SLOTS).map(|_| ArrayVec::new()).collect())
    }

    /// Keeps a packet; gives it back when the slot has no room, which the engine does not let happen.
    fn put(&mut self, slot: WaitSlot, packet: Mbuf) -> Result<(), Mbuf> {
        match self.0.get_mut(usize::from(slot.0)) {
            Some(packets) => packets.try_push(packet).map_err(|full| full.element()),
            None => Err(packet),
        }
    }
}

impl Outputs {
    /// Distributes a burst by its verdicts and leaves it empty.
    #[inline]
    pub(crate) fn dispatch(&mut self, burst: &mut Burst, verdicts: &[Verdict; BURST_LEN_MAX], page: &Page) {
        // Nearly always: what came in by one port is forwarded by another.
        if let Some(port) = only_port(&verdicts[..burst.len()])
            && let Some(Some(out)) = self.ports.get_mut(port.index())
        {
            return out.send_all(burst, page);
        }
        for (packet, verdict) in burst.drain(..).zip(verdicts) {
            match *verdict {
                Verdict::Forward(port) | Verdict::Reply(port) => self.send(port, packet, page),
                Verdict::ForwardCut { port, mtu } => self.send_cut(port, mtu, packet, page),
                Verdict::HandOver(worker) => self.hand_over(worker, packet, page),
                Verdict::Punt(_) => self.punt.put(packet, page),
                Verdict::Resolve(_) => self.resolve.put(packet, page),
                Verdict::Wait(slot) => {
                    if let Err(packet) = self.waiting.put(slot, packet) {
                        page.dropped(PlatformDrop::NoWaitRoom).add(1);
                        self.free(packet);
                    }
                }
                Verdict::Drop(_) => self.free(packet),
            }
        }
    }

    /// Empties a slot: frees its packets, or adds them to `burst`, which is empty, to be processed again.
    pub(crate) fn release(&mut self, released: Released, burst: &mut Burst) {
        let (Released::Process(slot) | Released::Free(slot)) = released;
        let Some(packets) = self.waiting.0.get_mut(usize::from(slot.0)) else { return };
        match released {
            Released::Process(_) => burst.extend(packets.drain(..)),
            Released::Free(_) => Mbuf::free_bulk(packets),
        }
    }

    /// Sends everything on; once per turn.
    #[inline]
    pub(crate) fn flush(&mut self, page: &Page) {
        for out in self.ports.iter_mut().chain(&mut self.peers).flatten() {
            out.flush(page);
        }
        self.punt.flush(page);
        self.resolve.flush(page);
        if !self.freed.is_empty() {
            Mbuf::free_bulk(&mut self.freed);
        }
    }

    /// Frees a packet, together with others.
    #[inline(always)]
    pub(crate) fn free(&mut self, packet: Mbuf) {
        if self.freed.is_full() {
            Mbuf::free_bulk(&mut self.freed);
        }
        self.freed.push(packet);
    }

    #[inline(always)]
    fn send(&mut self, port: PortId, packet: Mbuf, page: &Page) {
        match self.ports.get_mut(port.index()) {
            Some(Some(out)) => out.put(packet, page),
            _ => {
                page.dropped(PlatformDrop::NoSuchPort).add(1);
                self.free(packet);
            }
        }
    }

    /// Sends a packet in fragments.
    #[cold]
    fn send_cut(&mut self, port: PortId, mtu: u16, packet: Mbuf, page: &Page) {
        let Some(Some(out)) = self.ports.get_mut(port.index()) else {
            return self.send(port, packet, page);
        };
        if !cut(&self.pool, packet.data(), mtu, |fragment| out.put(fragment, page)) {
            page.dropped(PlatformDrop::CutFailed).add(1);
        }
        self.free(packet);
    }

    #[inline(always)]
    fn hand_over(&mut self, worker: WorkerId, packet: Mbuf, page: &Page) {
        match self.peers.get_mut(worker.index()) {
            Some(Some(out)) => out.put(packet, page),
            _ => {
                page.dropped(PlatformDrop::HandoverFull).add(1);
                self.free(packet);
            }
        }
    }
}
