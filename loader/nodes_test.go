// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// Old and new facts of a node both hold for the grace period, and then only the new ones; a process that takes over grants
// no less.
func TestNodeFactsOverlap(t *testing.T) {
	c := newClock()
	tables, p, m := openTables(t, c), policy.NewPlanner(), twoNodes()
	slot := func(plan *policy.Plan, name string) uint16 {
		for _, n := range plan.Final.Nodes {
			if n.Name == name {
				return n.Slot
			}
		}
		t.Fatalf("no node %s", name)
		return 0
	}
	two := slot(apply(t, tables, p, m), "node-2")
	node := func() bpf.Node { return tables.nodes.get(two) }
	if n := node(); n.VtepMac != [6]byte{2, 0, 0, 0, 0, 2} || n.Flags != bpf.NodeMACKnown {
		t.Fatalf("node-2 is %+v", n)
	}
	pod := func(addr string) addressEntry { return tables.addresses.lookup(addr4(netip.MustParseAddr(addr))) }

	// A new MAC, a new podCIDR, a new InternalIP.
	m.Nodes[1].VTEPMAC[5] = 3
	m.Nodes[1].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}
	m.Nodes[1].Underlay = []netip.Addr{netip.MustParseAddr("192.0.2.3")}
	plan, err := p.Plan(m)
	must(t, err)
	tables.writes.before = func() {
		n := node()
		if n.VtepMac[5] != 2 && (n.VtepMac[5] != 3 || n.OldVtepMac[5] != 2 || n.Flags&bpf.NodeOldMACKnown == 0) {
			t.Errorf("on the way, node-2 is %+v", n)
		}
	}
	must(t, tables.Apply(context.Background(), plan))
	tables.writes.before = nil
	p.Commit(plan)
	owned := func(when string, want map[string]bool) {
		t.Helper()
		for addr, owned := range want {
			e := pod(addr)
			if s, ok := e.remoteOwner(); owned && (!ok || s != two) || !owned && ok && s == two {
				t.Errorf("%s: %s is %#x, node-2's is %v", when, addr, e, owned)
			}
		}
	}
	both := map[string]bool{"10.42.2.9": true, "10.42.3.9": true, "192.0.2.2": true, "192.0.2.3": true}
	owned("changed", both)
	if n := node(); n.VtepMac[5] != 3 || n.OldVtepMac[5] != 2 || n.Flags != bpf.NodeMACKnown|bpf.NodeOldMACKnown ||
		!hasUnderlay(n, "192.0.2.3") || !hasUnderlay(n, "192.0.2.2") {
		t.Errorf("changed: node-2 is %+v", n)
	}
	c.now = c.now.Add(Grace - time.Second)
	must(t, tables.Tick(c.now))
	apply(t, tables, p, m)
	owned("just before the end", both)
	next := takeOver(t, tables)
	defer closeTables(t, next)
	c.now = c.now.Add(time.Second)
	must(t, tables.Tick(c.now))
	owned("after the end", map[string]bool{"10.42.2.9": false, "10.42.3.9": true, "192.0.2.2": false, "192.0.2.3": true})
	if n := node(); n.Flags != bpf.NodeMACKnown || !hasUnderlay(n, "192.0.2.3") || hasUnderlay(n, "192.0.2.2") {
		t.Errorf("after the end: node-2 is %+v", n)
	}
	if n := len(next.nodes.timers); n != 1 {
		t.Errorf("who takes over has %d nodes in grace, want 1", n)
	}

	// node-3 takes over what node-2 has: node-2 may still speak for it.
	third := m.Nodes[1]
	third.Name, third.Underlay, third.VTEPMAC = "node-3", []netip.Addr{netip.MustParseAddr("192.0.2.4")}, [6]byte{2, 0, 0, 0, 0, 4}
	m.Nodes[1].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.4.0/24")}
	m.Nodes = append(m.Nodes, third)
	three := slot(apply(t, tables, p, m), "node-3")
	if n := tables.nodes.get(three); n.Predecessor != uint32(two)+1 {
		t.Errorf("node-3 is %+v, its predecessor is %d", n, two)
	}
	if s, _ := pod("10.42.3.9").remoteOwner(); s != three {
		t.Errorf("10.42.3.9 belongs to %d, not %d", s, three)
	}
	c.now = c.now.Add(Grace)
	must(t, tables.Tick(c.now))
	if n := tables.nodes.get(three); n.Predecessor != 0 {
		t.Errorf("after the end node-3 is %+v", n)
	}

	// A node that goes keeps its addresses for the grace period, and its entry as long as them.
	m.Nodes = m.Nodes[:2]
	apply(t, tables, p, m)
	if s, ok := pod("10.42.3.9").remoteOwner(); !ok || s != three || tables.nodes.get(three) == (bpf.Node{}) {
		t.Errorf("node-3 went at once: %#x", pod("10.42.3.9"))
	}
	c.now = c.now.Add(Grace)
	must(t, tables.Tick(c.now))
	apply(t, tables, p, m)
	if _, ok := pod("10.42.3.9").remoteOwner(); ok || tables.nodes.get(three) != (bpf.Node{}) {
		t.Errorf("node-3 is still there: %#x, %+v", pod("10.42.3.9"), tables.nodes.get(three))
	}
}

func hasUnderlay(n bpf.Node, addr string) bool {
	return slices.Contains(n.Underlay4[:], addr4(netip.MustParseAddr(addr)))
}
