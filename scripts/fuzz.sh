#!/usr/bin/env bash
# Gives every fuzz target a short turn: SECONDS_EACH (60) seconds each. A crash ends it with an error and leaves the
# input in fuzz/artifacts/.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${SECONDS_EACH:-60}

die() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }

cargo +nightly --version >/dev/null 2>&1 || die "a nightly Rust is needed: rustup toolchain install nightly"
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz || die "cargo-fuzz cannot be installed"

shopt -s nullglob
targets=(fuzz/fuzz_targets/*.rs)
[ ${#targets[@]} -gt 0 ] || die "there are no targets in fuzz/fuzz_targets"
for path in "${targets[@]}"; do
    target=$(basename "$path" .rs)
    echo "fuzz: $target for $seconds s"
    corpus=fuzz/corpora/$target
    mkdir -p "$corpus"
    # New inputs go to a corpus of their own, so that the one in git changes only on purpose.
    found=fuzz/target/found/$target
    mkdir -p "$found"
    cargo +nightly fuzz run --fuzz-dir fuzz "$target" "$found" "$corpus" -- -max_total_time="$seconds" -rss_limit_mb=4096 -print_final_stats=0
done
