#!/bin/sh
# Runs the fuzz targets, each for SECONDS_EACH seconds (60), with the toolchain that builds everything else:
# the coverage instrumentation that libFuzzer needs is an option of LLVM's, not of a nightly compiler.
#   fuzz/run.sh [TARGET...]       inputs that break a promise are left in target/fuzz/found/TARGET
#   fuzz/run.sh replay TARGET FILE...
# New inputs worth keeping are collected in target/fuzz/corpora; KEEP=1 merges them into fuzz/corpora.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
work=${CARGO_TARGET_DIR:-$root/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
seconds=${SECONDS_EACH:-60}

export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
--cfg fuzzing -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1"
# --target keeps the instrumentation out of build scripts and macros.
(cd "$here" && cargo build --quiet --release --features libfuzzer --bins --target "$host" --target-dir "$work")
bin=$work/$host/release

if [ "${1:-}" = replay ]; then
	target=$2
	shift 2
	exec "$bin/$target" "$@"
fi
[ $# -gt 0 ] || set -- wire engine config api
status=0
for target in "$@"; do
	collected=$work/corpora/$target
	found=$work/found/$target
	mkdir -p "$collected" "$found"
	echo "fuzz: $target for $seconds s"
	"$bin/$target" "$collected" "$here/corpora/$target" -max_total_time="$seconds" -timeout=10 -max_len=4096 \
		-artifact_prefix="$found/" -print_final_stats=1 >"$work/$target.log" 2>&1 || status=1
	grep -E 'panicked|^SUMMARY|stat::number_of_executed_units|Test unit written' "$work/$target.log" || true
	if [ "${KEEP:-0}" = 1 ]; then
		"$bin/$target" -merge=1 "$here/corpora/$target" "$collected" >/dev/null 2>&1 || true
	fi
done
exit $status
