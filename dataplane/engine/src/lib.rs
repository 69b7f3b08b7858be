//! The gateway itself: services, schedulers, connections, local ports, translation, TCP state, expiry.
//!
//! No DPDK, no I/O, no clock, no unsafe code: packets come as [`wire::PacketBuf`]s, time comes as an argument
//! ([`Ticks`]), configuration as an immutable [`Snapshot`], and the caller carries out the [`Verdict`]s.
//!
//! Where things are:
//! - [`worker`]: one core's share of the gateway; [`Worker::process`] is the packet path.
//! - `addr`: addresses of either family.
//! - `plain`, `parse`, `translate`, `tcp`, `icmp`: what happens to one packet.
//! - `fragments`: which fragments belong together.
//! - [`conn`], `table`, `wheel`, `ports`: connection records, their index, expiry, local ports.
//! - [`snapshot`], [`plan`]: configuration as workers read it, and how it is made from a [`Spec`].
//! - [`rss`], [`steer`]: which worker a packet belongs to.
//! - [`persist`]: which client has which real server.
//! - [`fib`]: routes, next hops and their MAC addresses, mirrored from the kernel.
//! - [`counters`]: everything that is counted, one writer each; `traffic`: what packets add to it.
#![forbid(unsafe_code)]

mod addr;
pub mod conn;
pub mod counters;
mod deal;
mod embryonic;
pub mod fib;
mod fragments;
mod hash;
mod icmp;
pub mod ids;
mod limiter;
mod parse;
pub mod persist;
mod plain;
pub mod plan;
mod ports;
pub mod rss;
mod sched;
pub mod snapshot;
pub mod steer;
mod table;
pub mod tcp;
pub mod time;
mod traffic;
mod translate;
pub mod verdict;
mod wheel;
pub mod worker;

pub use addr::{Addr, Endpoint};
pub use conn::{ConnFilter, ConnInfo};
pub use counters::{Counter, Counters};
pub use deal::TooFew;
pub use fib::{Fib, FibBuilder};
pub use ids::{AdjacencyId, PairId, PortId, RealId, ServiceId, WorkerId};
pub use persist::{Template, Templates};
pub use plan::{Limits, PlanError, Planner, RealSpec, ServiceSpec, Spec, Update};
pub use rss::Rss;
pub use snapshot::Snapshot;
pub use tcp::ConnState;
pub use time::Ticks;
pub use verdict::{DropReason, PuntClass, Released, Verdict, WAIT_LEN_MAX, WAIT_SLOTS, WaitSlot};
pub use worker::{RESETS_MAX, Worker, WorkerConfig};

/// Packets that [`Worker::process`] takes at most in one call.
pub const BURST_LEN_MAX: usize = 64;
