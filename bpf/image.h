/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What does policy say about this pair of identities and this port?
 *
 * The image has image_mask8 + 8 bytes (config.h), a power of two; two of them lie in one array element. It is immutable while a program can see it.
 * All offsets count bytes from its start and are aligned to what they point at; masking them is what the verifier wants,
 * not what makes them right: the compiler and the checksum do that. policy/image.go is the same layout in Go.
 *
 * The chain (recursive flow classification: Gupta and McKeown, SIGCOMM 1999):
 *   identity                → u16 peer class, and image_subject {rows}: two tables, since all are peers and few are subjects
 *   protocol, port          → image_protocol → u16 port class
 *   row, port class         → u16 port class local to the row
 *   row, peer class / 32    → block;   block, peer class % 32 → peer class local to the row
 *   row, local peer class, local port class → cell
 *
 * Policies under audit enforce nothing. The enforced plane is what the others say, the audited plane what all say together;
 * each has its table of subjects, and while no policy is under audit the two are the same table. Where they differ, the
 * cells of the enforced plane say so: the audited one is read only there.
 */
#pragma once

#include "maps.h"

#define IMAGE_MAGIC 0x52494557 /* "WEIR" */
#define IMAGE_BLOCK 32 /* a block is one cache line */

/*
 * Cells. Rule 0 is "no rule": the default of an isolated (deny) or not isolated (allow) pod. CELL_AUDIT means that the audited
 * plane denies, in a cell of the enforced plane that allows; and in a cell of the audited plane that denies, that no rule
 * does: the number is then that of the isolation by a policy under audit.
 */
#define CELL_ALLOW 0x8000
#define CELL_AUDIT 0x4000
#define CELL_RULE 0x3fff

struct image_header {
	__u32 magic;
	__u32 abi;
	__u32 generation;
	__u32 size;	  /* bytes in use, the header included */
	__u32 identities; /* offset of the u16 peer classes[identity_count]; number 0 stands for every unknown one */
	__u32 identity_count;
	__u32 protocols; /* offset of image_protocol[256] */
	__u32 classes;	 /* offset of the u16 port classes that image_protocol.base indexes */
	__u32 subjects;	 /* offset of image_subject[identity_count] */
	__u32 row_count; /* of different rows that are not empty, for people */
	__u32 keys; /* offset and length of what only user space reads: the names of the numbers */
	__u32 keys_len;
	__u32 checksum; /* CRC-32C of bytes 0..size with this field 0 */
	__u32 audited;	/* offset of the audited plane's image_subject[identity_count]: subjects, if no policy is under audit */
	__u32 reserved[2];
};
_Static_assert(sizeof(struct image_header) == 64, "image_header is ABI");

/* Port class of (protocol, port) = classes[base + (port & mask)]. ICMP: port is the type. Others: mask 0. */
struct image_protocol {
	__u32 base; /* index, not bytes */
	__u32 mask;
};

struct image_row {
	__u32 blocks;  /* offset of u32[peer classes / 32]: offsets of blocks, which are u16[32]: local peer classes */
	__u32 ports;   /* offset of u16[port classes]: local port classes */
	__u32 cells;   /* offset of the u16 cells, by local peer class * columns + local port class */
	__u32 columns; /* local port classes; 0: no policy selects the identity, or no pod of this node has it; and ROW_AUDIT */
};

/* Only policies under audit select the identity: its cells allow, but flows are kept as for any other. */
#define ROW_AUDIT 0x80000000U

struct image_subject {
	struct image_row rows[DIRECTION_COUNT]; /* by enum direction */
};
_Static_assert(sizeof(struct image_subject) == 32, "image_subject is ABI");
