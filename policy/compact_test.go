// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"testing"
)

// A set of pods holds what a map by name would, also where hashes are equal.
func TestPodSetIsAMap(t *testing.T) {
	eachSeed(t, 20, func(t *testing.T, r *rand.Rand) {
		s, want := newPodSet(0), map[podID]*Pod{}
		pod := func() *Pod { return &Pod{Namespace: fmt.Sprint(r.IntN(3)), Name: fmt.Sprint(r.IntN(10))} }
		for range 300 {
			p := pod()
			switch stranger := pod(); {
			case r.IntN(3) == 0:
				delete(want, p.id())
				s.remove(p.id())
			case r.IntN(3) == 0 && want[p.id()] == nil && want[stranger.id()] == nil && stranger.id() != p.id():
				h := maphash.Comparable(s.seed, p.id()) // as if the stranger's name had this hash
				if s.byHash[h] == nil {
					s.byHash[h] = stranger
					s.put(p)
					delete(s.byHash, h)
					want[p.id()] = p
				}
			default:
				want[p.id()] = p
				s.put(p)
			}
			n := 0
			for p := range s.all() {
				n++
				if want[p.id()] != p {
					t.Fatalf("%v is in the set", p.id())
				}
			}
			if n != len(want) || s.len() != n {
				t.Fatalf("%d pods, counted as %d, want %d", n, s.len(), len(want))
			}
			for id, p := range want {
				if s.get(id) != p {
					t.Fatalf("%v is %v", id, s.get(id))
				}
			}
		}
	})
}
