#!/usr/bin/env bash
# Runs the tests of the workspace; `make test` has built and checked before. Arguments go to the test runner.
set -euo pipefail
cd "$(dirname "$0")/.."
# Built when there is none; any other will do too.
nextest_version=0.9.143

if [ $# -eq 0 ]; then
    set -- --workspace
    # Examples in the documentation; nextest does not run these, and its summary line shall be the last one.
    cargo test --locked --workspace --doc --quiet
fi

if ! command -v cargo-nextest >/dev/null; then
    echo "test: cargo-nextest is missing; building it (once, some minutes)"
    cargo install --locked --quiet cargo-nextest --version $nextest_version || echo "test: that failed; going on with cargo test"
fi
if command -v cargo-nextest >/dev/null; then
    exec cargo nextest run --locked "$@"
fi
# Without nextest's groups, end-to-end tests would run side by side and starve each other.
exec cargo test --locked --no-fail-fast "$@" -- --test-threads=1
