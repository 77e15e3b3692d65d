/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Must this packet be remembered?
 *
 * For the hooks that insert flows: those in tc, which see what every pod sends and receives.
 */
#pragma once

#include "judge.h"

/* Is there no need of an entry for a packet of this tuple to be admitted, now and once policies under audit are enforced? */
static __always_inline int planes_admit(const struct decision *d, const struct flow_key *key, __u64 source, __u64 destination)
{
	return image_admits(key, source, destination, d->half, PLANE_ENFORCED) &&
	       (!image_is_audited(d->image) || image_admits(key, source, destination, d->half, PLANE_AUDITED));
}

/*
 * Did who sends p open the connection, although nothing is remembered of that? It may be older than isolation; later, its
 * entry may have been pushed out, or it was idle until now. Then only what is lost without an entry is worth a question.
 * If the pod's sockets cannot be asked, while isolation is young: if the sender alone may have, or a rule expects it.
 */
static __always_inline int sender_opened(struct decision *d, const struct packet *p, const struct flow_key *mirror, __u32 owner,
					 int own_stack, int ruled)
{
	int young = isolation_is_young(d, owner, DIRECTION_INGRESS) || isolation_is_young(d, owner, DIRECTION_EGRESS);
	int admits = planes_admit(d, mirror, d->destination, d->source), opener;

	if (!young && admits)
		return 0;
	opener = connection_opener(d, p, owner, own_stack);
	if (opener == OPENER_UNKNOWN)
		return young && (ruled || !admits);
	return opener == (own_stack ? OPENER_POD : OPENER_PEER);
}

/*
 * p has been admitted in its own direction. Remembers it if a reply may need that, or if it tells an answer from a flow of
 * its own:
 *   - what opens a connection, always;
 *   - other TCP segments and SCTP chunks refresh an entry and make none, or the answers of a server would become flows of
 *     its own and keep a revoked connection alive. Only a segment from the side that opened the connection makes one;
 *   - datagrams and the rest, which open nothing, unless they answer a flow that is remembered.
 * owner is the pod on whose behalf; own_stack: it sent p itself, so that a segment past the handshake proves that the
 * connection is real; ruled: a rule of the pod admits p.
 */
static __noinline int flow_record(struct decision *d, const struct packet *p, __u32 owner, int own_stack, int ruled)
{
	struct flow_key key = {}, mirror = {};
	struct flow *flow;
	int assured = 0, ignored;

	if (!d || !p || !d->image)
		return 0;
	if (p->fragment == FRAGMENT_LATER || !flow_key_of(p, &key))
		return 0;
	flow = flow_find(d, &key, d->source, d->destination, &assured);
	if (flow) {
		if (flow->image_generation != d->image->generation)
			flow->image_generation = d->image->generation;
		if (flow->addr_generation != ARRAY_OF(state)->addr_generation)
			flow->addr_generation = ARRAY_OF(state)->addr_generation;
		flow_touch(flow, p, FLOW_FIN_FORWARD, now_ns(d));
		if (!assured && own_stack && p->protocol == IPPROTO_TCP && !(p->tcp_flags & (TCP_SYN | TCP_RST)))
			flow_assure(&key, flow);
		return 1;
	}
	if (!p->opening) {
		if (flow_key_mirrored(p, &mirror)) {
			flow = flow_find(d, &mirror, d->destination, d->source, &ignored);
			if (flow) {
				/* While the answers go on, they are answers: not flows of their own once this entry is gone. */
				flow_touch(flow, p, FLOW_FIN_REPLY, now_ns(d));
				return 0;
			}
		}
		if (p->protocol == IPPROTO_SCTP)
			return 0;
		if (p->protocol == IPPROTO_TCP && !sender_opened(d, p, &mirror, owner, own_stack, ruled))
			return 0;
	}
	return flow_insert(d, &key, d->source, d->destination, owner);
}

/*
 * Need flow_record look at p at all? against and along: is the pod policed in the direction of p's replies, and in p's own?
 * A TCP or SCTP flow needs no memory for the latter's sake unless it may be older than isolation.
 */
static __always_inline int flow_concerns(struct decision *d, const struct packet *p, __u32 slot, int against, int along)
{
	if (against)
		return 1;
	if (!along)
		return 0;
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_SCTP)
		return isolation_is_young(d, slot, DIRECTION_INGRESS) || isolation_is_young(d, slot, DIRECTION_EGRESS);
	return 1;
}
