#!/usr/bin/env bash
# What the TOA receivers cost a real server: accept() and getpeername() with and without each, as ratios of one run.
# The BPF receiver on this kernel: on hand-made connections, on nginx without a gateway, and on the nginx servers of
# `make demo` behind theirs; both receivers in guests with Debian's
# kernels (emulated: instructions). Needs root; takes some minutes. ROUNDS=5 by default; KERNELS= leaves the
# guests out.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-5}
# Seconds that wrk loads nginx, each time.
wrk_s=3
trust=10.9.0.0/24
# Programs that `make build` has made.
bin_dir=${TOLLGATE_BIN_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/fast}
name=tgtoabench-$$
scratch=$(mktemp -d)
nginx=
cgroup=

say() { printf '%s\n' "$*"; }
die() { printf 'toa-bench: %s\n' "$*" >&2; exit 1; }

clean() {
    [ -z "$nginx" ] || { kill "$nginx" && wait "$nginx"; } 2>/dev/null || true
    ! mountpoint -q "$scratch/bpf" || umount "$scratch/bpf"
    echo 0 >"$home/cgroup.procs"
    # What was interrupted may take a moment to end.
    for _ in $(seq 50); do
        [ -d "$cgroup" ] && ! rmdir "$cgroup" 2>/dev/null || break
        sleep 0.1
    done
    rm -rf "$scratch"
}

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# Sockets belong to the group of the process that makes them, so this shell and all that it starts go there.
enter_group() {
    root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
    [ -n "$root" ] || die "no control groups version 2 are mounted"
    home=$root$(sed -n 's/^0:://p' /proc/self/cgroup)
    cgroup=$root/$name
    trap clean EXIT
    mkdir "$cgroup" "$scratch/bpf"
    mount -t bpf "$name" "$scratch/bpf"
    echo 0 >"$cgroup/cgroup.procs"
}

start_nginx() {
    cat >"$scratch/nginx.conf" <<END
daemon off; master_process off; pid $scratch/pid; error_log $scratch/error.log; events { worker_connections 2048; }
http { log_format peer "\$remote_addr"; access_log $scratch/access.log peer; server { listen 127.0.0.1:8080 backlog=4096; return 200 "hello"; } }
END
    nginx -e stderr -c "$scratch/nginx.conf" &
    nginx=$!
    for _ in $(seq 100); do
        ! curl -s -o /dev/null http://127.0.0.1:8080/ || return 0
        sleep 0.1
    done
    die "nginx does not answer"
}

# Microseconds of nginx's CPU time for a request on a connection of its own: unlike requests per second, other programs'
# work is not in it.
load() {
    local before after requests
    before=$(cut -d ' ' -f 1 "/proc/$nginx/schedstat")
    requests=$(wrk -t 1 -c 16 -d "$wrk_s" -H 'Connection: close' http://127.0.0.1:8080/ |
        awk '/requests in/ { print $1 }')
    after=$(cut -d ' ' -f 1 "/proc/$nginx/schedstat")
    awk -v ns=$((after - before)) -v n="$requests" 'BEGIN { print ns / n / 1000 }'
}

bench_wrk() {
    start_nginx
    load >/dev/null
    for _ in $(seq "$rounds"); do
        load >>"$scratch/without"
        sh -c "$on" >/dev/null
        load >>"$scratch/with"
        sh -c "$off" >/dev/null
    done
    compare "nginx without a gateway, under wrk"
}

compare() {
    local with without
    with=$(median <"$scratch/with") without=$(median <"$scratch/without")
    awk -v what="$1" -v w="$with" -v o="$without" 'BEGIN {
        printf "%s: %.1f us of CPU a connection without, %.1f with, ratio %.3f\n", what, o, w, w / o }'
}

# The demo's servers, which all connections tell the client: nginx's CPU time for one that wrk makes through the gateway.
load_demo() {
    local group=$1 before after requests
    cpu_of_group() { cat $(sed 's|.*|/proc/&/schedstat|' "$group/cgroup.procs") | awk '{ sum += $1 } END { printf "%.0f", sum }'; }
    before=$(cpu_of_group)
    requests=$(ip netns exec tollgate-client1 wrk -t 1 -c 16 -d "$wrk_s" -H 'Connection: close' http://10.1.0.100/ |
        awk '/requests in/ { print $1 }')
    after=$(cpu_of_group)
    awk -v ns=$((after - before)) -v n="$requests" 'BEGIN { print ns / n / 1000 }'
}

bench_demo() {
    local root pins group tool=$bin_dir/tollgate-toa
    root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
    group=$root/tollgate-toa
    KEEP=1 "$bin_dir/tollgate-demo" >"$scratch/demo" || { cat "$scratch/demo"; die "the demo does not run"; }
    trap '"$bin_dir/tollgate-demo" --stop; rm -rf "$scratch"' EXIT
    pins=$(cat /run/tollgate-demo)/bpf/toa
    load_demo "$group" >/dev/null
    for _ in $(seq "$rounds"); do
        load_demo "$group" >>"$scratch/with"
        "$tool" --pin-dir "$pins" detach >/dev/null
        load_demo "$group" >>"$scratch/without"
        "$tool" --pin-dir "$pins" attach --cgroup "$group" --trust 10.2.0.200/30 >/dev/null
    done
    compare "nginx behind the gateway, under wrk"
    "$bin_dir/tollgate-demo" --stop >/dev/null
    trap 'rm -rf "$scratch"' EXIT
}

bench_guest() {
    local kernel initrd probe
    { read -r kernel; read -r initrd; read -r probe; } < <(toa-kmod/tests/guest.sh "$1")
    say "== Linux $1, emulated: 1 ns is one instruction"
    timeout 300 qemu-system-x86_64 -accel tcg,thread=single -icount shift=0,sleep=off -smp 1 -m 256 -nographic -no-reboot -nic none \
        -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1 mitigations=off toa=bench" \
        </dev/null | tr -d '\r' | sed -n '/^== /,/^== done/p' | grep -v '== done'
}

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" -eq 0 ] || die "this needs root"
    # Builds the tools and tells where the probe is.
    probe=$(toa-kmod/tests/guest.sh 6.12 | sed -n 3p)
    unshare -n "$0" --inside "$probe"
    bench_demo
    for series in ${KERNELS-6.1 6.12}; do bench_guest $series; done
    exit
fi

probe=$2
tool=${probe%/examples/*}/tollgate-toa
on="$tool --pin-dir $scratch/bpf/toa attach --cgroup \$(awk '\$3 == \"cgroup2\" { print \$2; exit }' /proc/self/mounts)/$name --trust $trust,127.0.0.0/8"
off="$tool --pin-dir $scratch/bpf/toa detach"
ip link set lo up
enter_group
say "== Linux $(uname -r), BPF receiver"
"$probe" bench "$on" "$off" "$rounds"
bench_wrk
