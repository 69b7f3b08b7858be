#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# openssl.sh: Debian 12 builds OpenSSL without kTLS, so that its nginx cannot use it. This builds libssl and libcrypto
# from Debian's source with it, under target/toa-kmod, for the guests; nothing is installed. Prints the folder that has
# them. What is there is used again.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
apt=$work/apt-source
built=$work/openssl
# What neither nginx nor a connection with AES-GCM needs takes half of the time otherwise.
without="tests legacy aria bf blake2 camellia cast cmp cms ct des dsa ec2m gost idea md4 mdc2 ocb rc2 rc4 rmd160 scrypt
	seed siphash siv sm2 sm3 sm4 srp srtp ts whirlpool dtls psk comp"

say() { echo "toa-kmod: $*" >&2; }
fail() { say "$*"; exit 1; }

# The machine's own places for packages, asked for sources, with package lists of their own.
fetch_lists() {
	rm -rf "$apt"
	mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/parts"
	for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -e "$list" ] || sed -n 's/^deb /deb-src /p' "$list" >"$apt/parts/${list##*/}"
	done
	for list in /etc/apt/sources.list.d/*.sources; do
		[ ! -e "$list" ] || sed 's/^Types:.*/Types: deb-src/' "$list" >"$apt/parts/${list##*/}"
	done
	cat >"$apt/apt.conf" <<-END
		APT::Sandbox::User "root";
		Dir::State::Lists "$apt/lists";
		Dir::Cache "$apt";
		Dir::Etc::SourceList "/dev/null";
		Dir::Etc::SourceParts "$apt/parts";
	END
	# Places that have no sources fail here; the others do.
	APT_CONFIG=$apt/apt.conf apt-get update -qq >&2 || true
}

fetch_source() {
	say "fetching the source of OpenSSL"
	fetch_lists
	(cd "$part" && APT_CONFIG=$apt/apt.conf apt-get source -qq --download-only --tar-only openssl >"$part.log" 2>&1) ||
		{ cat "$part.log" >&2; fail "apt has no source of openssl"; }
	tar -xf "$part"/openssl_*.orig.tar.gz -C "$part" --strip-components=1
	rm -f "$part.log"
}

build() {
	say "building OpenSSL with kTLS, which takes one to three minutes, once"
	cd "$part"
	{
		./Configure "linux-$(uname -m)" enable-ktls $(printf ' no-%s' $without) -O1 &&
			make -s -j"$(nproc)" build_generated &&
			make -s -j"$(nproc)" libcrypto.so libssl.so
	} >log 2>&1 || { tail -20 log >&2; fail "OpenSSL does not build"; }
	mkdir -p "$built.part"
	cp libcrypto.so.3 libssl.so.3 "$built.part/"
	mv "$built.part" "$built"
}

if [ ! -d "$built" ]; then
	mkdir -p "$work"
	rm -rf "$built.part"
	part=$(mktemp -d "$work/part-XXXXXX")
	trap 'rm -rf "$part"' EXIT
	fetch_source
	build
fi
echo "$built"
