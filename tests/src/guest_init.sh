#!/bin/busybox sh
# A guest's first process, here and of toa-kmod: loads the modules, does what /prepare wants, then runs what the host
# sends over $agent, line by line. After each line's output comes a line "== STATUS". Unless /prepare has set it,
# $agent is the virtio port of that name.
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/bin

# EAL opens no plug-ins below a folder that anybody may write to.
chmod 755 /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/modules/$module.ko" || echo "$module does not load"
done </modules/order

. /prepare

for try in 1 2 3 4 5 6 7 8 9 10; do
	[ -z "$agent" ] || break
	[ $try = 1 ] || sleep 1
	for port in /sys/class/virtio-ports/*; do
		[ "$(cat "$port/name" 2>/dev/null)" != agent ] || agent=/dev/${port##*/}
	done
done
exec 3<>"$agent"
printf '== ready\n' >&3
while read -r line <&3; do
	eval "$line" >&3 2>&1 3>&- </dev/null
	printf '\n== %d\n' $? >&3
done
poweroff -f
