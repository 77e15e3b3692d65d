// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
)

// errNotPlain ends a look at an owner that a small change cannot follow.
var errNotPlain = errors.New("the address is somebody else's")

// nodesChange is podsChange for nodes, which come first: pods are on them.
func (c *change) nodesChange(d *news) bool {
	for _, name := range d.goneNodes {
		if name == c.live.node || !c.nodeLeaves(c.resolver.nodes[name]) {
			return false
		}
		c.nodes[name] = nil
	}
	for _, n := range d.nodes {
		if _, twice := c.nodes[n.Name]; twice || !c.nodeLeaves(c.resolver.nodes[n.Name]) {
			return false
		}
		c.nodes[n.Name] = n
	}
	for _, n := range d.nodes {
		if !c.nodeComes(n) {
			return false
		}
	}
	return true
}

func (c *change) nodeLeaves(n *Node) bool {
	if n == nil {
		return true
	}
	slot := c.live.numbers.nodes[n.Name]
	for _, a := range slices.Concat(n.Underlay, n.Overlay) {
		p, err := host(a)
		if err != nil || c.live.resident.single[p] > 0 {
			return false
		}
		if e := c.live.addresses.find(p); e == nil || e.Slot != slot || e.Kind != AddressNode && e.Kind != AddressHost {
			return false
		}
		c.now[p] = nil
	}
	for _, p := range n.PodCIDRs {
		p = p.Masked()
		if !p.IsValid() || !c.empty(p) {
			return false
		}
		if e := c.live.addresses.find(p); e == nil || e.Slot != slot || e.Kind != AddressLocalCIDR && e.Kind != AddressRemoteCIDR {
			return false
		}
		c.now[p] = nil
	}
	return true
}

// empty says whether p is more than one address, and no policy names anything in it: that would be the node's.
func (c *change) empty(p netip.Prefix) bool {
	named := c.resolver.words.Prefixes
	at, _ := slices.BinarySearchFunc(named, p, func(n NamedPrefix, p netip.Prefix) int { return comparePrefix(n.Prefix, p) })
	return p.Bits() > 0 && !p.IsSingleIP() && (at == len(named) || !p.Contains(named[at].Prefix.Addr()))
}

func (c *change) nodeComes(n *Node) bool {
	own := &claims{at: map[netip.Prefix]int32{}}
	if c.resolver.node(n, own) != nil || c.resolver.podCIDRs(n, own) != nil {
		return false
	}
	for _, o := range own.owners {
		old := c.live.addresses.find(o.prefix)
		switch {
		case !c.take(o):
			return false
		case o.kind == AddressLocalCIDR || o.kind == AddressRemoteCIDR:
			if !c.empty(o.prefix) {
				return false
			}
		case old != nil && old.Kind == o.kind:
			c.moves(old, &o)
		}
	}
	return true
}

// flagsChange makes pods change whose node does in how it is reached, if they do not already; false if a node goes that pods
// are on.
func (c *change) flagsChange() bool {
	turned := map[string]bool{} // nodes; false: gone
	for name, n := range c.nodes {
		if old := c.resolver.nodes[name]; n == nil {
			turned[name] = false
		} else if old != nil && old.Direct != n.Direct {
			turned[name] = true
		}
	}
	if len(turned) == 0 {
		return true
	}
	for pod := range c.live.resident.pods.all() {
		id := pod.id()
		stays, concerned := turned[pod.Node]
		if _, changes := c.pods[id]; !concerned || changes {
			continue
		}
		if !stays || !c.leave(pod) {
			return false
		}
		c.pods[id] = pod
	}
	return true
}

// numberNodes gives new nodes the first slots that are free.
func (c *change) numberNodes() bool {
	var taken map[uint16]bool
	next := uint16(1)
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		if c.nodes[name] == nil || c.live.numbers.nodes[name] != 0 {
			continue
		}
		if taken == nil {
			taken = make(map[uint16]bool, len(c.live.numbers.nodes))
			for _, slot := range c.live.numbers.nodes {
				taken[slot] = true
			}
			for _, slot := range c.tried.nodes {
				taken[slot] = true
			}
		}
		slot := c.tried.nodes[name]
		for ; slot == 0; next++ {
			if next > MaxNode {
				return false
			}
			if !taken[next] && !c.live.restingNodes[next] {
				slot = next
				taken[next] = true
			}
		}
		c.nodeSlots[name] = slot
	}
	if len(c.nodeSlots) > 0 {
		c.tried.nodes = merged(c.tried.nodes, c.nodeSlots)
	}
	return true
}

// nodesAfter are the slots of nodes after the change; the same map, if there is none.
func (c *change) nodesAfter() map[string]uint16 {
	have := c.live.numbers.nodes
	if len(c.nodes) == 0 {
		return have
	}
	after := maps.Clone(have)
	for name, n := range c.nodes {
		if n == nil {
			delete(after, name)
		}
	}
	maps.Copy(after, c.nodeSlots)
	return after
}

// nodeEntries lists all nodes, those that are new or say something else, and the slots of those that are gone.
func (c *change) nodeEntries(plan *Plan) {
	have := c.live.resident.nodes
	if plan.Final.Nodes = have; len(c.nodes) == 0 {
		return
	}
	all := make([]NodeEntry, 0, len(have)+len(c.nodeSlots))
	for _, e := range have {
		if n, changes := c.nodes[e.Name]; changes {
			if n == nil {
				plan.Delta.GoneNodes = append(plan.Delta.GoneNodes, e.Slot)
				continue
			}
			if e.VTEPMAC != n.VTEPMAC {
				e.VTEPMAC = n.VTEPMAC
				plan.Delta.Nodes = append(plan.Delta.Nodes, e)
			}
		}
		all = append(all, e)
	}
	for name, slot := range c.nodeSlots {
		e := NodeEntry{slot, name, c.nodes[name].VTEPMAC}
		all, plan.Delta.Nodes = append(all, e), append(plan.Delta.Nodes, e)
	}
	bySlot := func(a, b NodeEntry) int { return cmp.Compare(a.Slot, b.Slot) }
	slices.SortFunc(all, bySlot)
	slices.SortFunc(plan.Delta.Nodes, bySlot)
	plan.Final.Nodes = all
}
