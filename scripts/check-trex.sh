#!/usr/bin/env bash
# What `make profiles` runs: checks the TRex profiles in configs/trex with the library from PyPI, which it installs into
# target/trex-venv (60 MB, once).
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${CARGO_TARGET_DIR:-target}/trex-venv
if [ ! -x "$venv/bin/pip" ] && ! python3 -m venv "$venv" >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    python3 -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check trex_stl_lib==0.3
# The library is from before Python 3.12 took the module `imp` away.
exec "$venv/bin/python" -W ignore -B configs/trex/check.py
