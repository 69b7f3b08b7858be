#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# The guest's first process. With `toa=cases` or `toa=bench` on the kernel's command line it does that and ends;
# otherwise it runs what the host sends over the port "agent", line by line. After each line's output comes a line "== STATUS".
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf

while read -r module; do
	insmod "/modules/$module.ko" || echo "$module does not load"
done </modules/order
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
# The log is looked at in the end; on the line are the results.
dmesg -n 1

task=$(sed -n 's/.*toa=\([a-z]*\).*/\1/p' /proc/cmdline)
if [ -n "$task" ]; then
	# Whatever the machine's firmware left on the line.
	echo
	"guest-$task"
	reboot -f
fi

sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0 \
	net.ipv6.conf.all.accept_ra=0 net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=4096
for try in 1 2 3 4 5 6 7 8 9 10; do
	for port in /sys/class/virtio-ports/*; do
		[ "$(cat "$port/name" 2>/dev/null)" != agent ] || agent=/dev/${port##*/}
	done
	[ -z "$agent" ] && sleep 1 || break
done
exec 3<>"$agent"
printf '== ready\n' >&3
while read -r line <&3; do
	eval "$line" >&3 2>&1 3>&- </dev/null
	printf '\n== %d\n' $? >&3
done
poweroff -f
