#!/usr/bin/env bash
# What `make profiles` runs, and `make test` with it: checks the TRex profiles in configs/trex with libraries from PyPI,
# which it installs into target/trex (90 MB, once).
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=configs/trex/requirements.txt
# TRex's own client library as CESNET repackages it; the only one on PyPI with the stateful part (ASTF).
console=lbr_trex_client==3.4.0
dir=${CARGO_TARGET_DIR:-target}/trex
log=$dir/install.log

die() { printf 'trex profiles: %s\n' "$*" >&2; exit 1; }

install_libraries() {
    echo "trex profiles: installing TRex's libraries from PyPI into $dir (once)"
    rm -rf "$dir"
    mkdir -p "$dir"
    # Each library brings its own scapy, so they are kept apart.
    {
        /usr/bin/python3 -m venv "$dir/venv" &&
            "$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r $requirements &&
            "$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$dir/console" $console
    } >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        die "the libraries cannot be installed: this needs PyPI, once, and Debian's python3-venv. More is in $log"
    }
    cp $requirements "$dir/installed.txt"
    echo $console >>"$dir/installed.txt"
}

if ! cmp -s <(cat $requirements && echo $console) "$dir/installed.txt" 2>/dev/null; then
    install_libraries
fi
# The libraries are from before Python 3.12 took the module `imp` away.
python=("$dir/venv/bin/python" -W ignore -B)
"${python[@]}" -c 'import imp' 2>/dev/null ||
    die "these libraries need a Python before 3.12 (Debian 12 has 3.11), this is $("${python[@]}" --version)"
"${python[@]}" configs/trex/check.py stl
# -S: without the other library's scapy.
PYTHONPATH=$(realpath "$dir/console") "${python[@]}" -S configs/trex/check.py console
