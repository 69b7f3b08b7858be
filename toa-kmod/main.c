// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters, counters (/proc/net/tollgate_toa), load and unload.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <net/net_namespace.h>

#include "toa.h"

#define PROC_NAME "tollgate_toa"

static unsigned int kinds[3] = { 254, 253, 200 };
static unsigned int kinds_count = ARRAY_SIZE(kinds);
module_param_array(kinds, uint, &kinds_count, 0444);
MODULE_PARM_DESC(kinds, "TCP option kinds that are read (default 254,253,200)");

static DEFINE_PER_CPU(u64[TOA_COUNTERS], counters);

static const char *const counter_names[TOA_COUNTERS] = {
	[TOA_LEARNT] = "learnt",
	[TOA_WITHOUT] = "without_option",
	[TOA_UNTRUSTED] = "untrusted",
	[TOA_MALFORMED] = "malformed",
	[TOA_BAD_ADDRESS] = "bad_address",
	[TOA_NO_MEMORY] = "no_memory",
	[TOA_FORGOTTEN] = "forgotten",
	[TOA_SHOWN] = "shown",
};

void toa_count(enum toa_counter which)
{
	this_cpu_inc(counters[which]);
}

static int proc_show(struct seq_file *seq, void *unused)
{
	int cpu, i;

	toa_trust_show(seq);
	for (i = 0; i < TOA_COUNTERS; i++) {
		u64 sum = 0;

		for_each_possible_cpu(cpu)
			sum += per_cpu(counters, cpu)[i];
		seq_printf(seq, "%s %llu\n", counter_names[i], sum);
	}
	return 0;
}

static int __init toa_init(void)
{
	int ret;

	ret = toa_option_set_kinds(kinds, kinds_count);
	if (ret)
		return ret;
	if (!toa_trust_show(NULL))
		pr_warn("no gateway is trusted, so no client will be shown; load with trust=PREFIX,...\n");

	toa_table_init();
	if (!proc_create_single(PROC_NAME, 0444, init_net.proc_net, proc_show))
		return -ENOMEM;
	ret = toa_sockopt_add();
	if (ret)
		goto remove_proc;
	ret = toa_hooks_add();
	if (ret)
		goto remove_sockopt;
	return 0;

remove_sockopt:
	toa_sockopt_remove();
remove_proc:
	remove_proc_entry(PROC_NAME, init_net.proc_net);
	return ret;
}

static void __exit toa_exit(void)
{
	toa_hooks_remove();
	toa_sockopt_remove();
	remove_proc_entry(PROC_NAME, init_net.proc_net);
	toa_table_exit();
}

module_init(toa_init);
module_exit(toa_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Shows servers the client's address behind a FULLNAT gateway (TOA)");
MODULE_VERSION("0.1.0");
