#!/usr/bin/env bash
# Makes a Debian 12 machine ready for `make demo` and `make test`: installs the packages that are missing and
# looks for Rust. Does nothing, quickly, when all is there. With the argument "bench" also what `make bench` compares with.
set -euo pipefail

# A program or file (or a pattern for one) that must be there, and the Debian package that has it.
needs=(
    "/usr/include/dpdk/rte_eal.h libdpdk-dev"
    "dpdk-testpmd dpdk-dev"
    "pkg-config pkg-config"
    "cc build-essential"
    "clang clang"
    "/usr/lib/llvm-*/lib/libclang[-.][0-9s]* libclang-dev"
    "ip iproute2"
    "ethtool ethtool"
    "/etc/services netbase"
    "sysctl procps"
    "setpriv util-linux"
    "nginx nginx-light"
    "curl curl"
    "openssl openssl"
    "dnsmasq dnsmasq-base"
    "dig bind9-dnsutils"
    "ping iputils-ping"
    "wrk wrk"
    "tcpdump tcpdump"
    "tshark tshark"
    "prometheus prometheus"
    "qemu-system-x86_64 qemu-system-x86"
    "/usr/share/doc/busybox-static busybox-static"
    "ipvsadm ipvsadm"
    "valgrind valgrind"
    "cpio cpio"
    "xz xz-utils"
    "gcc-12 gcc-12"
    "sparse sparse"
    "haproxy haproxy"
    "python3 python3"
    "/usr/lib/python3*/ensurepip/__init__.py python3-venv"
    "node nodejs"
    "bird bird2"
    "keepalived keepalived"
)
# For `make bench` only.
bench_needs=(
    "/usr/lib/nginx/modules/ngx_stream_module.so libnginx-mod-stream"
    "iperf3 iperf3"
    "nft nftables"
)
[ "${1:-}" != bench ] || needs+=("${bench_needs[@]}")
rust_min=1.91

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

present() {
    case $1 in
        /*) compgen -G "$1" >/dev/null ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

install_missing() {
    local missing=() need
    for need in "${needs[@]}"; do
        present "${need%% *}" || missing+=("${need##* }")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "missing: ${missing[*]} (Debian's names), and there is no apt-get to install them"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Packages such as nginx and prometheus start a service when they are installed; only the programs are wanted.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    keep_stopped "${missing[@]}"
    for need in "${needs[@]}"; do
        present "${need%% *}" || die "package ${need##* } is installed but ${need%% *} is not there"
    done
}

# The policy above prevents only the first start; the next boot would start them.
keep_stopped() {
    local package
    for package in "$@"; do
        case $package in
            nginx*) systemctl disable --now nginx ;;
            prometheus) systemctl disable --now prometheus ;;
            ipvsadm) systemctl disable --now ipvsadm ;;
            haproxy) systemctl disable --now haproxy ;;
            bird2) systemctl disable --now bird ;;
            keepalived) systemctl disable --now keepalived ;;
            nftables) systemctl disable --now nftables ;;
        esac >/dev/null 2>&1 || true # A machine without systemd starts nothing either.
    done
}

check_rust() {
    if ! command -v cargo >/dev/null; then
        die "Rust is missing: install it from https://rustup.rs (version $rust_min or newer), then run this again"
    fi
    local have
    have=$(rustc --version | awk '{print $2}')
    [ "$(printf '%s\n%s\n' "$rust_min" "$have" | sort -V | head -n1)" = "$rust_min" ] ||
        die "Rust $have is too old: $rust_min or newer is needed (rustup update)"
    local tool
    for tool in fmt clippy; do
        cargo $tool --version >/dev/null 2>&1 ||
            die "cargo $tool does not work: rustup component add rustfmt clippy"
    done
}

[ "$(id -u)" -eq 0 ] || die "this needs root (network namespaces, huge pages): sudo -E env PATH=\"\$PATH\" make …"
PATH=$PATH:/usr/sbin:/sbin
install_missing
check_rust
