/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which knobs does the agent turn before it loads the programs?
 *
 * Constants to the verifier: code behind a knob that is off is never translated. Defaults are those of the flags.
 */
#pragma once

#include <linux/types.h>

/* UDP port of the overlay, host order. Linux, and flannel with it, uses 8472. */
volatile const __u16 vxlan_port = 8472;
/* The same as it stands in a header. */
volatile const __be16 vxlan_port_wire = 0x1821;
/* VXLAN network identifier, 24 bits. flannel: 1. */
volatile const __u32 vxlan_vni = 1;
/* 1: any identifier is ours: Cilium sends the sender's identity in its place. 0: only vxlan_vni. */
volatile const __u8 vxlan_any_vni = 0;
/* 1: a frame may lie in several buffers, as jumbo frames do. 0: one holds all of it, and the program is loaded for that. */
volatile const __u8 xdp_frags = 0;
/* 1: drop violations of the overlay check. 0: count them as observed and go on. */
volatile const __u8 spoof_enforce = 1;
/* 1: remove the outer headers of allowed pod traffic in XDP. 0: leave that to the kernel's vxlan device. */
volatile const __u8 decap_strip = 0;
/* 1: drop what is addressed to our podCIDR where no pod is known. 0: pass and count it. */
volatile const __u8 unknown_endpoint_drop = 0;
/* Offsets into a policy image by the size of what is there: its bytes minus that size. Set from the maps. */
volatile const __u32 image_mask8 = (16 << 20) - 8;
volatile const __u32 image_mask4 = (16 << 20) - 4;
volatile const __u32 image_mask2 = (16 << 20) - 2;
/* Offsets of blocks in the pool: its bytes minus those of a block. Set from the map. */
volatile const __u32 addr4_mask = (2 << 20) - 2048;
/* VXLAN flags and vxlan_vni as they stand in the header. */
volatile const __u64 vxlan_header = 0x0001000000000008;
/* A pod may own this many assured flows. */
volatile const __u32 flows_per_pod = 262144 / 8;
/* Shortest time between two events of the same counter on one CPU, jiffies. 0: every packet, for tests. */
volatile const __u64 event_interval = 32;
