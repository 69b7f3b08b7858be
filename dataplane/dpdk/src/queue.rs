//! Receive and transmit queues: one owner each, one C call per burst.

use crate::port::PortShared;
use crate::{Burst, Mbuf, PortId};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

/// The room that a receive call should be given, which drivers are tuned for, and the most that one look at a ring or a TAP
/// takes.
pub const RX_BURST_MAX: usize = 32;

/// A receive queue. It can be handed to another thread, not shared with one.
pub struct RxQueue {
    port: Arc<PortShared>,
    queue: u16,
    /// Makes it `Send` but not `Sync`.
    one_thread: PhantomData<Cell<()>>,
}

/// What a call of [`RxQueue::receive`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// How many packets.
    pub packets: usize,
    /// Whether some are in several buffers.
    pub segmented: bool,
}

impl RxQueue {
    pub(crate) fn new(port: Arc<PortShared>, queue: u16) -> Self {
        Self { port, queue, one_thread: PhantomData }
    }

    /// Appends what there is, up to the burst's capacity. The more are processed together, the more of their cache misses
    /// overlap.
    ///
    /// Give it room for [`RX_BURST_MAX`]: some drivers receive in steps of four or eight and give nothing to less room.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> Arrived {
        let count = burst.remaining_capacity();
        let len = burst.len();
        // SAFETY: the port is started and has this queue for as long as `self.port` lives; we are its only user.
        // There is room for `count` pointers behind the first `len`, and what C puts there are mbufs that are ours.
        unsafe {
            let room = burst.as_mut_ptr().add(len).cast();
            let received =
                usize::from(dpdk_sys::rte_eth_rx_burst(self.port.id.0, self.queue, room, count as u16));
            burst.set_len(len + received);
            let mut segments = 1;
            for packet in &mut burst[len..] {
                // Some drivers (net_af_xdp in 22.11) leave the field as the last user of the buffer had it.
                packet.set_port(self.port.id.0);
                segments |= packet.segment_count();
            }
            Arrived { packets: received, segmented: segments > 1 }
        }
    }

    /// The port it belongs to.
    pub fn port(&self) -> PortId {
        self.port.id
    }

    /// Its number on the port.
    pub fn index(&self) -> u16 {
        self.queue
    }
}

/// A transmit queue. It can be handed to another thread, not shared with one.
pub struct TxQueue {
    port: Arc<PortShared>,
    queue: u16,
    /// Makes it `Send` but not `Sync`.
    one_thread: PhantomData<Cell<()>>,
}

impl TxQueue {
    pub(crate) fn new(port: Arc<PortShared>, queue: u16) -> Self {
        Self { port, queue, one_thread: PhantomData }
    }

    /// Hands packets from the front of the burst to the driver and returns how many it took; the rest stay in the
    /// burst, in order. An empty burst still lets the driver tidy up, so do not call it for nothing.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the port is started and has this queue for as long as `self.port` lives; we are its only user. The
        // burst is an array of `len` pointers to mbufs that we own; those that the driver took are its own.
        unsafe {
            let sent = usize::from(dpdk_sys::rte_eth_tx_burst(
                self.port.id.0,
                self.queue,
                burst.as_mut_ptr().cast(),
                burst.len() as u16,
            ));
            Mbuf::forget_front(burst, sent);
            sent
        }
    }

    /// The port it belongs to.
    pub fn port(&self) -> PortId {
        self.port.id
    }

    /// Its number on the port.
    pub fn index(&self) -> u16 {
        self.queue
    }
}
