//! The hash with which NICs spread packets over their receive queues, and what can be chosen because it is
//! known.
//!
//! Toeplitz (Microsoft, "RSS hashing functions"; `rte_thash.h`): each bit that is set in source address,
//! destination address, source port and destination port, as they stand in the packet, adds the 32 key bits
//! that begin at its place, by exclusive or. The low bits of the sum are looked up in the port's redirection
//! table, which names a receive queue and so a worker. The sum is linear, so what a destination port adds is
//! the same in every packet. Local ports fall in as many classes as the table has entries, and a class tells
//! the worker that replies go to once the sum of everything else is known. [`Rss::classes`] computes with
//! classes: a port of a wanted class costs two loads.
//!
//! Pure arithmetic: nothing here knows a NIC.

mod classes;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;

use crate::addr::{Addr, Endpoint, Tuple};
use crate::ids::WorkerId;

pub(crate) use classes::PortClasses;

/// Bytes of the key that matter: a window of 32 bits for each of the 288 bits of an IPv6 packet's endpoints.
pub const KEY_LEN: usize = 40;

/// Longest redirection table. Ports have 16 bits, so with a longer one no port could be found for each entry.
pub const TABLE_LEN_MAX: usize = 1 << 16;

/// Half bytes of two IPv6 addresses and two ports.
const NIBBLES: usize = 2 * (2 * 16 + 2 * 2);

/// Which packets a NIC hashes with their ports; all others it hashes by their addresses or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hashed {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// UDP over IPv4.
    pub udp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// UDP over IPv6.
    pub udp6: bool,
}

impl Hashed {
    /// All of them.
    pub const ALL: Hashed = Hashed { tcp4: true, udp4: true, tcp6: true, udp6: true };

    /// What both hash.
    pub fn and(self, other: Hashed) -> Hashed {
        Hashed {
            tcp4: self.tcp4 && other.tcp4,
            udp4: self.udp4 && other.udp4,
            tcp6: self.tcp6 && other.tcp6,
            udp6: self.udp6 && other.udp6,
        }
    }

    #[inline(always)]
    fn has(self, protocol: u8, wide: bool) -> bool {
        match (protocol == wire::ipv4::PROTO_TCP, wide) {
            (true, false) => self.tcp4,
            (false, false) => self.udp4,
            (true, true) => self.tcp6,
            (false, true) => self.udp6,
        }
    }
}

/// Why a NIC's hash cannot steer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RssError {
    /// The key is too short to hash IPv6.
    #[error("its RSS key has {0} bytes, {KEY_LEN} are needed")]
    KeyTooShort(usize),
    /// No power of two.
    #[error("its redirection table has {0} entries; a power of two up to {TABLE_LEN_MAX} is needed")]
    TableLen(usize),
    /// The table names a worker that there is not.
    #[error("its redirection table names worker {worker} of {workers}")]
    NoSuchWorker {
        /// The one it names.
        worker: u16,
        /// How many there are.
        workers: u16,
    },
    /// A worker that never gets a packet could own no connection.
    #[error("its redirection table leaves worker {0} out")]
    WorkerLeftOut(u16),
    /// Under this key replies of one real server do not reach every entry of the table, whatever the local
    /// port.
    #[error("its RSS key does not spread local ports over the whole redirection table")]
    PoorKey,
}

/// An entry of the redirection table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    worker: u16,
    /// How many entries of this worker stand before it.
    nth: u16,
}

/// What all ports hash with: key and redirection table. See the module.
#[derive(Debug)]
pub struct Rss {
    toeplitz: Toeplitz,
    hashed: Hashed,
    mask: u32,
    entries: Box<[Entry]>,
    /// By worker: the entries that lead to it.
    own: Vec<Box<[u16]>>,
    /// For replies over IPv4 and IPv6, whose ports stand at different places.
    classes: [PortClasses; 2],
}

impl Rss {
    /// A key, and a redirection table that names `workers` workers.
    ///
    /// # Errors
    /// [`RssError`].
    pub fn new(key: &[u8], table: &[u16], workers: u16, hashed: Hashed) -> Result<Rss, RssError> {
        let toeplitz = Toeplitz::new(key)?;
        if !table.len().is_power_of_two() || table.len() > TABLE_LEN_MAX {
            return Err(RssError::TableLen(table.len()));
        }
        let mut own = vec![Vec::new(); workers.into()];
        let mut entries = Vec::with_capacity(table.len());
        for (index, &worker) in table.iter().enumerate() {
            let list = own.get_mut(usize::from(worker)).ok_or(RssError::NoSuchWorker { worker, workers })?;
            entries.push(Entry { worker, nth: list.len() as u16 });
            list.push(index as u16);
        }
        if let Some(left_out) = own.iter().position(Vec::is_empty) {
            return Err(RssError::WorkerLeftOut(left_out as u16));
        }
        let mask = table.len() as u32 - 1;
        let of = |offset| PortClasses::new(&toeplitz, offset, mask).ok_or(RssError::PoorKey);
        let classes = [of(PORT_OFFSET_V4)?, of(PORT_OFFSET_V6)?];
        let (entries, own) = (entries.into(), own.into_iter().map(Vec::into_boxed_slice).collect());
        Ok(Rss { toeplitz, hashed, mask, entries, own, classes })
    }

    /// The worker whose queue a packet arrives at; `None` for packets that are not hashed with their ports.
    pub fn worker_of(&self, protocol: u8, src: SocketAddr, dst: SocketAddr) -> Option<WorkerId> {
        let tuple = Tuple { protocol, src: src.into(), dst: dst.into() };
        self.hashes(protocol, !tuple.dst.addr.is_v4()).then(|| self.worker(&tuple))
    }

    /// The hash of a packet between two endpoints of one family.
    pub fn hash(&self, src: SocketAddr, dst: SocketAddr) -> u32 {
        self.toeplitz.hash(src.into(), dst.into())
    }

    /// Whether packets of this kind are hashed with their ports.
    #[inline(always)]
    pub(crate) fn hashes(&self, protocol: u8, wide: bool) -> bool {
        self.hashed.has(protocol, wide)
    }

    /// The worker whose queue a packet arrives at that [`Rss::hashes`].
    #[inline]
    pub(crate) fn worker(&self, tuple: &Tuple) -> WorkerId {
        let hash = self.toeplitz.hash(tuple.src, tuple.dst);
        WorkerId(self.entries[(hash & self.mask) as usize].worker)
    }

    /// What everything but the ports adds to the class of packets between two addresses.
    pub(crate) fn base(&self, src: Addr, dst: Addr) -> u16 {
        let (src, dst) = (Endpoint { addr: src, port: 0 }, Endpoint { addr: dst, port: 0 });
        (self.toeplitz.hash(src, dst) & self.mask) as u16
    }

    /// What a source port (network order) adds.
    #[inline]
    pub(crate) fn of_source_port(&self, wide: bool, port: u16) -> u16 {
        let offset = if wide { PORT_OFFSET_V6 } else { PORT_OFFSET_V4 } - 2;
        (self.toeplitz.at(offset, &port.to_ne_bytes()) & self.mask) as u16
    }

    /// The classes of destination ports.
    #[inline(always)]
    pub(crate) fn classes(&self, wide: bool) -> &PortClasses {
        &self.classes[usize::from(wide)]
    }

    /// The entries of the table that lead to a worker.
    #[inline(always)]
    pub(crate) fn entries_of(&self, worker: WorkerId) -> &[u16] {
        self.own.get(worker.index()).map_or(&[], |own| own)
    }

    /// The worker of an entry, and how many entries of that worker stand before it.
    #[inline(always)]
    pub(crate) fn entry(&self, index: u16) -> (WorkerId, u16) {
        let entry = self.entries[usize::from(index) & self.mask as usize];
        (WorkerId(entry.worker), entry.nth)
    }
}

/// Where the destination port stands in what is hashed.
const PORT_OFFSET_V4: usize = 4 + 4 + 2;
const PORT_OFFSET_V6: usize = 16 + 16 + 2;

/// What each half byte adds, for each of its values; 4.6 KB, of which IPv4 reads a third.
#[derive(Debug)]
struct Toeplitz {
    nibbles: Box<[[u32; 16]; NIBBLES]>,
}

impl Toeplitz {
    fn new(key: &[u8]) -> Result<Toeplitz, RssError> {
        let bit = |index: usize| key.get(index / 8).map_or(0, |byte| u32::from(byte >> (7 - index % 8) & 1));
        let window = |first: usize| (first..first + 32).fold(0, |window, index| window << 1 | bit(index));
        if key.len() < KEY_LEN {
            return Err(RssError::KeyTooShort(key.len()));
        }
        let mut nibbles = Box::new([[0; 16]; NIBBLES]);
        for (place, values) in nibbles.iter_mut().enumerate() {
            for (value, adds) in values.iter_mut().enumerate() {
                let set = (0..4).filter(|bit| value & 8 >> bit != 0);
                *adds = set.fold(0, |sum, bit| sum ^ window(place * 4 + bit));
            }
        }
        Ok(Toeplitz { nibbles })
    }

    /// What `bytes` at `offset` add.
    #[inline(always)]
    fn at(&self, offset: usize, bytes: &[u8]) -> u32 {
        let places = self.nibbles.get(2 * offset..).unwrap_or_default().chunks_exact(2);
        places.zip(bytes).fold(0, |sum, (places, byte)| {
            sum ^ places[0][usize::from(byte >> 4)] ^ places[1][usize::from(byte & 15)]
        })
    }

    #[inline]
    fn hash(&self, src: Endpoint, dst: Endpoint) -> u32 {
        let len = src.addr.as_bytes().len();
        self.at(0, src.addr.as_bytes())
            ^ self.at(len, dst.addr.as_bytes())
            ^ self.at(2 * len, &src.port.to_ne_bytes())
            ^ self.at(2 * len + 2, &dst.port.to_ne_bytes())
    }
}
