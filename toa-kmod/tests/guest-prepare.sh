# SPDX-License-Identifier: GPL-2.0
# What the guest's first process (tests/src/guest_init.sh) does before it takes commands. With `toa=cases` or `toa=bench` on
# the kernel's command line it does that and ends.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
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
