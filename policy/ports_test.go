// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"testing"
)

// Two ports are one class exactly if the same ranges contain them; every range consists of the classes of its ports.
func TestPortClasses(t *testing.T) {
	eachSeed(t, 20, func(t *testing.T, r *rand.Rand) {
		ranges := map[portRange]bool{}
		for range r.IntN(12) {
			protocol := pick(r, []uint8{TCP, UDP, ICMP, 47})
			first := uint16(r.IntN(40))
			if p, ok := newPortRange(protocol, first, first+uint16(r.IntN(30))); ok {
				ranges[p] = true
			}
		}
		s := newPortSpace(ranges)
		type at struct {
			protocol uint8
			port     uint16
		}
		class := func(p at) (c int32) {
			for _, a := range s.atoms[p.protocol] {
				if a.first <= p.port {
					c = int32(a.class)
				}
			}
			return c
		}
		var ports []at
		for _, protocol := range []uint8{TCP, UDP, ICMP, 47, 50} {
			for port := range uint16(80) {
				ports = append(ports, at{protocol, port & portMask(protocol)})
			}
		}
		inside := func(p at, r portRange) bool {
			return r.protocol == p.protocol && (portMask(p.protocol) == 0 || r.first <= p.port && p.port <= r.last)
		}
		classes := map[int32]bool{0: true}
		for _, p := range ports {
			classes[class(p)] = true
			for _, q := range ports {
				same := true
				for r := range ranges {
					same = same && inside(p, r) == inside(q, r)
				}
				if same != (class(p) == class(q)) {
					t.Fatalf("%v of class %d, %v of class %d; ranges %v", p, class(p), q, class(q), ranges)
				}
			}
			for r := range ranges {
				has := false
				for _, c := range s.in(r) {
					has = has || c == class(p)
				}
				if has != inside(p, r) {
					t.Fatalf("%v is in class %d, of which %v consists: %v", p, class(p), r, has)
				}
			}
		}
		if len(classes) != s.count {
			t.Fatalf("%d classes, %d are counted", len(classes), s.count)
		}
	})
}

// Ranges within ranges, 30,000 deep, take time and memory by their number, not by its square.
func TestNestedPortRanges(t *testing.T) {
	ranges := map[portRange]bool{}
	for i := range uint16(30000) {
		ranges[portRange{TCP, i, 65535 - i}] = true
	}
	if s := newPortSpace(ranges); s.count != 30001 || s.atoms[TCP][0].class != s.atoms[TCP][len(s.atoms[TCP])-1].class {
		t.Errorf("%d classes", s.count)
	}
}
