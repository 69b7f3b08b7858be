#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Builds the module against Debian's headers, boots that kernel in qemu (emulated: no KVM is needed), and plays the
# conformance cases of toa-bpf/tests/probe against the loaded module. Installs what is missing with apt (as root);
# keeps what it downloads and builds under target/toa-kmod. KERNEL=6.1.0-56-amd64 chooses another kernel.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
module_dir=$(dirname "$here")
root=$(dirname "$module_dir")
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
export DEBIAN_FRONTEND=noninteractive
# An emulated boot and the cases take about 15 s on an idle machine, several times that on a busy one.
guest_limit_s=${GUEST_LIMIT_S:-240}

say() { echo "toa-kmod: $*"; }
fail() { echo "toa-kmod: $*" >&2; exit 1; }

install_missing() {
	missing=
	command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
	command -v cpio >/dev/null || missing="$missing cpio"
	command -v make >/dev/null || missing="$missing make"
	command -v strip >/dev/null || missing="$missing binutils"
	command -v clang >/dev/null || missing="$missing clang"
	[ -e /usr/share/doc/busybox-static ] || missing="$missing busybox-static"
	[ -d "/usr/src/linux-headers-$1" ] || missing="$missing linux-headers-$1"
	[ -n "$missing" ] || return 0
	say "installing$missing"
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
		fail "could not install$missing; install them by hand"
}

# In a folder of its own: the sources stay clean, and several kernels do not disturb one another.
build_module() {
	mkdir -p "$build"
	cp "$module_dir"/*.c "$module_dir"/*.h "$module_dir"/Kbuild "$build"
	make -s -C "/usr/src/linux-headers-$kernel" M="$build" modules >"$build/log" 2>&1 ||
		{ cat "$build/log"; fail "the module does not build for $kernel"; }
	if grep -i warning "$build/log"; then fail "the module builds with warnings"; fi
}

# Linked statically, since the guest has no libraries.
build_tools() {
	cd "$root"
	RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR="$work/probe" \
		cargo build --locked --quiet --package tollgate-toa --bin tollgate-toa --example toa-probe \
		--target x86_64-unknown-linux-gnu
}

build_initramfs() {
	rm -rf "$guest" && mkdir -p "$guest/bin" "$guest/proc" "$guest/sys" "$guest/dev"
	cp /bin/busybox "$guest/bin/busybox"
	cp "$tools/examples/toa-probe" "$tools/tollgate-toa" "$build/tollgate_toa.ko" "$guest/"
	cp "$image/lib/modules/$kernel/kernel/drivers/net/tun.ko" "$guest/"
	cp "$here/guest-init.sh" "$guest/init" && chmod 755 "$guest/init"
	strip --strip-debug "$guest/toa-probe" "$guest/tollgate-toa"
	(cd "$guest" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs.$kernel"
}

run_guest() {
	# One emulating thread: patching code under several is not emulated right and hangs now and then.
	timeout "$guest_limit_s" qemu-system-x86_64 -accel tcg,thread=single -smp 1 -m 256 -nographic -no-reboot \
		-nic none -kernel "$image/boot/vmlinuz-$kernel" -initrd "$work/initramfs.$kernel" \
		-append "console=ttyS0 quiet panic=-1" </dev/null >"$log" 2>&1 || say "the guest was ended (status $?)"
}

image=$("$root/scripts/guest-kernel.sh" --with-headers) || fail "there is no kernel to test with"
kernel=${image##*/image-}
build=$work/build-$kernel
guest=$work/guest-$kernel
tools=$work/probe/x86_64-unknown-linux-gnu/debug
log=$work/guest-$kernel.log
mkdir -p "$work"

install_missing "$kernel"
build_module
build_tools
build_initramfs
say "booting $kernel"
run_guest
sed -n '/^== /,$p' "$log" | tr -d '\r'
tr -d '\r' <"$log" | grep -q '^== all passed$' || fail "the guest did not pass; its whole output is in $log"
