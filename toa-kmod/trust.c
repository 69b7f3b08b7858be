// SPDX-License-Identifier: GPL-2.0
/*
 * The gateways' local addresses whose options are believed, as prefixes.
 * Written at load only, so reading needs no lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/inet.h>
#include <linux/kernel.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <net/ipv6.h>

#include "toa.h"

#define TRUST_MAX 64
#define MAPPED_BITS 96

struct prefix {
	struct in6_addr addr;
	u8 len;
};

static struct prefix trusted[TRUST_MAX];
static unsigned int trusted_count;

/* Reads the address; returns the bits that it is written with, or an error. */
static int read_addr(const char *text, struct in6_addr *addr, const char **end)
{
	__be32 ipv4;

	if (in4_pton(text, -1, (u8 *)&ipv4, '/', end)) {
		ipv6_addr_set_v4mapped(ipv4, addr);
		return 32;
	}
	if (in6_pton(text, -1, (u8 *)addr, '/', end) && !ipv6_addr_v4mapped(addr))
		return 128;
	return -EINVAL;
}

int toa_trust_add(const char *text)
{
	struct in6_addr network;
	struct prefix prefix;
	const char *end;
	int bits;
	u8 len;

	if (trusted_count == TRUST_MAX) {
		pr_err("more than %d trusted prefixes\n", TRUST_MAX);
		return -E2BIG;
	}
	bits = read_addr(text, &prefix.addr, &end);
	if (bits < 0) {
		pr_err("trust: `%s` is not a prefix such as 10.9.0.0/24\n", text);
		return bits;
	}
	len = bits;
	if (*end == '/' && (kstrtou8(end + 1, 10, &len) || len > bits)) {
		pr_err("trust: `%s` needs a prefix length of 0 to %d\n", text, bits);
		return -EINVAL;
	}
	prefix.len = bits == 32 ? len + MAPPED_BITS : len;
	ipv6_addr_prefix(&network, &prefix.addr, prefix.len);
	if (!ipv6_addr_equal(&network, &prefix.addr)) {
		pr_err("trust: `%s` has bits set behind its prefix length\n", text);
		return -EINVAL;
	}
	trusted[trusted_count++] = prefix;
	return 0;
}

bool toa_trust_has(const struct in6_addr *lip)
{
	unsigned int i;

	for (i = 0; i < trusted_count; i++) {
		if (ipv6_prefix_equal(lip, &trusted[i].addr, trusted[i].len))
			return true;
	}
	return false;
}

void toa_trust_show(struct seq_file *seq)
{
	unsigned int i;

	for (i = 0; i < trusted_count; i++) {
		const struct prefix *prefix = &trusted[i];

		if (ipv6_addr_v4mapped(&prefix->addr))
			seq_printf(seq, "trust %pI4/%u\n", &prefix->addr.s6_addr32[3], prefix->len - MAPPED_BITS);
		else
			seq_printf(seq, "trust %pI6c/%u\n", &prefix->addr, prefix->len);
	}
}
