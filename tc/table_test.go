// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
	"github.com/weirnet/weir/policy"
)

// Which table a flow is in.
type place string

const (
	unknown place = "unknown"
	fresh   place = "new"
	assured place = "assured"
)

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// keyOf is the key of a flow that s opens.
func keyOf(s packet.Spec) bpf.FlowKey {
	k := bpf.FlowKey{Saddr: number(s.Src), Daddr: number(s.Dst), Sport: s.SrcPort, Dport: s.DstPort, Protocol: s.Protocol}
	if s.Protocol == packet.ProtocolICMP {
		k.Sport, k.Dport = uint16(s.Rest>>16), uint16(s.Type)
	}
	return k
}

func find(t *testing.T, c *lt.Cluster, key bpf.FlowKey) (place, bpf.Flow) {
	t.Helper()
	var flow bpf.Flow
	for _, p := range []struct {
		table string
		place place
	}{{"flows", assured}, {"flows_new", fresh}} {
		switch err := c.Tables().Maps()[p.table].Lookup(key, &flow); {
		case err == nil:
			return p.place, flow
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			t.Fatal(err)
		}
	}
	return unknown, flow
}

func where(t *testing.T, c *lt.Cluster, key bpf.FlowKey) place {
	t.Helper()
	p, _ := find(t, c, key)
	return p
}

// age makes a flow look as if nothing had been heard of it for so many seconds.
func age(t *testing.T, c *lt.Cluster, key bpf.FlowKey, seconds uint64) {
	t.Helper()
	p, flow := find(t, c, key)
	if p == unknown {
		t.Fatalf("no flow %+v to age", key)
	}
	flow.SeenNs -= seconds * 1e9
	table := "flows_new"
	if p == assured {
		table = "flows"
	}
	if err := c.Tables().Maps()[table].Update(key, &flow, ebpf.UpdateExist); err != nil {
		t.Fatal(err)
	}
}

// flowCount counts all flows, of both tables.
func flowCount(t *testing.T, c *lt.Cluster) (n int) {
	t.Helper()
	for _, table := range []string{"flows", "flows_new"} {
		var key bpf.FlowKey
		var flow bpf.Flow
		entries := c.Tables().Maps()[table].Iterate()
		for entries.Next(&key, &flow) {
			n++
		}
		if err := entries.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// A world is a cluster whose model changes.
type world struct {
	*lt.Cluster
	planner *policy.Planner
}

func newWorld(t *testing.T, model *policy.Model) *world {
	t.Helper()
	planner := policy.NewPlanner()
	plan, err := planner.Plan(model)
	if err != nil {
		t.Fatal(err)
	}
	planner.Commit(plan)
	return &world{lt.New(t, bpf.DefaultKnobs(), model), planner}
}

// become applies another model.
func (w *world) become(t *testing.T, model *policy.Model) {
	t.Helper()
	plan, err := w.planner.Plan(model)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(plan); err != nil {
		t.Fatal(err)
	}
	w.planner.Commit(plan)
	w.Compiled = plan.Final
}

// without is the model less some policies, by name.
func without(names ...string) *policy.Model {
	model := lt.Model()
	var left []policy.Policy
	for _, p := range model.Policies {
		gone := false
		for _, name := range names {
			gone = gone || p.Key == "CiliumNetworkPolicy test/"+name
		}
		if !gone {
			left = append(left, p)
		}
	}
	model.Policies = left
	return model
}

// ruled is the model with the rules of one policy changed.
func ruled(name string, change func(*policy.Policy)) *policy.Model {
	model := lt.Model()
	for i := range model.Policies {
		if model.Policies[i].Key == "CiliumNetworkPolicy test/"+name {
			change(&model.Policies[i])
		}
	}
	return model
}

type policyModel = policy.Model

// admitted is the rule that admitAll adds.
const admitted = "CiliumNetworkPolicy test/locked spec.ingress[0]"

// admitAll lets everybody reach the pods of a policy.
func admitAll(p *policy.Policy) {
	p.Rules = append(p.Rules, policy.Rule{Path: "spec.ingress[0]", Direction: policy.Ingress,
		Peers: []policy.Peer{{Kind: policy.PeerEntity, Entity: policy.EntityAll}}, Ports: []policy.PortMatch{policy.AnyPort}})
}

// without1 is the model less one rule of a policy.
func without1(name string, rule int) *policy.Model {
	return ruled(name, func(p *policy.Policy) { p.Rules = append(p.Rules[:rule:rule], p.Rules[rule+1:]...) })
}
