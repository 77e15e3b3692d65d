// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
)

func TestModelsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(m *Model){
		`resolve addresses: this node, "gone", is not among the model's nodes`:                              func(m *Model) { m.Node = "gone" },
		`resolve addresses: node node-2 is listed twice`:                                                    func(m *Model) { m.Nodes[0].Name = "node-2" },
		`resolve addresses: pod default/back is listed twice`:                                               func(m *Model) { m.Pods[0].Name = "back" },
		`resolve addresses: 192.0.2.2/32 belongs to both node node-1 and node node-2`:                       func(m *Model) { m.Nodes[0].Underlay = m.Nodes[1].Underlay },
		`resolve addresses: 10.42.1.1/32 belongs to both node node-1 and pod default/back`:                  func(m *Model) { m.Pods[1].Addrs[0] = mustAddr("10.42.1.1") },
		`resolve addresses: 10.42.2.0/24 belongs to both podCIDR of node node-1 and podCIDR of node node-2`: func(m *Model) { m.Nodes[0].PodCIDRs = m.Nodes[1].PodCIDRs },
		`resolve addresses: pod default/back runs on node "node-9", which is not among the model's nodes`:   func(m *Model) { m.Pods[1].Node = "node-9" },
		`resolve addresses: pod default/back has two addresses of one family`:                               func(m *Model) { m.Pods[1].Addrs = append(m.Pods[1].Addrs, mustAddr("10.42.2.12")) },
		`resolve addresses: pod default/back has an invalid address`:                                        func(m *Model) { m.Pods[1].Addrs[0] = netip.Addr{} },
		`compile p: r: unknown entity "worlds"`:                                                             func(m *Model) { m.Policies = refusedPolicy(entity("worlds")) },
		`compile p: r: except 10.0.0.0/8 is not inside 192.0.2.0/24`:                                        func(m *Model) { m.Policies = refusedPolicy(cidr("192.0.2.0/24", "10.0.0.0/8")) },
		`compile p: r: invalid CIDR`:                                                                        func(m *Model) { m.Policies = refusedPolicy(Peer{Kind: PeerCIDR}) },
		`compile p: r: direction 0, action 2`:                                                               func(m *Model) { m.Policies = refusedPolicy(); m.Policies[0].Rules[0].Action = Pass },
		`compile p: policy: tier 1, priority 1001, isolates [false false]`:                                  func(m *Model) { m.Policies = []Policy{{Key: "p", Tier: TierAdmin, Priority: 1001}} },
		`compile p: policy: tier 2, priority 0, isolates [true false]`:                                      func(m *Model) { m.Policies = []Policy{{Key: "p", Tier: TierBaseline, Isolates: [2]bool{true}}} },
		`compile p: policy: tier 3, priority 0, isolates [false false]`:                                     func(m *Model) { m.Policies = []Policy{{Key: "p", Tier: 3}} },
	} {
		m := smallModel()
		change(m)
		if _, err := Build(m); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func refusedPolicy(peers ...Peer) []Policy {
	return []Policy{{Key: "p", Rules: []Rule{{Path: "r", Peers: peers, Ports: []PortMatch{AnyPort}}}}}
}

// Past the last number, rules share it, and their verdicts stay right.
func TestRulesPastTheLastNumber(t *testing.T) {
	m := smallModel()
	p := Policy{Key: "p", Subject: labels("app", In, "front"), Isolates: [2]bool{true}}
	for i := range 20000 {
		p.Rules = append(p.Rules, Rule{Path: fmt.Sprintf("r%05d", i), Peers: []Peer{pods("app", In, "back")}, Ports: []PortMatch{tcp(uint16(i), uint16(i))}})
	}
	m.Policies = []Policy{p}
	c := build(t, m)
	front, back := c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity
	for i, want := range map[uint16]string{0: "r00000", 16380: "r16380", 16381: "rules past the first 16381", 19999: "rules past the first 16381"} {
		got := c.Image.Lookup(Ingress, front, back, TCP, i)
		if _, path, _ := c.Image.RuleName(got.Rule()); !got.Allow() || path != want {
			t.Errorf("port %d: %#x %q, want %q", i, got, path, want)
		}
	}
	if c.Image.Lookup(Ingress, front, back, TCP, 20000).Allow() {
		t.Error("port 20000 is allowed")
	}
}

func TestSyntheticIsWhatItSays(t *testing.T) {
	m := Synthetic(1000, 10000, 250, 1)
	c := build(t, m)
	if len(m.Policies) != 1000 || len(m.Pods) != 10000 || len(c.Endpoints) != 250 || c.Image.Identities() < 10000 {
		t.Errorf("%d policies, %d pods, %d local, %d identities", len(m.Policies), len(m.Pods), len(c.Endpoints), c.Image.Identities())
	}
	if !reflect.DeepEqual(m, Synthetic(1000, 10000, 250, 1)) {
		t.Error("not the same twice")
	}
	policed := 0
	for _, e := range c.Endpoints {
		if e.Policed[Ingress] {
			policed++
		}
	}
	if policed < 100 {
		t.Errorf("only %d local pods have a policy", policed)
	}
	for _, args := range [][3]int{{0, 1, 1}, {1, 5, 10}, {10, 1000, 600}, {5, 300, 0}} {
		m := Synthetic(args[0], args[1], args[2], 7)
		if c := build(t, m); len(c.Endpoints) != min(args[1], args[2]) {
			t.Errorf("%v: %d local pods", args, len(c.Endpoints))
		}
	}
}
