#!/bin/sh
# Prints the folder of a qemu whose cards tests need: that of this machine if it has them (then "/"), else one that is
# fetched from Debian's backports and unpacked under target/guest-qemu. Nothing is installed.
#
# scripts/guest-qemu.sh igb    a qemu with the card igb (8.0 or newer)
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/guest-qemu
card=$1

say() { echo "guest-qemu: $*" >&2; }
fail() { say "$*"; exit 1; }

if qemu-system-x86_64 -device help 2>/dev/null | grep -q "^name \"$card\""; then
	echo /
	exit 0
fi

# Under another name until it is whole: a fetch that was cut off leaves nothing that looks like a qemu.
fetch() {
	say "fetching a qemu with the card $card from Debian's backports"
	part=$(mktemp -d "$work/part-XXXXXX")
	trap 'rm -rf "$part"' EXIT
	mkdir -p "$part/lists/partial" "$part/cache/archives/partial" "$part/debs" "$part/root"
	# The machine's own mirror, but lists of their own.
	mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' | head -1)
	[ -n "$mirror" ] || fail "apt knows no mirror of Debian 12; install qemu 8.0 or newer"
	for suite in bookworm bookworm-backports; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
	done >"$part/sources"
	apt() {
		apt-get -qq -o "Dir::Etc::SourceList=$part/sources" -o Dir::Etc::SourceParts=/dev/null \
			-o "Dir::State::Lists=$part/lists" -o "Dir::Cache=$part/cache" -o APT::Sandbox::User=root "$@" >&2
	}
	apt update || fail "the lists of Debian's backports cannot be had"
	(cd "$part/debs" && apt download qemu-system-x86/bookworm-backports qemu-system-common/bookworm-backports \
		qemu-system-data/bookworm-backports seabios/bookworm-backports) || fail "qemu cannot be had"
	for deb in "$part"/debs/*.deb; do dpkg-deb -x "$deb" "$part/root"; done
	chmod 755 "$part/root"
	rm -rf "$work/root"
	mv "$part/root" "$work/root"
}

mkdir -p "$work"
[ -e "$work/root/usr/bin/qemu-system-x86_64" ] || fetch
echo "$work/root"
