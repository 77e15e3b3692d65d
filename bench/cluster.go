// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/weirnet/weir/policy"
)

// Size of the cluster that packets are judged for.
const (
	nodes      = 21  // the first is ours
	localPods  = 250 // each with an identity of its own
	identities = 10000
	firstPort  = 8000
	portSpan   = 300
	teams      = localPods // so that each local pod has policies of its own, four with a thousand
)

// cluster is the model of one node's view with n policies. With one, it isolates every pod and admits half of the
// identities on all ports of the span; with more, each guards one team and admits a few apps and tiers on ranges of it.
func cluster(n int) *policy.Model {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	m := &policy.Model{Node: "node-0"}
	for i := range nodes {
		m.Nodes = append(m.Nodes, policy.Node{
			Name:     fmt.Sprintf("node-%d", i),
			Underlay: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)})},
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(4 * i), 0}), 22)},
			Overlay:  []netip.Addr{netip.AddrFrom4([4]byte{10, 42, byte(4 * i), 0})},
			VTEPMAC:  vtepMAC(i),
		})
	}
	for i := range identities {
		node, at := 0, i
		if i >= localPods {
			node, at = 1+(i-localPods)%(nodes-1), (i-localPods)/(nodes-1)
		}
		at += 2 // behind the VTEP's and the bridge's address
		m.Pods = append(m.Pods, policy.Pod{
			Namespace: "bench", Name: fmt.Sprintf("pod-%d", i), Node: m.Nodes[node].Name,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 42, byte(4*node + at/256), byte(at)})},
			Labels: map[string]string{"app": fmt.Sprintf("app-%d", i), "team": fmt.Sprintf("team-%d", i%teams),
				"tier": fmt.Sprintf("tier-%d", i%10), "io.kubernetes.pod.namespace": "bench"},
		})
	}
	if n == 1 {
		m.Policies = []policy.Policy{guard("everybody", nil, policy.Rule{
			Peers: []policy.Peer{peer("tier", "tier-0", "tier-2", "tier-4", "tier-6", "tier-8")},
			Ports: []policy.PortMatch{{Protocol: policy.TCP, First: firstPort, Last: firstPort + portSpan - 1}},
		})}
		return m
	}
	for i := range n {
		subject := policy.Selector{{Key: "team", Op: policy.In, Values: []string{fmt.Sprintf("team-%d", i%teams)}}}
		var rules []policy.Rule
		for range 1 + random.IntN(3) {
			first := firstPort + random.IntN(portSpan)
			rules = append(rules, policy.Rule{
				Peers: []policy.Peer{peer("app", fmt.Sprintf("app-%d", random.IntN(identities))), peer("tier", fmt.Sprintf("tier-%d", random.IntN(10)))},
				Ports: []policy.PortMatch{{Protocol: policy.TCP, First: uint16(first), Last: uint16(min(first+random.IntN(32), firstPort+portSpan-1))}},
			})
		}
		m.Policies = append(m.Policies, guard(fmt.Sprintf("policy-%d", i), subject, rules...))
	}
	return m
}

func guard(name string, subject policy.Selector, rules ...policy.Rule) policy.Policy {
	for i := range rules {
		rules[i].Path, rules[i].Direction = fmt.Sprintf("spec.ingress[%d]", i), policy.Ingress
	}
	return policy.Policy{Key: "NetworkPolicy bench/" + name, Subject: subject, Isolates: [2]bool{policy.Ingress: true}, Rules: rules}
}

func peer(key string, values ...string) policy.Peer {
	return policy.Peer{Kind: policy.PeerSelector, Selector: policy.Selector{{Key: key, Op: policy.In, Values: values}}}
}

// vtepMAC is in the documentation range of RFC 7042.
func vtepMAC(node int) [6]byte { return [6]byte{0x00, 0x00, 0x5e, 0x00, 0x53, byte(node)} }

// workload is steps packets from remote pods to local ones, all of which compiled judges as allow says. The sources are the
// half of the identities that one policy admits, or the other half, however many policies there are: both cases then touch
// the same tables.
func workload(m *policy.Model, compiled *policy.Compiled, allow bool, flags uint8) ([]driverStep, coverage, error) {
	random := rand.New(rand.NewPCG(2, 3))
	var pods []int
	for i := localPods; i < identities; i++ {
		if (i%2 == 0) == allow {
			pods = append(pods, i)
		}
	}
	random.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	sources, ports, subjects := map[netip.Addr]bool{}, map[uint16]bool{}, map[netip.Addr]bool{}
	var out []driverStep
	for tries := 0; len(out) < steps; tries++ {
		if tries > 1000*steps {
			return nil, coverage{}, fmt.Errorf("only %d of %d packets with verdict %t found", len(out), steps, allow)
		}
		i := pods[tries/50%len(pods)] // fifty tries for each: rules are narrow
		src, dst := m.Pods[i].Addrs[0], m.Pods[random.IntN(localPods)].Addrs[0]
		port := uint16(firstPort + random.IntN(portSpan))
		from, to := compiled.Address(src), compiled.Address(dst)
		if compiled.Image.Lookup(policy.Ingress, to.Identity, from.Identity, policy.TCP, port).Allow() != allow {
			continue
		}
		node := 1 + (i-localPods)%(nodes-1)
		out = append(out, step(node, src, dst, port, flags))
		sources[src], ports[port], subjects[dst] = true, true, true
		tries += 49 - tries%50 // the next sender
	}
	return out, coverage{Sources: len(sources), Ports: len(ports), Pods: len(subjects)}, nil
}

// senders are the nodes, by number.
func senders(m *policy.Model) []driverSender {
	var out []driverSender
	for i, n := range m.Nodes {
		out = append(out, sender(n.Underlay[0], vtepMAC(i)))
	}
	return out
}

// coverage is over how much a workload cycles.
type coverage struct {
	Sources int `json:"sources"`
	Ports   int `json:"ports"`
	Pods    int `json:"pods"`
}
