// SPDX-License-Identifier: GPL-2.0
/*
 * TOA receiver without a kernel module.
 *
 * A FULLNAT gateway connects to the real server from its own local address
 * (LIP) and tells the client's address in a TCP option, "TOA". The first
 * program below reads that option from the segment that turns a half-open
 * connection into a socket, and keeps the address in storage that lives and
 * dies with the socket. The other two show it wherever the kernel answers
 * "who is the peer?": accept(), getpeername() and SO_PEERNAME.
 *
 * Nothing else of the socket is changed, and no packet after the handshake is
 * looked at. An option is believed only when the packet's source, the LIP, is
 * in the trust map; without an entry nothing is believed.
 *
 *   kind  len  contents (network order)        sent by
 *   254    8   port(2), IPv4 address(4)        LVS, DPVS, Tollgate; most clouds
 *   253    8   the same                        some appliances
 *   200    8   the same                        the first public FULLNAT
 *   254   20   port(2), IPv6 address(16)       DPVS, Tollgate
 *   253   20   the same                        LVS with IPv6
 */
#include <linux/bpf.h>

#include "common.h"
#include "helpers.h"

#define AF_INET 2
#define AF_INET6 10

#define TCPOPT_END 0
#define TCPOPT_NOP 1
#define TOA_KIND_V4_OLD 200
#define TOA_KIND_ALT 253
#define TOA_KIND 254
#define TOA_LEN_V4 8
#define TOA_LEN_V6 20
/* "TG": the identifier of the form of RFC 6994, and how much longer that is. */
#define TOA_EXID_0 'T'
#define TOA_EXID_1 'G'
#define TOA_EXID_LEN 2

/* The option space is 40 bytes, and an option takes at least one. */
#define OPTIONS_MAX 40
#define TCP_HEADER_LEN 20
#define TCP_HEADER_LEN_MAX 60
/* A TCP header has at most 60 bytes, so an offset into it fits 6 bits. */
#define OFFSET_MASK 63

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_SK_STORAGE);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, int);
	MAP_TYPE(value, struct client);
} clients SEC(".maps");

enum parsed {
	PARSED_NONE,
	PARSED_CLIENT,
	PARSED_MALFORMED,
};

/* Where port and address begin in a TOA option of this kind and length; 0 for all else. */
static ALWAYS_INLINE int value_offset(__u8 kind, __u8 len)
{
	if (kind == TOA_KIND_V4_OLD)
		return len == TOA_LEN_V4 ? 2 : 0;
	if (kind != TOA_KIND && kind != TOA_KIND_ALT)
		return 0;
	if (len == TOA_LEN_V4 || len == TOA_LEN_V6)
		return 2;
	if (len == TOA_LEN_V4 + TOA_EXID_LEN || len == TOA_LEN_V6 + TOA_EXID_LEN)
		return 2 + TOA_EXID_LEN;
	return 0;
}

/* Copies by bytes: options have no alignment. */
static ALWAYS_INLINE enum parsed read_client(const __u8 *value, const __u8 *end, int is_ipv4,
					     struct client *out)
{
	if (value + 6 > end)
		return PARSED_MALFORMED;
	__builtin_memcpy(&out->port, value, 2);
	if (is_ipv4) {
		__be32 ipv4;

		__builtin_memcpy(&ipv4, value + 2, 4);
		map_ipv4(&out->addr, ipv4);
		out->is_ipv4 = 1;
		return PARSED_CLIENT;
	}
	if (value + 18 > end)
		return PARSED_MALFORMED;
	__builtin_memcpy(&out->addr, value + 2, 16);
	out->is_ipv4 = 0;
	return PARSED_CLIENT;
}

/*
 * Finds the first TOA option between the TCP header's fixed part and its end.
 * Other options, also ones of the same kinds with another length (kinds 253
 * and 254 are shared by experiments), are stepped over.
 *
 * Bounded by skb_data_end, which the kernel sets to the end of the TCP header,
 * and not by doff: a bound that the verifier has to derive from a bit field
 * costs it more states than it allows. The barrier keeps the compiler from
 * dropping the mask that tells the verifier that the offset stays small.
 */
static ALWAYS_INLINE enum parsed parse(struct bpf_sock_ops *ctx, struct client *out)
{
	const __u8 *data = (const __u8 *)(long)ctx->skb_data;
	const __u8 *end = (const __u8 *)(long)ctx->skb_data_end;
	__u32 at = TCP_HEADER_LEN;

#pragma clang loop unroll(disable)
	for (int i = 0; i < OPTIONS_MAX; i++) {
		const __u8 *option;
		__u8 kind, len;
		int offset;

		at &= OFFSET_MASK;
		asm volatile("" : "+r"(at));
		option = data + at;
		if (option + 1 > end)
			return PARSED_NONE;
		kind = option[0];
		if (kind == TCPOPT_END)
			return PARSED_NONE;
		if (kind == TCPOPT_NOP) {
			at += 1;
			continue;
		}
		if (option + 2 > end)
			return PARSED_MALFORMED;
		len = option[1];
		if (len < 2 || len > OPTIONS_MAX)
			return PARSED_MALFORMED;
		/* Constant offsets, one for each branch, are what the verifier can follow. */
		offset = value_offset(kind, len);
		if (offset == 2)
			return read_client(option + 2, end, len == TOA_LEN_V4, out);
		if (offset && option + 4 > end)
			return PARSED_MALFORMED;
		if (offset && option[2] == TOA_EXID_0 && option[3] == TOA_EXID_1)
			return read_client(option + 4, end, len == TOA_LEN_V4 + TOA_EXID_LEN, out);
		at += len;
		/* The mask must not lead back into the header, whose fields a client may choose. */
		if (at > TCP_HEADER_LEN_MAX)
			return PARSED_MALFORMED;
	}
	return PARSED_NONE;
}

/*
 * The context is read into locals first, each behind a barrier: the compiler
 * would otherwise fold the two branches into one load through a moved context
 * pointer, which the verifier refuses.
 */
#define READ_CTX(field) ({ __u32 value_ = (field); asm volatile("" : "+r"(value_)); value_; })

/* Who is at the other end, on the wire. */
static ALWAYS_INLINE void read_lip(struct bpf_sock_ops *ctx, struct addr *lip)
{
	__u32 ipv4 = READ_CTX(ctx->remote_ip4);
	struct addr ipv6 = { {
		READ_CTX(ctx->remote_ip6[0]),
		READ_CTX(ctx->remote_ip6[1]),
		READ_CTX(ctx->remote_ip6[2]),
		READ_CTX(ctx->remote_ip6[3]),
	} };

	if (ctx->family == AF_INET)
		map_ipv4(lip, ipv4);
	else
		*lip = ipv6;
}

static ALWAYS_INLINE int is_client(const struct client *client, const struct addr *lip)
{
	const __be32 *a = client->addr.word, *b = lip->word;

	if (client->port == 0)
		return 0;
	if (a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3])
		return 0;
	return client->is_ipv4 ? ipv4_is_client(a[3]) : ipv6_is_client(&client->addr);
}

enum mptcp {
	MPTCP_UNKNOWN,	/* the kernel has none, or no helper for it */
	MPTCP_KNOWN,
};

static ALWAYS_INLINE void keep(void *sk, const struct client *client)
{
	struct client *kept = bpf_sk_storage_get(&clients, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!kept) {
		count(COUNTER_NO_MEMORY);
		return;
	}
	/* A further path of an MPTCP connection: it is shown as it was accepted. */
	if (kept->port)
		return;
	*kept = *client;
	count(COUNTER_LEARNT);
}

/* With MPTCP, the program's socket is not the one that has the connection. */
static ALWAYS_INLINE void learn(struct bpf_sock_ops *ctx, const struct client *client, enum mptcp mptcp)
{
	struct bpf_sock *sk = ctx->sk;
	void *whole = 0;

	if (!sk)
		return;
	if (mptcp == MPTCP_KNOWN)
		whole = bpf_skc_to_mptcp_sock(sk);
	if (whole)
		keep(whole, client);
	else
		keep(sk, client);
}

static ALWAYS_INLINE int established(struct bpf_sock_ops *ctx, enum mptcp mptcp)
{
	struct client client = {};
	struct addr lip;

	if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	read_lip(ctx, &lip);
	switch (parse(ctx, &client)) {
	case PARSED_NONE:
		if (is_trusted(&lip))
			count(COUNTER_WITHOUT);
		break;
	case PARSED_MALFORMED:
		count(COUNTER_MALFORMED);
		break;
	case PARSED_CLIENT:
		if (!is_trusted(&lip))
			count(COUNTER_UNTRUSTED);
		else if (!is_client(&client, &lip))
			count(COUNTER_BAD_ADDRESS);
		else
			learn(ctx, &client, mptcp);
		break;
	}
	return 1;
}

/* One of these is attached: the second one where the kernel has the helper, since 5.19. */
SEC("sockops")
int toa_established(struct bpf_sock_ops *ctx)
{
	return established(ctx, MPTCP_UNKNOWN);
}

SEC("sockops")
int toa_established_mptcp(struct bpf_sock_ops *ctx)
{
	return established(ctx, MPTCP_KNOWN);
}

/*
 * The address that the system call has, or is to show. The family is the program's, and known when this is compiled:
 * the verifier lets no program see the other's fields.
 */
static ALWAYS_INLINE void read_name(struct bpf_sock_addr *ctx, int family, struct addr *addr)
{
	if (family == AF_INET) {
		map_ipv4(addr, ctx->user_ip4);
		return;
	}
	/* IPv4 peers are mapped there. */
	addr->word[0] = READ_CTX(ctx->user_ip6[0]);
	addr->word[1] = READ_CTX(ctx->user_ip6[1]);
	addr->word[2] = READ_CTX(ctx->user_ip6[2]);
	addr->word[3] = READ_CTX(ctx->user_ip6[3]);
}

static ALWAYS_INLINE void write_name(struct bpf_sock_addr *ctx, int family, const struct addr *addr,
				     __be16 port)
{
	if (family == AF_INET) {
		ctx->user_ip4 = addr->word[3];
	} else {
		ctx->user_ip6[0] = addr->word[0];
		ctx->user_ip6[1] = addr->word[1];
		ctx->user_ip6[2] = addr->word[2];
		ctx->user_ip6[3] = addr->word[3];
	}
	ctx->user_port = port;
}

#include "udp.h"
#include "udp_header.h"

static ALWAYS_INLINE int getpeername(struct bpf_sock_addr *ctx, int family)
{
	struct bpf_sock *sk = ctx->sk;
	struct client *client;

	if (!sk)
		return 1;
	/* A connected UDP socket; it talks to the gateway. */
	if (ctx->protocol == IPPROTO_UDP)
		return udp_exchange(ctx, family, UDP_CLIENT, COUNTER_UDP_SHOWN);
	client = bpf_sk_storage_get(&clients, sk, 0, 0);
	/* A sockaddr_in has no room for an IPv6 client: leave the LIP. */
	if (!client || (family == AF_INET && !client->is_ipv4))
		return 1;
	write_name(ctx, family, &client->addr, client->port);
	count(COUNTER_SHOWN);
	return 1;
}

SEC("cgroup/getpeername4")
int toa_getpeername4(struct bpf_sock_addr *ctx)
{
	return getpeername(ctx, AF_INET);
}

SEC("cgroup/getpeername6")
int toa_getpeername6(struct bpf_sock_addr *ctx)
{
	return getpeername(ctx, AF_INET6);
}

char LICENSE[] SEC("license") = "GPL";
