/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs for TCP, UDP and socket options share: addresses, the
 * trust list, counters.
 */
#ifndef TOLLGATE_BPF_COMMON_H
#define TOLLGATE_BPF_COMMON_H

#include <linux/bpf.h>

#include "helpers.h"

/* The order is shared with src/counters.rs. */
enum counter {
	COUNTER_LEARNT,		/* client's address taken from a trusted option */
	COUNTER_WITHOUT,	/* trusted LIP, but no option on the segment */
	COUNTER_UNTRUSTED,	/* an option, but the LIP is not trusted */
	COUNTER_MALFORMED,	/* options that do not parse */
	COUNTER_BAD_ADDRESS,	/* an address that no client can have */
	COUNTER_NO_MEMORY,	/* socket storage could not be had */
	COUNTER_SHOWN,		/* answers given with the client's address */
	COUNTER_UDP_LEARNT,	/* datagrams whose option told the client */
	COUNTER_UDP_SHOWN,	/* datagrams handed over as from the client */
	COUNTER_UDP_RETURNED,	/* answers to clients, sent to their gateway */
	COUNTER_UDP_FAMILY,	/* client and gateway are of two families */
	COUNTER_UDP_UNWRAPPED,	/* headers of protocol 248 taken out */
	COUNTER_END,
};

/* An address as IPv6; IPv4 is mapped (::ffff:a.b.c.d). All in network order. */
struct addr {
	__be32 word[4];
};

/* A client's address and port. */
struct client {
	struct addr addr;
	__be16 port;
	__u16 is_ipv4;
};

struct trust_key {
	__u32 prefix_len;
	struct addr addr;
};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_NUMBER(max_entries, 1024);
	MAP_TYPE(key, struct trust_key);
	MAP_TYPE(value, __u32);
} trust SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, COUNTER_END);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} counters SEC(".maps");

/* Where the programs are attached; only tollgate-toa writes and reads it. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, char[256]);
} about SEC(".maps");

static ALWAYS_INLINE void count(enum counter which)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	/*
	 * Per CPU, but sockops may interrupt a getpeername on the same CPU:
	 * the atomic add keeps the sum right.
	 */
	if (value)
		__sync_fetch_and_add(value, 1);
}

static ALWAYS_INLINE void map_ipv4(struct addr *out, __be32 ipv4)
{
	out->word[0] = 0;
	out->word[1] = 0;
	out->word[2] = NET32(0xffff);
	out->word[3] = ipv4;
}

/* No client has address 0.x, 127.x or 224.x and above, nor port 0. */
static ALWAYS_INLINE int ipv4_is_client(__be32 ipv4)
{
	__u32 first = NET32(ipv4) >> 24;

	return first != 0 && first != 127 && first < 224;
}

/* No client has ::/96 (unspecified, loopback), ::ffff:0:0/96 or ff00::/8. */
static ALWAYS_INLINE int ipv6_is_client(const struct addr *a)
{
	if (a->word[0] == 0 && a->word[1] == 0 &&
	    (a->word[2] == 0 || a->word[2] == NET32(0xffff)))
		return 0;
	return (NET32(a->word[0]) >> 24) != 0xff;
}

/* Whether a datagram or connection from this gateway is believed. */
static ALWAYS_INLINE int is_trusted(const struct addr *lip)
{
	struct trust_key key = { .prefix_len = 128, .addr = *lip };

	return bpf_map_lookup_elem(&trust, &key) != 0;
}

#endif
