//! What the engine needs of a packet buffer.
//!
//! A DPDK mbuf and a plain test buffer both implement [`PacketBuf`], so the whole engine runs in unit tests,
//! in the simulator and under the fuzzer without DPDK.

/// One packet in one contiguous piece of memory, with room before and behind it.
///
/// Invariants: `data().len()` is the length of the frame from the first byte of the Ethernet header, and growing
/// at an end by `n` bytes succeeds exactly when that end has at least `n` bytes of room.
pub trait PacketBuf {
    /// The frame, from the Ethernet header on.
    fn data(&self) -> &[u8];

    /// The frame, writable.
    fn data_mut(&mut self) -> &mut [u8];

    /// Free bytes in front of the frame.
    fn headroom(&self) -> usize;

    /// Free bytes behind the frame.
    fn tailroom(&self) -> usize;

    /// Grows the frame at the front by `len` bytes (their content is unspecified); `false`, and no change, when
    /// there is no room.
    #[must_use]
    fn push_front(&mut self, len: usize) -> bool;

    /// Removes `len` bytes at the front; `false`, and no change, when the frame is shorter.
    #[must_use]
    fn pull_front(&mut self, len: usize) -> bool;

    /// Grows the frame at the back by `len` bytes (their content is unspecified); `false`, and no change, when
    /// there is no room.
    #[must_use]
    fn push_back(&mut self, len: usize) -> bool;

    /// Cuts the frame to `len` bytes; no change when it is already as short.
    fn truncate(&mut self, len: usize);

    /// The receive-side-scaling hash that the NIC computed, if it did.
    fn rss_hash(&self) -> Option<u32> {
        None
    }

    /// Hints the CPU that `target` is read soon. The engine has no unsafe code, so the platform brings the
    /// instruction; doing nothing is always right.
    #[inline(always)]
    fn prefetch<T: ?Sized>(_target: &T) {}

    /// Hints the CPU that the first bytes of this packet's data are read soon.
    #[inline(always)]
    fn prefetch_data(&self) {}
}
