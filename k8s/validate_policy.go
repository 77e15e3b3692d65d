// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (c *checker) networkPolicy(p *networkingv1.NetworkPolicy) {
	c.selector(&p.Spec.PodSelector, "spec.podSelector")
	for i, rule := range p.Spec.Ingress {
		path := fmt.Sprintf("spec.ingress[%d]", i)
		c.policyPorts(rule.Ports, path)
		for j := range rule.From {
			c.policyPeer(&rule.From[j], fmt.Sprintf("%s.from[%d]", path, j))
		}
	}
	for i, rule := range p.Spec.Egress {
		path := fmt.Sprintf("spec.egress[%d]", i)
		c.policyPorts(rule.Ports, path)
		for j := range rule.To {
			c.policyPeer(&rule.To[j], fmt.Sprintf("%s.to[%d]", path, j))
		}
	}
	if len(p.Spec.PolicyTypes) > 2 {
		c.bad("spec.policyTypes", "has %d entries, at most Ingress and Egress", len(p.Spec.PolicyTypes))
	}
	for i, t := range p.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			c.bad(fmt.Sprintf("spec.policyTypes[%d]", i), "unknown type %q, must be Ingress or Egress", t)
		}
	}
}

func (c *checker) policyPorts(ports []networkingv1.NetworkPolicyPort, rule string) {
	for i, port := range ports {
		path := fmt.Sprintf("%s.ports[%d]", rule, i)
		if port.Protocol != nil && *port.Protocol == "" {
			c.bad(path+".protocol", "empty, must be TCP, UDP or SCTP")
		} else {
			c.protocol(port.Protocol, path+".protocol")
		}
		numeric := port.Port != nil && port.Port.Type == intstr.Int
		switch {
		case port.Port == nil:
		case numeric:
			c.number(port.Port.IntVal, path+".port")
		default:
			for _, message := range validation.IsValidPortName(port.Port.StrVal) {
				c.bad(path+".port", "%q: %s", port.Port.StrVal, message)
			}
		}
		switch {
		case port.EndPort == nil:
		case port.Port == nil:
			c.bad(path+".endPort", "needs port, where the range begins")
		case !numeric:
			c.bad(path+".endPort", "needs a numeric port, not the name %q", port.Port.StrVal)
		case *port.EndPort < port.Port.IntVal:
			c.bad(path+".endPort", "%d is below port %d", *port.EndPort, port.Port.IntVal)
		default:
			c.number(*port.EndPort, path+".endPort")
		}
	}
}

func (c *checker) policyPeer(peer *networkingv1.NetworkPolicyPeer, path string) {
	if peer.PodSelector != nil {
		c.selector(peer.PodSelector, path+".podSelector")
	}
	if peer.NamespaceSelector != nil {
		c.selector(peer.NamespaceSelector, path+".namespaceSelector")
	}
	selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
	switch {
	case peer.IPBlock == nil && !selects:
		c.bad(path, "names no peer; write podSelector, namespaceSelector or ipBlock")
	case peer.IPBlock != nil && selects:
		c.bad(path, "ipBlock cannot be combined with selectors; make it an entry of its own")
	}
	if peer.IPBlock == nil {
		return
	}
	cidr, ok := c.prefix(peer.IPBlock.CIDR, path+".ipBlock.cidr")
	for i, text := range peer.IPBlock.Except {
		at := fmt.Sprintf("%s.ipBlock.except[%d]", path, i)
		if except, fine := c.prefix(text, at); fine && ok && (!inside(except, cidr) || except == cidr) {
			c.bad(at, "%s must lie inside cidr %s and be smaller", text, peer.IPBlock.CIDR)
		}
	}
}

// inside says whether prefix is outer or a part of it.
func inside(prefix, outer netip.Prefix) bool {
	return prefix.Bits() >= outer.Bits() && outer.Contains(prefix.Addr())
}
