/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What would policies under audit have dropped?
 *
 * Asked about a packet that passes, where a cell of the enforced plane says that the audited one denies. It is judged there
 * as it would be if all policies were enforced, excuses included, and flows are confirmed by it as they would be then. What
 * would have been dropped is counted and told under a verdict of its own, beside the packet's own reason: where allows are
 * counted, so that each packet is once, in each direction.
 */
#pragma once

#include "verdict.h"

/* How audit_judge is to look at the packet: at which hook, in which direction, and, if it takes no judgement, the reason. */
#define AUDIT_HOW(hook, direction, reason) ((hook) | (direction) << 4 | (reason) << 8)
#define AUDIT_CHOSEN (1 << 5) /* it goes to the backend that was chosen for a Service */

#define AUDIT_QUIET (1 << 6) /* another hook counts */

/* Bits, since the verifier would walk twice through what follows a comparison. */
enum audit_answer {
	AUDIT_PASSES,
	AUDIT_DENIES = 1 << 0,
	AUDIT_CHOOSING = 1 << 1, /* some backends of the Service would be refused: the one that is chosen must be asked about */
};

/* The reason to drop p; REASON_NONE: there is none. Sets d->rule. */
static __always_inline enum reason audit_reason(struct decision *d, struct packet *p, const struct subject *s, int chosen,
						int *answer)
{
	__u32 peer = address_identity(s->direction == DIRECTION_EGRESS ? d->destination : d->source);
	struct row row = image_plane_row(d->image, PLANE_AUDITED, s->identity, s->direction);
	enum reason reason;
	__u16 cell;

	if (!row_policed(row))
		return REASON_NONE;
	if (p->fragment == FRAGMENT_LATER && !fragment_ports(p))
		return p->saddr == p->daddr && !chosen ? REASON_NONE : REASON_FRAGMENT;
	if (s->direction == DIRECTION_EGRESS && !chosen) {
		struct service *service = service_find(p->daddr, p->dport, p->protocol, serves_node_ports(d->destination));

		if (service) {
			int backends = service_judge(service, s->identity, p->protocol, d->half, PLANE_AUDITED) & BACKENDS_ANSWER;

			if (backends == BACKENDS_MIXED)
				*answer = AUDIT_CHOOSING;
			if (backends != BACKENDS_NONE || flow_answers(d, p, s->from_peer, PLANE_AUDITED) == FLOW_REPLY)
				return REASON_NONE;
			return REASON_DENIED_SERVICE;
		}
	}
	cell = image_cell(d->image, row, image_peer_class(d->image, peer), image_port_class(d->image, p->protocol, p->dport));
	if (cell & CELL_ALLOW)
		return REASON_NONE;
	d->rule = cell & CELL_RULE;
	reason = d->rule && !(cell & CELL_AUDIT) ? REASON_DENIED_RULE : REASON_DENIED_DEFAULT;
	if (!chosen)
		reason = judge_denied(d, p, s, reason, PLANE_AUDITED);
	return reason_passes(reason) ? REASON_NONE : reason;
}

/* Not inlined, so that it does not lengthen the stack of what is called beside it. */
static __noinline int audit_count(struct __sk_buff *skb, const struct decision *d, const struct packet *p, __u32 hook,
				  enum reason reason)
{
	__u32 rule;

	if (!d || !p || reason >= REASON_COUNT)
		return 0;
	rule = d->rule;
	if (rule && (reason == REASON_DENIED_RULE || reason == REASON_DENIED_DEFAULT)) {
		struct rule_hit none = {}, *hit = bpf_map_lookup_elem(&audit_hits, &rule);

		if (!hit) {
			bpf_map_update_elem(&audit_hits, &rule, &none, BPF_NOEXIST); /* another CPU may have been first */
			hit = bpf_map_lookup_elem(&audit_hits, &rule);
		}
		if (hit) {
			hit->packets += p->packets;
			hit->bytes += p->bytes;
		}
	}
	if (count(p, hook, d->direction, VERDICT_AUDIT, reason))
		skb_tell(skb, d, p, hook, VERDICT_AUDIT, reason);
	return 0;
}

/*
 * Judges p on behalf of the pod in slot. A global function, which the verifier walks once a program, apart from all that leads
 * to it; it is given numbers only, since the verifier forgets pointers in what they are passed by.
 */
__noinline int audit_judge(struct __sk_buff *skb, struct packet *p, __u32 slot, __u32 half, __u32 how)
{
	__u32 direction = how >> 4 & 1;
	enum reason reason = how >> 8;
	struct decision d = {};
	int answer = AUDIT_PASSES;

	if (!p)
		return AUDIT_PASSES;
	d.ctx = skb;
	d.half = half;
	d.image = image_at(half);
	d.direction = direction;
	if (!reason) {
		struct subject s = {
			.identity = ARRAY_OF(endpoints)[slot & (MAX_ENDPOINTS - 1)].identity,
			.slot = slot,
			.direction = direction,
			.from_peer = direction == DIRECTION_INGRESS,
			.inserts = 1,
		};

		d.source = address_lookup(p->saddr);
		d.destination = address_lookup(p->daddr);
		reason = audit_reason(&d, p, &s, how & AUDIT_CHOSEN, &answer);
	}
	if (!reason)
		return answer;
	if (!(how & AUDIT_QUIET))
		audit_count(skb, &d, p, how & 15, reason);
	return AUDIT_DENIES;
}

/* Would the local pod that p is from have been denied it? Other hooks have asked, too, but they leave no mark. */
static __always_inline int audit_denied_sender(struct __sk_buff *skb, const struct decision *d, struct packet *p)
{
	struct row row;
	__u16 cell;

	if (!image_is_audited(d->image) || address_kind(d->source) != ADDRESS_LOCAL_POD)
		return 0;
	row = image_row(d->image, address_identity(d->source), DIRECTION_EGRESS);
	if (!row_policed(row))
		return 0;
	cell = image_cell(d->image, row, image_peer_class(d->image, address_identity(d->destination)),
			  image_port_class(d->image, p->protocol, p->dport));
	if ((cell & (CELL_ALLOW | CELL_AUDIT)) != (CELL_ALLOW | CELL_AUDIT))
		return 0;
	return audit_judge(skb, p, address_slot(d->source), d->half, AUDIT_HOW(HOOK_POD_TX, DIRECTION_EGRESS, 0) | AUDIT_QUIET) & AUDIT_DENIES;
}

/*
 * Are flows kept for the pods of this identity in this direction? Of a packet that the audited plane denies only where the
 * enforced one needs them: when the audit ends, there must be no flow that enforcement would not have let begin.
 */
static __always_inline int kept(const struct decision *d, __u32 identity, enum direction direction, int denied)
{
	__u32 columns = image_row(d->image, identity, direction).table >> 32;

	/* denied ? row_enforced() : row_policed(), without a branch for the verifier to walk both ways. */
	return columns * (1 ^ (columns / ROW_AUDIT & denied)) != 0;
}

/* Does a rule admit p, which passed for reason, to the pod of this identity, be it one under audit? */
static __always_inline int ruled(const struct decision *d, const struct packet *p, __u32 identity, __u32 peer,
				 enum direction direction, enum reason reason)
{
	struct row row;
	__u16 cell;

	if (reason != REASON_NOT_ISOLATED || !image_is_audited(d->image))
		return reason == REASON_ALLOWED;
	row = image_plane_row(d->image, PLANE_AUDITED, identity, direction);
	if (!row_policed(row))
		return 0;
	cell = image_cell(d->image, row, image_peer_class(d->image, peer), image_port_class(d->image, p->protocol, p->dport));
	return cell & CELL_ALLOW && cell & CELL_RULE;
}

/* What is not IPv4 cannot be judged: it passes only where no policy asks. */
static __always_inline enum reason unreadable(struct __sk_buff *skb, const struct decision *d, struct packet *p, __u32 slot,
					      enum direction direction, enum hook hook, enum reason reason)
{
	struct row row = image_row(d->image, ARRAY_OF(endpoints)[slot & (MAX_ENDPOINTS - 1)].identity, direction);

	if (row_enforced(row))
		return reason;
	if (row_policed(row))
		audit_judge(skb, p, slot, d->half, AUDIT_HOW(hook, direction, reason));
	return REASON_NOT_ISOLATED;
}
