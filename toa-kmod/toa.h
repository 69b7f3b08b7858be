/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TOA receiver: shows servers the client's address behind a FULLNAT gateway.
 *
 * main.c     parameters, counters, load and unload
 * hooks.c    the four kernel functions that are hooked, and how
 * option.c   finds the option in a TCP header
 * table.c    remembers the client of each socket
 * trust.c    whose options are believed
 * sockopt.c  for programs that ask: IPv6 clients of IPv4 sockets, the true peer
 * compat/    what differs between kernels
 */
#ifndef TOLLGATE_TOA_H
#define TOLLGATE_TOA_H

#include <linux/in6.h>
#include <linux/types.h>

struct seq_file;
struct sock;
struct tcphdr;

#define TOA_LEN_V4 8
#define TOA_LEN_V6 20
/* "TG": the identifier behind kinds 253 and 254 in the form of RFC 6994. */
#define TOA_EXID 0x5447
#define TOA_EXID_LEN 2

/* IPv4 addresses are kept mapped (::ffff:a.b.c.d). */
struct toa_client {
	struct in6_addr addr;
	__be16 port;
};

enum toa_counter {
	TOA_LEARNT,		/* client's address taken from a trusted option */
	TOA_WITHOUT,		/* trusted LIP, but no option on the segment */
	TOA_UNTRUSTED,		/* an option, but the LIP is not trusted */
	TOA_MALFORMED,		/* options that do not parse */
	TOA_BAD_ADDRESS,	/* an address that no client can have */
	TOA_NO_MEMORY,		/* no memory to remember the client */
	TOA_FORGOTTEN,		/* sockets that ended */
	TOA_SHOWN,		/* answers given with the client's address */
	TOA_COUNTERS,
};

void toa_count(enum toa_counter which);

enum toa_parsed {
	TOA_PARSED_NONE,
	TOA_PARSED_CLIENT,
	TOA_PARSED_MALFORMED,
};

int toa_option_set_kinds(const unsigned int *kinds, unsigned int count);
enum toa_parsed toa_option_parse(const struct tcphdr *th, struct toa_client *client);
bool toa_option_is_client(const struct toa_client *client, const struct in6_addr *lip);

void toa_table_init(void);
void toa_table_exit(void);
int toa_table_add(const struct sock *sk, const struct toa_client *client);
bool toa_table_remove(const struct sock *sk);
bool toa_table_find(const struct sock *sk, struct toa_client *client);
/* The same for a socket that has the paths of an MPTCP connection. */
bool toa_table_find_path(const struct sock *whole, struct toa_client *client);
void toa_peer_of(const struct sock *sk, struct in6_addr *peer);

bool toa_trust_has(const struct in6_addr *lip);
unsigned int toa_trust_show(struct seq_file *seq);

int toa_sockopt_add(void);
void toa_sockopt_remove(void);

int toa_hooks_add(void);
void toa_hooks_remove(void);

#endif
