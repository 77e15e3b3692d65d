// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
)

// ErrTooMany is what errors wrap that say that some kind of number has run out.
var ErrTooMany = errors.New("too many")

// DefaultMaxImage bounds the image unless Numbers say otherwise; it is the size of the kernel's map.
const DefaultMaxImage = 16 << 20

// Limits of the kernel's tables: the highest slots.
const (
	MaxEndpoint = 4095
	MaxNode     = 8191
)

// Numbers are the names for things that the kernel's tables use, chosen outside of Compile so that it stays pure. A
// number is never redefined while anything may still refer to it.
type Numbers struct {
	Generation uint32
	MaxImage   int // bytes; 0: DefaultMaxImage
	Vocabulary Vocabulary
	Identities map[uint32]*Definition // every number that the image shall define
	Rules      map[RuleName]uint16
	LastRule   uint16 // the number handed out last
	Endpoints  map[PodName]uint16
	Nodes      map[string]uint16
	Tenancies  map[netip.Addr]Tenancy
	Charged    map[string]bool // namespaces whose policies are too large, and closed
}

// Definition is what an identity number means.
type Definition struct {
	Identity
	// Local: pods of this node have or had it, so the image needs their rows.
	Local bool `json:"local,omitempty"`
	// Name tells apart numbers with equal identities: those of pods whose identity changed together with the policies
	// stay with what replaced it. Empty for the number that newcomers get.
	Name string `json:"name,omitempty"`
	// Addrs, for a number with a Name, are those that have it.
	Addrs []netip.Addr `json:"addrs,omitempty"`

	cachedKey string
}

func (d *Definition) key() string {
	if d.cachedKey == "" {
		return d.Identity.key()
	}
	return d.cachedKey
}

// same says whether two definitions mean the same by the same name.
func (d *Definition) same(e *Definition) bool {
	return d == e || d.Local == e.Local && d.Name == e.Name && slices.Equal(d.Addrs, e.Addrs) && d.key() == e.key()
}

// definitions are what identity numbers mean, by number; nil: nothing. They are not written to once they are in use.
type definitions []*Definition

func (d definitions) get(number uint32) *Definition {
	if int64(number) < int64(len(d)) {
		return d[number]
	}
	return nil
}

// set writes a definition, and returns what may be another list then.
func (d definitions) set(number uint32, def *Definition) definitions {
	if missing := int(number) + 1 - len(d); missing > 0 {
		d = append(d, make(definitions, missing)...)
	}
	d[number] = def
	return d
}

// trimmed is d without numbers at its end that mean nothing.
func (d definitions) trimmed() definitions {
	for len(d) > 0 && d[len(d)-1] == nil {
		d = d[:len(d)-1]
	}
	return d
}

// all lists what has a meaning.
func (d definitions) all() iter.Seq2[uint32, *Definition] {
	return func(yield func(uint32, *Definition) bool) {
		for i, def := range d {
			if def != nil && !yield(uint32(i), def) {
				return
			}
		}
	}
}

// Tenancy is the pod that has, or was the last to have, an address.
type Tenancy struct {
	PodName
	Count uint8  `json:"count,omitempty"` // pods before it, modulo 256
	Left  uint32 `json:"left,omitempty"`  // generation in which it was missed first; 0: it is there
}

// NewNumbers are the numbers of a node where nothing has been compiled yet: only the reserved identities have a meaning.
func NewNumbers() *Numbers {
	n := &Numbers{
		Identities: map[uint32]*Definition{}, Rules: map[RuleName]uint16{}, Endpoints: map[PodName]uint16{},
		Nodes: map[string]uint16{}, Tenancies: map[netip.Addr]Tenancy{}, LastRule: RuleHost,
	}
	for number, id := range reserved() {
		n.Identities[number] = &Definition{Identity: id, cachedKey: id.key()}
	}
	return n
}

// numbering is Numbers as the compiler and the planner have them: what most plans leave as it is is shared from one to the
// next, and must not be written to.
type numbering struct {
	generation uint32
	maxImage   int
	vocabulary Vocabulary
	identities definitions
	rules      map[RuleName]uint16
	lastRule   uint16
	endpoints  map[PodName]uint16
	nodes      map[string]uint16
	tenancies  chunks[tenancyKey]
	charged    map[string]bool
}

func newNumbering() *numbering {
	n := &numbering{rules: map[RuleName]uint16{}, endpoints: map[PodName]uint16{}, nodes: map[string]uint16{}, lastRule: RuleHost}
	for number, id := range reserved() {
		n.identities = n.identities.set(number, &Definition{Identity: id, cachedKey: id.key()})
	}
	return n
}

// numbering is n in lists of its own.
func (n *Numbers) numbering() *numbering {
	own := &numbering{
		generation: n.Generation, maxImage: n.MaxImage, vocabulary: n.Vocabulary, rules: n.Rules, lastRule: n.LastRule,
		endpoints: n.Endpoints, nodes: n.Nodes, tenancies: tenanciesFrom(n.Tenancies), charged: n.Charged,
	}
	for _, number := range slices.Sorted(maps.Keys(n.Identities)) {
		own.identities = own.identities.set(number, n.Identities[number])
	}
	return own
}

// tenancy is the last pod of an address.
func (n *numbering) tenancy(a netip.Addr) (Tenancy, bool) {
	if t := n.tenancies.find(tenancyAt(a)); t != nil {
		return t.Tenancy, true
	}
	return Tenancy{}, false
}

// identityIndex finds the identity number of an owner.
type identityIndex struct {
	byKey map[string]uint32     // Identity.key → number, of definitions without a Name
	named map[netip.Addr]uint32 // exceptions
	defs  definitions
}

func (d definitions) index() *identityIndex {
	x := &identityIndex{make(map[string]uint32, len(d)), map[netip.Addr]uint32{}, d}
	for number, def := range d.all() {
		for _, a := range def.Addrs {
			x.named[a] = number
		}
		if _, ok := x.byKey[def.key()]; !ok && def.Name == "" { // the lowest comes first
			x.byKey[def.key()] = number
		}
	}
	return x
}

// of is the number for the owner of an address; false if none is defined.
func (x *identityIndex) of(o *owner) (uint32, bool) {
	if number, ok := x.named[o.prefix.Addr()]; ok && o.prefix.IsSingleIP() && x.defs[number].key() == o.id.key() {
		return number, true
	}
	number, ok := x.byKey[o.id.key()]
	return number, ok
}

// pool hands out the numbers first..last, each to one name.
type pool[K comparable, N ~uint16 | ~uint32] struct {
	what        string
	first, last N
	held        map[K]N    // names that have a number
	tried       map[K]N    // names that got one in a plan that was not carried out, as far as anybody knows
	resting     map[N]bool // numbers given back so recently that something may still refer to them
	cursor      *N         // if set, the number handed out last: the search goes on from there
}

// assign returns the numbers of names: those they have, or the next free ones, in the order of names. What does not fit
// gets overflow, if that is not 0.
func (p *pool[K, N]) assign(names []K, overflow N) (map[K]N, error) {
	taken := make(map[N]bool, len(p.held)+len(names))
	for _, n := range p.held {
		taken[n] = true
	}
	for _, n := range p.tried {
		taken[n] = true
	}
	got := make(map[K]N, len(names))
	next := p.first
	if p.cursor != nil && *p.cursor >= p.first && *p.cursor < p.last {
		next = *p.cursor + 1
	}
	for left := int(p.last-p.first) + 1; len(names) > 0; names = names[1:] {
		name := names[0]
		n, ok := p.held[name]
		if !ok {
			n, ok = p.tried[name]
		}
		for ; !ok && left > 0; left-- {
			if n = next; !taken[n] && !p.resting[n] {
				ok = true
				taken[n] = true
				if p.cursor != nil {
					*p.cursor = n
				}
			}
			if next++; next > p.last {
				next = p.first
			}
		}
		if !ok {
			if overflow == 0 {
				return nil, fmt.Errorf("number %v: %w %s: all of %d..%d are in use", name, ErrTooMany, p.what, p.first, p.last)
			}
			n = overflow
		}
		got[name] = n
	}
	return got, nil
}
