// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirnet/weir/policy"
)

func (t *translator) clusterPolicy(p *ClusterNetworkPolicy) {
	out := policy.Policy{Key: name("ClusterNetworkPolicy", p), Tier: policy.TierBaseline, Priority: *p.Spec.Priority}
	if p.Spec.Tier == "Admin" {
		out.Tier = policy.TierAdmin
	}
	out.Subject = clusterPods(p.Spec.Subject.Namespaces, p.Spec.Subject.Pods)
	for _, r := range p.Spec.rules() {
		rule := policy.Rule{Path: r.path, Direction: r.direction, Action: clusterAction(r.action), Peers: clusterPeers(r.peers), Ports: clusterPorts(r.protocols)}
		closed := gaps(&r, p.Unknown)
		for _, f := range closed {
			instead := "the rule matches nothing"
			if rule.Action != policy.Allow {
				instead = "the rule denies everything, as the API prescribes"
			}
			t.status(out.Key, f.path, ReasonUnsupported, f.why+"; "+instead+". "+f.remedy)
		}
		switch {
		case len(closed) == 0:
		case rule.Action == policy.Allow:
			rule.Peers = nil
		default:
			rule.Action, rule.Peers, rule.Ports = policy.Deny, []policy.Peer{{Kind: policy.PeerAny}}, []policy.PortMatch{policy.AnyPort}
		}
		out.Rules = append(out.Rules, rule)
	}
	t.model.Policies = append(t.model.Policies, out)
}

func clusterAction(action string) policy.Action {
	switch action {
	case "Accept":
		return policy.Allow
	case "Pass":
		return policy.Pass
	default:
		return policy.Deny
	}
}

// gap is a field, or the lack of one, that makes a rule fail closed.
type gap struct{ path, why, remedy string }

// gaps lists what weir does not understand of a rule, or cannot enforce.
func gaps(r *clusterRule, unknown []UnknownField) []gap {
	var out []gap
	add := func(path, why, remedy string) { out = append(out, gap{path, why, remedy}) }
	// An entry of which nothing is left, and nothing unknown is seen, has lost a field before it came here.
	empty := func(path, why, remedy string) {
		for _, u := range unknown {
			if under(u.Path, []string{path}) {
				return
			}
		}
		add(path, why, remedy)
	}
	for _, u := range unknown {
		if under(u.Path, []string{r.path}) {
			remedy := "Remove the field, or use what this version of weir knows."
			if u.Near != "" {
				remedy = "Did you mean " + u.Near + "?"
			}
			if u.Why != "" {
				add(u.Path, u.Why, "Correct it.")
				continue
			}
			add(u.Path, "unknown field", remedy)
		}
	}
	for i := range r.peers {
		p, path := &r.peers[i], r.peer(i)
		switch {
		case p.Nodes != nil:
			add(path+".nodes", "selecting nodes by label is not supported", "Use networks with the nodes' addresses.")
		case p.DomainNames != nil:
			add(path+".domainNames", "DNS names as peers are not supported", "Use networks.")
		case p.Namespaces == nil && p.Pods == nil && p.Networks == nil:
			remedy := "Write namespaces or pods."
			if r.direction == policy.Egress {
				remedy = "Write namespaces, pods or networks."
			}
			empty(path, "names no peer, or has lost a field of a newer version", remedy)
		}
	}
	for i := range r.protocols {
		p, path := &r.protocols[i], r.protocol(i)
		protocol, field, _ := p.transport()
		switch {
		case protocol == nil && p.DestinationNamedPort == "":
			empty(path, "names no protocol, or has lost a field of a newer version", "Write tcp, udp, sctp or destinationNamedPort.")
		case protocol != nil && protocol.DestinationPort == nil:
			empty(path+"."+field, "names no destinationPort, or has lost a field of a newer version", "For every port write the range from 1 to 65535.")
		case protocol != nil && protocol.DestinationPort.Number == nil && protocol.DestinationPort.Range == nil:
			empty(path+"."+field+".destinationPort", "names no port, or has lost a field of a newer version", "Write number or range.")
		}
	}
	return out
}

// clusterPods selects pods, as a subject or as a peer.
func clusterPods(namespaces *metav1.LabelSelector, pods *NamespacedPods) policy.Selector {
	if namespaces != nil {
		return requirements(namespaces, labelNamespaceLabel)
	}
	return append(requirements(&pods.NamespaceSelector, labelNamespaceLabel), podRequirements(pods.PodSelector)...)
}

// clusterPeers are the peers as far as they are supported. Networks match whatever has an address in them.
func clusterPeers(from []ClusterEgressPeer) []policy.Peer {
	var peers []policy.Peer
	for i := range from {
		p := &from[i]
		if p.Namespaces != nil || p.Pods != nil {
			peers = append(peers, policy.Peer{Kind: policy.PeerSelector, Selector: clusterPods(p.Namespaces, p.Pods)})
		}
		for _, network := range p.Networks {
			prefix, _ := block(network, nil)
			peers = append(peers, policy.Peer{Kind: policy.PeerCIDR, CIDR: prefix, MatchPods: true, MatchNodes: true})
		}
	}
	return peers
}

// clusterPorts are the ports as far as they are supported. A name stands for the port of that name, whatever its protocol.
func clusterPorts(protocols []ClusterProtocol) []policy.PortMatch {
	if len(protocols) == 0 {
		return []policy.PortMatch{policy.AnyPort}
	}
	var matches []policy.PortMatch
	for i := range protocols {
		p := &protocols[i]
		if t, _, number := p.transport(); t != nil {
			if t.DestinationPort != nil {
				matches = append(matches, clusterPort(t.DestinationPort, number))
			}
			continue
		}
		if len(validation.IsValidPortName(p.DestinationNamedPort)) > 0 {
			continue // no container port can have this name
		}
		for _, number := range []uint8{policy.TCP, policy.UDP, policy.SCTP} {
			matches = append(matches, policy.PortMatch{Protocol: number, Name: p.DestinationNamedPort})
		}
	}
	return matches
}

func clusterPort(p *ClusterPort, protocol uint8) policy.PortMatch {
	m := policy.PortMatch{Protocol: protocol}
	switch {
	case p.Number != nil:
		m.First, m.Last = uint16(*p.Number), uint16(*p.Number)
	case p.Range != nil:
		m.First, m.Last = uint16(p.Range.Start), uint16(p.Range.End)
	}
	return m
}
