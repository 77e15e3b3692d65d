/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What does a plane of the image say about a tuple, and about a Service?
 *
 * Without looking at any flow. The functions that are global the verifier walks once, not once a caller; so they are given
 * numbers, which it does not forget, and find the image by the half of the slot that it is in.
 *
 * The including program says whether it sees Service addresses before they are translated: enum { SEES_SERVICES = 0 or 1 }.
 */
#pragma once

#include "conntrack.h"

enum backends_admitted {
	BACKENDS_ALL,
	BACKENDS_NONE,
	BACKENDS_MIXED, /* the chosen one is judged after translation */
};

#define BACKENDS_ANSWER 3
#define BACKENDS_AUDIT 4 /* the audited plane refuses one that the enforced plane admits */

/* Are NodePorts reached under this address? */
static __always_inline int serves_node_ports(__u64 entry)
{
	return address_kind(entry) == ADDRESS_HOST || (address_kind(entry) == ADDRESS_NODE && address_flags(entry) & ADDRESS_UNDERLAY);
}

/* The Service behind an address; node: serves_node_ports() of its entry. */
static __always_inline struct service *service_find(__u32 addr, __u16 port, __u8 protocol, int node)
{
	struct service_key key = {.addr4 = addr, .port = port, .protocol = protocol};
	struct service *service;

	if (!SEES_SERVICES || !ARRAY_OF(state)->service_entries || !addr)
		return NULL;
	service = bpf_map_lookup_elem(&services, &key);
	if (service || !node)
		return service;
	key.addr4 = 0; /* every node */
	return bpf_map_lookup_elem(&services, &key);
}

/* What the egress row of an identity says about the backends of a Service; they are few and distinct. */
__noinline int service_judge(const struct service *service, __u32 identity, __u32 protocol, __u32 half, __u32 plane)
{
	const struct image_header *image = image_at(half);
	struct row row = image_plane_row(image, plane, identity, DIRECTION_EGRESS);
	__u32 admitted, found = 0, count, i;

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
		__u16 cell = image_cell(image, row, peer, class);
		__u32 allow = cell / CELL_ALLOW & 1;

		/* One number on the stack rather than three: it is short, with this below all others. */
		found = (found + (allow << 16)) | (cell & CELL_AUDIT) | (backend->flags & BACKEND_HOST & ~allow);
	}
	admitted = found >> 16;
	if (!admitted)
		return BACKENDS_NONE;
	/* A backend on this host's own addresses passes no later hook: it cannot be judged after translation. */
	if (admitted < count && found & BACKEND_HOST)
		return BACKENDS_NONE;
	return (admitted < count ? BACKENDS_MIXED : BACKENDS_ALL) | (found & CELL_AUDIT ? BACKENDS_AUDIT : 0);
}

#define ADMITS(plane, direction) ((plane) | (direction) << 1)
#define ADMITS_NODE 4 /* the destination serves NodePorts */

/* What one pod says of image_admits' question; how: ADMITS. */
__noinline int pod_admits(const struct flow_key *key, __u32 pod, __u32 peer, __u32 half, __u32 how)
{
	const struct image_header *image;
	struct row row;

	if (!key)
		return 0;
	if ((how >> 1 & 1) == DIRECTION_EGRESS) {
		struct service *service = service_find(key->daddr, key->dport, key->protocol, how & ADMITS_NODE);

		if (service)
			return !service->count || !row_enforced(image_plane_row(image_at(half), how & 1, pod, DIRECTION_EGRESS)) ||
			       (service_judge(service, pod, key->protocol, half, how & 1) & BACKENDS_ANSWER) != BACKENDS_NONE;
	}
	image = image_at(half);
	row = image_plane_row(image, how & 1, pod, how >> 1 & 1);
	return !row_enforced(row) || image_cell(image, row, image_peer_class(image, peer),
						image_port_class(image, key->protocol, key->dport)) & CELL_ALLOW;
}

/*
 * Would a plane of the image admit a packet of this tuple in its own direction, at every local pod that it concerns? Flows
 * are judged anew with this when image or addresses have changed, and so is what an ICMP error quotes.
 */
static __always_inline int image_admits(const struct flow_key *key, __u64 source, __u64 destination, __u32 half, enum plane plane)
{
	__u32 from = address_identity(source), to = address_identity(destination);
	__u32 node = serves_node_ports(destination) ? ADMITS_NODE : 0;

	return (address_kind(source) != ADDRESS_LOCAL_POD || pod_admits(key, from, to, half, ADMITS(plane, DIRECTION_EGRESS) | node)) &&
	       (address_kind(destination) != ADDRESS_LOCAL_POD || pod_admits(key, to, from, half, ADMITS(plane, DIRECTION_INGRESS)));
}
