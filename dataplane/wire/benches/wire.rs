//! Criterion benches for parsing, checksums and option stripping.
fn main() {}
