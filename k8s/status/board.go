// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"sort"
)

// Policy is a policy as the board knows it.
type Policy struct {
	Kind, Namespace, Name, UID string
	APIVersion                 string
	Generation                 int64
	Audited                    bool
	// Since is the resourceVersion when this generation, audited or not, was first seen.
	Since uint64
}

// PolicyKey names a policy.
type PolicyKey struct{ Kind, Namespace, Name string }

// Key is the policy's.
func (p Policy) Key() PolicyKey { return PolicyKey{p.Kind, p.Namespace, p.Name} }

// NodeFacts are what the cluster says of a Node.
type NodeFacts struct {
	UID, BootID string
	Ready       bool
	Expected    bool // weir is meant to run there
}

// Board holds nodes, what they report, and policies, and says how far each policy is enforced. It is plain data: not safe
// for concurrent use, and it knows no time.
type Board struct {
	policies map[PolicyKey]*Policy
	nodes    map[string]*boardNode
	notes    map[PolicyKey]*noted
	orders   map[string]*order // by kind; dropped when a node changes
	names    map[PolicyKey]PolicyKey
	omitting int // nodes that have more exceptions than they list
}

type boardNode struct {
	facts  NodeFacts
	exists bool

	reported bool
	owner    string // UID of the Node that the report is of
	boot     string
	phase    string
	failure  string
	omitted  bool
	marks    map[string]uint64
	about    []told // its exceptions
	aboutSum uint64 // of what was reported of them
}

// told is a policy that a node has exceptions of, and the fields that it says more about.
type told struct {
	key    PolicyKey
	fields []noteField
}

// noted is what all nodes say of one policy.
type noted struct {
	nodes  map[string][]string     // node → reasons
	fields map[noteField]*fieldUse // what the fields are, and how many nodes say so

	// What counting all nodes comes to; nil if they must be counted anew.
	reasons  []NodeReason
	excepted int
}

type noteField struct{ reason, field string }

type fieldUse struct {
	message string
	nodes   int
}

// order is the nodes that must enforce policies of a kind, those that are farthest behind first.
type order struct {
	names   []string
	marks   []uint64
	absent  []int // of the first i nodes, how many are not ready
	failing []int // and how many fail
	strays  bool  // there are reports of nodes that need not enforce anything
}

// NewBoard makes an empty board.
func NewBoard() *Board {
	return &Board{policies: map[PolicyKey]*Policy{}, nodes: map[string]*boardNode{}, notes: map[PolicyKey]*noted{},
		orders: map[string]*order{}, names: map[PolicyKey]PolicyKey{}}
}

// SetPolicy takes over a policy, and says whether it is another generation, or under audit or no more, than before. version
// is its resourceVersion. p.Since, if set, is what was remembered of this generation and may be older.
func (b *Board) SetPolicy(p Policy, version uint64) (news bool) {
	if p.Since == 0 || p.Since > version {
		p.Since = version
	}
	old := b.policies[p.Key()]
	if old != nil && old.UID == p.UID && old.Generation == p.Generation && old.Audited == p.Audited {
		p.Since = min(old.Since, version) // a version that goes back is that of a cluster restored from a backup
		*old = p
		return false
	}
	b.policies[p.Key()] = &p
	return true
}

// DeletePolicy forgets a policy.
func (b *Board) DeletePolicy(key PolicyKey) { delete(b.policies, key) }

// SetNode takes over what the cluster says of a Node, and says whether that is news.
func (b *Board) SetNode(name string, facts NodeFacts) (news bool) {
	n := b.node(name)
	if n.exists && n.facts == facts {
		return false
	}
	n.facts, n.exists = facts, true
	clear(b.orders)
	return true
}

// DeleteNode forgets a Node.
func (b *Board) DeleteNode(name string) {
	if n := b.nodes[name]; n != nil {
		n.exists, n.facts = false, NodeFacts{}
		b.forget(name, n)
	}
}

// SetReport takes over what a node reports.
func (b *Board) SetReport(w *WeirNode) {
	n, s := b.node(w.Name), &w.Status
	n.reported, n.owner, n.boot, n.phase, n.failure = true, "", s.BootID, s.Phase, s.Failure
	for _, o := range w.OwnerReferences {
		if o.Kind == "Node" {
			n.owner = string(o.UID)
		}
	}
	n.marks = make(map[string]uint64, len(s.Kinds))
	for _, k := range s.Kinds {
		n.marks[k.Kind] = version(k.ResourceVersion)
	}
	clear(b.orders)
	sum := sumOf(s.Exceptions)
	if sum == n.aboutSum && n.omitted == (s.ExceptionsOmitted > 0) {
		return // mostly, only the marks move
	}
	b.takeBack(w.Name, n)
	n.aboutSum = sum
	for i := range s.Exceptions {
		b.note(w.Name, n, &s.Exceptions[i])
	}
	if n.omitted = s.ExceptionsOmitted > 0; n.omitted {
		b.omitting++
	}
}

// sumOf is the same for the same exceptions; 0 for none.
func sumOf(exceptions []Exception) uint64 {
	if len(exceptions) == 0 {
		return 0
	}
	h := fnv.New64a()
	for i := range exceptions {
		e := &exceptions[i]
		for _, text := range []string{e.Kind, e.Namespace, e.Name, e.Reason, e.Field, e.Message} {
			io.WriteString(h, text)
			h.Write([]byte{0})
		}
	}
	return h.Sum64()
}

// DeleteReport forgets what a node reported.
func (b *Board) DeleteReport(name string) {
	if n := b.nodes[name]; n != nil {
		b.takeBack(name, n)
		n.reported, n.marks, n.failure, n.phase = false, nil, "", ""
		b.forget(name, n)
	}
}

func (b *Board) node(name string) *boardNode {
	n := b.nodes[name]
	if n == nil {
		n = &boardNode{}
		b.nodes[name] = n
	}
	return n
}

func (b *Board) forget(name string, n *boardNode) {
	clear(b.orders)
	if !n.exists && !n.reported {
		delete(b.nodes, name)
	}
}

// intern makes equal keys share their text: thousands of nodes name the same policies.
func (b *Board) intern(k PolicyKey) PolicyKey {
	if known, ok := b.names[k]; ok {
		return known
	}
	b.names[k] = k
	return k
}

func (b *Board) note(name string, n *boardNode, e *Exception) {
	key := b.intern(PolicyKey{e.Kind, e.Namespace, e.Name})
	of := b.notes[key]
	if of == nil {
		of = &noted{nodes: map[string][]string{}, fields: map[noteField]*fieldUse{}}
		b.notes[key] = of
	}
	of.reasons = nil
	if len(of.nodes[name]) == 0 {
		n.about = append(n.about, told{key: key})
	}
	if !slices.Contains(of.nodes[name], e.Reason) {
		of.nodes[name] = append(of.nodes[name], e.Reason)
	}
	if e.Message == "" {
		return
	}
	at := noteField{e.Reason, e.Field}
	use := of.fields[at]
	if use == nil {
		use = &fieldUse{}
		of.fields[at] = use
	}
	use.message = e.Message
	use.nodes++
	last := &n.about[len(n.about)-1]
	last.fields = append(last.fields, at)
}

// takeBack removes what a node said of policies.
func (b *Board) takeBack(name string, n *boardNode) {
	for _, t := range n.about {
		of := b.notes[t.key]
		of.reasons = nil
		delete(of.nodes, name)
		for _, f := range t.fields {
			if of.fields[f].nodes--; of.fields[f].nodes == 0 {
				delete(of.fields, f)
			}
		}
		if len(of.nodes) == 0 {
			delete(b.notes, t.key)
			delete(b.names, t.key)
		}
	}
	n.about, n.aboutSum = nil, 0
	if n.omitted {
		n.omitted = false
		b.omitting--
	}
}

// must says whether a node has to enforce policies: weir runs there, or is meant to.
func (n *boardNode) must() bool {
	switch {
	case !n.exists:
		return false
	case n.own():
		return n.phase != PhaseCleaned
	}
	return n.facts.Expected && n.facts.Ready // one that has never been ready is still joining
}

// own says whether a report is of this Node, and not of an earlier one of its name.
func (n *boardNode) own() bool { return n.reported && (n.owner == "" || n.owner == n.facts.UID) }

// valid says whether a report is of this Node as it runs now: what was enforced before a reboot is gone.
func (n *boardNode) valid() bool {
	return n.own() && (n.boot == "" || n.facts.BootID == "" || n.boot == n.facts.BootID)
}

// mark is the version up to which policies of a kind are enforced on the node.
func (n *boardNode) mark(kind string) uint64 {
	if !n.valid() {
		return 0
	}
	return n.marks[kind]
}

func (b *Board) order(kind string) *order {
	if o := b.orders[kind]; o != nil {
		return o
	}
	o := &order{}
	for name, n := range b.nodes {
		if n.must() {
			o.names = append(o.names, name)
		} else if n.reported {
			o.strays = true
		}
	}
	slices.SortFunc(o.names, func(x, y string) int {
		return cmp.Or(cmp.Compare(b.nodes[x].mark(kind), b.nodes[y].mark(kind)), cmp.Compare(x, y))
	})
	o.marks = make([]uint64, len(o.names))
	o.absent, o.failing = make([]int, len(o.names)+1), make([]int, len(o.names)+1)
	for i, name := range o.names {
		n := b.nodes[name]
		o.marks[i] = n.mark(kind)
		o.absent[i+1], o.failing[i+1] = o.absent[i], o.failing[i]
		switch {
		case !n.facts.Ready:
			o.absent[i+1]++
		case n.phase == PhaseFailing:
			o.failing[i+1]++
		}
	}
	b.orders[kind] = o
	return o
}

// behind is how many nodes have not applied version; they are the first ones.
func (o *order) behind(version uint64) int {
	return sort.Search(len(o.marks), func(i int) bool { return o.marks[i] >= version })
}

// Keys lists the policies, sorted.
func (b *Board) Keys() []PolicyKey {
	return slices.SortedFunc(maps.Keys(b.policies), func(x, y PolicyKey) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
}

// Nodes counts those that must enforce policies, and of these those that do not report, or fail.
func (b *Board) Nodes() (must, silent, failing int) {
	for _, n := range b.nodes {
		if !n.must() {
			continue
		}
		must++
		switch {
		case !n.valid():
			silent++
		case n.phase == PhaseFailing:
			failing++
		}
	}
	return must, silent, failing
}
