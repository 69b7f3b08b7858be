//! The control plane: the daemon `tollgate-control` and the command line `tollgate`.
//!
//! The daemon reads the configuration, checks the real servers and tells the dataplane the whole desired state each
//! time that something changes. It holds nothing that the dataplane needs to go on: when control dies, traffic does
//! not notice.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod cli;
pub mod client;
pub mod ctl;
pub mod daemon;
pub mod desired;
pub mod health;
pub mod http;
pub mod metrics;
pub mod pace;
