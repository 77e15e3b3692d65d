// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// twoNodes is a model of one local pod and another node, for changes by hand.
func twoNodes() *policy.Model {
	node := func(name, cidr string, underlay string, mac byte) policy.Node {
		return policy.Node{Name: name, Underlay: []netip.Addr{netip.MustParseAddr(underlay)}, VTEPMAC: [6]byte{2, 0, 0, 0, 0, mac},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(cidr)}}
	}
	return &policy.Model{
		Node:  "node-1",
		Nodes: []policy.Node{node("node-1", "10.42.1.0/24", "192.0.2.1", 1), node("node-2", "10.42.2.0/24", "192.0.2.2", 2)},
		Pods: []policy.Pod{{Namespace: "test", Name: "pod", UID: "1", Node: "node-1", Labels: map[string]string{"app": "a"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.42.1.10")}}},
	}
}

var isolateIngress = []policy.Policy{{Key: "NetworkPolicy test/deny", Isolates: [2]bool{policy.Ingress: true}}}

// Isolation begins when a policy first selects a pod that runs; never for one that is born with it, unless it ran before
// anything guarded it.
func TestIsolationBegins(t *testing.T) {
	tables, p, now := openTables(t, newClock()), policy.NewPlanner(), uint64(1000)
	tables.monotonic = func() uint64 { return now }
	m := twoNodes()
	slot := apply(t, tables, p, m).Final.Endpoints[0].Slot
	expect := func(when string, ingress, egress uint64) {
		t.Helper()
		if got := tables.Endpoint(slot).IsolatedNs; got != [2]uint64{ingress, egress} {
			t.Errorf("%s: isolation began at %v, want %v", when, got, [2]uint64{ingress, egress})
		}
	}
	expect("not isolated", 0, 0)
	must(t, tables.SetInterface(slot, Interface{Index: 5}))
	expect("interface found", 0, 0)

	m.Policies, now = isolateIngress, 2000
	seen := false
	plan, err := p.Plan(m)
	must(t, err)
	tables.writes.before = func() {
		if tables.image.live.Policed(policy.Ingress, tables.endpoints.get(slot).Identity) && !seen {
			seen = true
			expect("at the write after isolation", 2000, 0)
		}
	}
	must(t, tables.Apply(context.Background(), plan))
	p.Commit(plan)
	tables.writes.before = nil
	expect("isolated", 2000, 0)
	if e := tables.Endpoint(slot); e.Ifindex != 5 {
		t.Errorf("the interface is %d after a change of policy", e.Ifindex)
	}

	now = 3000
	m.Pods[0].Labels = map[string]string{"app": "b"}
	m.Policies = append(m.Policies[:1:1], policy.Policy{Key: "NetworkPolicy test/names-b", Subject: policy.Selector{{Key: "app", Values: []string{"b"}}}})
	apply(t, tables, p, m)
	expect("isolated all along, under another identity", 2000, 0)

	now = 4000
	born := m.Pods[0]
	born.Name, born.UID, born.Addrs = "born", "2", []netip.Addr{netip.MustParseAddr("10.42.1.11")}
	found := born
	found.Name, found.UID, found.Addrs = "found", "3", []netip.Addr{netip.MustParseAddr("10.42.1.12")}
	m.Pods = append(m.Pods, born, found)
	for _, e := range apply(t, tables, p, m).Final.Endpoints {
		slot = e.Slot
		switch e.Pod {
		case "test/born":
			must(t, tables.SetInterface(slot, Interface{Index: 6}))
			expect("born isolated", 0, 0)
		case "test/found":
			must(t, tables.SetInterface(slot, Interface{Index: 7, Existing: true}))
			expect("found running", 4000, 4000)
			now = 5000
			must(t, tables.SetInterface(slot, Interface{Index: 7, Existing: true}))
			expect("found again", 4000, 4000)
			now = 4000 + uint64(Grace)
			must(t, tables.Tick(time.Now()))
			expect("found a minute ago", 4000, 4000)
			now += uint64(2 * time.Second)
			must(t, tables.Tick(time.Now()))
			expect("found long ago", 0, 0)
		}
	}
}

// The interface of a pod leads to its slot until the pod or the interface goes.
func TestInterfaces(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	slot := apply(t, tables, p, m).Final.Endpoints[0].Slot
	expect := func(when string, want map[uint32]uint32) {
		t.Helper()
		got := make(map[uint32]uint32)
		var index, owner uint32
		entries := tables.maps["interfaces"].Iterate()
		for entries.Next(&index, &owner) {
			got[index] = owner
		}
		if len(got) != len(want) {
			t.Errorf("%s: interfaces %v, want %v", when, got, want)
		}
		for index, owner := range want {
			if got[index] != owner {
				t.Errorf("%s: interfaces %v, want %v", when, got, want)
			}
		}
	}
	if err := tables.SetInterface(slot+1, Interface{Index: 5}); err == nil {
		t.Error("a slot without a pod got an interface")
	}
	pod, host := PodMACs(slot)
	must(t, tables.SetInterface(slot, Interface{Index: 5, PodMAC: pod, HostMAC: host}))
	expect("set", map[uint32]uint32{5: uint32(slot)})
	if e := tables.Endpoint(slot); e.Ifindex != 5 || e.Mac != pod || e.HostMac != host {
		t.Errorf("the endpoint is %+v", e)
	}
	must(t, tables.SetInterface(slot, Interface{Index: 6}))
	expect("moved", map[uint32]uint32{6: uint32(slot)})
	must(t, tables.ClearInterface(slot))
	must(t, tables.ClearInterface(slot))
	expect("gone", nil)
	must(t, tables.SetInterface(slot, Interface{Index: 6}))
	m.Pods = nil
	apply(t, tables, p, m)
	expect("pod gone", nil)
	if e := tables.Endpoint(slot); e != (bpf.Endpoint{}) {
		t.Errorf("the pod is gone, its endpoint is %+v", e)
	}
}

// A slot that another pod had gives nothing of it to the next one.
func TestReusedSlotIsEmptiedFirst(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	final := apply(t, tables, p, m).Final
	slot := final.Endpoints[0].Slot
	must(t, tables.SetInterface(slot, Interface{Index: 5, Existing: true}))
	next := *final
	next.Endpoints = []policy.Endpoint{{Slot: slot, Pod: "test/other", Identity: final.Endpoints[0].Identity, Addrs: final.Endpoints[0].Addrs}}
	next.Addresses = nil
	for _, a := range final.Addresses {
		if a.Kind == policy.AddressLocalPod {
			a.Tenancy++
		}
		next.Addresses = append(next.Addresses, a)
	}
	addr := addr4(final.Endpoints[0].Addrs[0])
	old := tables.Endpoint(slot)
	tables.writes.before = func() {
		if e := tables.addresses.trie.lookup(addr); e.kind() == policy.AddressLocalPod && e.tenancy() == 0 && tables.endpoints.get(slot) != old {
			t.Error("the old pod's address leads to a slot that changes")
		}
	}
	must(t, tables.Apply(context.Background(), &policy.Plan{Final: &next}))
	tables.writes.before = nil
	if e := tables.Endpoint(slot); e.Ifindex != 0 || e.IsolatedNs != [2]uint64{} || e.Addr4 != addr {
		t.Errorf("the new pod's endpoint is %+v", e)
	}
	if e := tables.addresses.lookup(addr); e.tenancy() != 1 || e.slot() != slot {
		t.Errorf("the address is %#x", e)
	}
}

// The address generation moves when an address changes hands, and only then.
func TestAddressGeneration(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	apply(t, tables, p, m)
	generation := func() uint32 { return *tables.shared.addrGeneration() }
	before := generation()
	m.Policies = isolateIngress
	apply(t, tables, p, m)
	if generation() != before {
		t.Error("a change of policy moved it")
	}
	m.Pods[0].UID = "another"
	apply(t, tables, p, m)
	if generation() < before+2 {
		t.Errorf("another pod at the address: it went from %d to %d, want before and after the change", before, generation())
	}
	before = generation()
	next := takeOver(t, tables)
	defer closeTables(t, next)
	q := policy.NewPlanner()
	q.Restore(next.LiveImage())
	q.RestoreAddresses(next.Addresses())
	apply(t, next, q, m)
	if generation() == before {
		t.Error("an agent that takes over cannot know that the last change was completed, and did not move it")
	}
}
