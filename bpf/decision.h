/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program knows while it decides: one struct, filled stage by stage, read once at the packet's only door.
 */
#pragma once

#include "address.h"
#include "lookup.h"
#include "packet.h"

struct decision {
	void *ctx; /* of the program, for helpers that ask for it */
	const struct image_header *image;
	__u64 now_ns; /* coarse; 0: nobody has asked yet */
	__u64 source; /* address entries of the packet that is judged */
	__u64 destination;
	__u16 rule;	 /* that decided; 0: none; and CELL_AUDIT, if the audited plane must be asked */
	__u8 direction;	 /* that was judged last */
	__u8 violation;	 /* enum reason: what observe mode noticed on the way */
	__u32 half; /* of the slot, where image is */
};

/* The image in half of the slot is what all stages see. 0: there never was one. */
static __always_inline int decision_use(struct decision *d, void *ctx, __u32 half)
{
	d->ctx = ctx;
	d->half = half;
	d->image = image_at(half);
	return d->image->magic == IMAGE_MAGIC;
}

/* Reads which half is live: once per packet. */
static __always_inline int decision_open(struct decision *d, void *ctx)
{
	return decision_use(d, ctx, ARRAY_OF(state)->image);
}

/* The clock costs more than a verdict (8 ns against return thunks): only flows need it. */
static __always_inline __u64 now_ns(struct decision *d)
{
	if (!d->now_ns)
		d->now_ns = bpf_ktime_get_coarse_ns();
	return d->now_ns;
}
