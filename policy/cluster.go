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
	prefix netip.Prefix
	kind   AddressKind
	flags  AddressFlags
	node   string      // of the owning node, except for local pods and what is nobody's
	pod    *Pod        // of pods' addresses
	id     *Definition // of which only the identity counts
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

// resolver finds the owners of a model's addresses.
type resolver struct {
	here  string // name of this node
	words *Vocabulary
	named *prefixSet[NamedPrefix]
	nodes map[string]*Node

	// Many addresses have an identity, and need not hold a copy each. known is what has been met; elsewhere, if not nil,
	// finds what was known before.
	known     map[string]*Definition
	elsewhere func(key []byte) *Definition

	key      []byte // scratch
	ports    []NamedPort
	prefixes []netip.Prefix
	given    []NamedPort // those of the present pod, which mostly are as an identity has them
}

func newResolver(here string, words *Vocabulary, elsewhere func(key []byte) *Definition) *resolver {
	named := make(map[netip.Prefix]NamedPrefix, len(words.Prefixes))
	for _, p := range words.Prefixes {
		named[p.Prefix] = p
	}
	return &resolver{
		here: here, words: words, named: newPrefixSet(named), nodes: map[string]*Node{}, known: map[string]*Definition{}, elsewhere: elsewhere,
	}
}

// identity is that of the given facts, of which labels may be more than an identity remembers. The lists are copied.
func (r *resolver) identity(entities []Entity, labels map[string]string, ports []NamedPort, prefixes []netip.Prefix) *Definition {
	r.key = appendKey(r.key[:0], entities, labels, r.words, ports, prefixes)
	if d := r.known[string(r.key)]; d != nil {
		return d
	}
	var d *Definition
	if r.elsewhere != nil {
		d = r.elsewhere(r.key)
	}
	if d == nil {
		d = &Definition{cachedKey: string(r.key)}
		d.Entities, d.Ports, d.Prefixes = slices.Clone(entities), slices.Clone(ports), slices.Clone(prefixes)
		if len(ports) > 0 && slices.Equal(ports, r.given) {
			d.Ports = r.given
		}
		if labels != nil {
			d.Labels = r.words.filter(labels)
		}
	}
	r.known[d.key()] = d
	return d
}

// claims are the owners of prefixes; no two have the same.
type claims struct {
	owners []owner
	at     map[netip.Prefix]int32
}

func (c *claims) of(p netip.Prefix) *owner {
	if i, ok := c.at[p]; ok {
		return &c.owners[i]
	}
	return nil
}

func (c *claims) add(o owner) error {
	if other := c.of(o.prefix); other != nil {
		a, b := other.String(), o.String()
		return fmt.Errorf("%s belongs to both %s and %s", o.prefix, min(a, b), max(a, b))
	}
	c.at[o.prefix] = int32(len(c.owners))
	c.owners = append(c.owners, o)
	return nil
}

// resolve lists every prefix of the address table, sorted, with the identity of what it holds.
func resolve(m *Model, words *Vocabulary, elsewhere func(key []byte) *Definition) (*resolver, []owner, error) {
	r := newResolver(m.Node, words, elsewhere)
	owners, err := r.all(m)
	if err != nil {
		return nil, nil, fmt.Errorf("resolve addresses: %w", err)
	}
	return r, owners, nil
}

func (r *resolver) all(m *Model) ([]owner, error) {
	for i := range m.Nodes {
		n := &m.Nodes[i]
		if r.nodes[n.Name] != nil {
			return nil, fmt.Errorf("node %s is listed twice", n.Name)
		}
		r.nodes[n.Name] = n
	}
	if r.nodes[m.Node] == nil {
		return nil, fmt.Errorf("this node, %q, is not among the model's nodes", m.Node)
	}
	most := len(m.Pods) + 4*len(m.Nodes) + len(r.named.members) + 2
	c := &claims{make([]owner, 0, most), make(map[netip.Prefix]int32, most)}
	for i := range m.Nodes {
		if err := r.node(&m.Nodes[i], c); err != nil {
			return nil, err
		}
	}
	if err := r.pods(m.Pods, c); err != nil {
		return nil, err
	}
	for i := range m.Nodes {
		if err := r.podCIDRs(&m.Nodes[i], c); err != nil {
			return nil, err
		}
	}
	r.outside(c)
	slices.SortFunc(c.owners, func(a, b owner) int { return comparePrefix(a.prefix, b.prefix) })
	return c.owners, nil
}

// host is the prefix of one address; IPv4-mapped IPv6 is IPv4.
func host(a netip.Addr) (netip.Prefix, error) {
	if !a.IsValid() {
		return netip.Prefix{}, fmt.Errorf("an invalid address")
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// memberships lists the named prefixes that contain p and may match an address of its sort. It holds until the next call.
func (r *resolver) memberships(p netip.Prefix, counts func(NamedPrefix) bool) []netip.Prefix {
	r.prefixes = r.appendMemberships(r.prefixes[:0], p, counts)
	return r.prefixes
}

func (r *resolver) appendMemberships(in []netip.Prefix, p netip.Prefix, counts func(NamedPrefix) bool) []netip.Prefix {
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
			in = r.appendMemberships(in, other, matchesNodes)
		}
	}
	slices.SortFunc(in, comparePrefix)
	r.prefixes = slices.Compact(in)
	return r.prefixes
}

func matchesPods(n NamedPrefix) bool  { return n.Pods }
func matchesNodes(n NamedPrefix) bool { return n.Nodes }
func matchesWorld(NamedPrefix) bool   { return true }

func (r *resolver) node(n *Node, c *claims) error {
	kind, is := AddressNode, EntityRemoteNode
	if n.Name == r.here {
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
		if o := c.of(p); o != nil && o.node == n.Name {
			continue // the underlay's entry says more
		}
		o := owner{prefix: p, kind: kind, node: n.Name, id: r.identity(entities, nil, nil, r.nodeMemberships(p, n))}
		switch {
		case i < len(n.Underlay):
			o.flags = AddressUnderlay
		case kind == AddressNode && !n.Direct:
			o.flags = AddressTunnelled
		}
		if err := c.add(o); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) pods(pods []Pod, c *claims) error {
	keys := make(map[podID]bool, len(pods))
	for i := range pods {
		pod := &pods[i]
		if keys[pod.id()] {
			return fmt.Errorf("pod %s is listed twice", pod.Key())
		}
		keys[pod.id()] = true
		if err := r.podOwners(pod, r.nodes[pod.Node], c.add); err != nil {
			return err
		}
	}
	return nil
}

// podOwners calls yield for a pod's addresses with all that policy can tell about them.
func (r *resolver) podOwners(pod *Pod, node *Node, yield func(owner) error) error {
	if node == nil {
		return fmt.Errorf("pod %s runs on node %q, which is not among the model's nodes", pod.Key(), pod.Node)
	}
	r.ports, r.given = appendNamedPorts(r.ports[:0], pod.Ports), pod.Ports
	labels := pod.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	var families [2]bool
	for _, a := range pod.Addrs {
		p, err := host(a)
		if err != nil {
			return fmt.Errorf("pod %s has %w", pod.Key(), err)
		}
		if f := family(p.Addr()); families[f] {
			return fmt.Errorf("pod %s has two addresses of one family", pod.Key())
		} else {
			families[f] = true
		}
		o := owner{prefix: p, kind: AddressLocalPod, pod: pod}
		if pod.Node != r.here {
			o.kind, o.node = AddressRemotePod, pod.Node
			if !node.Direct {
				o.flags = AddressTunnelled
			}
		}
		o.id = r.identity(nil, labels, r.ports, r.memberships(p, matchesPods))
		if err := yield(o); err != nil {
			return err
		}
	}
	return nil
}

// appendNamedPorts appends the ports that have a name to an empty list, as identities have them.
func appendNamedPorts(named, ports []NamedPort) []NamedPort {
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
func (r *resolver) podCIDRs(n *Node, c *claims) error {
	kind, flags := AddressRemoteCIDR, AddressTunnelled
	if n.Name == r.here {
		kind, flags = AddressLocalCIDR, 0
	} else if n.Direct {
		flags = 0
	}
	for _, p := range n.PodCIDRs {
		if !p.IsValid() {
			return fmt.Errorf("node %s has an invalid podCIDR", n.Name)
		}
		p = p.Masked()
		if other := c.of(p); other != nil && (other.pod != nil || other.node == n.Name) {
			continue
		}
		id := r.identity([]Entity{EntityUnmanaged}, nil, nil, r.memberships(p, matchesPods))
		if err := c.add(owner{prefix: p, kind: kind, flags: flags, node: n.Name, id: id}); err != nil {
			return err
		}
	}
	return nil
}

// outside adds the prefixes that policies name and the two default routes. A named prefix inside a podCIDR stays the
// node's, and is an entry of its own only if it may match pods.
func (r *resolver) outside(c *claims) {
	cidrs := map[netip.Prefix]owner{}
	for i := range c.owners {
		if o := &c.owners[i]; o.kind == AddressLocalCIDR || o.kind == AddressRemoteCIDR {
			cidrs[o.prefix] = *o
		}
	}
	covers := newPrefixSet(cidrs)
	claim := func(p netip.Prefix) {
		if c.of(p) != nil {
			return
		}
		o, covered := owner{}, false
		covers.containing(p, func(_ netip.Prefix, cover owner) { o, covered = cover, true })
		if o.prefix = p; !covered {
			o.id = r.identity([]Entity{EntityWorld}, nil, nil, r.memberships(p, matchesWorld))
		} else if r.named.members[p].Pods {
			o.id = r.identity(o.id.Entities, nil, nil, r.memberships(p, matchesPods))
		} else {
			return
		}
		c.at[p] = int32(len(c.owners))
		c.owners = append(c.owners, o)
	}
	for _, n := range r.words.Prefixes {
		claim(n.Prefix)
	}
	claim(default4())
	claim(default6())
}
