/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which tables do the programs read with plain loads?
 *
 * Each is an array map of one element that holds the whole table, mmap-able by the agent. To the programs it is a data
 * section: its address is a constant, so that an access costs neither a lookup nor a check for NULL. The sections here are
 * stubs; the loader puts the shared map in the place of section .data.NAME, and the map's size bounds what may be read.
 */
#pragma once

#include "config.h"
#include "image.h"
#include "maps.h"

#define ARRAY(name, type) type name##_stub[2] SEC(".data." #name)

/* The table's address, of which clang must not conclude how long the stub is. */
#define ARRAY_OF(name)                                                          \
	({                                                                      \
		volatile typeof(name##_stub[0]) *__table = name##_stub;         \
		asm volatile("" : "+r"(__table));                               \
		__table;                                                        \
	})

/* Trie of IPv4 addresses, strides 16-8-8: ADDR4_ROOT entries, and the pool of blocks, a power of two of them. */
ARRAY(addr4, __u64);
ARRAY(addr4_blocks, __u64);

/* Two policy images (image.h) of image_mask8 + 8 bytes; state.image says which one is live. Bytes, set at load. */
ARRAY(policy, struct image_header);

ARRAY(endpoints, struct endpoint); /* MAX_ENDPOINTS */
ARRAY(nodes, struct node);	   /* MAX_NODES */
ARRAY(state, struct shared_state); /* one */

/*
 * Says in one load that no flow hashes here, so that a denied segment costs no hash lookup. Two halves of
 * FLOW_FILTER_WORDS words; inserts set their bit in both, the agent's sweep empties and refills the half that is not
 * read and then flips state.flow_filter.
 */
ARRAY(flow_filter, __u64);

/* One bit for each word of flow_filter that is not zero: small enough to stay in the fastest cache. Two halves, likewise. */
ARRAY(flow_summary, __u64);

/* Assured flows by owning endpoint slot: counted up by the programs, recounted by the sweep. MAX_ENDPOINTS. */
ARRAY(flow_counts, __u64);
