#!/bin/sh
# Unpacks a Debian 12 kernel package for the guests of tests (nothing is installed) and prints the folder,
# which ends in image-VERSION and has boot/vmlinuz-VERSION and lib/modules/VERSION in it. Fetches the package
# with apt when there is none, and keeps what it unpacked under target/toa-kmod. All tests use the same one.
#
# scripts/guest-kernel.sh                 any kernel; one that is already unpacked if there is one
# scripts/guest-kernel.sh --with-headers  one whose headers are installed or can be had, for building modules
# KERNEL=6.1.0-56-amd64                   that one
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
export DEBIAN_FRONTEND=noninteractive

say() { echo "guest-kernel: $*" >&2; }
fail() { say "$*"; exit 1; }

# Of version numbers on the input, the newest.
newest() { sort -V | tail -1; }

# Versions of the packages that apt can fetch, whose names begin with $1 and end with $2; without those that
# are only installed.
offered() {
	apt-cache search --names-only "^$1-6\.1\.0-[0-9]+-amd64$2\$" | while read -r package _; do
		[ -z "$(apt-cache madison "$package")" ] || echo "$package" | sed "s/^$1-//; s/$2\$//"
	done
}

unpacked() {
	for file in "$work"/image-6.1.0-*/boot/vmlinuz-*; do
		[ ! -e "$file" ] || echo "${file##*/vmlinuz-}"
	done
}

# The newest Debian 12 kernel: of the installed headers, if their image is here or can be had, or else the
# newest of which apt offers both.
choose_with_headers() {
	version=$(ls -d /usr/src/linux-headers-6.1.0-*-amd64 2>/dev/null |
		sed 's|.*/linux-headers-||' | grep -E '^6\.1\.0-[0-9]+-amd64$' | newest)
	if [ -z "$version" ] || ! unpacked | grep -qxF "$version"; then
		# A fresh machine may have no package lists yet, an old one those of packages that are gone.
		apt-get update -qq >&2 || true
		images=$(offered linux-image -unsigned)
		if [ -z "$version" ] || ! echo "$images" | grep -qxF "$version"; then
			version=$(offered linux-headers "" | grep -xF "$images" | newest)
		fi
	fi
	echo "$version"
}

choose() {
	version=
	[ "${1:-}" = --with-headers ] || version=$(unpacked | newest)
	echo "${version:-$(choose_with_headers)}"
}

# Under another name until it is whole: a fetch that was cut off leaves nothing that looks like a kernel.
fetch() {
	say "fetching the kernel image $kernel"
	part=$(mktemp -d "$work/part-XXXXXX")
	trap 'rm -rf "$part"' EXIT
	cd "$part"
	apt-get download -qq "linux-image-$kernel-unsigned" >&2 || fail "apt has no linux-image-$kernel-unsigned"
	dpkg-deb -x ./*.deb . && rm -f ./*.deb
	chmod 755 "$part"
	rm -rf "$image"
	mv "$part" "$image"
}

mkdir -p "$work"
kernel=${KERNEL:-$(choose "${1:-}")}
[ -n "$kernel" ] ||
	fail "apt offers no Debian 12 kernel with headers (linux-headers-6.1.0-*-amd64 and linux-image-…-unsigned)"
image=$work/image-$kernel
[ -e "$image/boot/vmlinuz-$kernel" ] || fetch
echo "$image"
