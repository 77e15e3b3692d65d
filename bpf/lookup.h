/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What does the image say? The chain of loads that image.h describes; policy.Image.Lookup is the same chain in Go.
 */
#pragma once

#include "arrays.h"

static __always_inline __u64 image_u64(const void *image, __u32 offset)
{
	return *(const __u64 *)(image + (offset & image_mask8));
}

static __always_inline __u32 image_u32(const void *image, __u32 offset)
{
	return *(const __u32 *)(image + (offset & image_mask4));
}

static __always_inline __u16 image_u16(const void *image, __u32 offset)
{
	return *(const __u16 *)(image + (offset & image_mask2));
}

/* The image in one half of the slot. It stays whole for as long as a program runs that has read state.image. */
static __always_inline const struct image_header *image_at(__u32 half)
{
	return (const void *)ARRAY_OF(policy) + (half & 1) * ((__u64)image_mask8 + 8);
}

/* struct image_identity as one 8-byte load, taken apart by shifts: as a struct in memory the verifier lost track of it. */
static __always_inline __u64 image_identity(const struct image_header *image, __u32 identity)
{
	if (identity >= image->identity_count)
		identity = 0;
	return image_u64(image, image->identities + identity * sizeof(__u64));
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
	__u64 raw = image_u64(image, image->protocols + protocol * sizeof(__u64));
	__u32 base = (__u32)raw, mask = raw >> 32;

	return image_u16(image, image->classes + (base + (port & mask)) * sizeof(__u16));
}

/* The cell of row (not 0) for a peer class and a port class. */
static __always_inline __u16 image_cell(const struct image_header *image, __u16 row, __u16 peer, __u16 port_class)
{
	__u32 at = image->rows + row * sizeof(struct image_row);
	__u64 lists = image_u64(image, at), table = image_u64(image, at + sizeof(__u64));
	__u32 block = image_u32(image, (__u32)lists + peer / IMAGE_BLOCK * sizeof(__u32));
	__u32 column = image_u16(image, (lists >> 32) + port_class * sizeof(__u16));
	__u32 local = image_u16(image, block + peer % IMAGE_BLOCK * sizeof(__u16));

	return image_u16(image, (__u32)table + (local * (__u32)(table >> 32) + column) * sizeof(__u16));
}
