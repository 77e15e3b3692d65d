// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// population is the set of identities an image defines, by dense index: 0 is the unknown one, the others ascend with
// their numbers. It answers "which identities match?" from postings instead of asking every one.
type population struct {
	numbers []uint32
	defs    []*Definition // defs[0] is nil
	pods    []int32
	byLabel map[label][]int32
	byKey   map[string][]int32
	byPort  map[portName]map[uint16][]int32
	within  map[netip.Prefix][]int32 // of any kind
	cache   map[string][]int32
}

type label struct{ key, value string }

type portName struct {
	name     string
	protocol uint8
}

func newPopulation(defs map[uint32]*Definition, keep func(*Definition) bool) *population {
	p := &population{
		numbers: []uint32{0}, defs: []*Definition{nil}, byLabel: map[label][]int32{}, byKey: map[string][]int32{},
		byPort: map[portName]map[uint16][]int32{}, within: map[netip.Prefix][]int32{}, cache: map[string][]int32{},
	}
	for _, number := range slices.Sorted(maps.Keys(defs)) {
		d := defs[number]
		if keep != nil && !keep(d) {
			continue
		}
		i := int32(len(p.numbers))
		p.numbers, p.defs = append(p.numbers, number), append(p.defs, d)
		for _, prefix := range d.Prefixes {
			p.within[prefix] = append(p.within[prefix], i)
		}
		if !d.Pod() {
			continue
		}
		p.pods = append(p.pods, i)
		for k, v := range d.Labels {
			p.byKey[k] = append(p.byKey[k], i)
			p.byLabel[label{k, v}] = append(p.byLabel[label{k, v}], i)
		}
		for _, port := range d.Ports {
			n := portName{port.Name, port.Protocol}
			if p.byPort[n] == nil {
				p.byPort[n] = map[uint16][]int32{}
			}
			p.byPort[n][port.Port] = append(p.byPort[n][port.Port], i)
		}
	}
	return p
}

// selected lists the pods that s matches; the caller must not write to it.
func (p *population) selected(s Selector) []int32 {
	key := selectorKey(s)
	if m, ok := p.cache[key]; ok {
		return m
	}
	candidates := p.pods
	for i := range s {
		r := &s[i]
		var c []int32
		switch r.Op {
		case Exists:
			c = p.byKey[r.Key]
		case In:
			for _, v := range slices.Compact(slices.Sorted(slices.Values(r.Values))) {
				c = append(c, p.byLabel[label{r.Key, v}]...)
			}
		default:
			continue
		}
		if len(c) < len(candidates) {
			candidates = c
		}
	}
	matching := make([]int32, 0, len(candidates))
	for _, i := range candidates {
		if s.Matches(p.defs[i].Labels) {
			matching = append(matching, i)
		}
	}
	slices.Sort(matching)
	p.cache[key] = matching
	return matching
}

// matching lists the identities that peer matches, which is not PeerAny or the like; the caller must not write to it.
func (p *population) matching(peer *Peer) []int32 {
	if peer.Kind == PeerSelector {
		return p.selected(peer.Selector)
	}
	key := peerKey(peer)
	if m, ok := p.cache[key]; ok {
		return m
	}
	var m []int32
	if peer.Kind == PeerCIDR {
		for _, i := range p.within[peer.CIDR.Masked()] {
			if p.defs[i].matches(peer) {
				m = append(m, i)
			}
		}
	} else {
		for i := 1; i < len(p.defs); i++ {
			if p.defs[i].matches(peer) {
				m = append(m, int32(i))
			}
		}
	}
	p.cache[key] = m
	return m
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
