/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of an skb?
 *
 * The only place that knows TC_ACT_*: turns a reason into an action, counts, and samples. What passes is left to the next
 * program of the chain (TC_ACT_UNSPEC, which tcx calls TCX_NEXT).
 */
#pragma once

#include "account.h"
#include "judge.h"

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2

static __always_inline int skb_tell(struct __sk_buff *skb, const struct decision *d, const struct packet *p, __u32 hook,
				    __u32 verdict, __u32 reason)
{
	struct event *e;
	__u64 length;

	e = event_reserve(d, p, hook, verdict, reason, skb->ifindex);
	if (!e)
		return 0;
	length = skb->len;
	if (length > EVENT_BYTES)
		length = EVENT_BYTES;
	/* clang drops the lower bound, which the verifier cannot infer: "R4 invalid zero-sized read" (6.18). */
	asm volatile("" : "+r"(length));
	if (length >= 1 && length <= EVENT_BYTES && !bpf_skb_load_bytes(skb, 0, e->data, length))
		e->captured = length;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* The one exit. An endpoint that is not known yet passes or not, by option. */
static __always_inline int skb_exit(struct __sk_buff *skb, const struct decision *d, const struct packet *p, enum hook hook,
				    enum reason reason)
{
	enum verdict verdict = reason_passes(reason) ? VERDICT_PASS : VERDICT_DROP;

	if (reason == REASON_UNKNOWN_ENDPOINT && !unknown_endpoint_drop)
		verdict = VERDICT_PASS;
	if (account(d, p, hook, d->direction, verdict, reason))
		skb_tell(skb, d, p, hook, verdict, reason);
	return verdict == VERDICT_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
