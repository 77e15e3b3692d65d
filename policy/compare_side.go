// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
)

// comparedSide is one of two states of a cluster, compiled as far as a comparison needs it: the rows of all pods, kept sparse,
// and without the limits of an image.
type comparedSide struct {
	model    *Model
	owners   []owner
	readings []*reading
	ofNode   map[string]int // node → the reading that its pods are guarded by

	numbers map[string]uint32 // identity key → number, from 1 without a gap: also its index in the compiler's population
	defs    definitions

	rows   []*comparedRow
	cells  []comparedCell
	detail map[int32]*rowDetail

	decidedCell int32 // that cause was asked about last, and what it says
	decidedAs   []Cell
}

// reading is a list of policies, compiled. Nodes have different ones where a policy means other nodes than the own.
type reading struct {
	policies []Policy
	options  Options
	c        *compiler
	by       [][]int32 // local identity → policies that select it
	known    map[string]int32
	refs     []ruleRef // of c.rules
	group    []int32   // scratch of classify: peer class → group
	fresh    []int32   // scratch of classify: group → what it becomes
}

// comparedRow is one policy in one direction. Peer classes without an exception have the base cell.
type comparedRow struct {
	reading    int
	direction  Direction
	isolated   bool
	rules      []compiledRule // numbered by their place
	names      []RuleName     // of these
	groups     [][]int32      // group → places of the rules that match its peers; 0 is that of the base
	base       int32          // cell
	exceptions []classCell    // sorted by class
}

// classCell is the cell of a peer class.
type classCell struct{ class, cell int32 }

// comparedCell is what a row says about a group of peers.
type comparedCell struct {
	row, group int32
	set        int32 // of ports that it allows
}

// rowDetail is what newRow knew and did not keep.
type rowDetail struct {
	class    []uint16 // port class → local class
	portSets map[int32][]int32
	count    int
}

// newComparedSide takes models of one cluster that differ in their node, and in what policies mean there.
func newComparedSide(models []*Model, policies [][]Policy, words *Vocabulary) (*comparedSide, error) {
	s := &comparedSide{model: models[0], ofNode: map[string]int{}}
	known := map[string]int{}
	for i, m := range models {
		text, err := json.Marshal(struct {
			Policies []Policy
			Options  Options
		}{policies[i], m.Options})
		if err != nil {
			return nil, fmt.Errorf("compare policies of node %s: %w", m.Node, err)
		}
		at, ok := known[string(text)]
		if !ok {
			at = len(s.readings)
			known[string(text)] = at
			s.readings = append(s.readings, &reading{policies: policies[i], options: m.Options})
		}
		s.ofNode[m.Node] = at
	}
	var err error
	if _, s.owners, err = resolve(models[0], words, nil); err != nil {
		return nil, err
	}
	s.forget()
	return s, nil
}

// number is that of an identity, new or known.
func (s *comparedSide) number(id Identity, key string) int32 {
	n, ok := s.numbers[key]
	if !ok {
		n = uint32(len(s.numbers) + 1)
		s.numbers[key] = n
		s.defs = s.defs.set(n, &Definition{Identity: id, Local: id.Pod(), cachedKey: key})
	}
	return int32(n)
}

// forget drops what depends on the identities of one family.
func (s *comparedSide) forget() {
	for i, r := range s.readings {
		s.readings[i] = &reading{policies: r.policies, options: r.options}
	}
	*s = comparedSide{model: s.model, owners: s.owners, readings: s.readings, ofNode: s.ofNode, numbers: map[string]uint32{}}
}

// prepare makes the compiler once all identities have numbers, and lists what its policies tell apart.
func (v *reading) prepare(defs definitions) (sets map[string][]int32, ranges map[portRange]bool) {
	n := newNumbering()
	n.identities = defs
	for i := range v.policies {
		for j := range v.policies[i].Rules {
			n.rules[RuleName{v.policies[i].Key, v.policies[i].Rules[j].Path}] = RuleHost + 1 // rows number their own
		}
	}
	m := &memo{}
	v.c = &compiler{policies: v.policies, options: v.options, n: n, meanings: m.meaningsOf(v.policies, defs), lists: listPool{}, byRule: map[ruleRef]int32{}}
	v.c.all, v.c.locals = m.populations(defs)
	v.by = make([][]int32, len(v.c.locals.defs))
	for i, m := range v.c.meanings {
		if v.policies[i].Audit {
			continue // what enforces nothing allows and denies nothing
		}
		for _, l := range m.subjects.members {
			v.by[l] = append(v.by[l], int32(i))
		}
	}
	return v.c.distinctions()
}

// divide fixes the peer classes; the port classes are common to all readings of both sides.
func (v *reading) divide(sets map[string][]int32, ports *portSpace) error {
	if err := v.c.dividePeers(sets); err != nil {
		return err
	}
	v.c.ports = ports
	v.group, v.known = make([]int32, v.c.peerCount), map[string]int32{}
	return nil
}

// begin has the row of pods without policy, whose one cell allows all.
func (s *comparedSide) begin(all int32) {
	s.detail = map[int32]*rowDetail{}
	s.cells = []comparedCell{{set: all}}
	s.rows = []*comparedRow{{groups: [][]int32{nil}}}
}

// row finds the row of a pod's identity; 0 is that of pods without policy.
func (s *comparedSide) row(at int, identity int32, dir Direction, sets *portSets) (int32, error) {
	v := s.readings[at]
	e, err := v.c.effective(v.by[identity], identity, dir)
	if err != nil || !e.policed {
		return 0, err
	}
	r := &comparedRow{reading: at, direction: dir, isolated: e.isolated}
	key := []byte{byte(dir), 0}
	if e.isolated {
		key[1] = 1
	}
	for _, i := range e.rules {
		key = binary.LittleEndian.AppendUint32(key, uint32(i))
	}
	if known, ok := v.known[string(key)]; ok {
		return known, nil
	}
	number := int32(len(s.rows))
	v.known[string(key)] = number
	s.rows = append(s.rows, r)
	v.fill(r, e.rules)
	s.classify(number, r, sets)
	return number, nil
}

// fill names and numbers the rules of a row.
func (v *reading) fill(r *comparedRow, indexes []int32) {
	if len(v.refs) < len(v.c.rules) {
		v.refs = slices.Grow(v.refs, len(v.c.rules)-len(v.refs))[:len(v.c.rules)]
		for ref, i := range v.c.byRule {
			if i >= 0 {
				v.refs[i] = ref
			}
		}
	}
	for place, i := range indexes {
		rule, ref := v.c.rules[i], v.refs[i]
		rule.number = uint16(min(RuleHost+1+place, MaxRule))
		r.rules = append(r.rules, rule)
		p := &v.policies[ref.policy]
		r.names = append(r.names, RuleName{p.Key, p.Rules[ref.rule].Path})
	}
	if r.isolated && r.direction == Ingress && !v.options.HostByRule {
		r.rules = append(r.rules, compiledRule{standing: true, number: RuleHost, peers: v.c.peersOf(v.c.host()), ports: v.c.lists.get(true, nil)})
		r.names = append(r.names, RuleName{ownPolicy, hostRule})
	}
}

// classify groups the peers by which rules match them. It touches only the peers that some rule names.
func (s *comparedSide) classify(number int32, r *comparedRow, sets *portSets) {
	v := s.readings[r.reading]
	var base []int32
	lists := map[int32][]int32{} // list → places of the rules that have it
	var order []*list
	for place := range r.rules {
		l := r.rules[place].peers
		if l.all {
			base = append(base, int32(place))
			continue
		}
		if lists[l.id] == nil {
			order = append(order, l)
		}
		lists[l.id] = append(lists[l.id], int32(place))
	}
	r.groups = append(r.groups[:0], base)
	var touched []int32
	for _, l := range order {
		v.fresh = slices.Grow(v.fresh[:0], len(r.groups))[:len(r.groups)]
		clear(v.fresh)
		for _, class := range l.members {
			g := v.group[class]
			if g == 0 {
				touched = append(touched, class)
			}
			if v.fresh[g] == 0 {
				v.fresh[g] = int32(len(r.groups))
				r.groups = append(r.groups, slices.Concat(r.groups[g], lists[l.id]))
			}
			v.group[class] = v.fresh[g]
		}
	}
	d := s.details(number)
	bits := make([]portSet, d.count)
	for i := range bits {
		bits[i] = sets.empty()
	}
	for class, local := range d.class {
		bits[local].add(class)
	}
	cellOf := make([]int32, len(r.groups))
	cell := func(g int32) int32 {
		if cellOf[g] == 0 {
			allowed := sets.empty()
			for local, c := range s.decided(r, d, g) {
				if c.Allow() {
					allowed.merge(bits[local])
				}
			}
			cellOf[g] = int32(len(s.cells))
			s.cells = append(s.cells, comparedCell{number, g, sets.intern(allowed)})
		}
		return cellOf[g]
	}
	r.base = cell(0)
	for _, class := range touched {
		r.exceptions = append(r.exceptions, classCell{class, cell(v.group[class])})
		v.group[class] = 0
	}
	slices.SortFunc(r.exceptions, func(a, b classCell) int { return cmp.Compare(a.class, b.class) })
}

// details divides the ports by a row's rules.
func (s *comparedSide) details(row int32) *rowDetail {
	c := s.readings[s.rows[row].reading].c
	class, sets, count := localClasses(&c.portParts, c.ports.count, s.rows[row].rules, func(r *compiledRule) *list { return r.ports })
	return &rowDetail{slices.Clone(class), sets, count}
}

// decided lists what a row says about a group of peers, by local port class.
func (s *comparedSide) decided(r *comparedRow, d *rowDetail, group int32) []Cell {
	matching := make([]*compiledRule, len(r.groups[group]))
	for i, place := range r.groups[group] {
		matching[i] = &r.rules[place]
	}
	return decide(matching, d.portSets, r.isolated, make([]cellParts, d.count))
}

// cellOf is the cell of a peer class in a row.
func (r *comparedRow) cellOf(class int32) int32 {
	i, found := slices.BinarySearchFunc(r.exceptions, class, func(e classCell, c int32) int { return cmp.Compare(e.class, c) })
	if found {
		return r.exceptions[i].cell
	}
	return r.base
}

// cause says what makes a cell's verdict on a port class.
func (s *comparedSide) cause(cell int32, class int) (allow bool, rule RuleName) {
	at := s.cells[cell]
	if at.row == 0 {
		return true, RuleName{}
	}
	r := s.rows[at.row]
	d := s.detail[at.row]
	if d == nil {
		d = s.details(at.row)
		s.detail[at.row] = d
	}
	if s.decidedCell != cell {
		s.decidedCell, s.decidedAs = cell, s.decided(r, d, at.group)
	}
	switch c := s.decidedAs[d.class[class]]; {
	case c.Rule() == RuleHost:
		return c.Allow(), RuleName{ownPolicy, hostRule}
	case c.Rule() > RuleHost:
		return c.Allow(), r.names[c.Rule()-RuleHost-1]
	default:
		return c.Allow(), RuleName{}
	}
}

// isolating lists the policies that isolate a pod's identity.
func (v *reading) isolating(identity int32, dir Direction) []string {
	var keys []string
	for _, p := range v.by[identity] {
		if v.policies[p].Isolates[dir] {
			keys = append(keys, v.policies[p].Key)
		}
	}
	return keys
}
