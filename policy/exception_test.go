// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"testing"
)

// Two nodes change in the same way, one after the other, each together with the policies: what the first has become is
// not taken back while the second changes.
func TestASecondChangeOfTheSameKindLeavesTheFirst(t *testing.T) {
	m := smallModel()
	m.Nodes = append(m.Nodes, Node{Name: "node-3", Underlay: []netip.Addr{mustAddr("192.0.2.3")}, VTEPMAC: [6]byte{2, 0, 0, 0, 0, 3}})
	p := NewPlanner()
	step := func(change func(*Model)) *Plan {
		t.Helper()
		next := clonePods(m)
		next.Nodes = append([]Node(nil), m.Nodes...)
		change(next)
		plan, err := p.Plan(next)
		if err != nil {
			t.Fatal(err)
		}
		p.Commit(plan)
		m = next
		return plan
	}
	guard := func(key string) Policy {
		return Policy{Key: key, Subject: Selector{{Key: "app", Op: In, Values: []string{"front"}}}, Isolates: [2]bool{Ingress: true},
			Rules: []Rule{{Path: "spec.ingress[0]", Peers: []Peer{{Kind: PeerEntity, Entity: EntityKubeAPIServer}}, Ports: []PortMatch{AnyPort}}}}
	}
	step(func(*Model) {})
	step(func(m *Model) { m.Nodes[1].APIServer, m.Policies = true, []Policy{guard("a")} })
	first := p.Live()
	plan := step(func(m *Model) { m.Nodes[2].APIServer, m.Policies = true, []Policy{guard("b")} })
	if plan.Interim == nil {
		t.Fatal("a node that changes together with the policies needs an interim image")
	}
	number := plan.Final.Address(mustAddr("192.0.2.2")).Identity
	other := plan.Final.Address(mustAddr("192.0.2.3")).Identity
	subject := plan.Final.Address(mustAddr("10.42.1.10")).Identity
	if number == other {
		t.Errorf("both nodes have number %d", number)
	}
	for name, img := range map[string]*Image{"before": first, "interim": plan.Interim, "final": plan.Final.Image} {
		if !img.Lookup(Ingress, subject, number, TCP, 80).Allow() {
			t.Errorf("%s: the first node is no longer the API server", name)
		}
	}
	if plan.Interim.Lookup(Ingress, subject, other, TCP, 80).Allow() {
		t.Error("interim: the second node is the API server before the policies that go with it")
	}
}
