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

/* Two multiplications (Fibonacci hashing, Knuth TAOCP 6.4); only the filter uses it, and a false hit costs one lookup. */
static __always_inline __u64 flow_hash(const struct flow_key *key)
{
	__u64 hash = ((__u64)key->saddr << 32 | key->daddr) * 0x9E3779B97F4A7C15ULL;

	hash ^= ((__u64)key->sport << 32 | (__u64)key->dport << 16 | key->protocol) * 0xC2B2AE3D27D4EB4FULL;
	return hash ^ hash >> 32;
}

static __always_inline __u32 flow_filter_word(__u64 hash)
{
	return (hash >> 6) & (FLOW_FILTER_WORDS - 1);
}
