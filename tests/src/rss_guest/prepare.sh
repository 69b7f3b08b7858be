ip link set lo up

# Gives the network cards to DPDK.
for card in /sys/bus/pci/devices/*; do
	[ "$(cat "$card/class")" = 0x020000 ] || continue
	echo uio_pci_generic >"$card/driver_override"
	echo "${card##*/}" >/sys/bus/pci/drivers_probe
	echo "${card##*/}" >>/cards
done

agent=/dev/ttyS1
stty -F $agent raw -echo
