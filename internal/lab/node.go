// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
)

// What flannel sets up by default.
const (
	VNI       = 1
	VXLANPort = 8472
)

func (l *Lab) newNode(number int) (*Node, error) {
	n := &Node{Number: number, NodeID: fmt.Sprintf("node%d", number),
		IP:      netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + number)}),
		PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(number - 1), 0}), 24),
		VTEPMAC: [6]byte{0, 0, 0x5e, 0, 0x53, byte(0x10 + number)}}
	var err error
	// Processes of the node see its own /sys and a bpffs that lasts as long as the node.
	if n.Space, err = NewSpace(l.Name+"-"+n.NodeID, func() error {
		if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			return fmt.Errorf("mount sysfs: %w", err)
		}
		if err := syscall.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs: %w", err)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if err := errors.Join(l.plug(n.Space, n.IP), l.router(n)); err != nil {
		n.Close()
		return nil, err
	}
	return n, l.DescribeNode(n)
}

// router makes the node forward, and gives it the VXLAN device and the bridge.
func (l *Lab) router(n *Node) error {
	for name, value := range map[string]string{
		"net/ipv4/ip_forward":             "1",
		"net/ipv4/conf/all/rp_filter":     fmt.Sprint(l.config.RPFilter),
		"net/ipv4/conf/default/rp_filter": fmt.Sprint(l.config.RPFilter),
		"net/ipv4/conf/eth0/rp_filter":    fmt.Sprint(l.config.RPFilter),
	} {
		if err := n.Sysctl(name, value); err != nil {
			return err
		}
	}
	return n.Do(func() error {
		nic, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		if err := l.vtep(n, nic, VNI, VXLANPort); err != nil {
			return err
		}
		no := false
		bridge := attrs("cni0")
		bridge.MTU = l.overlayMTU()
		if err := add(&netlink.Bridge{LinkAttrs: bridge, MulticastSnooping: &no}); err != nil {
			return err
		}
		return address("cni0", netip.PrefixFrom(n.Gateway(), 24))
	})
}

// vtep adds flannel's device above nic.
func (l *Lab) vtep(n *Node, nic netlink.Link, vni, port int) error {
	vtep := attrs("flannel.1")
	vtep.HardwareAddr, vtep.MTU = n.VTEPMAC[:], l.overlayMTU()
	if err := add(&netlink.Vxlan{LinkAttrs: vtep, VxlanId: vni, Port: port, VtepDevIndex: nic.Attrs().Index, SrcAddr: n.IP.AsSlice()}); err != nil {
		return err
	}
	return address("flannel.1", netip.PrefixFrom(n.PodCIDR.Addr(), 32))
}

// RemakeOverlay does what flanneld does when it starts with another configuration: the device goes on each node, another
// comes, with another MAC, and the nodes say so. nics are the interfaces below it, by node; empty: eth0.
func (l *Lab) RemakeOverlay(vni, port int, nics [2]string) error {
	for i, n := range l.Nodes {
		n.VTEPMAC[4]++
		if err := n.Do(func() error {
			nic, err := netlink.LinkByName(cmp.Or(nics[i], "eth0"))
			if err != nil {
				return fmt.Errorf("find the NIC: %w", err)
			}
			if old, err := netlink.LinkByName("flannel.1"); err == nil {
				if err := netlink.LinkDel(old); err != nil {
					return fmt.Errorf("remove flannel.1: %w", err)
				}
			}
			return l.vtep(n, nic, vni, port)
		}); err != nil {
			return err
		}
		if err := l.DescribeNode(n); err != nil {
			return err
		}
	}
	return errors.Join(l.Nodes[0].overlay(l.Nodes[1]), l.Nodes[1].overlay(l.Nodes[0]))
}

// PlugNIC joins a node to the switch by one more interface, and moves the node's address there if move is set.
func (l *Lab) PlugNIC(n *Node, name string, move bool) error {
	port := fmt.Sprintf("n%d-%s", n.Number, name)
	if err := l.fabric.Do(func() error {
		if err := add(&netlink.Veth{LinkAttrs: attrs(port), PeerName: name, PeerNamespace: netlink.NsFd(n.file.Fd())}); err != nil {
			return err
		}
		return enslave(port, "br0")
	}); err != nil {
		return fmt.Errorf("plug %s into the switch: %w", n.NodeID, err)
	}
	return n.Do(func() error {
		if err := up(name); err != nil || !move {
			return err
		}
		old, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		if err := netlink.AddrDel(old, &netlink.Addr{IPNet: ipnet(netip.PrefixFrom(n.IP, 24))}); err != nil {
			return fmt.Errorf("take %s from eth0: %w", n.IP, err)
		}
		return address(name, netip.PrefixFrom(n.IP, 24))
	})
}

// Gateway is the address of the node's bridge.
func (n *Node) Gateway() netip.Addr { return n.PodCIDR.Addr().Next() }

// overlay teaches the node the way to the pods of another one, as flannel does.
func (n *Node) overlay(to *Node) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName("flannel.1")
		if err != nil {
			return fmt.Errorf("find flannel.1: %w", err)
		}
		index := link.Attrs().Index
		vtep := net.IP(to.PodCIDR.Addr().AsSlice())
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: vtep,
			HardwareAddr: to.VTEPMAC[:]}); err != nil {
			return fmt.Errorf("set neighbour of %s: %w", to.NodeID, err)
		}
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Family: syscall.AF_BRIDGE,
			Flags: netlink.NTF_SELF, IP: to.IP.AsSlice(), HardwareAddr: to.VTEPMAC[:]}); err != nil {
			return fmt.Errorf("set forwarding entry of %s: %w", to.NodeID, err)
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipnet(to.PodCIDR), Gw: vtep,
			Flags: int(netlink.FLAG_ONLINK)}); err != nil {
			return fmt.Errorf("set route to the pods of %s: %w", to.NodeID, err)
		}
		return nil
	})
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// add creates an interface and brings it up.
func add(link netlink.Link) error {
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add %s %s: %w", link.Type(), link.Attrs().Name, err)
	}
	return up(link.Attrs().Name)
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

func enslave(name, bridge string) error {
	port, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find %s: %w", bridge, err)
	}
	if err := netlink.LinkSetMaster(port, master); err != nil {
		return fmt.Errorf("put %s on %s: %w", name, bridge, err)
	}
	return nil
}

func address(name string, prefix netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	mask := net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: mask}}); err != nil {
		return fmt.Errorf("give %s to %s: %w", prefix, name, err)
	}
	return nil
}

func ipnet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// publish bind-mounts a namespace where "ip netns" looks for names.
func publish(file *os.File, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), path, "", syscall.MS_BIND, ""); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func unpublish(path string) error {
	if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.Remove(path)
}
