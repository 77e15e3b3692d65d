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
	got := withFacts(m, n, tunnel)
	own := got.Nodes[0]
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
	if got.Nodes[1].Direct || !got.Nodes[2].Direct {
		t.Errorf("direct: node2 %v, node3 %v; want false, true", got.Nodes[1].Direct, got.Nodes[2].Direct)
	}
	if m.Nodes[0].VTEPMAC != [6]byte{} || m.Nodes[2].Direct || len(m.Nodes[0].Overlay) > 0 {
		t.Error("the manifests' model was changed")
	}
}
