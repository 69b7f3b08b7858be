/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The little that the program needs besides the kernel's own header, so that building it needs no BPF library.
 */
#ifndef TOLLGATE_BPF_HELPERS_H
#define TOLLGATE_BPF_HELPERS_H

#include <linux/bpf.h>

/* Loaders find programs and maps by their ELF section. */
#define SEC(name) __attribute__((section(name), used))

/* Maps are described by types alone: numbers as array lengths, types as pointees. Loaders read them from BTF. */
#define MAP_NUMBER(field, number) int(*field)[number]
#define MAP_TYPE(field, type) typeof(type) *field

/* The verifier knows a context pointer only within one function. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) __builtin_bswap16(x)
#define NET32(x) __builtin_bswap32(x)
#else
#define NET16(x) (x)
#define NET32(x) (x)
#endif

/* A call of a kernel helper is a call to its number; linux/bpf.h documents each. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) =
	(void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_skb_load_bytes_relative)(const void *skb, __u32 offset, void *to, __u32 len,
						 __u32 start_header) =
	(void *)BPF_FUNC_skb_load_bytes_relative;
static long (*const bpf_skb_store_bytes)(void *skb, __u32 offset, const void *from, __u32 len, __u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_skb_adjust_room)(void *skb, __s32 len_diff, __u32 mode, __u64 flags) =
	(void *)BPF_FUNC_skb_adjust_room;
static __s64 (*const bpf_csum_diff)(const __be32 *from, __u32 from_size, const __be32 *to, __u32 to_size,
				    __u32 seed) = (void *)BPF_FUNC_csum_diff;
static void *(*const bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) =
	(void *)BPF_FUNC_sk_storage_get;
static void *(*const bpf_skc_to_mptcp_sock)(void *sk) = (void *)BPF_FUNC_skc_to_mptcp_sock;

#endif
