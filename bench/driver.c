//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * drive: gives each run of BPF_PROG_TEST_RUN another packet, then calls the program under test.
 *
 * The kernel hands one buffer to all runs of a batch; one repeated packet would say nothing about caches or about how
 * costs grow. So drive writes the next step's addresses, port and TCP flags into the buffer before the tail call. The
 * baseline is drive with an empty program behind it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define STEPS 8192

/* Offsets in Ethernet, IPv4, UDP, VXLAN, Ethernet, IPv4, TCP without options or tags. */
#define OUTER_SADDR 26
#define INNER_SMAC 56
#define INNER_SADDR 76
#define INNER_DADDR 80
#define INNER_DPORT 86
#define INNER_FLAGS 97
#define FRAME_LEN 104

/* Small, so that the driver's own tables leave the caches to the program under test. */
struct step {
	__u8 inner_saddr[4];
	__u8 inner_daddr[4];
	__u8 inner_dport[2];
	__u8 flags;
	__u8 sender; /* index into senders */
	__u8 pad[4];
} __attribute__((aligned(8)));

#define SENDERS 32

struct sender {
	__u8 outer_saddr[4];
	__u8 pad[4];
	__u8 inner_smac[8]; /* and the EtherType */
} __attribute__((aligned(8)));

/* One store of the width that the program under test loads: a load across narrower stores would wait for the cache. */
#define WRITE(offset, type, field) (*(type *)(packet + (offset)) = *(type *)(field))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SENDERS);
	__type(key, __u32);
	__type(value, struct sender);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STEPS);
	__type(key, __u32);
	__type(value, struct step);
} steps SEC(".maps");

/* Where the batch is: one run at a time, so no atomics. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cursor SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

SEC("xdp")
int drive(struct xdp_md *ctx)
{
	__u8 *packet = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, at;
	__u64 *next = bpf_map_lookup_elem(&cursor, &zero);
	struct sender *sender;
	struct step *step;

	if (!next || packet + FRAME_LEN > end)
		return XDP_ABORTED;
	at = (*next)++ % STEPS;
	step = bpf_map_lookup_elem(&steps, &at);
	if (!step)
		return XDP_ABORTED;
	at = step->sender;
	sender = bpf_map_lookup_elem(&senders, &at);
	if (!sender)
		return XDP_ABORTED;
	WRITE(OUTER_SADDR, __u32, sender->outer_saddr);
	WRITE(INNER_SMAC, __u64, sender->inner_smac);
	WRITE(INNER_SADDR, __u32, step->inner_saddr);
	WRITE(INNER_DADDR, __u32, step->inner_daddr);
	WRITE(INNER_DPORT, __u16, step->inner_dport);
	packet[INNER_FLAGS] = step->flags;
	bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int empty(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}
