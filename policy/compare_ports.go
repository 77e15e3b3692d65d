// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// portSet is a set of port classes.
type portSet []uint64

func (s portSet) add(class int) { s[class/64] |= 1 << (class % 64) }

func (s portSet) has(class int) bool { return s[class/64]>>(class%64)&1 != 0 }

func (s portSet) merge(other portSet) {
	for i := range s {
		s[i] |= other[i]
	}
}

func (s portSet) cut(other portSet) {
	for i := range s {
		s[i] &^= other[i]
	}
}

// each calls yield with the classes of the set, ascending.
func (s portSet) each(yield func(class int)) {
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			yield(64*i + bits.TrailingZeros64(word))
		}
	}
}

// portSets gives equal sets equal numbers; 0 is the empty one.
type portSets struct {
	words int
	ids   map[string]int32
	sets  []portSet
	turns map[[4]int32][2]int32
}

func newPortSets() *portSets {
	return &portSets{ids: map[string]int32{}, turns: map[[4]int32][2]int32{}}
}

// size makes room for classes; only before the first set.
func (p *portSets) size(classes int) {
	p.words = (classes + 63) / 64
	p.intern(p.empty())
}

func (p *portSets) empty() portSet { return make(portSet, p.words) }

func (p *portSets) all(classes int) int32 {
	s := p.empty()
	for c := range classes {
		s.add(c)
	}
	return p.intern(s)
}

func (p *portSets) intern(s portSet) int32 {
	key := make([]byte, 0, 8*len(s))
	for _, word := range s {
		key = binary.LittleEndian.AppendUint64(key, word)
	}
	id, ok := p.ids[string(key)]
	if !ok {
		id = int32(len(p.sets))
		p.ids[string(key)] = id
		p.sets = append(p.sets, s)
	}
	return id
}

// turn says what a packet's ports gain and lose if the sender's set and the receiver's change.
func (p *portSets) turn(egressOld, egressNow, ingressOld, ingressNow int32) (added, removed int32) {
	key := [4]int32{egressOld, egressNow, ingressOld, ingressNow}
	t, ok := p.turns[key]
	if !ok {
		plus, minus := p.empty(), p.empty()
		for i := range p.words {
			old := p.sets[egressOld][i] & p.sets[ingressOld][i]
			now := p.sets[egressNow][i] & p.sets[ingressNow][i]
			plus[i], minus[i] = now&^old, old&^now
		}
		t = [2]int32{p.intern(plus), p.intern(minus)}
		p.turns[key] = t
	}
	return t[0], t[1]
}

// common is what three sets have in common.
func (p *portSets) common(set int32, a, b portSet) int32 {
	c := p.empty()
	for i, word := range p.sets[set] {
		c[i] = word & a[i] & b[i]
	}
	return p.intern(c)
}

// names are the ports of a set for people, protocol by protocol. There is no port 0, and no ICMP of the other family.
func (s *portSpace) names(set portSet, family int) []string {
	other := ICMPv6
	if family == 1 {
		other = ICMP
	}
	var names []string
	whole := true
	for _, protocol := range s.spoken() {
		if protocol == other {
			continue
		}
		first, last := 0, int(portMask(protocol))
		if last == 0xffff {
			first = 1
		}
		var runs []string
		start := -1
		for i, a := range s.atomsOf(protocol) {
			end := last
			if next := s.atomsOf(protocol); i+1 < len(next) {
				end = int(next[i+1].first) - 1
			}
			switch in := set.has(int(a.class)); {
			case in && start < 0:
				start = max(int(a.first), first)
			case !in && start >= 0:
				runs = appendRun(runs, start, int(a.first)-1)
				start = -1
			}
			if end == last && start >= 0 {
				runs = appendRun(runs, start, last)
			}
		}
		name := ProtocolName(protocol)
		if protocol == ICMPv6 && len(runs) == 1 && runs[0] == "0-255" {
			name = ProtocolName(ICMP) // as a whole it is the same in both families
		}
		switch full := fmt.Sprintf("%d-%d", first, last); {
		case len(runs) == 0:
			whole = false
		case len(runs) == 1 && (runs[0] == full || last == 0):
			names = append(names, name)
		case last == 0xff:
			whole = false
			names = append(names, name+" type "+strings.Join(runs, ","))
		default:
			whole = false
			names = append(names, name+" "+strings.Join(runs, ","))
		}
	}
	switch {
	case !set.has(0):
	case whole:
		return []string{"all ports"}
	default:
		names = append(names, "other protocols")
	}
	return names
}

func appendRun(runs []string, first, last int) []string {
	switch {
	case first > last: // nothing but port 0
		return runs
	case first == last:
		return append(runs, fmt.Sprint(first))
	}
	return append(runs, fmt.Sprintf("%d-%d", first, last))
}

// spoken lists the protocols that people know and those that rules name.
func (s *portSpace) spoken() []uint8 {
	protocols := []uint8{TCP, UDP, SCTP, ICMP, ICMPv6}
	for p := range s.atoms {
		if len(s.atoms[p]) > 0 && uint8(p) != TCP && uint8(p) != UDP && uint8(p) != SCTP && uint8(p) != ICMP && uint8(p) != ICMPv6 {
			protocols = append(protocols, uint8(p))
		}
	}
	return protocols
}

// atomsOf are the runs of a protocol's ports; one of class 0 if no rule names the protocol.
func (s *portSpace) atomsOf(protocol uint8) []portAtom {
	if atoms := s.atoms[protocol]; len(atoms) > 0 {
		return atoms
	}
	return []portAtom{{}}
}
