/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
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
