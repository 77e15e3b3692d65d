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

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	__u32 a0, b0;
	__u16 a1, b1;

	__builtin_memcpy(&a0, a, 4);
	__builtin_memcpy(&a1, a + 4, 2);
	__builtin_memcpy(&b0, b, 4);
	__builtin_memcpy(&b1, b + 4, 2);
	return a0 == b0 && a1 == b1;
}

/* No unicast packet has these: 0/8, 127/8, multicast, 240/4 and broadcast. */
static __always_inline int is_martian(__u32 addr)
{
	return addr >= 0xe0000000 || addr >> 24 == 0 || addr >> 24 == 127;
}

/* The VXLAN header behind udp. REASON_NONE: it is of our network and well formed. */
static __always_inline enum reason tunnel_header(const struct iphdr *ip, struct udphdr *udp, void *end,
						 struct tunnel *t)
{
	struct vxlanhdr *vxlan = (void *)(udp + 1);
	struct ethhdr *inner = (void *)(vxlan + 1);
	__u32 total = bpf_ntohs(ip->tot_len), header = (ip->ihl & 15) * 4;

	if ((void *)(vxlan + 1) > end)
		return REASON_VXLAN_MALFORMED;
	if ((vxlan->flags & bpf_htonl(VXLAN_FLAGS)) && bpf_ntohl(vxlan->vni) >> 8 != vxlan_vni)
		return REASON_FOREIGN_VNI;
	if (vxlan->flags != bpf_htonl(VXLAN_FLAGS) || bpf_ntohl(vxlan->vni) & 0xff)
		return REASON_VXLAN_MALFORMED;
	if (bpf_ntohs(udp->len) != total - header || (void *)ip + total > end)
		return REASON_VXLAN_MALFORMED;
	if ((void *)(inner + 1) > end)
		return REASON_INNER_MALFORMED;
	t->inner = inner;
	t->strippable = udp->check == 0; /* a checksum over the payload is left to the kernel */
	return REASON_NONE;
}

/* Outer source and inner Ethernet header: which node sent this? */
static __always_inline enum reason tunnel_sender(struct decision *d, __u64 outer, struct tunnel *t)
{
	struct ethhdr *inner = t->inner;
	struct node *node;
	__u32 host = host_node;

	if (address_is_ours(outer))
		return REASON_SPOOFED_LOCAL;
	t->sender = address_slot(outer);
	t->sender_known = address_kind(outer) == ADDRESS_NODE && (address_flags(outer) & ADDRESS_UNDERLAY);
	if (!t->sender_known) {
		VIOLATED(d, REASON_UNKNOWN_VTEP);
	} else {
		node = bpf_map_lookup_elem(&nodes, &t->sender);
		if (node && (node->flags & NODE_MAC_KNOWN) && !mac_equal(inner->h_source, node->vtep_mac) &&
		    !((node->flags & NODE_OLD_MAC_KNOWN) && mac_equal(inner->h_source, node->old_vtep_mac)))
			VIOLATED(d, REASON_SPOOFED_MAC);
	}
	node = bpf_map_lookup_elem(&nodes, &host);
	if (node && (node->flags & NODE_MAC_KNOWN) && !mac_equal(inner->h_dest, node->vtep_mac))
		return REASON_INNER_MAC; /* the kernel would not take it either: nothing to go on with */
	return REASON_NONE;
}

/* Does the inner source belong to the node that sent it? */
static __always_inline enum reason tunnel_source(struct decision *d, const struct tunnel *t)
{
	__u64 entry = d->source;
	__u32 slot = address_slot(entry);
	struct node *owner;

	if (address_is_ours(entry))
		return REASON_SPOOFED_LOCAL;
	if (address_kind(entry) == ADDRESS_NONE || !t->sender_known || slot == t->sender)
		return REASON_NONE;
	owner = bpf_map_lookup_elem(&nodes, &slot);
	if (owner && owner->predecessor == t->sender + 1)
		return REASON_NONE;
	VIOLATED(d, REASON_SPOOFED_INNER);
	return REASON_NONE;
}

/*
 * The whole check. Fills p and d with the inner packet. REASON_NONE: it may be judged. ip and udp are the outer headers,
 * outer the address entry of the outer source.
 */
static __always_inline enum reason tunnel_check(struct decision *d, struct packet *p, const struct iphdr *ip,
						struct udphdr *udp, void *end, __u64 outer, struct tunnel *t)
{
	enum reason reason = tunnel_header(ip, udp, end, t);
	struct ethhdr *eth;
	struct iphdr *inner_ip;
	void *payload;
	__u32 total;

	if (reason)
		return reason;
	reason = tunnel_sender(d, outer, t);
	if (reason)
		return reason;
	eth = t->inner;
	if (is_vlan(eth->h_proto))
		return REASON_INNER_TAGS;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return REASON_INNER_NOT_IPV4;
	inner_ip = (void *)(eth + 1);
	packet_reset(p);
	if (parse_ipv4(inner_ip, end, p, &payload, &total) != PARSED_OK || (void *)inner_ip + total > end)
		return REASON_INNER_MALFORMED;
	if (is_martian(p->saddr) || is_martian(p->daddr))
		return REASON_INNER_MARTIAN;
	t->length = (ip->ihl & 15) * 4 + sizeof(*udp) + sizeof(struct vxlanhdr) + sizeof(*eth);
	/* RFC 6040 section 4.2: where the two ECN fields differ, combining them is the kernel's business. */
	if ((ip->tos & 3) && (ip->tos & 3) != (inner_ip->tos & 3))
		t->strippable = 0;
	d->source = address_lookup(d->shared, p->saddr);
	return tunnel_source(d, t);
}
