// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// What routed CNIs call the host side of a pod's veth: Calico, Cilium, AWS, Azure, GKE.
var podVethNames = []string{"cali", "lxc", "eni", "azv", "gke"}

// PodLike lists the veths that are some pod's, whoever that pod is, by name: those whose other end is in another
// namespace, and which stand on a bridge that holds an address of podCIDRs, or on none and are called like a routed CNI's
// veths, have a route to an address of podCIDRs, or hold one at their other end. The interfaces in except are not asked.
func (f *PodFinder) PodLike(n *Network, podCIDRs []netip.Prefix, except map[int]bool) (out []Device) {
	pods := func(a netip.Addr) bool {
		return slices.ContainsFunc(podCIDRs, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	gateways, routed := map[int]bool{}, map[int]bool{}
	for _, a := range n.addrs {
		gateways[a.link] = gateways[a.link] || pods(a.addr)
	}
	for _, r := range n.routes {
		routed[r.link] = routed[r.link] || r.dst.IsSingleIP() && pods(r.dst.Addr())
	}
	var unclear []int
	for index, l := range n.links {
		a := l.Attrs()
		if l.Type() != "veth" || a.NetNsID < 0 || except[index] {
			continue
		}
		switch {
		case a.MasterIndex != 0:
			if gateways[a.MasterIndex] {
				out = append(out, Device{Ifindex: index, Name: a.Name})
			}
		case routed[index] || slices.ContainsFunc(podVethNames, func(p string) bool { return strings.HasPrefix(a.Name, p) }):
			out = append(out, Device{Ifindex: index, Name: a.Name})
		default:
			unclear = append(unclear, index)
		}
	}
	if len(unclear) > 0 {
		out = append(out, f.holders(n, unclear, pods)...)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// holders are the veths whose other end holds an address that is a pod's.
func (f *PodFinder) holders(n *Network, veths []int, pods func(netip.Addr) bool) (out []Device) {
	others := map[int]string{}
	for index := range n.links {
		if !slices.Contains(veths, index) {
			others[index] = "not asked"
		}
	}
	inside := f.namespaces(n, others)
	for _, index := range veths {
		a := n.links[index].Attrs()
		if slices.ContainsFunc(inside[a.NetNsID][a.ParentIndex].addrs, pods) {
			out = append(out, Device{Ifindex: index, Name: a.Name})
		}
	}
	return out
}
