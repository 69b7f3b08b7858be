/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between kernels in how an ftrace hook reads the arguments of
 * the function it was called from, and sends it elsewhere. The one place with
 * version tests.
 *
 * Since 6.2 every hook of an architecture with DYNAMIC_FTRACE_WITH_ARGS gets
 * what it needs here, arm64 among them. Before, all registers were asked for.
 */
#ifndef TOLLGATE_TOA_COMPAT_FTRACE_H
#define TOLLGATE_TOA_COMPAT_FTRACE_H

#include <linux/ftrace.h>
#include <linux/kconfig.h>
#include <linux/ptrace.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0) && \
	IS_ENABLED(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)

#define TOA_FTRACE_REGS 0

static inline unsigned long toa_ftrace_argument(struct ftrace_regs *fregs, unsigned int n)
{
	return ftrace_regs_get_argument(fregs, n);
}

static inline void toa_ftrace_go_to(struct ftrace_regs *fregs, void *function)
{
	ftrace_regs_set_instruction_pointer(fregs, (unsigned long)function);
}

#elif IS_ENABLED(CONFIG_DYNAMIC_FTRACE_WITH_REGS)

#define TOA_FTRACE_REGS FTRACE_OPS_FL_SAVE_REGS

/* With the flag above there are registers always; see ftrace_get_regs(). */
static inline unsigned long toa_ftrace_argument(struct ftrace_regs *fregs, unsigned int n)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);

	return regs ? regs_get_kernel_argument(regs, n) : 0;
}

static inline void toa_ftrace_go_to(struct ftrace_regs *fregs, void *function)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);

	if (regs)
		instruction_pointer_set(regs, (unsigned long)function);
}

#else
#error "this kernel has neither DYNAMIC_FTRACE_WITH_ARGS (6.2 or newer) nor _WITH_REGS; use toa-bpf"
#endif

#endif
