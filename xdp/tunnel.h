/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * May this sender speak for the address inside its VXLAN packet?
 *
 * Takes over the checks of the kernel's vxlan device (vxlan_rcv, RFC 7348 section 5) that stripping would skip, and adds
 * the ones that it has not: outer source, inner source MAC and inner source address must belong to one node.
 */
#pragma once

#include "judge.h"

#define VXLAN_FLAGS 0x08000000 /* the I flag; Linux refuses any other bit */

struct vxlanhdr {
	__be32 flags;
	__be32 vni; /* upper 24 bits */
};

struct tunnel {
	void *inner;	    /* Ethernet header inside */
	__u32 length;	    /* of all between the outer Ethernet header and the inner IP header */
	__u32 sender;	    /* node slot */
	__u8 sender_known;
	__u8 strippable; /* nothing that only the kernel's vxlan device can do is left to do */
};

/* A violation ends the check under enforce; under observe it is kept, and the check goes on where it can. */
#define VIOLATED(d, reason)                                     \
	do {                                                    \
		if (spoof_enforce)                              \
			return reason;                          \
		if (!(d)->violation)                            \
			(d)->violation = reason;                \
	} while (0)

static __always_inline int mac_equal(const __u8 *a, const volatile __u8 *b)
{
	/* Frames are 2-byte aligned here, which BPF on the architectures with unaligned loads does not mind. */
	return *(__u32 *)a == *(volatile __u32 *)b && *(__u16 *)(a + 4) == *(volatile __u16 *)(b + 4);
}

/*
 * Are all bytes of a packet, whose header at `at` says that there are that many, in the frame? end is that of the first
 * buffer, where all headers are.
 */
static __always_inline int tunnel_whole(const struct decision *d, void *at, __u32 bytes, void *end)
{
	struct xdp_md *ctx = d->ctx;

	if (at + bytes <= end)
		return 1;
	return xdp_frags && (__u64)(at - (void *)(long)ctx->data) + bytes <= bpf_xdp_get_buff_len(ctx);
}

/* The VXLAN header behind udp. REASON_NONE: it is of our network and well formed. */
static __always_inline enum reason tunnel_header(const struct decision *d, const struct iphdr *ip, struct udphdr *udp, void *end,
						 struct tunnel *t)
{
	struct vxlanhdr *vxlan = (void *)(udp + 1);
	struct ethhdr *inner = (void *)(vxlan + 1);
	__u32 total = bpf_ntohs(ip->tot_len), header = (ip->ihl & 15) * 4;

	if ((void *)(vxlan + 1) > end)
		return REASON_VXLAN_MALFORMED;
	if (!vxlan_any_vni && (vxlan->flags & bpf_htonl(VXLAN_FLAGS)) && bpf_ntohl(vxlan->vni) >> 8 != vxlan_vni)
		return REASON_FOREIGN_VNI;
	if (vxlan->flags != bpf_htonl(VXLAN_FLAGS) || (vxlan->vni & bpf_htonl(0xff)))
		return REASON_VXLAN_MALFORMED;
	if (bpf_ntohs(udp->len) != total - header || !tunnel_whole(d, (void *)ip, total, end))
		return REASON_VXLAN_MALFORMED;
	if ((void *)(inner + 1) > end)
		return REASON_INNER_MALFORMED;
	t->inner = inner;
	t->strippable = 1; /* RFC 7348: a receiver need not verify an outer checksum; the inner ones cover what matters */
	return REASON_NONE;
}

/* The inner packet, into p. REASON_NONE: it can be read, and its addresses can be unicast. */
static __always_inline enum reason tunnel_inner(const struct decision *d, struct packet *p, const struct iphdr *ip, void *end,
						struct tunnel *t)
{
	struct ethhdr *eth = t->inner;
	struct iphdr *inner = (void *)(eth + 1);
	void *payload;
	__u32 total;

	if (is_vlan(eth->h_proto))
		return REASON_INNER_TAGS;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return REASON_INNER_NOT_IPV4;
	if (parse_ipv4(inner, end, p, &payload, &total) != PARSED_OK || !tunnel_whole(d, inner, total, end))
		return REASON_INNER_MALFORMED;
	/* Our VXLAN socket listens on groups and broadcast addresses too. */
	if (is_martian(p->daddr) && is_tunnel_port(p))
		return REASON_NESTED_TUNNEL;
	if (is_martian(p->saddr) || is_martian(p->daddr))
		return REASON_INNER_MARTIAN;
	t->length = (ip->ihl & 15) * 4 + sizeof(struct udphdr) + sizeof(struct vxlanhdr) + sizeof(*eth);
	if (t->length + total > bpf_ntohs(ip->tot_len))
		return REASON_INNER_MALFORMED; /* it would go on into the frame's padding, which the kernel cuts off */
	/* RFC 6040 section 4.2: where the two ECN fields differ, combining them is the kernel's business. */
	if ((ip->tos & 3) && (ip->tos & 3) != (inner->tos & 3))
		t->strippable = 0;
	return REASON_NONE;
}

static __always_inline volatile struct node *node_at(__u32 slot)
{
	return ARRAY_OF(nodes) + (slot & (MAX_NODES - 1));
}

static __always_inline int node_has_mac(const volatile struct node *node, const __u8 *mac)
{
	return !(node->flags & NODE_MAC_KNOWN) || mac_equal(mac, node->vtep_mac) ||
	       ((node->flags & NODE_OLD_MAC_KNOWN) && mac_equal(mac, node->old_vtep_mac));
}

/*
 * Nearly every packet: the inner source belongs to a node that names this outer source and this MAC as its own. Says
 * nothing about a packet that does not match; the checks below do.
 */
static __always_inline int tunnel_bound(const struct decision *d, __u32 outer, const struct tunnel *t)
{
	const struct ethhdr *eth = t->inner;
	volatile struct node *node = node_at(address_slot(d->source));

	if (address_is_ours(d->source) || address_kind(d->source) == ADDRESS_NONE)
		return 0;
	/* An empty slot of the shortcut is 0, which is no node's address. */
	return outer && (outer == node->underlay4[0] || outer == node->underlay4[1]) && node_has_mac(node, eth->h_source);
}

/* Outer source and inner Ethernet source: which node sent this? */
static __always_inline enum reason tunnel_sender(struct decision *d, __u32 outer, struct tunnel *t)
{
	const struct ethhdr *eth = t->inner;
	__u64 entry = address_lookup(outer);

	if (address_is_ours(entry))
		return REASON_SPOOFED_LOCAL;
	t->sender = address_slot(entry);
	t->sender_known = address_kind(entry) == ADDRESS_NODE && (address_flags(entry) & ADDRESS_UNDERLAY);
	if (!t->sender_known) {
		VIOLATED(d, REASON_UNKNOWN_VTEP);
		return REASON_NONE;
	}
	if (!node_has_mac(node_at(t->sender), eth->h_source))
		VIOLATED(d, REASON_SPOOFED_MAC);
	return REASON_NONE;
}

/* Does the inner source belong to the node that sent it? */
static __always_inline enum reason tunnel_source(struct decision *d, const struct tunnel *t)
{
	__u64 entry = d->source;
	__u32 slot = address_slot(entry);

	if (address_is_ours(entry))
		return REASON_SPOOFED_LOCAL;
	if (address_kind(entry) == ADDRESS_NONE || !t->sender_known || slot == t->sender)
		return REASON_NONE;
	if (node_at(slot)->predecessor == t->sender + 1)
		return REASON_NONE;
	VIOLATED(d, REASON_SPOOFED_INNER);
	return REASON_NONE;
}

/* The whole check. Fills p and d with the inner packet. REASON_NONE: it may be judged. ip and udp are the outer headers. */
static __always_inline enum reason tunnel_check(struct decision *d, struct packet *p, const struct iphdr *ip,
						struct udphdr *udp, void *end, struct tunnel *t)
{
	enum reason reason = tunnel_header(d, ip, udp, end, t), unreadable;
	__u32 outer = bpf_ntohl(ip->saddr);
	const struct ethhdr *eth;
	int bound = 0;

	if (reason)
		return reason;
	unreadable = tunnel_inner(d, p, ip, end, t);
	if (!unreadable) {
		d->source = address_lookup(p->saddr);
		bound = tunnel_bound(d, outer, t);
	}
	if (!bound) {
		reason = tunnel_sender(d, outer, t);
		if (reason)
			return reason;
	}
	eth = t->inner;
	if (ARRAY_OF(state)->vtep_mac_known && !mac_equal(eth->h_dest, ARRAY_OF(state)->vtep_mac))
		return REASON_INNER_MAC; /* the kernel would not take it either: nothing to go on with */
	if (unreadable || bound)
		return unreadable;
	return tunnel_source(d, t);
}
