//! A safe layer over DPDK: EAL, ports, queues, mempools, mbufs and rings.
//!
//! It knows nothing of load balancing. What it adds to the C library is ownership: an [`Mbuf`] is a value that is
//! freed when it is dropped, a queue has one owner at a time, memory outlives everything that points into it, and
//! every failure is a named [`Error`] that says which device is meant and what to do.
//!
//! Invariants
//! - The EAL is started at most once per process ([`Eal::init`]). Ports, pools, rings and queues keep it alive, and
//!   it is cleaned up when the last of them is gone.
//! - C is called once per burst, never per packet; the fields of an mbuf are read and written in Rust.
//! - No panic crosses into C.

pub mod cpu;
mod eal;
mod error;
mod ffi;
mod hugepages;
mod lcore;
mod log;
mod mbuf;
mod mempool;
mod pci;
mod port;
mod queue;
mod ring;
mod rss;
mod tap;
mod time;

pub mod alloc;

pub use eal::{Eal, EalConfig, HugePages, Lcore};
pub use error::{Direction, Errno, Error};
pub use lcore::{LcoreExit, current_lcore, lcore_count};
pub use log::{LogFn, LogLevel, LogSink, set_log_sink};
pub use mbuf::{Mbuf, Segments};
pub use mempool::{DATA_ROOM_DEFAULT, HEADROOM, Mempool};
pub use port::{Flow, FlowRule, Link, Port, PortConfig, PortId, PortInfo, PortStats, RssConfig, RssState};
pub use queue::{Arrived, RX_BURST_MAX, RxQueue, TxQueue};
pub use ring::{RingConsumer, RingProducer, ring};
pub use rss::softrss;
pub use tap::{Received, Tap};
pub use time::{tsc, tsc_hz};

/// The most packets that a [`Burst`] holds.
pub const BURST_LEN_MAX: usize = 64;

/// Packets that travel together; dropping it frees them one by one, [`Mbuf::free_bulk`] at once.
pub type Burst = arrayvec::ArrayVec<Mbuf, BURST_LEN_MAX>;

/// The version of the DPDK library that this process runs with, such as `DPDK 22.11.11`.
pub fn version() -> String {
    // SAFETY: rte_version takes nothing and returns a static NUL-terminated string.
    unsafe { ffi::text(dpdk_sys::rte_version()) }
}
