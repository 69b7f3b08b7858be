//! Packet buffers as owned values.
//!
//! ```text
//!  buf_addr          data_off                 data_off + data_len        buf_len
//!  |<-- headroom -->|<-------- frame -------->|<------ tailroom ------>|
//! ```
//!
//! An [`Mbuf`] is the only handle to its buffer: it is not `Clone`, and dropping it gives the buffer back to its pool.
//! Fields are read at the offsets that the C compiler reported ([`dpdk_sys`]'s `TG_MBUF_*`), so no call is made and no
//! layout is copied.

use arrayvec::ArrayVec;
use dpdk_sys::rte_mbuf;
use std::marker::PhantomData;
use std::ptr::NonNull;
use wire::PacketBuf;

/// One packet, or the first segment of one; freed when dropped.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// An array of Mbuf is handed to C as an array of pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<Mbuf>());

// SAFETY: an mbuf is owned by whoever holds the `Mbuf`; its memory is shared by all threads of the process, and a
// pool takes mbufs back from any thread.
unsafe impl Send for Mbuf {}

/// A field of an mbuf, by its offset.
macro_rules! field {
    ($ptr:expr, $ty:ty, $offset:ident) => {
        $ptr.as_ptr().cast::<u8>().add(dpdk_sys::$offset as usize).cast::<$ty>()
    };
}

impl Mbuf {
    /// Takes ownership of an mbuf that C gave away.
    ///
    /// # Safety
    /// `raw` points to a valid mbuf with a reference count of one that nobody else will use or free.
    pub(crate) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw)
    }

    #[inline(always)]
    fn buf_addr(&self) -> *mut u8 {
        // SAFETY: `self.0` is a live mbuf, and the offset and type are those of its field.
        unsafe { field!(self.0, *mut u8, TG_MBUF_BUF_ADDR).read() }
    }

    #[inline(always)]
    fn data_off(&self) -> u16 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u16, TG_MBUF_DATA_OFF).read() }
    }

    #[inline(always)]
    fn data_len(&self) -> u16 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u16, TG_MBUF_DATA_LEN).read() }
    }

    #[inline(always)]
    fn buf_len(&self) -> u16 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u16, TG_MBUF_BUF_LEN).read() }
    }

    /// Number of segments; one unless the frame was larger than a buffer.
    #[inline(always)]
    pub fn segment_count(&self) -> u16 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u16, TG_MBUF_NB_SEGS).read() }
    }

    /// Length of the whole frame, all segments together, in bytes.
    #[inline(always)]
    pub fn len_total(&self) -> usize {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u32, TG_MBUF_PKT_LEN).read() as usize }
    }

    /// The number of the port that received it.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u16, TG_MBUF_PORT).read() }
    }

    /// The driver's flags, `RTE_MBUF_F_*`.
    #[inline(always)]
    pub fn offload_flags(&self) -> u64 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u64, TG_MBUF_OL_FLAGS).read() }
    }

    /// The VLAN tag (its TCI: priority and number) that the NIC took off the frame, if it did; told once.
    #[inline(always)]
    pub fn take_stripped_tag(&mut self) -> Option<u16> {
        const STRIPPED: u64 = dpdk_sys::RTE_MBUF_F_RX_VLAN_STRIPPED as u64;
        const BOTH: u64 = STRIPPED | dpdk_sys::RTE_MBUF_F_RX_VLAN as u64;
        let flags = self.offload_flags();
        if flags & STRIPPED == 0 {
            return None;
        }
        self.set_offload_flags(flags & !BOTH);
        // SAFETY: as in `buf_addr`.
        Some(unsafe { field!(self.0, u16, TG_MBUF_VLAN_TCI).read() })
    }

    /// Has the NIC put a VLAN tag of this TCI on the frame when it sends it; for ports that do, see
    /// [`crate::Port::inserts_tags`].
    #[inline(always)]
    pub fn request_tag(&mut self, tci: u16) {
        self.set_offload_flags(self.offload_flags() | dpdk_sys::RTE_MBUF_F_TX_VLAN);
        // SAFETY: as in `set_lengths`.
        unsafe { field!(self.0, u16, TG_MBUF_VLAN_TCI).write(tci) }
    }

    #[inline(always)]
    fn set_offload_flags(&mut self, flags: u64) {
        // SAFETY: as in `set_lengths`.
        unsafe { field!(self.0, u64, TG_MBUF_OL_FLAGS).write(flags) }
    }

    /// Writes both lengths; the frame has one segment, or `pkt_len` counts the others too.
    #[inline(always)]
    fn set_lengths(&mut self, data_len: u16, pkt_len: u32) {
        // SAFETY: as in `buf_addr`; `&mut self` makes us the only one to write.
        unsafe {
            field!(self.0, u16, TG_MBUF_DATA_LEN).write(data_len);
            field!(self.0, u32, TG_MBUF_PKT_LEN).write(pkt_len);
        }
    }

    #[inline(always)]
    pub(crate) fn set_port(&mut self, port: u16) {
        // SAFETY: as in `set_lengths`.
        unsafe { field!(self.0, u16, TG_MBUF_PORT).write(port) }
    }

    #[inline(always)]
    fn set_data_off(&mut self, data_off: u16) {
        // SAFETY: as in `set_lengths`.
        unsafe { field!(self.0, u16, TG_MBUF_DATA_OFF).write(data_off) }
    }

    /// Where the frame starts.
    #[inline(always)]
    fn data_ptr(&self) -> *mut u8 {
        self.buf_addr().wrapping_add(usize::from(self.data_off()))
    }

    /// The segments of the frame, each as one slice; usually one.
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.0), left: self.segment_count(), frame: PhantomData }
    }

    /// Replaces the frame by `bytes`, behind the usual headroom; `false`, and no change, when they do not fit or the
    /// frame has several segments.
    #[must_use]
    pub fn copy_from_slice(&mut self, bytes: &[u8]) -> bool {
        let headroom = crate::HEADROOM.min(self.buf_len());
        let Some(len) = u16::try_from(bytes.len()).ok().filter(|len| *len <= self.buf_len() - headroom)
        else {
            return false;
        };
        if self.segment_count() != 1 {
            return false;
        }
        self.set_data_off(headroom);
        self.set_lengths(len, u32::from(len));
        self.data_mut().copy_from_slice(bytes);
        true
    }

    /// Gives all mbufs of an array back to their pools with one call, and leaves it empty.
    #[inline]
    pub fn free_bulk<const N: usize>(mbufs: &mut ArrayVec<Self, N>) {
        let len = mbufs.len();
        // SAFETY: the length is set to zero before the pointers are given away, so none is freed twice; an `Mbuf` is
        // a pointer to an mbuf that we own, so the array is one of `len` of them.
        unsafe {
            mbufs.set_len(0);
            dpdk_sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr().cast(), len as u32);
        }
    }

    /// Gives mbufs back to their pools in bulk, `N` at a time.
    pub fn free_all(mbufs: impl IntoIterator<Item = Self>) {
        let mut burst = crate::Burst::new();
        for mbuf in mbufs {
            burst.push(mbuf);
            if burst.is_full() {
                Self::free_bulk(&mut burst);
            }
        }
        Self::free_bulk(&mut burst);
    }

    /// Removes the first `count` from an array without freeing them; they belong to somebody else now.
    ///
    /// # Safety
    /// `count` is at most the array's length, and the ownership of those mbufs has passed to C.
    pub(crate) unsafe fn forget_front<const N: usize>(mbufs: &mut ArrayVec<Self, N>, count: usize) {
        let left = mbufs.len() - count;
        // SAFETY: the source range lies within the initialised part by the caller's contract; the length is reduced
        // to what remains initialised and ours.
        unsafe {
            mbufs.set_len(0);
            if count > 0 && left > 0 {
                let start = mbufs.as_mut_ptr();
                std::ptr::copy(start.add(count), start, left);
            }
            mbufs.set_len(left);
        }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: we own the mbuf, and this is the last use of it.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len_total())
            .field("segments", &self.segment_count())
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}

/// The segments of a frame, in order.
pub struct Segments<'a> {
    next: Option<NonNull<rte_mbuf>>,
    /// Bounds the walk by what the head says, whatever the chain looks like.
    left: u16,
    frame: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next.filter(|_| self.left > 0)?;
        self.left -= 1;
        // SAFETY: the segments of a chain belong to its head, which is borrowed for 'a; each is a valid mbuf whose
        // data lies within its buffer.
        unsafe {
            self.next = NonNull::new(field!(segment, *mut rte_mbuf, TG_MBUF_NEXT).read());
            let data_off = usize::from(field!(segment, u16, TG_MBUF_DATA_OFF).read());
            let data_len = usize::from(field!(segment, u16, TG_MBUF_DATA_LEN).read());
            let buf_addr = field!(segment, *mut u8, TG_MBUF_BUF_ADDR).read();
            Some(std::slice::from_raw_parts(buf_addr.add(data_off), data_len))
        }
    }
}

impl PacketBuf for Mbuf {
    /// The first segment, which holds the whole frame unless [`Mbuf::segment_count`] says otherwise.
    #[inline(always)]
    fn data(&self) -> &[u8] {
        // SAFETY: the frame lies within the buffer (an invariant of every mbuf that we receive or change), whose
        // memory is initialised, belongs to us and is not written while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.data_ptr(), usize::from(self.data_len())) }
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data_ptr(), usize::from(self.data_len())) }
    }

    #[inline(always)]
    fn data_mut_with_front(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > self.headroom() {
            return None;
        }
        // SAFETY: as in `data_mut`; what is in front of the frame, back to the buffer's start, is memory of the same
        // buffer, and `len` is not more than that.
        Some(unsafe {
            std::slice::from_raw_parts_mut(self.data_ptr().sub(len), usize::from(self.data_len()) + len)
        })
    }

    #[inline(always)]
    fn headroom(&self) -> usize {
        usize::from(self.data_off())
    }

    #[inline(always)]
    fn tailroom(&self) -> usize {
        if self.segment_count() != 1 {
            // What is behind the first segment is not behind the frame.
            return 0;
        }
        usize::from(self.buf_len())
            .saturating_sub(usize::from(self.data_off()) + usize::from(self.data_len()))
    }

    #[inline(always)]
    fn push_front(&mut self, len: usize) -> bool {
        if len > self.headroom() {
            return false;
        }
        // `len` is at most data_off here, so it fits 16 bits, and data_len + len at most buf_len.
        self.set_data_off(self.data_off() - len as u16);
        self.set_lengths(self.data_len() + len as u16, self.len_total() as u32 + len as u32);
        true
    }

    #[inline(always)]
    fn pull_front(&mut self, len: usize) -> bool {
        if len > usize::from(self.data_len()) {
            return false;
        }
        self.set_data_off(self.data_off() + len as u16);
        self.set_lengths(self.data_len() - len as u16, self.len_total() as u32 - len as u32);
        true
    }

    #[inline(always)]
    fn push_back(&mut self, len: usize) -> bool {
        if len > self.tailroom() {
            return false;
        }
        let data_len = self.data_len() + len as u16;
        self.set_lengths(data_len, self.len_total() as u32 + len as u32);
        true
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        if len >= usize::from(self.data_len()) {
            return;
        }
        if self.segment_count() != 1 {
            self.drop_tail_segments();
        }
        self.set_lengths(len as u16, len as u32);
    }

    #[inline(always)]
    fn reframe(&mut self, front: usize, len: usize) {
        if self.segment_count() != 1 {
            if self.push_front(front) {
                self.truncate(len);
            }
        } else if front <= self.headroom() {
            // As in `push_front`; the lengths are written once.
            let grown = self.data_len() + front as u16;
            let len = len.min(usize::from(grown)) as u16;
            self.set_data_off(self.data_off() - front as u16);
            self.set_lengths(len, u32::from(len));
        }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        Mbuf::port(self)
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        const FLAG: u64 = dpdk_sys::RTE_MBUF_F_RX_RSS_HASH as u64;
        // SAFETY: as in `buf_addr`.
        let hash = unsafe { field!(self.0, u32, TG_MBUF_HASH_RSS).read() };
        (self.offload_flags() & FLAG != 0).then_some(hash)
    }

    #[inline(always)]
    fn note(&self) -> u32 {
        // SAFETY: as in `buf_addr`.
        unsafe { field!(self.0, u32, TG_MBUF_HASH_FDIR_HI).read() }
    }

    /// In the field where drivers put the number of a matched flow rule (with `RTE_MBUF_F_RX_FDIR_ID`); nothing here
    /// reads that, and it is no part of the RSS hash beside it.
    #[inline(always)]
    fn set_note(&mut self, note: u32) {
        // SAFETY: as in `set_lengths`.
        unsafe { field!(self.0, u32, TG_MBUF_HASH_FDIR_HI).write(note) }
    }

    #[inline(always)]
    fn prefetch<T: ?Sized>(target: &T) {
        prefetch_pointer(std::ptr::from_ref(target).cast());
    }

    #[inline(always)]
    fn prefetch_data(&self) {
        prefetch_pointer(self.data_ptr());
    }
}

impl Mbuf {
    /// Frees all segments but the first.
    #[cold]
    fn drop_tail_segments(&mut self) {
        // SAFETY: the chain behind the head belongs to it; the head is made to stand alone before the rest is freed.
        unsafe {
            let next = field!(self.0, *mut rte_mbuf, TG_MBUF_NEXT);
            let tail = next.read();
            next.write(std::ptr::null_mut());
            field!(self.0, u16, TG_MBUF_NB_SEGS).write(1);
            if !tail.is_null() {
                dpdk_sys::rte_pktmbuf_free(tail);
            }
        }
        self.set_lengths(self.data_len(), u32::from(self.data_len()));
    }
}

/// Asks for the cache line of an address; any address is allowed.
#[inline(always)]
fn prefetch_pointer(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, and every x86_64 CPU has it.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
