//! The BPF receiver on the running kernel: real programs, a control group and network namespaces of our own, and
//! servers that know nothing of it. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers fail the test")]

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../probe/mod.rs"]
mod probe;

mod attach;
mod fixture;
mod servers;
mod udp;
mod vectors;
