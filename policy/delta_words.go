// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
)

// staleWords is how many more prefixes than twice those that policies name a vocabulary may have before all is looked at.
const staleWords = 1024

// learn finds what new policies name and nobody named before. It is followed here as long as it concerns no pod and no node:
// then identities are as they were, but for those outside. Words that nobody names any more stay until all is looked at.
func (c *change) learn() bool {
	_, come := difference(c.live.policies, c.policies)
	words := &c.live.numbers.vocabulary
	if !slices.ContainsFunc(come, func(p *Policy) bool { return !words.names(p) }) {
		return true
	}
	more := vocabularyOf(c.policies)
	added := words.lacks(&more)
	all := words.with(added)
	if !slices.Equal(all.Labels, with(words.Labels, more.Labels)) || len(all.Prefixes) > 2*len(more.Prefixes)+staleWords {
		return false
	}
	next := newResolver(c.resolver.here, &all, c.resolver.elsewhere)
	next.nodes = c.resolver.nodes
	c.resolver, c.words = next, &all
	for _, n := range added {
		if !c.outsideChanges(n) {
			return false
		}
	}
	return true
}

// lacks lists the prefixes of another vocabulary that this one has not, or makes less of.
func (v *Vocabulary) lacks(more *Vocabulary) (added []NamedPrefix) {
	for _, n := range more.Prefixes {
		at, named := slices.BinarySearchFunc(v.Prefixes, n, func(a, b NamedPrefix) int { return comparePrefix(a.Prefix, b.Prefix) })
		if named {
			old := v.Prefixes[at]
			n = NamedPrefix{n.Prefix, n.Pods || old.Pods, n.Nodes || old.Nodes}
			if n == old {
				continue
			}
		}
		added = append(added, n)
	}
	return added
}

// with is the vocabulary with other prefixes, too.
func (v *Vocabulary) with(added []NamedPrefix) Vocabulary {
	all := Vocabulary{Labels: v.Labels, Prefixes: slices.Clone(v.Prefixes)}
	for _, n := range added {
		at, named := slices.BinarySearchFunc(all.Prefixes, n, func(a, b NamedPrefix) int { return comparePrefix(a.Prefix, b.Prefix) })
		if named {
			all.Prefixes[at] = n
		} else {
			all.Prefixes = slices.Insert(all.Prefixes, at, n)
		}
	}
	return all
}

func with(labels, more []string) []string {
	all := slices.Sorted(slices.Values(slices.Concat(labels, more)))
	return slices.Compact(all)
}

// outsideChanges makes an entry of a prefix that is named now, and finds what else is in it. False if that is a pod, a node or
// a podCIDR that the prefix may match, or if the prefix is inside of a podCIDR.
func (c *change) outsideChanges(n NamedPrefix) bool {
	within := func(p netip.Prefix) {
		id := c.resolver.identity([]Entity{EntityWorld}, nil, nil, c.resolver.memberships(p, matchesWorld))
		c.now[p] = &owner{prefix: p, id: id}
	}
	if c.live.addresses.covering(n.Prefix.Addr(), n.Prefix.Bits()).Kind != AddressNone {
		return false
	}
	only, count := true, 0
	c.live.addresses.inside(n.Prefix, func(e *located) bool {
		switch count++; e.Kind {
		case AddressNone:
			within(e.Prefix)
		case AddressNode, AddressHost:
			only = !n.Nodes
		default:
			only = !n.Pods
		}
		return only && count <= maxDelta
	})
	within(n.Prefix)
	return only && count <= maxDelta
}

// onlyNamed says whether an address has an entry only because a policy names it.
func (c *change) onlyNamed(e *located) bool {
	_, named := c.resolver.named.members[e.Prefix]
	return named && e.Prefix.IsSingleIP() && (e.Kind == AddressNone || e.Kind == AddressLocalCIDR || e.Kind == AddressRemoteCIDR)
}

// fallBack gives addresses that nobody has any more, and that a policy names, to the outside, or to the node whose podCIDR they
// are in. What policies name keeps its podCIDR in a small change.
func (c *change) fallBack() {
	for p, o := range c.now {
		n, named := c.resolver.named.members[p]
		if o != nil || !named {
			continue
		}
		cover := c.live.addresses.covering(p.Addr(), p.Bits()-1)
		if cover.Kind != AddressLocalCIDR && cover.Kind != AddressRemoteCIDR {
			c.now[p] = &owner{prefix: p, id: c.resolver.identity([]Entity{EntityWorld}, nil, nil, c.resolver.memberships(p, matchesWorld))}
		} else if n.Pods {
			c.now[p] = &owner{
				prefix: p, kind: cover.Kind, flags: cover.Flags, node: c.nodeAt(cover.Slot),
				id: c.resolver.identity([]Entity{EntityUnmanaged}, nil, nil, c.resolver.memberships(p, matchesPods)),
			}
		}
	}
}

// nodeAt is the name of the node in a slot.
func (c *change) nodeAt(slot uint16) string {
	for name, s := range c.live.numbers.nodes {
		if s == slot {
			return name
		}
	}
	return ""
}
