// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

// facts are the nodes as their source describes them, and as the host completes them by what it knows better: how each
// node is reached, and what this one is called. The source's word on who owns an address stands. It is a value: what
// changes is a new one.
type facts struct {
	node   string
	by     *loader.Network        // and
	tunnel *loader.Tunnel         // whose word they are completed by
	read   map[string]policy.Node // as the source says
	known  map[string]policy.Node // and completed
	hosts  []netip.Addr           // addresses of this host
	ofPods map[netip.Addr]string  // those of them that the source gives to a pod
}

// own is this node, completed; empty before anything is known.
func (f *facts) own() *policy.Node {
	n := f.known[f.node]
	return &n
}

// newFacts completes the nodes of a whole model.
func newFacts(m *policy.Model, n *loader.Network, t *loader.Tunnel) *facts {
	f := &facts{node: m.Node, by: n, tunnel: t, read: make(map[string]policy.Node, len(m.Nodes)), hosts: n.HostAddrs(), ofPods: map[netip.Addr]string{}}
	for i := range m.Nodes {
		f.read[m.Nodes[i].Name] = m.Nodes[i]
	}
	f.give(m.Pods)
	f.complete()
	return f
}

// give notes which of the host's addresses pods have.
func (f *facts) give(pods []policy.Pod) {
	for i := range pods {
		for _, addr := range pods[i].Addrs {
			if slices.Contains(f.hosts, addr) {
				f.ofPods[addr] = pods[i].Key()
			}
		}
	}
}

// with is f after changes; the same if none of them is about nodes or the host's addresses. pods lists all pods, in case the
// host's addresses are others than before.
func (f *facts) with(c *policy.Changes, n *loader.Network, t *loader.Tunnel, pods func() []policy.Pod) *facts {
	next := *f
	next.by, next.tunnel, next.ofPods = n, t, maps.Clone(f.ofPods)
	hosts := n.HostAddrs()
	same := len(c.NodesChanged)+len(c.GoneNodes) == 0 && n.SameWays(f.by) && (t == f.tunnel || t != nil && f.tunnel != nil && *t == *f.tunnel)
	if !slices.Equal(hosts, f.hosts) {
		next.hosts, next.ofPods, same = hosts, map[netip.Addr]string{}, false
		next.give(pods())
	}
	for addr, key := range next.ofPods {
		gone := slices.Contains(c.GonePods, key) || slices.ContainsFunc(c.Pods, func(p policy.Pod) bool { return p.Key() == key })
		if gone {
			delete(next.ofPods, addr)
		}
	}
	next.give(c.Pods)
	if same && maps.Equal(next.ofPods, f.ofPods) {
		return f
	}
	next.read = maps.Clone(f.read)
	for _, name := range c.GoneNodes {
		delete(next.read, name)
	}
	for i := range c.NodesChanged {
		next.read[c.NodesChanged[i].Name] = c.NodesChanged[i]
	}
	next.complete()
	return &next
}

// complete makes known out of read.
func (f *facts) complete() {
	t := f.tunnel
	f.known = make(map[string]policy.Node, len(f.read))
	for name, node := range f.read {
		if name != f.node {
			node.Direct = isDirect(f.by, t, &node)
			f.known[name] = node
			continue
		}
		node.Underlay, node.Overlay = slices.Clone(node.Underlay), slices.Clone(node.Overlay)
		if t != nil && (t.MAC != [6]byte{} || t.AnyVNI) {
			node.VTEPMAC = t.MAC // the kernel takes frames for its device, whatever an annotation says or said
		}
		for _, addr := range f.hosts {
			switch {
			case f.isOwned(addr):
			case t != nil && addr == t.Local:
				node.Underlay = append(node.Underlay, addr)
			default:
				node.Overlay = append(node.Overlay, addr)
			}
		}
		f.known[name] = node
	}
}

// isOwned says whether the source gives an address to a node, a pod, or another node's pods.
func (f *facts) isOwned(addr netip.Addr) bool {
	if f.ofPods[addr] != "" {
		return true
	}
	for name, node := range f.read {
		if slices.Contains(node.Underlay, addr) || slices.Contains(node.Overlay, addr) ||
			name != f.node && slices.ContainsFunc(node.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return true
		}
	}
	return false
}

// nodes are all nodes, completed, sorted by name.
func (f *facts) nodes() []policy.Node {
	nodes := make([]policy.Node, 0, len(f.known))
	for _, name := range slices.Sorted(maps.Keys(f.known)) {
		nodes = append(nodes, f.known[name])
	}
	return nodes
}

// since says which nodes are others than before, and which are gone.
func (f *facts) since(before *facts) (changed []policy.Node, gone []string) {
	if f == before {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(f.known)) {
		node, was := f.known[name], before.known[name]
		if _, known := before.known[name]; !known || !reflect.DeepEqual(node, was) {
			changed = append(changed, node)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before.known)) {
		if _, known := f.known[name]; !known {
			gone = append(gone, name)
		}
	}
	return changed, gone
}

func (a *agent) tunnel(n *loader.Network, own *policy.Node) (*loader.Tunnel, error) {
	c := a.cfg.overlay
	return n.Tunnel(loader.TunnelHints{Port: c.port, VNI: c.vni, HasVNI: c.vniGiven, MAC: own.VTEPMAC})
}

// isDirect says whether our routes reach another node's pods without the tunnel. Without a route nothing is known yet, and
// only a node that speaks no VXLAN, on a host that has no VXLAN device, counts as direct.
func isDirect(n *loader.Network, t *loader.Tunnel, node *policy.Node) bool {
	index := 0
	if t != nil {
		index = t.Ifindex
	}
	some := false
	for _, cidr := range node.PodCIDRs {
		if !cidr.Addr().Is4() {
			continue
		}
		direct, known := n.Direct(cidr, index)
		if !known {
			direct = t == nil && node.VTEPMAC == [6]byte{}
		}
		if !direct {
			return false
		}
		some = true
	}
	return some
}
