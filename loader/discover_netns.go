// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A pod's namespace says what no packet has told yet: which address stands behind which veth. It is asked by the number
// under which this namespace knows it (RTM_GETADDR for another namespace, Linux 5.0): whoever may configure this host's
// interfaces may look, without entering the namespace, and without finding a file or a process that holds it.

// interior is what is inside of namespaces, by the number this namespace knows them under, and by interface.
type interior map[int]map[int]endpointInside

type endpointInside struct {
	name  string
	mac   [6]byte
	addrs []netip.Addr
}

// namespaces looks into every namespace that a veth which is not taken leads to.
func (f *PodFinder) namespaces(n *Network, taken map[int]string) interior {
	look := f.look
	if look == nil {
		in, err := newInsider()
		if err != nil {
			f.debug("cannot look into pods' namespaces", err)
			return nil
		}
		defer in.close()
		look = in.look
	}
	out := interior{}
	for index, l := range n.links {
		id := l.Attrs().NetNsID
		if l.Type() != "veth" || id < 0 || taken[index] != "" || out[id] != nil {
			continue
		}
		inside, err := look(id)
		if err != nil {
			f.debug("cannot look into a pod's namespace", err)
			continue
		}
		out[id] = inside
	}
	return out
}

func (f *PodFinder) debug(what string, err error) {
	if f.Log != nil {
		f.Log.Debug(what, "error", err)
	}
}

// insider is a socket to ask about other namespaces with.
type insider struct{ sockets map[int]*nl.SocketHandle }

func newInsider() (*insider, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// Without it, kernels that do not know the question answer another one: about this namespace.
	if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		s.Close()
		return nil, fmt.Errorf("make netlink socket strict: %w", err)
	}
	return &insider{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (in *insider) close() { in.sockets[unix.NETLINK_ROUTE].Close() }

const ifaTargetNetNSID = 10 // IFA_TARGET_NETNSID

// look lists the interfaces of the namespace that is known here as id, loopback excepted.
func (in *insider) look(id int) (map[int]endpointInside, error) {
	links, err := in.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), unix.IFLA_TARGET_NETNSID, id)
	if err != nil {
		return nil, fmt.Errorf("list links of namespace %d: %w", id, err)
	}
	out := make(map[int]endpointInside, len(links))
	for _, m := range links {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("list links of namespace %d: %w", id, err)
		}
		if a := l.Attrs(); a.Flags&net.FlagLoopback == 0 {
			out[a.Index] = endpointInside{name: a.Name, mac: toMAC(a.HardwareAddr)}
		}
	}
	addrs, err := in.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC), ifaTargetNetNSID, id)
	if err != nil {
		return nil, fmt.Errorf("list addresses of namespace %d: %w", id, err)
	}
	for _, m := range addrs {
		index, ip, err := parseAddress(m)
		if err != nil {
			return nil, fmt.Errorf("list addresses of namespace %d: %w", id, err)
		}
		if e, ok := out[index]; ok && ip.IsValid() && !ip.IsLinkLocalUnicast() {
			e.addrs = append(e.addrs, ip)
			out[index] = e
		}
	}
	return out, nil
}

func (in *insider) dump(question, answer uint16, header nl.NetlinkRequestData, attribute, id int) ([][]byte, error) {
	return dump(func() ([][]byte, error) {
		r := nl.NewNetlinkRequest(int(question), unix.NLM_F_DUMP)
		r.Sockets = in.sockets
		r.AddData(header)
		r.AddData(nl.NewRtAttr(attribute, nl.Uint32Attr(uint32(id))))
		return r.Execute(unix.NETLINK_ROUTE, answer)
	})
}

var errShortAddress = errors.New("an address message is too short")

// parseAddress reads an RTM_NEWADDR: of a point-to-point interface, the local address.
func parseAddress(m []byte) (index int, ip netip.Addr, err error) {
	if len(m) < unix.SizeofIfAddrmsg {
		return 0, ip, errShortAddress
	}
	index = int(binary.NativeEndian.Uint32(m[4:]))
	attributes, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
	if err != nil {
		return 0, ip, err
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !ip.IsValid() {
			ip, _ = toAddr(a.Value)
		}
	}
	return index, ip, nil
}

// verify adds the veths whose other end holds a, and drops candidates whose other end can be seen and holds another one. A
// pod may have moved its address on to a machine inside of it: then the host's own records stand.
func (in interior) verify(n *Network, a netip.Addr, given []candidate) (out []candidate) {
	holds := map[int][6]byte{}
	empty, visible := map[int]bool{}, map[int]bool{}
	for index, l := range n.links {
		if l.Type() != "veth" {
			continue
		}
		links, ok := in[l.Attrs().NetNsID]
		if !ok {
			continue
		}
		visible[index] = true
		end := links[l.Attrs().ParentIndex]
		empty[index] = len(end.addrs) == 0
		for _, held := range end.addrs {
			if held == a {
				holds[index] = end.mac
				out = append(out, candidate{l, rankNamespace, "namespace", end.mac})
			}
		}
	}
	for _, c := range given {
		index := c.link.Attrs().Index
		mac, confirmed := holds[index]
		switch {
		case confirmed && c.rank == rankUnverified:
			c.rank, c.mac = rankVerified, mac
			out = append(out, c)
		case !confirmed && (!visible[index] || empty[index] && c.rank == rankUnverified):
			out = append(out, c)
		}
	}
	return out
}
