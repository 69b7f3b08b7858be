#!/usr/bin/env bash
# Counts the engine's instructions per packet with the code of a release build and holds them against
# bench/instructions.toml. REASON="...": makes the figures the new budget instead, and writes the reason beside them.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
renew=()
[ -z "${REASON:-}" ] || renew=(--new-budget "$REASON")

cargo build --release --locked -p tollgate-engine --example instructions
# The tool itself may be slow, so it is built the quick way.
RUST_LIB_BACKTRACE=0 cargo run --quiet --locked -p tollgate-bench -- \
    --instructions "$target/release/examples/instructions" \
    --budget bench/instructions.toml --out target/bench "${renew[@]}"
