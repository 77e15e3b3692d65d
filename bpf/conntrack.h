/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Is this packet a reply?
 *
 * The flow tables are read only when the image denies, and written only where a reply will need it. An entry is the tuple
 * of the admitted direction; its mirror is a reply. Nothing here trusts a packet to delete state: FIN and RST shorten an
 * entry's idle life, and sequence numbers are not checked.
 */
#pragma once

#include "decision.h"
#include "flow.h"

#define SECOND_NS 1000000000ULL
#define GRACE_NS (60 * SECOND_NS)

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define FLOW_CLOSING (FLOW_FIN_FORWARD | FLOW_FIN_REPLY | FLOW_RST)

enum flow_answer {
	FLOW_NONE,
	FLOW_REPLY,
	FLOW_REVOKED, /* it was a flow, and policy no longer admits it */
};

/* Isolation of this pod in this direction began less than GRACE_NS ago: connections may be older than it. */
static __always_inline int isolation_is_young(struct decision *d, __u32 slot, __u32 direction)
{
	__u64 since = ARRAY_OF(endpoints)[slot & (MAX_ENDPOINTS - 1)].isolated_ns[direction & 1];

	return since && (__s64)(now_ns(d) - since) < (__s64)GRACE_NS;
}

/* The tuple of p itself. 0: p is of a kind that opens no flow (ICMP other than an echo request). */
static __always_inline int flow_key_of(const struct packet *p, struct flow_key *key)
{
	key->saddr = p->saddr;
	key->daddr = p->daddr;
	key->sport = p->sport;
	key->dport = p->dport;
	key->protocol = p->protocol;
	return p->protocol != IPPROTO_ICMP || p->dport == ICMP_ECHO;
}

/* The tuple that p would be a reply to. 0: p can be no reply. */
static __always_inline int flow_key_mirrored(const struct packet *p, struct flow_key *key)
{
	key->saddr = p->daddr;
	key->daddr = p->saddr;
	key->sport = p->dport;
	key->dport = p->sport;
	key->protocol = p->protocol;
	if (p->protocol == IPPROTO_ICMP) {
		key->sport = p->sport;
		key->dport = ICMP_ECHO;
		return p->dport == ICMP_ECHO_REPLY;
	}
	return !p->opening;
}

static __always_inline int flow_filter_has(__u64 hash)
{
	__u32 half = ARRAY_OF(state)->flow_filter & 1;

	if (!bit_is_set(ARRAY_OF(flow_summary)[flow_summary_word(hash) + half * FLOW_SUMMARY_WORDS], flow_summary_bit(hash)))
		return 0;
	return bit_is_set(ARRAY_OF(flow_filter)[flow_filter_word(hash) + half * FLOW_FILTER_WORDS], flow_filter_bit(hash));
}

static __always_inline int flow_filter_hit(const struct flow_key *key)
{
	return flow_filter_has(flow_hash(key));
}

/* May there be a flow that p answers? */
static __always_inline int flow_filter_mirror(const struct packet *p)
{
	struct flow_key key = {};

	return flow_key_mirrored(p, &key) && flow_filter_hit(&key);
}

/* A bit of flow_filter is never set while that of flow_summary is not, but where a sweep is wiping them out. */
static __always_inline void flow_half_set(__u64 hash, __u32 half)
{
	volatile __u64 *word = ARRAY_OF(flow_filter) + flow_filter_word(hash) + half * FLOW_FILTER_WORDS;
	volatile __u64 *summary = ARRAY_OF(flow_summary) + flow_summary_word(hash) + half * FLOW_SUMMARY_WORDS;
	__u64 bit = 1ULL << (flow_filter_bit(hash) & 63);

	if (*word & bit)
		return;
	__sync_fetch_and_or(summary, 1ULL << (flow_summary_bit(hash) & 63));
	__sync_fetch_and_or(word, bit);
}

/* Both halves: whichever of them a concurrent sweep is refilling, the flow is found in it. */
static __always_inline void flow_filter_set(const struct flow_key *key)
{
	__u64 hash = flow_hash(key);

	flow_half_set(hash, 0);
	flow_half_set(hash, 1);
}

static __always_inline __u64 flow_lifetime_ns(const struct flow *flow, __u8 protocol)
{
	__u64 seconds;

	if (flow->flags & FLOW_RST)
		seconds = FLOW_RST_SECONDS;
	else if ((flow->flags & (FLOW_FIN_FORWARD | FLOW_FIN_REPLY)) == (FLOW_FIN_FORWARD | FLOW_FIN_REPLY))
		seconds = FLOW_CLOSED_SECONDS;
	else if (flow->flags & (FLOW_FIN_FORWARD | FLOW_FIN_REPLY))
		seconds = FLOW_FIN_SECONDS;
	else if (protocol == IPPROTO_ICMP)
		seconds = FLOW_ICMP_SECONDS;
	else if (!(flow->flags & FLOW_ASSURED))
		seconds = FLOW_NEW_SECONDS;
	else if (protocol == IPPROTO_TCP)
		seconds = FLOW_TCP_SECONDS;
	else
		seconds = FLOW_DATAGRAM_SECONDS;
	return seconds * SECOND_NS;
}

/* A busy flow must not bounce its cache line between CPUs: at most one store a second. */
static __always_inline void flow_touch(struct flow *flow, const struct packet *p, __u32 fin, __u64 now)
{
	if (p->protocol == IPPROTO_TCP) {
		if (p->opening) {
			if (flow->flags & FLOW_CLOSING)
				flow->flags &= ~FLOW_CLOSING;
		} else {
			__u32 flags = (p->tcp_flags & TCP_FIN ? fin : 0) | (p->tcp_flags & TCP_RST ? FLOW_RST : 0);

			if (flags & ~flow->flags)
				flow->flags |= flags;
		}
	}
	if ((__s64)(now - flow->seen_ns) > (__s64)SECOND_NS)
		flow->seen_ns = now;
}

/*
 * Is the address still in the hands that it was in? An address may become that of a pod that has been there for a while
 * unknown; but once a pod has left it, whoever comes next is another, long before its name is known here.
 */
static __always_inline int flow_party_stayed(__u8 tenancy, int was_pod, __u64 entry)
{
	return tenancy == address_tenancy(entry) && (!was_pod || address_is_pod(entry));
}

/*
 * A living entry of key, for addresses that are still held by whom they were. *assured says which table it is in.
 */
static __always_inline struct flow *flow_find(struct decision *d, const struct flow_key *key, __u64 source,
					      __u64 destination, int *assured)
{
	struct flow *flow;

	if (!flow_filter_hit(key))
		return NULL;
	*assured = 1;
	flow = bpf_map_lookup_elem(&flows, key);
	if (!flow) {
		*assured = 0;
		flow = bpf_map_lookup_elem(&flows_new, key);
		if (!flow)
			return NULL;
	}
	if (!flow_party_stayed(flow->source_tenancy, flow->flags & FLOW_FROM_POD, source) ||
	    !flow_party_stayed(flow->destination_tenancy, flow->flags & FLOW_TO_POD, destination))
		return NULL;
	if ((__s64)(now_ns(d) - flow->seen_ns) > (__s64)flow_lifetime_ns(flow, key->protocol))
		return NULL;
	return flow;
}

/*
 * Moves a flow to the table that floods do not churn, while its pod's share of it lasts. Two CPUs may both move it: the
 * share is then counted once too often until the sweep recounts it.
 */
static __always_inline void flow_assure(const struct flow_key *key, const struct flow *flow)
{
	struct flow assured = *flow;
	volatile __u64 *count = ARRAY_OF(flow_counts) + (flow->owner & (MAX_ENDPOINTS - 1));

	if (*count >= flows_per_pod)
		return;
	assured.flags |= FLOW_ASSURED;
	if (bpf_map_update_elem(&flows, key, &assured, BPF_ANY))
		return;
	__sync_fetch_and_add(count, 1);
	bpf_map_delete_elem(&flows_new, key);
}

/* Remembers key as admitted now, on behalf of the pod in slot owner. */
static __noinline int flow_insert(struct decision *d, const struct flow_key *key, __u64 source, __u64 destination,
				  __u32 owner)
{
	struct flow flow;

	if (!d || !key)
		return 0;
	flow.seen_ns = now_ns(d);
	flow.image_generation = d->image->generation;
	flow.addr_generation = ARRAY_OF(state)->addr_generation;
	flow.source_tenancy = address_tenancy(source);
	flow.destination_tenancy = address_tenancy(destination);
	flow.owner = owner;
	flow.flags = (address_is_pod(source) ? FLOW_FROM_POD : 0) | (address_is_pod(destination) ? FLOW_TO_POD : 0);
	/* The bit first: an entry without its bit would be invisible for as long as it lives. */
	flow_filter_set(key);
	bpf_map_delete_elem(&flows, key); /* a dead entry there would hide this one */
	return bpf_map_update_elem(&flows_new, key, &flow, BPF_ANY) == 0;
}

