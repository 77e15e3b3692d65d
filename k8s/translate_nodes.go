// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func (t *translator) nodes() {
	api := t.apiServers()
	facts := t.nodeFacts()
	for i, n := range t.objects.Nodes {
		f := facts[i]
		node := f.model(n.Name)
		node.Labels = n.Labels
		for _, note := range f.notes {
			t.status(name("Node", n), note.path, ReasonDiffers, note.message)
		}
		for _, p := range f.problems {
			t.status(name("Node", n), p.path, ReasonInvalid, p.message)
		}
		for _, addr := range node.Underlay {
			node.APIServer = node.APIServer || api[addr]
			delete(api, addr)
		}
		t.model.Nodes = append(t.model.Nodes, node)
	}
	for addr := range api {
		t.apiServer = append(t.apiServer, addr)
	}
	sort.Slice(t.apiServer, func(i, j int) bool { return t.apiServer[i].Less(t.apiServer[j]) })
}

// nodeFacts is what is said about each node, after what two nodes claim has been given to one of them: an address has one
// owner, and one node's mistake, or lie, is not to stop the others' policy. A set of manifests with such claims is refused
// before; here it is a cluster's.
func (t *translator) nodeFacts() []*nodeFacts {
	extra := t.objects.nodeObjects()
	facts := make([]*nodeFacts, len(t.objects.Nodes))
	order := make([]int, len(facts))
	for i, n := range t.objects.Nodes {
		facts[i], order[i] = extra.factsOf(n), i
	}
	// Who was there first keeps what he has, whatever order the objects are in.
	slices.SortFunc(order, func(i, j int) int {
		a, b := t.objects.Nodes[i], t.objects.Nodes[j]
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	c := claims{addrs: map[netip.Addr]*corev1.Node{}, prefixes: map[netip.Prefix]*corev1.Node{}, bits: map[int]bool{}}
	for _, annotated := range []bool{false, true} {
		for _, i := range order {
			c.settle(t.objects.Nodes[i], facts[i], annotated)
		}
	}
	for _, i := range order {
		c.guess(t.objects.Nodes[i], facts[i])
	}
	return facts
}

// claims says whose an address and a prefix are.
type claims struct {
	addrs    map[netip.Addr]*corev1.Node
	prefixes map[netip.Prefix]*corev1.Node
	bits     map[int]bool // lengths of prefixes
}

// settle lets a node have what nobody else has: first what fields and objects say, then what annotations say.
func (c *claims) settle(n *corev1.Node, f *nodeFacts, annotated bool) {
	isAnnotation := func(path string) bool { return strings.HasPrefix(path, "metadata.annotations[") }
	for _, list := range []*[]fact[netip.Addr]{&f.underlay, &f.overlay} {
		*list = slices.DeleteFunc(*list, func(a fact[netip.Addr]) bool {
			if isAnnotation(a.path) != annotated {
				return false
			}
			if other := c.addrs[a.value]; other != nil && other != n {
				f.bad(a.path, "%s belongs to %s already, which is older or says so in a field; remove the one that is out of date", a.value, name("Node", other))
				return true
			}
			c.addrs[a.value] = n
			return false
		})
	}
	f.podCIDRs = slices.DeleteFunc(f.podCIDRs, func(p fact[netip.Prefix]) bool {
		if isAnnotation(p.path) != annotated {
			return false
		}
		if other := c.holder(p.value, annotated); other != nil && other != n {
			f.bad(p.path, "%s belongs to %s already, which is older or says so in a field; remove the one that is out of date", p.value, name("Node", other))
			return true
		}
		c.prefixes[p.value], c.bits[p.value.Bits()] = n, true
		return false
	})
}

// holder is who has a prefix. What an annotation claims must not lie within another node's either; blocks of IPAM may.
func (c *claims) holder(p netip.Prefix, within bool) *corev1.Node {
	if other := c.prefixes[p]; other != nil {
		return other
	}
	if p.IsSingleIP() && c.addrs[p.Addr()] != nil {
		return c.addrs[p.Addr()]
	}
	for bits := p.Bits() - 1; within && bits >= 0; bits-- {
		if !c.bits[bits] {
			continue
		}
		if wider, err := p.Addr().Prefix(bits); err == nil && c.prefixes[wider] != nil {
			return c.prefixes[wider]
		}
	}
	return nil
}

// guess names the overlay addresses that a node has unless somebody says otherwise: flannel's VTEP has the first address of
// the podCIDR, and the bridge the next one.
func (c *claims) guess(n *corev1.Node, f *nodeFacts) {
	if f.noGuess {
		return
	}
	for _, p := range f.podCIDRs {
		if p.value.Addr().BitLen()-p.value.Bits() < 2 {
			continue
		}
		for _, addr := range []netip.Addr{p.value.Addr(), p.value.Addr().Next()} {
			if other := c.addrs[addr]; other == nil || other == n {
				c.addrs[addr] = n
				addAddr(&f.overlay, addr, p.path)
			}
		}
	}
}
