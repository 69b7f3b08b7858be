#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# In the guest: plays the conformance vectors against each receiver, loads and unloads the module, and looks at the
# kernel's log. The last line is "== all passed", or tells what is wrong.
end() {
	echo "== $*"
	exit
}

load() { insmod /tollgate_toa.ko "$@"; }

# Shows the peer of one connection, whose sending the kernel encrypts, before and after a command that runs while it is
# open.
peers_around() {
	rm -f /ask /told && mkfifo /ask
	toa-probe hold </ask >/told &
	exec 3>/ask
	for try in 1 2 3 4 5 6 7 8 9 10; do [ -s /told ] && break || sleep 1; done
	"$@" || end "$* failed"
	exec 3>&-
	wait
	echo $(cat /told)
}

trust=10.9.0.0/24,fd00:9::/64

echo "== wrong parameters are refused"
for wrong in trust=10.9.0.1/24 trust=10.9.0.0/33 trust=gateway trust=::ffff:10.9.0.0/120 kinds=8; do
	load "$wrong" 2>/dev/null && end "$wrong was accepted"
done

# The BPF receiver, which must refuse, in a sentence with these words in it, and leave nothing behind.
refuses() {
	said=$(tollgate-toa attach --trust $trust 2>&1) && end "attached although: $1"
	case $said in *"$1"*) ;; *) end "instead of telling of $1, it says: $said" ;; esac
	[ ! -e /sys/fs/bpf/tollgate-toa ] || end "pins stayed behind after: $1"
}

echo "== what is missing is told"
umount /sys/fs/cgroup
refuses "no control groups version 2 are mounted"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
umount /sys/fs/bpf
refuses "not in a BPF file system"
mount -t bpf bpf /sys/fs/bpf
# Nothing of the kernel's type information is needed.
mount -t tmpfs none /sys/kernel/btf
tollgate-toa attach --udp --trust $trust || end "it does not attach without BTF"
tollgate-toa detach || end "it does not detach"
umount /sys/kernel/btf
load trust=$trust || end "the module does not load"
refuses "rmmod tollgate_toa"
rmmod tollgate_toa || end "the module does not unload"

echo "== the cases, with the BPF receiver"
tollgate-toa attach --udp --trust $trust || end "the BPF receiver does not attach"
toa-probe /vectors || end "some cases are wrong"
seen=$(toa-probe udp)
[ "$seen" = "203.0.113.7:4660 answer" ] || end "a UDP server sees and answers: $seen"
tollgate-toa detach || end "the BPF receiver does not detach"

echo "== the cases, with the module loaded"
load trust=$trust || end "the module does not load"
toa-probe /vectors || end "some cases are wrong"
cat /proc/net/tollgate_toa

value() { sed -n "s/^$1 //p" /proc/net/tollgate_toa; }
[ "$(value untrusted)" = 1 ] || end "untrusted is not counted"
[ "$(value bad_address)" = 7 ] || end "bad addresses are not counted"
[ "$(value learnt)" -gt 0 ] || end "nothing was learnt"
[ "$(value learnt)" = "$(value forgotten)" ] || end "not every ended socket was forgotten"
asked=$(echo $(toa-probe options))
expected="- 10.9.0.2:43001 [2001:db8::7]:4660 10.9.0.2:43002 - 10.9.0.2:43003"
[ "$asked" = "$expected" ] || end "the socket options tell $asked instead of $expected"
echo 0 2>/dev/null >/proc/sys/kernel/ftrace_enabled && end "ftrace could be switched off under the module"

echo "== the trust list is changed"
list=/sys/module/tollgate_toa/parameters/trust
told=203.0.113.7:4660
lip=10.9.0.2:43000
[ "$(cat $list)" = $trust ] || end "the list is $(cat $list)"
seen=$(peers_around sh -c "echo 10.7.0.0/16 >$list")
[ "$seen" = "$told $told" ] || end "around a change, an open connection showed: $seen"
[ "$(peers_around true)" = "$lip $lip" ] || end "a gateway is believed that is trusted no more"
for wrong in 10.9.0.1/24 10.9.0.0/24,gateway; do
	echo $wrong 2>/dev/null >$list && end "$wrong was accepted"
	[ "$(cat $list)" = 10.7.0.0/16 ] || end "$wrong changed the list to $(cat $list)"
done
echo 10.7.0.0/16,10.9.0.2 >$list || end "the list cannot be written"
[ "$(peers_around true)" = "$told $told" ] || end "a gateway is not believed that is trusted now"
grep -q '^trust 10.9.0.2/32$' /proc/net/tollgate_toa || end "the new list is not shown"

echo "== loading and unloading"
rmmod tollgate_toa || end "the module does not unload"
load trust=$trust || end "the module does not load again"
seen=$(peers_around rmmod tollgate_toa)
[ "$seen" = "203.0.113.7:4660 10.9.0.2:43000" ] || end "around unloading, an open connection showed: $seen"
[ ! -e /proc/net/tollgate_toa ] || end "the counters stayed behind"
for round in 1 2 3; do
	load || end "the module does not load again"
	rmmod tollgate_toa || end "the module does not unload again"
done

dmesg | grep -E 'BUG|Oops|WARNING|general protection|Call Trace|leak' && end "the kernel complained"
end "all passed"
