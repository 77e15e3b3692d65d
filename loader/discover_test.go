// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func observe(t *testing.T) *Network {
	t.Helper()
	n, err := Observe()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	ok(t, err)
	ok(t, netlink.LinkSetUp(l))
	return l
}

func addAddr(t *testing.T, name, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	ok(t, err)
	ok(t, netlink.AddrAdd(up(t, name), a))
}

func addRoute(t *testing.T, name, cidr string, onlink string) {
	t.Helper()
	_, dst, err := net.ParseCIDR(cidr)
	ok(t, err)
	r := &netlink.Route{LinkIndex: up(t, name).Attrs().Index, Dst: dst}
	if onlink != "" {
		r.Gw, r.Flags = net.ParseIP(onlink), int(netlink.FLAG_ONLINK)
	}
	ok(t, netlink.RouteAdd(r))
}

func addVXLAN(t *testing.T, name string, vni, port, parent int) {
	t.Helper()
	hw, _ := net.ParseMAC("00:00:5e:00:53:0" + string(name[len(name)-1]))
	ok(t, netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw},
		VxlanId:   vni, Port: port, VtepDevIndex: parent, SrcAddr: net.ParseIP("192.0.2.1"),
	}))
	up(t, name)
}

func TestTunnelIsFoundOrAskedFor(t *testing.T) {
	if !isolate(t) {
		return
	}
	nic := addVeth(t, "nic")
	addAddr(t, "nic", "192.0.2.1/24")
	if tunnel, err := observe(t).Tunnel(TunnelHints{}); tunnel != nil || err != nil {
		t.Errorf("without any VXLAN device: got %v, %v", tunnel, err)
	}
	addVXLAN(t, "flannel.1", 1, 8472, nic.Ifindex)
	tunnel, err := observe(t).Tunnel(TunnelHints{})
	ok(t, err)
	want := Tunnel{Name: "flannel.1", Port: 8472, VNI: 1, MAC: [6]byte{0, 0, 0x5e, 0, 0x53, 1}, Local: netip.MustParseAddr("192.0.2.1"),
		Underlay: nic.Ifindex, Ifindex: tunnel.Ifindex, MTU: 1450}
	if *tunnel != want {
		t.Errorf("got %+v, want %+v", *tunnel, want)
	}
	addVXLAN(t, "vx2", 2, 4789, nic.Ifindex)
	addVXLAN(t, "vx3", 3, 4789, nic.Ifindex)
	n := observe(t)
	for name, hints := range map[string]TunnelHints{
		"flannel.1": {},
		"vx2":       {VNI: 2, HasVNI: true},
		"vx3":       {Port: 4789, MAC: [6]byte{0, 0, 0x5e, 0, 0x53, 3}},
	} {
		tunnel, err := n.Tunnel(hints)
		if err != nil || tunnel.Name != name {
			t.Errorf("hints %+v: got %+v, %v; want %s", hints, tunnel, err, name)
		}
	}
	if _, err := n.Tunnel(TunnelHints{Port: 4789}); err == nil || !strings.Contains(err.Error(), "vx2 (port 4789, VNI 2), vx3 (port 4789, VNI 3)") {
		t.Errorf("two that fit: got %v, want both named", err)
	}
}

// The links are made up: this kernel may lack VLAN and bonding devices.
func TestUnderlayIsThePhysicalInterface(t *testing.T) {
	links := map[int]netlink.Link{
		2: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "eth0", MasterIndex: 4}},
		3: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "eth1", MasterIndex: 4}},
		4: &netlink.Bond{LinkAttrs: netlink.LinkAttrs{Index: 4, Name: "bond0"}},
		5: &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Index: 5, Name: "bond0.7", ParentIndex: 4}},
		6: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 6, Name: "eth2"}},
		7: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 7, Name: "br0"}},
	}
	node := netip.MustParseAddr("192.0.2.1")
	n := &Network{links: links, addrs: []address{{node, 5}, {netip.MustParseAddr("198.51.100.1"), 6}}}
	for name, c := range map[string]struct {
		names  []string
		tunnel *Tunnel
		node   netip.Addr
		want   string
		err    string
	}{
		"VLAN on a bond, by the node's address":  {node: node, want: "eth0,eth1"},
		"VLAN on a bond, by the tunnel's parent": {tunnel: &Tunnel{Underlay: 5}, want: "eth0,eth1"},
		"by the tunnel's local address":          {tunnel: &Tunnel{Local: netip.MustParseAddr("198.51.100.1")}, want: "eth2"},
		"by name":                                {names: []string{"eth2", "bond0"}, node: node, want: "eth0,eth1,eth2"},
		"a name that nothing has":                {names: []string{"eth9"}, err: "eth9: no such interface"},
		"a bridge":                               {names: []string{"br0"}, err: "br0: it is a bridge without a NIC"},
		"an address that nothing has":            {node: netip.MustParseAddr("203.0.113.1"), err: ErrNoUnderlay.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := n.Underlay(c.names, c.tunnel, []netip.Addr{c.node})
			var names []string
			for _, d := range got {
				names = append(names, d.Name)
			}
			if joined := strings.Join(names, ","); joined != c.want {
				t.Errorf("got %q, want %q", joined, c.want)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
		})
	}
}

func TestHostAddrsAreTheHostsOwn(t *testing.T) {
	n := &Network{links: map[int]netlink.Link{
		1: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo", Flags: net.FlagLoopback}},
		2: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "eth0"}},
		3: &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "kube-ipvs0"}},
		4: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 4, Name: "cni0"}},
	}}
	for text, link := range map[string]int{"127.0.0.1": 1, "192.0.2.1": 2, "2001:db8::1": 2, "fe80::1": 2, "10.43.0.10": 3, "10.42.0.1": 4} {
		n.addrs = append(n.addrs, address{netip.MustParseAddr(text), link})
	}
	if got := fmt.Sprint(n.HostAddrs()); got != "[10.42.0.1 192.0.2.1 2001:db8::1]" {
		t.Errorf("got %s", got)
	}
}

func TestRoutesSayWhoIsTunnelled(t *testing.T) {
	if !isolate(t) {
		return
	}
	nic := addVeth(t, "nic")
	up(t, "nicp")
	addAddr(t, "nic", "192.0.2.1/24")
	addVXLAN(t, "flannel.1", 1, 8472, nic.Ifindex)
	addRoute(t, "flannel.1", "10.42.1.0/24", "10.42.1.0")
	addRoute(t, "nic", "10.42.2.0/24", "192.0.2.2")
	addRoute(t, "nic", "0.0.0.0/0", "192.0.2.254")
	n := observe(t)
	tunnel, err := n.Tunnel(TunnelHints{})
	ok(t, err)
	for cidr, want := range map[string][2]bool{
		"10.42.1.0/24": {false, true},
		"10.42.2.0/24": {true, true},
		"10.42.3.0/24": {false, false}, // the default route says nothing
	} {
		if direct, known := n.Direct(netip.MustParsePrefix(cidr), tunnel.Ifindex); direct != want[0] && known || known != want[1] {
			t.Errorf("%s: direct %v, known %v; want %v", cidr, direct, known, want)
		}
	}
}

func TestWatchTellsOfChanges(t *testing.T) {
	if !isolate(t) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	changes, err := Watch(ctx)
	ok(t, err)
	addVeth(t, "new")
	select {
	case <-changes:
	case <-time.After(10 * time.Second):
		t.Fatal("a new interface went unnoticed")
	}
	cancel()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case _, open := <-changes:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the channel stays open after the end")
		}
	}
}
