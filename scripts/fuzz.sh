#!/usr/bin/env bash
# Gives every fuzz target a short turn: SECONDS_EACH (60) seconds each. See fuzz/run.sh.
set -euo pipefail
exec "$(dirname "$0")/../fuzz/run.sh" "$@"
