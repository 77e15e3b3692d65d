// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weirnet/weir/k8s"
)

// clusterTier asks the policies of one tier of policy.networking.k8s.io, those with the lower priority first, and each rule
// in its order. The first that matches decides; nil if none does, or if it passes on to the next tier. Which of two policies
// of the same priority goes first the API leaves open: by name, here.
func (o *Oracle) clusterTier(tier string, s side) *Judgement {
	policies := slices.Clone(o.objects.ClusterNetworkPolicies)
	slices.SortFunc(policies, func(a, b *k8s.ClusterNetworkPolicy) int {
		return cmp.Or(cmp.Compare(*a.Spec.Priority, *b.Spec.Priority), strings.Compare(a.Name, b.Name))
	})
	for _, p := range policies {
		if p.Spec.Tier != tier || !s.counts(p) || !o.clusterSubject(p.Spec.Subject, s) {
			continue
		}
		for i, r := range clusterRules(p, s.egress) {
			name := fmt.Sprintf("ClusterNetworkPolicy %s spec.%s[%d]", p.Name, r.section, i)
			action := r.action
			switch {
			case !r.understood(p.Unknown, i): // Accept then matches no traffic, Deny and Pass are "Deny all".
				if action == "Accept" {
					continue
				}
				action = "Deny"
			case !o.clusterPeers(r.peers, s) || !clusterProtocols(r.protocols, s):
				continue
			}
			switch action {
			case "Accept":
				return &Judgement{Allow: true, Reason: Allowed, Rules: []string{name}}
			case "Deny":
				return &Judgement{Allow: false, Reason: DeniedRule, Rules: []string{name}}
			}
			return nil
		}
	}
	return nil
}

// clusterSelected says that some policy of either tier has rules for the subject in this direction.
func (o *Oracle) clusterSelected(s side) bool {
	for _, p := range o.objects.ClusterNetworkPolicies {
		if s.counts(p) && len(clusterRules(p, s.egress)) > 0 && o.clusterSubject(p.Spec.Subject, s) {
			return true
		}
	}
	return false
}

// clusterRule is a rule of either direction. Sources can be fewer things than destinations.
type clusterRule struct {
	section   string
	action    string
	peerField string
	peers     []k8s.ClusterEgressPeer
	protocols []k8s.ClusterProtocol
}

func clusterRules(p *k8s.ClusterNetworkPolicy, egress bool) (rules []clusterRule) {
	if egress {
		for _, r := range p.Spec.Egress {
			rules = append(rules, clusterRule{"egress", r.Action, "to", r.To, r.Protocols})
		}
		return rules
	}
	for _, r := range p.Spec.Ingress {
		rule := clusterRule{"ingress", r.Action, "from", nil, r.Protocols}
		for _, source := range r.From {
			rule.peers = append(rule.peers, k8s.ClusterEgressPeer{Namespaces: source.Namespaces, Pods: source.Pods})
		}
		rules = append(rules, rule)
	}
	return rules
}

// understood says that every peer and protocol says something, and nothing that weir does not know how to hold.
func (r clusterRule) understood(unknown []k8s.UnknownField, index int) bool {
	for _, field := range unknown {
		if strings.HasPrefix(field.Path, fmt.Sprintf("spec.%s[%d].", r.section, index)) {
			return false
		}
	}
	for _, p := range r.peers {
		if p.Nodes != nil || p.DomainNames != nil {
			return false
		}
		if p.Namespaces == nil && p.Pods == nil && p.Networks == nil {
			return false
		}
	}
	for _, p := range r.protocols {
		if p.DestinationNamedPort != "" {
			continue
		}
		t := cmp.Or(p.TCP, p.UDP, p.SCTP)
		if t == nil || t.DestinationPort == nil || t.DestinationPort.Number == nil && t.DestinationPort.Range == nil {
			return false
		}
	}
	return true
}

// clusterSubject selects pods. Those in the host's network are not selected, and are no subjects anyway.
func (o *Oracle) clusterSubject(subject *k8s.ClusterSubject, s side) bool {
	pod := s.subject.Pod
	if subject.Namespaces != nil {
		return matches(subject.Namespaces, o.namespaceLabels(pod.Namespace))
	}
	return matches(&subject.Pods.NamespaceSelector, o.namespaceLabels(pod.Namespace)) && matches(subject.Pods.PodSelector, pod.Labels)
}

func (o *Oracle) clusterPeers(peers []k8s.ClusterEgressPeer, s side) bool {
	for _, p := range peers {
		if pod := s.peer.Pod; pod != nil {
			if p.Namespaces != nil && matches(p.Namespaces, o.namespaceLabels(pod.Namespace)) {
				return true
			}
			if p.Pods != nil && matches(&p.Pods.NamespaceSelector, o.namespaceLabels(pod.Namespace)) && matches(p.Pods.PodSelector, pod.Labels) {
				return true
			}
		}
		for _, network := range p.Networks { // Traffic inside the cluster is checked against it as well.
			if o.inBlock(s.peer, &networkingv1.IPBlock{CIDR: network}) {
				return true
			}
		}
	}
	return false
}

// clusterProtocols reads protocols: missing means all traffic, else the items are ORed.
func clusterProtocols(protocols []k8s.ClusterProtocol, s side) bool {
	if len(protocols) == 0 {
		return true
	}
	for _, p := range protocols {
		switch {
		case p.TCP != nil && s.packet.Protocol == tcp && clusterPort(p.TCP.DestinationPort, s.packet.Port),
			p.UDP != nil && s.packet.Protocol == udp && clusterPort(p.UDP.DestinationPort, s.packet.Port),
			p.SCTP != nil && s.packet.Protocol == sctp && clusterPort(p.SCTP.DestinationPort, s.packet.Port):
			return true
		case p.DestinationNamedPort != "" && p.DestinationNamedPort == strings.ToLower(p.DestinationNamedPort):
			number, known := namedPort(s.destination().Pod, p.DestinationNamedPort, s.packet.Protocol)
			if known && number == s.packet.Port {
				return true
			}
		}
	}
	return false
}

func clusterPort(p *k8s.ClusterPort, port uint16) bool {
	if p.Number != nil {
		return *p.Number == int32(port)
	}
	return p.Range.Start <= int32(port) && int32(port) <= p.Range.End
}
