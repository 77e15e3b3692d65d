/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Is this the packet that nearly all are?
 *
 * Untagged, outer IPv4 without options to our first VTEP address, VXLAN of our network, inner IPv4 TCP or UDP without
 * options or fragments, from a node that may send it, to a local pod. Every field is at a constant offset, so one
 * comparison with the frame's end covers them. Whatever is not of this shape changes nothing here and takes the general
 * way, which alone knows why something is wrong: what is read here is judged as it would be judged there.
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
	struct tcphdr inner_tcp; /* or UDP with at least twelve bytes of payload, whose ports are in the same place */
} __attribute__((packed, aligned(2)));

/* Volatile: to read a field again is cheaper than to keep it, for what is kept is spilled. */
#define FAST_FIELD(frame, type, field) (*(volatile type *)((void *)(frame) + __builtin_offsetof(struct fast_frame, field)))

#define FAST_AT(field) __builtin_offsetof(struct fast_frame, field)

/* The first eight bytes of an IPv4 header as a little-endian number: 45, TOS, length, id, flags and offset. */
#define FAST_IP_MASK 0xff3f0000ffff00ffULL /* TOS, id and DF are free */
#define FAST_IP(length) (0x45 | (__u64)bpf_htons(length) << 16)
#define FAST_ECN 0x300ULL

/* Kinds whose slot is the node that owns the address. */
#define OWNED_KINDS (1 << ADDRESS_REMOTE_POD | 1 << ADDRESS_NODE | 1 << ADDRESS_REMOTE_CIDR)

/* What the image says, in one number: the rule that denies, and with it FAST_EXCUSABLE; or FAST_ADMITTED alone. */
#define FAST_EXCUSABLE (1 << 16) /* flows, or the pod's sockets, may admit it all the same */
#define FAST_ADMITTED (1 << 17)

/*
 * Such a packet, as long as it fits registers: a flood that is dropped never has its headers written to memory. Nothing that
 * is not inlined may see this struct, or it would lie in memory too.
 */
struct fast {
	struct fast_frame *frame;
	__u64 source; /* address entries */
	__u64 destination;
};

static __always_inline __u8 fast_tcp_flags(const struct fast *f)
{
	return FAST_FIELD(f->frame, __u8, inner_ip.protocol) == IPPROTO_TCP ?
		       *((volatile __u8 *)f->frame + FAST_AT(inner_tcp) + 13) : 0;
}

static __always_inline int fast_opens(const struct fast *f)
{
	return (fast_tcp_flags(f) & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Fills f and says 1; or says 0. */
static __always_inline int fast_tunnel(struct fast *f, void *at, void *end, __u32 length)
{
	volatile struct shared_state *shared = ARRAY_OF(state);
	struct fast_frame *frame = at;
	volatile struct node *node;
	__u64 source, destination;
	__u32 outer;

	if ((void *)(frame + 1) > end)
		return 0;
	if (FAST_FIELD(frame, __be16, outer_eth.h_proto) != bpf_htons(ETH_P_IP) ||
	    FAST_FIELD(frame, __u8, outer_ip.protocol) != IPPROTO_UDP ||
	    FAST_FIELD(frame, __be16, outer_udp.dest) != vxlan_port_wire)
		return 0;
	/* The lookups begin before all that is compared below: the one waits for memory, the other does not. */
	source = address_in_trie(bpf_ntohl(FAST_FIELD(frame, __u32, inner_ip.saddr)));
	destination = address_in_trie(bpf_ntohl(FAST_FIELD(frame, __u32, inner_ip.daddr)));
	if (shared->cidr4_entries)
		return 0;
	/*
	 * Eight bytes at a time, what does not matter masked out: version, header length, total length and fragment bits of
	 * each IP header. Lengths must be the frame's: no padding, no trailer.
	 */
	if ((FAST_FIELD(frame, __u64, outer_ip) & FAST_IP_MASK) != FAST_IP(length - FAST_AT(outer_ip)) ||
	    FAST_FIELD(frame, __be16, outer_udp.len) != bpf_htons(length - FAST_AT(outer_udp)) ||
	    FAST_FIELD(frame, __u64, vxlan) != vxlan_header ||
	    (FAST_FIELD(frame, __u64, inner_ip) & FAST_IP_MASK) != FAST_IP(length - FAST_AT(inner_ip)))
		return 0;
	if (bpf_ntohl(FAST_FIELD(frame, __u32, outer_ip.daddr)) != shared->vtep4[0])
		return 0;
	/* Six bytes of eight. A MAC that is not known is zero here, which no frame has. */
	if (FAST_FIELD(frame, __u64, inner_eth.h_dest) << 16 != *(volatile __u64 *)shared->vtep_mac << 16)
		return 0;
	if (FAST_FIELD(frame, __u8, inner_ip.protocol) != IPPROTO_TCP && FAST_FIELD(frame, __u8, inner_ip.protocol) != IPPROTO_UDP)
		return 0;

	node = node_at(address_slot(source));
	outer = bpf_ntohl(FAST_FIELD(frame, __u32, outer_ip.saddr));
	if (!(1 << address_kind(source) & OWNED_KINDS) || !outer || outer != node->underlay4[0] ||
	    FAST_FIELD(frame, __u64, inner_eth.h_source) != *(volatile __u64 *)node->vtep_mac) /* and the EtherTypes */
		return 0;
	if (address_kind(destination) != ADDRESS_LOCAL_POD)
		return 0;

	f->frame = frame;
	f->source = source;
	f->destination = destination;
	return 1;
}

/* What the parser would have left in p. */
static __always_inline void fast_write(const struct fast *f, struct packet *p)
{
	p->saddr = bpf_ntohl(FAST_FIELD(f->frame, __u32, inner_ip.saddr));
	p->daddr = bpf_ntohl(FAST_FIELD(f->frame, __u32, inner_ip.daddr));
	p->sport = bpf_ntohs(FAST_FIELD(f->frame, __u16, inner_tcp.source));
	p->dport = bpf_ntohs(FAST_FIELD(f->frame, __u16, inner_tcp.dest));
	p->protocol = FAST_FIELD(f->frame, __u8, inner_ip.protocol);
	p->fragment = FRAGMENT_NONE;
	p->opening = fast_opens(f);
	p->tcp_flags = fast_tcp_flags(f);
	p->error = 0;
}

/*
 * Can the flow tables not help a denied packet, nor the pod's sockets? Answers no if in doubt. Nor is it a pod that reaches
 * itself: source and destination are of different kinds.
 */
static __always_inline int fast_hopeless(const struct fast *f)
{
	__u64 addrs;
	__u32 ports;

	if (fast_opens(f))
		return 1;
	addrs = bpf_be64_to_cpu(FAST_FIELD(f->frame, __u64, inner_ip.saddr)); /* and daddr */
	ports = bpf_ntohl(FAST_FIELD(f->frame, __u32, inner_tcp.source));
	if (flow_filter_has(flow_hash_of(addrs, ports)))
		return 0;
	return !isolation_has_begun(address_slot(f->destination), DIRECTION_INGRESS);
}

static __always_inline __u32 fast_judge(const struct fast *f, const struct image_header *image)
{
	struct row row = image_row(image, address_identity(f->destination), DIRECTION_INGRESS);
	__u16 peer, dport = bpf_ntohs(FAST_FIELD(f->frame, __u16, inner_tcp.dest));
	__u32 cell;

	if (!row_policed(row))
		return FAST_ADMITTED;
	peer = image_peer_class(image, address_identity(f->source));
	cell = image_cell(image, row, peer, image_port_class(image, FAST_FIELD(f->frame, __u8, inner_ip.protocol), dport));
	asm volatile("" : "+r"(cell)); /* or clang extends it, for a test of its sign */
	if (cell & CELL_ALLOW)
		return FAST_ADMITTED;
	cell &= CELL_RULE;
	return fast_hopeless(f) ? cell : cell | FAST_EXCUSABLE;
}

/* What tunnel_header and tunnel_inner find out of a packet that took the general way; asked only of one that is admitted. */
static __always_inline int fast_strippable(const struct fast *f)
{
	__u64 outer = FAST_FIELD(f->frame, __u64, outer_ip) & FAST_ECN, inner = FAST_FIELD(f->frame, __u64, inner_ip) & FAST_ECN;

	return !outer || outer == inner;
}
