// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"net/netip"
)

// podSet finds pods by their names. Names are not kept beside the pods that have them: that would take as much memory again.
type podSet struct {
	seed   maphash.Seed
	byHash map[uint64]*Pod
	others map[podID]*Pod // whose hash another has
}

func newPodSet(most int) *podSet {
	return &podSet{maphash.MakeSeed(), make(map[uint64]*Pod, most), map[podID]*Pod{}}
}

func (s *podSet) get(id podID) *Pod {
	if p := s.byHash[maphash.Comparable(s.seed, id)]; p != nil && p.id() == id {
		return p
	}
	return s.others[id]
}

func (s *podSet) put(p *Pod) {
	id := p.id()
	h := maphash.Comparable(s.seed, id)
	if there := s.byHash[h]; there == nil && s.others[id] == nil || there != nil && there.id() == id {
		s.byHash[h] = p
	} else {
		s.others[id] = p
	}
}

func (s *podSet) remove(id podID) {
	h := maphash.Comparable(s.seed, id)
	if p := s.byHash[h]; p != nil && p.id() == id {
		delete(s.byHash, h)
	} else {
		delete(s.others, id)
	}
}

func (s *podSet) len() int { return len(s.byHash) + len(s.others) }

func (s *podSet) all() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, p := range s.byHash {
			if !yield(p) {
				return
			}
		}
		for _, p := range s.others {
			if !yield(p) {
				return
			}
		}
	}
}

// addrCounts counts addresses; most are IPv4, and take a quarter of the memory that way.
type addrCounts struct {
	v4 map[uint32]int32
	v6 map[netip.Addr]int32
}

func newAddrCounts() *addrCounts { return &addrCounts{map[uint32]int32{}, map[netip.Addr]int32{}} }

func (c *addrCounts) of(a netip.Addr) int32 {
	if a.Is4() {
		return c.v4[v4Number(a)]
	}
	return c.v6[a]
}

func (c *addrCounts) add(a netip.Addr, n int32) {
	if a.Is4() {
		count(c.v4, v4Number(a), n)
	} else {
		count(c.v6, a, n)
	}
}

func count[K comparable](counts map[K]int32, k K, n int32) {
	if counts[k] += n; counts[k] == 0 {
		delete(counts, k)
	}
}

func v4Number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
