//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * underlay_rx: what arrives from other machines, on each underlay NIC, before the kernel allocates an skb.
 *
 * Overlay packets are read to the inner headers, bound to the node that may send them, and judged for the local pod they
 * are for. Plain packets straight to a pod are judged the same way. What is allowed goes up to the stack, unchanged or
 * with its outer headers removed; what weir does not guard goes up untouched.
 */
enum { SEES_SERVICES = 0 }; /* nobody on the wire is addressed by a ClusterIP */
enum { COUNTS_ALLOWS = 0 }; /* pod_rx sees the packet too */

#include "fast.h"
#include "verdict.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* On whose behalf is judged: the local pod that destination, an address entry, names. */
static __always_inline struct subject underlay_subject(__u64 destination)
{
	return (struct subject){
		.identity = address_identity(destination),
		.slot = address_slot(destination),
		.direction = DIRECTION_INGRESS,
		.from_peer = 1,
		.inserts = 0, /* pod_rx sees the packet too, and inserts */
	};
}

/* What is admitted goes up: pod_rx counts it, by its rule. */
static __always_inline enum reason underlay_hand_up(struct decision *d, enum reason reason)
{
	if (!reason_passes(reason))
		return reason;
	d->rule = 0;
	return REASON_HANDED_UP;
}

static __always_inline enum reason underlay_judge(struct decision *d, struct packet *p)
{
	struct subject subject = underlay_subject(d->destination);

	return underlay_hand_up(d, judge(d, p, &subject, address_identity(d->source)));
}

/*
 * Removes the outer headers: the outer Ethernet header and its tags move to just before the inner IP header, so that the
 * frame stays addressed to the NIC (and in its VLAN) and the stack routes it like any other.
 */
static __always_inline enum reason underlay_strip(struct xdp_md *ctx, __u32 l2, __u32 cut)
{
	__u8 header[ETH_HLEN + MAX_TAGS * sizeof(struct vlan_tag)];

	if (!decap_strip)
		return REASON_HANDED_UP;
	if (l2 < ETH_HLEN || l2 > sizeof(header) || bpf_xdp_load_bytes(ctx, 0, header, l2) ||
	    bpf_xdp_adjust_head(ctx, cut) || bpf_xdp_store_bytes(ctx, 0, header, l2))
		return REASON_NO_HEADROOM;
	return REASON_HANDED_UP;
}

/* One of our own underlay addresses; there are seldom more than the shortcut holds. */
static __always_inline int is_vtep(__u32 addr)
{
	__u64 entry;

	if (addr && (addr == ARRAY_OF(state)->vtep4[0] || addr == ARRAY_OF(state)->vtep4[1]))
		return 1;
	entry = address_lookup(addr);
	return address_kind(entry) == ADDRESS_HOST && (address_flags(entry) & ADDRESS_UNDERLAY);
}

static __always_inline enum reason underlay_tunnel(struct xdp_md *ctx, struct decision *d, struct packet *p, struct iphdr *ip,
						   struct udphdr *udp, void *end, __u32 l2)
{
	struct tunnel t = {};
	enum reason reason;

	if (!is_vtep(bpf_ntohl(ip->daddr)))
		return REASON_TUNNEL_STRAY;
	if (ip->frag_off & bpf_htons(IP_MF))
		return REASON_OUTER_FRAGMENT;
	reason = tunnel_check(d, p, ip, udp, end, &t);
	if (reason)
		return reason;
	d->destination = address_lookup(p->daddr);
	/* This host's VXLAN socket listens on addresses that no table knows; only of a pod's it is certain that it does not. */
	if (is_tunnel_port(p) && !address_is_pod(d->destination))
		return REASON_NESTED_TUNNEL;
	switch (address_kind(d->destination)) {
	case ADDRESS_LOCAL_POD:
		break;
	case ADDRESS_HOST:
		return REASON_TO_HOST;
	case ADDRESS_LOCAL_CIDR:
		return REASON_UNKNOWN_ENDPOINT;
	default:
		return REASON_TRANSIT;
	}
	reason = underlay_judge(d, p);
	if (reason != REASON_HANDED_UP || !t.strippable)
		return reason;
	return underlay_strip(ctx, l2, t.length);
}

static __always_inline enum reason underlay_plain(struct decision *d, struct packet *p)
{
	d->source = address_lookup(p->saddr);
	if (address_is_ours(d->source))
		return REASON_SPOOFED_LOCAL;
	if (address_flags(d->source) & ADDRESS_TUNNELLED)
		VIOLATED(d, REASON_UNTUNNELLED);
	d->destination = address_lookup(p->daddr);
	if (address_kind(d->destination) == ADDRESS_LOCAL_POD)
		return underlay_judge(d, p);
	return address_kind(d->destination) == ADDRESS_LOCAL_CIDR ? REASON_UNKNOWN_ENDPOINT : REASON_UNTOUCHED;
}

/*
 * UDP to our tunnel port, whole or the first fragment. Whatever contradicts itself is left to the parser, which drops it:
 * the struct packet stays empty for the inner one.
 */
static __always_inline int is_tunnel(void *at, void *end, struct udphdr **udp)
{
	struct iphdr *ip = at;
	__u32 header;

	if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP || ip->version != 4 || ip->ihl < 5)
		return 0;
	header = (ip->ihl & 15) * 4;
	*udp = at + header;
	return (void *)(*udp + 1) <= end && !(ip->frag_off & bpf_htons(IP_OFFSET)) && bpf_ntohs(ip->tot_len) >= header + sizeof(**udp) &&
	       (*udp)->dest == bpf_htons(vxlan_port);
}

static __always_inline enum reason underlay_decide(struct xdp_md *ctx, struct decision *d, struct packet *p)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *payload;
	struct udphdr *udp;
	__be16 protocol;
	__u32 total, l2 = 0;

	packet_clear(p);
	switch (parse_ethernet(&at, end, &protocol, &l2)) {
	case PARSED_OK:
		break;
	case PARSED_TAGS:
		return REASON_OUTER_TAGS;
	case PARSED_SHORT:
		return REASON_MALFORMED;
	default:
		return REASON_NOT_IP;
	}
	if (is_tunnel(at, end, &udp))
		return underlay_tunnel(ctx, d, p, at, udp, end, l2);
	if (parse_ipv4(at, end, p, &payload, &total) != PARSED_OK)
		return REASON_MALFORMED;
	return underlay_plain(d, p);
}

/* What the image denies on the fast way, and something may excuse. */
static __always_inline enum reason underlay_excuse(struct xdp_md *ctx, struct decision *d, struct packet *p, const struct fast *f,
						   __u32 rule)
{
	struct subject subject = underlay_subject(f->destination);
	enum reason reason;

	d->source = f->source;
	d->destination = f->destination;
	d->rule = rule;
	fast_write(f, p);
	reason = underlay_hand_up(d, judge_denied(d, p, &subject, denied_by(rule), PLANE_ENFORCED));
	if (reason != REASON_HANDED_UP || !decap_strip || !fast_strippable(f))
		return reason;
	return underlay_strip(ctx, ETH_HLEN, FAST_AT(inner_ip) - ETH_HLEN);
}

/* What the image admits on the fast way. */
static __always_inline int underlay_admit(struct xdp_md *ctx, __u32 half, __u32 bytes, const struct fast *f)
{
	if (decap_strip && fast_strippable(f) && underlay_strip(ctx, ETH_HLEN, FAST_AT(inner_ip) - ETH_HLEN) != REASON_HANDED_UP)
		return underlay_leave(ctx, half, bytes, 0, VERDICT_DROP, REASON_NO_HEADROOM);
	return underlay_leave(ctx, half, bytes, 0, VERDICT_PASS, REASON_HANDED_UP);
}

/*
 * What the image alone decides leaves before anything is written to memory; the two ways behind it are apart, since values that
 * both set would be spilled on all. An image that was never written selects nobody: whether there is one is asked where a
 * packet would be admitted.
 */
SEC("xdp")
int underlay_rx(struct xdp_md *ctx)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 half = ARRAY_OF(state)->image & 1, bytes = end - at, verdict;
	const struct image_header *image = image_at(half);
	struct decision d;
	struct packet *p;
	struct fast f;

	if (fast_tunnel(&f, at, end, bytes) && ((verdict = fast_judge(&f, image)) != FAST_ADMITTED || image->magic == IMAGE_MAGIC)) {
		if (verdict == FAST_ADMITTED)
			return underlay_admit(ctx, half, bytes, &f);
		if (verdict < FAST_EXCUSABLE)
			return underlay_leave(ctx, half, bytes, verdict, VERDICT_DROP, denied_by(verdict));
		p = packet_open(HOOK_UNDERLAY_RX, 1, bytes);
		if (!p)
			return XDP_DROP; /* cannot be: the array has a slot for every hook */
		d = (struct decision){};
		decision_use(&d, ctx, half);
		return underlay_exit(ctx, &d, p, underlay_excuse(ctx, &d, p, &f, verdict & CELL_RULE));
	}
	p = packet_open(HOOK_UNDERLAY_RX, 1, bytes);
	if (!p)
		return XDP_DROP;
	d = (struct decision){};
	return underlay_exit(ctx, &d, p, decision_use(&d, ctx, half) ? underlay_decide(ctx, &d, p) : REASON_NO_IMAGE);
}
