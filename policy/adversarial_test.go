// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// Clusters that are made to cost: each takes one property to its extreme, on top of an ordinary cluster's nodes and pods.

// replicated gives every identity that many pods; the copies are on other nodes.
func replicated(m *Model, times int) *Model {
	c := *m
	c.Pods = slices.Clone(m.Pods)
	for i := range m.Nodes[1:] {
		n := c.Nodes[1+i]
		n.PodCIDRs = append(slices.Clip(n.PodCIDRs), netip.PrefixFrom(addrIn(10, 128, 8*i, 0), 21))
		c.Nodes[1+i] = n
	}
	for i := range m.Pods {
		for copy := 1; copy < times; copy++ {
			pod := m.Pods[i]
			at := i*(times-1) + copy - 1
			node := at % (len(m.Nodes) - 1)
			pod.Name, pod.UID = fmt.Sprintf("%s-%d", pod.Name, copy), fmt.Sprintf("%s-%d", pod.UID, copy)
			pod.Node = m.Nodes[1+node].Name
			n := at / (len(m.Nodes) - 1)
			pod.Addrs = []netip.Addr{addrIn(10, 128, 8*node+n/250, 2+n%250)}
			c.Pods = append(c.Pods, pod)
		}
	}
	return &c
}

// adversary is a namespaced policy for ingress of one app of a namespace.
func adversary(ns, app, i int, rules []Rule) Policy {
	return Policy{
		Key: fmt.Sprintf("NetworkPolicy %s/adversary-%d", syntheticNamespace(ns), i), Namespace: syntheticNamespace(ns), Isolates: [2]bool{true},
		Subject: Selector{
			{Key: namespaceLabel, Op: In, Values: []string{syntheticNamespace(ns)}}, {Key: "app", Op: In, Values: []string{fmt.Sprintf("app-%d", app)}},
		},
		Rules: rules,
	}
}

// adversaries makes a policy for each local pod.
func adversaries(m *Model, rules func(i int) []Rule) {
	for i := range m.Pods {
		var ns, app int
		if m.Pods[i].Node != m.Node {
			continue
		}
		fmt.Sscanf(m.Pods[i].Namespace, "ns-%d", &ns)
		fmt.Sscanf(m.Pods[i].Labels["app"], "app-%d", &app)
		m.Policies = append(m.Policies, adversary(ns, app, i, rules(i)))
	}
}

// overlappingSelectors gives each pod 60 labels at random, and each local pod 40 rules that select by one of them, on a
// port of their own.
func overlappingSelectors(identities, locals int) *Model {
	r := rand.New(rand.NewPCG(1, 2))
	m := Synthetic(1000, identities, locals, 1)
	for i := range m.Pods {
		for j := range 60 {
			if r.IntN(2) == 0 {
				m.Pods[i].Labels[fmt.Sprintf("group-%d", j)] = "in"
			}
		}
	}
	port := uint16(1000)
	adversaries(m, func(int) []Rule {
		rules := make([]Rule, 40)
		for j := range rules {
			port++
			rules[j] = Rule{Path: fmt.Sprintf("spec.ingress[%d]", j), Ports: []PortMatch{{Protocol: TCP, First: port, Last: port}},
				Peers: []Peer{{Kind: PeerSelector, Selector: Selector{{Key: fmt.Sprintf("group-%d", r.IntN(60)), Op: Exists}}}}}
		}
		return rules
	})
	return m
}

// portRanges gives every policy 40 ranges of ports, all different and overlapping.
func portRanges(identities, locals int) *Model {
	r := rand.New(rand.NewPCG(3, 4))
	m := Synthetic(10000, identities, locals, 1)
	for i := range m.Policies {
		p := &m.Policies[i]
		p.Rules = slices.Clone(p.Rules)
		ranges := make([]PortMatch, 40)
		for j := range ranges {
			first := uint16(1 + r.IntN(60000))
			ranges[j] = PortMatch{Protocol: TCP, First: first, Last: first + uint16(r.IntN(4000))}
		}
		p.Rules[0].Ports = ranges
	}
	return m
}

// nestedCIDRs names that many prefixes, four deep within each other, each with an exception, in rules of the local pods.
func nestedCIDRs(identities, locals, prefixes int) *Model {
	m := Synthetic(1000, identities, locals, 1)
	n := 0
	next := func() Peer {
		// /20 in /16 in /12 and so on: one branch of the tree after the other.
		bits := []int{14, 18, 22, 26}[n%4]
		branch := n / 4
		a := netip.AddrFrom4([4]byte{byte(128 + branch>>10), byte(branch >> 2), byte(branch << 6), byte(branch>>4) & 0x40})
		p := netip.PrefixFrom(a, bits).Masked()
		n++
		return Peer{Kind: PeerCIDR, CIDR: p, Except: []netip.Prefix{netip.PrefixFrom(a, bits+2).Masked()}}
	}
	each := prefixes * 2 / 3 / locals // with its exception, each peer names two, the outermost ones several times
	adversaries(m, func(int) []Rule {
		rules := make([]Rule, 4)
		for j := range rules {
			rules[j] = Rule{Path: fmt.Sprintf("spec.ingress[%d]", j), Ports: []PortMatch{{Protocol: TCP, First: uint16(8000 + j), Last: uint16(8000 + j)}}}
			for range each / 4 {
				rules[j].Peers = append(rules[j].Peers, next())
			}
		}
		return rules
	})
	return m
}

// namedPortsPerPod gives each pod's port "http" a number of its own, and every local pod a rule that admits egress to it.
func namedPortsPerPod(identities, locals int) *Model {
	m := Synthetic(1000, identities, locals, 1)
	for i := range m.Pods {
		m.Pods[i].Ports = []NamedPort{{"http", TCP, uint16(2000 + i)}, {"metrics", TCP, uint16(60000 - i)}}
	}
	adversaries(m, func(int) []Rule {
		return []Rule{
			{Path: "spec.ingress[0]", Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{{Protocol: TCP, Name: "http"}, {Protocol: TCP, Name: "metrics"}}},
			{Path: "spec.egress[0]", Direction: Egress, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{{Protocol: TCP, Name: "http"}, {Protocol: TCP, Name: "metrics"}}},
		}
	})
	return m
}
