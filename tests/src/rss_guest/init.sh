#!/bin/busybox sh
# The guest's first process: gives the network cards to DPDK, then runs what the host sends over the second serial
# port, line by line. After each line's output comes a line "== STATUS".
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/bin

# EAL opens no plug-ins below a folder that anybody may write to.
chmod 755 /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ip link set lo up

while read -r module; do
	insmod "/modules/$module.ko" || echo "$module does not load"
done </modules/order

for card in /sys/bus/pci/devices/*; do
	[ "$(cat "$card/class")" = 0x020000 ] || continue
	echo uio_pci_generic >"$card/driver_override"
	echo "${card##*/}" >/sys/bus/pci/drivers_probe
	echo "${card##*/}" >>/cards
done

stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
printf '== ready\n' >&3
while read -r line <&3; do
	eval "$line" >&3 2>&1 3>&- </dev/null
	printf '\n== %d\n' $? >&3
done
poweroff -f
