//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * pod_tx and pod_rx, on the host side of each pod's veth: what a pod sends, and every packet that it is about to receive.
 * overlay_tx, on egress of the VXLAN device and the NIC: what leaves with its addresses already translated.
 */
enum { SEES_SERVICES = 1 };

#define AF_INET 2

#include "pod.h"
#include "record.h"
#include "verdict.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/*
 * Upper bits of an skb's tc_index for as long as nobody has judged the backend that will be chosen; the lower ones are the
 * sender's slot. Others who write there put small numbers.
 */
#define CHOOSING 0xb000
_Static_assert(MAX_ENDPOINTS == 1 << 12, "a slot fits below");

static __always_inline int is_choosing(const struct __sk_buff *skb)
{
	return (skb->tc_index & 0xf000) == CHOOSING;
}

/*
 * Does the kernel deliver packets to addr on this host? No table knows all such addresses: those of dummy interfaces, link-
 * local ones, a network's broadcast address. Asked for the tunnel port only.
 */
static __always_inline int is_delivered_here(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {};

	fib.family = AF_INET;
	fib.l4_protocol = p->protocol;
	fib.ipv4_src = bpf_htonl(p->saddr);
	fib.ipv4_dst = bpf_htonl(p->daddr);
	fib.ifindex = skb->ifindex;
	return bpf_fib_lookup(skb, &fib, sizeof(fib), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

/* The tunnel port of a node, this one included: its VXLAN socket listens on all addresses that lead to it. */
static __always_inline int pod_speaks_tunnel(struct __sk_buff *skb, const struct decision *d, const struct packet *p)
{
	struct service *service = NULL;

	if (p->protocol == IPPROTO_UDP && p->fragment != FRAGMENT_LATER)
		service = service_find(p->daddr, p->dport, p->protocol);
	if (service && service->flags & SERVICE_TUNNEL)
		return 1;
	if (!is_tunnel_port(p) || address_is_pod(d->destination))
		return 0;
	if (address_kind(d->destination) != ADDRESS_NONE || is_martian(p->daddr) || p->daddr >= 0xf0000000)
		return 1;
	/* Only at an address that is nobody's does a Service make another port of it. */
	return !service && is_delivered_here(skb, p);
}

/* Egress of the sender, and ingress of the receiver when it is local too. */
static __always_inline enum reason pod_tx_judge(struct __sk_buff *skb, struct decision *d, struct packet *p, __u32 slot)
{
	struct subject sender = {
		.identity = address_identity(d->source),
		.slot = slot,
		.direction = DIRECTION_EGRESS,
		.inserts = 1,
	};
	struct subject receiver = {
		.identity = address_identity(d->destination),
		.slot = address_slot(d->destination),
		.direction = DIRECTION_INGRESS,
		.inserts = 1,
	};
	enum reason reason = judge(d, p, &sender, receiver.identity);
	__u16 rule = d->rule;

	if (!reason_passes(reason))
		return reason;
	if (address_kind(d->destination) == ADDRESS_LOCAL_POD) {
		enum reason other = judge(d, p, &receiver, sender.identity);

		if (!reason_passes(other))
			return other;
		d->rule = rule; /* pod_rx counts the receiver's allow */
		d->direction = DIRECTION_EGRESS;
	}
	if (reason == REASON_SERVICE_MIXED)
		skb->tc_index = CHOOSING | slot;
	else if (skb->tc_index)
		skb->tc_index = 0; /* the pod's own programs may leave anything there */
	if (flow_concerns(d, p, slot, policed(d, sender.identity, DIRECTION_INGRESS), policed(d, sender.identity, DIRECTION_EGRESS)))
		flow_record(d, p, slot, 1, reason == REASON_ALLOWED);
	return reason;
}

static __always_inline enum reason pod_tx_decide(struct __sk_buff *skb, struct decision *d, struct packet *p)
{
	volatile struct endpoint *endpoint;
	__be32 arp_sender = 0;
	__u32 slot = 0;
	enum frame frame;

	d->direction = DIRECTION_EGRESS;
	if (!decision_open(d, skb))
		return REASON_NO_IMAGE;
	endpoint = endpoint_of(skb->ifindex, &slot);
	if (!endpoint)
		return REASON_UNKNOWN_ENDPOINT;
	frame = skb_parse(skb, p, &arp_sender);
	switch (frame) {
	case FRAME_IPV4:
		break;
	case FRAME_ARP:
		return !arp_sender || bpf_ntohl(arp_sender) == endpoint->addr4 ? REASON_NOT_IP : REASON_SPOOFED_SOURCE;
	case FRAME_IPV6:
		return unreadable(d, endpoint->identity, DIRECTION_EGRESS, REASON_IPV6);
	case FRAME_OTHER:
		return unreadable(d, endpoint->identity, DIRECTION_EGRESS, REASON_NOT_IP_ISOLATED);
	case FRAME_TAGS:
		return REASON_POD_TAGS;
	default:
		return REASON_MALFORMED;
	}
	if (!endpoint->addr4 || p->saddr != endpoint->addr4)
		return REASON_SPOOFED_SOURCE;
	d->source = address_lookup(p->saddr);
	d->destination = address_lookup(p->daddr);
	if (pod_speaks_tunnel(skb, d, p))
		return REASON_TUNNEL_FROM_POD;
	return pod_tx_judge(skb, d, p, slot);
}

SEC("tc")
int pod_tx(struct __sk_buff *skb)
{
	struct packet *p = skb_open(skb, HOOK_POD_TX);
	struct decision d = {};

	if (!p)
		return TC_ACT_SHOT; /* cannot be: the array has a slot for every hook */
	return skb_exit(skb, &d, p, HOOK_POD_TX, pod_tx_decide(skb, &d, p));
}

/* A Service address was admitted for only some of its backends: may this pod reach the one that was chosen? */
static __always_inline enum reason chosen_backend(struct __sk_buff *skb, struct decision *d, struct packet *p)
{
	__u32 slot = skb->tc_index;
	struct row row;
	__u16 peer, cell;

	skb->tc_index = 0; /* an encapsulated skb passes the NIC's program again, with other addresses */
	d->direction = DIRECTION_EGRESS;
	row = image_row(d->image, ARRAY_OF(endpoints)[slot & (MAX_ENDPOINTS - 1)].identity, DIRECTION_EGRESS);
	if (!row_policed(row))
		return REASON_NOT_ISOLATED;
	if (p->fragment == FRAGMENT_LATER && !fragment_ports(p))
		return REASON_FRAGMENT;
	peer = image_peer_class(d->image, address_identity(d->destination));
	cell = image_cell(d->image, row, peer, image_port_class(d->image, p->protocol, p->dport));
	d->rule = cell & CELL_RULE;
	if (cell & CELL_ALLOW) {
		if (p->fragment == FRAGMENT_FIRST)
			fragment_remember(p);
		return d->rule ? REASON_ALLOWED : REASON_NOT_ISOLATED;
	}
	return d->rule ? REASON_DENIED_RULE : REASON_DENIED_DEFAULT;
}

static __always_inline enum reason pod_rx_decide(struct __sk_buff *skb, struct decision *d, struct packet *p)
{
	struct subject subject = {.direction = DIRECTION_INGRESS, .from_peer = 1, .inserts = 1};
	volatile struct endpoint *endpoint;
	__be32 arp_sender = 0;
	enum reason reason;
	enum frame frame;

	if (!decision_open(d, skb))
		return REASON_NO_IMAGE;
	endpoint = endpoint_of(skb->ifindex, &subject.slot);
	if (!endpoint)
		return REASON_UNKNOWN_ENDPOINT;
	subject.identity = endpoint->identity;
	frame = skb_parse(skb, p, &arp_sender);
	switch (frame) {
	case FRAME_IPV4:
		break;
	case FRAME_ARP:
		return REASON_NOT_IP;
	case FRAME_IPV6:
		return unreadable(d, subject.identity, DIRECTION_INGRESS, REASON_IPV6);
	case FRAME_OTHER:
		return unreadable(d, subject.identity, DIRECTION_INGRESS, REASON_NOT_IP_ISOLATED);
	case FRAME_TAGS:
		return REASON_POD_TAGS;
	default:
		return REASON_MALFORMED;
	}
	d->source = address_lookup(p->saddr);
	d->destination = address_lookup(p->daddr);
	if (is_choosing(skb)) {
		reason = chosen_backend(skb, d, p);
		if (!reason_passes(reason))
			return reason;
	}
	reason = judge(d, p, &subject, address_identity(d->source));
	if (!reason_passes(reason))
		return reason;
	if (flow_concerns(d, p, subject.slot, policed(d, subject.identity, DIRECTION_EGRESS),
			  policed(d, subject.identity, DIRECTION_INGRESS)))
		flow_record(d, p, subject.slot, 0, reason == REASON_ALLOWED);
	else if (address_kind(d->source) == ADDRESS_LOCAL_POD && policed(d, address_identity(d->source), DIRECTION_INGRESS))
		flow_record(d, p, address_slot(d->source), 1, 0); /* translated since pod_tx saw it */
	return reason;
}

SEC("tc")
int pod_rx(struct __sk_buff *skb)
{
	struct packet *p = skb_open(skb, HOOK_POD_RX);
	struct decision d = {};

	if (!p)
		return TC_ACT_SHOT; /* cannot be: the array has a slot for every hook */
	return skb_exit(skb, &d, p, HOOK_POD_RX, pod_rx_decide(skb, &d, p));
}

static __always_inline enum reason overlay_tx_decide(struct __sk_buff *skb, struct decision *d, struct packet *p)
{
	enum reason reason = REASON_UNTOUCHED;
	__be32 arp_sender = 0;

	d->direction = DIRECTION_EGRESS;
	if (!decision_open(d, skb))
		return REASON_UNTOUCHED; /* most of what passes here is the node's own */
	if (skb_parse(skb, p, &arp_sender) != FRAME_IPV4)
		return REASON_UNTOUCHED;
	d->source = address_lookup(p->saddr);
	d->destination = address_lookup(p->daddr);
	if (address_kind(d->source) == ADDRESS_LOCAL_POD && is_tunnel_port(p) && address_kind(d->destination) != ADDRESS_NONE &&
	    !address_is_pod(d->destination))
		return REASON_TUNNEL_FROM_POD;
	if (is_choosing(skb)) {
		reason = chosen_backend(skb, d, p);
		if (!reason_passes(reason))
			return reason;
	}
	if (address_kind(d->source) == ADDRESS_LOCAL_POD && policed(d, address_identity(d->source), DIRECTION_INGRESS))
		flow_record(d, p, address_slot(d->source), 1, 0);
	return reason;
}

SEC("tc")
int overlay_tx(struct __sk_buff *skb)
{
	struct packet *p = skb_open(skb, HOOK_OVERLAY_TX);
	struct decision d = {};

	if (!p)
		return TC_ACT_UNSPEC; /* cannot be: the array has a slot for every hook */
	return skb_exit(skb, &d, p, HOOK_OVERLAY_TX, overlay_tx_decide(skb, &d, p));
}
