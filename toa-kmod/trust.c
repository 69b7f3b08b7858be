// SPDX-License-Identifier: GPL-2.0
/*
 * The gateways' local addresses whose options are believed, as prefixes: the
 * parameter "trust", which may be written while the module is loaded. Whoever
 * writes it has the parameters' lock; readers see the former list or the new
 * one, never a mixture.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/inet.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <net/ipv6.h>

#include "toa.h"

#define TRUST_MAX 64
#define MAPPED_BITS 96

struct prefix {
	struct in6_addr addr;
	u8 len;
};

struct list {
	unsigned int count;
	struct prefix prefix[TRUST_MAX];
};

/* The one that is believed, and room for the next. */
static struct list lists[2];
static struct list __rcu *trusted = RCU_INITIALIZER(&lists[0]);

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

static int add(struct list *list, const char *text)
{
	struct in6_addr network;
	struct prefix prefix;
	const char *end;
	int bits;
	u8 len;

	if (list->count == TRUST_MAX) {
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
	list->prefix[list->count++] = prefix;
	return 0;
}

/* All prefixes, with commas between them; an error leaves what is believed as it is. */
static int trust_set(const char *text, const struct kernel_param *param)
{
	struct list *old = rcu_dereference_protected(trusted, 1);
	struct list *list = old == &lists[0] ? &lists[1] : &lists[0];
	char *copy, *rest, *word;
	int ret = 0;

	copy = kstrdup(text, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	list->count = 0;
	rest = strim(copy);
	while (!ret && rest && *rest) {
		word = strsep(&rest, ",");
		ret = add(list, word);
	}
	kfree(copy);
	if (ret)
		return ret;
	rcu_assign_pointer(trusted, list);
	/* The next one to write takes the former list. */
	synchronize_rcu();
	return 0;
}

static int show(char *text, size_t room, const struct prefix *prefix)
{
	if (ipv6_addr_v4mapped(&prefix->addr))
		return scnprintf(text, room, "%pI4/%u", &prefix->addr.s6_addr32[3],
				 prefix->len - MAPPED_BITS);
	return scnprintf(text, room, "%pI6c/%u", &prefix->addr, prefix->len);
}

static int trust_get(char *text, const struct kernel_param *param)
{
	const struct list *list = rcu_dereference_protected(trusted, 1);
	unsigned int i;
	int at = 0;

	for (i = 0; i < list->count; i++) {
		if (i)
			at += scnprintf(text + at, PAGE_SIZE - at, ",");
		at += show(text + at, PAGE_SIZE - at, &list->prefix[i]);
	}
	return at + scnprintf(text + at, PAGE_SIZE - at, "\n");
}

static const struct kernel_param_ops trust_ops = { .set = trust_set, .get = trust_get };
module_param_cb(trust, &trust_ops, NULL, 0644);
MODULE_PARM_DESC(trust, "prefixes of the gateways whose options are believed, e.g. 10.9.0.0/24");

bool toa_trust_has(const struct in6_addr *lip)
{
	const struct list *list;
	bool found = false;
	unsigned int i;

	rcu_read_lock();
	list = rcu_dereference(trusted);
	for (i = 0; i < list->count && !found; i++)
		found = ipv6_prefix_equal(lip, &list->prefix[i].addr, list->prefix[i].len);
	rcu_read_unlock();
	return found;
}

/* Returns how many there are; seq may be NULL. */
unsigned int toa_trust_show(struct seq_file *seq)
{
	const struct list *list;
	char text[64];
	unsigned int i, count;

	rcu_read_lock();
	list = rcu_dereference(trusted);
	count = list->count;
	for (i = 0; seq && i < count; i++) {
		show(text, sizeof(text), &list->prefix[i]);
		seq_printf(seq, "trust %s\n", text);
	}
	rcu_read_unlock();
	return count;
}
