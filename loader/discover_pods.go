// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
)

// ErrNoInterface says that nothing on this host leads to a pod's address yet.
var ErrNoInterface = errors.New("no interface found")

// PodAddress is a local pod to look for. Key must differ between pods that use one address one after the other.
type PodAddress struct {
	Key   string
	Pod   string // namespace/name
	Addr  netip.Addr
	Known int // ifindex that an earlier agent found; 0: none. Believed where the pods' own word is all else there is.
}

// PodInterface is the host side of a local pod's veth.
type PodInterface struct {
	Ifindex  int
	Name     string
	PodMAC   [6]byte // zero: not known
	HostMAC  [6]byte
	NetNS    uint32 // id of the pod's network namespace, plus 1; 0: the kernel has given it none
	Evidence string // what led there: "cni", "route", "cni record", "namespace", "neighbour"
}

// PodFinder finds the veths of local pods. Findings are kept while pod and veth stay the same, so that a pod that takes a
// second address cannot pull its neighbour's policy over to itself. Not safe for concurrent use.
type PodFinder struct {
	CNIDir string // where CNI plugins keep records; default /var/lib/cni
	Log    *slog.Logger

	found map[string]PodInterface
	peers map[string]peer
	told  map[toldOf]told
	look  func(id int) (map[int]endpointInside, error) // into a namespace; tests see nothing
}

// peer tells a veth from a later one of the same ifindex.
type peer struct{ parent, nsid int }

// A candidate's rank is how much its source can be trusted. Routes and CNI records are written by the host; a neighbour
// entry is what a pod said about itself, and counts only where no namespace can be looked into.
const (
	rankNeighbour = iota
	rankUnverified
	rankNamespace
	rankVerified
)

type candidate struct {
	link     netlink.Link
	rank     int
	evidence string
	mac      [6]byte
}

// Find looks for the veth of each pod. What is not found is in missing, with the reason.
func (f *PodFinder) Find(n *Network, pods []PodAddress) (found map[string]PodInterface, missing map[string]error) {
	f.forget(n)
	found, missing = map[string]PodInterface{}, map[string]error{}
	var open []PodAddress
	taken := map[int]string{}
	for _, p := range pods {
		if at, ok := f.recall(n, p); ok && taken[at.Ifindex] == "" {
			found[p.Key], taken[at.Ifindex] = at, p.Key
		}
	}
	for _, p := range pods {
		if _, done := found[p.Key]; done {
			continue
		}
		old, ok := f.found[p.Key]
		if ok && f.peers[p.Key] == n.peer(old.Ifindex) && taken[old.Ifindex] == "" {
			found[p.Key], taken[old.Ifindex] = old, p.Key
			continue
		}
		open = append(open, p)
	}
	if len(open) > 0 {
		f.search(n, open, taken, found, missing)
	}
	f.found, f.peers = found, make(map[string]peer, len(found))
	for key, i := range found {
		f.peers[key] = n.peer(i.Ifindex)
	}
	return found, missing
}

func (f *PodFinder) search(n *Network, pods []PodAddress, taken map[int]string, found map[string]PodInterface, missing map[string]error) {
	inside := f.namespaces(n, taken)
	candidates := map[string][]candidate{}
	for _, p := range pods {
		candidates[p.Key] = n.byRoute(p.Addr)
	}
	f.byRecord(n, pods, candidates)
	n.byNeighbour(pods, candidates)
	for _, p := range pods {
		candidates[p.Key] = inside.verify(n, p.Addr, candidates[p.Key])
	}
	// A veth belongs to one pod: what one pod certainly has, another cannot have. Repeat until nothing more follows.
	for progress := true; progress; {
		progress = false
		for _, p := range pods {
			if _, done := found[p.Key]; done {
				continue
			}
			best := p.settle(strongest(candidates[p.Key], taken))
			if len(best) != 1 {
				continue
			}
			c := best[0]
			found[p.Key] = PodInterface{c.link.Attrs().Index, c.link.Attrs().Name, c.mac, toMAC(c.link.Attrs().HardwareAddr),
				uint32(c.link.Attrs().NetNsID + 1), c.evidence}
			taken[c.link.Attrs().Index] = p.Key
			progress = true
		}
	}
	for _, p := range pods {
		if _, done := found[p.Key]; done {
			continue
		}
		best := strongest(candidates[p.Key], taken)
		if len(best) == 0 {
			missing[p.Key] = fmt.Errorf("find interface of pod %s: %w that leads to %s", p.Key, ErrNoInterface, p.Addr)
			continue
		}
		names := make([]string, len(best))
		for i, c := range best {
			names[i] = c.link.Attrs().Name
		}
		sort.Strings(names)
		missing[p.Key] = fmt.Errorf("find interface of pod %s: %s all lead to %s", p.Key, strings.Join(names, ", "), p.Addr)
	}
}

// strongest keeps the free candidates of the highest rank, each interface once.
func strongest(all []candidate, taken map[int]string) (best []candidate) {
	seen := map[int]bool{}
	for _, c := range all {
		index := c.link.Attrs().Index
		if taken[index] != "" {
			continue
		}
		if len(best) > 0 && c.rank > best[0].rank {
			best, seen = nil, map[int]bool{}
		}
		if (len(best) == 0 || c.rank == best[0].rank) && !seen[index] {
			best, seen[index] = append(best, c), true
		}
	}
	return best
}

// settle ends a tie in favour of what was known before.
func (p PodAddress) settle(best []candidate) []candidate {
	for _, c := range best {
		if c.link.Attrs().Index == p.Known {
			return []candidate{c}
		}
	}
	return best
}

// byRoute: routed CNIs write a host route to the pod's veth.
func (n *Network) byRoute(a netip.Addr) (out []candidate) {
	for _, r := range n.routes {
		if r.dst.Addr() == a && r.dst.IsSingleIP() && n.isVeth(r.link) {
			out = append(out, candidate{link: n.links[r.link], rank: rankUnverified, evidence: "route"})
		}
	}
	return out
}

// byNeighbour: on a bridge, a pod that has talked has a neighbour entry, and its MAC a forwarding entry.
func (n *Network) byNeighbour(pods []PodAddress, out map[string][]candidate) {
	macs := map[netip.Addr][]netlink.Neigh{}
	neighbours, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return // the other sources remain
	}
	for _, e := range neighbours {
		if a, ok := toAddr(e.IP); ok && len(e.HardwareAddr) == 6 && e.State&netlink.NUD_FAILED == 0 {
			macs[a] = append(macs[a], e)
		}
	}
	forwarding, err := dump(func() ([]netlink.Neigh, error) {
		return netlink.NeighListExecute(netlink.Ndmsg{Family: familyBridge})
	})
	if err != nil {
		return
	}
	for _, p := range pods {
		for _, e := range macs[p.Addr] {
			if n.isVeth(e.LinkIndex) {
				out[p.Key] = append(out[p.Key], candidate{n.links[e.LinkIndex], rankNeighbour, "neighbour", toMAC(e.HardwareAddr)})
			}
			for _, port := range forwarding {
				if port.MasterIndex == e.LinkIndex && port.MasterIndex != 0 && n.isVeth(port.LinkIndex) &&
					port.State&netlink.NUD_PERMANENT == 0 && toMAC(port.HardwareAddr) == toMAC(e.HardwareAddr) {
					out[p.Key] = append(out[p.Key], candidate{n.links[port.LinkIndex], rankNeighbour, "neighbour", toMAC(e.HardwareAddr)})
				}
			}
		}
	}
}

const familyBridge = 7 // AF_BRIDGE

func (n *Network) isVeth(index int) bool {
	l := n.links[index]
	return l != nil && l.Type() == "veth"
}

func (n *Network) peer(index int) peer {
	l := n.links[index]
	if l == nil {
		return peer{-1, -1}
	}
	return peer{l.Attrs().ParentIndex, l.Attrs().NetNsID}
}
