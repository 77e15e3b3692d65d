//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The maps-only object: bpf2go emits every shared type once, from here. */
#include "image.h"
#include "flow.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Types that no map names, and enums, are emitted for these members. */
struct exported {
	struct image_header header;
	struct image_identity identity;
	struct image_protocol protocol;
	struct image_row row;
	struct event event;
	enum hook hook;
	enum direction direction;
	enum verdict verdict;
	enum reason reason;
	enum address_kind kind;
};
struct exported exported SEC(".data.exported");
