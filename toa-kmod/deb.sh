#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# deb.sh FOLDER: makes tollgate-toa-dkms_VERSION_all.deb there. It has the module's source, which DKMS builds for each
# kernel of the machine that it is installed on. Only dpkg-deb is needed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$1
version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' "$here/dkms.conf")
package=tollgate-toa-dkms
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

source=$tree/usr/src/tollgate-toa-$version
mkdir -p "$source" "$tree/DEBIAN" "$tree/etc/modprobe.d" "$tree/etc/modules-load.d" "$tree/usr/share/doc/$package"
cp -r "$here"/*.c "$here"/*.h "$here/compat" "$here/Kbuild" "$here/Makefile" "$here/dkms.conf" "$source"
cp "$here/LICENSE" "$tree/usr/share/doc/$package/copyright"
cp "$here/README.md" "$tree/usr/share/doc/$package/"
cat >"$tree/etc/modprobe.d/tollgate-toa.conf" <<'END'
# Whose options are believed: the local addresses (LIPs) of the gateways in front of this machine. Without it, nobody is.
#options tollgate_toa trust=10.9.0.0/24,fd00:9::/64
END
cat >"$tree/etc/modules-load.d/tollgate-toa.conf" <<'END'
# Load the receiver at boot; say in /etc/modprobe.d/tollgate-toa.conf whom it trusts.
#tollgate_toa
END
cat >"$tree/DEBIAN/control" <<END
Package: $package
Version: $version
Architecture: all
Maintainer: Tollgate developers <tollgate@localhost>
Section: kernel
Priority: optional
Depends: dkms (>= 3.0)
Description: shows servers the client's address behind a FULLNAT gateway (DKMS)
 A kernel module that reads the client's address from the TCP option (TOA) of a
 gateway such as Tollgate, DPVS or LVS, and shows it in accept() and
 getpeername(). Where BPF can be used, tollgate-toa does the same without a module.
END
printf '%s\n' /etc/modprobe.d/tollgate-toa.conf /etc/modules-load.d/tollgate-toa.conf >"$tree/DEBIAN/conffiles"
# A kernel without headers is no reason for the package to fail: DKMS builds when they come.
cat >"$tree/DEBIAN/postinst" <<END
#!/bin/sh
set -e
[ "\$1" = configure ] || exit 0
dkms add -m tollgate-toa -v $version >/dev/null 2>&1 || true
for kernel in /lib/modules/*/build; do
	[ -d "\$kernel" ] || continue
	kernel=\${kernel%/build}
	dkms install -m tollgate-toa -v $version -k "\${kernel##*/}" || echo "tollgate-toa: not built for \${kernel##*/}" >&2
done
END
cat >"$tree/DEBIAN/prerm" <<END
#!/bin/sh
set -e
dkms remove -m tollgate-toa -v $version --all >/dev/null 2>&1 || true
END
chmod 755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/prerm" "$tree"
mkdir -p "$out"
dpkg-deb --root-owner-group --build "$tree" "$out/${package}_${version}_all.deb"
