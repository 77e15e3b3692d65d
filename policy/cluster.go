// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// owner is a prefix, whose it is and what policy can tell about it; the model's half of an Address.
type owner struct {
	prefix   netip.Prefix
	kind     AddressKind
	flags    AddressFlags
	node     string // of the owning node, except for local pods and what is nobody's
	pod      *Pod   // of pods' addresses
	identity Identity
	key      string // identity.key()
}

func (o *owner) String() string {
	switch {
	case o.pod != nil:
		return "pod " + o.pod.Key()
	case o.kind == AddressNode || o.kind == AddressHost:
		return "node " + o.node
	default:
		return "podCIDR of node " + o.node
	}
}

// resolver collects the owners of a model's addresses.
type resolver struct {
	model  *Model
	words  *Vocabulary
	named  *prefixSet[NamedPrefix]
	nodes  map[string]*Node
	owners map[netip.Prefix]*owner
}

// resolve lists every prefix of the address table, sorted, with the identity of what it holds.
func resolve(m *Model, words *Vocabulary) (*resolver, []*owner, error) {
	r := &resolver{model: m, words: words, nodes: map[string]*Node{}, owners: make(map[netip.Prefix]*owner, len(m.Pods))}
	named := make(map[netip.Prefix]NamedPrefix, len(words.Prefixes))
	for _, p := range words.Prefixes {
		named[p.Prefix] = p
	}
	r.named = newPrefixSet(named)
	for i := range m.Nodes {
		n := &m.Nodes[i]
		if r.nodes[n.Name] != nil {
			return nil, nil, fmt.Errorf("resolve addresses: node %s is listed twice", n.Name)
		}
		r.nodes[n.Name] = n
	}
	if r.nodes[m.Node] == nil {
		return nil, nil, fmt.Errorf("resolve addresses: this node, %q, is not among the model's nodes", m.Node)
	}
	for i := range m.Nodes {
		if err := r.node(&m.Nodes[i]); err != nil {
			return nil, nil, fmt.Errorf("resolve addresses: %w", err)
		}
	}
	if err := r.pods(); err != nil {
		return nil, nil, fmt.Errorf("resolve addresses: %w", err)
	}
	for i := range m.Nodes {
		if err := r.podCIDRs(&m.Nodes[i]); err != nil {
			return nil, nil, fmt.Errorf("resolve addresses: %w", err)
		}
	}
	r.outside()
	owners := make([]*owner, 0, len(r.owners))
	same := map[string]*owner{} // many pods have an identity, and need not hold a copy each
	for _, o := range r.owners {
		o.key = o.identity.key()
		if first := same[o.key]; first != nil {
			o.identity, o.key = first.identity, first.key
		} else {
			same[o.key] = o
		}
		owners = append(owners, o)
	}
	slices.SortFunc(owners, func(a, b *owner) int { return comparePrefix(a.prefix, b.prefix) })
	return r, owners, nil
}

func (r *resolver) add(o *owner) error {
	if other := r.owners[o.prefix]; other != nil {
		a, b := other.String(), o.String()
		return fmt.Errorf("%s belongs to both %s and %s", o.prefix, min(a, b), max(a, b))
	}
	r.owners[o.prefix] = o
	return nil
}

// host is the prefix of one address; IPv4-mapped IPv6 is IPv4.
func host(a netip.Addr) (netip.Prefix, error) {
	if !a.IsValid() {
		return netip.Prefix{}, fmt.Errorf("an invalid address")
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// memberships lists the named prefixes that contain p and may match an address of its sort.
func (r *resolver) memberships(p netip.Prefix, counts func(NamedPrefix) bool) []netip.Prefix {
	var in []netip.Prefix
	r.named.containing(p, func(c netip.Prefix, n NamedPrefix) {
		if counts(n) {
			in = append(in, c)
		}
	})
	return in
}

// nodeMemberships are those of one of a node's addresses. An overlay address counts as the node's InternalIPs too: that is
// where its packets to other nodes' pods come from, and who writes a policy knows the InternalIPs.
func (r *resolver) nodeMemberships(p netip.Prefix, n *Node) []netip.Prefix {
	in := r.memberships(p, matchesNodes)
	for _, a := range n.Underlay {
		other, err := host(a)
		if err == nil && other != p && other.Addr().Is4() == p.Addr().Is4() {
			in = append(in, r.memberships(other, matchesNodes)...)
		}
	}
	slices.SortFunc(in, comparePrefix)
	return slices.Compact(in)
}

func matchesPods(n NamedPrefix) bool  { return n.Pods }
func matchesNodes(n NamedPrefix) bool { return n.Nodes }
func matchesWorld(NamedPrefix) bool   { return true }

func (r *resolver) node(n *Node) error {
	kind, is := AddressNode, EntityRemoteNode
	if n.Name == r.model.Node {
		kind, is = AddressHost, EntityHost
	}
	entities := []Entity{is}
	if n.APIServer {
		entities = append(entities, EntityKubeAPIServer)
		slices.Sort(entities)
	}
	for i, a := range slices.Concat(n.Underlay, n.Overlay) {
		p, err := host(a)
		if err != nil {
			return fmt.Errorf("node %s has %w", n.Name, err)
		}
		if o := r.owners[p]; o != nil && o.node == n.Name {
			continue // the underlay's entry says more
		}
		o := &owner{prefix: p, kind: kind, node: n.Name}
		o.identity = Identity{Entities: entities, Prefixes: r.nodeMemberships(p, n)}
		switch {
		case i < len(n.Underlay):
			o.flags = AddressUnderlay
		case kind == AddressNode && !n.Direct:
			o.flags = AddressTunnelled
		}
		if err := r.add(o); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) pods() error {
	keys := make(map[podID]bool, len(r.model.Pods))
	for i := range r.model.Pods {
		pod := &r.model.Pods[i]
		if keys[pod.id()] {
			return fmt.Errorf("pod %s is listed twice", pod.Key())
		}
		keys[pod.id()] = true
		owners, err := r.podOwners(pod)
		if err != nil {
			return err
		}
		for _, o := range owners {
			if err := r.add(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// podOwners are a pod's addresses with all that policy can tell about them, but for their keys.
func (r *resolver) podOwners(pod *Pod) ([]*owner, error) {
	node := r.nodes[pod.Node]
	if node == nil {
		return nil, fmt.Errorf("pod %s runs on node %q, which is not among the model's nodes", pod.Key(), pod.Node)
	}
	labels, ports := r.words.filter(pod.Labels), namedPorts(pod.Ports)
	var families [2]bool
	owners := make([]*owner, 0, len(pod.Addrs))
	for _, a := range pod.Addrs {
		p, err := host(a)
		if err != nil {
			return nil, fmt.Errorf("pod %s has %w", pod.Key(), err)
		}
		if f := family(p.Addr()); families[f] {
			return nil, fmt.Errorf("pod %s has two addresses of one family", pod.Key())
		} else {
			families[f] = true
		}
		o := &owner{prefix: p, kind: AddressLocalPod, pod: pod}
		if pod.Node != r.model.Node {
			o.kind, o.node = AddressRemotePod, pod.Node
			if !node.Direct {
				o.flags = AddressTunnelled
			}
		}
		o.identity = Identity{Labels: labels, Ports: ports, Prefixes: r.memberships(p, matchesPods)}
		owners = append(owners, o)
	}
	return owners, nil
}

func namedPorts(ports []NamedPort) []NamedPort {
	var named []NamedPort
	for _, p := range ports {
		if p.Name != "" {
			named = append(named, NamedPort{strings.ToLower(p.Name), p.Protocol, p.Port})
		}
	}
	slices.SortFunc(named, compareNamedPort)
	return slices.Compact(named)
}

func compareNamedPort(a, b NamedPort) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// podCIDRs runs after nodes and pods: an address of theirs that is a whole podCIDR stays theirs.
func (r *resolver) podCIDRs(n *Node) error {
	kind, flags := AddressRemoteCIDR, AddressTunnelled
	if n.Name == r.model.Node {
		kind, flags = AddressLocalCIDR, 0
	} else if n.Direct {
		flags = 0
	}
	for _, p := range n.PodCIDRs {
		if !p.IsValid() {
			return fmt.Errorf("node %s has an invalid podCIDR", n.Name)
		}
		p = p.Masked()
		o := &owner{prefix: p, kind: kind, flags: flags, node: n.Name}
		if other := r.owners[p]; other != nil && (other.pod != nil || other.node == n.Name) {
			continue
		}
		o.identity = Identity{Entities: []Entity{EntityUnmanaged}, Prefixes: r.memberships(p, matchesPods)}
		if err := r.add(o); err != nil {
			return err
		}
	}
	return nil
}

// outside adds the prefixes that policies name and the two default routes. A named prefix inside a podCIDR stays the
// node's, and is an entry of its own only if it may match pods.
func (r *resolver) outside() {
	cidrs := map[netip.Prefix]*owner{}
	for p, o := range r.owners {
		if o.kind == AddressLocalCIDR || o.kind == AddressRemoteCIDR {
			cidrs[p] = o
		}
	}
	covers := newPrefixSet(cidrs)
	add := func(p netip.Prefix) {
		if r.owners[p] != nil {
			return
		}
		var cover *owner
		covers.containing(p, func(_ netip.Prefix, o *owner) { cover = o })
		o := &owner{prefix: p}
		if cover == nil {
			o.identity = Identity{Entities: []Entity{EntityWorld}, Prefixes: r.memberships(p, matchesWorld)}
		} else {
			if !r.named.members[p].Pods {
				return
			}
			o.kind, o.flags, o.node = cover.kind, cover.flags, cover.node
			o.identity = Identity{Entities: cover.identity.Entities, Prefixes: r.memberships(p, matchesPods)}
		}
		r.owners[p] = o
	}
	for _, n := range r.words.Prefixes {
		add(n.Prefix)
	}
	add(default4())
	add(default6())
}
