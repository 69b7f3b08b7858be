//! Raw bindings to the DPDK that is installed on the machine, made at build time.
//!
//! Nothing is declared by hand: `build.rs` runs bindgen over the installed headers, so that structure layouts are
//! those of the very libraries that are linked. What bindgen cannot bind (macros, fields in anonymous unions, whose
//! names differ between DPDK releases) goes through the few C lines of `src/shim`.
//!
//! Safe use of all this is the business of the crate `dpdk`; no other crate should depend on this one.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    unreachable_pub,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

const _: () = assert!(size_of::<rte_mbuf>() == 128, "an mbuf is two cache lines");
const _: () = assert!(align_of::<rte_mbuf>() >= 64, "an mbuf starts on a cache line");
const _: () = assert!(size_of::<rte_ether_addr>() == 6);
