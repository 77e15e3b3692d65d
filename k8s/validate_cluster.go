// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"
	"regexp"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// Limits of the schema.
const (
	maxClusterList = 25  // rules of a direction, peers, protocols, networks, domain names
	maxClusterName = 100 // characters of a rule's name
)

// clusterPolicy checks what the schema of ClusterNetworkPolicy would refuse. An entry without any field is not refused: a
// field that a newer version has was taken out of it, perhaps, and the API says what to do then.
func (c *checker) clusterPolicy(s *ClusterPolicySpec) {
	switch s.Tier {
	case "Admin", "Baseline":
	case "":
		c.bad("spec.tier", "missing, must be Admin or Baseline")
	default:
		c.bad("spec.tier", "unknown tier %q, must be Admin or Baseline", s.Tier)
	}
	switch {
	case s.Priority == nil:
		c.bad("spec.priority", "missing, must be 0 to %d", policy.MaxPriority)
	case *s.Priority < 0 || *s.Priority > policy.MaxPriority:
		c.bad("spec.priority", "is %d, must be 0 to %d", *s.Priority, policy.MaxPriority)
	}
	switch {
	case s.Subject == nil || s.Subject.Namespaces == nil && s.Subject.Pods == nil:
		c.bad("spec.subject", "missing; namespaces: {} selects every pod")
	case s.Subject.Namespaces != nil && s.Subject.Pods != nil:
		c.bad("spec.subject", "has namespaces and pods, must have one of them; pods may select namespaces, too")
	default:
		c.clusterPods(s.Subject.Namespaces, s.Subject.Pods, "spec.subject")
	}
	c.atMost(len(s.Ingress), "spec.ingress")
	c.atMost(len(s.Egress), "spec.egress")
	for _, r := range s.rules() {
		c.clusterRule(&r)
	}
}

func (c *checker) atMost(n int, path string) {
	if n > maxClusterList {
		c.bad(path, "has %d entries, at most %d", n, maxClusterList)
	}
}

func (c *checker) clusterRule(r *clusterRule) {
	if n := utf8.RuneCountInString(r.name); n > maxClusterName {
		c.bad(r.path+".name", "has %d characters, at most %d", n, maxClusterName)
	}
	switch r.action {
	case "Accept", "Deny", "Pass":
	case "":
		c.bad(r.path+".action", "missing, must be Accept, Deny or Pass")
	default:
		c.bad(r.path+".action", "unknown action %q, must be Accept, Deny or Pass", r.action)
	}
	if len(r.peers) == 0 {
		c.bad(r.path+"."+r.side, "missing or empty, must have at least one peer; namespaces: {} is every pod")
	}
	c.atMost(len(r.peers), r.path+"."+r.side)
	if r.protocols != nil && len(r.protocols) == 0 {
		c.bad(r.path+".protocols", "empty; leave it out for every protocol and port")
	}
	c.atMost(len(r.protocols), r.path+".protocols")
	portless := false
	for i := range r.peers {
		p := &r.peers[i]
		portless = portless || p.Networks != nil || p.Nodes != nil || p.DomainNames != nil
		c.clusterPeer(p, r.peer(i))
	}
	for i := range r.protocols {
		p, path := &r.protocols[i], r.protocol(i)
		if set(p.TCP != nil, p.UDP != nil, p.SCTP != nil, p.DestinationNamedPort != "") > 1 {
			c.bad(path, "has several of tcp, udp, sctp and destinationNamedPort, must have one; make them entries of their own")
			continue
		}
		if p.DestinationNamedPort != "" && portless {
			c.bad(path+".destinationNamedPort", "networks, nodes and domainNames have no named ports; make them a rule of their own")
		}
		if t, name, _ := p.transport(); t != nil && t.DestinationPort != nil {
			c.clusterPort(t.DestinationPort, path+"."+name+".destinationPort")
		}
	}
}

func (c *checker) clusterPeer(p *ClusterEgressPeer, path string) {
	if set(p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, p.Networks != nil, p.DomainNames != nil) > 1 {
		c.bad(path, "names its peers in several ways, must use one; make them entries of their own")
		return
	}
	c.clusterPods(p.Namespaces, p.Pods, path)
	if p.Nodes != nil {
		c.selector(p.Nodes, path+".nodes")
	}
	c.words(p.Networks, path+".networks", func(text, at string) {
		if prefix, ok := c.prefix(text, at); ok && prefix.Addr() != netip.MustParsePrefix(text).Addr() {
			c.bad(at, "%q has bits set that the mask cuts off, write %s", text, prefix)
		}
	})
	c.words(p.DomainNames, path+".domainNames", func(text, at string) {
		const label = `[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?`
		if !regexp.MustCompile(`^(\*\.)?(` + label + `\.)+` + label + `\.?$`).MatchString(text) {
			c.bad(at, "%q is not a domain name such as example.com or *.example.com", text)
		}
	})
}

// words checks a set of strings, each by check; nil stands for a field that is missing.
func (c *checker) words(words []string, path string, check func(text, at string)) {
	if words != nil && len(words) == 0 {
		c.bad(path, "empty, must have at least one entry")
	}
	c.atMost(len(words), path)
	seen := map[string]bool{}
	for i, text := range words {
		at := fmt.Sprintf("%s[%d]", path, i)
		if seen[text] {
			c.bad(at, "%q is listed already, remove one", text)
		}
		seen[text] = true
		check(text, at)
	}
}

func (c *checker) clusterPods(namespaces *metav1.LabelSelector, pods *NamespacedPods, path string) {
	if namespaces != nil {
		c.selector(namespaces, path+".namespaces")
	}
	if pods == nil {
		return
	}
	c.selector(&pods.NamespaceSelector, path+".pods.namespaceSelector")
	if pods.PodSelector == nil {
		c.bad(path+".pods.podSelector", "missing; {} selects every pod of the namespaces")
		return
	}
	c.selector(pods.PodSelector, path+".pods.podSelector")
}

func (c *checker) clusterPort(p *ClusterPort, path string) {
	switch {
	case p.Number != nil && p.Range != nil:
		c.bad(path, "has number and range, must have one of them")
	case p.Number != nil:
		c.number(*p.Number, path+".number")
	case p.Range != nil:
		c.number(p.Range.Start, path+".range.start")
		c.number(p.Range.End, path+".range.end")
		if p.Range.Start >= p.Range.End {
			c.bad(path+".range", "start %d must be less than end %d", p.Range.Start, p.Range.End)
		}
	}
}
