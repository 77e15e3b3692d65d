// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// holder is an object that an address or a prefix belongs to.
type holder struct {
	object metav1.Object
	name   string
	path   string
}

// conflicts names what is right in each object by itself and wrong between them: an address must have one owner, else a
// packet has two senders.
func (o *Objects) conflicts() []error {
	var problems []error
	clash := func(second, first holder, what any) {
		problems = append(problems, &Problem{Origin: o.Origin(second.object), Object: second.name, Path: second.path,
			Message: fmt.Sprintf("%v belongs to %s (%s) already; remove the one that is out of date", what, first.name, o.Origin(first.object))})
	}
	owners := map[netip.Addr]holder{}
	type block struct {
		prefix netip.Prefix
		holder
	}
	var blocks []block
	extra := o.nodeObjects()
	for _, n := range o.Nodes {
		f := extra.factsOf(n)
		for _, u := range f.underlay {
			h := holder{n, name("Node", n), u.path}
			if first, taken := owners[u.value]; taken && first.object != h.object {
				clash(h, first, u.value)
				continue
			}
			owners[u.value] = h
		}
		for _, p := range f.podCIDRs {
			h := holder{n, name("Node", n), p.path}
			for _, b := range blocks {
				if b.prefix.Overlaps(p.value) && b.object != h.object {
					clash(h, b.holder, p.value)
					break
				}
			}
			blocks = append(blocks, block{p.value, h})
		}
	}
	for _, p := range o.Pods {
		if !ownsAddress(p) {
			continue
		}
		for _, addr := range podAddrs(p) {
			h := holder{p, name("Pod", p), "status.podIP"}
			if first, taken := owners[addr]; taken {
				clash(h, first, addr)
				continue
			}
			owners[addr] = h
		}
	}
	return problems
}

// ownsAddress says whether a pod's addresses are its own: it is not on the host's network and has not finished. A pod that
// is being deleted keeps them until it has.
func ownsAddress(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// podAddrs are the addresses in a pod's status, at most one of each family.
func podAddrs(p *corev1.Pod) []netip.Addr {
	texts := make([]string, 0, 2)
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	if len(texts) == 0 && p.Status.PodIP != "" {
		texts = append(texts, p.Status.PodIP)
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// podCIDRs are the prefixes of a node's pods, masked.
func podCIDRs(n *corev1.Node) []netip.Prefix {
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	var prefixes []netip.Prefix
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, prefix.Masked())
		}
	}
	return prefixes
}
