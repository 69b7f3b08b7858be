// SPDX-License-Identifier: GPL-2.0
/*
 * Remembers the client of each socket, keyed by the socket's address.
 *
 * Nothing of the socket itself is used for it: sk_user_data, sk_destruct and
 * the ops tables belong to others (kTLS, sockmap, MPTCP), who check them.
 *
 * An entry also keeps the connection's endpoints and is shown only while they
 * are the socket's: memory is reused, so should an entry ever outlive its
 * socket, it still cannot be shown for another connection. Besides, a new
 * socket drops an entry that is there under its address.
 *
 * Readers use RCU; writers lock one of a few locks by bucket.
 */
#include <linux/hashtable.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/sock.h>

#include "toa.h"

/* 16,384 buckets take 128 KiB: chains stay short up to 100,000 connections. */
#define TABLE_BITS 14
#define LOCK_BITS 8

struct entry {
	struct hlist_node node;
	struct rcu_head rcu;
	const struct sock *sk;
	struct in6_addr peer;
	__be16 peer_port;
	__be16 local_port;
	struct toa_client client;
};

static DEFINE_HASHTABLE(table, TABLE_BITS);
static spinlock_t locks[1 << LOCK_BITS];

static u32 bucket_of(const struct sock *sk)
{
	return hash_ptr(sk, TABLE_BITS);
}

static spinlock_t *lock_of(u32 bucket)
{
	return &locks[bucket & ((1 << LOCK_BITS) - 1)];
}

void toa_peer_of(const struct sock *sk, struct in6_addr *peer)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		*peer = sk->sk_v6_daddr;
		return;
	}
#endif
	ipv6_addr_set_v4mapped(sk->sk_daddr, peer);
}

static void fill_endpoints(const struct sock *sk, struct entry *entry)
{
	toa_peer_of(sk, &entry->peer);
	entry->peer_port = inet_sk(sk)->inet_dport;
	entry->local_port = inet_sk(sk)->inet_sport;
}

static bool is_current(const struct sock *sk, const struct entry *entry)
{
	struct in6_addr peer;

	toa_peer_of(sk, &peer);
	return ipv6_addr_equal(&peer, &entry->peer) &&
	       inet_sk(sk)->inet_dport == entry->peer_port &&
	       inet_sk(sk)->inet_sport == entry->local_port;
}

/* The socket has no entry: the caller removed what was there. */
int toa_table_add(const struct sock *sk, const struct toa_client *client)
{
	struct entry *entry = kmalloc(sizeof(*entry), GFP_ATOMIC);
	u32 bucket = bucket_of(sk);

	if (!entry)
		return -ENOMEM;
	entry->sk = sk;
	entry->client = *client;
	fill_endpoints(sk, entry);
	spin_lock_bh(lock_of(bucket));
	hlist_add_head_rcu(&entry->node, &table[bucket]);
	spin_unlock_bh(lock_of(bucket));
	return 0;
}

bool toa_table_remove(const struct sock *sk)
{
	u32 bucket = bucket_of(sk);
	struct entry *entry;
	struct hlist_node *next;
	bool removed = false;

	/* Most sockets of a machine have no client to forget. */
	if (hlist_empty(&table[bucket]))
		return false;
	spin_lock_bh(lock_of(bucket));
	hlist_for_each_entry_safe(entry, next, &table[bucket], node) {
		if (entry->sk != sk)
			continue;
		hlist_del_rcu(&entry->node);
		kfree_rcu(entry, rcu);
		removed = true;
	}
	spin_unlock_bh(lock_of(bucket));
	return removed;
}

bool toa_table_find(const struct sock *sk, struct toa_client *client)
{
	struct entry *entry;
	bool found = false;

	rcu_read_lock();
	hlist_for_each_entry_rcu(entry, &table[bucket_of(sk)], node) {
		if (entry->sk == sk && is_current(sk, entry)) {
			*client = entry->client;
			found = true;
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

void toa_table_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(locks); i++)
		spin_lock_init(&locks[i]);
}

/* After the hooks are gone: nobody reads or writes any more. */
void toa_table_exit(void)
{
	struct entry *entry;
	struct hlist_node *next;
	int bucket;

	hash_for_each_safe(table, bucket, next, entry, node) {
		hlist_del(&entry->node);
		kfree(entry);
	}
}
