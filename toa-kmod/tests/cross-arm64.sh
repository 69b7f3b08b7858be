#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# cross-arm64.sh [SERIES...]: compiles the module for Debian's arm64 kernels (6.1 and 6.12), warnings as errors. Needs
# gcc-12-aarch64-linux-gnu. Fetches arm64's headers with package lists of its own, under target/toa-kmod; the machine's
# are left alone and nothing is installed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
module_dir=$(dirname "$here")
root=$(dirname "$module_dir")
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
apt=$work/apt-arm64

say() { echo "toa-kmod: $*"; }
fail() { echo "toa-kmod: $*" >&2; exit 1; }

command -v aarch64-linux-gnu-gcc-12 >/dev/null ||
	fail "there is no compiler for arm64: apt install gcc-12-aarch64-linux-gnu"

# The lists of both architectures, from the places that the machine has for its own.
fetch_lists() {
	mkdir -p "$apt/lists/partial" "$apt/archives/partial"
	cat >"$apt/apt.conf" <<-END
		APT::Architectures { "$(dpkg --print-architecture)"; "arm64"; };
		Dir::State::Lists "$apt/lists";
		Dir::Cache "$apt";
	END
	APT_CONFIG=$apt/apt.conf apt-get update -qq || true
}

# What the package for amd64 brought besides (the common headers, the tools) serves both.
fetch_headers() {
	[ -e "$apt/apt.conf" ] || fetch_lists
	say "fetching the headers of $version"
	part=$(mktemp -d "$work/part-XXXXXX")
	trap 'rm -rf "$part"' EXIT
	(cd "$part" && APT_CONFIG=$apt/apt.conf apt-get download -qq "linux-headers-$version:arm64" 2>"$part/log") ||
		{ cat "$part/log" >&2; fail "apt has no linux-headers-$version for arm64"; }
	dpkg-deb -x "$part"/*.deb "$part"
	rm -f "$part/usr/src/linux-headers-$version/vmlinux"
	sed -i "s|/usr/src/|$for_amd64/usr/src/|" "$part/usr/src/linux-headers-$version/Makefile"
	mv "$part/usr/src/linux-headers-$version" "$for_amd64/usr/src/"
	rm -rf "$part"
	trap - EXIT
}

build() {
	rm -rf "$build"
	mkdir -p "$build"
	cp -r "$module_dir"/*.c "$module_dir"/*.h "$module_dir/compat" "$module_dir/Kbuild" "$build"
	make -s -C "$for_amd64/usr/src/linux-headers-$version" M="$build" W=1 ARCH=arm64 \
		CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc-12 modules >"$build/log" 2>&1 ||
		{ cat "$build/log" >&2; fail "the module does not build for $version"; }
	if grep -iE '(warning|error):' "$build/log" >&2; then fail "the module builds with warnings for $version"; fi
	say "$(basename "$build"): $(file -b "$build/tollgate_toa.ko" 2>/dev/null || echo built)"
}

for series in ${*:-6.1 6.12}; do
	native=$("$here/kernel.sh" "$series")
	for_amd64=$work/headers-$native
	version=${native%-amd64}-arm64
	build=$work/build-$version
	[ -d "$for_amd64/usr/src/linux-headers-$version" ] || fetch_headers
	build
done
