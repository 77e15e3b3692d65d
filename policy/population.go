// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// population is the set of identities an image defines, by number; 0 is the unknown one. It answers "which identities
// match?" from postings instead of asking every one, and remembers the answers: an identity that comes or goes touches only
// those that it is part of.
type population struct {
	keep    func(*Definition) bool // nil: all
	defs    definitions            // nil where a number means nothing or is not kept
	pods    []int32
	byName  []int32 // all, in the order of their keys
	byLabel map[label][]int32
	byKey   map[string][]int32
	byPort  map[portName]map[uint16][]int32
	within  map[netip.Prefix][]int32 // of any kind

	sets map[string]*idSet
	// Where those sets are found that an identity may be in: by a label, by the key of one, or by a prefix that it needs.
	needLabel  map[label][]*idSet
	needKey    map[string][]*idSet
	needPrefix map[netip.Prefix][]*idSet
	needNone   []*idSet
}

type label struct{ key, value string }

type portName struct {
	name     string
	protocol uint8
}

// idSet is the identities that a peer matches.
type idSet struct {
	key     string // equal for equal peers
	peer    Peer
	members []int32 // ascending; changes with the population
}

func (s *idSet) matches(d *Definition) bool {
	if s.peer.Kind == PeerSelector {
		return d.Pod() && s.peer.Selector.Matches(d.Labels)
	}
	return d.matches(&s.peer)
}

func newPopulation(defs definitions, keep func(*Definition) bool) *population {
	p := &population{
		keep: keep, byLabel: map[label][]int32{}, byKey: map[string][]int32{}, byPort: map[portName]map[uint16][]int32{},
		within: map[netip.Prefix][]int32{}, sets: map[string]*idSet{},
		needLabel: map[label][]*idSet{}, needKey: map[string][]*idSet{}, needPrefix: map[netip.Prefix][]*idSet{},
	}
	for number, d := range defs.all() {
		if keep == nil || keep(d) {
			p.defs = p.defs.set(number, d)
			p.post(int32(number), d, add)
			p.byName = append(p.byName, int32(number))
		}
	}
	p.defs = p.defs.set(0, nil)
	slices.SortFunc(p.byName, p.compareNames)
	return p
}

func (p *population) compareNames(a, b int32) int {
	return cmp.Or(strings.Compare(p.defs[a].key(), p.defs[b].key()), cmp.Compare(a, b))
}

// add puts an element into an ascending list.
func add(list []int32, e int32) []int32 {
	if n := len(list); n == 0 || list[n-1] < e {
		return append(list, e)
	}
	at, found := slices.BinarySearch(list, e)
	if found {
		return list
	}
	return slices.Insert(list, at, e)
}

// drop takes an element out of an ascending list.
func drop(list []int32, e int32) []int32 {
	if at, found := slices.BinarySearch(list, e); found {
		return slices.Delete(list, at, at+1)
	}
	return list
}

// post changes the postings that an identity is in.
func (p *population) post(i int32, d *Definition, change func([]int32, int32) []int32) {
	for _, prefix := range d.Prefixes {
		repost(p.within, prefix, i, change)
	}
	if !d.Pod() {
		return
	}
	p.pods = change(p.pods, i)
	for k, v := range d.Labels {
		repost(p.byKey, k, i, change)
		repost(p.byLabel, label{k, v}, i, change)
	}
	for _, port := range d.Ports {
		n := portName{port.Name, port.Protocol}
		if p.byPort[n] == nil {
			p.byPort[n] = map[uint16][]int32{}
		}
		if repost(p.byPort[n], port.Port, i, change); len(p.byPort[n]) == 0 {
			delete(p.byPort, n)
		}
	}
}

func repost[K comparable](postings map[K][]int32, key K, i int32, change func([]int32, int32) []int32) {
	if list := change(postings[key], i); len(list) > 0 {
		postings[key] = list
	} else {
		delete(postings, key)
	}
}

// replace makes d, or nobody, what a number means.
func (p *population) replace(number uint32, d *Definition) {
	if d != nil && p.keep != nil && !p.keep(d) {
		d = nil
	}
	i, old := int32(number), p.defs.get(number)
	switch {
	case old == d:
		return
	case old != nil && d != nil && old.key() == d.key():
		p.defs[number] = d // the same by another name
		return
	}
	if old != nil {
		at, _ := slices.BinarySearchFunc(p.byName, i, p.compareNames)
		p.byName = slices.Delete(p.byName, at, at+1)
		p.post(i, old, drop)
		p.concerned(old, func(s *idSet) { s.members = drop(s.members, i) })
	}
	if p.defs = p.defs.set(number, d); d != nil {
		at, _ := slices.BinarySearchFunc(p.byName, i, p.compareNames)
		p.byName = slices.Insert(p.byName, at, i)
		p.post(i, d, add)
		p.concerned(d, func(s *idSet) { s.members = add(s.members, i) })
	}
	if p.defs = p.defs.trimmed(); len(p.defs) == 0 {
		p.defs = p.defs.set(0, nil)
	}
}

// concerned calls yield for the sets that an identity is in.
func (p *population) concerned(d *Definition, yield func(*idSet)) {
	ask := func(sets []*idSet) {
		for _, s := range sets {
			if s.matches(d) {
				yield(s)
			}
		}
	}
	ask(p.needNone)
	for _, prefix := range d.Prefixes {
		ask(p.needPrefix[prefix])
	}
	for k, v := range d.Labels {
		ask(p.needKey[k])
		ask(p.needLabel[label{k, v}])
	}
}

// set is that of a peer, which is not PeerAny or the like.
func (p *population) set(peer *Peer) *idSet {
	key := peerKey(peer)
	if s, ok := p.sets[key]; ok {
		return s
	}
	s := &idSet{key: key, peer: *peer}
	var candidates []int32
	switch peer.Kind {
	case PeerSelector:
		candidates = p.need(s)
	case PeerCIDR:
		at := peer.CIDR.Masked()
		candidates = p.within[at]
		p.needPrefix[at] = append(p.needPrefix[at], s)
	default:
		p.needNone = append(p.needNone, s)
		for i, d := range p.defs.all() {
			if s.matches(d) {
				s.members = append(s.members, int32(i))
			}
		}
	}
	for _, i := range candidates {
		if s.matches(p.defs[i]) {
			s.members = append(s.members, i)
		}
	}
	slices.Sort(s.members)
	p.sets[key] = s
	return s
}

// need lists the pods that a selector may match, and notes by what the set is found: its requirement that fewest meet.
func (p *population) need(s *idSet) []int32 {
	candidates, best := p.pods, -1
	for i := range s.peer.Selector {
		r := &s.peer.Selector[i]
		var c []int32
		switch r.Op {
		case Exists:
			c = p.byKey[r.Key]
		case In:
			for _, v := range distinct(r.Values) {
				c = append(c, p.byLabel[label{r.Key, v}]...)
			}
		default:
			continue
		}
		if best < 0 || len(c) < len(candidates) {
			candidates, best = c, i
		}
	}
	if best < 0 {
		p.needNone = append(p.needNone, s)
		return candidates
	}
	if r := &s.peer.Selector[best]; r.Op == Exists {
		p.needKey[r.Key] = append(p.needKey[r.Key], s)
	} else {
		for _, v := range distinct(r.Values) {
			l := label{r.Key, v}
			p.needLabel[l] = append(p.needLabel[l], s)
		}
	}
	return candidates
}

// keepSets forgets all other sets.
func (p *population) keepSets(kept map[*idSet]bool) {
	maps.DeleteFunc(p.sets, func(_ string, s *idSet) bool { return !kept[s] })
	other := func(s *idSet) bool { return !kept[s] }
	p.needNone = slices.DeleteFunc(p.needNone, other)
	keepLists(p.needLabel, other)
	keepLists(p.needKey, other)
	keepLists(p.needPrefix, other)
}

func keepLists[K comparable](lists map[K][]*idSet, other func(*idSet) bool) {
	for k, list := range lists {
		if list = slices.DeleteFunc(list, other); len(list) > 0 {
			lists[k] = list
		} else {
			delete(lists, k)
		}
	}
}

func distinct(values []string) []string {
	if len(values) < 2 {
		return values
	}
	return slices.Compact(slices.Sorted(slices.Values(values)))
}

// matchesAll says whether peer matches everything, the unknown identity included.
func (p *Peer) matchesAll() bool {
	return p.Kind == PeerAny || p.Kind == PeerEntity && p.Entity == EntityAll
}

// selectorKey is equal for selectors with the same requirements in any order.
func selectorKey(s Selector) string {
	parts := make([]string, len(s))
	for i := range s {
		var b strings.Builder
		fmt.Fprintf(&b, "%d:%s %d", len(s[i].Key), s[i].Key, s[i].Op)
		for _, v := range slices.Sorted(slices.Values(s[i].Values)) {
			fmt.Fprintf(&b, " %d:%s", len(v), v)
		}
		parts[i] = b.String()
	}
	slices.Sort(parts)
	return "s" + strings.Join(parts, "&")
}

func peerKey(p *Peer) string {
	switch p.Kind {
	case PeerSelector:
		return selectorKey(p.Selector)
	case PeerEntity:
		return "e" + string(p.Entity)
	case PeerCIDR:
		except := make([]string, len(p.Except))
		for i, e := range p.Except {
			except[i] = e.Masked().String()
		}
		slices.Sort(except)
		return fmt.Sprintf("c%s %v %v %v", p.CIDR.Masked(), p.MatchPods, p.MatchNodes, except)
	default:
		return "a"
	}
}
