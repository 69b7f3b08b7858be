# Busybox would take its own one.
ip() { /sbin/ip "$@"; }

# Nothing unasked for goes out, and nothing is held back.
sysctl -q -w net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.all.accept_dad=0 \
	net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0 \
	net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.icmp_ratelimit=0 \
	net.ipv4.icmp_msgs_per_sec=100000 net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.send_redirects=0 \
	net.ipv4.conf.default.send_redirects=0
# What the host asks for to see that everything before has been dealt with.
ip link set lo up
ip address add 192.0.2.254/32 dev lo
ip link set eth0 up
ip link set eth1 up
