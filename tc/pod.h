/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which pod is this skb from or for, and what is in it?
 */
#pragma once

#include "judge.h"

#define ETH_P_ARP_WIRE bpf_htons(ETH_P_ARP)
#define ETH_P_IPV6_WIRE bpf_htons(ETH_P_IPV6)

/* Ethernet with two tags, IPv4 with options, ICMP error, quoted IPv4 with options and its ports. */
#define HEADERS 192

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
};

enum frame {
	FRAME_IPV4,
	FRAME_ARP,
	FRAME_IPV6,
	FRAME_OTHER,
	FRAME_TAGS,
	FRAME_MALFORMED,
};

/* One skb may stand for many packets (GSO). */
static __always_inline struct packet *skb_open(struct __sk_buff *skb, __u32 hook)
{
	__u32 segments = skb->gso_segs;
	struct packet *p = packet_open(hook, segments ? segments : 1, skb->wire_len ? skb->wire_len : skb->len);

	if (p)
		packet_clear(p);
	return p;
}

/* Reads the headers into p; *arp is set for an ARP packet whose sender can be read. */
static __always_inline enum frame skb_parse(struct __sk_buff *skb, struct packet *p, __be32 *arp_sender)
{
	void *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end, *payload;
	__u32 total, l2 = 0;
	__be16 protocol = 0;
	enum parsed parsed;

	if (at + HEADERS > end && skb->data_end - skb->data < skb->len) {
		bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);
		at = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	parsed = parse_ethernet(&at, end, &protocol, &l2);
	if (parsed == PARSED_SHORT)
		return FRAME_MALFORMED;
	if (parsed == PARSED_TAGS || (skb->vlan_present && l2 > ETH_HLEN + sizeof(struct vlan_tag)))
		return FRAME_TAGS;
	if (protocol == ETH_P_ARP_WIRE) {
		struct arp *arp = at;

		if ((void *)(arp + 1) > end)
			return FRAME_MALFORMED;
		__builtin_memcpy(arp_sender, arp->sender_ip, sizeof(*arp_sender));
		return FRAME_ARP;
	}
	if (protocol == ETH_P_IPV6_WIRE)
		return FRAME_IPV6;
	if (parsed == PARSED_NOT_IPV4)
		return FRAME_OTHER;
	return parse_ipv4(at, end, p, &payload, &total) == PARSED_OK ? FRAME_IPV4 : FRAME_MALFORMED;
}

/* The pod behind this interface, whatever the packet's addresses say. */
static __always_inline volatile struct endpoint *endpoint_of(__u32 ifindex, __u32 *slot)
{
	__u32 *found = bpf_map_lookup_elem(&interfaces, &ifindex);

	if (!found)
		return NULL;
	*slot = *found;
	return ARRAY_OF(endpoints) + (*slot & (MAX_ENDPOINTS - 1));
}
