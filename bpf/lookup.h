/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What does the image say? The chain of loads that image.h describes; policy.Image.Lookup is the same chain in Go.
 */
#pragma once

#include "config.h"
#include "image.h"

#define IMAGE_AT(image, offset, type) (*(type *)((void *)(image) + ((offset) & (image_mask & ~(__u32)(sizeof(type) - 1)))))

static __always_inline struct image_header *image_get(void)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&policy, &zero);

	return inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
}

/* struct image_identity as one 8-byte load, taken apart by shifts: as a struct in memory the verifier lost track of it. */
static __always_inline __u64 image_identity(const struct image_header *image, __u32 identity)
{
	if (identity >= image->identity_count)
		identity = 0;
	return IMAGE_AT(image, image->identities + identity * sizeof(__u64), __u64);
}

static __always_inline __u16 identity_class(__u64 identity)
{
	return identity;
}

static __always_inline __u16 identity_row(__u64 identity, __u32 direction)
{
	return identity >> (16 + 16 * (direction & 1));
}

static __always_inline __u16 image_port_class(const struct image_header *image, __u8 protocol, __u16 port)
{
	__u64 raw = IMAGE_AT(image, image->protocols + protocol * sizeof(__u64), __u64);
	__u32 base = (__u32)raw, mask = raw >> 32;

	return IMAGE_AT(image, image->classes + (base + (port & mask)) * sizeof(__u16), __u16);
}

/* The cell of row (not 0) for a peer class and a port class. */
static __always_inline __u16 image_cell(const struct image_header *image, __u16 row, __u16 peer, __u16 port_class)
{
	__u64 raw = IMAGE_AT(image, image->rows + row * sizeof(__u64), __u64);
	__u32 blocks = (__u32)raw, ports = raw >> 32;
	__u32 block = IMAGE_AT(image, blocks + peer / IMAGE_BLOCK * sizeof(__u32), __u32);
	__u32 set = IMAGE_AT(image, block + peer % IMAGE_BLOCK * sizeof(__u32), __u32);
	__u32 local = IMAGE_AT(image, ports + port_class * sizeof(__u16), __u16);

	return IMAGE_AT(image, set + local * sizeof(__u16), __u16);
}
