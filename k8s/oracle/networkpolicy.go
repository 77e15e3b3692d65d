// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// networkPolicies reads networking.k8s.io/v1. Every policy that selects the subject and names the direction isolates it;
// what is allowed is the union of what their rules allow.
func (o *Oracle) networkPolicies(s side, out *opinion) {
	for _, p := range o.objects.NetworkPolicies {
		if p.Namespace != s.subject.Pod.Namespace || !matches(&p.Spec.PodSelector, s.subject.Pod.Labels) {
			continue
		}
		if !isolates(p, s.egress) || !s.counts(p) {
			continue
		}
		out.selected, out.isolated = true, true
		name := "NetworkPolicy " + p.Namespace + "/" + p.Name
		if s.egress {
			for j, rule := range p.Spec.Egress {
				if o.networkPeers(p, rule.To, s) && networkPorts(rule.Ports, s) {
					out.allows = append(out.allows, fmt.Sprintf("%s spec.egress[%d]", name, j))
				}
			}
			continue
		}
		for j, rule := range p.Spec.Ingress {
			if o.networkPeers(p, rule.From, s) && networkPorts(rule.Ports, s) {
				out.allows = append(out.allows, fmt.Sprintf("%s spec.ingress[%d]", name, j))
			}
		}
	}
}

// isolates reads policyTypes. Missing: Ingress always, and Egress if there is any egress rule.
func isolates(p *networkingv1.NetworkPolicy, egress bool) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return !egress || len(p.Spec.Egress) > 0
	}
	if egress {
		return slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	return slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
}

// networkPeers reads from and to: missing or empty means everybody, else the items are ORed.
func (o *Oracle) networkPeers(p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, s side) bool {
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		if o.networkPeer(p, peer, s) {
			return true
		}
	}
	return false
}

func (o *Oracle) networkPeer(p *networkingv1.NetworkPolicy, peer networkingv1.NetworkPolicyPeer, s side) bool {
	if peer.IPBlock != nil {
		if o.options.IPBlockCilium {
			return o.inCiliumCIDR(s.peer, peer.IPBlock.CIDR, peer.IPBlock.Except)
		}
		return o.inBlock(s.peer, peer.IPBlock)
	}
	if s.peer.Pod == nil || (peer.PodSelector == nil && peer.NamespaceSelector == nil) {
		return false // Selectors select pods, the empty ones too.
	}
	if peer.NamespaceSelector == nil {
		if s.peer.Pod.Namespace != p.Namespace {
			return false
		}
	} else if !matches(peer.NamespaceSelector, o.namespaceLabels(s.peer.Pod.Namespace)) {
		return false
	}
	return peer.PodSelector == nil || matches(peer.PodSelector, s.peer.Pod.Labels)
}

// inBlock says that a party is in a block. A node speaks from several addresses, and its InternalIPs stand for all of them:
// any of them in the block is enough, any in a hole too much.
func (o *Oracle) inBlock(p Party, block *networkingv1.IPBlock) bool {
	addrs := []netip.Addr{p.Addr}
	if p.Node != "" {
		for _, a := range o.underlay[p.Node] {
			if a.Is4() == p.Addr.Is4() {
				addrs = append(addrs, a)
			}
		}
	}
	in := false
	for _, a := range addrs {
		in = in || inCIDR(a, block.CIDR, nil)
		if slices.ContainsFunc(block.Except, func(hole string) bool { return inCIDR(a, hole, nil) }) {
			return false
		}
	}
	return in
}

// inCIDR says that addr is in cidr and in none of except. Host bits are masked off.
func inCIDR(addr netip.Addr, cidr string, except []string) bool {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil || !prefix.Contains(addr) {
		return false
	}
	for _, e := range except {
		if hole, err := netip.ParsePrefix(e); err != nil || hole.Contains(addr) {
			return false
		}
	}
	return true
}

// networkPorts reads ports: missing or empty means every port of every protocol, else the items are ORed.
func networkPorts(ports []networkingv1.NetworkPolicyPort, s side) bool {
	if len(ports) == 0 {
		return true
	}
	for _, port := range ports {
		if networkPort(port, s) {
			return true
		}
	}
	return false
}

func networkPort(port networkingv1.NetworkPolicyPort, s side) bool {
	want := tcp // A missing protocol is TCP.
	if port.Protocol != nil {
		want = protocolNumber(*port.Protocol)
	}
	if want != s.packet.Protocol {
		return false
	}
	if port.Port == nil { // All ports of the protocol.
		return true
	}
	if port.Port.StrVal != "" { // A name means what the destination pod calls so, for this protocol.
		number, known := namedPort(s.destination().Pod, port.Port.StrVal, want)
		return known && number == s.packet.Port
	}
	first := int(port.Port.IntVal)
	last := first
	if port.EndPort != nil {
		last = int(*port.EndPort)
	}
	return first <= int(s.packet.Port) && int(s.packet.Port) <= last
}

func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolTCP, "":
		return tcp
	case corev1.ProtocolUDP:
		return udp
	case corev1.ProtocolSCTP:
		return sctp
	}
	return 0
}

// namedPort is the number that a pod's containers give a name: the first, should several use it, as a Service's targetPort
// has it. No pod, no number. A sidecar is an init container that stays.
func namedPort(pod *corev1.Pod, name string, protocol uint8) (number uint16, known bool) {
	if pod == nil {
		return 0, false
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if strings.EqualFold(port.Name, name) && protocolNumber(port.Protocol) == protocol {
				return uint16(port.ContainerPort), true
			}
		}
	}
	return 0, false
}
