// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// divide finds the peer classes and the port classes.
func (c *compiler) divide() error {
	sets, ranges := c.distinctions()
	if err := c.dividePeers(sets); err != nil {
		return err
	}
	if c.ports = newPortSpace(ranges); c.ports.count > maxClasses {
		return c.tooManyPorts(c.ports.count)
	}
	return nil
}

// distinctions lists the sets of identities and the ranges of ports that policies tell apart.
func (c *compiler) distinctions() (sets map[string][]int32, ranges map[portRange]bool) {
	sets, ranges = map[string][]int32{}, map[portRange]bool{}
	for i := range c.policies {
		c.dividePolicy(int32(i), sets, ranges)
	}
	standing := hostPeer()
	host := c.all.set(&standing)
	sets[host.key] = host.members
	return sets, ranges
}

// dividePeers finds the classes of identities that no set tells apart. Classes that the same large sets contain become
// neighbours: then most blocks of a row are uniform, and stored once. A lookup's cost in cache misses is the number of
// different blocks. The rest goes by the identities' keys.
func (c *compiler) dividePeers(sets map[string][]int32) error {
	parts := &c.peerParts
	parts.reset(len(c.all.defs))
	keys := slices.SortedFunc(maps.Keys(sets), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(sets[b]), len(sets[a])), strings.Compare(a, b))
	})
	for _, key := range keys {
		parts.split(sets[key])
	}
	// The first of each class stands for it.
	first := make([]int32, len(parts.size))
	order := make([]int32, 0, len(parts.size)) // of classes
	for _, e := range c.all.byName {
		if class := parts.of[e]; class != 0 && first[class] == 0 {
			first[class] = e
			order = append(order, class)
		}
	}
	large := make([]largest, len(parts.size))
	for rank, key := range keys {
		for _, e := range sets[key] {
			if class := parts.of[e]; first[class] == e {
				large[class].add(int32(rank))
			}
		}
	}
	slices.SortStableFunc(order, func(a, b int32) int { return large[a].compare(&large[b]) })
	if c.peerCount = 1 + len(order); c.peerCount > maxClasses {
		return c.tooManyPeers()
	}
	numbers := make([]uint16, len(parts.size)) // class 0 is that of the unknown, and stays
	for i, class := range order {
		numbers[class] = uint16(i + 1)
	}
	c.peerClass = make([]uint16, len(c.all.defs))
	for e, class := range parts.of {
		c.peerClass[e] = numbers[class]
	}
	c.stamp = make([]int32, c.peerCount)
	return nil
}

// largest are the ranks of the largest sets that contain a class: rank 0 is the largest set.
type largest struct {
	ranks [8]int32
	count int
}

func (l *largest) add(rank int32) {
	if l.count < len(l.ranks) {
		l.ranks[l.count] = rank
		l.count++
	}
}

func (l *largest) compare(m *largest) int {
	return slices.Compare(l.ranks[:l.count], m.ranks[:m.count])
}

// dividePolicy adds the sets of peers and the ranges of ports that a policy of local pods tells apart.
func (c *compiler) dividePolicy(i int32, sets map[string][]int32, ranges map[portRange]bool) {
	m := c.meanings[i]
	if len(m.subjects.members) == 0 {
		return
	}
	for j := range c.policies[i].Rules {
		r := &c.policies[i].Rules[j]
		for _, p := range m.peers[j] {
			if p != nil {
				sets[p.key] = p.members
			}
		}
		for k := range r.Ports {
			c.divideBy(r, &r.Ports[k], m.subjects.members, sets, ranges)
		}
	}
}

// divideBy adds the ranges, and for named ports at egress the sets of peers, that a port match tells apart.
func (c *compiler) divideBy(r *Rule, p *PortMatch, subjects []int32, sets map[string][]int32, ranges map[portRange]bool) {
	add := func(resolved portRange, ok bool) {
		if ok {
			ranges[resolved] = true
		}
	}
	switch {
	case p.Protocol == 0:
	case p.Name == "":
		add(newPortRange(p.Protocol, p.First, p.Last))
	case r.Direction == Egress:
		name := strings.ToLower(p.Name)
		for port, peers := range c.all.byPort[portName{name, p.Protocol}] {
			sets[fmt.Sprintf("n%d/%d %s", p.Protocol, port, name)] = peers
			add(newPortRange(p.Protocol, port, port))
		}
	default:
		for _, s := range subjects {
			for _, resolved := range resolvePort(p, c.locals.defs[s]) {
				add(resolved, true)
			}
		}
	}
}

// resolvePort lists what a named port means at ingress of a pod.
func resolvePort(p *PortMatch, d *Definition) []portRange {
	var resolved []portRange
	name := strings.ToLower(p.Name)
	for _, port := range d.Ports {
		if port.Protocol == p.Protocol && port.Name == name {
			if r, ok := newPortRange(p.Protocol, port.Port, max(port.Port, p.RangeTo)); ok {
				resolved = append(resolved, r)
			}
		}
	}
	return resolved
}
