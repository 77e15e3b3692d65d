// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// A population that identities came to and went from is the one that is made of those that are left, sets included.
func TestPopulationFollowsChanges(t *testing.T) {
	eachSeed(t, 40, func(t *testing.T, r *rand.Rand) {
		word := func() string { return string(rune('a' + r.IntN(4))) }
		random := func() *Definition {
			d := &Definition{Local: r.IntN(3) == 0}
			switch r.IntN(5) {
			case 0:
				d.Entities = []Entity{pick(r, []Entity{EntityWorld, EntityHost, EntityRemoteNode})}
			default:
				d.Labels = map[string]string{namespaceLabel: word(), word(): word(), word(): word()}
				if r.IntN(2) == 0 {
					d.Ports = []NamedPort{{word(), TCP, uint16(r.IntN(3))}}
				}
			}
			for range r.IntN(3) {
				d.Prefixes = append(d.Prefixes, netip.PrefixFrom(addrIn(10, 0, r.IntN(4), 0), 24))
			}
			slices.SortFunc(d.Prefixes, comparePrefix)
			d.Prefixes = slices.Compact(d.Prefixes)
			return d
		}
		selector := func() Selector {
			s := Selector{}
			for range r.IntN(3) {
				s = append(s, Requirement{Key: pick(r, []string{namespaceLabel, word()}), Op: Operator(r.IntN(4)), Values: []string{word(), word()}})
			}
			return s
		}
		peer := func() Peer {
			switch r.IntN(4) {
			case 0:
				return Peer{Kind: PeerEntity, Entity: pick(r, []Entity{EntityWorld, EntityCluster, EntityHost})}
			case 1:
				return Peer{Kind: PeerCIDR, CIDR: netip.PrefixFrom(addrIn(10, 0, r.IntN(4), 0), 24), MatchPods: r.IntN(2) == 0, MatchNodes: r.IntN(2) == 0}
			}
			return Peer{Kind: PeerSelector, Selector: selector()}
		}
		var defs definitions
		for n := range 30 {
			if r.IntN(3) > 0 {
				defs = defs.set(uint32(1+n), random())
			}
		}
		keep := func(d *Definition) bool { return d.Local && d.Pod() }
		if r.IntN(2) == 0 {
			keep = nil
		}
		p := newPopulation(defs, keep)
		var asked []Peer
		for range 40 {
			asked = append(asked, peer())
			p.set(&asked[len(asked)-1])
			n := uint32(1 + r.IntN(40))
			d := random()
			if r.IntN(3) == 0 {
				d = nil
			} else if old := defs.get(n); old != nil && r.IntN(3) == 0 { // the same, but for being local
				copied := *old
				copied.Local = !copied.Local
				d = &copied
			}
			defs = slices.Clone(defs).set(n, d).trimmed()
			p.replace(n, d)
			if r.IntN(20) == 0 {
				kept := map[*idSet]bool{}
				for _, s := range p.sets {
					kept[s] = r.IntN(2) == 0
				}
				p.keepSets(kept)
			}
		}
		want := newPopulation(defs, keep)
		for i := range asked {
			if got, want := p.set(&asked[i]).members, want.set(&asked[i]).members; !slices.Equal(got, want) {
				t.Fatalf("%+v: %v, want %v", asked[i], got, want)
			}
		}
		if !slices.Equal(p.byName, want.byName) || !slices.Equal(p.pods, want.pods) || !slices.Equal(p.defs, want.defs) ||
			!reflect.DeepEqual(p.byLabel, want.byLabel) || !reflect.DeepEqual(p.byPort, want.byPort) || !reflect.DeepEqual(p.within, want.within) {
			t.Fatalf("%+v\nwant\n%+v", p, want)
		}
	})
}

// A list that was edited is cut where one that is made at once is.
func TestChunksDoNotTellTheirHistory(t *testing.T) {
	l := &listing[uint32]{
		compare: func(a, b *uint32) int { return cmp.Compare(*a, *b) }, name: func(n *uint32) uint32 { return mixed(*n) },
	}
	l2 := *l // whose chunks are as long as they may
	l2.name = func(*uint32) uint32 { return 1 }
	eachSeed(t, 20, func(t *testing.T, r *rand.Rand) {
		for _, l := range []*listing[uint32]{l, &l2} {
			have := map[uint32]bool{}
			var c chunks[uint32]
			for step := range 30 {
				edits := map[uint32]bool{}
				for range 1 + r.IntN(200) {
					edits[uint32(r.IntN(3000))] = r.IntN(2+step%5) == 0
				}
				var sorted []edited[uint32]
				for _, n := range slices.Sorted(maps.Keys(edits)) {
					sorted = append(sorted, edited[uint32]{n, edits[n]})
					if have[n] = true; edits[n] {
						delete(have, n)
					}
				}
				before := fmt.Sprint(flat(c))
				next := l.with(c, sorted)
				if fmt.Sprint(flat(c)) != before {
					t.Fatal("the list before was written to")
				}
				c = next
				want := l.list(slices.Sorted(maps.Keys(have)))
				if got, want := flat(c), flat(want); !reflect.DeepEqual(got, want) {
					t.Fatalf("%v\nwant\n%v", got, want)
				}
				for n := range uint32(3000) {
					if found := c.find(func(m *uint32) int { return cmp.Compare(*m, n) }); (found != nil) != have[n] || found != nil && *found != n {
						t.Fatalf("%d is found as %v", n, found)
					}
				}
			}
		}
	})
}

func flat[T any](c chunks[T]) (all [][]T) {
	for _, run := range c {
		all = append(all, run.items)
	}
	return all
}

// An address list holds what a map would, in order.
func TestAddressListIsASortedMap(t *testing.T) {
	eachSeed(t, 10, func(t *testing.T, r *rand.Rand) {
		want := map[netip.Prefix]Address{}
		var sorted []located
		for n := range r.IntN(500) {
			p := netip.PrefixFrom(addrIn(10, 0, n, 1), 32)
			want[p] = Address{Prefix: p, Identity: uint32(n)}
			sorted = append(sorted, located{Address: want[p]})
		}
		l := newAddressList(sorted)
		for range 3000 {
			p := netip.PrefixFrom(addrIn(10, 0, r.IntN(600), r.IntN(3)), pick(r, []int{24, 32})).Masked()
			if r.IntN(3) == 0 {
				delete(want, p)
				l.remove(p)
			} else {
				want[p] = Address{Prefix: p, Identity: r.Uint32()}
				l.set(located{Address: want[p]})
			}
		}
		var got []Address
		l.each(func(e *located) { got = append(got, e.Address) })
		if l.count != len(want) || len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b Address) int { return comparePrefix(a.Prefix, b.Prefix) }) {
			t.Fatalf("%d entries of %d, counted as %d", len(got), len(want), l.count)
		}
		for p, a := range want {
			if e := l.find(p); e == nil || e.Address != a {
				t.Fatalf("%s is %v", p, e)
			}
		}
		for third := range 600 {
			p, inside := netip.PrefixFrom(addrIn(10, 0, third, 0), 24), 0
			l.inside(p, func(e *located) bool { inside++; return want[e.Prefix] == e.Address && p.Contains(e.Prefix.Addr()) })
			for q := range want {
				if p.Contains(q.Addr()) {
					inside--
				}
			}
			if inside != 0 {
				t.Fatalf("%d too many inside %s", inside, p)
			}
		}
	})
}
