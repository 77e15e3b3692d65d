// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/internal/lab"
)

var underlay = netip.MustParsePrefix("192.0.2.0/24")

// startNetwork makes the namespace of the control plane, whose bridge is the nodes' switch and way out.
func (c *Cluster) startNetwork() (err error) {
	if c.Space, err = lab.NewSpace(c.name+"-control", func() error { return nil }); err != nil {
		return err
	}
	return c.Space.Do(func() error {
		no := false
		bridge := &netlink.Bridge{LinkAttrs: named("br0"), MulticastSnooping: &no}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add the switch: %w", err)
		}
		return address("br0", netip.MustParseAddr(APIServer))
	})
}

// Plug makes one more machine on the switch: a namespace with an eth0 of that address, which the caller closes.
func (c *Cluster) Plug(name string, ip netip.Addr) (*lab.Space, error) {
	space, err := lab.NewSpace(c.name+"-"+name, func() error { return nil })
	if err != nil {
		return nil, err
	}
	if err := c.plug(space, name, ip); err != nil {
		space.Close()
		return nil, fmt.Errorf("plug %s into the switch: %w", name, err)
	}
	return space, nil
}

func (c *Cluster) plug(space *lab.Space, port string, ip netip.Addr) error {
	fd, err := space.File()
	if err != nil {
		return err
	}
	defer fd.Close()
	if err := c.Space.Do(func() error {
		if old, err := netlink.LinkByName(port); err == nil { // of a machine that was switched off a moment ago
			if err := netlink.LinkDel(old); err != nil {
				return fmt.Errorf("remove the old cable: %w", err)
			}
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		veth := &netlink.Veth{LinkAttrs: named(port), PeerName: "eth0", PeerNamespace: netlink.NsFd(fd.Fd())}
		veth.MasterIndex = bridge.Attrs().Index
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	}); err != nil {
		return err
	}
	if err := space.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	return space.Do(func() error {
		if err := address("eth0", ip); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(APIServer)})
	})
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// address gives an interface its address in the underlay and brings it up.
func address(name string, ip netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	prefix := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(underlay.Bits(), 32)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: prefix}); err != nil {
		return fmt.Errorf("give %s to %s: %w", ip, name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}
