// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
)

// Tunnel is the overlay's VXLAN device.
type Tunnel struct {
	Ifindex  int
	Name     string
	Port     uint16
	VNI      uint32
	MAC      [6]byte
	Local    netip.Addr // outer source of what it sends; invalid: chosen by route
	Underlay int        // ifindex of its parent; 0: none
	MTU      int
	// AnyVNI says that the VNI is not one network's: each packet has its own. MAC is zero then: nobody frames for it.
	AnyVNI bool
}

// TunnelHints narrow the choice among VXLAN devices. Zero values say nothing.
type TunnelHints struct {
	Port   uint16
	VNI    uint32
	HasVNI bool    // VNI was given: 0 is a number too
	MAC    [6]byte // the node's VTEP MAC, by its own account
}

// Tunnel finds the overlay's VXLAN device; nil if the host has none that fits the hints. Several that fit are an error
// unless one bears the node's VTEP MAC or only one is flannel's.
func (n *Network) Tunnel(h TunnelHints) (*Tunnel, error) {
	var fit, flows []*netlink.Vxlan
	for _, l := range n.links {
		v, ok := l.(*netlink.Vxlan)
		if !ok || h.Port != 0 && v.Port != int(h.Port) {
			continue
		}
		if v.FlowBased {
			flows = append(flows, v)
			continue
		}
		if h.HasVNI && v.VxlanId != int(h.VNI) {
			continue
		}
		// An IPv6 underlay is not judged yet; flannel names that device apart.
		if v.SrcAddr != nil && v.SrcAddr.To4() == nil {
			continue
		}
		fit = append(fit, v)
	}
	for _, prefer := range []func(*netlink.Vxlan) bool{
		func(v *netlink.Vxlan) bool { return h.MAC != [6]byte{} && toMAC(v.HardwareAddr) == h.MAC },
		func(v *netlink.Vxlan) bool { return strings.HasPrefix(v.Name, "flannel") },
	} {
		var preferred []*netlink.Vxlan
		for _, v := range fit {
			if prefer(v) {
				preferred = append(preferred, v)
			}
		}
		if len(fit) > 1 && len(preferred) > 0 {
			fit = preferred
		}
	}
	if len(fit) == 0 {
		return flowTunnel(flows, h), nil
	}
	if len(fit) > 1 {
		names := make([]string, len(fit))
		for i, v := range fit {
			names[i] = fmt.Sprintf("%s (port %d, VNI %d)", v.Name, v.Port, v.VxlanId)
		}
		sort.Strings(names)
		return nil, fmt.Errorf("choose VXLAN device: %s all fit; name one by port and VNI", strings.Join(names, ", "))
	}
	v := fit[0]
	t := &Tunnel{
		Ifindex: v.Index, Name: v.Name, Port: uint16(v.Port), VNI: uint32(v.VxlanId), MAC: toMAC(v.HardwareAddr),
		Underlay: v.VtepDevIndex, MTU: v.MTU,
	}
	t.Local, _ = toAddr(v.SrcAddr)
	return t, nil
}

// flowTunnel is Cilium's device, or one whose port was given: its packets' VNIs are set by programs. Others of the kind belong
// to virtual switches.
func flowTunnel(devices []*netlink.Vxlan, h TunnelHints) *Tunnel {
	for _, v := range devices {
		if h.Port != 0 || strings.HasPrefix(v.Name, "cilium") {
			return &Tunnel{Ifindex: v.Index, Name: v.Name, Port: uint16(v.Port), VNI: h.VNI, AnyVNI: !h.HasVNI, MTU: v.MTU}
		}
	}
	return nil
}

// vxlanOverhead is what VXLAN over IPv4 adds to an inner IP packet: Ethernet, VXLAN, UDP and IP headers.
const vxlanOverhead = 14 + 8 + 8 + 20

// Fits says whether what the tunnel may send fits its carriers. What does not is fragmented outside, and receivers that check
// the overlay drop the fragments: a first one says nothing about the rest.
func (t *Tunnel) Fits(carriers []Device) error {
	for _, d := range carriers {
		if d.MTU != 0 && t.MTU+vxlanOverhead > d.MTU {
			return fmt.Errorf("compare MTUs: %s has %d, which with %d bytes of headers does not fit the %d of %s: set it to %d",
				t.Name, t.MTU, vxlanOverhead, d.MTU, d.Name, d.MTU-vxlanOverhead)
		}
	}
	return nil
}
