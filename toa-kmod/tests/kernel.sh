#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# kernel.sh SERIES: unpacks the newest kernel of a series (6.1 or 6.12) that Debian 12 offers, and the headers to build
# modules for it, under target/toa-kmod. Nothing is installed. Prints the kernel's version; its files are then in
# image-VERSION (boot/, lib/modules/) and headers-VERSION (usr/src/linux-headers-VERSION). What is there is used again.
set -eu

series=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
export DEBIAN_FRONTEND=noninteractive

say() { echo "toa-kmod: $*" >&2; }
fail() { say "$*"; exit 1; }

case $series in
6.1) pattern='6\.1\.0-[0-9]+-amd64' ;;
6.12) pattern='6\.12\.[0-9]+\+deb1[23](\.[0-9]+)?-amd64' ;;
*) fail "no kernel series $series: 6.1 and 6.12 are known" ;;
esac

newest() { sort -V | tail -1; }

# Versions of which both folders are there.
unpacked() {
	for folder in "$work"/headers-*; do
		version=${folder##*/headers-}
		[ ! -e "$work/image-$version/boot/vmlinuz-$version" ] || echo "$version"
	done | grep -xE "$pattern" || true
}

# Versions of the packages named $1-VERSION$2 that apt can fetch.
offered() {
	apt-cache search --names-only "^$1-$pattern$2\$" | while read -r package _; do
		[ -z "$(apt-cache madison "$package")" ] || echo "$package" | sed "s/^$1-//; s/$2\$//"
	done
}

choose() {
	# A fresh machine may have no package lists yet, an old one those of packages that are gone.
	apt-get update -qq >&2 || true
	images=$(offered linux-image -unsigned)
	offered linux-headers "" | grep -xF "$images" | newest
}

# Packages that the headers need besides the compiler: the common ones, and kbuild.
header_packages() {
	echo "linux-headers-$version"
	apt-cache depends --no-recommends "linux-headers-$version" |
		sed -nE 's/^ *\|?Depends: (linux-(headers-.*-common|kbuild-.*))$/\1/p'
}

# Under another name until it is whole: a fetch that was cut off leaves nothing that looks like headers.
fetch_headers() {
	headers=$work/headers-$version
	part=$(mktemp -d "$work/part-XXXXXX")
	trap 'rm -rf "$part"' EXIT
	say "fetching the headers of $version"
	(cd "$part" && apt-get download -qq $(header_packages) 2>"$part.log") ||
		{ cat "$part.log" >&2; fail "apt has no headers for $version"; }
	for deb in "$part"/*.deb; do
		dpkg-deb -x "$deb" "$part" && rm -f "$deb"
	done
	rm -f "$part.log"
	# They name one another by the place where the package would install them.
	sed -i "s|/usr/src/|$headers/usr/src/|" "$part/usr/src/linux-headers-$version/Makefile"
	# Type information for modules would need one more package, pahole, and nothing here uses it.
	rm -f "$part/usr/src/linux-headers-$version/vmlinux"
	chmod 755 "$part"
	rm -rf "$headers"
	mv "$part" "$headers"
	trap - EXIT
}

mkdir -p "$work"
version=$(unpacked | newest)
version=${version:-$(choose)}
[ -n "$version" ] || fail "apt offers no kernel $series with headers (linux-headers-… and linux-image-…-unsigned)"
[ -d "$work/headers-$version" ] || fetch_headers
KERNEL=$version "$root/scripts/guest-kernel.sh" >/dev/null
echo "$version"
