// SPDX-License-Identifier: GPL-2.0
/*
 * The option on the wire, all in network order:
 *
 *   kind  len  contents
 *   254    8   port(2), IPv4 address(4)    LVS, DPVS, Tollgate; most clouds
 *   253    8   the same                    some appliances
 *   200    8   the same                    the first public FULLNAT
 *   254   20   port(2), IPv6 address(16)   DPVS, Tollgate
 *   253   20   the same                    LVS with IPv6
 *   254   10   0x5447(2), port(2), IPv4(4)     Tollgate, as RFC 6994 asks for:
 *   254   22   0x5447(2), port(2), IPv6(16)    with an experiment's identifier
 *   253   10, 22  the same
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/in.h>
#include <linux/string.h>
#include <linux/tcp.h>
#include <net/ipv6.h>
#include <net/tcp.h>

#include "toa.h"

#define TOA_KIND_V4_ONLY 200
#define KINDS 256

static DECLARE_BITMAP(enabled_kinds, KINDS);

int toa_option_set_kinds(const unsigned int *kinds, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (kinds[i] != 200 && kinds[i] != 253 && kinds[i] != 254) {
			pr_err("kind %u is not a TOA kind; 254, 253 and 200 are\n", kinds[i]);
			return -EINVAL;
		}
		__set_bit(kinds[i], enabled_kinds);
	}
	return 0;
}

/* The whole option can be read. Returns where port and address are, or NULL. */
static const u8 *toa_value(const u8 *option)
{
	u8 kind = option[0], len = option[1];
	bool has_exid = len == TOA_LEN_V4 + TOA_EXID_LEN || len == TOA_LEN_V6 + TOA_EXID_LEN;

	if (!test_bit(kind, enabled_kinds))
		return NULL;
	if (kind == TOA_KIND_V4_ONLY)
		return len == TOA_LEN_V4 ? option + 2 : NULL;
	if (has_exid && option[2] == TOA_EXID >> 8 && option[3] == (TOA_EXID & 0xff))
		return option + 2 + TOA_EXID_LEN;
	return len == TOA_LEN_V4 || len == TOA_LEN_V6 ? option + 2 : NULL;
}

static void read_client(const u8 *value, size_t len, struct toa_client *client)
{
	__be32 ipv4;

	memcpy(&client->port, value, sizeof(client->port));
	value += sizeof(client->port);
	if (len == sizeof(client->port) + sizeof(client->addr)) {
		memcpy(&client->addr, value, sizeof(client->addr));
		return;
	}
	memcpy(&ipv4, value, sizeof(ipv4));
	ipv6_addr_set_v4mapped(ipv4, &client->addr);
}

/*
 * Finds the first TOA option. Other options, also ones of the same kinds with
 * another length (253 and 254 are shared by experiments), are stepped over.
 * The caller guarantees that the whole header, doff words, can be read.
 */
enum toa_parsed toa_option_parse(const struct tcphdr *th, struct toa_client *client)
{
	const u8 *at = (const u8 *)(th + 1);
	const u8 *end = (const u8 *)th + th->doff * 4;
	const u8 *value;

	while (at < end) {
		if (at[0] == TCPOPT_EOL)
			return TOA_PARSED_NONE;
		if (at[0] == TCPOPT_NOP) {
			at++;
			continue;
		}
		if (end - at < 2 || at[1] < 2 || at[1] > end - at)
			return TOA_PARSED_MALFORMED;
		value = toa_value(at);
		if (value) {
			read_client(value, at + at[1] - value, client);
			return TOA_PARSED_CLIENT;
		}
		at += at[1];
	}
	return TOA_PARSED_NONE;
}

static bool ipv4_is_client(__be32 ipv4)
{
	return !ipv4_is_zeronet(ipv4) && !ipv4_is_loopback(ipv4) && ntohl(ipv4) < 0xe0000000;
}

/* Whether a client can have this address and port at all. */
bool toa_option_is_client(const struct toa_client *client, const struct in6_addr *lip)
{
	const struct in6_addr *addr = &client->addr;

	if (!client->port || ipv6_addr_equal(addr, lip))
		return false;
	if (ipv6_addr_v4mapped(addr))
		return ipv4_is_client(addr->s6_addr32[3]);
	/* ::/96 holds the unspecified and the loopback address. */
	return !ipv6_addr_is_multicast(addr) &&
	       (addr->s6_addr32[0] || addr->s6_addr32[1] || addr->s6_addr32[2]);
}
