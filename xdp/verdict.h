/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of a frame at the NIC?
 *
 * The only place that knows XDP_*: turns a reason into an action, counts, and samples.
 */
#pragma once

#include "account.h"
#include "fast.h"

/* Reasons that observe mode counts and passes on. */
static __always_inline int is_violation(enum reason reason)
{
	return reason >= REASON_UNKNOWN_VTEP && reason <= REASON_INNER_TAGS;
}

static __always_inline enum verdict underlay_verdict(enum reason reason)
{
	if (is_violation(reason))
		return spoof_enforce ? VERDICT_DROP : VERDICT_OBSERVE;
	if (reason == REASON_UNKNOWN_ENDPOINT)
		return unknown_endpoint_drop ? VERDICT_DROP : VERDICT_PASS;
	return reason_passes(reason) ? VERDICT_PASS : VERDICT_DROP;
}

static __noinline int underlay_tell(struct xdp_md *ctx, const struct decision *d, const struct packet *p, __u32 verdict,
				    __u32 reason)
{
	struct event *e;
	__u64 length;

	if (!d || !p)
		return 0;
	e = event_reserve(d, p, HOOK_UNDERLAY_RX, verdict, reason, ctx->ingress_ifindex);
	if (!e)
		return 0;
	length = (__u64)ctx->data_end - (__u64)ctx->data;
	if (length > EVENT_BYTES)
		length = EVENT_BYTES;
	/* clang drops the lower bound, which the verifier cannot infer: "R4 invalid zero-sized read" (6.18). */
	asm volatile("" : "+r"(length));
	if (length >= 1 && length <= EVENT_BYTES && !bpf_xdp_load_bytes(ctx, 0, e->data, length))
		e->captured = length;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline void underlay_count(struct xdp_md *ctx, const struct decision *d, const struct packet *p,
					   enum verdict verdict, enum reason reason)
{
	if (account(d, p, HOOK_UNDERLAY_RX, DIRECTION_INGRESS, verdict, reason))
		underlay_tell(ctx, d, p, verdict, reason);
}

/* The exit. What observe mode noticed on the way is counted beside the reason that the packet left with. */
static __always_inline int underlay_exit(struct xdp_md *ctx, const struct decision *d, const struct packet *p,
					 enum reason reason)
{
	enum verdict verdict = underlay_verdict(reason);

	if (d->violation && d->violation != reason)
		underlay_count(ctx, d, p, VERDICT_OBSERVE, d->violation);
	underlay_count(ctx, d, p, verdict, reason);
	return verdict == VERDICT_DROP ? XDP_DROP : XDP_PASS;
}

/* Reads once more a frame that the fast way has decided, and perhaps stripped: somebody wants to be told of it. */
static __noinline int underlay_tell_fast(struct xdp_md *ctx, __u32 half, __u32 rule, __u32 verdict, __u32 reason)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *payload;
	struct packet *p = packet_open(HOOK_UNDERLAY_RX, 1, end - at);
	struct decision d = {};
	struct fast f = {};
	__u32 total;

	if (!p || !decision_use(&d, ctx, half))
		return 0;
	if (fast_tunnel(&f, at, end, p->bytes)) {
		fast_write(&f, p);
		d.source = f.source;
		d.destination = f.destination;
	} else {
		packet_clear(p);
		if (parse_ipv4(at + ETH_HLEN, end, p, &payload, &total) != PARSED_OK)
			return 0;
		d.source = address_lookup(p->saddr);
		d.destination = address_lookup(p->daddr);
	}
	d.rule = rule;
	return underlay_tell(ctx, &d, p, verdict, reason);
}

/* The exit of what the fast way decides, which writes nothing but counters. */
static __always_inline int underlay_leave(struct xdp_md *ctx, __u32 half, __u32 bytes, __u32 rule, enum verdict verdict,
					  enum reason reason)
{
	if (rule)
		count_rule(1, bytes, rule);
	if (count_packets(1, bytes, HOOK_UNDERLAY_RX, DIRECTION_INGRESS, verdict, reason))
		underlay_tell_fast(ctx, half, rule, verdict, reason);
	return verdict == VERDICT_DROP ? XDP_DROP : XDP_PASS;
}
