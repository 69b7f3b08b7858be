// SPDX-License-Identifier: GPL-2.0
/*
 * Two socket options of level IPPROTO_IP, for IPv4 and IPv6 sockets. Both give
 * struct toa_sockopt_addr; ENOENT says that there is nothing to tell.
 *
 *   4096  the client, where a sockaddr_in has no room for it: an IPv4 socket
 *         whose client has an IPv6 address. What getpeername() shows already
 *         is not repeated. Number and layout are those of DPVS, whose patch
 *         for nginx and whose example programs use them.
 *   4097  the peer on the wire, that is the gateway's local address and port,
 *         where getpeername() shows the client instead.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/netfilter.h>
#include <linux/uaccess.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/sock.h>

#include "toa.h"

#define TOA_SOCKOPT_CLIENT 4096
#define TOA_SOCKOPT_PEER 4097
#define TOA_SOCKOPT_END 4098

/* Network order; IPv4 is mapped. 20 bytes, of which the last two are 0. */
struct toa_sockopt_addr {
	struct in6_addr addr;
	__be16 port;
	__u16 unused;
};

static int answer(const struct sock *sk, int option, struct toa_sockopt_addr *out)
{
	struct toa_client client;

	if (sk->sk_protocol != IPPROTO_TCP || !toa_table_find(sk, &client))
		return -ENOENT;
	if (option == TOA_SOCKOPT_PEER) {
		toa_peer_of(sk, &out->addr);
		out->port = inet_sk(sk)->inet_dport;
		return 0;
	}
	if (sk->sk_family != AF_INET || ipv6_addr_v4mapped(&client.addr))
		return -ENOENT;
	out->addr = client.addr;
	out->port = client.port;
	return 0;
}

static int get(struct sock *sk, int option, void __user *user, int *len)
{
	struct toa_sockopt_addr out = {};
	int ret;

	if (*len < sizeof(out))
		return -EINVAL;
	ret = answer(sk, option, &out);
	if (ret)
		return ret;
	if (copy_to_user(user, &out, sizeof(out)))
		return -EFAULT;
	*len = sizeof(out);
	return 0;
}

static struct nf_sockopt_ops sockopts = {
	.pf = PF_INET,
	.get_optmin = TOA_SOCKOPT_CLIENT,
	.get_optmax = TOA_SOCKOPT_END,
	.get = get,
	.owner = THIS_MODULE,
};

int toa_sockopt_add(void)
{
	int ret = nf_register_sockopt(&sockopts);

	if (ret)
		pr_err("socket options %d and %d are taken (%d): is another TOA module loaded? rmmod it first\n",
		       TOA_SOCKOPT_CLIENT, TOA_SOCKOPT_PEER, ret);
	return ret;
}

void toa_sockopt_remove(void)
{
	nf_unregister_sockopt(&sockopts);
}
