#!/bin/busybox sh
# The guest's first process: runs what the host sends over the second serial port, line by line. After each line's
# output comes a line "== STATUS".
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/bin
# Busybox would take its own ones.
ip() { /sbin/ip "$@"; }
tc() { /sbin/tc "$@"; }

# EAL opens no plug-ins below a folder that anybody may write to.
chmod 755 /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/net /var/log/nginx /var/lib/nginx /etc
echo root:x:0:0:root:/:/bin/sh >/etc/passwd
echo root:x:0: >/etc/group

while read -r module; do
	insmod "/modules/$module.ko" || echo "$module does not load"
done </modules/order
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1

stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
printf '== ready\n' >&3
while read -r line <&3; do
	eval "$line" >&3 2>&1 3>&- </dev/null
	printf '\n== %d\n' $? >&3
done
poweroff -f
