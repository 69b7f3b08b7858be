//! The whole program, started as operators start it.
#![forbid(unsafe_code)]
// Clippy sees tests only in functions marked as such; everything here is one.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bad_input;
mod common;
mod cutting;
mod forwarding;
mod netns;
mod steering;
mod twins;
mod vlans;
