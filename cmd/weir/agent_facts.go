// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

func own(m *policy.Model) *policy.Node {
	for i := range m.Nodes {
		if m.Nodes[i].Name == m.Node {
			return &m.Nodes[i]
		}
	}
	return &policy.Node{} // Translate has refused such a set
}

func (a *agent) tunnel(n *loader.Network, m *policy.Model) (*loader.Tunnel, error) {
	c := a.cfg.overlay
	return n.Tunnel(loader.TunnelHints{Port: c.port, VNI: c.vni, HasVNI: c.vniGiven, MAC: own(m).VTEPMAC})
}

// withFacts is m completed by what the host knows better than any manifest: how each node is reached, and what this one is
// called. The manifests' word on who owns an address stands.
func withFacts(m *policy.Model, n *loader.Network, t *loader.Tunnel) *policy.Model {
	out := *m
	out.Nodes = slices.Clone(m.Nodes)
	for i := range out.Nodes {
		node := &out.Nodes[i]
		if node.Name != m.Node {
			node.Direct = isDirect(n, t, node)
			continue
		}
		node.Underlay, node.Overlay = slices.Clone(node.Underlay), slices.Clone(node.Overlay)
		if t != nil && node.VTEPMAC == [6]byte{} {
			node.VTEPMAC = t.MAC
		}
		for _, addr := range n.HostAddrs() {
			switch {
			case isOwned(m, addr):
			case t != nil && addr == t.Local:
				node.Underlay = append(node.Underlay, addr)
			default:
				node.Overlay = append(node.Overlay, addr)
			}
		}
	}
	return &out
}

// isOwned says whether the manifests give an address to a node, a pod, or another node's pods.
func isOwned(m *policy.Model, addr netip.Addr) bool {
	for i := range m.Nodes {
		node := &m.Nodes[i]
		if slices.Contains(node.Underlay, addr) || slices.Contains(node.Overlay, addr) ||
			node.Name != m.Node && slices.ContainsFunc(node.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return true
		}
	}
	return slices.ContainsFunc(m.Pods, func(p policy.Pod) bool { return slices.Contains(p.Addrs, addr) })
}

// isDirect says whether our routes reach another node's pods without the tunnel. Without a route nothing is known yet, and
// only a node that speaks no VXLAN, on a host that has no VXLAN device, counts as direct.
func isDirect(n *loader.Network, t *loader.Tunnel, node *policy.Node) bool {
	index := 0
	if t != nil {
		index = t.Ifindex
	}
	some := false
	for _, cidr := range node.PodCIDRs {
		if !cidr.Addr().Is4() {
			continue
		}
		direct, known := n.Direct(cidr, index)
		if !known {
			direct = t == nil && node.VTEPMAC == [6]byte{}
		}
		if !direct {
			return false
		}
		some = true
	}
	return some
}
