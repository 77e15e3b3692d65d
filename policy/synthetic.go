// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// Synthetic makes a model of a plausible cluster for benches: about as many identities as asked for, one pod each,
// localPods of them on this node ("node-0"), in namespaces of about forty apps. Every policy is of one namespace; most
// select one app, admit one or two others of the namespace on a port or two, and isolate for ingress; some admit a whole
// namespace, a CIDR with an exception, or a named port, some rule egress, some deny. Equal arguments give equal models.
func Synthetic(policies, identities, localPods int, seed int64) *Model {
	r := rand.New(rand.NewPCG(uint64(seed), 0x77656972))
	m := &Model{Node: "node-0"}
	const perNode = 250
	remotes := (max(identities-localPods, 0) + perNode - 1) / perNode
	for i := range 1 + remotes {
		cidr := netip.PrefixFrom(addrIn(10, 64, i, 0), 24)
		if i == 0 {
			cidr = netip.PrefixFrom(addrIn(10, 32, 0, 0), 16)
		}
		m.Nodes = append(m.Nodes, Node{
			Name: fmt.Sprintf("node-%d", i), Underlay: []netip.Addr{addrIn(172, 16, i, 10)},
			Overlay:  []netip.Addr{cidr.Addr(), cidr.Addr().Next()},
			PodCIDRs: []netip.Prefix{cidr}, VTEPMAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, APIServer: i == 1,
		})
	}
	const apps = 40
	namespaces := max(1, identities/apps)
	every := max(1, identities/max(localPods, 1)) // so manieth pod is local
	locals, others := 0, 0
	for i := range identities {
		ns, app := i/apps%namespaces, i%apps
		node, addr := 0, addrIn(10, 32, locals/perNode, 2+locals%perNode)
		if i%every == 0 && locals < localPods || others == remotes*perNode {
			locals++
		} else {
			node = 1 + others%remotes
			addr = addrIn(10, 64, node, 2+others/remotes)
			others++
		}
		m.Pods = append(m.Pods, Pod{
			Namespace: syntheticNamespace(ns), Name: fmt.Sprintf("app-%d-%d", app, i), UID: fmt.Sprintf("uid-%d", i), Node: fmt.Sprintf("node-%d", node),
			Labels: map[string]string{
				"app": fmt.Sprintf("app-%d", app), "tier": []string{"web", "api", "db"}[app%3], "version": fmt.Sprintf("v%d", i/apps/namespaces),
				namespaceLabel: syntheticNamespace(ns), "io.cilium.k8s.namespace.labels.team": fmt.Sprintf("team-%d", ns%10),
				"io.cilium.k8s.policy.serviceaccount": "default", "io.cilium.k8s.policy.cluster": "default",
			},
			Addrs: []netip.Addr{addr},
			Ports: []NamedPort{{"http", TCP, uint16(8080 + app%4)}, {"metrics", TCP, 9090}},
		})
	}
	for i := range policies {
		m.Policies = append(m.Policies, syntheticPolicy(r, i, i%namespaces, apps))
	}
	return m
}

func syntheticNamespace(i int) string { return fmt.Sprintf("ns-%d", i) }

// addrIn is a.b.c.d, with what c exceeds a byte by carried to b.
func addrIn(a, b, c, d int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a), byte(b + c>>8), byte(c), byte(d)})
}

func syntheticPolicy(r *rand.Rand, i, ns, apps int) Policy {
	in := Requirement{Key: namespaceLabel, Op: In, Values: []string{syntheticNamespace(ns)}}
	app := func() Requirement {
		return Requirement{Key: "app", Op: In, Values: []string{fmt.Sprintf("app-%d", r.IntN(apps))}}
	}
	port := func() PortMatch {
		p := []uint16{80, 443, 8080, 8081, 8443, 5432, 6379, 9090, uint16(10000 + r.IntN(2000))}[r.IntN(9)]
		return PortMatch{Protocol: TCP, First: p, Last: p}
	}
	p := Policy{
		Key: fmt.Sprintf("NetworkPolicy %s/policy-%d", syntheticNamespace(ns), i), Namespace: syntheticNamespace(ns),
		Subject: Selector{in, app()}, Isolates: [2]bool{true, false},
	}
	if r.IntN(10) == 0 {
		p.Subject = Selector{in} // the whole namespace
	}
	for j := range 1 + r.IntN(3) {
		rule := Rule{Path: fmt.Sprintf("spec.ingress[%d]", j), Ports: []PortMatch{port(), port()}}
		rule.Peers = []Peer{{Kind: PeerSelector, Selector: Selector{in, app()}}, {Kind: PeerSelector, Selector: Selector{in, app()}}}
		switch r.IntN(12) {
		case 0:
			rule.Peers = []Peer{{Kind: PeerSelector, Selector: Selector{in}}}
		case 1:
			cidr := netip.PrefixFrom(addrIn(192, 168, r.IntN(256), 0), 24)
			rule.Peers = []Peer{{Kind: PeerCIDR, CIDR: cidr, Except: []netip.Prefix{netip.PrefixFrom(cidr.Addr().Next(), 32)}, MatchPods: true, MatchNodes: true}}
		case 2:
			rule.Ports = []PortMatch{{Protocol: TCP, Name: "http"}}
		case 3:
			rule.Peers = []Peer{{Kind: PeerSelector, Selector: Selector{{Key: "io.cilium.k8s.namespace.labels.team", Op: In, Values: []string{fmt.Sprintf("team-%d", r.IntN(10))}}, app()}}}
		case 4:
			rule.Ports = []PortMatch{{Protocol: TCP, First: 30000, Last: uint16(30000 + r.IntN(2000))}}
		case 5:
			rule.Action = Deny
		}
		p.Rules = append(p.Rules, rule)
	}
	if r.IntN(5) == 0 {
		p.Isolates[Egress] = true
		p.Rules = append(p.Rules,
			Rule{Path: "spec.egress[0]", Direction: Egress, Peers: []Peer{{Kind: PeerSelector, Selector: Selector{in}}}, Ports: []PortMatch{AnyPort}},
			Rule{Path: "spec.egress[1]", Direction: Egress, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{{Protocol: UDP, First: 53, Last: 53}}})
	}
	return p
}
