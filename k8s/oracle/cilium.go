// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"

	"github.com/weirnet/weir/k8s"
)

// ciliumPolicies reads cilium.io/v2. The specs of all objects are a union without order.
func (o *Oracle) ciliumPolicies(s side, out *opinion) {
	for _, p := range o.objects.CiliumNetworkPolicies {
		if !s.counts(p) {
			continue
		}
		name := "CiliumNetworkPolicy " + p.Namespace + "/" + p.Name
		o.ciliumSpecs(name, p.Namespace, p.Spec, p.Specs, s, out)
	}
	for _, p := range o.objects.CiliumClusterwideNetworkPolicies {
		if !s.counts(p) {
			continue
		}
		o.ciliumSpecs("CiliumClusterwideNetworkPolicy "+p.Name, "", p.Spec, p.Specs, s, out)
	}
}

func (o *Oracle) ciliumSpecs(name, namespace string, spec *k8s.CiliumRule, specs []*k8s.CiliumRule, s side, out *opinion) {
	if spec != nil {
		o.ciliumSpec(name+" spec", namespace, spec, s, out)
	}
	for i, spec := range specs {
		if spec != nil {
			o.ciliumSpec(fmt.Sprintf("%s specs[%d]", name, i), namespace, spec, s, out)
		}
	}
}

// ciliumSpec reads one spec for one side of a packet. namespace is empty for a clusterwide one.
func (o *Oracle) ciliumSpec(name, namespace string, spec *k8s.CiliumRule, s side, out *opinion) {
	if spec.EndpointSelector == nil || !o.selectsSubject(spec.EndpointSelector, namespace, s) {
		return // A spec with a nodeSelector guards nodes, not pods.
	}
	rules, denies := ciliumRules(spec, s.egress)
	if len(rules)+len(denies) == 0 {
		return // [] is no section.
	}
	out.selected = true
	isolates := true
	if d := spec.EnableDefaultDeny; d != nil {
		opinion := d.Ingress
		if s.egress {
			opinion = d.Egress
		}
		isolates = opinion == nil || *opinion
	}
	if isolates {
		out.isolated = true
	}
	section := ".ingress"
	if s.egress {
		section = ".egress"
	}
	for i, r := range rules {
		if !r.unenforceable && o.ciliumPeers(r, namespace, s) && o.ciliumPorts(r, s) {
			out.allows = append(out.allows, fmt.Sprintf("%s%s[%d]", name, section, i))
		}
	}
	for i, r := range denies {
		if (o.ciliumPeers(r, namespace, s) || o.mightMean(r, s)) && o.ciliumPorts(r, s) {
			out.deny = append(out.deny, fmt.Sprintf("%s%sDeny[%d]", name, section, i))
		}
	}
}

// ciliumRule is any of the four kinds of rule.
type ciliumRule struct {
	named     bool // peers are named in some way; without, the rule is about anyone
	noOne     bool // a list of peers is written and empty
	nameless  bool // peers are named by CIDR or entity, which have no port names
	endpoints []selector
	cidrs     []cidrRule
	groups    []k8s.CiliumCIDRRule
	entities  []string
	nodes     []selector
	services  []k8s.CiliumService
	ports     [][]k8s.CiliumPort
	icmps     []k8s.CiliumICMPRule

	// What weir does not know how to hold: such a rule admits nothing, and as a deny rule denies all it might mean.
	unenforceable, someoneOutside bool
}

type cidrRule struct {
	cidr   string
	except []string
}

// limited says that the rule is about certain ports or ICMP types; [] is no limit.
func (r *ciliumRule) limited() bool { return len(r.ports) > 0 || len(r.icmps) > 0 }

// mightMean says that the peer may be one of those whom a deny rule names in a way that weir cannot look up.
func (o *Oracle) mightMean(r ciliumRule, s side) bool {
	return !r.noOne && r.someoneOutside && o.world(s.peer)
}

// ciliumRules brings the rules of one direction into one shape.
func ciliumRules(spec *k8s.CiliumRule, egress bool) (allow, deny []ciliumRule) {
	if egress {
		for _, r := range spec.Egress {
			rule := egressPeers(r.CiliumEgressPeers)
			rule.addPorts(r.ToPorts)
			rule.icmps = r.ICMPs
			list(&rule, r.ToFQDNs)
			if len(r.ToFQDNs) > 0 || authenticated(r.Authentication) {
				rule.unenforceable = true
			}
			allow = append(allow, rule)
		}
		for _, r := range spec.EgressDeny {
			rule := egressPeers(r.CiliumEgressPeers)
			rule.addDenyPorts(r.ToPorts)
			rule.icmps = r.ICMPs
			deny = append(deny, rule)
		}
		return allow, deny
	}
	for _, r := range spec.Ingress {
		rule := ingressPeers(r.CiliumIngressPeers)
		rule.addPorts(r.ToPorts)
		rule.icmps = r.ICMPs
		if authenticated(r.Authentication) {
			rule.unenforceable = true
		}
		allow = append(allow, rule)
	}
	for _, r := range spec.IngressDeny {
		rule := ingressPeers(r.CiliumIngressPeers)
		rule.addDenyPorts(r.ToPorts)
		rule.icmps = r.ICMPs
		deny = append(deny, rule)
	}
	return allow, deny
}

func authenticated(a *k8s.CiliumAuthentication) bool { return a != nil && a.Mode != "disabled" }

func ingressPeers(p k8s.CiliumIngressPeers) ciliumRule {
	r := ciliumRule{}
	r.addPeers(p.FromEndpoints, p.FromCIDR, p.FromCIDRSet, p.FromEntities)
	r.someoneOutside = len(p.FromGroups) > 0
	r.nodes = p.FromNodes
	list(&r, p.FromGroups)
	list(&r, p.FromNodes)
	r.unenforceable = r.someoneOutside
	return r
}

func egressPeers(p k8s.CiliumEgressPeers) ciliumRule {
	r := ciliumRule{}
	r.addPeers(p.ToEndpoints, p.ToCIDR, p.ToCIDRSet, p.ToEntities)
	r.someoneOutside = len(p.ToGroups) > 0
	r.nodes, r.services = p.ToNodes, p.ToServices
	list(&r, p.ToGroups)
	list(&r, p.ToNodes)
	list(&r, p.ToServices)
	r.unenforceable = r.someoneOutside
	return r
}

// list takes note of a list of peers: whether it is written, and whether it is empty then.
func list[T any](r *ciliumRule, items []T) {
	if items != nil {
		r.named = true
		r.noOne = r.noOne || len(items) == 0
	}
}

func (r *ciliumRule) addPeers(endpoints []selector, cidrs []string, sets []k8s.CiliumCIDRRule, entities []string) {
	list(r, endpoints)
	list(r, cidrs)
	list(r, sets)
	list(r, entities)
	r.nameless = len(cidrs)+len(sets)+len(entities) > 0
	r.endpoints, r.entities = endpoints, entities
	for _, c := range cidrs {
		r.cidrs = append(r.cidrs, cidrRule{cidr: c})
	}
	for _, c := range sets {
		if c.CIDR == "" {
			r.groups = append(r.groups, c)
			continue
		}
		r.cidrs = append(r.cidrs, cidrRule{c.CIDR, c.Except})
	}
}

func (r *ciliumRule) addPorts(rules []k8s.CiliumPortRule) {
	for _, p := range rules {
		r.ports = append(r.ports, p.Ports)
		if p.Rules != nil && len(p.Rules.HTTP)+len(p.Rules.DNS) > 0 || p.Listener != nil || p.TerminatingTLS != nil || p.OriginatingTLS != nil || len(p.ServerNames) > 0 {
			r.unenforceable = true // what is said above layer 4
		}
	}
}

func (r *ciliumRule) addDenyPorts(rules []k8s.CiliumPortDenyRule) {
	for _, p := range rules {
		r.ports = append(r.ports, p.Ports)
	}
}

// ciliumPeers reads the layer 3 half of a rule. Missing with ports: anyone. Missing without: no one. []: no one.
func (o *Oracle) ciliumPeers(r ciliumRule, namespace string, s side) bool {
	if r.noOne {
		return false
	}
	if !r.named {
		return r.limited()
	}
	for _, item := range r.endpoints {
		if o.selectsPeer(item, namespace, s) {
			return true
		}
	}
	for _, item := range r.cidrs {
		if o.inCiliumCIDR(s.peer, item.cidr, item.except) {
			return true
		}
	}
	for _, item := range r.groups {
		if o.inGroup(s.peer, item) {
			return true
		}
	}
	for _, item := range r.nodes {
		if o.selectsNode(item, s) {
			return true
		}
	}
	for _, item := range r.services {
		if o.serves(item, s) {
			return true
		}
	}
	for _, item := range r.entities {
		if o.entity(item, s) {
			return true
		}
	}
	return false
}

// entity says that the peer is one of those that a name stands for.
func (o *Oracle) entity(name string, s side) bool {
	world := o.world(s.peer)
	host := s.host()
	remote := s.peer.Node != "" && !host
	api := o.apiNodes[s.peer.Node] || (world && o.apiAddrs[s.peer.Addr])
	switch name {
	case "all":
		return true
	case "world":
		return world
	case "world-ipv4":
		return world && s.peer.Addr.Is4()
	case "world-ipv6":
		return world && !s.peer.Addr.Is4()
	case "cluster", "cluster-mesh":
		return !world || api
	case "host":
		return host
	case "remote-node":
		return remote
	case "kube-apiserver":
		return api
	case "unmanaged":
		return o.unmanaged(s.peer)
	}
	return false // health, init, ingress: nobody here; none: nobody anywhere
}
