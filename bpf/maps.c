//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps-only object: bpf2go emits every shared type once, from here. */
#include "image.h"
#include "flow.h"

/* The arrays of arrays.h. Each is one element, so that it can take a data section's place. */
#define ARRAY_MAP(name, bytes)                          \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_ARRAY);       \
		__uint(map_flags, BPF_F_MMAPABLE);      \
		__uint(max_entries, 1);                 \
		__uint(key_size, sizeof(__u32));        \
		__uint(value_size, bytes);              \
	} name SEC(".maps")

ARRAY_MAP(addr4, ADDR4_ROOT * sizeof(__u64));
ARRAY_MAP(addr4_blocks, 1024 * ADDR4_BLOCK * sizeof(__u64)); /* set at load */
ARRAY_MAP(policy, 2 * DEFAULT_IMAGE_BYTES); /* set at load */
ARRAY_MAP(endpoints, MAX_ENDPOINTS * sizeof(struct endpoint));
ARRAY_MAP(nodes, MAX_NODES * sizeof(struct node));
ARRAY_MAP(state, sizeof(struct shared_state));
ARRAY_MAP(flow_filter, 2 * FLOW_FILTER_WORDS * sizeof(__u64));
ARRAY_MAP(flow_summary, 2 * FLOW_SUMMARY_WORDS * sizeof(__u64));
ARRAY_MAP(flow_counts, MAX_ENDPOINTS * sizeof(__u64));

char _license[] SEC("license") = "Dual BSD/GPL";

/* Types that no map names, and enums, are emitted for these members. */
struct exported {
	struct image_header header;
	struct image_subject subject;
	struct image_protocol protocol;
	struct image_row row;
	struct event event;
	struct endpoint endpoint;
	struct node node;
	struct shared_state shared_state;
	enum hook hook;
	enum direction direction;
	enum verdict verdict;
	enum reason reason;
	enum address_kind kind;
};
struct exported exported SEC(".data.exported");
