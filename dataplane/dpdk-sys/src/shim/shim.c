/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "shim.h"

int
tg_errno(void)
{
	return rte_errno;
}

int
tg_link_get(uint16_t port, struct tg_link *out)
{
	struct rte_eth_link link;
	int ret;

	memset(&link, 0, sizeof(link));
	ret = rte_eth_link_get_nowait(port, &link);
	if (ret != 0)
		return ret;
	/* Drivers say either 0 or UINT32_MAX when they do not know. */
	out->speed_mbps = link.link_speed == UINT32_MAX ? 0 : link.link_speed;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	return 0;
}

const char *
tg_device_name(const struct rte_device *device)
{
	return device == NULL ? NULL : rte_dev_name(device);
}

/* A rule in DPDK's terms: the parts point to each other. */
struct flow_parts {
	struct rte_flow_attr attr;
	struct rte_flow_item_ipv4 v4, v4_mask;
	struct rte_flow_item_ipv6 v6, v6_mask;
	struct rte_flow_action_queue queue;
	struct rte_flow_item items[4];
	struct rte_flow_action actions[2];
};

static void
flow_parts(struct flow_parts *parts, const struct tg_flow_rule *rule)
{
	memset(parts, 0, sizeof(*parts));
	parts->attr.ingress = 1;
	parts->items[0].type = RTE_FLOW_ITEM_TYPE_ETH;
	if (rule->is_ipv6) {
		/* By memory: the address has another type from 24.11 on. */
		memcpy(&parts->v6.hdr.dst_addr, rule->to, 16);
		memset(&parts->v6_mask.hdr.dst_addr, 0xff, 16);
		parts->v6.hdr.proto = rule->protocol_in_ip ? rule->protocol : 0;
		parts->v6_mask.hdr.proto = rule->protocol_in_ip ? 0xff : 0;
		parts->items[1].type = RTE_FLOW_ITEM_TYPE_IPV6;
		parts->items[1].spec = &parts->v6;
		parts->items[1].mask = &parts->v6_mask;
	} else {
		memcpy(&parts->v4.hdr.dst_addr, rule->to, 4);
		memset(&parts->v4_mask.hdr.dst_addr, 0xff, 4);
		parts->v4.hdr.next_proto_id = rule->protocol_in_ip ? rule->protocol : 0;
		parts->v4_mask.hdr.next_proto_id = rule->protocol_in_ip ? 0xff : 0;
		parts->items[1].type = RTE_FLOW_ITEM_TYPE_IPV4;
		parts->items[1].spec = &parts->v4;
		parts->items[1].mask = &parts->v4_mask;
	}
	parts->items[2].type = rule->protocol == IPPROTO_UDP ? RTE_FLOW_ITEM_TYPE_UDP : RTE_FLOW_ITEM_TYPE_TCP;
	parts->items[3].type = RTE_FLOW_ITEM_TYPE_END;
	parts->queue.index = rule->queue;
	parts->actions[0].type = RTE_FLOW_ACTION_TYPE_QUEUE;
	parts->actions[0].conf = &parts->queue;
	parts->actions[1].type = RTE_FLOW_ACTION_TYPE_END;
}

static void
flow_why(const struct rte_flow_error *error, char *why, size_t why_len)
{
	snprintf(why, why_len, "%s", error->message == NULL ? "" : error->message);
}

int
tg_flow_validate(uint16_t port, const struct tg_flow_rule *rule, char *why, size_t why_len)
{
	struct rte_flow_error error = { 0 };
	struct flow_parts parts;
	int ret;

	flow_parts(&parts, rule);
	ret = rte_flow_validate(port, &parts.attr, parts.items, parts.actions, &error);
	flow_why(&error, why, why_len);
	return ret;
}

struct rte_flow *
tg_flow_create(uint16_t port, const struct tg_flow_rule *rule, char *why, size_t why_len)
{
	struct rte_flow_error error = { 0 };
	struct flow_parts parts;
	struct rte_flow *flow;

	flow_parts(&parts, rule);
	flow = rte_flow_create(port, &parts.attr, parts.items, parts.actions, &error);
	flow_why(&error, why, why_len);
	return flow;
}

int
tg_flow_destroy(uint16_t port, struct rte_flow *flow)
{
	struct rte_flow_error error = { 0 };

	return rte_flow_destroy(port, flow, &error);
}

static ssize_t
log_write(void *cookie, const char *text, size_t len)
{
	tg_log_fn sink = *(tg_log_fn *)cookie;

	sink((uint32_t)rte_log_cur_msg_loglevel(), text, len);
	return (ssize_t)len;
}

int
tg_log_redirect(tg_log_fn sink)
{
	static tg_log_fn installed;
	static const cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	installed = sink;
	stream = fopencookie(&installed, "w", functions);
	if (stream == NULL)
		return -1;
	/* rte_vlog() flushes after every message, so one write is one message. */
	return rte_openlog_stream(stream);
}
