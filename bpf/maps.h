/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What do the programs and the agent share?
 *
 * Every map and every type that crosses the border between C and Go, once. Numbers in host byte order are integers, wire
 * order is a byte array (bpf2go turns __be16 into a plain uint16). Structs have no holes. Sizes of maps marked "set at
 * load" are placeholders here: the agent overwrites max_entries before it creates them.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "reasons.h"

#define ABI_VERSION 2
#define MAX_RULES 16384
#define MAX_ENDPOINTS 4096
#define MAX_NODES 8192
#define MAX_BACKENDS 15
#define COUNTER_SLOTS (HOOK_COUNT * DIRECTION_COUNT * VERDICT_COUNT * REASON_COUNT)
#define DEFAULT_IMAGE_BYTES (16 << 20)
#define EVENT_BYTES 128

/*
 * An address entry: 8 bytes, read and written whole.
 *   bits  0-23 identity    24-27 enum address_kind    28-31 ADDRESS_* flags
 *   bits 32-47 slot of the endpoint (ADDRESS_LOCAL_POD) or of the owning node (the other kinds that have an owner)
 *   bits 48-55 tenancy: counts the pods that have had this address, modulo 256
 *   bits 56-61 prefix length    bit 63 the entry is no answer but a pointer: bits 0-31 are a block's offset in the pool
 * Entry 0 is "nothing is known": world.
 */
enum address_kind {
	ADDRESS_NONE,	     /* nobody's: outside, or a CIDR that a policy names */
	ADDRESS_LOCAL_POD,   /* a pod of this node; slot is its endpoint */
	ADDRESS_REMOTE_POD,  /* a pod of another node */
	ADDRESS_NODE,	     /* an address of another node itself */
	ADDRESS_HOST,	     /* an address of this node itself */
	ADDRESS_LOCAL_CIDR,  /* our own podCIDR, where no pod is known */
	ADDRESS_REMOTE_CIDR, /* another node's podCIDR, where no pod is known: identity unmanaged */
};

#define ADDRESS_UNDERLAY (1 << 0)  /* may be an outer address: a node's InternalIP, not its overlay addresses */
#define ADDRESS_TUNNELLED (1 << 1) /* our routes reach it through the tunnel, so a plain packet from it is forged */

#define ADDR4_ROOT 65536 /* entries of the first level, indexed by the upper 16 bits */
#define ADDR4_BLOCK 256  /* entries of a block of the second and third level */

/* Prefixes for which the pool had no room; consulted only while state.cidr4_entries is not 0. The longer prefix wins. */
struct cidr4_key {
	__u32 prefix_len;
	__u8 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct cidr4_key);
	__type(value, __u64);
} cidr4 SEC(".maps");

/* A local pod. Written while no address refers to its slot, except isolated_ns. */
struct endpoint {
	__u32 ifindex; /* host side of the pod's veth */
	__u32 identity;
	__u32 addr4;   /* host order; 0: none */
	__u32 flags;
	__u8 mac[6];	  /* the pod's */
	__u8 host_mac[6]; /* of the host side */
	__u32 netns;	  /* id of the pod's network namespace as the host knows it, plus 1; 0: not known */
	__u8 addr6[16];
	/* When isolation began, by direction, CLOCK_MONOTONIC ns; 0: with the pod itself. Each is one 8-byte store. */
	__u64 isolated_ns[DIRECTION_COUNT];
};
_Static_assert(sizeof(struct endpoint) == 64, "endpoint is ABI");

/* ifindex of a pod's host-side veth → endpoint slot: for packets whose addresses do not name the pod. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDPOINTS * 2);
	__type(key, __u32);
	__type(value, __u32);
} interfaces SEC(".maps");

#define NODE_MAC_KNOWN (1 << 0)	    /* vtep_mac is meaningful */
#define NODE_OLD_MAC_KNOWN (1 << 1) /* old_vtep_mac still holds: the loader clears the flag when the grace period ends */

#define NODE_UNDERLAY 2

/* A node, this one included. Bindings of addresses to nodes are in addr4: an entry's slot. */
struct node {
	__u32 flags;
	__u32 predecessor; /* slot of the node that owned this one's addresses until a moment ago, plus 1; 0: none */
	__u8 vtep_mac[6];
	__be16 ethertype; /* IPv4's, wire order: with it, vtep_mac is the second half of an inner Ethernet header */
	__u8 old_vtep_mac[6];
	__u8 pad[2];
	/* Its underlay addresses, host order; 0: none. A shortcut: what does not match here is looked up in addr4. */
	__u32 underlay4[NODE_UNDERLAY];
} __attribute__((aligned(8))); /* MACs are read eight bytes at a time */
_Static_assert(sizeof(struct node) == 32, "node is ABI");

/*
 * A Service address → the distinct {identity, port} pairs of its ready endpoints. Address 0 stands for all those under which
 * nodes serve NodePorts: an entry for each would not fit, of thousands of nodes.
 */
struct service_key {
	__u32 addr4;
	__u16 port;
	__u8 protocol;
	__u8 pad;
};

#define BACKEND_HOST (1 << 0) /* an address of this host: the packet passes no later hook after translation */

struct backend {
	__u32 identity;
	__u16 port;
	__u16 flags;
};

#define SERVICE_MANY (1 << 0)	/* more distinct backends than fit: judged after translation */
#define SERVICE_TUNNEL (1 << 1) /* a backend is a node's tunnel port: no pod may reach it */

struct service {
	__u32 count; /* of backends */
	__u32 flags;
	struct backend backends[MAX_BACKENDS];
};
_Static_assert(sizeof(struct service) == 128, "service is ABI");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/* What every program reads besides its constants; each field is one aligned store of the agent's. */
struct shared_state {
	__u32 addr_generation; /* moves whenever an address changes its identity */
	__u32 cidr4_entries;   /* prefixes in cidr4 */
	__u32 service_entries; /* addresses in services */
	__u32 flow_filter;     /* which half of flow_filter is read: 0 or 1; the sweep rebuilds the other and flips it */
	__u32 vtep4[NODE_UNDERLAY]; /* our own underlay addresses, as in struct node */
	__u8 vtep_mac[6];	    /* inner destination MAC of what is for us; meaningful if vtep_mac_known */
	__u8 vtep_mac_known;
	__u8 pad;
	__u32 image; /* which half of policy is live, 0 or 1; a program reads it once per packet */
	__u32 pad2;
} __attribute__((aligned(8))); /* as is struct node */
_Static_assert(sizeof(struct shared_state) == 40, "shared_state is ABI");

/* A flow, in the direction in which it was admitted. ICMP echo: sport is the id, dport the type of the request (8). */
struct flow_key {
	__u32 saddr; /* host order, as are the ports */
	__u32 daddr;
	__u16 sport;
	__u16 dport;
	__u8 protocol;
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow_key) == 16, "flow_key is ABI");

#define FLOW_FIN_FORWARD (1 << 0)
#define FLOW_FIN_REPLY (1 << 1)
#define FLOW_RST (1 << 2)
#define FLOW_ASSURED (1 << 3)
#define FLOW_FROM_POD (1 << 4) /* the source was a known pod when the flow was admitted */
#define FLOW_TO_POD (1 << 5)   /* so was the destination */

struct flow {
	__u64 seen_ns; /* coarse; rewritten at most once a second */
	__u32 image_generation;
	__u32 addr_generation;
	__u8 source_tenancy;
	__u8 destination_tenancy;
	__u16 owner; /* endpoint slot of the pod whose quota it counts against */
	__u32 flags;
};
_Static_assert(sizeof(struct flow) == 24, "flow is ABI");

/* Assured flows, and those whose other side has not answered yet. Sizes set at load. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows_new SEC(".maps");

#define FLOW_FILTER_BITS 14
#define FLOW_FILTER_WORDS (1 << FLOW_FILTER_BITS) /* of one half */
#define FLOW_SUMMARY_WORDS (FLOW_FILTER_WORDS / 64)

/* Ports of a first fragment, for the later ones. */
struct fragment_key {
	__u32 saddr;
	__u32 daddr;
	__u16 id;
	__u8 protocol;
	__u8 pad;
};

struct fragment {
	__u16 sport;
	__u16 dport;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/*
 * Where each hook parses into, one struct packet (packet.h) per CPU and hook: the verifier forgets what it knew about
 * memory of maps, so that the ways through the parser meet again behind it; on the stack they would multiply with all
 * that follows. Programs run to their end on one CPU with bottom halves off, so nobody else writes there meanwhile.
 */
#define SCRATCH_BYTES 48

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_COUNT);
	__type(key, __u32);
	__uint(value_size, SCRATCH_BYTES);
} scratch SEC(".maps");

struct counter {
	__u64 packets;
	__u64 bytes;
	__u64 sampled; /* jiffies when this CPU last sent an event for this slot */
};

/* Index: ((hook * DIRECTION_COUNT + direction) * VERDICT_COUNT + verdict) * REASON_COUNT + reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_SLOTS);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

struct rule_hit {
	__u64 packets;
	__u64 bytes;
};

/* Index: the rule number of a cell (image.h). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule_hit);
} rule_hits SEC(".maps");

/* Likewise, but what the rule would have decided were it not under audit: only such rules have an entry. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule_hit);
} audit_hits SEC(".maps");

/* A sampled verdict. Addresses and ports are those judged (of the inner packet, at underlay_rx), in host order. */
struct event {
	__u64 time_ns; /* CLOCK_MONOTONIC, coarse */
	__u8 hook;
	__u8 direction;
	__u8 verdict;
	__u8 reason;
	__u16 rule;
	__u16 captured; /* valid bytes of data */
	__u32 generation;
	__u32 ifindex;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 saddr;
	__u32 daddr;
	__u16 sport;
	__u16 dport;
	__u8 protocol;
	__u8 pad[3];
	__u32 length; /* of the whole packet */
	__u32 pad2;
	__u8 data[EVENT_BYTES];
};
_Static_assert(sizeof(struct event) == 184, "event is ABI");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");
