/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * May this packet pass, in this direction, for this pod?
 *
 * The one decision that all hooks share. Order: the image, by plain loads; only if it denies, what may excuse the packet:
 * it is the pod talking to itself, an ICMP error about something admitted, a reply, or a reply to a connection older than
 * the pod's isolation.
 *
 * The including program says whether it sees Service addresses before they are translated: enum { SEES_SERVICES = 0 or 1 }.
 */
#pragma once

#include "conntrack.h"

static __always_inline int is_tunnel_port(const struct packet *p)
{
	return p->protocol == IPPROTO_UDP && p->fragment != FRAGMENT_LATER && p->dport == vxlan_port;
}

enum backends_admitted {
	BACKENDS_ALL,
	BACKENDS_NONE,
	BACKENDS_MIXED, /* the chosen one is judged after translation */
};

static __always_inline struct service *service_find(__u32 addr, __u16 port, __u8 protocol)
{
	struct service_key key = {.addr4 = addr, .port = port, .protocol = protocol};

	if (!SEES_SERVICES || !ARRAY_OF(state)->service_entries)
		return NULL;
	return bpf_map_lookup_elem(&services, &key);
}

/*
 * What the egress row of an identity says about the backends of a Service; they are few and distinct. A global function, which the
 * verifier walks once and not once a caller; so it is told which half of the slot the image is in.
 */
__noinline int service_judge(const struct service *service, __u32 identity, __u32 protocol, __u32 half)
{
	const struct image_header *image = image_at(half);
	struct row row = image_row(image, identity, DIRECTION_EGRESS);
	__u32 admitted = 0, host_refused = 0, count, i;

	if (!service)
		return BACKENDS_NONE;
	if (service->flags & SERVICE_MANY)
		return BACKENDS_MIXED;
	count = service->count;
	/* No branch inside: the verifier would walk 2^MAX_BACKENDS ways through it. */
	for (i = 0; i < MAX_BACKENDS && i < count; i++) {
		const struct backend *backend = &service->backends[i];
		__u16 peer = image_peer_class(image, backend->identity);
		__u16 class = image_port_class(image, protocol, backend->port);
		__u32 allow = image_cell(image, row, peer, class) / CELL_ALLOW & 1;

		admitted += allow;
		host_refused |= backend->flags & BACKEND_HOST & ~allow;
	}
	if (!admitted)
		return BACKENDS_NONE;
	if (admitted >= count)
		return BACKENDS_ALL;
	/* A backend on this host's own addresses passes no later hook: it cannot be judged after translation. */
	return host_refused ? BACKENDS_NONE : BACKENDS_MIXED;
}

/*
 * Would the image admit a packet of this tuple in its own direction, at every local pod that it concerns? Flows are
 * judged anew with this when image or addresses have changed, and so is what an ICMP error quotes.
 */
static __noinline int image_admits(const struct decision *d, const struct flow_key *key, __u64 source, __u64 destination)
{
	__u32 from = address_identity(source), to = address_identity(destination);
	struct row row;
	const struct image_header *image;
	__u16 class;

	if (!d || !key || !d->image)
		return 0;
	image = d->image;
	class = image_port_class(image, key->protocol, key->dport);
	row = image_row(image, from, DIRECTION_EGRESS);
	if (address_kind(source) == ADDRESS_LOCAL_POD && row_policed(row)) {
		struct service *service = service_find(key->daddr, key->dport, key->protocol);

		if (service) {
			if (service_judge(service, from, key->protocol, d->half) == BACKENDS_NONE)
				return 0;
		} else if (!(image_cell(image, row, image_peer_class(image, to), class) & CELL_ALLOW)) {
			return 0;
		}
	}
	row = image_row(image, to, DIRECTION_INGRESS);
	if (address_kind(destination) == ADDRESS_LOCAL_POD && row_policed(row) &&
	    !(image_cell(image, row, image_peer_class(image, from), class) & CELL_ALLOW))
		return 0;
	return 1;
}

/* A flow's entry is good for as long as image and addresses are those it was judged by; else it is judged anew. */
static __always_inline int flow_holds(const struct decision *d, struct flow *flow, const struct flow_key *key, __u64 source,
				      __u64 destination)
{
	if (flow->image_generation == d->image->generation && flow->addr_generation == ARRAY_OF(state)->addr_generation)
		return 1;
	if (!image_admits(d, key, source, destination))
		return 0;
	flow->image_generation = d->image->generation;
	flow->addr_generation = ARRAY_OF(state)->addr_generation;
	return 1;
}

/* Is p a reply to a remembered flow? from_peer: it comes from the other side, which confirms the flow. */
static __noinline int flow_answers(struct decision *d, const struct packet *p, int from_peer)
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
	if (!flow_holds(d, flow, &key, d->destination, d->source))
		return FLOW_REVOKED;
	flow_touch(flow, p, FLOW_FIN_REPLY, now_ns(d));
	if (!assured) {
		int segment = p->protocol == IPPROTO_TCP && !(p->tcp_flags & TCP_SYN);

		if ((from_peer || segment) && !(p->tcp_flags & TCP_RST))
			flow_assure(&key, flow);
	}
	return FLOW_REPLY;
}

/*
 * An ICMP error is judged by the packet that it quotes, which it must be returning to its sender: allowed if the image
 * admits that packet or the mirror of it, or if either is a remembered flow.
 */
static __noinline int error_related(struct decision *d, const struct packet *p, int direction)
{
	struct flow_key quoted = {}, mirror = {};
	__u64 from, to;
	struct flow *flow;
	int assured;

	if (!d || !p || !d->image)
		return 0;
	if (p->quoted_saddr != p->daddr)
		return 0;
	if (direction == DIRECTION_EGRESS && p->quoted_daddr != p->saddr)
		return 0;
	quoted.saddr = p->quoted_saddr;
	quoted.daddr = p->quoted_daddr;
	quoted.sport = p->quoted_sport;
	quoted.dport = p->quoted_dport;
	quoted.protocol = p->quoted_protocol;
	mirror.saddr = quoted.daddr;
	mirror.daddr = quoted.saddr;
	mirror.sport = quoted.dport;
	mirror.dport = quoted.sport;
	mirror.protocol = quoted.protocol;
	if (quoted.protocol == IPPROTO_ICMP) {
		mirror.sport = quoted.sport;
		mirror.dport = ICMP_ECHO;
	}
	from = d->destination; /* the quoted packet's sender is who the error goes to */
	to = address_lookup(quoted.daddr);
	if (image_admits(d, &quoted, from, to) || image_admits(d, &mirror, to, from))
		return 1;
	flow = flow_find(d, &quoted, from, to, &assured);
	if (flow && flow_holds(d, flow, &quoted, from, to))
		return 1;
	flow = flow_find(d, &mirror, to, from, &assured);
	return flow && flow_holds(d, flow, &mirror, to, from);
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

/*
 * A denied TCP segment of a connection that is older than the pod's isolation: that began less than a minute ago, no state
 * was kept before, and the packet's mirror is admitted. Not if the packet's own tuple is remembered, or if the sockets say
 * that it belongs to whoever opened the connection: then it is no reply, but needs a permission that there is not.
 * inserts: the hook is one that leaves an entry.
 */
static __noinline int flow_predates(struct decision *d, const struct packet *p, __u32 slot, int direction, int inserts)
{
	struct flow_key key = {}, own = {};
	int assured, opener;

	if (!d || !p || !d->image)
		return 0;
	if (p->protocol != IPPROTO_TCP || p->fragment == FRAGMENT_LATER || !isolation_is_young(d, slot, direction))
		return 0;
	flow_key_of(p, &own);
	if (!flow_key_mirrored(p, &key) || flow_find(d, &own, d->source, d->destination, &assured))
		return 0;
	if (!image_admits(d, &key, d->destination, d->source))
		return 0;
	opener = connection_opener(d, p, slot, direction == DIRECTION_EGRESS);
	if (direction == DIRECTION_INGRESS && opener == OPENER_PEER)
		return 0;
	/* The higher port is the client's, if the pod may be a server that has closed its listener. */
	if (direction == DIRECTION_EGRESS && opener == OPENER_POD && p->sport > p->dport)
		return 0;
	if (inserts)
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

/* The image denies p: what may excuse it? If nothing does, denied is the reason. */
static __always_inline enum reason judge_denied(struct decision *d, struct packet *p, const struct subject *s, enum reason denied)
{
	int answer;

	if (p->saddr == p->daddr)
		return REASON_SELF;
	if (p->opening)
		return denied; /* can be no reply: floods of new connections end here */
	if (p->error)
		return error_related(d, p, s->direction) ? REASON_RELATED : denied;
	/* Calls cost more than what they find out in most cases: that no flow hashes here, and that isolation is old. */
	answer = flow_filter_mirror(p) ? flow_answers(d, p, s->from_peer) : FLOW_NONE;
	if (answer == FLOW_REPLY)
		return REASON_REPLY;
	if (isolation_has_begun(s->slot, s->direction) && flow_predates(d, p, s->slot, s->direction, s->inserts))
		return REASON_GRACE;
	return answer == FLOW_REVOKED ? REASON_REVOKED : denied;
}

/* The decision where row is the pod's policy. */
static __always_inline enum reason judge_row(struct decision *d, struct packet *p, const struct subject *s, __u32 peer,
					     struct row row)
{
	__u16 cell;
	int answer;

	if (p->fragment == FRAGMENT_LATER && !fragment_ports(p))
		return p->saddr == p->daddr ? REASON_SELF : REASON_FRAGMENT;
	if (s->direction == DIRECTION_EGRESS) {
		struct service *service = service_find(p->daddr, p->dport, p->protocol);

		if (service) {
			answer = service_judge(service, s->identity, p->protocol, d->half);
			if (answer == BACKENDS_ALL)
				return REASON_SERVICE;
			if (answer == BACKENDS_MIXED)
				return REASON_SERVICE_MIXED;
			return flow_answers(d, p, s->from_peer) == FLOW_REPLY ? REASON_REPLY : REASON_DENIED_SERVICE;
		}
	}
	cell = image_cell(d->image, row, image_peer_class(d->image, peer), image_port_class(d->image, p->protocol, p->dport));
	d->rule = cell & CELL_RULE;
	if (cell & CELL_ALLOW)
		return d->rule ? REASON_ALLOWED : REASON_NOT_ISOLATED;

	return judge_denied(d, p, s, denied_by(d->rule));
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
