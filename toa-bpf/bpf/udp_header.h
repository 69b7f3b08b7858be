/* SPDX-License-Identifier: GPL-2.0 */
/*
 * UDP whose client stands in a header of its own between IP and UDP: protocol
 * 248, as gateways send it over IPv6, and over IPv4 where packets with options
 * do not get through.
 *
 *   version(4 bits), zeros(4), protocol(8) = 17, length(16) = 12 or 24,
 *   then the option: 31, 8 or 20, port(16), address (version 1: IPv4, 2: IPv6)
 *
 * The kernel would answer "protocol unreachable" before any control group saw
 * such a packet, so this program stands at an interface: it learns the client,
 * takes the header out, and the kernel gets the datagram as it was. Included by
 * toa.bpf.c.
 */
#define IPPROTO_UOA 248
#define IPV6_HEADER_LEN 40
#define IPV4_HEADER_MAX 60
#define ETH_HEADER_LEN 14
#define UOA_HEADER_LEN 4
#define UOA_VERSION_V4 0x10
#define UOA_VERSION_V6 0x20
/* Go on with the next program, and then with the packet. */
#define TC_NEXT -1
/* To this machine, by its link address. */
#define PACKET_HOST 0
/* Headers are read in words, too. */
#define ALIGNED4 __attribute__((aligned(4)))

struct uoa_header {
	__u8 version;
	__u8 protocol;
	__be16 length;
	__u8 kind;
	__u8 size;
	__be16 port;
	__be32 addr[4];
};

/* What is in front of the IP header: nothing on a device without link layer. */
static ALWAYS_INLINE __u32 link_len(struct __sk_buff *skb, const __be32 *ip)
{
	__be32 front[5];

	if (bpf_skb_load_bytes(skb, 0, front, sizeof(front)))
		return ETH_HEADER_LEN;
	if (front[0] == ip[0] && front[1] == ip[1] && front[2] == ip[2] && front[3] == ip[3] && front[4] == ip[4])
		return 0;
	return ETH_HEADER_LEN;
}

/* Reads the header at an offset from the IP header, and learns; how long it is, or 0 if it is not to be taken out. */
static ALWAYS_INLINE __u32 uoa_read(struct __sk_buff *skb, __u32 at, const struct addr *lip, int is_ipv4)
{
	struct uoa_header header = {};
	struct client client = {};
	__be16 ports[2];
	__u32 len;

	if (!is_trusted(lip)) {
		count(COUNTER_UNTRUSTED);
		return 0;
	}
	if (bpf_skb_load_bytes_relative(skb, at, &header, 12, BPF_HDR_START_NET))
		goto malformed;
	len = UOA_HEADER_LEN + header.size;
	if (header.protocol != IPPROTO_UDP || header.kind != IPOPT_UOA || NET16(header.length) != len)
		goto malformed;
	if (header.version == UOA_VERSION_V4 && header.size == UOA_LEN) {
		map_ipv4(&client.addr, header.addr[0]);
		client.is_ipv4 = 1;
	} else if (header.version == UOA_VERSION_V6 && header.size == UOA_LEN_V6) {
		if (bpf_skb_load_bytes_relative(skb, at + 8, &client.addr, sizeof(client.addr), BPF_HDR_START_NET))
			goto malformed;
	} else {
		goto malformed;
	}
	client.port = header.port;
	len = client.is_ipv4 ? UOA_HEADER_LEN + UOA_LEN : UOA_HEADER_LEN + UOA_LEN_V6;
	if (bpf_skb_load_bytes_relative(skb, at + len, ports, sizeof(ports), BPF_HDR_START_NET))
		goto malformed;
	udp_learn(lip, is_ipv4, ports, &client);
	return len;
malformed:
	count(COUNTER_MALFORMED);
	return 0;
}

/* Takes so many bytes out from behind the IP header without options, and writes that header. */
static ALWAYS_INLINE void uoa_unwrap(struct __sk_buff *skb, __u32 link, __u32 len, const void *ip, __u32 ip_len)
{
	if (bpf_skb_adjust_room(skb, -(__s32)len, BPF_ADJ_ROOM_NET, 0))
		return;
	if (!bpf_skb_store_bytes(skb, link, ip, ip_len, BPF_F_RECOMPUTE_CSUM))
		count(COUNTER_UDP_UNWRAPPED);
}

/* IPv4 options go with the header; the checksum stays as right or wrong as it was. */
static ALWAYS_INLINE int uoa_ipv4(struct __sk_buff *skb)
{
	__u8 old[IPV4_HEADER_MAX] ALIGNED4 = {}, new[IPV4_HEADER_LEN] ALIGNED4;
	__u32 ip_len, link, gone;
	__be32 source;
	struct addr lip;
	__u16 total, check;
	__s64 sum;

	if (bpf_skb_load_bytes_relative(skb, 0, old, IPV4_HEADER_LEN, BPF_HDR_START_NET))
		return TC_NEXT;
	if (old[9] != IPPROTO_UOA || (old[6] & 0x3f) || old[7])
		return TC_NEXT;
	ip_len = (old[0] & 0xf) * 4;
	if (ip_len < IPV4_HEADER_LEN || ip_len > IPV4_HEADER_MAX)
		return TC_NEXT;
	link = link_len(skb, (const __be32 *)old);
	if (bpf_skb_load_bytes_relative(skb, 0, old, ip_len, BPF_HDR_START_NET))
		return TC_NEXT;
	__builtin_memcpy(&source, old + 12, sizeof(source));
	map_ipv4(&lip, source);
	gone = uoa_read(skb, ip_len, &lip, 1);
	total = old[2] << 8 | old[3];
	if (!gone || total < ip_len + gone)
		return TC_NEXT;
	gone += ip_len - IPV4_HEADER_LEN;
	total -= gone;
	__builtin_memcpy(new, old, sizeof(new));
	new[0] = 0x45;
	new[2] = total >> 8;
	new[3] = total & 0xff;
	new[9] = IPPROTO_UDP;
	__builtin_memcpy(&check, old + 10, sizeof(check));
	/* Both have the old checksum in them, which cancels out. */
	sum = bpf_csum_diff((const __be32 *)old, ip_len, (const __be32 *)new, sizeof(new), (__u16)~check);
	sum = (sum & 0xffff) + ((__u32)sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	check = ~(__u16)sum;
	__builtin_memcpy(new + 10, &check, sizeof(check));
	uoa_unwrap(skb, link, gone, new, sizeof(new));
	return TC_NEXT;
}

static ALWAYS_INLINE int uoa_ipv6(struct __sk_buff *skb)
{
	__u8 ip[IPV6_HEADER_LEN] ALIGNED4;
	__u32 link, gone;
	struct addr lip;
	__u16 len;

	if (bpf_skb_load_bytes_relative(skb, 0, ip, sizeof(ip), BPF_HDR_START_NET) || ip[6] != IPPROTO_UOA)
		return TC_NEXT;
	link = link_len(skb, (const __be32 *)ip);
	__builtin_memcpy(&lip, ip + 8, sizeof(lip));
	gone = uoa_read(skb, IPV6_HEADER_LEN, &lip, 0);
	len = ip[4] << 8 | ip[5];
	if (!gone || len < gone)
		return TC_NEXT;
	len -= gone;
	ip[4] = len >> 8;
	ip[5] = len & 0xff;
	ip[6] = IPPROTO_UDP;
	uoa_unwrap(skb, link, gone, ip, sizeof(ip));
	return TC_NEXT;
}

SEC("classifier")
int toa_udp_header(struct __sk_buff *skb)
{
	/* What passes through, to containers or other machines, is not told to sockets here. */
	if (skb->pkt_type != PACKET_HOST)
		return TC_NEXT;
	if (skb->protocol == NET16(ETH_P_IP))
		return uoa_ipv4(skb);
	if (skb->protocol == NET16(ETH_P_IPV6))
		return uoa_ipv6(skb);
	return TC_NEXT;
}
