/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bindgen reads: the DPDK headers that we use, and the few things that only C can say, that is macros and the
 * places of fields in anonymous unions (their generated names differ between DPDK releases).
 */
#ifndef TG_SHIM_H
#define TG_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_version.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_launch.h>
#include <rte_log.h>
#include <rte_dev.h>
#include <rte_cycles.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_thash.h>

/* Where the fields of an mbuf are that are read and written per packet. */
enum tg_mbuf_offset {
	TG_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	TG_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	TG_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	TG_MBUF_PORT = offsetof(struct rte_mbuf, port),
	TG_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	TG_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	TG_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	TG_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	TG_MBUF_HASH_FDIR_HI = offsetof(struct rte_mbuf, hash.fdir.hi),
	TG_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	TG_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	TG_MBUF_NEXT = offsetof(struct rte_mbuf, next),
};

/* struct rte_eth_link without bit fields and unions. */
struct tg_link {
	uint32_t speed_mbps;
	uint8_t full_duplex;
	uint8_t up;
};

/* rte_errno is a macro over a thread-local. */
int tg_errno(void);

/* The link as the driver last saw it; does not wait. */
int tg_link_get(uint16_t port, struct tg_link *link);

/* The name of the bus device behind a port. */
const char *tg_device_name(const struct rte_device *device);

/* A rule: packets of a protocol (IANA number, TCP or UDP) to an address go to a receive queue. */
struct tg_flow_rule {
	/* Network order; of IPv4 the first four bytes. */
	uint8_t to[16];
	uint8_t is_ipv6;
	uint8_t protocol;
	/* Whether the IP header's match names the protocol, too: some filters take it from there alone. */
	uint8_t protocol_in_ip;
	uint16_t queue;
};

/* Whether a port would take the rule: 0 or a negative errno; then why, terminated, as far as the driver says. */
int tg_flow_validate(uint16_t port, const struct tg_flow_rule *rule, char *why, size_t why_len);

/* Gives a port the rule; NULL: it is refused, see rte_errno and why. */
struct rte_flow *tg_flow_create(uint16_t port, const struct tg_flow_rule *rule, char *why, size_t why_len);

/* Takes a rule back. */
int tg_flow_destroy(uint16_t port, struct rte_flow *flow);

/* Receives one complete piece of log output; level is one of RTE_LOG_*. */
typedef void (*tg_log_fn)(uint32_t level, const char *text, size_t len);

/* Sends all DPDK log output of this process to sink, from before rte_eal_init() on. */
int tg_log_redirect(tg_log_fn sink);

#endif
