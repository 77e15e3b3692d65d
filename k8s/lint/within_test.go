// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/policy"
)

// world invents rules of few labels, ports and addresses, so that many lie within one another, and asks them about packets
// in the naive way.
type world struct{ *rand.Rand }

func newWorld(t *testing.T) world {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return world{rand.New(rand.NewPCG(seed, 0))}
}

func (w world) labels() map[string]string {
	labels := map[string]string{namespaceKey: pick(w, "a", "b")}
	labels[nameLabel] = labels[namespaceKey]
	for _, key := range []string{"x", "y"} {
		if w.IntN(3) > 0 {
			labels[key] = pick(w, "0", "1", "2")
		}
	}
	return labels
}

func pick[T any](w world, from ...T) T { return from[w.IntN(len(from))] }

func (w world) selector() policy.Selector {
	var s policy.Selector
	for range w.IntN(3) {
		r := policy.Requirement{Key: pick(w, "x", "y", namespaceKey, nameLabel), Op: policy.Operator(w.IntN(4))}
		if r.Op == policy.In || r.Op == policy.NotIn {
			values := []string{"0", "1", "2"}
			if aboutNamespace(r.Key) {
				values = []string{"a", "b"}
			}
			r.Values = values[:1+w.IntN(len(values))]
		}
		s = append(s, r)
	}
	return s
}

func (w world) prefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(8))}), 29+w.IntN(4)).Masked()
}

func (w world) peer() policy.Peer {
	p := policy.Peer{Kind: policy.PeerKind(w.IntN(4))}
	switch p.Kind {
	case policy.PeerSelector:
		p.Selector = w.selector()
	case policy.PeerEntity:
		p.Entity = pick(w, policy.EntityAll, policy.EntityWorld, policy.EntityWorldIPv4, policy.EntityCluster, policy.EntityHost, policy.EntityNone)
	case policy.PeerCIDR:
		p.CIDR, p.MatchPods = w.prefix(), w.IntN(2) == 0
		for range w.IntN(3) {
			if hole := w.prefix(); hole != p.CIDR && prefixWithin(hole, p.CIDR) {
				p.Except = append(p.Except, hole)
			}
		}
	}
	return p
}

func (w world) port() policy.PortMatch {
	p := policy.PortMatch{Protocol: pick(w, 0, policy.TCP, policy.UDP)}
	if p.Protocol == 0 {
		return p
	}
	if w.IntN(4) == 0 {
		p.Name = pick(w, "http", "HTTP", "sql")
		p.RangeTo = uint16(w.IntN(8))
		return p
	}
	p.First = uint16(w.IntN(8))
	p.Last = p.First + uint16(w.IntN(8))
	if w.IntN(8) == 0 {
		p.First, p.Last = 0, 65535
	}
	return p
}

func some[T any](w world, one func() T) []T {
	out := make([]T, 1+w.IntN(3))
	for i := range out {
		out[i] = one()
	}
	return out
}

func (w world) rule() policy.Rule { return policy.Rule{Peers: some(w, w.peer), Ports: some(w, w.port)} }

// packet is what rules are asked about: another side, which is a pod, the host or outside, and a port of the subject.
type packet struct {
	labels   map[string]string // nil: no pod
	host     bool
	addr     netip.Addr
	protocol uint8
	port     uint16
	names    map[string]uint16 // ports of the subject
}

func (w world) packet() packet {
	p := packet{addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(8))}), protocol: pick(w, policy.TCP, policy.UDP, policy.SCTP), port: uint16(1 + w.IntN(16)),
		names: map[string]uint16{"http": uint16(1 + w.IntN(8)), "sql": uint16(1 + w.IntN(8))}}
	switch w.IntN(3) {
	case 0:
		p.labels = w.labels()
	case 1:
		p.host = true
	}
	return p
}

func (p packet) matches(r *policy.Rule) bool {
	return slices.ContainsFunc(r.Peers, p.from) && slices.ContainsFunc(r.Ports, p.to)
}

func (p packet) from(peer policy.Peer) bool {
	outside := p.labels == nil && !p.host
	switch peer.Kind {
	case policy.PeerAny:
		return true
	case policy.PeerSelector:
		return p.labels != nil && peer.Selector.Matches(p.labels)
	case policy.PeerCIDR:
		return (outside || p.labels != nil && peer.MatchPods) && peer.CIDR.Contains(p.addr) &&
			!slices.ContainsFunc(peer.Except, func(hole netip.Prefix) bool { return hole.Contains(p.addr) })
	}
	switch peer.Entity {
	case policy.EntityAll:
		return true
	case policy.EntityWorld, policy.EntityWorldIPv4:
		return outside
	case policy.EntityCluster:
		return !outside
	case policy.EntityHost:
		return p.host
	}
	return false
}

func (p packet) to(port policy.PortMatch) bool {
	if port.Protocol == 0 {
		return true
	}
	first, last := port.First, port.Last
	if port.Name != "" {
		first = p.names[strings.ToLower(port.Name)]
		last = max(first, port.RangeTo)
	}
	return port.Protocol == p.protocol && first <= p.port && p.port <= last
}

// What is said to lie within something else has nothing outside of it: no packet, and no pod.
func TestWithinIsNeverWrong(t *testing.T) {
	w := newWorld(t)
	rules, selectors := 0, 0
	for range 20000 {
		a, b := w.rule(), w.rule()
		inside := ruleWithin(&a, &b)
		x, y := w.selector(), w.selector()
		insideSelector := selectorWithin(x, y)
		if inside {
			rules++
		}
		if insideSelector {
			selectors++
		}
		for range 100 {
			if p := w.packet(); inside && p.matches(&a) && !p.matches(&b) {
				t.Fatalf("%+v is said to lie within %+v, but %+v does not", a, b, p)
			}
			if labels := w.labels(); insideSelector && x.Matches(labels) && !y.Matches(labels) {
				t.Fatalf("%+v is said to lie within %+v, but %v does not", x, y, labels)
			}
		}
	}
	if rules < 100 || selectors < 100 {
		t.Errorf("only %d rules and %d selectors lay within another: too few to say anything", rules, selectors)
	}
}

// Whatever lies in something lies in it when it is made wider, and everything lies in itself.
func TestWithinSeesTheObvious(t *testing.T) {
	w := newWorld(t)
	for range 5000 {
		a := w.rule()
		if !ruleWithin(&a, &a) {
			t.Fatalf("%+v does not lie within itself", a)
		}
		wider := policy.Rule{Peers: append([]policy.Peer{w.peer()}, a.Peers...), Ports: append([]policy.PortMatch{w.port()}, a.Ports...)}
		if !ruleWithin(&a, &wider) {
			t.Fatalf("%+v does not lie within %+v", a, wider)
		}
		if x := w.selector(); !selectorWithin(append(w.selector(), x...), x) {
			t.Fatalf("more than %+v does not lie within it", x)
		}
	}
}

// Two ranges that touch make one.
func TestPortsWithinRangesTogether(t *testing.T) {
	ports := func(first, last uint16) policy.PortMatch {
		return policy.PortMatch{Protocol: policy.TCP, First: first, Last: last}
	}
	for _, c := range []struct {
		of   policy.PortMatch
		in   []policy.PortMatch
		want bool
	}{
		{ports(80, 90), []policy.PortMatch{ports(86, 95), ports(70, 85)}, true},
		{ports(80, 90), []policy.PortMatch{ports(87, 95), ports(70, 85)}, false},
		{ports(80, 90), []policy.PortMatch{ports(80, 89)}, false},
		{ports(0, 65535), []policy.PortMatch{ports(0, 100), ports(101, 65535)}, true},
		{policy.PortMatch{Protocol: policy.TCP, Name: "http"}, []policy.PortMatch{ports(0, 65535)}, true},
		{policy.PortMatch{Protocol: policy.TCP, Name: "http"}, []policy.PortMatch{ports(2, 65535)}, false},
		{policy.AnyPort, []policy.PortMatch{ports(0, 65535)}, false},
	} {
		if got := portsWithin([]policy.PortMatch{c.of}, c.in); got != c.want {
			t.Errorf("%+v in %+v: %v, want %v", c.of, c.in, got, c.want)
		}
	}
}
