// SPDX-License-Identifier: Apache-2.0

// Package policy turns a model of a cluster into what a node's datapath enforces: an immutable image that answers "what
// does policy say about this pair of identities and this port?" in a constant number of loads, and the tables that lead
// from an address to an identity. It knows neither Kubernetes nor the kernel.
//
// # The image
//
// All numbers are little endian; offsets count bytes from the image's start and are aligned to what they point at.
// bpf/image.h is the same layout in C.
//
//	header, 64 bytes of u32
//	   0  magic "WEIR"        4  ABI                8  generation        12  size, the header included
//	  16  → identities       20  identity count    24  → protocols      28  → port classes
//	  32  → subjects         36  row count         40  → keys           44  length of keys
//	  48  CRC-32C of all bytes, this field 0       52  reserved, three
//	identities  u16 peer class, by number; an undefined number, and every number past the end, is number 0: unknown, which
//	            only what matches everything matches
//	subjects    a row at ingress and one at egress, by identity number: one pod's policy in one direction,
//	            {u32 → block list, u32 → ports, u32 → cells, u32 columns}; columns 0: no policy selects the identity, or no
//	            pod of this node has it
//	protocols   256 × {u32 base, u32 mask}: the port class of a port is classes[base + (port & mask)]
//	classes     u16; ports that no rule tells apart are one class. For ICMP the port is the type; a protocol that no rule
//	            names has mask 0 and one class
//	ports       u16 by port class: the port class local to the row
//	block list  u32 by peer class / 32: → block
//	block       32 × u16 by peer class % 32: the peer class local to the row; a cache line
//	cells       u16 at [local peer class × columns + local port class]: bit 15 allow, bits 0-13 the number of the rule that
//	            decided
//	keys        user space only: DEFLATE of JSON objects (struct keys), whose lists together name every number and hold the policies
//	            the image was compiled from: enough for a Planner to go on where another stopped
//
// Equal port tables, block lists, blocks and tables of cells are stored once.
//
// Rule 0 stands for no rule: the default. Rule 1 is the node's standing permission to reach its own pods. Rules get
// numbers when they select a pod of this node; past 16,381 of them, the rest share number 16383.
package policy
