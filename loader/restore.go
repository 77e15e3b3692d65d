// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"

	"github.com/weirnet/weir/policy"
)

// Addresses returns who the programs take each address for: what a restarted agent's planner goes on from.
func (t *Tables) Addresses() []policy.Address {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]policy.Address, 0, len(t.addresses.entries.entries))
	for p, e := range t.addresses.entries.entries {
		out = append(out, policy.Address{
			Prefix: netip.PrefixFrom(netip.AddrFrom4(p.wire()), p.bits()), Identity: e.identity(), Kind: e.kind(),
			Flags: policy.AddressFlags(e >> 28 & 0xf), Slot: e.slot(), Tenancy: e.tenancy(),
		})
	}
	return out
}
