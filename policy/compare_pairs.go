// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// view is a row before and after, as all its members have it.
type view struct {
	rows       [2]int32 // by side
	members    []int32
	set        memberSet
	base       [2]int32 // cells
	exceptions []int32  // members whose cells may be others than base
}

// cells are those of a view about a peer.
func (c *comparer) cells(v *view, peer int32) [2]int32 {
	m := c.members[peer]
	old, now := c.sides[0].rows[v.rows[0]], c.sides[1].rows[v.rows[1]]
	return [2]int32{old.cellOf(m.class[0][old.reading]), now.cellOf(m.class[1][now.reading])}
}

// turns says whether the ports that a view admits change from one cell to the other.
func (c *comparer) turns(cells [2]int32) bool {
	return c.sides[0].cells[cells[0]].set != c.sides[1].cells[cells[1]].set
}

// relations compares all pairs of members, view by view.
func (c *comparer) relations() ([]Relation, error) {
	if err := c.compile(); err != nil {
		return nil, err
	}
	c.parts, c.known, c.causeNumbers = map[partKey][]part{}, map[[4]int32][]turnKey{}, map[knownCause]int32{}
	c.turned = map[turnKey]*turning{}
	c.count()
	for _, q := range c.views[Ingress] {
		c.eachTurn(q, func(cells [2]int32, sources memberSet) { c.ingressTurns(q, cells, sources) })
	}
	for _, r := range c.views[Egress] {
		c.eachTurn(r, func(cells [2]int32, destinations memberSet) { c.egressTurns(r, cells, destinations) })
	}
	var relations []Relation
	for _, t := range c.turned {
		relations = append(relations, c.fold(t)...)
	}
	sortRelations(relations)
	return relations, nil
}

// compile gives every member its peer classes and its views.
func (c *comparer) compile() error {
	ranges := map[portRange]bool{}
	var sets [2][]map[string][]int32
	for i, s := range c.sides {
		for _, v := range s.readings {
			told, ports := v.prepare(s.defs)
			sets[i] = append(sets[i], told)
			for r := range ports {
				ranges[r] = true
			}
		}
	}
	if c.ports = newPortSpace(ranges); c.ports.count > maxClasses {
		return fmt.Errorf("divide ports: %w distinct ports and ranges in rules: %d classes", ErrTooMany, c.ports.count)
	}
	c.port.size(c.ports.count)
	all := c.port.all(c.ports.count)
	for i, s := range c.sides {
		s.begin(all)
		for n, v := range s.readings {
			if err := v.divide(sets[i][n], c.ports); err != nil {
				return err
			}
			byClass := make([][]int32, v.c.peerCount)
			for j, m := range c.members {
				class := int32(v.c.peerClass[m.ids[i]])
				m.class[i] = append(m.class[i], class)
				byClass[class] = append(byClass[class], int32(j))
			}
			c.byClass[i] = append(c.byClass[i], byClass)
		}
	}
	for _, dir := range []Direction{Ingress, Egress} {
		index := map[[2]int32]int32{}
		for j, m := range c.members {
			var rows [2]int32
			for i, s := range c.sides {
				if m.kind != memberPods {
					continue
				}
				row, err := s.row(m.reading[i], m.ids[i], dir, c.port)
				if err != nil {
					return err
				}
				rows[i] = row
			}
			at, known := index[rows]
			if !known {
				at = int32(len(c.views[dir]))
				index[rows] = at
				c.views[dir] = append(c.views[dir], c.view(rows))
			}
			m.view[dir] = at
			v := c.views[dir][at]
			v.members = append(v.members, int32(j))
			v.set.add(int32(j))
		}
	}
	return nil
}

func (c *comparer) view(rows [2]int32) *view {
	v := &view{rows: rows, set: c.set()}
	seen := c.set()
	for i, s := range c.sides {
		row := s.rows[rows[i]]
		v.base[i] = row.base
		for _, e := range row.exceptions {
			for _, m := range c.byClass[i][row.reading][e.class] {
				seen.add(m)
			}
		}
	}
	v.exceptions = seen.list()
	return v
}

// eachTurn calls yield with the peers of a view for each pair of cells between which the admitted ports change.
func (c *comparer) eachTurn(v *view, yield func(cells [2]int32, peers memberSet)) {
	groups := map[[2]int32]memberSet{}
	var order [][2]int32
	for _, m := range v.exceptions {
		cells := c.cells(v, m)
		if !c.turns(cells) {
			continue
		}
		if groups[cells] == nil {
			groups[cells] = c.set()
			order = append(order, cells)
		}
		groups[cells].add(m)
	}
	if c.turns(v.base) {
		rest := groups[v.base]
		if rest == nil {
			rest = c.set()
			groups[v.base] = rest
			order = append(order, v.base)
		}
		exceptions := c.set()
		for _, m := range v.exceptions {
			exceptions.add(m)
		}
		for m := range int32(len(c.members)) {
			if !exceptions.has(m) {
				rest.add(m)
			}
		}
	}
	for _, cells := range order {
		yield(cells, groups[cells])
	}
}

// within lists the views, in a direction, of the members of a set, and what part of the set each has.
func (c *comparer) within(dir Direction, set memberSet, yield func(v *view, part []int32)) {
	if set.count() < len(c.views[dir]) {
		parts := map[int32][]int32{}
		var order []int32
		for _, m := range set.list() {
			at := c.members[m].view[dir]
			if parts[at] == nil {
				order = append(order, at)
			}
			parts[at] = append(parts[at], m)
		}
		for _, at := range order {
			yield(c.views[dir][at], parts[at])
		}
		return
	}
	for _, v := range c.views[dir] {
		part := v.members
		if outside := slices.IndexFunc(part, func(m int32) bool { return !set.has(m) }); outside >= 0 {
			part = slices.Clone(part[:outside])
			for _, m := range v.members[outside:] {
				if set.has(m) {
					part = append(part, m)
				}
			}
		}
		if len(part) > 0 {
			yield(v, part)
		}
	}
}

// divided calls yield for the parts of a list of peers that a view has the same cells about.
func (c *comparer) divided(v *view, peers []int32, yield func(cells [2]int32, part []int32)) {
	type cellPart struct {
		cells [2]int32
		peers []int32
	}
	var parts []cellPart
	if len(v.exceptions) == 0 {
		yield(v.base, peers)
		return
	}
	alike := true
	for n, m := range peers {
		cells := c.cells(v, m)
		if n == 0 {
			parts = append(parts, cellPart{cells: cells})
		}
		if alike && cells == parts[0].cells {
			continue
		}
		if alike {
			parts[0].peers, alike = slices.Clone(peers[:n]), false
		}
		i := slices.IndexFunc(parts, func(p cellPart) bool { return p.cells == cells })
		if i < 0 {
			i = len(parts)
			parts = append(parts, cellPart{cells: cells})
		}
		parts[i].peers = append(parts[i].peers, m)
	}
	if alike {
		yield(parts[0].cells, peers)
		return
	}
	for _, p := range parts {
		yield(p.cells, p.peers)
	}
}

// ingressTurns: the receivers of q change their mind about sources.
func (c *comparer) ingressTurns(q *view, ingress [2]int32, sources memberSet) {
	c.within(Egress, sources, func(r *view, senders []int32) {
		c.divided(r, q.members, func(egress [2]int32, receivers []int32) { c.record(senders, receivers, egress, ingress) })
	})
}

// egressTurns: the senders of r change their mind about destinations. Where the receivers do too, that is known already.
func (c *comparer) egressTurns(r *view, egress [2]int32, destinations memberSet) {
	c.within(Ingress, destinations, func(q *view, receivers []int32) {
		c.divided(q, r.members, func(ingress [2]int32, senders []int32) {
			if !c.turns(ingress) {
				c.record(senders, receivers, egress, ingress)
			}
		})
	})
}

// turnKey is a way to turn: ports, for a reason on either side.
type turnKey struct {
	allowed         bool
	ports           int32
	egress, ingress int32 // causes; 0: that side does not turn
}

// turning is all that turns in one way: by destinations, the sources.
type turning struct {
	turnKey
	sources map[string]memberSet
}

// record takes note of what turns for receivers, of which each has the same cells about the senders, and they about him.
func (c *comparer) record(senders, receivers []int32, egress, ingress [2]int32) {
	set := func(side int, cell int32) int32 { return c.sides[side].cells[cell].set }
	added, removed := c.port.turn(set(0, egress[0]), set(1, egress[1]), set(0, ingress[0]), set(1, ingress[1]))
	if added == 0 && removed == 0 {
		return
	}
	key := make([]byte, 0, 4*len(receivers))
	for _, m := range receivers {
		key = binary.LittleEndian.AppendUint32(key, uint32(m))
	}
	for _, way := range c.ways(egress, ingress, added, removed) {
		t := c.turned[way]
		if t == nil {
			t = &turning{way, map[string]memberSet{}}
			c.turned[way] = t
		}
		all := t.sources[string(key)]
		if all == nil {
			all = c.set()
			t.sources[string(key)] = all
		}
		all.addAll(senders)
	}
}

// fold puts sources and destinations that turn alike together and names them.
func (c *comparer) fold(t *turning) []Relation {
	ports := c.ports.names(c.port.sets[t.ports], c.family)
	if len(ports) == 0 {
		return nil // of the other family only, or port 0
	}
	bySources := map[string]memberSet{}
	for _, key := range sortedStrings(t.sources) {
		receivers := c.set()
		receivers.addAll(receiversOf(key))
		sources, destinations := c.real(t.sources[key], receivers)
		if sources == nil {
			continue
		}
		key := string(setBytes(sources))
		if bySources[key] == nil {
			bySources[key] = c.set()
		}
		bySources[key].merge(destinations)
	}
	var relations []Relation
	for _, key := range sortedStrings(bySources) {
		sources, destinations := setOf(key), bySources[key]
		relations = append(relations, Relation{Allowed: t.allowed, Sources: c.names(sources, destinations), Destinations: c.names(destinations, sources),
			Ports: ports, Because: c.because(t.turnKey, sources, destinations)})
	}
	return relations
}

// real takes away from two sets the members that meet nobody of the other one; nil if nobody is left.
func (c *comparer) real(sources, destinations memberSet) (memberSet, memberSet) {
	sources, destinations = slices.Clone(sources), slices.Clone(destinations)
	for _, sets := range [][2]memberSet{{sources, destinations}, {destinations, sources}} {
		others := sets[1].list()
		for _, m := range sets[0].list() {
			if !slices.ContainsFunc(others, func(o int32) bool { return c.members[m].meets(c.members[o]) }) {
				sets[0].remove(m)
			}
		}
	}
	if sources.count() == 0 || destinations.count() == 0 {
		return nil, nil
	}
	return sources, destinations
}
