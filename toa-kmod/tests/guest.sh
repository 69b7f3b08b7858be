#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# guest.sh SERIES: builds the module for Debian's newest kernel of a series (6.1 or 6.12) and an initial RAM disk with
# both receivers, the probe that plays the conformance vectors, and nginx with an OpenSSL that can kTLS. Prints paths: kernel, RAM disk, probe. Keeps
# what it downloads and builds under target/toa-kmod. SPARSE=1 has the module checked by sparse, too.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
module_dir=$(dirname "$here")
root=$(dirname "$module_dir")
work=${CARGO_TARGET_DIR:-$root/target}/toa-kmod
# Loaded in the guest, with what they need; what the kernel has built in is passed over.
modules="tun virtio_pci virtio_net virtio_console tls gcm ctr ghash_generic seqiv"
programs="nginx"

say() { echo "toa-kmod: $*" >&2; }
fail() { say "$*"; exit 1; }

# In a folder of its own: the sources stay clean, and several kernels do not disturb one another.
build_module() {
	mkdir -p "$build"
	cp -r "$module_dir"/*.c "$module_dir"/*.h "$module_dir/compat" "$module_dir/Kbuild" "$build"
	make -s -C "$work/headers-$version/usr/src/linux-headers-$version" M="$build" W=1 ${SPARSE:+C=2} modules \
		>"$build/log" 2>&1 || { cat "$build/log" >&2; fail "the module does not build for $version"; }
	if grep -iE '(warning|error):' "$build/log" >&2; then fail "the module builds with warnings for $version"; fi
}

# Linked statically, since the guest has few libraries.
build_tools() {
	cd "$root"
	RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR="$work/probe" \
		cargo build --locked --quiet --package tollgate-toa --bin tollgate-toa --example toa-probe \
		--target x86_64-unknown-linux-gnu >&2
}

# Adds a module behind those that it needs, and writes down the order.
add_module() {
	[ ! -e "$guest/modules/$1.ko" ] || return 0
	pattern=$(echo "$1" | sed 's/[_-]/[_-]/g')
	file=$(find "$image/lib/modules/$version/kernel" -name "$pattern.ko" -o -name "$pattern.ko.xz" | head -1)
	if [ -z "$file" ]; then
		grep -qE "/$pattern\.ko$" "$image/lib/modules/$version/modules.builtin" || fail "$version has no module $1"
		return 0
	fi
	case $file in
	*.xz) xz -dc "$file" >"$guest/modules/$1.ko" ;;
	*) cp "$file" "$guest/modules/$1.ko" ;;
	esac
	for needed in $(tr '\0' '\n' <"$guest/modules/$1.ko" | sed -n 's/^depends=//p' | tr ',-' ' _'); do
		add_module "$needed"
	done
	# A function's positional parameter is its own; a variable would be the callee's by now.
	echo "$1" >>"$guest/modules/order"
}

# A program with its libraries.
add_program() {
	path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$1") || fail "$1 is not installed; scripts/setup.sh installs it"
	cp "$path" "$guest/bin/"
	for library in $(ldd "$path" | grep -oE '/[^ ]+'); do
		mkdir -p "$guest${library%/*}"
		cp -L "$library" "$guest$library"
	done
}

build_initramfs() {
	rm -rf "$guest"
	mkdir -p "$guest/bin" "$guest/proc" "$guest/sys" "$guest/dev" "$guest/tmp" "$guest/etc" "$guest/modules" \
		"$guest/var/lib/nginx" "$guest/var/log/nginx"
	echo 'root:x:0:0::/:/bin/sh' >"$guest/etc/passwd"
	echo 'root:x:0:' >"$guest/etc/group"
	cp /bin/busybox "$guest/bin/busybox"
	cp "$tools/examples/toa-probe" "$tools/tollgate-toa" "$guest/bin/"
	strip --strip-debug "$guest/bin/toa-probe" "$guest/bin/tollgate-toa"
	strip --strip-debug -o "$guest/tollgate_toa.ko" "$build/tollgate_toa.ko"
	cp -r "$root/tests/toa-vectors" "$guest/vectors"
	for module in $modules; do add_module "$module"; done
	for program in $programs; do add_program "$program"; done
	for library in libssl.so.3 libcrypto.so.3; do
		cp "$openssl/$library" "$(find "$guest" -name "$library")"
	done
	cp "$root/tests/src/guest_init.sh" "$guest/init"
	cp "$here/guest-prepare.sh" "$guest/prepare"
	for task in cases bench; do
		cp "$here/guest-$task.sh" "$guest/bin/guest-$task"
		chmod 755 "$guest/bin/guest-$task"
	done
	chmod 755 "$guest/init"
	(cd "$guest" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs-$version.part"
	mv "$work/initramfs-$version.part" "$work/initramfs-$version"
}

mkdir -p "$work"
# Several tests may ask for the same guest.
exec 9>"$work/lock"
flock 9
version=$("$here/kernel.sh" "$1") || fail "there is no kernel $1 to test with"
image=$work/image-$version
openssl=$("$here/openssl.sh") || fail "there is no OpenSSL with kTLS"
build=$work/build-$version
guest=$work/guest-$version
tools=$work/probe/x86_64-unknown-linux-gnu/debug

build_module
build_tools
build_initramfs
echo "$image/boot/vmlinuz-$version"
echo "$work/initramfs-$version"
echo "$tools/examples/toa-probe"
