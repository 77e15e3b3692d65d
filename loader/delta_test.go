// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirnet/weir/policy"
)

// nodeChanges lets a node join or leave, or change its address, its MAC or how it is reached, or changes a Service.
func nodeChanges(r *rand.Rand, m *policy.Model) (*policy.Model, policy.Changes) {
	next, c := *m, policy.Changes{}
	if r.IntN(4) == 0 {
		return serviceChanges(r, m)
	}
	next.Nodes = slices.Clone(m.Nodes)
	if i := len(next.Nodes) - 1; r.IntN(3) == 0 && !slices.ContainsFunc(m.Pods, func(p policy.Pod) bool { return p.Node == next.Nodes[i].Name }) {
		c.GoneNodes = []string{next.Nodes[i].Name}
		next.Nodes = next.Nodes[:i]
		return &next, c
	}
	n := next.Nodes[1+r.IntN(len(next.Nodes)-1)]
	switch r.IntN(4) {
	case 0:
		n.Name, n.VTEPMAC = "node-9", [6]byte{2, 0, 0, 0, 0, 9}
		n.Underlay, n.Overlay = []netip.Addr{netip.MustParseAddr("192.0.2.99")}, []netip.Addr{netip.MustParseAddr("10.42.9.0"), netip.MustParseAddr("10.42.9.1")}
		n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.9.0/24")}
		next.Nodes = append(next.Nodes, n)
		c.NodesChanged = []policy.Node{n}
		return &next, c
	case 1:
		n.VTEPMAC[0] ^= 4
	case 2:
		n.Underlay = []netip.Addr{netip.MustParseAddr("192.0.2.98")}
	case 3:
		n.Direct = !n.Direct
	}
	next.Nodes[slices.IndexFunc(next.Nodes, func(o policy.Node) bool { return o.Name == n.Name })] = n
	c.NodesChanged = []policy.Node{n}
	return &next, c
}

// serviceChanges gives a Service other backends.
func serviceChanges(r *rand.Rand, m *policy.Model) (*policy.Model, policy.Changes) {
	next := *m
	next.Services = []policy.Service{{
		Namespace: "red", Name: "s", Addrs: []netip.Addr{netip.MustParseAddr("10.43.0.1")}, NodePorts: r.IntN(2) == 0,
		Ports: []policy.ServicePort{{
			Protocol: policy.UDP, Port: 80, NodePort: uint16(r.IntN(2)) * 30080,
			Backends: []netip.AddrPort{netip.AddrPortFrom(m.Pods[r.IntN(len(m.Pods))].Addrs[0], 80), netip.AddrPortFrom(m.Nodes[1+r.IntN(2)].Underlay[0], uint16(8471+r.IntN(2)))},
		}},
	}}
	return &next, policy.Changes{ServicesChanged: next.Services}
}

// podChanges changes a pod: one comes that is like another or like none, goes, moves to another's node, or takes over an
// address; or it changes a policy.
func podChanges(r *rand.Rand, m *policy.Model, kind int) (*policy.Model, policy.Changes) {
	next, c := *m, policy.Changes{}
	next.Pods = slices.Clone(m.Pods)
	twin := next.Pods[r.IntN(len(next.Pods))]
	switch kind {
	case 5: // like no other
		twin.Labels = maps.Clone(twin.Labels)
		twin.Labels["app"] = fmt.Sprint("new-", r.IntN(1000))
	case 4: // none of them: a policy selects others
		next.Policies = slices.Clone(m.Policies)
		i := r.IntN(len(next.Policies))
		next.Policies[i].Subject = policy.Selector{{Key: "app", Op: policy.In, Values: []string{string(rune('a' + r.IntN(3)))}}}
		if next.Policies[i].Tier == policy.TierNormal {
			d := r.IntN(2)
			next.Policies[i].Isolates[d] = !next.Policies[i].Isolates[d]
		}
		c.Policies = next.Policies
		return &next, c
	case 0:
		i := r.IntN(len(next.Pods))
		c.GonePods = []string{next.Pods[i].Key()}
		next.Pods = slices.Delete(next.Pods, i, i+1)
		return &next, c
	case 1: // another pod at the address
		i := slices.IndexFunc(next.Pods, func(p policy.Pod) bool { return p.Name == twin.Name })
		next.Pods[i].UID += "'"
		c.Pods = []policy.Pod{next.Pods[i]}
		return &next, c
	case 2: // its address goes to another node's pod
		i := slices.IndexFunc(next.Pods, func(p policy.Pod) bool { return p.Name == twin.Name })
		next.Pods[i].Node, next.Pods[i].UID = fmt.Sprintf("node-%d", 2+r.IntN(2)), "moved"
		c.Pods = []policy.Pod{next.Pods[i]}
		return &next, c
	}
	n := 40 + r.IntN(100)
	twin.Name, twin.UID = fmt.Sprintf("twin-%d", n), ""
	twin.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 42, byte(1 + r.IntN(3)), byte(n)})}
	if slices.ContainsFunc(next.Pods, func(p policy.Pod) bool { return p.Name == twin.Name || p.Addrs[0] == twin.Addrs[0] }) {
		return podChanges(r, m, kind)
	}
	next.Pods = append(next.Pods, twin)
	c.Pods = []policy.Pod{twin}
	return &next, c
}

// A delta leaves the same tables as a whole plan, and keeps at each write what a whole plan keeps; so it does if the agent
// dies there and the next one completes the work.
func TestDeltaCutAnywhere(t *testing.T) {
	r, deltas, swaps, interims, nodes, total := newRand(t), 0, 0, 0, 0, 0
	for i := range 24 {
		from := randomModel(r)
		kind := i % 7
		if i%5 == 4 {
			kind = 4
		}
		to, changes := podChanges(r, from, kind)
		if i%3 == 0 {
			to, changes = nodeChanges(r, from)
		}
		tr := &transition{from: from, to: to, flows: flows(from, to), settled: map[flow]bool{}}
		var err error
		if tr.old, err = compiledAnswers(from, tr.flows); err != nil {
			t.Fatal(err)
		}
		if tr.new, err = compiledAnswers(to, tr.flows); err != nil {
			t.Fatal(err)
		}
		for _, f := range tr.flows {
			tr.settled[f] = owner(from, f.src) == owner(to, f.src) && owner(from, f.dst) == owner(to, f.dst)
		}
		start := func() (*Tables, *policy.Planner, *policy.Plan) {
			tables, err := Open(testConfig(newClock()))
			if err != nil {
				t.Fatal(err)
			}
			p := policy.NewPlanner()
			apply(t, tables, p, from)
			plan, err := p.PlanChanges(changes)
			if err != nil {
				t.Fatal(err)
			}
			return tables, p, plan
		}
		tables, p, plan := start()
		if plan.Delta == nil {
			closeTables(t, tables)
			continue
		}
		if deltas++; plan.Swap {
			swaps++
		}
		if plan.Interim != nil {
			interims++
		}
		nodes += len(plan.Delta.Nodes) + len(plan.Delta.GoneNodes)
		view, points := seen{tables}, 0
		tables.writes.before = func() {
			points++
			tr.check(t, "delta", points, view.answers(t, tr.flows))
		}
		must(t, tables.Apply(context.Background(), plan))
		tables.writes.before = func() { t.Error("a second Apply writes") }
		must(t, tables.Apply(context.Background(), plan))
		tables.writes.before = nil
		p.Commit(plan)
		tr.checkFinal(t, "delta", points, view.answers(t, tr.flows))
		whole, err := p.Plan(to)
		must(t, err)
		lingers := len(tables.lingering) > 0 // then there are more entries than the plan has
		if !lingers {
			checkTables(t, tables, whole.Final)
		}
		other := openTables(t, newClock())
		apply(t, other, policy.NewPlanner(), from)
		must(t, other.Apply(context.Background(), &policy.Plan{Final: whole.Final, Swap: false}))
		if !maps.Equal(other.addresses.entries.entries, tables.addresses.entries.entries) {
			t.Errorf("the address table differs from a whole plan's")
		}
		for slot := range uint16(20) {
			if a, b := tables.nodes.get(slot), other.nodes.get(slot); a != b {
				t.Errorf("node %d is %+v, by a whole plan %+v", slot, a, b)
			}
		}
		closeTables(t, tables)
		total += points
		for n := range points {
			if points > 20 && r.IntN(points) > 20 {
				continue
			}
			tables, _, plan := start()
			if !cutAfter(tables.writes, n, func() { tables.apply(plan) }) {
				t.Fatalf("it ended before write %d of %d", n, points)
			}
			next := takeOver(t, tables)
			view := seen{next}
			tr.check(t, "after the cut", n, view.answers(t, tr.flows))
			p := policy.NewPlanner()
			p.Restore(next.LiveImage())
			p.RestoreAddresses(next.Addresses())
			second := apply(t, next, p, to)
			tr.checkFinal(t, "completed", n, view.answers(t, tr.flows))
			if !lingers {
				checkTables(t, next, second.Final)
			}
			closeTables(t, next)
			closeTables(t, tables)
		}
	}
	if deltas < 12 || swaps < 1 || interims < 1 || nodes < 1 || total < 40 {
		t.Errorf("only %d deltas, %d of them with a final and %d with an interim image, %d nodes, %d writes", deltas, swaps, interims, nodes, total)
	}
}

// A pod of another node whose identity is known takes one store, between two bumps of the address generation.
func TestDeltaOfOnePodIsOneStore(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	remote := m.Pods[0]
	remote.Name, remote.UID, remote.Node, remote.Addrs = "remote", "remote", m.Nodes[1].Name, []netip.Addr{netip.MustParseAddr("10.42.2.20")}
	m.Pods = append(m.Pods, remote)
	apply(t, tables, p, m)
	twin := remote
	twin.Name, twin.UID = "twin", "twin"
	twin.Addrs = []netip.Addr{twin.Addrs[0].Next()}
	plan, err := p.PlanChanges(policy.Changes{Pods: []policy.Pod{twin}})
	must(t, err)
	writes := 0
	tables.writes.before = func() { writes++ }
	must(t, tables.Apply(context.Background(), plan))
	tables.writes.before = nil
	if writes != 3 {
		t.Errorf("%d stores, want the entry and two generations", writes)
	}
}

// Changes of tables that are not there are refused with nothing written.
func TestDeltaOfOtherTablesIsRefused(t *testing.T) {
	tables, p, m := openTables(t, newClock()), policy.NewPlanner(), twoNodes()
	apply(t, tables, p, m)
	plan, err := p.PlanChanges(policy.Changes{GonePods: []string{m.Pods[0].Key()}})
	must(t, err)
	q := policy.NewPlanner()
	q.Restore(tables.LiveImage())
	q.RestoreAddresses(tables.Addresses())
	apply(t, tables, q, m) // somebody else's plan comes between
	tables.writes.before = func() { t.Error("something is written") }
	if err := tables.Apply(context.Background(), plan); !errors.Is(err, errOtherTables) {
		t.Errorf("%v", err)
	}
	tables.writes.before = nil
}

// One pod comes and goes in a table of 10,000.
func BenchmarkApplyPod(b *testing.B) {
	cfg := testConfig(newClock())
	cfg.Sizes.ImageBytes, cfg.Sizes.Addr4Blocks = 16<<20, defaultAddr4Blocks
	tables, err := Open(cfg)
	must(b, err)
	defer closeTables(b, tables)
	p, m := policy.NewPlanner(), policy.Synthetic(1000, 10000, 250, 1)
	apply(b, tables, p, m)
	pod := m.Pods[1]
	pod.Name, pod.UID, pod.Addrs = "another", "another", []netip.Addr{netip.MustParseAddr("10.64.1.254")}
	for b.Loop() {
		for _, c := range []policy.Changes{{Pods: []policy.Pod{pod}}, {GonePods: []string{pod.Key()}}} {
			plan, err := p.PlanChanges(c)
			must(b, err)
			must(b, tables.Apply(context.Background(), plan))
			p.Commit(plan)
		}
	}
}
