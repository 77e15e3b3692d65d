// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A pod's namespace says what no packet has told yet: which address stands behind which veth. interior is that, for every
// namespace that can be found, by the number this namespace knows it under.
type interior map[int]map[int]endpointInside

type endpointInside struct {
	mac   [6]byte
	addrs []netip.Addr
}

// namespaces looks into every namespace that a veth of this host leads to.
func (f *PodFinder) namespaces(n *Network) interior {
	wanted := map[int]bool{}
	for _, l := range n.links {
		if l.Type() == "veth" && l.Attrs().NetNsID >= 0 {
			wanted[l.Attrs().NetNsID] = true
		}
	}
	out := interior{}
	seen := map[uint64]bool{}
	look := func(path string) {
		if len(out) == len(wanted) {
			return
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || seen[st.Ino] {
			return
		}
		seen[st.Ino] = true
		file, err := os.Open(path)
		if err != nil {
			return
		}
		defer file.Close()
		id, err := netlink.GetNetNsIdByFd(int(file.Fd()))
		if err != nil || !wanted[id] || out[id] != nil {
			return
		}
		if inside, err := lookInside(netns.NsHandle(file.Fd())); err == nil {
			out[id] = inside
		}
	}
	dirs := f.NamespaceDirs
	if dirs == nil {
		dirs = []string{"/run/netns"}
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			look(filepath.Join(dir, e.Name()))
		}
	}
	proc := f.ProcDir
	if proc == "" {
		proc = "/proc"
	}
	entries, _ := os.ReadDir(proc)
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			look(filepath.Join(proc, e.Name(), "ns/net"))
		}
	}
	return out
}

func lookInside(ns netns.NsHandle) (map[int]endpointInside, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	out := make(map[int]endpointInside, len(links))
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			out[l.Attrs().Index] = endpointInside{mac: toMAC(l.Attrs().HardwareAddr)}
		}
	}
	for _, a := range addrs {
		if ip, ok := toAddr(a.IP); ok && !ip.IsLinkLocalUnicast() {
			if e, ok := out[a.LinkIndex]; ok {
				e.addrs = append(e.addrs, ip)
				out[a.LinkIndex] = e
			}
		}
	}
	return out, nil
}

// verify adds the veths whose other end holds a, and drops candidates whose other end can be seen and does not.
func (in interior) verify(n *Network, a netip.Addr, given []candidate) (out []candidate) {
	holds := map[int][6]byte{}
	visible := map[int]bool{}
	for index, l := range n.links {
		if l.Type() != "veth" {
			continue
		}
		links, ok := in[l.Attrs().NetNsID]
		if !ok {
			continue
		}
		visible[index] = true
		for _, held := range links[l.Attrs().ParentIndex].addrs {
			if held == a {
				holds[index] = links[l.Attrs().ParentIndex].mac
				out = append(out, candidate{l, rankNamespace, "namespace", holds[index]})
			}
		}
	}
	for _, c := range given {
		mac, confirmed := holds[c.link.Attrs().Index]
		switch {
		case confirmed && c.rank == rankUnverified:
			c.rank, c.mac = rankVerified, mac
			out = append(out, c)
		case !confirmed && !visible[c.link.Attrs().Index]:
			out = append(out, c)
		}
	}
	return out
}
