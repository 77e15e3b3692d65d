// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/policy"
)

// randomModel is a cluster of three nodes, node-1 being ours: few labels, so that policies overlap.
func randomModel(r *rand.Rand) *policy.Model {
	m := &policy.Model{Node: "node-1"}
	for i := 1; i <= 3; i++ {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(i), 0}), 24)
		m.Nodes = append(m.Nodes, policy.Node{
			Name: fmt.Sprintf("node-%d", i), Underlay: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})},
			Overlay: []netip.Addr{cidr.Addr(), cidr.Addr().Next()}, PodCIDRs: []netip.Prefix{cidr},
			VTEPMAC: [6]byte{2, 0, 0, 0, 0, byte(i)},
		})
	}
	for i := range 9 {
		m.Pods = append(m.Pods, randomPod(r, i))
	}
	m.Policies = randomPolicies(r)
	return m
}

func randomPod(r *rand.Rand, i int) policy.Pod {
	node := 1 + i%3
	return policy.Pod{
		Namespace: "test", Name: fmt.Sprintf("pod-%d", i), UID: fmt.Sprint(i), Node: fmt.Sprintf("node-%d", node),
		Labels: randomLabels(r), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 42, byte(node), byte(10 + i)})},
	}
}

func randomLabels(r *rand.Rand) map[string]string {
	return map[string]string{"app": string(rune('a' + r.IntN(3))), "io.kubernetes.pod.namespace": "test"}
}

func randomPolicies(r *rand.Rand) (policies []policy.Policy) {
	selector := func() policy.Selector {
		return policy.Selector{{Key: "app", Op: policy.In, Values: []string{string(rune('a' + r.IntN(3)))}}}
	}
	for i := range 1 + r.IntN(3) {
		p := policy.Policy{Key: fmt.Sprintf("NetworkPolicy test/%d", i), Subject: selector(), Isolates: [2]bool{r.IntN(2) == 0, r.IntN(3) == 0}}
		if r.IntN(3) == 0 {
			p.Tier, p.Priority, p.Isolates = policy.TierAdmin+policy.Tier(r.IntN(2)), int32(r.IntN(3)), [2]bool{}
		}
		for j := range r.IntN(3) {
			peer := policy.Peer{Kind: policy.PeerSelector, Selector: selector()}
			if r.IntN(3) == 0 {
				cidrs := []string{"10.42.0.0/16", "203.0.113.0/24", "203.0.113.0/25", "203.0.113.7/32", "10.42.2.0/24"}
				peer = policy.Peer{Kind: policy.PeerCIDR, CIDR: netip.MustParsePrefix(cidrs[r.IntN(len(cidrs))]), MatchPods: r.IntN(2) == 0}
			}
			first, action := uint16(r.IntN(60)), policy.Action(r.IntN(4)/3)
			if p.Tier != policy.TierNormal {
				action = policy.Action(r.IntN(3))
			}
			p.Rules = append(p.Rules, policy.Rule{
				Path: fmt.Sprintf("spec[%d]", j), Direction: policy.Direction(r.IntN(2)), Action: action,
				Peers: []policy.Peer{peer}, Ports: []policy.PortMatch{{Protocol: policy.TCP, First: first, Last: first + 40}},
			})
		}
		policies = append(policies, p)
	}
	return policies
}

// mutate returns a changed copy: policies, labels, pods that come, go, or take over another's address.
func mutate(r *rand.Rand, m *policy.Model) *policy.Model {
	c := *m
	c.Pods = slices.Clone(m.Pods)
	if r.IntN(3) > 0 {
		c.Policies = randomPolicies(r)
	}
	for i := range c.Pods {
		switch r.IntN(6) {
		case 0:
			c.Pods[i].Labels = randomLabels(r)
		case 1:
			c.Pods[i].UID += "'"
			c.Pods[i].Labels = randomLabels(r)
		}
	}
	if r.IntN(2) == 0 {
		i := r.IntN(len(c.Pods))
		c.Pods = slices.Delete(c.Pods, i, i+1)
	}
	if r.IntN(2) == 0 {
		c.Pods = append(c.Pods, randomPod(r, 20+r.IntN(20)))
	}
	return &c
}

// owner names who has an address, so that two models can be compared.
func owner(m *policy.Model, a netip.Addr) string {
	for i := range m.Pods {
		if slices.Contains(m.Pods[i].Addrs, a) {
			return m.Pods[i].Key() + " " + m.Pods[i].UID
		}
	}
	return ""
}

// flow is a question to policy: from one address to another.
type flow struct {
	src, dst netip.Addr
	port     uint16
}

// flows are what may be asked of two models: between everybody, and from and to outside.
func flows(models ...*policy.Model) (all []flow) {
	addrs := []netip.Addr{
		netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.200"),
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("10.42.1.200"), netip.MustParseAddr("10.42.2.200"),
	}
	for _, m := range models {
		for i := range m.Pods {
			if a := m.Pods[i].Addrs[0]; !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	for _, src := range addrs {
		for _, dst := range addrs {
			if src != dst {
				all = append(all, flow{src, dst, 30}, flow{src, dst, 70})
			}
		}
	}
	return all
}

// answer is the word of both ends' policy on a flow. An end that is no local pod has none.
type answer struct{ egress, ingress policy.Cell }

func (a answer) allow() bool { return a.egress.Allow() && a.ingress.Allow() }

func judge(img *policy.Image, lookup func(uint32) addressEntry, f flow) answer {
	src, dst := lookup(addr4(f.src)), lookup(addr4(f.dst))
	always := policy.Cell(0x8000)
	a := answer{always, always}
	if src.kind() == policy.AddressLocalPod {
		a.egress = img.Lookup(policy.Egress, src.identity(), dst.identity(), policy.TCP, f.port)
	}
	if dst.kind() == policy.AddressLocalPod {
		a.ingress = img.Lookup(policy.Ingress, dst.identity(), src.identity(), policy.TCP, f.port)
	}
	return a
}

// compiledAnswers is what a model says, from compiling it afresh.
func compiledAnswers(m *policy.Model, all []flow) (map[flow]bool, error) {
	c, err := policy.Build(m)
	if err != nil {
		return nil, err
	}
	entries, _ := newEntries(c.Addresses)
	answers := make(map[flow]bool)
	for _, f := range all {
		answers[f] = judge(c.Image, func(a uint32) addressEntry { return entries.match(a, 32) }, f).allow()
	}
	return answers, nil
}
