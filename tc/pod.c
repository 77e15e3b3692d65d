//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * pod_tx and pod_rx, on the host side of each pod's veth: what a pod sends, and every packet that it is about to receive.
 * overlay_tx, on egress of the VXLAN device and the NIC: what leaves with its addresses already translated.
 */
enum { SEES_SERVICES = 1 };
enum { COUNTS_ALLOWS = 1 };

#define AF_INET 2

#include "pod.h"
#include "record.h"
#include "audit.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/*
 * Upper bits of an skb's tc_index for as long as nobody has judged the backend that will be chosen, by the enforced plane or
 * by the audited one; the lower ones are the sender's slot. Others who write there put small numbers.
 */
#define CHOOSING 0x8000
#define CHOOSING_ENFORCED 0x1000
#define CHOOSING_AUDITED 0x2000
_Static_assert(MAX_ENDPOINTS == 1 << 12, "a slot fits below");

static __always_inline int is_choosing(const struct __sk_buff *skb)
{
	return (skb->tc_index & 0xc000) == CHOOSING && skb->tc_index & (CHOOSING_ENFORCED | CHOOSING_AUDITED);
}

/*
 * Does the kernel deliver packets to addr on this host? No table knows all such addresses: those of dummy interfaces, link-
 * local ones, a network's broadcast address. Asked for the tunnel port only.
 */
static __noinline int is_delivered_here(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup fib = {};

	if (!p)
		return 1;
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
		service = service_find(p->daddr, p->dport, p->protocol, serves_node_ports(d->destination));
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
	__u32 choosing = reason == REASON_SERVICE_MIXED ? CHOOSING_ENFORCED | CHOOSING_AUDITED : 0;
	int denied = 0, answer;
	__u16 rule = d->rule;

	if (!reason_passes(reason))
		return reason;
	if (address_kind(d->destination) == ADDRESS_LOCAL_POD) {
		enum reason other = judge(d, p, &receiver, sender.identity);

		if (!reason_passes(other))
			return other;
		/* pod_rx counts the receiver's allow, and what would have been none. */
		if (d->rule & CELL_AUDIT)
			denied = audit_judge(skb, p, receiver.slot, d->half,
					     AUDIT_HOW(HOOK_POD_RX, DIRECTION_INGRESS, 0) | AUDIT_QUIET) & AUDIT_DENIES;
		d->rule = rule;
		d->direction = DIRECTION_EGRESS;
	}
	if (rule & CELL_AUDIT) {
		answer = audit_judge(skb, p, slot, d->half, AUDIT_HOW(HOOK_POD_TX, DIRECTION_EGRESS, 0));
		choosing &= CHOOSING_ENFORCED;
		choosing |= (answer & AUDIT_CHOOSING) * (CHOOSING_AUDITED / AUDIT_CHOOSING);
		denied |= answer & AUDIT_DENIES;
	}
	if (choosing)
		skb->tc_index = CHOOSING | choosing | slot;
	else if (skb->tc_index)
		skb->tc_index = 0; /* the pod's own programs may leave anything there */
	if (flow_concerns(d, p, slot, kept(d, sender.identity, DIRECTION_INGRESS, denied),
			  kept(d, sender.identity, DIRECTION_EGRESS, denied)))
		flow_record(d, p, slot, 1, ruled(d, p, sender.identity, receiver.identity, DIRECTION_EGRESS, reason));
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
		return unreadable(skb, d, p, slot, DIRECTION_EGRESS, HOOK_POD_TX, REASON_IPV6);
	case FRAME_OTHER:
		return unreadable(skb, d, p, slot, DIRECTION_EGRESS, HOOK_POD_TX, REASON_NOT_IP_ISOLATED);
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

/*
 * A Service address was admitted for only some of its backends: may the pod, whose slot is left in sender, reach the one
 * that was chosen? REASON_UNTOUCHED: only the audited plane asks that.
 */
static __always_inline enum reason chosen_backend(struct __sk_buff *skb, struct decision *d, struct packet *p, __u32 *sender)
{
	__u32 tag = skb->tc_index;
	struct row row;
	__u16 peer, cell;

	skb->tc_index = 0; /* an encapsulated skb passes the NIC's program again, with other addresses */
	d->direction = DIRECTION_EGRESS;
	*sender = tag & (MAX_ENDPOINTS - 1);
	row = image_row(d->image, ARRAY_OF(endpoints)[*sender].identity, DIRECTION_EGRESS);
	if (!row_policed(row))
		return tag & CHOOSING_ENFORCED ? REASON_NOT_ISOLATED : REASON_UNTOUCHED;
	if (p->fragment == FRAGMENT_LATER && !fragment_ports(p)) {
		if (tag & CHOOSING_ENFORCED && row_enforced(row))
			return REASON_FRAGMENT;
		doubt(d, (tag & CHOOSING_AUDITED) * (CELL_AUDIT / CHOOSING_AUDITED));
		return tag & CHOOSING_ENFORCED ? REASON_NOT_ISOLATED : REASON_UNTOUCHED;
	}
	peer = image_peer_class(d->image, address_identity(d->destination));
	cell = image_cell(d->image, row, peer, image_port_class(d->image, p->protocol, p->dport));
	if (tag & CHOOSING_ENFORCED && !(cell & CELL_ALLOW)) {
		d->rule = cell & CELL_RULE;
		return d->rule ? REASON_DENIED_RULE : REASON_DENIED_DEFAULT;
	}
	if (p->fragment == FRAGMENT_FIRST)
		fragment_remember(p);
	/* Both of the cell's bits: CELL_ALLOW is the next one above CELL_AUDIT. */
	doubt(d, (tag & CHOOSING_AUDITED) * (CELL_AUDIT / CHOOSING_AUDITED) & cell & cell >> 1);
	if (!(tag & CHOOSING_ENFORCED))
		return REASON_UNTOUCHED;
	d->rule |= cell & CELL_RULE;
	return cell & CELL_RULE ? REASON_ALLOWED : REASON_NOT_ISOLATED;
}

static __always_inline enum reason pod_rx_decide(struct __sk_buff *skb, struct decision *d, struct packet *p)
{
	struct subject subject = {.direction = DIRECTION_INGRESS, .from_peer = 1, .inserts = 1};
	volatile struct endpoint *endpoint;
	__be32 arp_sender = 0;
	enum reason reason;
	enum frame frame;
	__u32 sender = 0;
	__u16 chosen = 0;
	int denied = 0;

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
		return unreadable(skb, d, p, subject.slot, DIRECTION_INGRESS, HOOK_POD_RX, REASON_IPV6);
	case FRAME_OTHER:
		return unreadable(skb, d, p, subject.slot, DIRECTION_INGRESS, HOOK_POD_RX, REASON_NOT_IP_ISOLATED);
	case FRAME_TAGS:
		return REASON_POD_TAGS;
	default:
		return REASON_MALFORMED;
	}
	d->source = address_lookup(p->saddr);
	d->destination = address_lookup(p->daddr);
	if (is_choosing(skb)) {
		reason = chosen_backend(skb, d, p, &sender);
		if (!reason_passes(reason))
			return reason;
		chosen = d->rule;
	}
	reason = judge(d, p, &subject, address_identity(d->source));
	if (!reason_passes(reason))
		return reason;
	if (chosen & CELL_AUDIT)
		denied = audit_judge(skb, p, sender, d->half, AUDIT_HOW(HOOK_POD_RX, DIRECTION_EGRESS, 0) | AUDIT_CHOSEN) & AUDIT_DENIES;
	else
		denied = audit_denied_sender(skb, d, p);
	if (d->rule & CELL_AUDIT)
		denied |= audit_judge(skb, p, subject.slot, d->half, AUDIT_HOW(HOOK_POD_RX, DIRECTION_INGRESS, 0)) & AUDIT_DENIES;
	if (flow_concerns(d, p, subject.slot, kept(d, subject.identity, DIRECTION_EGRESS, denied),
			  kept(d, subject.identity, DIRECTION_INGRESS, denied)))
		flow_record(d, p, subject.slot, 0,
			    ruled(d, p, subject.identity, address_identity(d->source), DIRECTION_INGRESS, reason));
	else if (address_kind(d->source) == ADDRESS_LOCAL_POD && kept(d, address_identity(d->source), DIRECTION_INGRESS, denied))
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
	__u32 sender = 0;
	int denied = 0;

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
		reason = chosen_backend(skb, d, p, &sender);
		if (!reason_passes(reason))
			return reason;
		if (d->rule & CELL_AUDIT)
			denied = audit_judge(skb, p, sender, d->half,
					     AUDIT_HOW(HOOK_OVERLAY_TX, DIRECTION_EGRESS, 0) | AUDIT_CHOSEN) & AUDIT_DENIES;
	} else {
		denied = audit_denied_sender(skb, d, p);
	}
	if (address_kind(d->source) == ADDRESS_LOCAL_POD && kept(d, address_identity(d->source), DIRECTION_INGRESS, denied))
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
