// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// reaches says by the naive reading whether a packet passes both ends; asked, whether there is a pod to ask at all.
func reaches(m *Model, src, dst netip.Addr, protocol uint8, port uint16) (allowed, asked bool) {
	from, to := naive{m}.party(src), naive{m}.party(dst)
	allowed = true
	for _, side := range []struct {
		dir  Direction
		pod  *Pod
		peer netip.Addr
	}{{Egress, from.pod, dst}, {Ingress, to.pod, src}} {
		if side.pod == nil {
			continue
		}
		asked = true
		local := *m
		local.Node = side.pod.Node
		verdict, _ := naive{enforced(&local)}.judge(side.dir, side.pod, side.peer, protocol, port)
		allowed = allowed && verdict
	}
	return allowed, asked
}

// memberOf finds the member that an address belongs to as a pod of node sees it; -1 if it is none: come or gone.
func (c *comparer) memberOf(now *Model, a netip.Addr, node string) int32 {
	who := naive{now}.party(a)
	best := int32(-1)
	for i, m := range c.members {
		switch {
		case who.pod != nil:
			if m.kind == memberPods && slices.Contains(m.pods, who.pod.Key()) {
				return int32(i)
			}
		case slices.Contains(who.is, EntityRemoteNode) || slices.Contains(who.is, EntityHost):
			n := now.Nodes[slices.IndexFunc(now.Nodes, func(n Node) bool { return slices.Contains(append(n.Underlay, n.Overlay...), a) })]
			kind := memberRemote
			if n.Name == node {
				kind = memberHost
			}
			id := c.sides[1].defs[uint32(m.ids[1])]
			o := c.sides[1].owners[slices.IndexFunc(c.sides[1].owners, func(o owner) bool { return o.prefix.Addr() == a && o.prefix.IsSingleIP() })]
			if m.kind == kind && slices.Contains(m.nodes, n.Name) && slices.Equal(id.Prefixes, o.id.Prefixes) {
				return int32(i)
			}
		case m.prefix.IsValid() && m.prefix.Contains(a) && (best < 0 || m.prefix.Bits() > c.members[best].prefix.Bits()):
			best = int32(i)
		}
	}
	return best
}

// lists says whether what turned includes a relation, one way or the other.
func (c *comparer) lists(src, dst int32, protocol uint8, port uint16) (allowed, denied bool) {
	class := 0
	for _, a := range c.ports.atomsOf(protocol) {
		if portMask(protocol) == 0 || a.first <= port {
			class = int(a.class)
		}
	}
	for _, t := range c.turned {
		if !c.port.sets[t.ports].has(class) {
			continue
		}
		for destinations, sources := range t.sources {
			if sources.has(src) && slices.Contains(receiversOf(destinations), dst) {
				allowed, denied = allowed || t.allowed, denied || !t.allowed
			}
		}
	}
	return allowed, denied
}

// A relation is listed where, and only where, the naive reading of both models differs, for all kinds of addresses, and
// once only.
func TestDifferencesAgreeWithModels(t *testing.T) {
	turned := map[bool]int{}
	eachSeed(t, 40, func(t *testing.T, r *rand.Rand) {
		from := randomModel(r)
		to := mutate(r, from)
		if r.IntN(2) == 0 {
			to.Policies = slices.Concat(from.Policies, randomPolicies(r)[:0])
			if len(to.Policies) > 0 {
				i := r.IntN(len(to.Policies))
				to.Policies[i].Rules = append(slices.Clone(to.Policies[i].Rules), randomRule(r, "spec.more"))
			}
		}
		words := vocabularyOf(from.Policies, to.Policies)
		for f := range 2 {
			c := &comparer{family: f, port: newPortSets()}
			for i, m := range []*Model{from, to} {
				policies, err := canonical(m)
				if err != nil {
					t.Fatal(err)
				}
				if c.sides[i], err = newComparedSide([]*Model{m}, [][]Policy{policies}, &words); err != nil {
					t.Fatal(err)
				}
			}
			c.enlist(func(p *Pod) string { return p.Key() })
			if _, err := c.relations(); err != nil {
				t.Fatal(err)
			}
			var addrs []netip.Addr
			for _, a := range probeAddrs(to) {
				if family(a) == f && (naive{from}.party(a).pod == nil) == (naive{to}.party(a).pod == nil) {
					addrs = append(addrs, a)
				}
			}
			for _, src := range addrs {
				for _, dst := range addrs {
					protocol, port := pick(r, []uint8{TCP, UDP, SCTP, ICMP, ICMPv6, 47, 50}), uint16(r.IntN(110))
					was, asked := reaches(from, src, dst, protocol, port)
					is, _ := reaches(to, src, dst, protocol, port)
					if !asked || src == dst {
						continue
					}
					node := ""
					for _, a := range []netip.Addr{src, dst} {
						if p := (naive{to}).party(a).pod; p != nil {
							node = p.Node
						}
					}
					i, j := c.memberOf(to, src, node), c.memberOf(to, dst, node)
					if i < 0 || j < 0 {
						continue
					}
					allowed, denied := c.lists(i, j, protocol, port)
					if allowed != (!was && is) || denied != (was && !is) {
						t.Fatalf("%s → %s protocol %d port %d: was %v, is %v, listed as allowed %v, as denied %v\n%+v\n%+v\n%+v %+v", src, dst, protocol, port,
							was, is, allowed, denied, from.Policies, to.Policies, c.members[i], c.members[j])
					}
					if allowed || denied {
						turned[is]++
					}
				}
			}
		}
	})
	if os.Getenv("WEIR_SEED") == "" && (turned[true] < 100 || turned[false] < 100) {
		t.Errorf("too few verdicts turned: %v", turned)
	}
}

// differences lists what turns, as text.
func differences(t *testing.T, old, now *Model, group Grouping) string {
	t.Helper()
	c, err := Differences(old, now, group)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range c.Relations {
		fmt.Fprintln(&b, c.Relations[i].String())
	}
	for _, name := range c.Appeared {
		fmt.Fprintln(&b, "+", name)
	}
	for _, name := range c.Vanished {
		fmt.Fprintln(&b, "-", name)
	}
	return b.String()
}

// front is isolated for all but back on a port.
func guardedFront(port uint16) *Model {
	m := smallModel()
	m.Pods = append(m.Pods, smallPod("other", "10.42.2.11", 2), smallPod("third", "10.42.1.12", 1))
	m.Pods[3].Namespace, m.Pods[3].Labels[namespaceLabel] = "prod", "prod"
	m.Policies = []Policy{{Key: "NetworkPolicy default/x", Subject: labels("app", In, "front"), Isolates: [2]bool{true, false},
		Rules: []Rule{{Path: "spec.ingress[0]", Peers: []Peer{pods("app", In, "back")}, Ports: []PortMatch{tcp(port, port)}}}}}
	return m
}

// Names are the largest sets that hold exactly who is meant, ports are folded, and each side that turns is named.
func TestDifferencesAreFolded(t *testing.T) {
	free := guardedFront(80)
	free.Policies = nil
	withRule := func(change func(r *Rule)) *Model {
		m := guardedFront(80)
		change(&m.Policies[0].Rules[0])
		return m
	}
	for _, c := range []struct {
		name     string
		old, now *Model
		want     string
	}{
		{"nothing", guardedFront(80), guardedFront(80), ""},
		{"a port moves", guardedFront(80), guardedFront(81), `+ allowed: default/back -> default/front TCP 81 (by NetworkPolicy default/x spec.ingress[0])
- denied: default/back -> default/front TCP 80 (ingress isolated by NetworkPolicy default/x)
`},
		{"isolation comes", free, guardedFront(80), `- denied: default/back -> default/front TCP 1-79,81-65535, UDP, SCTP, ICMP, other protocols (ingress isolated by NetworkPolicy default/x)
- denied: everyone but default/back and own node -> default/front all ports (ingress isolated by NetworkPolicy default/x)
`},
		{"isolation goes", guardedFront(80), free, `+ allowed: default/back -> default/front TCP 1-79,81-65535, UDP, SCTP, ICMP, other protocols (ingress no longer isolated)
+ allowed: everyone but default/back and own node -> default/front all ports (ingress no longer isolated)
`},
		{"a CIDR with a hole", guardedFront(80), withRule(func(r *Rule) {
			r.Peers = append(r.Peers, cidr("198.51.100.0/24", "198.51.100.128/25"))
		}), "+ allowed: 198.51.100.0/24 except 198.51.100.128/25 -> default/front TCP 80 (by NetworkPolicy default/x spec.ingress[0])\n"},
		{"the world", guardedFront(80), withRule(func(r *Rule) { r.Peers = append(r.Peers, entity(EntityWorld)) }),
			"+ allowed: world -> default/front TCP 80 (by NetworkPolicy default/x spec.ingress[0])\n"},
		{"nodes", guardedFront(80), withRule(func(r *Rule) { r.Peers = append(r.Peers, entity(EntityRemoteNode)) }),
			"+ allowed: other nodes -> default/front TCP 80 (by NetworkPolicy default/x spec.ingress[0])\n"},
		{"a namespace", guardedFront(80), withRule(func(r *Rule) { r.Peers = append(r.Peers, pods(namespaceLabel, In, "default")) }),
			"+ allowed: default/other -> default/front TCP 80 (by NetworkPolicy default/x spec.ingress[0])\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := differences(t, c.old, c.now, nil); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

// Pods of one workload that policy tells apart are named; what turns between them is listed once, under one name.
func TestDifferencesWithinAWorkload(t *testing.T) {
	old := guardedFront(80)
	old.Policies = nil
	now := guardedFront(80)
	now.Policies[0].Subject, now.Policies[0].Rules = Selector{}, nil
	one := func(p *Pod) string { return p.Namespace + "/w" }
	want := `- denied: everyone but own node -> all pods all ports (ingress isolated by NetworkPolicy default/x)
`
	if got := differences(t, old, now, one); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	now.Policies[0].Rules = []Rule{{Path: "r", Peers: []Peer{pods("app", In, "back", "other"), pods(namespaceLabel, In, "prod")}, Ports: []PortMatch{AnyPort}}}
	want = `- denied: default/w (default/front), other nodes, pod addresses without a pod, world -> all pods all ports (ingress isolated by NetworkPolicy default/x)
`
	if got := differences(t, old, now, one); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// Workloads and nodes that only one model has are told and not compared; of a workload that grows, the new pods had the
// rights of the old ones.
func TestDifferencesTellWhatComesAndGoes(t *testing.T) {
	old, now := guardedFront(80), guardedFront(80)
	now.Nodes = append(now.Nodes, Node{Name: "node-3", Underlay: []netip.Addr{mustAddr("192.0.2.3")}})
	twin := smallPod("back", "10.42.2.30", 2)
	twin.Name = "back-2"
	now.Pods = append(now.Pods[:2:2], now.Pods[3], twin, smallPod("new", "10.42.2.31", 2))
	got := differences(t, old, now, func(p *Pod) string { return strings.TrimSuffix(p.Key(), "-2") })
	if want := "+ default/new\n+ node node-3\n- default/other\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A prefix that longer ones fill has no addresses of its own.
func TestFilledPrefixes(t *testing.T) {
	for _, c := range []struct {
		prefix, inside string
		filled         bool
	}{
		{"10.0.0.0/30", "", false},
		{"10.0.0.0/30", "10.0.0.0/32 10.0.0.1/32 10.0.0.2/31", true},
		{"10.0.0.0/30", "10.0.0.0/32 10.0.0.2/31", false},
		{"10.0.0.0/30", "10.0.0.0/31 10.0.0.0/32 10.0.0.2/31", true},
		{"10.0.0.0/30", "10.0.0.0/31 10.0.0.0/32 10.0.0.2/32", false},
		{"2001:db8::/127", "2001:db8::/128 2001:db8::1/128", true},
		{"0.0.0.0/0", "0.0.0.0/1 128.0.0.0/1", true},
	} {
		var inside []netip.Prefix
		for _, text := range strings.Fields(c.inside) {
			inside = append(inside, mustPrefix(text))
		}
		slices.SortFunc(inside, comparePrefix)
		if got := filled(mustPrefix(c.prefix), inside); got != c.filled {
			t.Errorf("%s by %s: %v", c.prefix, c.inside, got)
		}
	}
}

// A set is what its key says, whatever bytes the key has.
func TestSetsHaveKeys(t *testing.T) {
	eachSeed(t, 5, func(t *testing.T, r *rand.Rand) {
		set := memberSet{r.Uint64(), r.Uint64() & r.Uint64(), 0xffff_0080_bf00_ff00}
		if got := setOf(string(setBytes(set))); !slices.Equal(got, set) {
			t.Errorf("%x became %x", set, got)
		}
	})
}
