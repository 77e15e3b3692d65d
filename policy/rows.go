// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// imageIdentity is what the image says of an identity; row 0 is none.
type imageIdentity struct {
	peerClass     uint16
	rows, audited [2]uint16 // of the enforced and of the audited plane
}

// rows writes every local identity's rows to c.out and returns the identity table, by number, and the bytes that the rows
// take. Past the limit it only measures: then c.out holds no image.
func (c *compiler) rows(limit int) (identities []imageIdentity, written int, err error) {
	identities = make([]imageIdentity, len(c.all.defs))
	for i := range identities {
		identities[i].peerClass = c.peerClass[i]
	}
	by := make(map[int32][]int32, len(c.locals.pods)) // local identity → policies that select it
	for i, m := range c.meanings {
		for _, s := range m.subjects.members {
			by[s] = append(by[s], int32(i))
		}
	}
	known := map[string]uint16{}
	for _, s := range c.locals.pods {
		for _, dir := range []Direction{Ingress, Egress} {
			enforced, audited, err := c.planes(by[s], s, dir)
			if err != nil {
				return nil, 0, err
			}
			if !audited.policed {
				continue
			}
			write := func(spec rowSpec) uint16 {
				key := spec.key(dir)
				row, ok := known[key]
				if ok || err != nil {
					return row
				}
				before, most := c.out.size(), limit
				if written > limit {
					most = limit / 64 // whoever has such a row is charged anyway
				}
				if row, err = c.row(&spec, most); err != nil {
					return 0
				}
				known[key] = row
				bytes := c.out.size() - before
				if bytes > most {
					bytes = max(bytes, 2*c.extent(spec.widest().rules)) // only begun
				}
				c.costs = append(c.costs, rowCost{spec.widest().rules, bytes})
				if written += bytes; written > limit {
					c.out = writer{}
				}
				return row
			}
			id := &identities[s]
			id.audited[dir] = write(rowSpec{plane: audited})
			id.rows[dir] = id.audited[dir]
			if !enforced.equal(&audited) {
				id.rows[dir] = write(rowSpec{plane: enforced, audited: &audited})
			}
			if err != nil {
				return nil, 0, err
			}
		}
	}
	return identities, written, nil
}

// effective is what policies mean for a local pod in one direction.
func (c *compiler) effective(policies []int32, subject int32, dir Direction) (e plane, err error) {
	closed := false
	for _, i := range policies {
		p := &c.policies[i]
		e.isolated, closed = e.isolated || p.Isolates[dir] || p.Closed[dir], closed || p.Closed[dir]
		for j := range p.Rules {
			if p.Rules[j].Direction != dir {
				continue
			}
			e.policed = true
			if e.rules, err = c.compileRule(i, int32(j), subject, e.rules); err != nil {
				return plane{}, err
			}
		}
	}
	if closed {
		e.rules = c.denyingHost(e.rules)
	}
	slices.Sort(e.rules)
	e.rules = slices.Compact(e.rules)
	e.policed = e.policed || e.isolated
	e.standing = e.isolated && dir == Ingress && !c.options.HostByRule
	return e, nil
}

// compileRule appends what a rule means to a subject, as indexes of c.rules.
func (c *compiler) compileRule(policy, rule, subject int32, rules []int32) ([]int32, error) {
	p := &c.policies[policy]
	r := &p.Rules[rule]
	number, ok := c.n.rules[RuleName{p.Key, r.Path}]
	if !ok {
		return nil, fmt.Errorf("%s %s has no number", p.Key, r.Path)
	}
	intern := func(ref ruleRef, peers, ports func() *list) {
		i, ok := c.byRule[ref]
		if !ok {
			i = -1
			if pe, po := peers(), ports(); (pe.all || len(pe.members) > 0) && (po.all || len(po.members) > 0) {
				i = int32(len(c.rules))
				c.rules = append(c.rules, compiledRule{
					tier: p.Tier, action: r.Action, audit: p.Audit, number: number, precedence: precedence{p.Priority, policy, rule}, peers: pe, ports: po,
				})
			}
			c.byRule[ref] = i
		}
		if i >= 0 {
			rules = append(rules, i)
		}
	}
	peers := func() *list { return c.peersOf(c.meanings[policy].peers[rule]) }
	intern(ruleRef{policy: policy, rule: rule}, peers, func() *list { return c.portsOf(r.Ports) })
	for i := range r.Ports {
		port := &r.Ports[i]
		if port.Protocol == 0 || port.Name == "" {
			continue
		}
		if r.Direction == Ingress {
			for _, resolved := range resolvePort(port, c.locals.defs[subject]) {
				intern(ruleRef{policy, rule, int32(i + 1), resolved}, peers, func() *list { return c.lists.get(false, c.ports.in(resolved)) })
			}
			continue
		}
		for _, number := range sortedKeys(c.all.byPort[portName{strings.ToLower(port.Name), port.Protocol}]) {
			resolved, _ := newPortRange(port.Protocol, number, number)
			having := c.all.byPort[portName{strings.ToLower(port.Name), port.Protocol}][number]
			intern(ruleRef{policy, rule, int32(i + 1), resolved}, func() *list {
				return c.lists.get(false, intersect(c.peersOf(c.meanings[policy].peers[rule]), c.classes(having)))
			}, func() *list { return c.lists.get(false, c.ports.in(resolved)) })
		}
	}
	return rules, nil
}

func sortedKeys[V any](m map[uint16]V) []uint16 {
	keys := make([]uint16, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// classes lists the peer classes of a set of identities, ascending.
func (c *compiler) classes(set []int32) []int32 {
	c.mark++
	classes := classesOf(set, c.peerClass, c.stamp, c.mark)
	slices.Sort(classes)
	return classes
}

func intersect(l *list, set []int32) []int32 {
	if l.all {
		return set
	}
	return slices.DeleteFunc(slices.Clone(set), func(m int32) bool {
		_, in := slices.BinarySearch(l.members, m)
		return !in
	})
}

func (c *compiler) peersOf(peers []peerSet) *list {
	var set []int32
	for _, p := range peers {
		if p == nil {
			return c.lists.get(true, nil)
		}
		set = append(set, c.classes(p.members)...)
	}
	slices.Sort(set)
	return c.lists.get(false, slices.Compact(set))
}

// host is the node, as a set of peers.
func (c *compiler) host() []peerSet {
	host := hostPeer()
	return []peerSet{newPeerSet(&host, c.all)}
}

// portsOf leaves out the named ports.
func (c *compiler) portsOf(ports []PortMatch) *list {
	var set []int32
	for _, p := range ports {
		if p.Protocol == 0 {
			return c.lists.get(true, nil)
		}
		if p.Name != "" {
			continue
		}
		if r, ok := newPortRange(p.Protocol, p.First, p.Last); ok {
			set = append(set, c.ports.in(r)...)
		}
	}
	slices.Sort(set)
	return c.lists.get(false, slices.Compact(set))
}

// row writes a row and returns its number. Of a row of more than limit bytes it writes just so many that the limit is exceeded.
func (c *compiler) row(spec *rowSpec, limit int) (uint16, error) {
	all := spec.widest()
	rules := make([]compiledRule, len(all.rules), len(all.rules)+1)
	for i, r := range all.rules {
		rules[i] = c.rules[r]
	}
	if all.standing {
		rules = append(rules, compiledRule{standing: true, number: RuleHost, peers: c.peersOf(c.host()), ports: c.lists.get(true, nil)})
	}
	local, portSets, localCount := localClasses(&c.portParts, c.ports.count, rules, func(r *compiledRule) *list { return r.ports })
	group, peerSets, groupCount := localClasses(&c.peerParts, c.peerCount, rules, func(r *compiledRule) *list { return r.peers })
	matching := make([][]*compiledRule, groupCount)
	for i := range rules {
		for _, g := range peerSets[rules[i].peers.id] {
			matching[g] = append(matching[g], &rules[i])
		}
	}
	// Groups with the same cells are one local peer class.
	index, classes := make(map[string]uint16), make([]uint16, groupCount)
	var cells [][]Cell
	parts := make([]cellParts, localCount)
	for g := range classes {
		set := spec.decide(matching[g], portSets, parts)
		key := string(wire(set))
		if _, seen := index[key]; !seen {
			if 2*len(cells)*localCount > limit {
				break
			}
			index[key] = uint16(len(cells))
			cells = append(cells, set)
		}
		classes[g] = index[key]
	}
	for i, g := range group {
		group[i] = classes[g]
	}
	return c.out.row(group[:c.peerCount], local, cells, spec.mark())
}

// cellParts collects what the rules say about one class of ports; noRule and nil where they say nothing.
type cellParts struct {
	first                 [2]*compiledRule // of TierAdmin, of TierBaseline: the one that comes first
	deny, allow, standing uint16
}

const noRule = math.MaxUint16

// decide returns the port set of peers that rules match. TierAdmin comes first, then TierNormal, where any deny beats any
// allow and of several the lowest number is named; TierBaseline is asked where nothing isolates, and the standing permission
// comes after all rules.
func decide(rules []*compiledRule, portSets map[int32][]int32, isolated bool, cells []cellParts) []Cell {
	for i := range cells {
		cells[i] = cellParts{deny: noRule, allow: noRule, standing: noRule}
	}
	for _, r := range rules {
		for _, l := range portSets[r.ports.id] {
			switch c := &cells[l]; {
			case r.tier != TierNormal:
				if first := &c.first[r.tier-TierAdmin]; *first == nil || r.precedence.before((*first).precedence) {
					*first = r
				}
			case r.action == Deny:
				c.deny = min(c.deny, r.number)
			case r.standing:
				c.standing = r.number
			default:
				c.allow = min(c.allow, r.number)
			}
		}
	}
	set := make([]Cell, len(cells))
	for i := range cells {
		c := &cells[i]
		admin, baseline := c.first[0], c.first[1]
		switch {
		case admin != nil && admin.action != Pass:
			set[i] = cell(admin.action == Allow, admin.number)
		case c.deny != noRule:
			set[i] = cell(false, c.deny)
		case c.allow != noRule:
			set[i] = cell(true, c.allow)
		case !isolated && baseline != nil && baseline.action != Pass:
			set[i] = cell(baseline.action == Allow, baseline.number)
		case c.standing != noRule:
			set[i] = cell(true, c.standing)
		default:
			set[i] = cell(!isolated, 0)
		}
	}
	return set
}
