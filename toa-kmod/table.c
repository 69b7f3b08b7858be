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
 * A connection that speaks MPTCP has a socket of its own beside those of its
 * paths, and that one is asked who the peer is. It has the endpoints of the
 * first path, so paths are in a second table, too, where they are found by
 * these. The client is forgotten when the first path ends.
 *
 * Readers use RCU; writers lock one of a few locks by bucket, and one more for
 * the table of paths.
 */
#include <linux/hashtable.h>
#include <linux/jhash.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/mptcp.h>
#include <net/sock.h>

#include "toa.h"

/* 16,384 buckets take 128 KiB: chains stay short up to 100,000 connections. */
#define TABLE_BITS 14
#define LOCK_BITS 8
#define PATH_BITS 10

struct entry {
	struct hlist_node node;
	struct hlist_node path_node;
	struct rcu_head rcu;
	const struct sock *sk;
	const struct net *net;
	struct in6_addr peer;
	struct in6_addr local;
	__be16 peer_port;
	__be16 local_port;
	struct toa_client client;
};

static DEFINE_HASHTABLE(table, TABLE_BITS);
static spinlock_t locks[1 << LOCK_BITS];
static DEFINE_HASHTABLE(paths, PATH_BITS);
static DEFINE_SPINLOCK(paths_lock);

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

static void local_of(const struct sock *sk, struct in6_addr *local)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		*local = sk->sk_v6_rcv_saddr;
		return;
	}
#endif
	ipv6_addr_set_v4mapped(sk->sk_rcv_saddr, local);
}

static void fill_endpoints(const struct sock *sk, struct entry *entry)
{
	entry->net = sock_net(sk);
	toa_peer_of(sk, &entry->peer);
	local_of(sk, &entry->local);
	entry->peer_port = inet_sk(sk)->inet_dport;
	entry->local_port = inet_sk(sk)->inet_sport;
}

static u32 path_key(const struct sock *sk)
{
	struct in6_addr peer;

	toa_peer_of(sk, &peer);
	return jhash_2words((__force u32)peer.s6_addr32[3],
			    (__force u16)inet_sk(sk)->inet_dport << 16 |
			    (__force u16)inet_sk(sk)->inet_sport, 0);
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
	INIT_HLIST_NODE(&entry->path_node);
	spin_lock_bh(lock_of(bucket));
	hlist_add_head_rcu(&entry->node, &table[bucket]);
	if (sk_is_mptcp(sk)) {
		spin_lock(&paths_lock);
		hash_add_rcu(paths, &entry->path_node, path_key(sk));
		spin_unlock(&paths_lock);
	}
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
		if (!hlist_unhashed(&entry->path_node)) {
			spin_lock(&paths_lock);
			hash_del_rcu(&entry->path_node);
			spin_unlock(&paths_lock);
		}
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

bool toa_table_find_path(const struct sock *whole, struct toa_client *client)
{
	struct in6_addr local;
	struct entry *entry;
	bool found = false;

	local_of(whole, &local);
	rcu_read_lock();
	hash_for_each_possible_rcu(paths, entry, path_node, path_key(whole)) {
		if (entry->net == sock_net(whole) && is_current(whole, entry) &&
		    ipv6_addr_equal(&local, &entry->local)) {
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
