// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"slices"

	"github.com/vishvananda/netlink"
)

// Same says whether another observation found nothing else, as far as it matters here: counters always differ.
func (n *Network) Same(other *Network) bool {
	if len(n.links) != len(other.links) || !n.SameWays(other) {
		return false
	}
	for index, l := range n.links {
		if o := other.links[index]; o == nil || !sameLink(l, o) {
			return false
		}
	}
	return true
}

// SameWays says whether another observation found the same addresses and routes.
func (n *Network) SameWays(other *Network) bool {
	return n == other || slices.Equal(n.addrs, other.addrs) && slices.Equal(n.routes, other.routes)
}

func sameLink(l, o netlink.Link) bool {
	a, b := l.Attrs(), o.Attrs()
	if l.Type() != o.Type() || a.Name != b.Name || a.Flags != b.Flags || a.MTU != b.MTU || a.MasterIndex != b.MasterIndex || a.ParentIndex != b.ParentIndex ||
		a.NetNsID != b.NetNsID || a.OperState != b.OperState || !bytes.Equal(a.HardwareAddr, b.HardwareAddr) {
		return false
	}
	v, is := l.(*netlink.Vxlan)
	if !is {
		return true
	}
	w := o.(*netlink.Vxlan)
	return v.VxlanId == w.VxlanId && v.Port == w.Port && v.VtepDevIndex == w.VtepDevIndex && v.FlowBased == w.FlowBased && v.SrcAddr.Equal(w.SrcAddr)
}
