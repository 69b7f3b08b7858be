/* SPDX-License-Identifier: GPL-2.0 */
/*
 * UDP: the gateway tells the client on a flow's first datagrams ("UOA"), in an
 * IPv4 option (type 31, length 8, port, address) or in a header of protocol 248
 * between IP and UDP (see udp_header.h). The first program learns who is behind
 * a local address and port of the gateway; the others show datagrams as from
 * the client, and send answers to the client back to the gateway. The server is
 * an unchanged one that calls recvfrom() and sendto(), or connect().
 *
 * A client of another family than the gateway's is not shown: the kernel has no
 * way to send what a server answers to an address of one family as a packet of
 * the other.
 *
 * Attached on request only, since the first one sees every packet.
 * Included by toa.bpf.c.
 */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPPROTO_UDP 17
#define IPV4_HEADER_LEN 20
#define IPOPT_END 0
#define IPOPT_NOP 1
#define IPOPT_UOA 31
#define UOA_LEN 8
#define UOA_LEN_V6 20
/* A power of two, for the mask, that holds the 40 bytes that options have. */
#define IP_OPTIONS_ROOM 64

/* An address is not shown any more when nothing came for as long as gateways remember a flow. */
#define UDP_IDLE_NS (300ULL * 1000 * 1000 * 1000)

/* One end of a flow, and the server's port. */
struct udp_key {
	struct addr addr;
	__be16 port;
	__be16 local_port;
};

struct udp_end {
	struct addr addr;
	__be16 port;
	__u16 unused;
	__u32 unused_too;
	__u64 seen_ns;
};

/* From the gateway's end to the client's ... */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, 65536);
	MAP_TYPE(key, struct udp_key);
	MAP_TYPE(value, struct udp_end);
} udp_clients SEC(".maps");

/* ... and back. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, 65536);
	MAP_TYPE(key, struct udp_key);
	MAP_TYPE(value, struct udp_end);
} udp_gateways SEC(".maps");

/* Finds the option in the IPv4 header's options; returns where, or -1. */
static ALWAYS_INLINE int udp_find_option(const __u8 *options, __u32 len)
{
	__u32 at = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < OPTIONS_MAX; i++) {
		__u8 kind, size;

		at &= IP_OPTIONS_ROOM - 1;
		asm volatile("" : "+r"(at));
		if (at + UOA_LEN > len || at > OPTIONS_MAX - UOA_LEN)
			return -1;
		kind = options[at];
		if (kind == IPOPT_END)
			return -1;
		if (kind == IPOPT_NOP) {
			at += 1;
			continue;
		}
		size = options[at + 1];
		if (kind == IPOPT_UOA && (size == UOA_LEN || size == UOA_LEN_V6))
			return at;
		if (size < 2 || size > len - at)
			return -1;
		at += size;
	}
	return -1;
}

static ALWAYS_INLINE int same_addr(const struct addr *a, const struct addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static ALWAYS_INLINE void udp_remember(const struct addr *lip, const __be16 *ports,
				       const struct client *client)
{
	struct udp_key from_gateway = { .addr = *lip, .port = ports[0], .local_port = ports[1] };
	struct udp_key to_client = { .addr = client->addr, .port = client->port, .local_port = ports[1] };
	struct udp_end end = { .addr = client->addr, .seen_ns = bpf_ktime_get_ns(), .port = client->port };

	bpf_map_update_elem(&udp_clients, &from_gateway, &end, BPF_ANY);
	end.addr = *lip;
	end.port = ports[0];
	bpf_map_update_elem(&udp_gateways, &to_client, &end, BPF_ANY);
	count(COUNTER_UDP_LEARNT);
}

/* What to make of a client that a gateway tells. */
static ALWAYS_INLINE void udp_learn(const struct addr *lip, int is_ipv4, const __be16 *ports,
				    const struct client *client)
{
	int good = client->is_ipv4 ? ipv4_is_client(client->addr.word[3]) : ipv6_is_client(&client->addr);

	if (!client->port || !good || same_addr(&client->addr, lip))
		count(COUNTER_BAD_ADDRESS);
	else if (client->is_ipv4 != is_ipv4)
		count(COUNTER_UDP_FAMILY);
	else
		udp_remember(lip, ports, client);
}

SEC("cgroup_skb/ingress")
int toa_udp_learn(struct __sk_buff *skb)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	__u8 options[IP_OPTIONS_ROOM] = {};
	struct client client = {};
	__be32 source, ipv4;
	__be16 ports[2];
	struct addr lip;
	__u32 len;
	int at;

	if (skb->protocol != NET16(ETH_P_IP) || data + IPV4_HEADER_LEN > end)
		return 1;
	/* Nearly all packets have no options: this is where they leave. */
	len = (data[0] & 0xf) * 4;
	if (len <= IPV4_HEADER_LEN || data[9] != IPPROTO_UDP)
		return 1;
	__builtin_memcpy(&source, data + 12, sizeof(source));
	if (bpf_skb_load_bytes(skb, len, ports, sizeof(ports)))
		return 1;
	len -= IPV4_HEADER_LEN;
	if (len > OPTIONS_MAX || bpf_skb_load_bytes(skb, IPV4_HEADER_LEN, options, len))
		return 1;
	at = udp_find_option(options, len);
	if (at < 0 || at > OPTIONS_MAX - UOA_LEN)
		return 1;
	map_ipv4(&lip, source);
	if (!is_trusted(&lip)) {
		count(COUNTER_UNTRUSTED);
		return 1;
	}
	if (options[at + 1] == UOA_LEN_V6) {
		count(COUNTER_UDP_FAMILY);
		return 1;
	}
	__builtin_memcpy(&client.port, &options[at + 2], sizeof(client.port));
	__builtin_memcpy(&ipv4, &options[at + 4], sizeof(ipv4));
	map_ipv4(&client.addr, ipv4);
	client.is_ipv4 = 1;
	udp_learn(&lip, 1, ports, &client);
	return 1;
}

/* The other end of what is at the address and port; NULL if that is nothing known. */
static ALWAYS_INLINE struct udp_end *udp_other_end(void *map, const struct addr *addr, __u32 port,
						   __u32 local_port)
{
	struct udp_key key = { .addr = *addr, .port = port, .local_port = NET16((__u16)local_port) };
	struct udp_end *other = bpf_map_lookup_elem(map, &key);
	__u64 now = bpf_ktime_get_ns();

	/* Another CPU may have been here since the clock was read. */
	if (!other || (__s64)(now - other->seen_ns) > (__s64)UDP_IDLE_NS)
		return 0;
	other->seen_ns = now;
	return other;
}

/*
 * The client behind a gateway's end. Answers to it must find the way back, also when that half was the older one and
 * had to give way, or another flow of the client was told meanwhile: the one that is shown last is answered.
 */
static ALWAYS_INLINE struct udp_end *udp_client(const struct addr *lip, __u32 port, __u32 local_port)
{
	struct udp_end *client = udp_other_end(&udp_clients, lip, port, local_port);
	struct udp_key to_client = { .local_port = NET16((__u16)local_port) };
	struct udp_end back = { .addr = *lip, .port = port };
	struct udp_end *known;

	if (!client)
		return 0;
	to_client.addr = client->addr;
	to_client.port = client->port;
	back.seen_ns = client->seen_ns;
	known = bpf_map_lookup_elem(&udp_gateways, &to_client);
	if (known && known->port == back.port && same_addr(&known->addr, lip))
		known->seen_ns = back.seen_ns;
	else
		bpf_map_update_elem(&udp_gateways, &to_client, &back, BPF_ANY);
	return client;
}

enum udp_end_wanted {
	UDP_CLIENT,	/* who is behind the gateway's end that the context has */
	UDP_GATEWAY,	/* where the client that the context has is reached */
};

static ALWAYS_INLINE struct udp_end *udp_end_of(enum udp_end_wanted wanted, const struct addr *addr,
						__u32 port, __u32 local_port)
{
	if (wanted == UDP_CLIENT)
		return udp_client(addr, port, local_port);
	return udp_other_end(&udp_gateways, addr, port, local_port);
}

/* Exchanges the address and port in the context for the other end's. */
static ALWAYS_INLINE int udp_exchange(struct bpf_sock_addr *ctx, int family, enum udp_end_wanted wanted,
				      enum counter counter)
{
	__u32 port = READ_CTX(ctx->user_port);
	struct bpf_sock *sk = ctx->sk;
	struct udp_end *other;
	struct addr addr;

	read_name(ctx, family, &addr);
	if (!sk)
		return 1;
	other = udp_end_of(wanted, &addr, port, sk->src_port);
	if (!other)
		return 1;
	write_name(ctx, family, &other->addr, other->port);
	count(counter);
	return 1;
}

/* A server that makes a socket of its own for a client: it shall talk to the gateway. */
static ALWAYS_INLINE int udp_connect(struct bpf_sock_addr *ctx, int family)
{
	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	return udp_exchange(ctx, family, UDP_GATEWAY, COUNTER_UDP_RETURNED);
}

SEC("cgroup/recvmsg4")
int toa_recvmsg4(struct bpf_sock_addr *ctx)
{
	return udp_exchange(ctx, AF_INET, UDP_CLIENT, COUNTER_UDP_SHOWN);
}

SEC("cgroup/recvmsg6")
int toa_recvmsg6(struct bpf_sock_addr *ctx)
{
	return udp_exchange(ctx, AF_INET6, UDP_CLIENT, COUNTER_UDP_SHOWN);
}

/* An IPv6 socket's answers to a mapped address come here, too. */
SEC("cgroup/sendmsg4")
int toa_sendmsg4(struct bpf_sock_addr *ctx)
{
	return udp_exchange(ctx, AF_INET, UDP_GATEWAY, COUNTER_UDP_RETURNED);
}

SEC("cgroup/sendmsg6")
int toa_sendmsg6(struct bpf_sock_addr *ctx)
{
	return udp_exchange(ctx, AF_INET6, UDP_GATEWAY, COUNTER_UDP_RETURNED);
}

SEC("cgroup/connect4")
int toa_connect4(struct bpf_sock_addr *ctx)
{
	return udp_connect(ctx, AF_INET);
}

SEC("cgroup/connect6")
int toa_connect6(struct bpf_sock_addr *ctx)
{
	return udp_connect(ctx, AF_INET6);
}
