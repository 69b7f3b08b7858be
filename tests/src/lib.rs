//! The test bed: network namespaces, veths, processes in them, and whole rigs made of these.
//!
//! A [`Rig`] is the network that the demo and the end-to-end tests use: clients, a gateway whose two ports DPDK
//! drives, and nginx real servers. Everything here works through the ordinary programs (`ip`, `ethtool`, `curl`,
//! `tcpdump`, …) run as child processes, so what a test does can be repeated by hand.
//!
//! Whatever is made is taken away when its value is dropped: processes are ended by their id, namespaces deleted.
//! A run that was killed leaves namespaces behind; the next [`Rig`] removes those whose maker no longer lives.
//!
//! A rig, or a guest with a gateway, that goes before its test has succeeded first shows what one needs to find the
//! cause: see `post_mortem`.
//!
//! Everything needs root. Nothing touches addresses or interfaces outside the namespaces made here.
#![forbid(unsafe_code)]

mod agent;
pub mod capture;
pub mod config;
pub mod dns;
pub mod flow_guest;
pub mod frames;
pub mod gateway;
pub mod gateway_guest;
mod guest_image;
pub mod ipvs_guest;
pub mod lab;
pub mod load;
pub mod netns;
pub mod nginx;
pub mod pcap;
mod post_mortem;
pub mod process;
pub mod prometheus;
mod qemu;
pub mod receiver;
pub mod rig;
pub mod rss_guest;
pub mod run;
pub mod scenario;
mod side;
pub mod toa_guest;
pub mod wait;

pub use config::ConfigFile;
pub use gateway::Gateway;
pub use netns::Netns;
pub use process::Process;
pub use rig::{Rig, RigOptions};
pub use run::Cmd;
pub use wait::wait_until;
