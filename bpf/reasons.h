/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why did this packet leave the way it did?
 *
 * Every packet leaves every hook with exactly one enum reason. The numbers are ABI: they index pinned counters and stand
 * in events, so the enums are append-only. ARCHITECTURE.md has one row for each, and a test compares the two.
 */
#pragma once

enum hook {
	HOOK_UNDERLAY_RX, /* XDP on an underlay NIC: what arrives from other machines */
	HOOK_POD_TX,	  /* tc on a pod's host-side veth, ingress: what the pod sends */
	HOOK_POD_RX,	  /* tc on a pod's host-side veth, egress: what the pod is about to receive */
	HOOK_OVERLAY_TX,  /* tc egress of the VXLAN device and the NIC: what leaves, addresses already translated */
	HOOK_COUNT,
};

/* The direction of a policy, seen from the pod that it guards. */
enum direction {
	DIRECTION_INGRESS,
	DIRECTION_EGRESS,
	DIRECTION_COUNT,
};

enum verdict {
	VERDICT_PASS,
	VERDICT_DROP,
	VERDICT_OBSERVE, /* a violation of the overlay check that observe mode only counts: the packet went on to another reason */
	VERDICT_AUDIT,	 /* what policies under audit would have dropped: the packet went on to another reason */
	VERDICT_COUNT,
};

enum reason {
	REASON_NONE, /* the packet has not been decided yet; a packet that leaves with it is a bug */

	/* What policy says. */
	REASON_ALLOWED,		/* pass: a rule of a policy that selects the pod admits it */
	REASON_NOT_ISOLATED,	/* pass: no policy selects the pod in this direction */
	REASON_REPLY,		/* pass: belongs to a flow that was admitted in the other direction */
	REASON_RELATED,		/* pass: an ICMP error about a packet that policy or a flow admits */
	REASON_GRACE,		/* pass: a reply to a connection older than the pod's isolation */
	REASON_SELF,		/* pass: a pod reaches itself */
	REASON_SERVICE,		/* pass: every endpoint of this Service address is admitted */
	REASON_SERVICE_MIXED,	/* pass: some endpoints are; the chosen one is judged after translation */
	REASON_DENIED_DEFAULT,	/* drop: the pod is isolated and no rule admits it */
	REASON_DENIED_RULE,	/* drop: a deny rule matches */
	REASON_REVOKED,		/* drop: its flow was admitted once, and policy no longer admits it */
	REASON_DENIED_SERVICE,	/* drop: no endpoint of this Service address is admitted */
	REASON_FRAGMENT,	/* drop: a later fragment whose first one was not seen or not admitted, towards or from an isolated pod */
	REASON_IPV6,		/* drop: IPv6 towards or from an isolated pod; not judged yet */
	REASON_NOT_IP_ISOLATED, /* drop: neither IP nor ARP, towards or from an isolated pod */
	REASON_NO_IMAGE,	/* drop: no policy image is loaded */

	/* What the underlay hook hands on. */
	REASON_HANDED_UP, /* pass: policy admits it; pod_rx will count the allow */
	REASON_TO_HOST,	  /* pass: overlay traffic to this node's own addresses, from a sender that may speak for its source */
	REASON_TRANSIT,	  /* pass: overlay traffic to an address that is not here */
	REASON_UNTOUCHED, /* pass: nothing that weir guards */
	REASON_NOT_IP,	  /* pass: not IP, so not pod traffic on this hook; ARP that tells the truth, at a pod */
	REASON_FOREIGN_VNI, /* pass: VXLAN of somebody else's network on our port */
	REASON_UNKNOWN_ENDPOINT, /* pass or drop, by option: an address of our podCIDR that no pod is known to have */

	/* Violations of the overlay check: dropped under enforce, counted as observed and passed on under observe. */
	REASON_UNKNOWN_VTEP,	/* the outer source is not an underlay address of any node */
	REASON_SPOOFED_MAC,	/* the inner source MAC is not the sending node's VTEP MAC */
	REASON_SPOOFED_INNER,	/* the inner source belongs to another node than the one that sent it */
	REASON_UNTUNNELLED,	/* a plain packet whose source our routes reach through the tunnel */
	REASON_TUNNEL_STRAY,	/* our tunnel port, at an address that is not one of our VTEPs */
	REASON_OUTER_FRAGMENT,	/* first fragment of an outer packet to our tunnel port */
	REASON_OUTER_TAGS,	/* more than two VLAN tags outside */
	REASON_VXLAN_MALFORMED, /* UDP length, VXLAN flags or reserved bits that Linux would not accept */
	REASON_INNER_MALFORMED, /* inner headers that cannot be read */
	REASON_INNER_MARTIAN,	/* inner source or destination that no unicast packet may have */
	REASON_INNER_MAC,	/* inner destination MAC is not our VTEP's */
	REASON_INNER_NOT_IPV4,	/* inner packet that cannot be bound to its sender: not IPv4 */
	REASON_INNER_TAGS,	/* a VLAN tag inside the tunnel */

	/* Always dropped. */
	REASON_SPOOFED_LOCAL,	/* from outside, with a source address that is ours */
	REASON_NESTED_TUNNEL,	/* an inner packet to the tunnel port of what may be this host: of all but pods */
	REASON_MALFORMED,	/* an IP header that cannot be read */
	REASON_SPOOFED_SOURCE,	/* a pod sends from an address that is not its own */
	REASON_TUNNEL_FROM_POD, /* a pod sends to the tunnel port of a node */
	REASON_POD_TAGS,	/* a pod sends or receives more than two VLAN tags */
	REASON_NO_HEADROOM,	/* the outer headers could not be removed */
	REASON_COUNT,
};
