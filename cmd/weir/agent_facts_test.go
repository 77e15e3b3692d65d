// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

func TestHostCompletesTheManifests(t *testing.T) {
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var n *loader.Network
	if err := l.Nodes[0].Do(func() (err error) { n, err = loader.Observe(); return err }); err != nil {
		t.Fatal(err)
	}
	tunnel, err := n.Tunnel(loader.TunnelHints{})
	if err != nil || tunnel == nil {
		t.Fatalf("find the lab's VXLAN device: %v, %v", tunnel, err)
	}
	gateway := l.Nodes[0].Gateway()
	m := &policy.Model{
		Node: "node1",
		Nodes: []policy.Node{
			{Name: "node1", PodCIDRs: []netip.Prefix{l.Nodes[0].PodCIDR}},
			{Name: "node2", PodCIDRs: []netip.Prefix{l.Nodes[1].PodCIDR}},
			{Name: "node3", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}}, // a route without the tunnel
		},
		Pods: []policy.Pod{{Name: "thief", Addrs: []netip.Addr{gateway}}},
	}
	m.Nodes[2].PodCIDRs[0] = netip.PrefixFrom(netip.MustParseAddr("192.0.2.128"), 25)
	got := newFacts(m, n, tunnel)
	own := got.own()
	if own.VTEPMAC != l.Nodes[0].VTEPMAC {
		t.Errorf("own VTEP MAC %x, want %x", own.VTEPMAC, l.Nodes[0].VTEPMAC)
	}
	if !slices.Equal(own.Underlay, []netip.Addr{l.Nodes[0].IP}) {
		t.Errorf("own underlay addresses %v, want %v", own.Underlay, l.Nodes[0].IP)
	}
	if !slices.Contains(own.Overlay, l.Nodes[0].PodCIDR.Addr()) {
		t.Errorf("own overlay addresses %v lack that of the VXLAN device", own.Overlay)
	}
	if slices.Contains(own.Overlay, gateway) {
		t.Error("an address that the manifests give to a pod became the host's")
	}
	if got.known["node2"].Direct || !got.known["node3"].Direct {
		t.Errorf("direct: node2 %v, node3 %v; want false, true", got.known["node2"].Direct, got.known["node3"].Direct)
	}
	if m.Nodes[0].VTEPMAC != [6]byte{} || m.Nodes[2].Direct || len(m.Nodes[0].Overlay) > 0 {
		t.Error("the manifests' model was changed")
	}

	none := func() []policy.Pod {
		t.Error("all pods were asked for, and no address of the host has changed")
		return nil
	}
	if got.with(&policy.Changes{Pods: []policy.Pod{{Name: "other", Addrs: []netip.Addr{netip.MustParseAddr("10.42.0.9")}}}}, n, tunnel, none) != got {
		t.Error("a pod that has no address of the host's changed the nodes")
	}
	gone := got.with(&policy.Changes{GonePods: []string{"/thief"}}, n, tunnel, none)
	if changed, _ := gone.since(got); len(changed) != 1 || !slices.Contains(changed[0].Overlay, gateway) {
		t.Errorf("the pod is gone, and the host's address is not the node's again: %v", changed)
	}
	fresh := policy.Node{Name: "node4", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/26")}}
	more := got.with(&policy.Changes{NodesChanged: []policy.Node{fresh}, GoneNodes: []string{"node2"}}, n, tunnel, none)
	changed, left := more.since(got)
	if len(changed) != 1 || !changed[0].Direct || !slices.Equal(left, []string{"node2"}) {
		t.Errorf("a node came and one went: changed %v, gone %v", changed, left)
	}
}
