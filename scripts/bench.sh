#!/usr/bin/env bash
# What `make bench` runs: builds the dataplane with the release profile and measures it. QUICK=1: the main rows only.
# Other arguments go to tollgate-bench, e.g. scripts/bench.sh --mode dr,tun --family ipv6 --flows 1k --windows 9, or
# scripts/bench.sh --only end_to_end.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
out=target/bench
quick=()
[ -z "${QUICK:-}" ] || quick=(--quick)

[ "$(id -u)" -eq 0 ] || { echo "bench: this needs root (huge pages, DPDK, namespaces)" >&2; exit 1; }
scripts/setup.sh bench

cargo build --release --locked -p tollgate-dataplane -p tollgate-control -p tollgate-bench
cargo build --release --locked -p tollgate-engine --example instructions --example expiry

RUST_LIB_BACKTRACE=0 "$target/release/tollgate-bench" \
    --dataplane "$target/release/tollgate-dataplane" \
    --instructions "$target/release/examples/instructions" --expiry "$target/release/examples/expiry" \
    --out "$out" "${quick[@]}" "$@"
