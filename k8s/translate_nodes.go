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

// factCache keeps what objects say about nodes, by the node's name, as long as they stay the same objects: a change of one
// node is a look at the claims of all, but not at everybody's annotations again.
type factCache map[string]*cachedFacts

type cachedFacts struct {
	node   *corev1.Node
	blocks []*BlockAffinity
	cilium *CiliumNode
	facts  nodeFacts
}

// of is what is said about n. The lists in it are shared, and not to be written to.
func (c factCache) of(n *corev1.Node, o nodeObjects) *nodeFacts {
	e := c[n.Name]
	if e == nil || e.node != n || e.cilium != o.cilium[n.Name] || !slices.Equal(e.blocks, o.blocks[n.Name]) {
		e = &cachedFacts{n, o.blocks[n.Name], o.cilium[n.Name], *o.factsOf(n)}
		e.facts.guess()
		if c != nil {
			c[n.Name] = e
		}
	}
	f := e.facts
	f.problems = slices.Clip(f.problems)
	return &f
}

// forget drops what is about nodes that are not among nodes any more.
func (c factCache) forget(nodes []*corev1.Node) {
	if len(c) <= len(nodes) {
		return
	}
	here := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		here[n.Name] = true
	}
	for name := range c {
		if !here[name] {
			delete(c, name)
		}
	}
}

// nodeFacts is what is said about each node, after what two nodes claim has been given to one of them: an address has one
// owner, and one node's mistake, or lie, is not to stop the others' policy. A set of manifests with such claims is refused
// before; here it is a cluster's.
func (t *translator) nodeFacts() []*nodeFacts {
	extra := t.objects.nodeObjects()
	facts := make([]*nodeFacts, len(t.objects.Nodes))
	order := make([]int, len(facts))
	for i, n := range t.objects.Nodes {
		facts[i], order[i] = t.facts.of(n, extra), i
	}
	t.facts.forget(t.objects.Nodes)
	// Who was there first keeps what he has, whatever order the objects are in; but nobody else has what is our own.
	foreign := func(n *corev1.Node) int {
		if n.Name == t.model.Node {
			return 0
		}
		return 1
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := t.objects.Nodes[i], t.objects.Nodes[j]
		return cmp.Or(foreign(a)-foreign(b), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	c := claims{addrs: make(map[netip.Addr]*corev1.Node, 4*len(facts)), prefixes: make(map[netip.Prefix]*corev1.Node, len(facts))}
	for _, rank := range []rank{bySource, byAnnotation, byGuess} {
		for _, i := range order {
			c.settle(t.objects.Nodes[i], facts[i], rank)
		}
	}
	return facts
}

// claims says whose an address and a prefix are.
type claims struct {
	addrs    map[netip.Addr]*corev1.Node
	prefixes map[netip.Prefix]*corev1.Node
	bits     [129]bool // lengths of prefixes
}

// settle lets a node have what nobody else has: first what fields and objects say, then what annotations say, last what is
// only a guess.
func (c *claims) settle(n *corev1.Node, f *nodeFacts, now rank) {
	const already = "%s belongs to %s already, which is older or says so in a field; remove the one that is out of date"
	for _, list := range []*[]fact[netip.Addr]{&f.underlay, &f.overlay} {
		*list = dropping(*list, func(a *fact[netip.Addr]) bool {
			if a.rank != now {
				return false
			}
			other := c.addrs[a.value]
			if now == byGuess && !slices.ContainsFunc(f.podCIDRs, func(p fact[netip.Prefix]) bool { return p.value.Contains(a.value) }) {
				return true // the podCIDR turned out to be another's
			}
			if other == nil || other == n {
				c.addrs[a.value] = n
				return false
			}
			if now != byGuess {
				f.bad(a.path, already, a.value, name("Node", other))
			}
			return true
		})
	}
	f.podCIDRs = dropping(f.podCIDRs, func(p *fact[netip.Prefix]) bool {
		if p.rank != now {
			return false
		}
		other := c.holder(p.value, now == byAnnotation)
		if other == nil || other == n {
			c.prefixes[p.value], c.bits[p.value.Bits()] = n, true
			return false
		}
		f.bad(p.path, already, p.value, name("Node", other))
		return true
	})
}

// dropping is list without what goes; list itself stays as it is.
func dropping[T any](list []fact[T], goes func(*fact[T]) bool) []fact[T] {
	for i := range list {
		if !goes(&list[i]) {
			continue
		}
		rest := slices.Clone(list[:i])
		for j := i + 1; j < len(list); j++ {
			if !goes(&list[j]) {
				rest = append(rest, list[j])
			}
		}
		return rest
	}
	return list
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
