/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who counts, and who tells?
 *
 * Each hook's exit counts the packet, and is told whether this CPU owes an event about it.
 */
#pragma once

#include "decision.h"

/* Counts packets, and says whether an event is due. */
static __always_inline int count_packets(__u32 packets, __u32 bytes, __u32 hook, __u32 direction, enum verdict verdict, __u32 reason)
{
	__u32 at = ((hook * DIRECTION_COUNT + (direction & 1)) * VERDICT_COUNT + verdict) * REASON_COUNT + reason;
	struct counter *counter;
	__u64 now, interval;

	counter = bpf_map_lookup_elem(&counters, &at);
	if (!counter)
		return 0;
	counter->packets += packets;
	counter->bytes += bytes;
	/* Passing what weir does not guard is no news, but a test may want to hear of everything. */
	interval = event_interval;
	if (verdict == VERDICT_PASS && reason >= REASON_HANDED_UP && interval)
		return 0;
	now = bpf_jiffies64(); /* a load: the verifier inlines it */
	if (now - counter->sampled < interval)
		return 0;
	counter->sampled = now;
	return 1;
}

static __always_inline int count(const struct packet *p, __u32 hook, __u32 direction, enum verdict verdict, __u32 reason)
{
	return count_packets(p->packets, p->bytes, hook, direction, verdict, reason);
}

static __always_inline void count_rule(__u32 packets, __u32 bytes, __u32 rule)
{
	struct rule_hit *hit = bpf_map_lookup_elem(&rule_hits, &rule);

	if (hit) {
		hit->packets += packets;
		hit->bytes += bytes;
	}
}

/* d->rule's hits are counted where a rule's verdict is final: its denials anywhere, its allows once per direction. */
static __always_inline int account(const struct decision *d, const struct packet *p, enum hook hook, __u32 direction,
				   enum verdict verdict, enum reason reason)
{
	__u32 rule = d->rule & CELL_RULE;

	if (rule && (reason == REASON_ALLOWED || reason == REASON_DENIED_RULE))
		count_rule(p->packets, p->bytes, rule);
	return count(p, hook, direction, verdict, reason);
}

static __always_inline struct event *event_reserve(const struct decision *d, const struct packet *p, enum hook hook,
						   enum verdict verdict, enum reason reason, __u32 ifindex)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return NULL;
	e->time_ns = bpf_ktime_get_coarse_ns();
	e->hook = hook;
	e->direction = d->direction;
	e->verdict = verdict;
	e->reason = reason;
	e->rule = d->rule & CELL_RULE;
	e->captured = 0;
	e->generation = d->image ? d->image->generation : 0;
	e->ifindex = ifindex;
	e->source_identity = address_identity(d->source);
	e->destination_identity = address_identity(d->destination);
	e->saddr = p->saddr;
	e->daddr = p->daddr;
	e->sport = p->sport;
	e->dport = p->dport;
	e->protocol = p->protocol;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	e->length = p->bytes;
	e->pad2 = 0;
	return e;
}
