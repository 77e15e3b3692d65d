// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weirnet/weir/policy"
)

// anyNodes joins nodes, lets them leave, and changes them, so that they take over addresses, podCIDRs and slots of each other.
func anyNodes(r *rand.Rand, m *policy.Model) (*policy.Model, policy.Changes) {
	next, c := *m, policy.Changes{}
	next.Nodes = slices.Clone(m.Nodes)
	taken := map[string]bool{}
	for _, n := range m.Nodes {
		taken[n.Underlay[0].String()], taken[n.PodCIDRs[0].String()] = true, true
	}
	name := fmt.Sprintf("node-%d", 4+r.IntN(5)) // no pods are on these
	i := slices.IndexFunc(m.Nodes, func(n policy.Node) bool { return n.Name == name })
	underlay, cidr := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + r.IntN(6))}), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(10 + r.IntN(6)), 0}), 24)
	node := policy.Node{
		Name: name, Underlay: []netip.Addr{underlay}, Overlay: []netip.Addr{cidr.Addr(), cidr.Addr().Next()},
		PodCIDRs: []netip.Prefix{cidr}, VTEPMAC: [6]byte{2, 0, 0, 0, 1, byte(r.IntN(3))}, Direct: r.IntN(3) == 0,
	}
	switch {
	case i >= 0 && r.IntN(3) == 0:
		c.GoneNodes = []string{name}
		next.Nodes = slices.Delete(next.Nodes, i, i+1)
		return &next, c
	case i >= 0:
		was := m.Nodes[i]
		if r.IntN(2) == 0 || taken[underlay.String()] {
			node.Underlay = was.Underlay
		}
		if r.IntN(2) == 0 || taken[cidr.String()] {
			node.PodCIDRs, node.Overlay = was.PodCIDRs, was.Overlay
		}
		next.Nodes[i] = node
	case taken[underlay.String()] || taken[cidr.String()]:
		return &next, c
	default:
		next.Nodes = append(next.Nodes, node)
	}
	c.NodesChanged = []policy.Node{node}
	return &next, c
}

// After any sequence of changes, and whatever time passes meanwhile, tables that only deltas were written into hold what tables
// do that whole plans were written into: what a node has lost holds as long.
func TestDeltasComeToWhatWholePlansDo(t *testing.T) {
	r := newRand(t)
	deltas, lingered := 0, 0
	for range 4 {
		now := newClock()
		byDelta, byWhole := openTables(t, now), openTables(t, now)
		p, m := policy.NewPlanner(), randomModel(r)
		plan := apply(t, byDelta, p, m)
		must(t, byWhole.Apply(context.Background(), plan))
		for step := range 60 {
			change := anyNodes
			if r.IntN(4) == 0 {
				change = func(r *rand.Rand, m *policy.Model) (*policy.Model, policy.Changes) {
					return podChanges(r, m, r.IntN(7))
				}
				if r.IntN(4) == 0 {
					change = serviceChanges
				}
			}
			next, c := change(r, m)
			plan, err := p.PlanChanges(c)
			must(t, err)
			must(t, byDelta.Apply(context.Background(), plan))
			p.Commit(plan)
			if plan.Delta != nil {
				deltas++
			}
			m = next
			whole, err := p.Plan(m)
			must(t, err)
			must(t, byWhole.Apply(context.Background(), &policy.Plan{Interim: plan.Interim, Final: whole.Final, Swap: plan.Swap}))
			if r.IntN(3) == 0 {
				now.now = now.now.Add(time.Duration(r.IntN(40)) * time.Second)
				must(t, byDelta.Tick(now.read()))
				must(t, byWhole.Tick(now.read()))
			}
			lingered += len(byDelta.lingering)
			if a, b := byDelta.addresses.entries.entries, byWhole.addresses.entries.entries; !maps.Equal(a, b) {
				t.Fatalf("step %d: addresses by deltas\n%v\nby whole plans\n%v\nafter %+v", step, a, b, c)
			}
			if a, b := byDelta.lingering, byWhole.lingering; !maps.Equal(a, b) {
				t.Fatalf("step %d: what lingers by deltas\n%v\nby whole plans\n%v\nafter %+v", step, a, b, c)
			}
			if a, b := byDelta.services.have, byWhole.services.have; !maps.Equal(a, b) {
				t.Fatalf("step %d: Services by deltas\n%v\nby whole plans\n%v", step, a, b)
			}
			if a, b := byDelta.endpoints.used(), byWhole.endpoints.used(); len(a) != len(b) {
				t.Fatalf("step %d: %d endpoints by deltas, %d by whole plans", step, len(a), len(b))
			}
			for slot := range uint16(32) {
				a, b := byDelta.nodes.get(slot), byWhole.nodes.get(slot)
				slices.Sort(a.Underlay4[:]) // a shortcut that ended leaves a gap
				slices.Sort(b.Underlay4[:])
				if a.Predecessor > 0 && b.Predecessor > 0 { // of several nodes that it took over from, any one
					b.Predecessor = a.Predecessor
				}
				if a != b {
					t.Fatalf("step %d: node %d by deltas\n%+v\nby whole plans\n%+v\nafter %+v", step, slot, a, b, c)
				}
			}
		}
	}
	if deltas < 100 || lingered < 50 {
		t.Errorf("only %d deltas, %d lingering addresses", deltas, lingered)
	}
}
