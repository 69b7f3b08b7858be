//! Pools of packet buffers.

use crate::eal::EalShared;
use crate::{Burst, Eal, Errno, Error, Mbuf, ffi};
use dpdk_sys::rte_mempool;
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes that a fresh mbuf leaves free in front of the frame.
pub const HEADROOM: u16 = dpdk_sys::RTE_PKTMBUF_HEADROOM as u16;

/// A data room that holds an ordinary Ethernet frame: 2 KiB behind the headroom.
pub const DATA_ROOM_DEFAULT: u16 = 2048 + HEADROOM;

/// How the free mbufs are kept: a ring with relaxed tail synchronisation. With the default ring a thread that loses its
/// CPU inside an operation makes all others spin until it is back, and threads that share a CPU with a worker do use
/// the pool. The caches of the lcores hide the difference in cost.
const OPS: &CStr = c"ring_mt_rts";

/// A pool of mbufs; a clone is the same pool.
///
/// Dropping the last handle frees the pool when all mbufs are back. A pool with mbufs still out is kept for the rest
/// of the process instead: they point into its memory.
#[derive(Clone)]
pub struct Mempool(Arc<Inner>);

struct Inner {
    raw: NonNull<rte_mempool>,
    name: String,
    mbufs: u32,
    data_room: u16,
    /// Mbufs that the receive queues on this pool hold at all times.
    claimed: AtomicU32,
    eal: Arc<EalShared>,
}

// SAFETY: a mempool is made for use by many threads: get and put go through the calling lcore's own cache or through
// a multi-producer multi-consumer ring.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool of `mbufs` buffers of `data_room` bytes each, [`HEADROOM`] included (see [`DATA_ROOM_DEFAULT`]).
    ///
    /// `cache` is how many free mbufs each lcore may keep to itself. `numa` is the node to take memory from; it counts
    /// only with huge pages.
    pub fn new(
        eal: &Eal,
        name: &str,
        mbufs: u32,
        cache: u32,
        data_room: u16,
        numa: Option<u32>,
    ) -> Result<Self, Error> {
        // What rte_mempool_create demands of a cache: its flush threshold of 1.5 times must not exceed the pool.
        let limit = dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE.min((u64::from(mbufs) * 2 / 3) as u32);
        if cache > limit {
            return Err(Error::CacheTooLarge { pool: name.to_owned(), cache, mbufs, limit });
        }
        let c_name = ffi::c_string(name)?;
        let socket = eal.shared().socket(numa);
        // SAFETY: the strings live for the call, which copies them; an `Eal` proves that the EAL is up.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create_by_ops(
                c_name.as_ptr(),
                mbufs,
                cache,
                0,
                data_room,
                socket,
                OPS.as_ptr(),
            )
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self(Arc::new(Inner {
                raw,
                name: name.to_owned(),
                mbufs,
                data_room,
                claimed: AtomicU32::new(0),
                eal: eal.shared().clone(),
            }))),
            None => {
                let bytes = u64::from(mbufs) * (u64::from(data_room) + 192);
                Err(create_error("mempool", name, bytes, numa, Errno::from_return(ffi::errno())))
            }
        }
    }

    /// Takes one mbuf, with an empty frame; `None` when the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as this handle, and what comes out of it is ours alone.
        unsafe { NonNull::new(dpdk_sys::rte_pktmbuf_alloc(self.raw())).map(|raw| Mbuf::from_raw(raw)) }
    }

    /// Appends `count` empty mbufs to the burst, or as many as it has room for; returns how many. None when the pool
    /// does not have that many.
    pub fn alloc_burst(&self, burst: &mut Burst, count: usize) -> usize {
        let count = count.min(burst.remaining_capacity());
        let len = burst.len();
        // SAFETY: there is room for `count` pointers behind the first `len`; on success C has filled all of them with
        // mbufs that are ours, on failure none.
        unsafe {
            let room = burst.as_mut_ptr().add(len).cast();
            if dpdk_sys::rte_pktmbuf_alloc_bulk(self.raw(), room, count as u32) != 0 {
                return 0;
            }
            burst.set_len(len + count);
        }
        count
    }

    /// Free mbufs, those in the caches of the lcores included. Walks all caches: for statistics, not per packet.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as this handle.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw()) }
    }

    /// Mbufs that are out: in queues, rings and hands.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as this handle.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.raw()) }
    }

    /// How many mbufs it was made with.
    pub fn size(&self) -> u32 {
        self.0.mbufs
    }

    /// Bytes per mbuf, headroom included.
    pub fn data_room(&self) -> u16 {
        self.0.data_room
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn raw(&self) -> *mut rte_mempool {
        self.0.raw.as_ptr()
    }

    /// Books mbufs that receive queues will hold; `Err` with the sum when the pool does not have that many.
    pub(crate) fn claim(&self, mbufs: u32) -> Result<(), u32> {
        let fits = |claimed: u32| claimed.checked_add(mbufs).filter(|sum| *sum < self.0.mbufs);
        match self.0.claimed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(claimed) => Err(claimed.saturating_add(mbufs)),
        }
    }

    /// Takes a booking back.
    pub(crate) fn unclaim(&self, mbufs: u32) {
        self.0.claimed.fetch_sub(mbufs, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool")
            .field("name", &self.0.name)
            .field("mbufs", &self.0.mbufs)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: no handle is left, so nobody takes mbufs any more; when all of them are back, nobody points into
        // the pool. Otherwise neither it nor the EAL's memory may go.
        unsafe {
            if dpdk_sys::rte_mempool_in_use_count(self.raw.as_ptr()) == 0 {
                dpdk_sys::rte_mempool_free(self.raw.as_ptr());
            } else {
                std::mem::forget(self.eal.clone());
            }
        }
    }
}

/// Names the reason why a pool or ring was not made.
pub(crate) fn create_error(
    what: &'static str,
    name: &str,
    bytes: u64,
    numa: Option<u32>,
    errno: Errno,
) -> Error {
    let name = name.to_owned();
    match errno.0 {
        libc::EEXIST => Error::NameTaken { what, name },
        libc::ENAMETOOLONG => Error::NameTooLong { what, name },
        libc::ENOMEM => {
            let numa = numa.map_or_else(|| "any".to_owned(), |node| node.to_string());
            Error::NoMemory { what, name, bytes, numa }
        }
        _ => Error::Create { what, name, errno },
    }
}
