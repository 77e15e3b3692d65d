/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program knows while it decides: one struct, filled stage by stage, read once at the packet's only door.
 */
#pragma once

#include "address.h"
#include "lookup.h"
#include "packet.h"

struct decision {
	const struct image_header *image;
	const struct shared_state *shared;
	__u64 now_ns; /* coarse */
	__u64 source; /* address entries of the packet that is judged */
	__u64 destination;
	__u16 rule;	 /* that decided; 0: none */
	__u8 direction;	 /* that was judged last */
	__u8 violation;	 /* enum reason: what observe mode noticed on the way */
	__u32 generation;
};

/* The tables every stage reads, once per packet: all stages see one image. */
static __always_inline int decision_open(struct decision *d)
{
	__u32 zero = 0;

	d->shared = bpf_map_lookup_elem(&state, &zero);
	d->image = image_get();
	d->now_ns = bpf_ktime_get_coarse_ns();
	if (!d->shared || !d->image)
		return 0;
	d->generation = d->image->generation;
	return 1;
}
