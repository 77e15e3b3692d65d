// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weirnet/weir/k8s"
)

// inCiliumCIDR reads a CIDR as Cilium does: it means the world. With the option it means nodes too, but not if it is the
// prefix of everything.
func (o *Oracle) inCiliumCIDR(p Party, cidr string, except []string) bool {
	if o.world(p) {
		return inCIDR(p.Addr, cidr, except)
	}
	everything := strings.HasSuffix(cidr, "/0")
	return o.options.CIDRMatchNodes && p.Node != "" && !everything && o.inBlock(p, &networkingv1.IPBlock{CIDR: cidr, Except: except})
}

// inGroup reads cidrGroupRef and cidrGroupSelector: any prefix of any group that is meant. No such group, no match. What is
// excepted from a group is cut from each of its prefixes, and what does not touch one means nothing there.
func (o *Oracle) inGroup(p Party, r k8s.CiliumCIDRRule) bool {
	for _, g := range o.objects.CiliumCIDRGroups {
		meant := g.Name == r.CIDRGroupRef
		if r.CIDRGroupSelector != nil {
			labels := map[string]string{"io.cilium.policy.cidrgroupname/" + g.Name: ""}
			for key, value := range g.Labels {
				if !strings.HasPrefix(key, "io.cilium.k8s.") {
					labels[key] = value
				}
			}
			meant = matches(r.CIDRGroupSelector, labels)
		}
		if meant && slices.ContainsFunc(g.Spec.ExternalCIDRs, func(cidr string) bool {
			holes := slices.DeleteFunc(slices.Clone(r.Except), func(hole string) bool { return !overlap(cidr, hole) })
			return o.inCiliumCIDR(p, cidr, holes)
		}) {
			return true
		}
	}
	return false
}

func overlap(a, b string) bool {
	one, err1 := netip.ParsePrefix(a)
	other, err2 := netip.ParsePrefix(b)
	return err1 == nil && err2 == nil && one.Overlaps(other)
}

// selectsNode reads an item of fromNodes or toNodes: it selects other nodes, never the subject's own. A key without a source
// finds the node's labels, as does one with the source node.
func (o *Oracle) selectsNode(item selector, s side) bool {
	if s.peer.Node == "" || s.host() {
		return false
	}
	return matches(rekeyed(&item, func(key string) string { return strings.TrimPrefix(key, "any:") }), o.labelsOfNode(s.peer.Node))
}

// labelsOfNode are the labels of a node that is not the host.
func (o *Oracle) labelsOfNode(name string) map[string]string {
	labels := map[string]string{}
	for key, value := range o.nodeLabels[name] {
		labels[key] = value
		labels["node:"+key] = value
	}
	labels["io.cilium.k8s.policy.cluster"] = "default"
	labels["k8s:io.cilium.k8s.policy.cluster"] = "default"
	labels["reserved:remote-node"] = ""
	if o.apiNodes[name] {
		labels["reserved:kube-apiserver"] = ""
	}
	return labels
}

// serves reads an item of toServices: the pods that the Services select; where they select none, the endpoints, as CIDRs.
// An item that means no Service means nobody.
func (o *Oracle) serves(item k8s.CiliumService, s side) bool {
	for _, svc := range o.objects.Services {
		if svc.Spec.Type == corev1.ServiceTypeExternalName || !meansService(item, svc) {
			continue
		}
		if len(svc.Spec.Selector) > 0 {
			pod := s.peer.Pod
			if pod != nil && pod.Namespace == svc.Namespace && matches(&selector{MatchLabels: svc.Spec.Selector}, o.ciliumLabels(pod)) {
				return true
			}
			continue
		}
		for _, addr := range o.endpointsOf(svc) {
			prefix, _ := addr.Prefix(addr.BitLen())
			if o.inCiliumCIDR(s.peer, prefix.String(), nil) {
				return true
			}
		}
	}
	return false
}

// meansService: by labels, whatever source a key names, if there is a selector; else by name. No namespace is every one.
func meansService(item k8s.CiliumService, svc *corev1.Service) bool {
	if by := item.K8sServiceSelector; by != nil {
		if by.Namespace != "" && by.Namespace != svc.Namespace {
			return false
		}
		return matches(rekeyed(&by.Selector, func(key string) string { return key[strings.Index(key, ":")+1:] }), svc.Labels)
	}
	by := item.K8sService
	return by != nil && by.ServiceName == svc.Name && (by.Namespace == "" || by.Namespace == svc.Namespace)
}

// endpointsOf are the addresses behind any port of a Service, those that are leaving included.
func (o *Oracle) endpointsOf(svc *corev1.Service) []netip.Addr {
	var texts []string
	sliced := false
	for _, slice := range o.objects.EndpointSlices {
		if slice.Namespace != svc.Namespace || slice.Labels[discoveryv1.LabelServiceName] != svc.Name || slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		sliced = true
		if !slices.ContainsFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool { return p.Port != nil }) {
			continue // nothing can be reached
		}
		for _, e := range slice.Endpoints {
			yes := func(b *bool, missing bool) bool { return b == nil && missing || b != nil && *b }
			ready := yes(e.Conditions.Ready, true)
			leaving := yes(e.Conditions.Serving, ready) && yes(e.Conditions.Terminating, false)
			if len(e.Addresses) > 0 && (ready || leaving) {
				texts = append(texts, e.Addresses[0])
			}
		}
	}
	for _, e := range o.objects.Endpoints {
		if sliced || e.Namespace != svc.Namespace || e.Name != svc.Name {
			continue
		}
		for _, subset := range e.Subsets {
			for _, a := range subset.Addresses {
				if len(subset.Ports) > 0 {
					texts = append(texts, a.IP)
				}
			}
		}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
