// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// ErrNotTheirs says that an interface is not what it is said to be.
var ErrNotTheirs = errors.New("the pod's interface is another than said")

// Inside finds the host side of the interface called name in a pod's network namespace, which is open as netns, and makes
// sure that it holds one of addrs. What it says is read from both ends: each names the other.
func (n *Network) Inside(netns int, name string, addrs []netip.Addr) (PodInterface, error) {
	id, err := netlink.GetNetNsIdByFd(netns)
	if err != nil {
		return PodInterface{}, fmt.Errorf("find namespace of the pod: %w", err)
	}
	if id < 0 {
		return PodInterface{}, fmt.Errorf("find host side of %s: %w that leads to its namespace", name, ErrNoInterface)
	}
	in, err := newInsider()
	if err != nil {
		return PodInterface{}, err
	}
	defer in.close()
	links, err := in.look(id)
	if err != nil {
		return PodInterface{}, err
	}
	for index, end := range links {
		if end.name != name {
			continue
		}
		if !slices.ContainsFunc(end.addrs, func(a netip.Addr) bool { return slices.Contains(addrs, a) }) {
			return PodInterface{}, fmt.Errorf("%w: %s has %v, not %v", ErrNotTheirs, name, end.addrs, addrs)
		}
		for _, l := range n.links {
			if a := l.Attrs(); l.Type() == "veth" && a.NetNsID == id && a.ParentIndex == index {
				return PodInterface{a.Index, a.Name, end.mac, toMAC(a.HardwareAddr), uint32(id + 1), "cni"}, nil
			}
		}
		return PodInterface{}, fmt.Errorf("find host side of %s: %w, only veths can be guarded", name, ErrNoInterface)
	}
	return PodInterface{}, fmt.Errorf("%w: there is no %s in its namespace", ErrNotTheirs, name)
}

// Behind makes sure that a veth of this host is still the one that leads to a pod with one of addrs.
func (n *Network) Behind(ifindex int, name string, addrs []netip.Addr) (PodInterface, error) {
	l := n.links[ifindex]
	if l == nil || l.Type() != "veth" || l.Attrs().Name != name || l.Attrs().NetNsID < 0 {
		return PodInterface{}, fmt.Errorf("look behind %s: %w of that name", name, ErrNoInterface)
	}
	in, err := newInsider()
	if err != nil {
		return PodInterface{}, err
	}
	defer in.close()
	a := l.Attrs()
	links, err := in.look(a.NetNsID)
	if err != nil {
		return PodInterface{}, err
	}
	end := links[a.ParentIndex]
	if !slices.ContainsFunc(end.addrs, func(a netip.Addr) bool { return slices.Contains(addrs, a) }) {
		return PodInterface{}, fmt.Errorf("%w: what is behind %s has %v, not %v", ErrNotTheirs, name, end.addrs, addrs)
	}
	return PodInterface{ifindex, name, end.mac, toMAC(a.HardwareAddr), uint32(a.NetNsID + 1), "cni"}, nil
}

// BehindName is Behind for an interface of which only the name is known.
func (n *Network) BehindName(name string, addrs []netip.Addr) (PodInterface, error) {
	l := n.byName(name)
	if l == nil {
		return PodInterface{}, fmt.Errorf("look behind %s: %w of that name", name, ErrNoInterface)
	}
	return n.Behind(l.Attrs().Index, name, addrs)
}

// told is what the CNI plugin said, as long as the veth is the one it spoke of.
type told struct {
	at    PodInterface
	peer  peer
	since time.Time // of the network that it was seen in
}

type toldOf struct {
	pod  string
	addr netip.Addr
}

// Tell says where a pod is that has address a. It overrules what was found, until the veth is gone or another is told.
func (f *PodFinder) Tell(n *Network, pod string, a netip.Addr, at PodInterface) {
	if f.told == nil {
		f.told = map[toldOf]told{}
	}
	f.told[toldOf{pod, a}] = told{at, n.peer(at.Ifindex), n.since}
}

// recall is what was told about a pod and is still true.
func (f *PodFinder) recall(n *Network, p PodAddress) (PodInterface, bool) {
	t, ok := f.told[toldOf{p.Pod, p.Addr}]
	return t.at, ok && n.peer(t.at.Ifindex) == t.peer
}

// forget drops what was told about veths that are gone; n may be older than what was told.
func (f *PodFinder) forget(n *Network) {
	for of, t := range f.told {
		if n.since.After(t.since) && n.peer(t.at.Ifindex) != t.peer {
			delete(f.told, of)
		}
	}
}
