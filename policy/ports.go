// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
)

// portRange is a PortMatch without a name. Of protocols that have no ports only the protocol counts.
type portRange struct {
	protocol    uint8
	first, last uint16
}

// portMask is what the image cuts a protocol's port to.
func portMask(protocol uint8) uint16 {
	switch protocol {
	case TCP, UDP, SCTP:
		return 0xffff
	case ICMP, ICMPv6:
		return 0xff
	}
	return 0
}

// newPortRange is the range as the protocol has it; false if nothing is left.
func newPortRange(protocol uint8, first, last uint16) (portRange, bool) {
	mask := portMask(protocol)
	if mask == 0 {
		return portRange{protocol: protocol}, true
	}
	return portRange{protocol, first, min(last, mask)}, first <= min(last, mask)
}

// portSpace divides the ports of all protocols into classes that none of its ranges tells apart. Class 0 is what no range
// contains. If there are more than maxClasses, it is of no use but to tell so.
type portSpace struct {
	count int
	atoms [256][]portAtom // by protocol, ascending; empty: class 0 throughout
}

// portAtom is a run of ports of one class, up to where the next begins.
type portAtom struct {
	first uint16
	class uint16
}

// newPortSpace needs ranges without duplicates.
func newPortSpace(ranges map[portRange]bool) *portSpace {
	var by [256][]portRange
	for r := range ranges {
		by[r.protocol] = append(by[r.protocol], r)
	}
	s := &portSpace{count: 1}
	for protocol, list := range by {
		if len(list) == 0 {
			continue
		}
		slices.SortFunc(list, func(a, b portRange) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
		s.sweep(uint8(protocol), list)
	}
	return s
}

// sweep walks over the ports from 0 up with the set of ranges that contain the present one.
func (s *portSpace) sweep(protocol uint8, list []portRange) {
	starts := map[uint16]bool{0: true}
	for _, r := range list {
		starts[r.first] = true
		if r.last < portMask(protocol) {
			starts[r.last+1] = true
		}
	}
	sorted := make([]uint16, 0, len(starts))
	for p := range starts {
		sorted = append(sorted, p)
	}
	slices.Sort(sorted)
	ends := make([]int32, len(list)) // indexes into list, by where the ranges end
	for i := range ends {
		ends[i] = int32(i)
	}
	slices.SortFunc(ends, func(a, b int32) int { return cmp.Or(cmp.Compare(list[a].last, list[b].last), cmp.Compare(a, b)) })
	active := newIndexSet(len(list))
	classes := map[uint32]uint16{0: 0}
	next := 0
	for _, port := range sorted {
		for ; len(ends) > 0 && list[ends[0]].last < port; ends = ends[1:] {
			active.set(int(ends[0]), 0)
		}
		for ; next < len(list) && list[next].first == port; next++ {
			active.set(next, 1)
		}
		class, ok := classes[active.name()]
		if !ok {
			class = uint16(s.count)
			s.count++
			classes[active.name()] = class
		}
		s.atoms[protocol] = append(s.atoms[protocol], portAtom{port, class})
	}
}

// indexSet is a set of 0..n-1 that knows whether it was the same before: a binary tree in which equal subtrees have one
// name, at whatever time they were made (hash consing: Filliâtre and Conchon, ML 2006). A change costs log n.
type indexSet struct {
	leaves int
	nodes  []uint32             // of the tree, the root at 1: their names; 0 is the empty one, whatever its size
	names  map[[3]uint32]uint32 // height, left and right → name
}

func newIndexSet(n int) *indexSet {
	s := &indexSet{leaves: 1, names: map[[3]uint32]uint32{}}
	for s.leaves < n {
		s.leaves *= 2
	}
	s.nodes = make([]uint32, 2*s.leaves)
	return s
}

// name is equal for equal sets, and 0 for the empty one.
func (s *indexSet) name() uint32 { return s.nodes[1] }

// set puts i in (1) or takes it out (0).
func (s *indexSet) set(i int, in uint32) {
	at := s.leaves + i
	s.nodes[at] = in
	for height := uint32(1); at > 1; height++ {
		at /= 2
		key := [3]uint32{height, s.nodes[2*at], s.nodes[2*at+1]}
		if key[1]|key[2] == 0 {
			s.nodes[at] = 0
			continue
		}
		name, ok := s.names[key]
		if !ok {
			name = uint32(len(s.names) + 1)
			s.names[key] = name
		}
		s.nodes[at] = name
	}
}

// in lists the classes that r, which is one of the ranges of the space, consists of.
func (s *portSpace) in(r portRange) []int32 {
	atoms := s.atoms[r.protocol]
	i, _ := slices.BinarySearchFunc(atoms, r.first, func(a portAtom, p uint16) int { return cmp.Compare(a.first, p) })
	var classes []int32
	for ; i < len(atoms) && atoms[i].first <= r.last; i++ {
		classes = append(classes, int32(atoms[i].class))
	}
	slices.Sort(classes)
	return slices.Compact(classes)
}

// tables writes the image's protocols and classes.
func (s *portSpace) tables() (protocols []uint32, classes []uint16) {
	protocols = make([]uint32, 0, 512)
	size := 1
	for protocol := range 256 {
		if len(s.atoms[protocol]) > 0 {
			size += int(portMask(uint8(protocol))) + 1
		}
	}
	classes = append(make([]uint16, 0, size), 0) // all of the protocols that no rule names
	for protocol := range 256 {
		atoms := s.atoms[protocol]
		if len(atoms) == 0 {
			protocols = append(protocols, 0, 0)
			continue
		}
		mask := portMask(uint8(protocol))
		protocols = append(protocols, uint32(len(classes)), uint32(mask))
		for i, a := range atoms {
			end := int(mask) + 1
			if i+1 < len(atoms) {
				end = int(atoms[i+1].first)
			}
			for range end - int(a.first) {
				classes = append(classes, a.class)
			}
		}
	}
	return protocols, classes
}
