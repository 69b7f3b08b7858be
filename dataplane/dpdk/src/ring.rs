//! A queue of mbufs between two threads: one pushes, one pops.

use crate::eal::EalShared;
use crate::mempool::create_error;
use crate::queue::RX_BURST_MAX;
use crate::{Burst, Eal, Errno, Error, Mbuf, ffi};
use dpdk_sys::rte_ring;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

/// Makes a ring that holds `capacity` mbufs; `numa` counts only with huge pages.
///
/// When both ends are gone, the mbufs that are left in it go back to their pools.
pub fn ring(
    eal: &Eal,
    name: &str,
    capacity: u32,
    numa: Option<u32>,
) -> Result<(RingProducer, RingConsumer), Error> {
    let c_name = ffi::c_string(name)?;
    let flags = dpdk_sys::RING_F_SP_ENQ | dpdk_sys::RING_F_SC_DEQ | dpdk_sys::RING_F_EXACT_SZ;
    // SAFETY: the name lives for the call, which copies it; an `Eal` proves that the EAL is up.
    let raw =
        unsafe { dpdk_sys::rte_ring_create(c_name.as_ptr(), capacity, eal.shared().socket(numa), flags) };
    let Some(raw) = NonNull::new(raw) else {
        let bytes = u64::from(capacity).next_power_of_two() * 8;
        return Err(create_error("ring", name, bytes, numa, Errno::from_return(ffi::errno())));
    };
    let shared = Arc::new(Shared { raw, capacity, _eal: eal.shared().clone() });
    let producer = RingProducer { shared: shared.clone(), one_thread: PhantomData };
    Ok((producer, RingConsumer { shared, one_thread: PhantomData }))
}

struct Shared {
    raw: NonNull<rte_ring>,
    capacity: u32,
    _eal: Arc<EalShared>,
}

// SAFETY: a single-producer single-consumer ring is safe with one thread at each end. Each end is one value that is
// neither `Clone` nor `Sync`; everything that both may call only reads.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn len(&self) -> usize {
        // SAFETY: the ring lives as long as `self`; counting only reads its indices.
        unsafe { dpdk_sys::rte_ring_count(self.raw.as_ptr()) as usize }
    }

    /// # Safety
    /// Nobody else pops at the same time.
    unsafe fn pop(&self, burst: &mut Burst) -> usize {
        let count = burst.remaining_capacity().min(RX_BURST_MAX);
        let len = burst.len();
        // SAFETY: there is room for `count` pointers behind the first `len`; C fills as many as it says with what the
        // producer gave away.
        unsafe {
            let room = burst.as_mut_ptr().add(len).cast();
            let popped = dpdk_sys::rte_ring_sc_dequeue_burst(
                self.raw.as_ptr(),
                room,
                count as u32,
                std::ptr::null_mut(),
            );
            burst.set_len(len + popped as usize);
            popped as usize
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        // SAFETY: both ends are gone, so nobody else pops or pushes, and the ring can go when it is empty.
        unsafe {
            while self.pop(&mut burst) > 0 {
                Mbuf::free_bulk(&mut burst);
            }
            dpdk_sys::rte_ring_free(self.raw.as_ptr());
        }
    }
}

/// The end that mbufs go into.
pub struct RingProducer {
    shared: Arc<Shared>,
    /// Makes it `Send` but not `Sync`.
    one_thread: PhantomData<Cell<()>>,
}

impl RingProducer {
    /// Moves mbufs from the front of the burst into the ring and returns how many; the rest stay in the burst, in
    /// order.
    #[inline]
    pub fn push(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the burst is an array of `len` pointers to mbufs that we own; those that the ring took are its own
        // from here on. We are the only producer.
        unsafe {
            let pushed = dpdk_sys::rte_ring_sp_enqueue_burst(
                self.shared.raw.as_ptr(),
                burst.as_ptr().cast(),
                burst.len() as u32,
                std::ptr::null_mut(),
            ) as usize;
            Mbuf::forget_front(burst, pushed);
            pushed
        }
    }

    /// Mbufs in the ring.
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether nothing is in the ring.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many mbufs it can hold.
    pub fn capacity(&self) -> usize {
        self.shared.capacity as usize
    }
}

/// The end that mbufs come out of.
pub struct RingConsumer {
    shared: Arc<Shared>,
    /// Makes it `Send` but not `Sync`.
    one_thread: PhantomData<Cell<()>>,
}

impl RingConsumer {
    /// Appends up to [`RX_BURST_MAX`] mbufs to the burst, never beyond its capacity; returns how many.
    #[inline]
    pub fn pop(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: we are the only consumer.
        unsafe { self.shared.pop(burst) }
    }

    /// Mbufs in the ring.
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether nothing is in the ring.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
