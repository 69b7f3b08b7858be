//! What the fuzz targets do with their bytes.
//!
//! Each module has one function, `run`, which panics when a promise is broken, and returns for all other input. The
//! targets in `fuzz_targets/` call it under libFuzzer; the workspace's `tests/tests/fuzz_corpora.rs` calls it with every
//! file of `corpora/`.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod engine;
pub mod script;
pub mod wire;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; their names are also those of their folders in `corpora/`.
pub const TARGETS: [Target; 4] =
    [("api", api::run), ("config", config::run), ("engine", engine::run), ("wire", wire::run)];
