#!/usr/bin/env bash
# Runs a command that makes namespaces and wants huge pages, and leaves the machine as it was: scripts/tidy-run.sh
# COMMAND ARGUMENTS… reserves huge pages, and gives them back when the command has ended, however it ends, unless
# KEEP=1 and it succeeded. Without a command it gives back what was kept. Exits as the command does, after which it
# prints nothing.
set -euo pipefail

# 2 MiB pages; the dataplane asks for more by itself when its configuration wants more.
wanted=512
huge_dir=/sys/kernel/mm/hugepages/hugepages-2048kB
# How many pages were added. Runs that go on hold a shared lock on it; the last one gives the pages back.
state=/run/tollgate-huge-pages

say() { printf 'tidy-run: %s\n' "$*"; }
# With "free" or "nr".
pages() { cat "$huge_dir/$1_hugepages"; }

reserve() {
    exec 9>>$state
    flock -s 9
    local before after
    before=$(pages nr)
    [ "$before" -lt $wanted ] || return 0
    say "reserving $wanted huge pages of 2 MiB until the end"
    echo $wanted >$huge_dir/nr_hugepages
    after=$(pages nr)
    echo $((after - before)) >&9
    [ "$after" -ge $wanted ] ||
        say "only $after could be reserved: memory is short or in pieces; DPDK will do without the rest"
}

# Only what was added goes, and only while that much is free: others may have found the pages and use them.
give_back() {
    [ -e $state ] || return 0
    exec 9>>$state
    flock -n -x 9 || return 0
    local added
    added=$(awk '{ sum += $1 } END { print sum + 0 }' $state)
    [ "$(pages free)" -ge "$added" ] || return 0
    [ "$added" -eq 0 ] || echo $(($(pages nr) - added)) >$huge_dir/nr_hugepages
    : >$state
}

# A test that was killed cannot remove its namespaces.
tidy() {
    local sweep=${TOLLGATE_BIN_DIR:-}/tollgate-demo
    [ ! -x "$sweep" ] || "$sweep" --sweep >/dev/null 2>&1 || true
    [ ! -w $huge_dir/nr_hugepages ] || give_back 2>/dev/null || true
}

if [ $# -eq 0 ]; then
    tidy
    exit
fi

if [ -w $huge_dir/nr_hugepages ]; then
    reserve
else
    say "no huge pages can be reserved here; DPDK will do without, slower"
fi

# In the background, because a signal to this shell alone must reach the command at once; Ctrl-C reaches both.
child=
trap ':' INT
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM HUP
(trap - INT TERM HUP; exec "$@" 9>&-) &
child=$!
status=0
while :; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
done
if [ $status -ne 0 ] || [ "${KEEP:-0}" = 0 ] || [ -z "${KEEP:-}" ]; then
    tidy
fi
exit $status
