#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Builds the module against Debian's headers, boots these kernels in qemu (emulated: no KVM is needed), and plays the
# conformance vectors against both receivers. Installs what is missing with apt (as root). KERNELS=6.12 chooses.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
export DEBIAN_FRONTEND=noninteractive
# An emulated boot and the cases take about 20 s on an idle machine, several times that on a busy one.
guest_limit_s=${GUEST_LIMIT_S:-240}

say() { echo "toa-kmod: $*"; }
fail() { echo "toa-kmod: $*" >&2; exit 1; }

install_missing() {
	missing=
	command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
	command -v cpio >/dev/null || missing="$missing cpio"
	command -v xz >/dev/null || missing="$missing xz-utils"
	command -v make >/dev/null || missing="$missing make"
	command -v perl >/dev/null || missing="$missing perl"
	command -v gcc-12 >/dev/null || missing="$missing gcc-12"
	command -v strip >/dev/null || missing="$missing binutils"
	command -v clang >/dev/null || missing="$missing clang"
	command -v sparse >/dev/null || missing="$missing sparse"
	[ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
	[ -e /usr/share/doc/busybox-static ] || missing="$missing busybox-static"
	[ -n "$missing" ] || return 0
	say "installing$missing"
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
		fail "could not install$missing; install them by hand"
}

run_guest() {
	# One emulating thread: patching code under several is not emulated right and hangs now and then.
	timeout "$guest_limit_s" qemu-system-x86_64 -accel tcg,thread=single -smp 1 -m 256 -nographic -no-reboot \
		-nic none -kernel "$1" -initrd "$2" -append "console=ttyS0 quiet panic=-1 mitigations=off toa=cases" \
		</dev/null >"$log" 2>&1 || say "the guest was ended (status $?)"
}

tell() {
	log=$work/guest-$1.log
	say "Linux $1"
	sed -n '/^== /,$p' "$log" | tr -d '\r' | grep -v '^ok '
	tr -d '\r' <"$log" | grep -q '^== all passed$' || fail "the guest did not pass; its whole output is in $log"
}

mkdir -p "$work"
install_missing
kernels=${KERNELS:-6.1 6.12}
# A guest uses one CPU, so one for each kernel at a time is what a small machine can do.
for series in $kernels; do
	files=$(SPARSE=1 "$here/guest.sh" "$series")
	log=$work/guest-$series.log
	say "booting $(basename "$(echo "$files" | head -1)")"
	run_guest $files &
done
wait
for series in $kernels; do
	tell "$series"
done
