// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// addresses invents addresses that nobody has.
type addresses struct {
	used    map[netip.Addr]bool
	blocks  []netip.Prefix // podCIDRs, given and invented
	nodes   int            // addresses handed out to nodes
	pods    int            // blocks handed out
	cursors map[netip.Prefix]netip.Addr
}

func newAddresses(o *Objects) *addresses {
	a := &addresses{used: map[netip.Addr]bool{}, cursors: map[netip.Prefix]netip.Addr{}}
	mark := func(text string) {
		if addr, err := netip.ParseAddr(text); err == nil {
			a.used[addr] = true
		}
	}
	for _, n := range o.Nodes {
		for _, address := range n.Status.Addresses {
			mark(address.Address)
		}
		a.blocks = append(a.blocks, podCIDRs(n)...)
	}
	for _, p := range o.Pods {
		for _, addr := range podAddrs(p) {
			a.used[addr] = true
		}
	}
	for _, s := range o.Services {
		mark(s.Spec.ClusterIP)
		for _, ip := range append(append([]string(nil), s.Spec.ClusterIPs...), s.Spec.ExternalIPs...) {
			mark(ip)
		}
	}
	return a
}

// furnish is node with an InternalIP and a podCIDR for IPv4, and a VTEP MAC and IPv6 too if all of it is invented.
func (a *addresses) furnish(node *corev1.Node, given bool) *corev1.Node {
	n := node.DeepCopy()
	ip4, cidr4 := true, true
	for _, address := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP && addr.Is4() {
			ip4 = false
		}
	}
	for _, prefix := range podCIDRs(n) {
		cidr4 = cidr4 && !prefix.Addr().Is4()
	}
	if ip4 {
		v4, v6 := a.nodeAddrs()
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: v4.String()})
		if !given {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: v6.String()})
			n.Annotations[flannelPrefix+"backend-type"] = "vxlan"
			n.Annotations[flannelPrefix+"backend-data"] = fmt.Sprintf(`{"VNI":1,"VtepMAC":"00:00:5e:00:53:%02x"}`, a.nodes&0xff)
		}
	}
	if cidr4 {
		a.grow(n, !given)
	}
	return n
}

// nodeAddrs invents a node's addresses, of the ranges for documentation (RFC 5737 and 3849).
func (a *addresses) nodeAddrs() (netip.Addr, netip.Addr) {
	for {
		a.nodes++
		v4 := netip.AddrFrom4([4]byte{192, 0, byte(2 + a.nodes/255), byte(1 + (a.nodes-1)%254)})
		v6 := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", a.nodes))
		if !a.used[v4] && !a.used[v6] {
			a.used[v4], a.used[v6] = true, true
			return v4, v6
		}
	}
}

// grow adds a podCIDR of 256 addresses to n that touches nothing known, and one of IPv6 if asked.
func (a *addresses) grow(n *corev1.Node, v6 bool) {
	for {
		a.pods++
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(244 + a.pods>>8), byte(a.pods), 0}), 24)
		if a.pods>>8 > 11 { // 10.255.255.0/24 was the last
			return
		}
		if !a.free(block) {
			continue
		}
		n.Spec.PodCIDRs = append(cidrTexts(n), block.String())
		if v6 {
			n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, fmt.Sprintf("fd00:10:244:%x::/64", a.pods))
		}
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
		a.blocks = append(a.blocks, podCIDRs(n)...)
		return
	}
}

func cidrTexts(n *corev1.Node) []string {
	var texts []string
	for _, prefix := range podCIDRs(n) {
		texts = append(texts, prefix.String())
	}
	return texts
}

func (a *addresses) free(block netip.Prefix) bool {
	for _, b := range a.blocks {
		if b.Overlaps(block) {
			return false
		}
	}
	for addr := range a.used {
		if block.Contains(addr) {
			return false
		}
	}
	return true
}

// next invents a pod's addresses on n: IPv4, and IPv6 where the node has a podCIDR of it. The first two addresses of a
// podCIDR are the node's own (VTEP and bridge), the last one is for broadcast.
func (a *addresses) next(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, v4 := range []bool{true, false} {
		addr, ok := a.nextOf(n, v4)
		if !ok && v4 {
			a.grow(n, false)
			addr, ok = a.nextOf(n, v4)
		}
		if ok {
			out = append(out, addr)
		}
	}
	return out
}

func (a *addresses) nextOf(n *corev1.Node, v4 bool) (netip.Addr, bool) {
	for _, prefix := range podCIDRs(n) {
		if prefix.Addr().Is4() != v4 {
			continue
		}
		addr, begun := a.cursors[prefix]
		if !begun {
			addr = prefix.Addr().Next()
		}
		for {
			addr = addr.Next()
			if !addr.IsValid() || !prefix.Contains(addr) || v4 && !prefix.Contains(addr.Next()) {
				break
			}
			a.cursors[prefix] = addr
			if !a.used[addr] {
				a.used[addr] = true
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}
