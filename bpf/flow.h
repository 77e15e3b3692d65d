/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How is a flow found, and how long does it live?
 *
 * The part of connection tracking that the agent's sweep shares with the programs; conntrack.h is the rest.
 */
#pragma once

#include "maps.h"

/* Idle lifetimes, seconds; what nf_conntrack's defaults are, but for TCP's five days. */
#define FLOW_NEW_SECONDS 60		/* no answer yet */
#define FLOW_TCP_SECONDS 21600		/* established */
#define FLOW_FIN_SECONDS 120		/* one side has closed */
#define FLOW_CLOSED_SECONDS 30		/* both have */
#define FLOW_RST_SECONDS 10
#define FLOW_DATAGRAM_SECONDS 180	/* UDP, SCTP and others */
#define FLOW_ICMP_SECONDS 30

/*
 * Two multiplications (Fibonacci hashing, Knuth TAOCP 6.4), whose upper bits are the good ones; only the filter uses it, and a
 * false hit costs one lookup. The order of addresses and ports is that of the packet which the flow's mirror is, so that the
 * NIC's program takes both from the frame as they stand.
 */
static __always_inline __u64 flow_hash_of(__u64 addrs, __u32 ports)
{
	return addrs * 0x9E3779B97F4A7C15ULL ^ ports * 0xC2B2AE3D27D4EB4FULL;
}

static __always_inline __u64 flow_hash(const struct flow_key *key)
{
	return flow_hash_of((__u64)key->daddr << 32 | key->saddr, (__u32)key->dport << 16 | key->sport);
}

/* Which bit of a half is the hash's: the upper bits say which word, the next six, the lower ones here, which of its bits. */
static __always_inline __u64 flow_filter_word(__u64 hash)
{
	return hash >> (64 - FLOW_FILTER_BITS);
}

static __always_inline __u64 flow_filter_bit(__u64 hash)
{
	return hash >> (58 - FLOW_FILTER_BITS);
}

/* Which bit of a half's summary is that word's, likewise. */
static __always_inline __u64 flow_summary_word(__u64 hash)
{
	return hash >> (70 - FLOW_FILTER_BITS);
}

static __always_inline __u64 flow_summary_bit(__u64 hash)
{
	return hash >> (64 - FLOW_FILTER_BITS);
}

/* Is the bit set? A shift takes six bits of its count (RFC 9669 section 4.1), which C does not know. */
static __always_inline int bit_is_set(__u64 word, __u64 bit)
{
	asm volatile("%0 >>= %1" : "+r"(word) : "r"(bit));
	return word & 1;
}
