/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Is this the packet that nearly all are?
 *
 * Untagged, outer IPv4 without options to our first VTEP address, VXLAN of our network, inner IPv4 TCP or UDP without
 * options or fragments, from a node that may send it, to a local pod. Every field is at a constant offset, so one
 * comparison with the frame's end covers them. Whatever is not of this shape changes nothing here and takes the general
 * way, which alone knows why something is wrong: a packet is accepted here only if it would be accepted there.
 */
#pragma once

#include "tunnel.h"

struct fast_frame {
	struct ethhdr outer_eth;
	struct iphdr outer_ip;
	struct udphdr outer_udp;
	__u64 vxlan;
	struct ethhdr inner_eth;
	struct iphdr inner_ip;
	struct ports inner_ports;
	__u8 udp_rest[4];
} __attribute__((packed, aligned(2)));

#define FAST_FIELD(frame, type, field) (*(type *)((void *)(frame) + __builtin_offsetof(struct fast_frame, field)))

#define FAST_AT(field) __builtin_offsetof(struct fast_frame, field)

/* The first eight bytes of an IPv4 header as a little-endian number: 45, TOS, length, id, flags and offset. */
#define FAST_IP_MASK 0xff3f0000ffff00ffULL /* TOS, id and DF are free */
#define FAST_IP(length) (0x45 | (__u64)bpf_htons(length) << 16)
#define FAST_ECN 0x300ULL

/* A UDP header: source port, destination port, length, checksum. */
#define FAST_UDP_MASK 0x0000ffffffff0000ULL
#define FAST_UDP(port, length) ((__u64)bpf_htons(port) << 16 | (__u64)bpf_htons(length) << 32)

/* Kinds whose slot is the node that owns the address. */
#define OWNED_KINDS (1 << ADDRESS_REMOTE_POD | 1 << ADDRESS_NODE | 1 << ADDRESS_REMOTE_CIDR)

/* Fills d and p, and says 1; or changes nothing and says 0. */
static __always_inline int fast_tunnel(struct decision *d, struct packet *p, void *at, void *end, __u32 length)
{
	volatile struct shared_state *shared = ARRAY_OF(state);
	struct fast_frame *frame = at;
	volatile struct node *node;
	__u64 source, destination;
	__u32 outer, saddr, daddr;
	__u8 flags = 0;

	if ((void *)(frame + 1) > end)
		return 0;
	/*
	 * Eight bytes at a time, what does not matter masked out: version, header length, total length and fragment bits of
	 * each IP header, destination port and length of UDP. Lengths must be the frame's: no padding, no trailer.
	 */
	if (FAST_FIELD(frame, __be16, outer_eth.h_proto) != bpf_htons(ETH_P_IP) ||
	    (FAST_FIELD(frame, __u64, outer_ip) & FAST_IP_MASK) != FAST_IP(length - FAST_AT(outer_ip)) ||
	    FAST_FIELD(frame, __u8, outer_ip.protocol) != IPPROTO_UDP)
		return 0;
	if ((FAST_FIELD(frame, __u64, outer_udp) & FAST_UDP_MASK) != FAST_UDP(vxlan_port, length - FAST_AT(outer_udp)) ||
	    FAST_FIELD(frame, __u64, vxlan) != vxlan_header ||
	    (FAST_FIELD(frame, __u64, inner_ip) & FAST_IP_MASK) != FAST_IP(length - FAST_AT(inner_ip)))
		return 0;
	if (bpf_ntohl(FAST_FIELD(frame, __u32, outer_ip.daddr)) != shared->vtep4[0])
		return 0;
	/* A MAC that is not known is zero here, which no frame has. */
	if (!mac_equal(frame->inner_eth.h_dest, shared->vtep_mac))
		return 0;
	if (FAST_FIELD(frame, __u8, inner_ip.protocol) == IPPROTO_TCP) {
		if (at + __builtin_offsetof(struct fast_frame, inner_ports) + sizeof(struct tcphdr) > end)
			return 0;
		flags = *(__u8 *)(at + __builtin_offsetof(struct fast_frame, inner_ports) + 13);
	} else if (FAST_FIELD(frame, __u8, inner_ip.protocol) != IPPROTO_UDP) {
		return 0;
	}

	saddr = bpf_ntohl(FAST_FIELD(frame, __u32, inner_ip.saddr));
	source = address_lookup(saddr);
	node = node_at(address_slot(source));
	outer = bpf_ntohl(FAST_FIELD(frame, __u32, outer_ip.saddr));
	if (!(1 << address_kind(source) & OWNED_KINDS) || !outer || outer != node->underlay4[0] ||
	    FAST_FIELD(frame, __u64, inner_eth.h_source) != *(volatile __u64 *)node->vtep_mac) /* and the EtherTypes */
		return 0;
	daddr = bpf_ntohl(FAST_FIELD(frame, __u32, inner_ip.daddr));
	destination = address_lookup(daddr);
	if (address_kind(destination) != ADDRESS_LOCAL_POD)
		return 0;

	d->source = source;
	d->destination = destination;
	p->saddr = saddr;
	p->daddr = daddr;
	p->sport = bpf_ntohs(FAST_FIELD(frame, __u16, inner_ports.source));
	p->dport = bpf_ntohs(FAST_FIELD(frame, __u16, inner_ports.destination));
	p->protocol = FAST_FIELD(frame, __u8, inner_ip.protocol);
	p->fragment = FRAGMENT_NONE;
	p->opening = (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	p->tcp_flags = flags;
	p->error = 0;
	return 1;
}

/* What tunnel_header and tunnel_inner find out of a packet that took the general way; asked only of one that is admitted. */
static __always_inline int fast_strippable(void *at, void *end)
{
	struct fast_frame *frame = at;
	__u64 outer, inner;

	if ((void *)(frame + 1) > end)
		return 0;
	outer = FAST_FIELD(frame, __u64, outer_ip) & FAST_ECN;
	inner = FAST_FIELD(frame, __u64, inner_ip) & FAST_ECN;
	return !outer || outer == inner;
}
