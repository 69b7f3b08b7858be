#!/usr/bin/env bash
# Runs the tests of the workspace; `make test` has built and checked before. Arguments go to the test runner.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- --workspace

if ! command -v cargo-nextest >/dev/null; then
    echo "test: cargo-nextest is missing; building it (once, some minutes)"
    cargo install --locked --quiet cargo-nextest || echo "test: that failed; going on with cargo test"
fi
# The tests end with the runner's summary line: nothing is printed after it.
if command -v cargo-nextest >/dev/null; then
    cargo test --locked --doc --quiet --workspace >/dev/null || { cargo test --locked --doc --workspace; exit 1; }
    exec cargo nextest run --locked "$@"
fi
# Without nextest's groups, end-to-end tests would run side by side and starve each other.
exec cargo test --locked "$@" -- --test-threads=1
