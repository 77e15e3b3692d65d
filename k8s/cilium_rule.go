// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// ciliumRule is an entry of ingress, ingressDeny, egress or egressDeny: the four kinds differ in names more than in matter.
type ciliumRule struct {
	path           string // "specs[1].egressDeny[0]"
	direction      policy.Direction
	action         policy.Action
	endpoints      []metav1.LabelSelector
	nodes          []metav1.LabelSelector
	requires       int // how many; the field is gone
	cidrs          []string
	cidrSets       []CiliumCIDRRule
	entities       []string
	groups         []CiliumGroups
	services       []CiliumService
	fqdns          []CiliumFQDN
	ports          []CiliumPortRule
	icmps          []CiliumICMPRule
	authentication *CiliumAuthentication
}

// side is how the names of the fields begin that name the rule's peers.
func (r *ciliumRule) side() string {
	if r.direction == policy.Egress {
		return "to"
	}
	return "from"
}

// field is the path of the field that names peers by what.
func (r *ciliumRule) field(what string) string { return r.path + "." + r.side() + what }

// rulesOf lists the rules of a spec that is found at path.
func rulesOf(r *CiliumRule, path string) []ciliumRule {
	var rules []ciliumRule
	for i, in := range r.Ingress {
		rule := ingressRule(in.CiliumIngressPeers, fmt.Sprintf("%s.ingress[%d]", path, i), policy.Allow)
		rule.ports, rule.icmps, rule.authentication = in.ToPorts, in.ICMPs, in.Authentication
		rules = append(rules, rule)
	}
	for i, in := range r.IngressDeny {
		rule := ingressRule(in.CiliumIngressPeers, fmt.Sprintf("%s.ingressDeny[%d]", path, i), policy.Deny)
		rule.ports, rule.icmps = denyPorts(in.ToPorts), in.ICMPs
		rules = append(rules, rule)
	}
	for i, out := range r.Egress {
		rule := egressRule(out.CiliumEgressPeers, fmt.Sprintf("%s.egress[%d]", path, i), policy.Allow)
		rule.ports, rule.icmps, rule.authentication, rule.fqdns = out.ToPorts, out.ICMPs, out.Authentication, out.ToFQDNs
		rules = append(rules, rule)
	}
	for i, out := range r.EgressDeny {
		rule := egressRule(out.CiliumEgressPeers, fmt.Sprintf("%s.egressDeny[%d]", path, i), policy.Deny)
		rule.ports, rule.icmps = denyPorts(out.ToPorts), out.ICMPs
		rules = append(rules, rule)
	}
	return rules
}

func ingressRule(p CiliumIngressPeers, path string, action policy.Action) ciliumRule {
	return ciliumRule{path: path, direction: policy.Ingress, action: action, endpoints: p.FromEndpoints, nodes: p.FromNodes,
		requires: len(p.FromRequires), cidrs: p.FromCIDR, cidrSets: p.FromCIDRSet, entities: p.FromEntities, groups: p.FromGroups}
}

func egressRule(p CiliumEgressPeers, path string, action policy.Action) ciliumRule {
	return ciliumRule{path: path, direction: policy.Egress, action: action, endpoints: p.ToEndpoints, nodes: p.ToNodes,
		requires: len(p.ToRequires), cidrs: p.ToCIDR, cidrSets: p.ToCIDRSet, entities: p.ToEntities, groups: p.ToGroups, services: p.ToServices}
}

func denyPorts(ports []CiliumPortDenyRule) []CiliumPortRule {
	var out []CiliumPortRule
	for _, p := range ports {
		out = append(out, CiliumPortRule{Ports: p.Ports})
	}
	return out
}
