// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Cilium's device sets the VNI of each packet; others of its kind are somebody's virtual switch, unless their port is given.
func TestTunnelWithoutOneVNI(t *testing.T) {
	if !isolate(t) {
		return
	}
	addVeth(t, "nic")
	ok(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan_sys"}, FlowBased: true, Port: 4789}))
	if tunnel, err := observe(t).Tunnel(TunnelHints{}); tunnel != nil || err != nil {
		t.Errorf("somebody's switch: got %+v, %v", tunnel, err)
	}
	tunnel, err := observe(t).Tunnel(TunnelHints{Port: 4789})
	ok(t, err)
	if tunnel == nil || tunnel.Name != "vxlan_sys" || !tunnel.AnyVNI {
		t.Errorf("by its port: got %+v", tunnel)
	}
	ok(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "cilium_vxlan"}, FlowBased: true, Port: 8472}))
	tunnel, err = observe(t).Tunnel(TunnelHints{})
	ok(t, err)
	if tunnel == nil || tunnel.Name != "cilium_vxlan" || !tunnel.AnyVNI || tunnel.Port != 8472 || tunnel.MAC != [6]byte{} {
		t.Errorf("Cilium's: got %+v", tunnel)
	}
	if tunnel, err = observe(t).Tunnel(TunnelHints{Port: 8472, VNI: 7, HasVNI: true}); err != nil || tunnel == nil || tunnel.AnyVNI || tunnel.VNI != 7 {
		t.Errorf("with a VNI given: got %+v, %v", tunnel, err)
	}
	addVXLAN(t, "flannel.1", 1, 4788, 0)
	if tunnel, err = observe(t).Tunnel(TunnelHints{}); err != nil || tunnel == nil || tunnel.Name != "flannel.1" || tunnel.AnyVNI {
		t.Errorf("beside an overlay of one VNI: got %+v, %v", tunnel, err)
	}
}

// What is reached through an interface that encapsulates may not come in plainly by a NIC, whatever the kind of tunnel.
func TestOtherTunnelsAreNotDirect(t *testing.T) {
	n := &Network{links: map[int]netlink.Link{
		2: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "eth0"}},
		3: &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "flannel-wg"}},
		4: &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Index: 4, Name: "tunl0"}},
		5: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 5, Name: "br0"}},
	}}
	for cidr, link := range map[string]int{"10.42.1.0/24": 2, "10.42.2.0/24": 3, "10.42.3.0/24": 4, "10.42.4.0/24": 5, "10.42.5.0/24": 0} {
		n.routes = append(n.routes, route{netip.MustParsePrefix(cidr), link})
		want := link != 3 && link != 4
		if direct, known := n.Direct(netip.MustParsePrefix(cidr), 0); direct != want || !known {
			t.Errorf("by link %d: direct %v, known %v; want %v", link, direct, known, want)
		}
	}
}

func TestOverlayMTUThatDoesNotFit(t *testing.T) {
	tunnel := &Tunnel{Name: "flannel.1", MTU: 1450, MAC: [6]byte(net.HardwareAddr{2, 0, 0, 0, 0, 1})}
	nic := Device{Name: "eth0", MTU: 1500}
	if err := tunnel.Fits([]Device{nic}); err != nil {
		t.Errorf("1450 in 1500: %v", err)
	}
	tunnel.MTU = 1500
	err := tunnel.Fits([]Device{{Name: "eth1", MTU: 9000}, nic})
	if err == nil || !strings.Contains(err.Error(), "flannel.1 has 1500") || !strings.Contains(err.Error(), "the 1500 of eth0: set it to 1450") {
		t.Errorf("1500 in 1500: got %v", err)
	}
}

// What stands below the overlay is looked at anew each time: bonds win and lose members, VLANs move.
func TestUnderlayFollowsBondsAndVLANs(t *testing.T) {
	links := map[int]netlink.Link{
		2: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "eth0", MasterIndex: 4, MTU: 1500}},
		3: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "eth1", MTU: 1500}},
		4: &netlink.Bond{LinkAttrs: netlink.LinkAttrs{Index: 4, Name: "bond0", MTU: 9000}},
		5: &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Index: 5, Name: "vlan7", ParentIndex: 4}},
		6: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 6, Name: "eth2", MTU: 9000}},
	}
	node := netip.MustParseAddr("192.0.2.1")
	n := &Network{links: links, addrs: []address{{node, 5}}}
	expect := func(what, want string, frags bool) {
		t.Helper()
		got, err := n.Underlay(nil, nil, []netip.Addr{node})
		var names []string
		for _, d := range got {
			names = append(names, d.Name)
		}
		if text := strings.Join(names, ","); err != nil || text != want || NeedFrags(got) != frags {
			t.Errorf("%s: got %s, %v, frags %v; want %s, frags %v", what, text, err, NeedFrags(got), want, frags)
		}
	}
	expect("one member", "eth0", false)
	links[3].Attrs().MasterIndex = 4
	expect("a member more", "eth0,eth1", false)
	links[2].Attrs().MasterIndex = 0
	expect("a member less", "eth1", false)
	links[5].Attrs().ParentIndex = 6
	expect("the VLAN moved to another NIC", "eth2", true)
	n.addrs[0].link = 3
	expect("the address moved out of the VLAN", "eth1", false)
	// A NIC in a bridge, beside a virtual machine's and a pod's end; the bridge has the address.
	links[7] = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 7, Name: "br0"}}
	links[8] = &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Index: 8, Name: "vnet0", MasterIndex: 7}}
	links[9] = &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: 9, Name: "veth0", MasterIndex: 7}}
	links[3].Attrs().MasterIndex, n.addrs[0].link = 7, 7
	expect("the NIC went into a bridge", "eth1", false)
	links[3].Attrs().MasterIndex, links[5].Attrs().ParentIndex, n.addrs[0].link = 0, 4, 5
	if _, err := n.Underlay(nil, nil, []netip.Addr{node}); err == nil || !strings.Contains(err.Error(), "bond0: the bond has no members") {
		t.Errorf("an empty bond: got %v", err)
	}
}
