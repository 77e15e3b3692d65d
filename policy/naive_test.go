// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// naive answers for a packet from the model alone: no identities, no classes, no numbers.
type naive struct{ m *Model }

// party is what an address turns out to be.
type party struct {
	addr netip.Addr
	also []netip.Addr // a node's InternalIPs of the same family
	pod  *Pod
	is   []Entity
}

func (n naive) party(a netip.Addr) party {
	p := party{addr: a}
	for i := range n.m.Pods {
		if slices.Contains(n.m.Pods[i].Addrs, a) {
			p.pod = &n.m.Pods[i]
			return p
		}
	}
	for _, node := range n.m.Nodes {
		if slices.Contains(node.Underlay, a) || slices.Contains(node.Overlay, a) {
			p.is = []Entity{EntityRemoteNode}
			for _, u := range node.Underlay {
				if u.Is4() == a.Is4() {
					p.also = append(p.also, u)
				}
			}
			if node.Name == n.m.Node {
				p.is = []Entity{EntityHost}
			}
			if node.APIServer {
				p.is = append(p.is, EntityKubeAPIServer)
			}
			return p
		}
	}
	for _, node := range n.m.Nodes {
		for _, c := range node.PodCIDRs {
			if c.Contains(a) {
				p.is = []Entity{EntityUnmanaged}
				return p
			}
		}
	}
	p.is = []Entity{EntityWorld, EntityWorldIPv6}
	if a.Is4() {
		p.is[1] = EntityWorldIPv4
	}
	return p
}

func (n naive) peer(p *Peer, who party) bool {
	switch p.Kind {
	case PeerAny:
		return true
	case PeerSelector:
		return who.pod != nil && p.Selector.Matches(who.pod.Labels)
	case PeerEntity:
		switch p.Entity {
		case EntityAll:
			return true
		case EntityCluster, EntityClusterMesh:
			return !slices.Contains(who.is, EntityWorld)
		}
		return slices.Contains(who.is, p.Entity)
	}
	in := func(c netip.Prefix) bool { return c.Contains(who.addr) || slices.ContainsFunc(who.also, c.Contains) }
	if !in(p.CIDR) || slices.ContainsFunc(p.Except, in) {
		return false
	}
	switch {
	case who.pod != nil || slices.Contains(who.is, EntityUnmanaged):
		return p.MatchPods
	case slices.Contains(who.is, EntityWorld):
		return true
	default:
		return p.MatchNodes
	}
}

func (n naive) port(dir Direction, p *PortMatch, subject *Pod, who party, protocol uint8, port uint16) bool {
	switch {
	case p.Protocol == 0:
		return true
	case p.Protocol != protocol:
		return false
	case p.Name == "":
		return portMask(protocol) == 0 || p.First <= port && port <= p.Last
	}
	having := subject
	if dir == Egress {
		having = who.pod
	}
	if having == nil {
		return false
	}
	return slices.ContainsFunc(having.Ports, func(c NamedPort) bool {
		if !strings.EqualFold(c.Name, p.Name) || c.Protocol != protocol {
			return false
		}
		if dir == Ingress && p.RangeTo > c.Port {
			return c.Port <= port && port <= p.RangeTo
		}
		return c.Port == port
	})
}

// judge returns the verdict and the names of the rules that may be given for it; none: the default decided.
func (n naive) judge(dir Direction, subject *Pod, peer netip.Addr, protocol uint8, port uint16) (allow bool, by []RuleName) {
	q := question{dir, subject, n.party(peer), protocol, port}
	if action, rule := n.first(TierAdmin, &q); action != Pass {
		return action == Allow, rule
	}
	isolated := false
	var allows, denies []RuleName
	for _, p := range n.m.Policies {
		if p.Tier != TierNormal || !p.Subject.Matches(subject.Labels) {
			continue
		}
		isolated = isolated || p.Isolates[dir]
		for _, r := range p.Rules {
			if !n.matches(&r, &q) {
				continue
			}
			if r.Action == Deny {
				denies = append(denies, RuleName{p.Key, r.Path})
			} else {
				allows = append(allows, RuleName{p.Key, r.Path})
			}
		}
	}
	switch {
	case len(denies) > 0:
		return false, denies
	case len(allows) > 0:
		return true, allows
	case isolated && dir == Ingress && !n.m.Options.HostByRule && slices.Contains(q.who.is, EntityHost):
		return true, []RuleName{{"weir", "host reaches its pods"}}
	case isolated:
		return false, nil
	}
	action, rule := n.first(TierBaseline, &q)
	return action != Deny, rule
}

// question is a packet from or to subject.
type question struct {
	dir      Direction
	subject  *Pod
	who      party
	protocol uint8
	port     uint16
}

func (n naive) matches(r *Rule, q *question) bool {
	return r.Direction == q.dir &&
		slices.ContainsFunc(r.Peers, func(x Peer) bool { return n.peer(&x, q.who) }) &&
		slices.ContainsFunc(r.Ports, func(x PortMatch) bool { return n.port(q.dir, &x, q.subject, q.who, q.protocol, q.port) })
}

func mustAddr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// randomCIDRs are chosen so that they contain, cut and equal the addresses of randomModel.
func randomCIDR(r *rand.Rand) netip.Prefix {
	return mustPrefix(pick(r, []string{
		"0.0.0.0/0", "10.0.0.0/8", "10.42.0.0/16", "10.42.1.0/24", "10.42.1.0/25", "10.42.1.2/32", "10.42.2.0/28", "192.0.2.0/24",
		"192.0.2.1/32", "198.51.100.0/24", "198.51.100.128/25", "198.51.100.7/32", "::/0", "2001:db8::/32", "2001:db8:42:1::/64", "2001:db8:9::/48",
	}))
}

func randomSelector(r *rand.Rand) Selector {
	var s Selector
	for range r.IntN(3) {
		key := pick(r, []string{"app", "tier", namespaceLabel, "pod-template-hash", "absent"})
		values := []string{pick(r, labelValues(key)), pick(r, labelValues(key))}
		s = append(s, Requirement{Key: key, Op: Operator(r.IntN(4)), Values: values})
	}
	return s
}

func labelValues(key string) []string {
	switch key {
	case namespaceLabel:
		return []string{"red", "blue"}
	case "pod-template-hash":
		return []string{"h1", "h2"}
	}
	return []string{"a", "b", "c", ""}
}

func randomRule(r *rand.Rand, path string) Rule {
	rule := Rule{Path: path, Direction: Direction(r.IntN(2))}
	if r.IntN(4) == 0 {
		rule.Action = Deny
	}
	for range r.IntN(3) + min(1, r.IntN(5)) {
		p := Peer{Kind: PeerKind(r.IntN(4))}
		switch p.Kind {
		case PeerSelector:
			p.Selector = randomSelector(r)
		case PeerEntity:
			p.Entity = pick(r, []Entity{EntityAll, EntityWorld, EntityWorldIPv4, EntityWorldIPv6, EntityCluster, EntityHost, EntityRemoteNode,
				EntityKubeAPIServer, EntityUnmanaged, EntityNone, EntityHealth})
		case PeerCIDR:
			p.CIDR = randomCIDR(r)
			p.MatchPods, p.MatchNodes = r.IntN(2) == 0, r.IntN(2) == 0
			for range r.IntN(3) {
				if e := randomCIDR(r); e.Bits() > p.CIDR.Bits() && p.CIDR.Contains(e.Addr()) {
					p.Except = append(p.Except, e)
				}
			}
		}
		rule.Peers = append(rule.Peers, p)
	}
	for range r.IntN(3) + min(1, r.IntN(5)) {
		m := PortMatch{Protocol: pick(r, []uint8{0, TCP, TCP, TCP, UDP, SCTP, ICMP, ICMPv6, 47})}
		switch r.IntN(4) {
		case 0:
			m.Last = 65535
		case 1:
			m.Name = pick(r, []string{"http", "HTTP", "dns", "none"})
			m.RangeTo = uint16(r.IntN(2) * 100)
		case 2:
			m.First = uint16(r.IntN(100))
			m.Last = m.First
		default:
			m.First = uint16(r.IntN(100))
			m.Last = m.First + uint16(r.IntN(30))
		}
		rule.Ports = append(rule.Ports, m)
	}
	return rule
}

func randomPod(r *rand.Rand, i int) Pod {
	node := 1 + r.IntN(3)
	p := Pod{Namespace: pick(r, labelValues(namespaceLabel)), Name: fmt.Sprintf("p%d", i), UID: fmt.Sprint(i), Node: fmt.Sprintf("node-%d", node)}
	p.Addrs = []netip.Addr{mustAddr(fmt.Sprintf("10.42.%d.%d", node, 2+i))}
	if r.IntN(3) == 0 {
		p.Addrs = append(p.Addrs, mustAddr(fmt.Sprintf("2001:db8:42:%d::%d", node, 2+i)))
	}
	randomizePod(r, &p)
	return p
}

func randomizePod(r *rand.Rand, p *Pod) {
	p.Labels = map[string]string{namespaceLabel: p.Namespace}
	for _, k := range []string{"app", "tier", "pod-template-hash"} {
		if r.IntN(4) > 0 {
			p.Labels[k] = pick(r, labelValues(k))
		}
	}
	p.Ports = nil
	if r.IntN(2) == 0 {
		p.Ports = append(p.Ports, NamedPort{"http", TCP, pick(r, []uint16{80, 81})})
	}
	if r.IntN(3) == 0 {
		p.Ports = append(p.Ports, NamedPort{"Dns", UDP, 53}, NamedPort{"dns", TCP, 53})
	}
}

func randomModel(r *rand.Rand) *Model {
	m := &Model{Node: "node-1", Options: Options{HostByRule: r.IntN(4) == 0}}
	for i := 1; i <= 3; i++ {
		m.Nodes = append(m.Nodes, Node{
			Name: fmt.Sprintf("node-%d", i), Underlay: []netip.Addr{mustAddr(fmt.Sprintf("192.0.2.%d", i))},
			Overlay:  []netip.Addr{mustAddr(fmt.Sprintf("10.42.%d.0", i)), mustAddr(fmt.Sprintf("10.42.%d.1", i))},
			PodCIDRs: []netip.Prefix{mustPrefix(fmt.Sprintf("10.42.%d.0/24", i)), mustPrefix(fmt.Sprintf("2001:db8:42:%d::/64", i))},
			VTEPMAC:  [6]byte{2, 0, 0, 0, 0, byte(i)}, APIServer: r.IntN(4) == 0,
		})
	}
	for i := range 4 + r.IntN(10) {
		m.Pods = append(m.Pods, randomPod(r, i))
	}
	m.Policies = randomPolicies(r)
	return m
}

func randomPolicies(r *rand.Rand) []Policy {
	var policies []Policy
	for i := range r.IntN(8) {
		p := Policy{Key: fmt.Sprintf("CiliumNetworkPolicy red/policy-%d", i), Subject: randomSelector(r)}
		if p.Tier = pick(r, []Tier{TierNormal, TierNormal, TierAdmin, TierBaseline}); p.Tier == TierNormal {
			p.Isolates = [2]bool{r.IntN(3) > 0, r.IntN(3) > 0}
		} else {
			p.Key, p.Priority = fmt.Sprintf("ClusterNetworkPolicy policy-%d", i), pick(r, []int32{0, 5, 5, 40, MaxPriority})
		}
		p.Audit = r.IntN(4) == 0
		for j := range r.IntN(5) {
			rule := randomRule(r, fmt.Sprintf("spec.rules[%d]", j))
			if p.Tier != TierNormal {
				rule.Action = Action(r.IntN(3))
			}
			p.Rules = append(p.Rules, rule)
		}
		policies = append(policies, p)
	}
	return policies
}

// probes lists addresses on and beside every border that randomModel has.
func probeAddrs(m *Model) []netip.Addr {
	addrs := []netip.Addr{}
	for _, s := range []string{"10.42.1.200", "10.42.1.100", "10.42.2.14", "10.42.2.77", "10.42.9.9", "10.9.9.9", "203.0.113.5", "192.0.2.99", "198.51.100.7",
		"198.51.100.8", "198.51.100.200", "2001:db8:9::1", "2001:db8:42:1::99", "2001:db8:ffff::1", "fd00::1"} {
		addrs = append(addrs, mustAddr(s))
	}
	for _, n := range m.Nodes {
		addrs = append(append(addrs, n.Underlay...), n.Overlay...)
	}
	for _, p := range m.Pods {
		addrs = append(addrs, p.Addrs...)
	}
	return addrs
}

var probeProtocols = []uint8{TCP, UDP, SCTP, ICMP, ICMPv6, 47, 50}

// eachSeed runs a test with n random sources, or with the one in WEIR_SEED, and prints the seed of what fails.
func eachSeed(t *testing.T, n int, test func(t *testing.T, r *rand.Rand)) {
	t.Helper()
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = rand.Uint64()
	}
	if s := os.Getenv("WEIR_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		if !t.Run(fmt.Sprintf("WEIR_SEED=%d", seed), func(t *testing.T) { test(t, rand.New(rand.NewPCG(seed, 0))) }) {
			return
		}
	}
}

// enforced is m without its policies under audit.
func enforced(m *Model) *Model {
	e := *m
	e.Policies = slices.DeleteFunc(slices.Clone(m.Policies), func(p Policy) bool { return p.Audit })
	return &e
}

// The image gives the verdict that the model's prose gives, for every pod, peer, protocol and port, and names a rule that
// says so: in the enforced plane without the policies under audit, in the audited one with them. A cell of the former says
// where the latter denies what it allows.
func TestLookupAgreesWithModel(t *testing.T) {
	verdicts, doubts := map[bool]int{}, map[bool]int{} // by whether they allow; those that only audit denies, by whether by default
	eachSeed(t, 150, func(t *testing.T, r *rand.Rand) {
		m := randomModel(r)
		e := enforced(m)
		c, err := Build(m)
		if err != nil {
			t.Fatal(err)
		}
		for j := range m.Pods {
			pod := &m.Pods[j]
			if pod.Node != m.Node {
				continue
			}
			for _, peer := range probeAddrs(m) {
				for range 12 {
					dir, protocol, port := Direction(r.IntN(2)), pick(r, probeProtocols), uint16(r.IntN(110))
					want, by := naive{e}.judge(dir, pod, peer, protocol, port)
					if portMask(protocol) == 0xff && port > 0xff {
						continue
					}
					got := c.Image.Lookup(dir, c.Endpoint(pod.Key()).Identity, c.Address(peer).Identity, protocol, port)
					name, path, _ := c.Image.RuleName(got.Rule())
					if got.Allow() != want || (len(by) == 0) != (got.Rule() == 0) || len(by) > 0 && !slices.Contains(by, RuleName{name, path}) {
						t.Fatalf("pod %s direction %d peer %s (%s) protocol %d port %d: image says %v by %q %q, model says %v by %v\n%+v",
							pod.Key(), dir, peer, c.Image.IdentityName(c.Address(peer).Identity), protocol, port, got.Allow(), name, path, want, by, m.Policies)
					}
					verdicts[want]++
					audited, by := naive{m}.judge(dir, pod, peer, protocol, port)
					full := c.Image.LookupAudited(dir, c.Endpoint(pod.Key()).Identity, c.Address(peer).Identity, protocol, port)
					name, path, _ = c.Image.RuleName(full.Rule())
					named := RuleName{name, path}
					if full.Allow() != audited || got.Audited() != (want && !audited) || full.Default() != (len(by) == 0) ||
						len(by) > 0 && !slices.Contains(by, named) || full.Default() && full.Rule() != 0 && !isolates(m, pod, dir, named) {
						t.Fatalf("pod %s direction %d peer %s protocol %d port %d: audited %#x by %q, the cell beside it %#x, model says %v by %v\n%+v",
							pod.Key(), dir, peer, protocol, port, full, named, got, audited, by, m.Policies)
					}
					if got.Audited() {
						doubts[full.Default()]++
					}
				}
			}
		}
	})
	if os.Getenv("WEIR_SEED") == "" && (verdicts[true] < 1000 || verdicts[false] < 1000 || doubts[true] < 1000 || doubts[false] < 500) {
		t.Errorf("too few of a kind: %v, %v", verdicts, doubts)
	}
}
