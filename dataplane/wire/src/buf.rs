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

    /// The frame and `len` bytes of the room in front of it, writable, which [`PacketBuf::push_front`] makes part of the frame;
    /// `None` when there is less room.
    fn data_mut_with_front(&mut self, len: usize) -> Option<&mut [u8]>;

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

    /// Grows the frame at the front by `front` bytes, as [`PacketBuf::push_front`], then cuts it to `len` bytes, as
    /// [`PacketBuf::truncate`]. No change without the room.
    #[inline(always)]
    fn reframe(&mut self, front: usize, len: usize) {
        if self.push_front(front) {
            self.truncate(len);
        }
    }

    /// The port that the frame came in on, numbered as the platform numbers its ports.
    fn port(&self) -> u16 {
        0
    }

    /// The receive-side-scaling hash that the NIC computed, if it did.
    fn rss_hash(&self) -> Option<u32> {
        None
    }

    /// What the engine noted about this packet for the worker that it hands it over to. Anything, until
    /// [`PacketBuf::set_note`] is called on a packet that came in; from then on it stays with the packet.
    fn note(&self) -> u32;

    /// Leaves a note.
    fn set_note(&mut self, note: u32);

    /// Hints the CPU that `target` is read soon. The engine has no unsafe code, so the platform brings the
    /// instruction; doing nothing is always right.
    #[inline(always)]
    fn prefetch<T: ?Sized>(_target: &T) {}

    /// Hints the CPU that the first bytes of this packet's data are read soon.
    #[inline(always)]
    fn prefetch_data(&self) {}
}

/// Room that [`HeapBuf::from_frame`] leaves at either end, as a DPDK mbuf's default headroom.
pub const ROOM_DEFAULT: usize = 128;

/// A packet on the heap: what tests, the simulator and the fuzzer give to the engine.
///
/// ```text
/// |<- headroom ->|<- data ->|<- tailroom ->|
/// ```
#[derive(Debug)]
pub struct HeapBuf {
    /// Headroom and data.
    storage: Vec<u8>,
    start: usize,
    /// How long `storage` may become.
    limit: usize,
    port: u16,
    rss_hash: Option<u32>,
    note: u32,
}

impl HeapBuf {
    /// A packet with this frame and [`ROOM_DEFAULT`] at either end.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Self {
        Self::with_room(frame, ROOM_DEFAULT, ROOM_DEFAULT)
    }

    /// A packet with this frame and so much room before and behind it.
    #[must_use]
    pub fn with_room(frame: &[u8], head: usize, tail: usize) -> Self {
        let limit = head + frame.len() + tail;
        let mut buf =
            Self { storage: Vec::with_capacity(limit), start: 0, limit, port: 0, rss_hash: None, note: 0 };
        buf.reload(frame, head);
        buf
    }

    /// The same packet, come in on `port`.
    #[must_use]
    pub fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The same packet, with the hash that a NIC would have computed.
    #[must_use]
    pub fn with_rss_hash(self, hash: u32) -> Self {
        Self { rss_hash: Some(hash), ..self }
    }

    /// Puts another frame in this buffer's place, with `head` bytes of room before it; allocates only when the storage
    /// is too small. For loops that must not allocate.
    pub fn reload(&mut self, frame: &[u8], head: usize) {
        self.storage.resize(head, 0);
        self.storage.extend_from_slice(frame);
        self.start = head;
        self.limit = self.limit.max(self.storage.len());
    }

    /// A copy of the frame.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.data().to_vec()
    }
}

impl PacketBuf for HeapBuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        &self.storage[self.start..]
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..]
    }

    #[inline(always)]
    fn data_mut_with_front(&mut self, len: usize) -> Option<&mut [u8]> {
        Some(&mut self.storage[self.start.checked_sub(len)?..])
    }

    #[inline(always)]
    fn headroom(&self) -> usize {
        self.start
    }

    #[inline(always)]
    fn tailroom(&self) -> usize {
        self.limit - self.storage.len()
    }

    #[inline(always)]
    fn push_front(&mut self, len: usize) -> bool {
        let room = len <= self.headroom();
        if room {
            self.start -= len;
        }
        room
    }

    #[inline(always)]
    fn pull_front(&mut self, len: usize) -> bool {
        let enough = len <= self.storage.len() - self.start;
        if enough {
            self.start += len;
        }
        enough
    }

    #[inline(always)]
    fn push_back(&mut self, len: usize) -> bool {
        let room = len <= self.tailroom();
        if room {
            self.storage.resize(self.storage.len() + len, 0);
        }
        room
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        self.storage.truncate(self.start.saturating_add(len));
    }

    #[inline(always)]
    fn reframe(&mut self, front: usize, len: usize) {
        let Some(start) = self.start.checked_sub(front) else { return };
        self.start = start;
        if len < self.storage.len() - start {
            self.storage.truncate(start + len);
        }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        self.port
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        self.rss_hash
    }

    #[inline(always)]
    fn note(&self) -> u32 {
        self.note
    }

    #[inline(always)]
    fn set_note(&mut self, note: u32) {
        self.note = note;
    }
}

impl Clone for HeapBuf {
    fn clone(&self) -> Self {
        // A vector's own clone has no room behind its data.
        let mut storage = Vec::with_capacity(self.limit);
        storage.extend_from_slice(&self.storage);
        Self { storage, ..*self }
    }
}

/// Equal when their frames are; room and metadata do not count.
impl PartialEq for HeapBuf {
    fn eq(&self, other: &Self) -> bool {
        self.data() == other.data()
    }
}

impl Eq for HeapBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_grows_and_shrinks_within_its_room() {
        let mut buf = HeapBuf::with_room(b"frame", 4, 2).on_port(3).with_rss_hash(7);
        assert_eq!((buf.headroom(), buf.tailroom(), buf.port(), buf.rss_hash()), (4, 2, 3, Some(7)));
        assert!(!buf.push_front(5) && !buf.push_back(3) && !buf.pull_front(6));
        assert_eq!(buf.data(), b"frame");
        assert!(buf.push_front(4) && buf.push_back(2));
        assert_eq!((buf.headroom(), buf.tailroom(), buf.data().len()), (0, 0, 11));
        assert_eq!(&buf.data()[4..9], b"frame");
        assert!(buf.pull_front(4));
        buf.truncate(5);
        buf.truncate(6);
        assert_eq!((buf.data(), buf.tailroom()), (&b"frame"[..], 2));
        assert!(buf.pull_front(5) && buf.data().is_empty());
    }

    #[test]
    fn what_is_written_in_front_of_a_frame_becomes_part_of_it() {
        let mut buf = HeapBuf::with_room(b"frame, padded", 4, 2);
        assert!(buf.data_mut_with_front(5).is_none());
        buf.reframe(5, 3);
        assert_eq!(buf.data(), b"frame, padded", "no change without the room");
        let with_front = buf.data_mut_with_front(2).unwrap();
        assert_eq!(&with_front[2..], b"frame, padded");
        with_front[..2].copy_from_slice(b"a ");
        buf.reframe(2, 7);
        assert_eq!((buf.data(), buf.headroom(), buf.tailroom()), (&b"a frame"[..], 2, 10));
        buf.reframe(0, 8);
        assert_eq!(buf.data(), b"a frame", "already as short");
    }

    #[test]
    fn a_reloaded_buffer_keeps_its_storage_where_that_is_large_enough() {
        let mut buf = HeapBuf::from_frame(&[1; 60]);
        let at = buf.data().as_ptr();
        buf.reload(&[2; 50], ROOM_DEFAULT);
        assert_eq!((buf.data(), buf.data().as_ptr()), (&[2; 50][..], at));
        buf.reload(&[3; 2000], 10);
        assert_eq!((buf.data(), buf.headroom()), (&[3; 2000][..], 10));
    }
}
