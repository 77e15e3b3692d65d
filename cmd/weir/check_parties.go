// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/oracle"
	"github.com/weirnet/weir/policy"
)

// cluster knows who is who: it turns the names and addresses of probes into parties.
type cluster struct {
	pods  map[string]*corev1.Pod // namespace/name; running ones, those in the host's network included
	names []string               // of pods, sorted
	nodes map[string]*nodeAddrs
	owner map[netip.Addr]oracle.Party
	cidrs []podCIDR
}

// nodeAddrs are the addresses of a node itself.
type nodeAddrs struct {
	name    string
	under   []netip.Addr // towards other machines
	vteps   []netip.Addr // what its packets to other nodes' pods come from
	bridges []netip.Addr // what its packets to its own pods come from
}

type podCIDR struct {
	prefix netip.Prefix
	node   string
}

func newCluster(objs *k8s.Objects) (*cluster, error) {
	c := &cluster{pods: map[string]*corev1.Pod{}, nodes: map[string]*nodeAddrs{}, owner: map[netip.Addr]oracle.Party{}}
	for _, node := range objs.Nodes {
		if err := c.addNode(node); err != nil {
			return nil, err
		}
	}
	for _, pod := range objs.Pods {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		key := pod.Namespace + "/" + pod.Name
		c.pods[key] = pod
		c.names = append(c.names, key)
		if pod.Spec.HostNetwork {
			continue
		}
		for _, addr := range podAddrs(pod) {
			c.owner[addr] = oracle.Party{Pod: pod, Addr: addr}
		}
	}
	slices.Sort(c.names)
	return c, nil
}

func (c *cluster) addNode(node *corev1.Node) error {
	n := &nodeAddrs{name: node.Name}
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			return fmt.Errorf("read Node %s: InternalIP: %w", node.Name, err)
		}
		n.under = append(n.under, addr.Unmap())
	}
	for _, key := range []string{"public-ip", "public-ip-overwrite", "public-ipv6", "public-ipv6-overwrite"} {
		if addr, err := netip.ParseAddr(node.Annotations["flannel.alpha.coreos.com/"+key]); err == nil {
			n.under = append(n.under, addr.Unmap())
		}
	}
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for _, text := range cidrs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("read Node %s: podCIDR: %w", node.Name, err)
		}
		prefix = prefix.Masked()
		c.cidrs = append(c.cidrs, podCIDR{prefix, node.Name})
		if prefix.Addr().BitLen()-prefix.Bits() >= 2 {
			n.vteps = append(n.vteps, prefix.Addr())
			n.bridges = append(n.bridges, prefix.Addr().Next())
		}
	}
	c.nodes[node.Name] = n
	for _, addr := range slices.Concat(n.under, n.vteps, n.bridges) {
		c.owner[addr] = oracle.Party{Node: node.Name, Addr: addr}
	}
	return nil
}

func podAddrs(pod *corev1.Pod) []netip.Addr {
	var addrs []netip.Addr
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(addrs, addr.Unmap()) {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// question is a probe with its parties: what a judge is asked.
type question struct {
	src, dst         oracle.Party
	srcNode, dstNode string // where the parties are; "": outside
	protocol         uint8
	port             uint16
}

// resolve finds the parties of a probe.
func (c *cluster) resolve(p *probe) (*question, error) {
	src, err := c.party(p.src, true)
	if err != nil {
		return nil, fmt.Errorf("resolve src: %w", err)
	}
	dst, err := c.party(p.dst, false)
	if err != nil {
		return nil, fmt.Errorf("resolve dst: %w", err)
	}
	if src.Pod == nil && dst.Pod == nil {
		return nil, errors.New("no pod on either side: there is no policy to ask")
	}
	q := &question{src: src, dst: dst, protocol: p.protocol, port: p.port}
	family, err := c.family(p, src, dst)
	if err != nil {
		return nil, err
	}
	if q.src.Addr, err = c.address(src, dst, family, true); err != nil {
		return nil, fmt.Errorf("resolve src: %w", err)
	}
	if q.dst.Addr, err = c.address(dst, src, family, false); err != nil {
		return nil, fmt.Errorf("resolve dst: %w", err)
	}
	q.srcNode, q.dstNode = c.place(q.src), c.place(q.dst)
	return q, nil
}

// party reads "ns/pod", "node:NAME" or an address. Only a party given by its address has one yet.
func (c *cluster) party(text string, source bool) (oracle.Party, error) {
	if name, ok := strings.CutPrefix(text, "node:"); ok {
		if c.nodes[name] == nil {
			return oracle.Party{}, fmt.Errorf("no node %q", name)
		}
		return oracle.Party{Node: name}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Zone() != "" {
			return oracle.Party{}, fmt.Errorf("%s: an address with a zone means nothing to other machines", text)
		}
		addr = addr.Unmap()
		if err := usable(addr, source); err != nil {
			return oracle.Party{}, err
		}
		if owner, ok := c.owner[addr]; ok {
			return owner, nil
		}
		return oracle.Party{Addr: addr}, nil
	}
	if !strings.Contains(text, "/") {
		return oracle.Party{}, fmt.Errorf("%q is neither namespace/pod nor an address nor node:NAME", text)
	}
	pod := c.pods[text]
	switch {
	case pod == nil:
		return oracle.Party{}, fmt.Errorf("no running pod %q", text)
	case !pod.Spec.HostNetwork:
		return oracle.Party{Pod: pod}, nil
	case c.nodes[pod.Spec.NodeName] == nil:
		return oracle.Party{}, fmt.Errorf("pod %q is in the network of node %q, which is not known", text, pod.Spec.NodeName)
	}
	return oracle.Party{Node: pod.Spec.NodeName}, nil
}

// family settles on the family of the packet: what the probe or an address says, else IPv4 if both sides have it.
func (c *cluster) family(p *probe, src, dst oracle.Party) (int, error) {
	family := p.family
	for _, party := range []oracle.Party{src, dst} {
		if !party.Addr.IsValid() {
			continue
		}
		own := familyOf(party.Addr)
		if family != 0 && family != own {
			return 0, fmt.Errorf("families differ: %s is not IPv%d", party.Addr, family)
		}
		family = own
	}
	if family != 0 {
		return family, nil
	}
	for _, try := range []int{4, 6} {
		_, noSrc := c.address(src, dst, try, true)
		_, noDst := c.address(dst, src, try, false)
		if noSrc == nil && noDst == nil {
			return try, nil
		}
	}
	return 0, errors.New("families differ: the two sides have no address of the same family")
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}

// address is the one that a party has in a packet of a family. A node speaks to its own pods from its bridge, to other
// nodes' pods from its VTEP, and is spoken to under its InternalIP.
func (c *cluster) address(p, other oracle.Party, family int, source bool) (netip.Addr, error) {
	candidates := []netip.Addr{p.Addr}
	name := p.Addr.String()
	switch {
	case p.Addr.IsValid():
	case p.Pod != nil:
		candidates = podAddrs(p.Pod)
		name = "pod " + p.Pod.Namespace + "/" + p.Pod.Name
	default:
		n := c.nodes[p.Node]
		name = "node " + p.Node
		candidates = n.under
		if source && other.Pod != nil && other.Pod.Spec.NodeName == p.Node {
			candidates = slices.Concat(n.bridges, n.under)
		} else if source {
			candidates = slices.Concat(n.vteps, n.under)
		}
	}
	for _, addr := range candidates {
		taken := p.Node != "" && c.owner[addr].Pod != nil // a bridge address that was only assumed
		if familyOf(addr) == family && !taken {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("families differ: %s has no IPv%d address", name, family)
}

// place is the node where a party is: a pod's, the node itself, or the one whose podCIDR has the address.
func (c *cluster) place(p oracle.Party) string {
	switch {
	case p.Pod != nil:
		return p.Pod.Spec.NodeName
	case p.Node != "":
		return p.Node
	}
	best := podCIDR{}
	for _, cidr := range c.cidrs {
		if cidr.prefix.Contains(p.Addr) && (best.node == "" || cidr.prefix.Bits() > best.prefix.Bits()) {
			best = cidr
		}
	}
	return best.node
}

// override replaces what policy says where the datapath does not ask it: at the overlay's own port. No pod may send there
// to what is a node's, and nobody outside may send there to a pod.
func (q *question) override(a *answer, vxlanPort uint16) bool {
	if q.protocol != policy.UDP || q.port != vxlanPort || !q.src.Addr.Is4() {
		return false
	}
	switch {
	case q.src.Pod != nil && q.dst.Pod == nil && (q.dstNode != "" || isNobodys(q.dst.Addr)):
		a.egress = &sideAnswer{Verdict: "deny", Reason: bpf.ReasonName(bpf.ReasonTunnelFromPod)}
	case q.dst.Pod != nil && q.srcNode == "":
		a.ingress = &sideAnswer{Verdict: "deny", Reason: bpf.ReasonName(bpf.ReasonTunnelStray)}
	default:
		return false
	}
	return true
}

// isNobodys says whether an address is one that no single host outside has: of a group, or reserved. This host takes part
// in some of the former, and no table knows which.
func isNobodys(addr netip.Addr) bool { return addr.As4()[0] == 0 || addr.As4()[0] >= 224 }
