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

static __always_inline __u32 image_known(const struct image_header *image, __u32 identity)
{
	return identity < image->identity_count ? identity : 0;
}

static __always_inline __u16 image_peer_class(const struct image_header *image, __u32 identity)
{
	return image_u16(image, image->identities + image_known(image, identity) * sizeof(__u16));
}

/* Where the row of a local pod's identity is; 0: no policy selects it. */
static __always_inline __u32 image_row_of(const struct image_header *image, __u32 identity, __u32 direction)
{
	return image_u32(image, image->subjects + image_known(image, identity) * sizeof(struct image_subject) +
				(direction & 1) * sizeof(__u32));
}

static __always_inline __u16 image_port_class(const struct image_header *image, __u8 protocol, __u16 port)
{
	__u64 raw = image_u64(image, image->protocols + protocol * sizeof(__u64));
	__u32 base = (__u32)raw, mask = raw >> 32;

	return image_u16(image, image->classes + (base + (port & mask)) * sizeof(__u16));
}

/* The cell of row (not 0) for a peer class and a port class. */
static __always_inline __u16 image_cell(const struct image_header *image, __u32 row, __u16 peer, __u16 port_class)
{
	__u64 lists = image_u64(image, row), table = image_u64(image, row + sizeof(__u64));
	__u32 block = image_u32(image, (__u32)lists + peer / IMAGE_BLOCK * sizeof(__u32));
	__u32 column = image_u16(image, (lists >> 32) + port_class * sizeof(__u16));
	__u32 local = image_u16(image, block + peer % IMAGE_BLOCK * sizeof(__u16));

	return image_u16(image, (__u32)table + (local * (__u32)(table >> 32) + column) * sizeof(__u16));
}
