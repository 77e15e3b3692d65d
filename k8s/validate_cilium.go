// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirnet/weir/policy"
)

const maxPortEntries = 40 // of one ports or fields list

// ciliumPolicy checks what the schema of the cilium.io kinds, and Cilium when it reads them, would refuse.
func (c *checker) ciliumPolicy(spec *CiliumRule, specs []*CiliumRule, namespaced bool) {
	if spec == nil && specs == nil {
		c.bad("spec", "missing; write spec or specs")
	}
	if spec != nil {
		c.ciliumRule(spec, "spec", namespaced)
	}
	for i, s := range specs {
		c.ciliumRule(s, fmt.Sprintf("specs[%d]", i), namespaced)
	}
}

func (c *checker) ciliumRule(r *CiliumRule, path string, namespaced bool) {
	switch {
	case r.EndpointSelector == nil && r.NodeSelector == nil:
		c.bad(path+".endpointSelector", "missing; {} selects every pod")
	case r.EndpointSelector != nil && r.NodeSelector != nil:
		c.bad(path+".nodeSelector", "cannot be combined with endpointSelector")
	case r.NodeSelector != nil && namespaced:
		c.bad(path+".nodeSelector", "needs a CiliumClusterwideNetworkPolicy")
	}
	c.ciliumSelector(r.EndpointSelector, path+".endpointSelector")
	c.ciliumSelector(r.NodeSelector, path+".nodeSelector")
	if len(r.Ingress)+len(r.IngressDeny)+len(r.Egress)+len(r.EgressDeny) == 0 {
		c.bad(path, "has no rule in ingress, ingressDeny, egress or egressDeny; to deny everything write ingress: [{}]")
	}
	for i, label := range r.Labels {
		if label.Key == "" {
			c.bad(fmt.Sprintf("%s.labels[%d].key", path, i), "missing")
		}
	}
	for _, rule := range rulesOf(r, path) {
		c.ciliumPeers(&rule)
		c.ciliumPorts(&rule)
		for i, p := range rule.ports {
			if r.NodeSelector != nil && p.Rules != nil && len(p.Rules.HTTP) > 0 {
				c.bad(fmt.Sprintf("%s.toPorts[%d].rules.http", rule.path, i), "not possible in a policy for nodes")
			}
		}
	}
}

func (c *checker) ciliumSelector(s *metav1.LabelSelector, path string) {
	if s == nil {
		return
	}
	key := func(text, at string) {
		source, bare, prefixed := strings.Cut(text, ":")
		if !prefixed {
			bare = source
		}
		if prefixed && source == "" || strings.Contains(bare, ":") {
			c.bad(at, "%q: a key is NAME or SOURCE:NAME", text)
			return
		}
		for _, message := range validation.IsQualifiedName(bare) {
			c.bad(at, "%q: %s", text, message)
		}
	}
	value := func(text, at string) {
		for _, message := range validation.IsValidLabelValue(text) {
			c.bad(at, "%q: %s", text, message)
		}
	}
	for _, k := range keysOf(s.MatchLabels) {
		key(k, path+".matchLabels")
		value(s.MatchLabels[k], path+".matchLabels["+k+"]")
	}
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf("%s.matchExpressions[%d]", path, i)
		key(e.Key, at+".key")
		switch e.Operator {
		case metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn:
			if len(e.Values) == 0 {
				c.bad(at+".values", "missing, %s needs values", e.Operator)
			}
		case metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist:
			if len(e.Values) > 0 {
				c.bad(at+".values", "%s takes no values", e.Operator)
			}
		default:
			c.bad(at+".operator", "unknown operator %q, must be In, NotIn, Exists or DoesNotExist", e.Operator)
		}
		for j, v := range e.Values {
			value(v, fmt.Sprintf("%s.values[%d]", at, j))
		}
	}
}

func (c *checker) ciliumPeers(r *ciliumRule) {
	if r.requires > 0 {
		c.bad(r.field("Requires"), "gone since Cilium 1.19; put the requirements into the peers' selectors")
	}
	var used []string
	for _, k := range []struct {
		field string
		count int
	}{{"Endpoints", len(r.endpoints)}, {"CIDR", len(r.cidrs)}, {"CIDRSet", len(r.cidrSets)}, {"Entities", len(r.entities)},
		{"Groups", len(r.groups)}, {"Nodes", len(r.nodes)}, {"Services", len(r.services)}, {"FQDNs", len(r.fqdns)}} {
		if k.count > 0 {
			used = append(used, r.side()+k.field)
		}
	}
	if len(used) > 1 {
		c.bad(r.path, "combines %s; a rule may name its peers in one way only, make them rules of their own", strings.Join(used, " and "))
	}
	for i := range r.endpoints {
		c.ciliumSelector(&r.endpoints[i], fmt.Sprintf("%s[%d]", r.field("Endpoints"), i))
	}
	for i := range r.nodes {
		c.ciliumSelector(&r.nodes[i], fmt.Sprintf("%s[%d]", r.field("Nodes"), i))
	}
	for i, text := range r.cidrs {
		c.prefix(text, fmt.Sprintf("%s[%d]", r.field("CIDR"), i))
	}
	for i := range r.cidrSets {
		c.ciliumCIDRSet(&r.cidrSets[i], fmt.Sprintf("%s[%d]", r.field("CIDRSet"), i))
	}
	for i, e := range r.entities {
		if !contains(entities(), e) {
			hint := ""
			if near := nearest(e, entities()); near != "" {
				hint = ", did you mean " + near + "?"
			}
			c.bad(fmt.Sprintf("%s[%d]", r.field("Entities"), i), "unknown entity %q%s", e, hint)
		}
	}
	for i := range r.services {
		if s := r.services[i].K8sServiceSelector; s != nil {
			c.ciliumSelector(&s.Selector, fmt.Sprintf("%s[%d].k8sServiceSelector.selector", r.field("Services"), i))
		}
	}
	for i, f := range r.fqdns {
		if (f.MatchName == "") == (f.MatchPattern == "") {
			c.bad(fmt.Sprintf("%s[%d]", r.field("FQDNs"), i), "needs matchName or matchPattern, and not both")
		}
	}
	if r.authentication != nil && !contains([]string{"disabled", "required", "test-always-fail"}, r.authentication.Mode) {
		c.bad(r.path+".authentication.mode", "unknown mode %q, must be disabled, required or test-always-fail", r.authentication.Mode)
	}
}

func entities() []string {
	var names []string
	for _, e := range []policy.Entity{policy.EntityAll, policy.EntityWorld, policy.EntityWorldIPv4, policy.EntityWorldIPv6, policy.EntityCluster,
		policy.EntityClusterMesh, policy.EntityHost, policy.EntityRemoteNode, policy.EntityKubeAPIServer, policy.EntityHealth,
		policy.EntityInit, policy.EntityIngress, policy.EntityUnmanaged, policy.EntityNone} {
		names = append(names, string(e))
	}
	return names
}

func (c *checker) ciliumCIDRSet(r *CiliumCIDRRule, path string) {
	count := 0
	for _, is := range []bool{r.CIDR != "", r.CIDRGroupRef != "", r.CIDRGroupSelector != nil} {
		if is {
			count++
		}
	}
	if count != 1 {
		c.bad(path, "needs exactly one of cidr, cidrGroupRef and cidrGroupSelector")
	}
	if r.CIDRGroupSelector != nil { // labels of groups have no source
		c.selector(r.CIDRGroupSelector, path+".cidrGroupSelector")
	}
	var cidr netip.Prefix
	known := false
	if r.CIDR != "" {
		cidr, known = c.prefix(r.CIDR, path+".cidr")
	}
	for i, text := range r.Except {
		at := fmt.Sprintf("%s.except[%d]", path, i)
		if except, fine := c.prefix(text, at); fine && known && !inside(except, cidr) {
			c.bad(at, "%s must lie inside cidr %s", text, r.CIDR)
		}
	}
}

func (c *checker) ciliumPorts(r *ciliumRule) {
	if len(r.icmps) > 0 && len(r.ports) > 0 {
		c.bad(r.path+".icmps", "cannot be combined with toPorts; make it a rule of its own")
	}
	for i, entry := range r.ports {
		path := fmt.Sprintf("%s.toPorts[%d]", r.path, i)
		if len(entry.Ports) > maxPortEntries {
			c.bad(path+".ports", "has %d entries, at most %d", len(entry.Ports), maxPortEntries)
		}
		for j := range entry.Ports {
			c.ciliumPort(&entry.Ports[j], fmt.Sprintf("%s.ports[%d]", path, j))
		}
		c.ciliumL7(r, &entry, path)
	}
	for i, entry := range r.icmps {
		if len(entry.Fields) > maxPortEntries {
			c.bad(fmt.Sprintf("%s.icmps[%d].fields", r.path, i), "has %d entries, at most %d", len(entry.Fields), maxPortEntries)
		}
		for j, f := range entry.Fields {
			path := fmt.Sprintf("%s.icmps[%d].fields[%d]", r.path, i, j)
			if f.Family != "" && f.Family != "IPv4" && f.Family != "IPv6" {
				c.bad(path+".family", "unknown family %q, must be IPv4 or IPv6", f.Family)
			} else if f.Type == nil {
				c.bad(path+".type", "missing, a number or a name such as EchoRequest")
			} else if _, ok := icmpType(f); !ok {
				c.bad(path+".type", "%s is no ICMP type of that family, a number from 0 to 255 or a name such as EchoRequest", f.Type)
			}
		}
	}
}

func (c *checker) ciliumPort(p *CiliumPort, path string) {
	_, fixed := ciliumProtocols()[p.Protocol]
	_, portless := extended()[p.Protocol]
	switch {
	case p.Protocol != "" && p.Protocol != "ANY" && !fixed && !portless:
		c.bad(path+".protocol", "unknown protocol %q, must be TCP, UDP, SCTP or ANY; ICMP goes into icmps", p.Protocol)
	case portless && p.Port != "" && p.Port != "0":
		c.bad(path+".port", "%s has no ports, leave it out", p.Protocol)
	case !portless && p.Port == "":
		c.bad(path+".port", "missing; \"0\" stands for every port")
	case p.Port != "" && !isServiceName(p.Port):
		if _, err := strconv.ParseUint(p.Port, 0, 16); err != nil {
			c.bad(path+".port", "%q is neither a number up to 65535 nor the name of a port", p.Port)
		}
	}
	if p.EndPort < 0 || p.EndPort > 65535 {
		c.bad(path+".endPort", "%d is not a port, must be 0 to 65535", p.EndPort)
	}
}

// isServiceName follows RFC 6335 section 5.1: letters, digits and single inner dashes, at least one letter, at most 15.
func isServiceName(name string) bool {
	letter := false
	for i := range len(name) {
		switch b := name[i] | 0x20; {
		case b >= 'a' && b <= 'z':
			letter = true
		case name[i] >= '0' && name[i] <= '9':
		case name[i] != '-' || i == 0 || i == len(name)-1 || name[i-1] == '-':
			return false
		}
	}
	return letter && len(name) <= 15
}

func (c *checker) ciliumL7(r *ciliumRule, p *CiliumPortRule, path string) {
	http, dns := 0, 0
	if p.Rules != nil {
		http, dns = len(p.Rules.HTTP), len(p.Rules.DNS)
		if p.Rules.HTTP != nil && p.Rules.DNS != nil {
			c.bad(path+".rules", "has http and dns; one of them only")
		}
	}
	if dns > 0 && r.direction == policy.Ingress {
		c.bad(path+".rules.dns", "not possible at ingress")
	}
	if dns > 0 && len(p.Ports) == 0 {
		c.bad(path+".ports", "missing; DNS rules need the port, 53")
	}
	for i, port := range p.Ports {
		at := fmt.Sprintf("%s.ports[%d]", path, i)
		n, err := strconv.ParseUint(port.Port, 0, 16)
		switch {
		case http+dns > 0 && err == nil && n == 0:
			c.bad(at+".port", "cannot be every port where http or dns rules are")
		case dns > 0 && err == nil && port.EndPort > int32(n):
			c.bad(at+".endPort", "not possible with dns rules")
		}
		if http > 0 && port.Protocol != "TCP" {
			c.bad(at+".protocol", "must be TCP where http rules are")
		}
	}
	if len(p.ServerNames) > 0 && http+dns > 0 && p.TerminatingTLS == nil {
		c.bad(path+".serverNames", "needs terminatingTLS where http or dns rules are")
	}
	if p.Listener != nil && http+dns > 0 {
		c.bad(path+".listener", "cannot be combined with http or dns rules")
	}
	for _, tls := range []struct {
		field string
		tls   *CiliumTLS
	}{{"terminatingTLS", p.TerminatingTLS}, {"originatingTLS", p.OriginatingTLS}} {
		if tls.tls != nil && (tls.tls.Secret == nil || tls.tls.Secret.Name == "") {
			c.bad(path+"."+tls.field+".secret", "missing")
		}
	}
	for i, name := range p.ServerNames {
		if name == "" {
			c.bad(fmt.Sprintf("%s.serverNames[%d]", path, i), "empty")
		}
	}
	if p.Listener != nil && r.direction == policy.Ingress {
		c.bad(path+".listener", "not possible at ingress")
	}
}

// icmpType is the number of an ICMP type that is given as a number or by name.
func icmpType(f CiliumICMPField) (uint16, bool) {
	if f.Type.Type == intstr.Int {
		return uint16(f.Type.IntVal), f.Type.IntVal >= 0 && f.Type.IntVal <= 255
	}
	names := icmpNames()
	if f.Family == "IPv6" {
		names = icmpv6Names()
	}
	if n, ok := names[f.Type.StrVal]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(f.Type.StrVal, 10, 8)
	return uint16(n), err == nil
}
