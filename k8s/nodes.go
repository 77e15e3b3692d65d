// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/policy"
)

// nodeFacts is what the objects say about a node as a member of the overlay. Each CNI says it in a place of its own; what
// an administrator says by an annotation of ours counts before all of them.
type nodeFacts struct {
	underlay []fact[netip.Addr]
	overlay  []fact[netip.Addr]
	podCIDRs []fact[netip.Prefix]
	mac      [6]byte // of the VTEP; zero: not known
	// noGuess: somebody names the overlay addresses, or they cannot be guessed from the podCIDR.
	noGuess  bool
	notes    []fieldNote    // what holds, and differs from what a reader may expect
	problems []fieldProblem // fields that cannot be read; what they would say is left out
}

// fact is a fact and the field that says so.
type fact[T any] struct {
	value T
	path  string
	rank  rank
}

// rank is whose word a fact is, the weightiest first.
type rank uint8

const (
	bySource     rank = iota // by a field of an object
	byAnnotation             // by an annotation, which a node may write about itself
	byGuess                  // by nobody
)

func rankOf(path string) rank {
	if strings.HasPrefix(path, "metadata.annotations[") {
		return byAnnotation
	}
	return bySource
}

type fieldProblem struct{ path, message string }
type fieldNote struct{ path, message string }

func (f *nodeFacts) bad(path, format string, args ...any) {
	f.problems = append(f.problems, fieldProblem{path, fmt.Sprintf(format, args...)})
}

// addAddr adds an address once, whoever says it first.
func addAddr(to *[]fact[netip.Addr], addr netip.Addr, path string) {
	if !slices.ContainsFunc(*to, func(f fact[netip.Addr]) bool { return f.value == addr }) {
		*to = append(*to, fact[netip.Addr]{addr, intern(path), rankOf(path)})
	}
}

func addPrefix(to *[]fact[netip.Prefix], prefix netip.Prefix, path string) {
	if !slices.ContainsFunc(*to, func(f fact[netip.Prefix]) bool { return f.value == prefix }) {
		*to = append(*to, fact[netip.Prefix]{prefix, intern(path), rankOf(path)})
	}
}

func values[T any](facts []fact[T]) []T {
	if len(facts) == 0 {
		return nil
	}
	out := make([]T, len(facts))
	for i := range facts {
		out[i] = facts[i].value
	}
	return out
}

func annotation(key string) string { return "metadata.annotations[" + key + "]" }

// nodeObjects are the objects beside Nodes that say something about nodes, by the node's name.
type nodeObjects struct {
	blocks map[string][]*BlockAffinity
	cilium map[string]*CiliumNode
}

func (o *Objects) nodeObjects() nodeObjects {
	n := nodeObjects{map[string][]*BlockAffinity{}, map[string]*CiliumNode{}}
	for _, b := range o.BlockAffinities {
		if b.counts() {
			n.blocks[b.Spec.Node] = append(n.blocks[b.Spec.Node], b)
		}
	}
	for _, c := range o.CiliumNodes {
		n.cilium[c.Name] = c
	}
	return n
}

// factsOf collects what is said about n.
func (o nodeObjects) factsOf(n *corev1.Node) *nodeFacts {
	f := &nodeFacts{}
	for i, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addAddr(&f.underlay, addr.Unmap(), fmt.Sprintf("status.addresses[%d].address", i))
		}
	}
	for i, prefix := range podCIDRs(n) {
		addPrefix(&f.podCIDRs, prefix, fmt.Sprintf("spec.podCIDRs[%d]", i))
	}
	f.k3s(n)
	f.flannel(n)
	f.calico(n, o)
	f.cilium(o.cilium[n.Name])
	f.override(n)
	return f
}

const k3sInternalIP = "k3s.io/internal-ip"

// k3s writes a node's own addresses down, also where no cloud controller copies them into the status.
func (f *nodeFacts) k3s(n *corev1.Node) {
	text, ok := n.Annotations[k3sInternalIP]
	if !ok {
		return
	}
	for _, addr := range f.addrs(text, annotation(k3sInternalIP)) {
		addAddr(&f.underlay, addr, annotation(k3sInternalIP))
	}
}

// addrs reads a comma-separated list of addresses. What is wrong in it is left out.
func (f *nodeFacts) addrs(text, path string) []netip.Addr {
	var out []netip.Addr
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		addr, err := netip.ParseAddr(part)
		if err != nil || addr.Zone() != "" {
			f.bad(path, "%q is not an IP address; write addresses such as 192.0.2.1, separated by commas", part)
			continue
		}
		out = append(out, addr.Unmap())
	}
	return out
}

// parseMAC reads the Ethernet address of a device.
func parseMAC(text string) (mac [6]byte, ok bool) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || [6]byte(hw) == mac {
		return mac, false
	}
	return [6]byte(hw), true
}

// guess names the overlay addresses that a node has unless somebody says otherwise: flannel's VTEP has the first address of
// the podCIDR, and the bridge the next one.
func (f *nodeFacts) guess() {
	if f.noGuess {
		return
	}
	for _, p := range f.podCIDRs {
		if p.value.Addr().BitLen()-p.value.Bits() < 2 {
			continue
		}
		for _, addr := range []netip.Addr{p.value.Addr(), p.value.Addr().Next()} {
			if !slices.ContainsFunc(f.overlay, func(f fact[netip.Addr]) bool { return f.value == addr }) {
				f.overlay = append(f.overlay, fact[netip.Addr]{addr, p.path, byGuess})
			}
		}
	}
}

// model is the facts as the policy's model has them; the node's labels and the API server are not among them.
func (f *nodeFacts) model(name string) policy.Node {
	return policy.Node{Name: name, Underlay: values(f.underlay), Overlay: values(f.overlay), PodCIDRs: values(f.podCIDRs), VTEPMAC: f.mac}
}
