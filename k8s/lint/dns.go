// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"slices"
	"strings"

	"github.com/weirnet/weir/policy"
)

// dns finds policies that let pods reach other pods and not look up their names. Pods that may reach nobody, or addresses
// only, do not need to.
func (s *scene) dns() {
	if s.partial {
		return
	}
	for _, g := range s.policies {
		if !g.Isolates[policy.Egress] {
			continue
		}
		for _, pods := range g.subjects {
			rules := pods.admitting(policy.Egress)
			if slices.ContainsFunc(rules, s.admitsDNS) {
				continue
			}
			at, service := s.needsNames(g)
			if at == "" {
				continue
			}
			severity, why := Note, ""
			if service != "" {
				severity, why = Warning, " such as that of "+service
			}
			s.report(dnsForgotten, severity, g.Key, at,
				"%s may reach other pods and no name server, so names%s cannot be looked up; admit UDP and TCP port 53 to the cluster's DNS (k8s-app=kube-dns of namespace kube-system)",
				pods.owner, why)
			break
		}
	}
}

// admitsDNS says whether a rule admits port 53 to anything that may be a name server. With every port to pods that the set
// has and that are no name servers, it does not.
func (s *scene) admitsDNS(r *policy.Rule) bool {
	dns := func(p policy.PortMatch) bool {
		if p.Protocol != policy.UDP && p.Protocol != policy.TCP {
			return false
		}
		return p.Name == "" && p.First <= 53 && 53 <= p.Last || strings.Contains(strings.ToLower(p.Name), "dns")
	}
	every := slices.ContainsFunc(r.Ports, func(p policy.PortMatch) bool { return p.Protocol == 0 })
	if !every {
		return slices.ContainsFunc(r.Ports, dns)
	}
	return slices.ContainsFunc(r.Peers, func(p policy.Peer) bool {
		pods := s.matching(p.Selector)
		known := p.Kind == policy.PeerSelector && pinned(p.Selector) != nil && len(pods) > 0
		return !known || slices.ContainsFunc(pods, func(g *group) bool {
			return strings.HasPrefix(g.namespace, "kube-") || g.declares(policy.PortMatch{Protocol: policy.UDP, First: 53, Last: 53})
		})
	})
}

// needsNames is the path of the policy's egress rules if they lead to pods, and a Service in front of some of those.
func (s *scene) needsNames(g *guard) (path, service string) {
	for i := range g.Rules {
		r := &g.Rules[i]
		if r.Direction != policy.Egress || r.Action != policy.Allow || !effective(r) {
			continue
		}
		if path == "" && slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return p.Kind == policy.PeerSelector }) {
			path, _, _ = strings.Cut(r.Path, "[")
			if g.root != "spec" { // specs[0].egress[0]
				path = g.root + ".egress"
			}
		}
		for _, svc := range s.in.Objects.Services {
			if service == "" && slices.ContainsFunc(g.peers[i], func(pods *group) bool { return fronts(svc, pods) }) {
				service = "Service " + svc.Namespace + "/" + svc.Name
			}
		}
	}
	return path, service
}
