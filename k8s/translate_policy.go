// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/policy"
)

func (t *translator) networkPolicy(p *networkingv1.NetworkPolicy) {
	out := policy.Policy{Key: name("NetworkPolicy", p), Namespace: p.Namespace}
	out.Subject = append(inNamespace(p.Namespace), podRequirements(&p.Spec.PodSelector)...)
	out.Isolates = [2]bool{policy.Ingress: true, policy.Egress: len(p.Spec.Egress) > 0}
	if len(p.Spec.PolicyTypes) > 0 {
		out.Isolates = [2]bool{}
		for _, direction := range p.Spec.PolicyTypes {
			out.Isolates[policy.Ingress] = out.Isolates[policy.Ingress] || direction == networkingv1.PolicyTypeIngress
			out.Isolates[policy.Egress] = out.Isolates[policy.Egress] || direction == networkingv1.PolicyTypeEgress
		}
	}
	// Rules of a direction that policyTypes does not name have no effect.
	if out.Isolates[policy.Ingress] {
		for i, rule := range p.Spec.Ingress {
			out.Rules = append(out.Rules, policy.Rule{Path: fmt.Sprintf("spec.ingress[%d]", i), Direction: policy.Ingress,
				Peers: t.policyPeers(rule.From, p.Namespace), Ports: policyPorts(rule.Ports)})
		}
	}
	if out.Isolates[policy.Egress] {
		for i, rule := range p.Spec.Egress {
			out.Rules = append(out.Rules, policy.Rule{Path: fmt.Sprintf("spec.egress[%d]", i), Direction: policy.Egress,
				Peers: t.policyPeers(rule.To, p.Namespace), Ports: policyPorts(rule.Ports)})
		}
	}
	t.model.Policies = append(t.model.Policies, out)
}

func (t *translator) policyPeers(from []networkingv1.NetworkPolicyPeer, namespace string) []policy.Peer {
	if len(from) == 0 {
		return []policy.Peer{{Kind: policy.PeerAny}}
	}
	peers := make([]policy.Peer, 0, len(from))
	for _, f := range from {
		if f.IPBlock != nil {
			peer := t.cidrPeer(block(f.IPBlock.CIDR, f.IPBlock.Except))
			if !t.options.IPBlockCilium {
				peer.MatchPods, peer.MatchNodes = true, true
			}
			peers = append(peers, peer)
			continue
		}
		var s policy.Selector
		if f.NamespaceSelector == nil {
			s = inNamespace(namespace)
		} else {
			s = requirements(f.NamespaceSelector, labelNamespaceLabel)
		}
		if f.PodSelector != nil {
			s = append(s, podRequirements(f.PodSelector)...)
		}
		peers = append(peers, policy.Peer{Kind: policy.PeerSelector, Selector: s})
	}
	return peers
}

func policyPorts(ports []networkingv1.NetworkPolicyPort) []policy.PortMatch {
	if len(ports) == 0 {
		return []policy.PortMatch{policy.AnyPort}
	}
	matches := make([]policy.PortMatch, 0, len(ports))
	for _, p := range ports {
		m := policy.PortMatch{Protocol: policy.TCP, Last: 65535}
		if p.Protocol != nil {
			m.Protocol = ProtocolNumber(*p.Protocol)
		}
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			m.Last, m.Name = 0, p.Port.StrVal
		default:
			m.First, m.Last = uint16(p.Port.IntVal), uint16(p.Port.IntVal)
			if p.EndPort != nil {
				m.Last = uint16(*p.EndPort)
			}
		}
		matches = append(matches, m)
	}
	return matches
}

// block parses a validated prefix and what is cut from it.
func block(cidr string, except []string) (netip.Prefix, []netip.Prefix) {
	var cut []netip.Prefix
	for _, text := range except {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			cut = append(cut, prefix.Masked())
		}
	}
	prefix, _ := netip.ParsePrefix(cidr)
	return prefix.Masked(), cut
}

func inNamespace(namespace string) policy.Selector {
	return policy.Selector{{Key: labelNamespace, Op: policy.In, Values: []string{namespace}}}
}

// requirements turns a label selector into a conjunction, each key with prefix put before it.
func requirements(s *metav1.LabelSelector, prefix string) policy.Selector {
	var out policy.Selector
	for _, k := range keysOf(s.MatchLabels) {
		out = append(out, policy.Requirement{Key: prefix + k, Op: policy.In, Values: []string{s.MatchLabels[k]}})
	}
	for _, e := range s.MatchExpressions {
		out = append(out, policy.Requirement{Key: prefix + e.Key, Op: operator(e.Operator), Values: e.Values})
	}
	return out
}

// podRequirements are those of a NetworkPolicy's podSelector: it sees the pod's own labels and no others.
func podRequirements(s *metav1.LabelSelector) policy.Selector {
	out := requirements(s, "")
	for i := range out {
		out[i].Key = ownKey(out[i].Key)
	}
	return out
}

func operator(o metav1.LabelSelectorOperator) policy.Operator {
	switch o {
	case metav1.LabelSelectorOpNotIn:
		return policy.NotIn
	case metav1.LabelSelectorOpExists:
		return policy.Exists
	case metav1.LabelSelectorOpDoesNotExist:
		return policy.DoesNotExist
	default:
		return policy.In
	}
}
