#!/bin/busybox sh
# A guest's first process: loads the modules, does what /prepare wants, then runs what the host sends over the port
# that this has named $agent, line by line. After each line's output comes a line "== STATUS".
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

exec 3<>"$agent"
printf '== ready\n' >&3
while read -r line <&3; do
	eval "$line" >&3 2>&1 3>&- </dev/null
	printf '\n== %d\n' $? >&3
done
poweroff -f
