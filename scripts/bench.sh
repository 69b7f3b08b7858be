#!/usr/bin/env bash
# What `make bench` runs: builds the dataplane with the release profile and measures it. QUICK=1: the main rows only.
# Other arguments go to tollgate-bench, e.g. scripts/bench.sh --mode dr,tun --family ipv6 --flows 1k --windows 9.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
out=target/bench
quick=()
[ -z "${QUICK:-}" ] || quick=(--quick)

[ "$(id -u)" -eq 0 ] || { echo "bench: this needs root (huge pages, DPDK)" >&2; exit 1; }
if ! command -v valgrind >/dev/null; then
    echo "bench: installing valgrind, which counts instructions"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends valgrind >/dev/null ||
        echo "bench: valgrind could not be installed; instructions are not counted" >&2
fi

cargo build --release --locked -p tollgate-dataplane -p tollgate-bench
cargo build --release --locked -p tollgate-engine --example instructions

"$target/release/tollgate-bench" \
    --dataplane "$target/release/tollgate-dataplane" \
    --instructions "$target/release/examples/instructions" \
    --out "$out" "${quick[@]}" "$@"

# The pieces, by criterion; the long run only.
if [ -z "${QUICK:-}" ]; then
    : >"$out/criterion.txt"
    for bench in "tollgate-engine --bench engine" "tollgate-wire --bench wire"; do
        # shellcheck disable=SC2086 # two words
        cargo bench --locked -p $bench -- --warm-up-time 0.5 --measurement-time 1 --noplot | tee -a "$out/criterion.txt"
    done
fi
