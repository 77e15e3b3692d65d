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

/* A struct image_row in two registers. */
struct row {
	__u64 lists; /* blocks, ports << 32 */
	__u64 table; /* cells, columns << 32 */
};

enum plane {
	PLANE_ENFORCED, /* what policies say that are not under audit */
	PLANE_AUDITED,	/* what all say */
};

static __always_inline struct row image_plane_row(const struct image_header *image, __u32 plane, __u32 identity, __u32 direction)
{
	__u32 at = (plane == PLANE_AUDITED ? image->audited : image->subjects) +
		   image_known(image, identity) * sizeof(struct image_subject) + (direction & 1) * sizeof(struct image_row);

	return (struct row){.lists = image_u64(image, at), .table = image_u64(image, at + sizeof(__u64))};
}

/* The row of a local pod's identity. */
static __always_inline struct row image_row(const struct image_header *image, __u32 identity, __u32 direction)
{
	return image_plane_row(image, PLANE_ENFORCED, identity, direction);
}

/* Is any policy under audit that selects a pod of this node? */
static __always_inline int image_is_audited(const struct image_header *image)
{
	return image->audited != image->subjects;
}

/* Does some policy select the pods that have this row, be it under audit? Then flows are kept. */
static __always_inline int row_policed(struct row row)
{
	return row.table >> 32 != 0;
}

/* Does some policy of the row's own plane? A row of the audited plane never has ROW_AUDIT. */
static __always_inline int row_enforced(struct row row)
{
	return (__s64)row.table >> 32 > 0;
}

static __always_inline __u16 image_port_class(const struct image_header *image, __u8 protocol, __u16 port)
{
	__u64 raw = image_u64(image, image->protocols + protocol * sizeof(__u64));
	__u32 base = (__u32)raw, mask = raw >> 32;

	return image_u16(image, image->classes + (base + (port & mask)) * sizeof(__u16));
}

/*
 * The cell of a policed row for a peer class and a port class. ROW_AUDIT does no harm: twice its multiples are beyond 32
 * bits.
 */
static __always_inline __u16 image_cell(const struct image_header *image, struct row row, __u16 peer, __u16 port_class)
{
	__u32 block = image_u32(image, (__u32)row.lists + peer / IMAGE_BLOCK * sizeof(__u32));
	__u32 column = image_u16(image, (row.lists >> 32) + port_class * sizeof(__u16));
	__u32 local = image_u16(image, block + peer % IMAGE_BLOCK * sizeof(__u16));

	return image_u16(image, (__u32)row.table + (local * (__u32)(row.table >> 32) + column) * sizeof(__u16));
}
