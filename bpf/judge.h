/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * May this packet pass, in this direction, for this pod?
 *
 * The one decision that all hooks share. Order: the image, by plain loads; only if it denies, what may excuse the packet:
 * it is the pod talking to itself, an ICMP error about something admitted, a reply, or a reply to a connection older than
 * the pod's isolation.
 *
 * The including program says whether it is there that allows are counted, and with them what the audited plane would have
 * dropped: enum { COUNTS_ALLOWS = 0 or 1 }.
 */
#pragma once

#include "admits.h"

static __always_inline int is_tunnel_port(const struct packet *p)
{
	return p->protocol == IPPROTO_UDP && p->fragment != FRAGMENT_LATER && p->dport == vxlan_port;
}

/*
 * A flow's entry is good for as long as image and addresses are those it was judged by; else it is judged anew. What it was
 * judged by is the enforced plane, so the audited one judges it each time.
 */
static __always_inline int flow_holds(const struct decision *d, struct flow *flow, const struct flow_key *key, __u64 source,
				      __u64 destination, enum plane plane)
{
	if (plane == PLANE_AUDITED)
		return image_admits(key, source, destination, d->half, PLANE_AUDITED);
	if (flow->image_generation == d->image->generation && flow->addr_generation == ARRAY_OF(state)->addr_generation)
		return 1;
	if (!image_admits(key, source, destination, d->half, PLANE_ENFORCED))
		return 0;
	flow->image_generation = d->image->generation;
	flow->addr_generation = ARRAY_OF(state)->addr_generation;
	return 1;
}

/* Is p a reply to a remembered flow? from_peer: it comes from the other side, which confirms the flow. */
static __noinline int flow_answers(struct decision *d, const struct packet *p, int from_peer, enum plane plane)
{
	struct flow_key key = {};
	struct flow *flow;
	int assured = 0;

	if (!d || !p || !d->image)
		return FLOW_NONE;
	if (!flow_key_mirrored(p, &key))
		return FLOW_NONE;
	flow = flow_find(d, &key, d->destination, d->source, &assured);
	if (!flow)
		return FLOW_NONE;
	if (!flow_holds(d, flow, &key, d->destination, d->source, plane))
		return FLOW_REVOKED;
	flow_touch(flow, p, FLOW_FIN_REPLY, now_ns(d));
	if (!assured) {
		int segment = p->protocol == IPPROTO_TCP && !(p->tcp_flags & TCP_SYN);

		if ((from_peer || segment) && !(p->tcp_flags & TCP_RST))
			flow_assure(&key, flow);
	}
	return FLOW_REPLY;
}

/* Does the plane admit a packet of this tuple, or is it of a remembered flow? */
static __always_inline int tuple_passes(struct decision *d, const struct flow_key *key, __u64 source, __u64 destination,
					enum plane plane)
{
	struct flow *flow;
	int assured;

	if (image_admits(key, source, destination, d->half, plane))
		return 1;
	flow = flow_find(d, key, source, destination, &assured);
	return flow && flow_holds(d, flow, key, source, destination, plane);
}

/*
 * An ICMP error is judged by the packet that it quotes, which it must be returning to its sender: allowed if that packet or
 * the mirror of it passes. destination is the error's address entry; how: ADMITS, with the error's direction. A global
 * function, as in admits.h.
 */
__noinline int error_related(const struct packet *p, __u64 destination, __u32 half, __u32 how)
{
	struct decision d = {.image = image_at(half), .half = half};
	struct flow_key key = {};
	__u64 to;

	if (!p)
		return 0;
	if (p->quoted_saddr != p->daddr)
		return 0;
	if (how >> 1 == DIRECTION_EGRESS && p->quoted_daddr != p->saddr)
		return 0;
	key.saddr = p->quoted_saddr;
	key.daddr = p->quoted_daddr;
	key.sport = p->quoted_sport;
	key.dport = p->quoted_dport;
	key.protocol = p->quoted_protocol;
	to = address_lookup(key.daddr);
	/* The quoted packet's sender is who the error goes to. */
	if (tuple_passes(&d, &key, destination, to, how & 1))
		return 1;
	key.saddr = p->quoted_daddr;
	key.daddr = p->quoted_saddr;
	if (p->quoted_protocol == IPPROTO_ICMP) {
		key.dport = ICMP_ECHO;
	} else {
		key.sport = p->quoted_dport;
		key.dport = p->quoted_sport;
	}
	return tuple_passes(&d, &key, to, destination, how & 1);
}

enum opener {
	OPENER_UNKNOWN,
	OPENER_POD,
	OPENER_PEER,
};

/* Where Linux takes a client's port from, unless told otherwise: net.ipv4.ip_local_port_range. */
#define EPHEMERAL_PORTS 32768

/*
 * Who opened a TCP connection of which nothing is remembered? The pod's own sockets know: if it listens on its port of the
 * connection, the peer did. A server may have closed its listener since; then ports tell, where only one is a client's.
 */
static __noinline int connection_opener(struct decision *d, const struct packet *p, __u32 slot, int pod_sends)
{
	struct bpf_sock_tuple tuple = {};
	__u32 netns = ARRAY_OF(endpoints)[slot & (MAX_ENDPOINTS - 1)].netns;
	__u16 pod_port, peer_port;
	struct bpf_sock *sock;
	int listens;

	if (!d || !p || !netns)
		return OPENER_UNKNOWN;
	pod_port = pod_sends ? p->sport : p->dport;
	peer_port = pod_sends ? p->dport : p->sport;
	/* A tuple without a peer: no connection has it, so that a listener answers or nobody. */
	tuple.ipv4.daddr = bpf_htonl(pod_sends ? p->saddr : p->daddr);
	tuple.ipv4.dport = bpf_htons(pod_port);
	sock = bpf_skc_lookup_tcp(d->ctx, &tuple, sizeof(tuple.ipv4), netns - 1, 0);
	if (!sock)
		return pod_port < EPHEMERAL_PORTS && peer_port >= EPHEMERAL_PORTS ? OPENER_PEER : OPENER_POD;
	listens = sock->state == BPF_TCP_LISTEN;
	bpf_sk_release(sock);
	return listens ? OPENER_PEER : OPENER_POD;
}

#define PREDATES(direction, inserts, plane) ((direction) | (inserts) << 1 | (plane) << 2)

/*
 * A denied TCP segment of a connection that is older than the pod's isolation: that began less than a minute ago, no state
 * was kept before, and the packet's mirror is admitted. Not if the packet's own tuple is remembered, or if the sockets say
 * that it belongs to whoever opened the connection: then it is no reply, but needs a permission that there is not.
 * how: PREDATES; inserts: the hook is one that leaves an entry.
 */
static __noinline int flow_predates(struct decision *d, const struct packet *p, __u32 slot, __u32 how)
{
	__u32 direction = how & 1, inserts = how >> 1 & 1, plane = how >> 2;
	struct flow_key key = {}, own = {};
	int assured, opener;

	if (!d || !p || !d->image)
		return 0;
	if (p->protocol != IPPROTO_TCP || p->fragment == FRAGMENT_LATER || !isolation_is_young(d, slot, direction))
		return 0;
	flow_key_of(p, &own);
	if (!flow_key_mirrored(p, &key) || flow_find(d, &own, d->source, d->destination, &assured))
		return 0;
	if (!image_admits(&key, d->destination, d->source, d->half, plane))
		return 0;
	opener = connection_opener(d, p, slot, direction == DIRECTION_EGRESS);
	if (direction == DIRECTION_INGRESS && opener == OPENER_PEER)
		return 0;
	/* The higher port is the client's, if the pod may be a server that has closed its listener. */
	if (direction == DIRECTION_EGRESS && opener == OPENER_POD && p->sport > p->dport)
		return 0;
	/* An entry says that the enforced plane admits it. */
	if (inserts && (plane == PLANE_ENFORCED || image_admits(&key, d->destination, d->source, d->half, PLANE_ENFORCED)))
		flow_insert(d, &key, d->destination, d->source, slot);
	return 1;
}

static __always_inline void fragment_key_of(const struct packet *p, struct fragment_key *key)
{
	key->saddr = p->saddr;
	key->daddr = p->daddr;
	key->id = p->id;
	key->protocol = p->protocol;
}

/* Leaves the ports of an admitted first fragment for the later ones. A denied one leaves nothing: a flood must not. */
static __noinline int fragment_remember(const struct packet *p)
{
	struct fragment_key key = {};
	struct fragment ports = {};

	if (!p)
		return 0;
	fragment_key_of(p, &key);
	ports.sport = p->sport;
	ports.dport = p->dport;
	return bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY) == 0;
}

/* Gives a later fragment the first one's ports. 0: that was not seen, or not admitted. */
static __noinline int fragment_ports(struct packet *p)
{
	struct fragment_key key = {};
	struct fragment *first;

	if (!p)
		return 0;
	fragment_key_of(p, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first)
		return 0;
	p->sport = first->sport;
	p->dport = first->dport;
	return 1;
}

/* What a hook knows about the pod on whose behalf it asks. */
struct subject {
	__u32 identity;
	__u32 slot;
	__u8 direction;
	__u8 from_peer; /* the packet comes from the other side of the pod's flows: every rx hook */
	__u8 inserts;	/* this hook may insert flows */
};

static __always_inline int reason_passes(enum reason reason)
{
	return reason < REASON_DENIED_DEFAULT || (reason >= REASON_HANDED_UP && reason < REASON_UNKNOWN_ENDPOINT);
}

static __always_inline enum reason denied_by(__u16 rule)
{
	return rule ? REASON_DENIED_RULE : REASON_DENIED_DEFAULT;
}

/* Is the pod's isolation in this direction one that began while it ran? Only then may connections be older. */
static __always_inline int isolation_has_begun(__u32 slot, __u32 direction)
{
	return ARRAY_OF(endpoints)[slot & (MAX_ENDPOINTS - 1)].isolated_ns[direction & 1] != 0;
}

/* A plane denies p: what may excuse it? If nothing does, denied is the reason. */
static __always_inline enum reason judge_denied(struct decision *d, struct packet *p, const struct subject *s, enum reason denied,
						enum plane plane)
{
	int answer;

	if (p->saddr == p->daddr)
		return REASON_SELF;
	if (p->opening)
		return denied; /* can be no reply: floods of new connections end here */
	if (p->error)
		return error_related(p, d->destination, d->half, ADMITS(plane, s->direction)) ? REASON_RELATED : denied;
	/* Calls cost more than what they find out in most cases: that no flow hashes here, and that isolation is old. */
	answer = flow_filter_mirror(p) ? flow_answers(d, p, s->from_peer, plane) : FLOW_NONE;
	if (answer == FLOW_REPLY)
		return REASON_REPLY;
	if (isolation_has_begun(s->slot, s->direction) &&
	    flow_predates(d, p, s->slot, PREDATES(s->direction, s->inserts, plane)))
		return REASON_GRACE;
	return answer == FLOW_REVOKED ? REASON_REVOKED : denied;
}

/*
 * The audited plane must be asked about the packet, once it is certain that it passes. The bit, CELL_AUDIT or 0, stands with
 * the rule's number.
 */
static __always_inline void doubt(struct decision *d, __u16 bit)
{
	if (COUNTS_ALLOWS)
		d->rule |= bit;
}

/* The decision where row is the pod's policy. */
static __always_inline enum reason judge_row(struct decision *d, struct packet *p, const struct subject *s, __u32 peer,
					     struct row row)
{
	__u16 cell;
	int answer;

	if (p->fragment == FRAGMENT_LATER && !fragment_ports(p)) {
		if (!row_enforced(row)) {
			doubt(d, CELL_AUDIT);
			return REASON_NOT_ISOLATED;
		}
		return p->saddr == p->daddr ? REASON_SELF : REASON_FRAGMENT;
	}
	if (s->direction == DIRECTION_EGRESS) {
		struct service *service = service_find(p->daddr, p->dport, p->protocol, serves_node_ports(d->destination));

		if (service) {
			if (!row_enforced(row)) {
				doubt(d, CELL_AUDIT);
				return REASON_NOT_ISOLATED;
			}
			answer = service_judge(service, s->identity, p->protocol, d->half, PLANE_ENFORCED);
			doubt(d, (answer & BACKENDS_AUDIT) * (CELL_AUDIT / BACKENDS_AUDIT));
			if ((answer & BACKENDS_ANSWER) == BACKENDS_ALL)
				return REASON_SERVICE;
			/* Nothing takes new connections; what there are go on to the backend that they have, if it is admitted. */
			if ((answer & BACKENDS_ANSWER) == BACKENDS_MIXED ||
			    (!service->count && p->protocol == IPPROTO_TCP && !p->opening))
				return REASON_SERVICE_MIXED;
			return flow_answers(d, p, s->from_peer, PLANE_ENFORCED) == FLOW_REPLY ? REASON_REPLY : REASON_DENIED_SERVICE;
		}
	}
	cell = image_cell(d->image, row, image_peer_class(d->image, peer), image_port_class(d->image, p->protocol, p->dport));
	d->rule = cell & CELL_RULE;
	if (cell & CELL_ALLOW) {
		enum reason reason = d->rule ? REASON_ALLOWED : REASON_NOT_ISOLATED;

		doubt(d, cell & CELL_AUDIT);
		return reason;
	}
	return judge_denied(d, p, s, denied_by(d->rule), PLANE_ENFORCED);
}

/*
 * The decision. peer is the identity on the other side. Sets d->rule and d->direction; p gains its ports if it is a later
 * fragment.
 */
static __always_inline enum reason judge(struct decision *d, struct packet *p, const struct subject *s, __u32 peer)
{
	struct row row = image_row(d->image, s->identity, s->direction);
	enum reason reason;

	d->direction = s->direction;
	d->rule = 0;
	if (!row_policed(row))
		return REASON_NOT_ISOLATED;
	reason = judge_row(d, p, s, peer, row);
	if (reason_passes(reason) && p->fragment == FRAGMENT_FIRST)
		fragment_remember(p);
	return reason;
}
