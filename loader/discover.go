// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoUnderlay says that no interface was named and none could be found.
var ErrNoUnderlay = errors.New("no underlay interface found")

// Network is what netlink said about this host at one moment. It is not changed after Observe returns it.
type Network struct {
	links  map[int]netlink.Link
	addrs  []address
	routes []route
	since  time.Time // when looking began
}

type address struct {
	addr netip.Addr
	link int
}

type route struct {
	dst  netip.Prefix
	link int // 0: no single interface (unreachable, several next hops)
}

// Device is an interface to attach to.
type Device struct {
	Ifindex int
	Name    string
	MTU     int // 0: not known
}

// Observe reads the links, addresses and routes of the calling thread's network namespace.
func Observe() (*Network, error) {
	n := &Network{links: map[int]netlink.Link{}, since: time.Now()}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		n.links[l.Attrs().Index] = l
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := toAddr(a.IP); ok {
			n.addrs = append(n.addrs, address{ip, a.LinkIndex})
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, main, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := toPrefix(r.Dst); ok && r.Type == unix.RTN_UNICAST {
			n.routes = append(n.routes, route{p, r.LinkIndex})
		}
	}
	return n, nil
}

// dump repeats a netlink dump that changes of the tables cut through: half a list must not pass for a whole one.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for tries := 0; ; tries++ {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || tries == 4 {
			return out, err
		}
	}
}

// Underlay lists the physical interfaces that carry the overlay, by name: those given; else the VXLAN device's parent; else
// those that hold one of the node's addresses. What stands on other interfaces (VLAN, bond) is resolved to these, for a
// driver sees packets only there.
func (n *Network) Underlay(names []string, t *Tunnel, node []netip.Addr) ([]Device, error) {
	carriers, err := n.Carriers(names, t, node)
	if err != nil {
		return nil, err
	}
	seen := map[int]Device{}
	for _, d := range carriers {
		if err := n.physical(d.Ifindex, seen, 0); err != nil {
			return nil, err
		}
	}
	out := make([]Device, 0, len(seen))
	for _, d := range seen {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// Carriers is Underlay before resolution: the interfaces that hold the overlay's outer addresses.
func (n *Network) Carriers(names []string, t *Tunnel, node []netip.Addr) ([]Device, error) {
	var out []Device
	for _, name := range names {
		l := n.byName(name)
		if l == nil {
			return nil, fmt.Errorf("find underlay interface %s: no such interface", name)
		}
		out = append(out, device(l))
	}
	if len(out) > 0 {
		return out, nil
	}
	if t != nil && t.Underlay != 0 {
		if l := n.links[t.Underlay]; l != nil {
			return []Device{device(l)}, nil
		}
	}
	want := append([]netip.Addr(nil), node...)
	if t != nil && t.Local.IsValid() {
		want = append(want, t.Local)
	}
	seen := map[int]bool{}
	for _, a := range n.addrs {
		for _, w := range want {
			if l := n.links[a.link]; a.addr == w && l != nil && !seen[a.link] && l.Attrs().Flags&net.FlagLoopback == 0 {
				seen[a.link] = true
				out = append(out, device(l))
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: the VXLAN device has no parent and no interface holds any of %v; name it by --underlay", ErrNoUnderlay, want)
	}
	return out, nil
}

func device(l netlink.Link) Device { return Device{l.Attrs().Index, l.Attrs().Name, l.Attrs().MTU} }

func (n *Network) physical(index int, seen map[int]Device, depth int) error {
	l := n.links[index]
	if l == nil || depth > 8 {
		return fmt.Errorf("find what is below interface %d: it is in another network namespace", index)
	}
	switch l.Type() {
	case "vlan", "macvlan", "ipvlan":
		return n.physical(l.Attrs().ParentIndex, seen, depth+1)
	case "bond", "team":
		found := false
		for _, m := range n.links {
			if m.Attrs().MasterIndex == index {
				found = true
				if err := n.physical(m.Attrs().Index, seen, depth+1); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("find what is below %s: the bond has no members", l.Attrs().Name)
		}
		return nil
	case "bridge": // its uplinks are what is no pod's or virtual machine's
		found := false
		for _, m := range n.links {
			switch kind := m.Type(); {
			case m.Attrs().MasterIndex != index:
			case kind == "device", kind == "vlan", kind == "bond", kind == "team":
				found = true
				if err := n.physical(m.Attrs().Index, seen, depth+1); err != nil {
					return err
				}
			}
		}
		if found {
			return nil
		}
		return fmt.Errorf("find the NIC below %s: it is a bridge without a NIC; name its uplink as underlay", l.Attrs().Name)
	}
	seen[index] = device(l)
	return nil
}

// Direct says whether routes reach a prefix without the tunnel, and without one of another kind: plain packets from it may
// come in by a NIC. known is false if no route but the default one leads there, which says nothing.
func (n *Network) Direct(p netip.Prefix, tunnel int) (direct, known bool) {
	best := -1
	for _, r := range n.routes {
		if r.dst.Bits() > best && r.dst.Bits() > 0 && r.dst.Bits() <= p.Bits() && r.dst.Contains(p.Addr()) {
			best, direct = r.dst.Bits(), (tunnel == 0 || r.link != tunnel) && !n.encapsulates(r.link)
		}
	}
	return direct, best >= 0
}

// encapsulates says whether what leaves by an interface leaves the host inside other packets.
func (n *Network) encapsulates(index int) bool {
	l := n.links[index]
	if l == nil {
		return false
	}
	switch l.Type() {
	case "vxlan", "geneve", "wireguard", "ipip", "sit", "ip6tnl", "gre", "gretap", "ip6gre", "ip6gretap", "erspan", "vti", "vti6", "xfrm",
		"tun", "tuntap", "bareudp", "gtp", "ovpn":
		return true
	}
	return false
}

// HostAddrs lists the addresses of this host, sorted. Those that are no host's own in truth are left out: loopback,
// link-local, and what stands on dummy interfaces (kube-proxy's Service addresses in IPVS mode).
func (n *Network) HostAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range n.addrs {
		l := n.links[a.link]
		if l != nil && l.Type() != "dummy" && !a.addr.IsLoopback() && !a.addr.IsLinkLocalUnicast() {
			out = append(out, a.addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// HasLink says whether an interface existed when the network was observed.
func (n *Network) HasLink(index int) bool { return n.links[index] != nil }

func (n *Network) byName(name string) netlink.Link {
	for _, l := range n.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

func toAddr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok && !a.IsUnspecified()
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	if a = a.Unmap(); a.Is4() && size == 128 {
		bits -= 96
	}
	p, err := a.Prefix(bits)
	return p, err == nil
}

func toMAC(hw net.HardwareAddr) (mac [6]byte) {
	if len(hw) == 6 {
		copy(mac[:], hw)
	}
	return mac
}
