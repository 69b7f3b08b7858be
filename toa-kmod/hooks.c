// SPDX-License-Identifier: GPL-2.0
/*
 * Four kernel functions are hooked with ftrace, found by name:
 *
 *   tcp_child_process     entered with each new socket of a listener, locked,
 *                         and with the segment that made it: read the option
 *   tcp_v4_destroy_sock   entered when a socket ends, IPv6 too: forget
 *   inet_getname          replaced by functions that call the original and
 *   inet6_getname         then write the client over the gateway's address
 *
 * No table of pointers is patched and no memory protection lifted, and the
 * kernel refuses a second module that would replace the same functions.
 * "Permanent" makes switching ftrace off fail while the module is loaded
 * instead of silently hiding the clients.
 *
 * The original getname may sleep in lock_sock(), so unloading counts the
 * replacements under way, and waits for none to be left.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/in.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/tcp.h>
#include <net/inet_common.h>
#include <net/ipv6.h>
#include <net/tcp.h>

#include "compat/ftrace.h"
#include "toa.h"

static DEFINE_PER_CPU(long, in_flight);

static void learn(const struct sock *child, const struct sk_buff *skb)
{
	struct toa_client client;
	struct in6_addr lip;
	enum toa_parsed parsed;
	bool trusted;

	/* Should memory be reused without a passed destroy: not to be shown. */
	if (toa_table_remove(child))
		toa_count(TOA_FORGOTTEN);

	parsed = toa_option_parse(tcp_hdr(skb), &client);
	toa_peer_of(child, &lip);
	trusted = toa_trust_has(&lip);
	if (parsed == TOA_PARSED_MALFORMED)
		toa_count(TOA_MALFORMED);
	else if (parsed == TOA_PARSED_NONE && trusted)
		toa_count(TOA_WITHOUT);
	else if (parsed == TOA_PARSED_NONE)
		return;
	else if (!trusted)
		toa_count(TOA_UNTRUSTED);
	else if (!toa_option_is_client(&client, &lip))
		toa_count(TOA_BAD_ADDRESS);
	else
		toa_count(toa_table_add(child, &client) ? TOA_NO_MEMORY : TOA_LEARNT);
}

/* tcp_child_process(parent, child, skb) */
static void notrace on_child(unsigned long ip, unsigned long parent_ip,
			     struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	learn((const struct sock *)toa_ftrace_argument(fregs, 1),
	      (const struct sk_buff *)toa_ftrace_argument(fregs, 2));
}

/* tcp_v4_destroy_sock(sk) */
static void notrace on_destroy(unsigned long ip, unsigned long parent_ip,
			       struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	if (toa_table_remove((const struct sock *)toa_ftrace_argument(fregs, 0)))
		toa_count(TOA_FORGOTTEN);
}

static bool find(const struct sock *sk, struct toa_client *client)
{
	if (sk->sk_protocol == IPPROTO_MPTCP)
		return toa_table_find_path(sk, client);
	return sk->sk_protocol == IPPROTO_TCP && toa_table_find(sk, client);
}

static void show(const struct sock *sk, struct sockaddr *addr)
{
	struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)addr;
	struct sockaddr_in *sin = (struct sockaddr_in *)addr;
	struct toa_client client;

	if (!find(sk, &client))
		return;
	if (addr->sa_family == AF_INET6) {
		sin6->sin6_port = client.port;
		sin6->sin6_addr = client.addr;
		sin6->sin6_scope_id = 0;
	} else if (ipv6_addr_v4mapped(&client.addr)) {
		sin->sin_port = client.port;
		sin->sin_addr.s_addr = client.addr.s6_addr32[3];
	} else {
		/* A sockaddr_in has no room for an IPv6 client. */
		return;
	}
	toa_count(TOA_SHOWN);
}

/* accept() asks with peer 2, getpeername() with 1, getsockname() with 0. */
static int show_inet(struct socket *sock, struct sockaddr *addr, int peer)
{
	int ret;

	this_cpu_inc(in_flight);
	ret = inet_getname(sock, addr, peer);
	if (ret > 0 && peer)
		show(sock->sk, addr);
	this_cpu_dec(in_flight);
	return ret;
}

#if IS_ENABLED(CONFIG_IPV6)
static int show_inet6(struct socket *sock, struct sockaddr *addr, int peer)
{
	int ret;

	this_cpu_inc(in_flight);
	ret = inet6_getname(sock, addr, peer);
	if (ret > 0 && peer)
		show(sock->sk, addr);
	this_cpu_dec(in_flight);
	return ret;
}
#endif

/* A call that comes from this module wants the original. */
static void notrace replace(unsigned long parent_ip, struct ftrace_regs *fregs, void *with)
{
	if (!within_module(parent_ip, THIS_MODULE))
		toa_ftrace_go_to(fregs, with);
}

static void notrace on_getname(unsigned long ip, unsigned long parent_ip,
			       struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	replace(parent_ip, fregs, show_inet);
}

#if IS_ENABLED(CONFIG_IPV6)
static void notrace on_getname6(unsigned long ip, unsigned long parent_ip,
				struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	replace(parent_ip, fregs, show_inet6);
}
#endif

#define ENTRY_FLAGS (TOA_FTRACE_REGS | FTRACE_OPS_FL_RECURSION | FTRACE_OPS_FL_PERMANENT)
#define REPLACE_FLAGS (ENTRY_FLAGS | FTRACE_OPS_FL_IPMODIFY)

/* In order of adding: what forgets comes before what learns. */
static struct {
	char *name;
	struct ftrace_ops ops;
} hooks[] = {
	{ "tcp_v4_destroy_sock", { .func = on_destroy, .flags = ENTRY_FLAGS } },
	{ "inet_getname", { .func = on_getname, .flags = REPLACE_FLAGS } },
#if IS_ENABLED(CONFIG_IPV6)
	{ "inet6_getname", { .func = on_getname6, .flags = REPLACE_FLAGS } },
#endif
	{ "tcp_child_process", { .func = on_child, .flags = ENTRY_FLAGS } },
};

static long count_in_flight(void)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(in_flight, cpu);
	return sum;
}

static void remove_hooks(int count)
{
	while (count-- > 0)
		unregister_ftrace_function(&hooks[count].ops);
	/* Whoever was on the way into a replacement is in it after this ... */
	synchronize_rcu_tasks();
	while (count_in_flight() != 0)
		msleep(20);
	/* ... and whoever has counted itself out has left it after this. */
	synchronize_rcu_tasks();
}

static const char *advice(int ret)
{
	if (ret != -EBUSY)
		return "";
	return ": rmmod the other TOA module or live patch, or set kernel.ftrace_enabled to 1";
}

int toa_hooks_add(void)
{
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		ret = ftrace_set_filter(&hooks[i].ops, hooks[i].name, strlen(hooks[i].name), 1);
		if (!ret)
			ret = register_ftrace_function(&hooks[i].ops);
		if (ret) {
			pr_err("cannot hook %s (%d)%s\n", hooks[i].name, ret, advice(ret));
			remove_hooks(i);
			return ret;
		}
	}
	return 0;
}

void toa_hooks_remove(void)
{
	remove_hooks(ARRAY_SIZE(hooks));
}
