/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose is this IPv4 address?
 *
 * Longest prefix match in at most three loads (multibit trie with strides 16-8-8: Srinivasan and Varghese, SIGMETRICS
 * 1998), plus one kernel LPM lookup while there are prefixes that the block pool could not take.
 */
#pragma once

#include <bpf/bpf_endian.h>

#include "arrays.h"

static __always_inline __u32 address_identity(__u64 entry)
{
	return entry & 0xffffff;
}

static __always_inline enum address_kind address_kind(__u64 entry)
{
	return (entry >> 24) & 0xf;
}

static __always_inline __u32 address_flags(__u64 entry)
{
	return (entry >> 28) & 0xf;
}

static __always_inline __u32 address_slot(__u64 entry)
{
	return (entry >> 32) & 0xffff;
}

static __always_inline __u8 address_tenancy(__u64 entry)
{
	return (entry >> 48) & 0xff;
}

static __always_inline __u32 address_prefix_len(__u64 entry)
{
	return (entry >> 56) & 0x3f;
}

/* Local pods, and whatever else of this node's that nobody else may send from. */
static __always_inline int address_is_ours(__u64 entry)
{
	enum address_kind kind = address_kind(entry);

	return kind == ADDRESS_LOCAL_POD || kind == ADDRESS_HOST || kind == ADDRESS_LOCAL_CIDR;
}

/* No unicast packet has these: 0/8, 127/8, multicast and broadcast. Linux takes 240/4 for unicast, and so does this. */
static __always_inline int is_martian(__u32 addr)
{
	return addr >> 28 == 0xe || addr == 0xffffffff || addr >> 24 == 0 || addr >> 24 == 127;
}

static __always_inline int address_is_pod(__u64 entry)
{
	return address_kind(entry) == ADDRESS_LOCAL_POD || address_kind(entry) == ADDRESS_REMOTE_POD;
}

/* The trie's answer, which is the whole one while state.cidr4_entries is zero after it was asked. */
static __always_inline __u64 address_in_trie(__u32 addr)
{
	__u64 entry = ARRAY_OF(addr4)[addr >> 16];

	if ((__s64)entry < 0) {
		volatile void *blocks = ARRAY_OF(addr4_blocks);

		entry = *(volatile __u64 *)(blocks + ((__u32)entry & addr4_mask) + (addr >> 5 & 0x7f8));
		if ((__s64)entry < 0)
			entry = *(volatile __u64 *)(blocks + ((__u32)entry & addr4_mask) + (addr << 3 & 0x7f8));
	}
	return entry;
}

static __always_inline __u64 address_lookup(__u32 addr)
{
	__u64 entry = address_in_trie(addr);

	if (ARRAY_OF(state)->cidr4_entries) {
		struct cidr4_key key = {.prefix_len = 32};
		__be32 wire = bpf_htonl(addr);
		__u64 *other;

		__builtin_memcpy(key.addr, &wire, sizeof(key.addr));
		other = bpf_map_lookup_elem(&cidr4, &key);
		if (other && address_prefix_len(*other) > address_prefix_len(entry))
			entry = *other;
	}
	return entry;
}
