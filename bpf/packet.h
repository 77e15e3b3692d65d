/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is in this packet?
 *
 * Parsers that fill struct packet from linear bytes [at, end). They read nothing past end, honour IHL, and say what they
 * could not read; they never guess. Host byte order once a value is in struct packet.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_SCTP 132

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12

#define SCTP_INIT 1

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

#define MAX_TAGS 2

enum fragment_kind {
	FRAGMENT_NONE,
	FRAGMENT_FIRST, /* has the ports */
	FRAGMENT_LATER, /* has not */
};

/* One IPv4 packet. Ports are 0 for protocols without; ICMP: dport is the type, sport the id of an echo. */
struct packet {
	__u32 saddr;
	__u32 daddr;
	__u16 sport;
	__u16 dport;
	__u8 protocol;
	__u8 fragment;	/* enum fragment_kind */
	__u8 opening;	/* TCP SYN without ACK, SCTP INIT: can open a flow, never answer one */
	__u8 tcp_flags; /* low bits: FIN 1, SYN 2, RST 4, ACK 16 */
	__u16 id;	/* of the IP header, host order */
	__u16 pad;
	__u32 packets; /* that this one stands for (GSO), and their bytes on the wire: for counters */
	__u32 bytes;
	/* Of an ICMP error: the packet that it quotes. */
	__u32 quoted_saddr;
	__u32 quoted_daddr;
	__u16 quoted_sport;
	__u16 quoted_dport;
	__u8 quoted_protocol;
	__u8 error; /* this is an ICMP error, and the quote could be read */
	__u8 pad2[6];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct packet) == SCRATCH_BYTES, "packet fits scratch");

/* The scratch space of hook, for one packet or, of a GSO skb, several. */
static __always_inline struct packet *packet_open(__u32 hook, __u32 packets, __u32 bytes)
{
	struct packet *p = bpf_map_lookup_elem(&scratch, &hook);

	if (p) {
		p->packets = packets;
		p->bytes = bytes;
	}
	return p;
}

/* Forgets all but what is counted. */
static __always_inline void packet_clear(struct packet *p)
{
	struct packet fresh = {.packets = p->packets, .bytes = p->bytes};

	*p = fresh;
}

enum parsed {
	PARSED_OK,
	PARSED_SHORT,	  /* ends before its headers do, or contradicts itself */
	PARSED_NOT_IPV4,  /* some other EtherType: in *protocol */
	PARSED_TAGS,	  /* more than MAX_TAGS VLAN tags */
};

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

static __always_inline int is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* Ethernet and up to MAX_TAGS tags. Moves *at past them, *length bytes, and sets *protocol to the EtherType there. */
static __always_inline enum parsed parse_ethernet(void **at, void *end, __be16 *protocol, __u32 *length)
{
	struct ethhdr *eth = *at;
	struct vlan_tag *tag = (void *)(eth + 1);

	if ((void *)(eth + 1) > end)
		return PARSED_SHORT;
	*protocol = eth->h_proto;
	*length = sizeof(*eth);
	if (is_vlan(*protocol)) {
		if ((void *)(tag + 1) > end)
			return PARSED_SHORT;
		*protocol = tag->protocol;
		*length += sizeof(*tag);
		tag++;
		if (is_vlan(*protocol)) {
			if ((void *)(tag + 1) > end)
				return PARSED_SHORT;
			*protocol = tag->protocol;
			*length += sizeof(*tag);
			tag++;
			if (is_vlan(*protocol))
				return PARSED_TAGS;
		}
	}
	*at = tag;
	return *protocol == bpf_htons(ETH_P_IP) ? PARSED_OK : PARSED_NOT_IPV4;
}

struct ports {
	__be16 source;
	__be16 destination;
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; /* of echo and echo reply */
	__be16 sequence;
};

static __always_inline int is_icmp_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER;
}

/* RFC 792: the header of the offending packet and at least its first 8 bytes. An unreadable quote leaves p->error 0. */
static __always_inline void parse_quote(void *at, void *end, struct packet *p)
{
	struct iphdr *ip = at;
	struct ports *ports;
	struct icmp *icmp;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return;
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return;
	at += (ip->ihl & 15) * 4;
	p->quoted_saddr = bpf_ntohl(ip->saddr);
	p->quoted_daddr = bpf_ntohl(ip->daddr);
	p->quoted_protocol = ip->protocol;
	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		ports = at;
		if ((void *)(ports + 1) > end)
			return;
		p->quoted_sport = bpf_ntohs(ports->source);
		p->quoted_dport = bpf_ntohs(ports->destination);
		break;
	case IPPROTO_ICMP:
		icmp = at;
		if ((void *)(icmp + 1) > end || is_icmp_error(icmp->type))
			return; /* RFC 1122 section 3.2.2: no error about an error */
		p->quoted_dport = icmp->type;
		if (icmp->type == ICMP_ECHO || icmp->type == ICMP_ECHO_REPLY)
			p->quoted_sport = bpf_ntohs(icmp->id);
		break;
	}
	p->error = 1;
}

/*
 * IPv4 at `at`, and the ports of what it carries. *payload is set to the first byte after the IP header, and total to the
 * packet's length by its own header. A first or whole packet too short for its ports is PARSED_SHORT.
 */
static __always_inline enum parsed parse_ipv4(void *at, void *end, struct packet *p, void **payload, __u32 *total)
{
	struct iphdr *ip = at;
	__u32 header;
	__u16 frag;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return PARSED_SHORT;
	header = (ip->ihl & 15) * 4;
	*total = bpf_ntohs(ip->tot_len);
	if (*total < header || at + header > end)
		return PARSED_SHORT;
	p->saddr = bpf_ntohl(ip->saddr);
	p->daddr = bpf_ntohl(ip->daddr);
	p->protocol = ip->protocol;
	p->id = bpf_ntohs(ip->id);
	frag = bpf_ntohs(ip->frag_off);
	*payload = at + header;
	if (frag & IP_OFFSET) {
		p->fragment = FRAGMENT_LATER;
		return PARSED_OK;
	}
	if (frag & IP_MF)
		p->fragment = FRAGMENT_FIRST;

	switch (ip->protocol) {
	case IPPROTO_TCP: {
		struct tcphdr *tcp = *payload;
		__u8 *flags = *payload + 13;

		if ((void *)(tcp + 1) > end || *total < header + sizeof(*tcp))
			return PARSED_SHORT;
		p->sport = bpf_ntohs(tcp->source);
		p->dport = bpf_ntohs(tcp->dest);
		p->tcp_flags = *flags;
		p->opening = (p->tcp_flags & 0x12) == 0x02;
		return PARSED_OK;
	}
	case IPPROTO_UDP: {
		struct udphdr *udp = *payload;

		if ((void *)(udp + 1) > end || *total < header + sizeof(*udp))
			return PARSED_SHORT;
		p->sport = bpf_ntohs(udp->source);
		p->dport = bpf_ntohs(udp->dest);
		return PARSED_OK;
	}
	case IPPROTO_SCTP: {
		struct ports *ports = *payload;
		__u8 *chunk = *payload + 12;

		if ((void *)(chunk + 1) > end || *total < header + 13)
			return PARSED_SHORT;
		p->sport = bpf_ntohs(ports->source);
		p->dport = bpf_ntohs(ports->destination);
		p->opening = *chunk == SCTP_INIT;
		return PARSED_OK;
	}
	case IPPROTO_ICMP: {
		struct icmp *icmp = *payload;

		if ((void *)(icmp + 1) > end || *total < header + sizeof(*icmp))
			return PARSED_SHORT;
		p->dport = icmp->type;
		if (icmp->type == ICMP_ECHO || icmp->type == ICMP_ECHO_REPLY)
			p->sport = bpf_ntohs(icmp->id);
		else if (is_icmp_error(icmp->type) && p->fragment == FRAGMENT_NONE)
			parse_quote(icmp + 1, end, p);
		return PARSED_OK;
	}
	}
	return PARSED_OK;
}
