// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func labels(key string, op Operator, values ...string) Selector {
	return Selector{{Key: key, Op: op, Values: values}}
}

func pods(key string, op Operator, values ...string) Peer {
	return Peer{Kind: PeerSelector, Selector: labels(key, op, values...)}
}

func entity(e Entity) Peer { return Peer{Kind: PeerEntity, Entity: e} }

func cidr(s string, except ...string) Peer {
	p := Peer{Kind: PeerCIDR, CIDR: mustPrefix(s)}
	for _, e := range except {
		p.Except = append(p.Except, mustPrefix(e))
	}
	return p
}

func everywhere(p Peer) Peer {
	p.MatchPods, p.MatchNodes = true, true
	return p
}

func tcp(first, last uint16) PortMatch { return PortMatch{Protocol: TCP, First: first, Last: last} }

// front is policed by one policy with the rules given, isolated for both directions.
func frontWith(rules ...Rule) *Model {
	m := smallModel()
	m.Nodes[1].APIServer = true
	m.Pods = append(m.Pods, smallPod("other", "10.42.2.11", 2))
	m.Pods[2].Ports = []NamedPort{{"Http", TCP, 9090}, {"http", UDP, 53}}
	p := Policy{Key: "p", Subject: labels("app", In, "front"), Isolates: [2]bool{true, true}}
	for i := range rules {
		rules[i].Path = fmt.Sprint("rule ", i)
	}
	p.Rules = rules
	m.Policies = []Policy{p}
	return m
}

// The rows of policy-semantics.md that are decided here rather than by a translator.
func TestSemantics(t *testing.T) {
	const (
		back, other, hostIP, remoteIP = "10.42.2.10", "10.42.2.11", "192.0.2.1", "192.0.2.2"
		unlisted, world, world6       = "10.42.2.99", "198.51.100.7", "2001:db8::7"
	)
	all := []string{back, other, hostIP, remoteIP, unlisted, world, world6}
	any := []PortMatch{AnyPort}
	in := func(peers ...Peer) Rule { return Rule{Peers: peers, Ports: any} }
	on := func(r Rule, ports ...PortMatch) Rule { r.Ports = ports; return r }
	out := func(r Rule) Rule { r.Direction = Egress; return r }
	deny := func(r Rule) Rule { r.Action = Deny; return r }
	type packet struct {
		protocol uint8
		port     uint16
	}
	web := packet{TCP, 80}
	for _, test := range []struct {
		name   string
		rules  []Rule
		dir    Direction
		packet packet
		allow  []string // of all
	}{
		{"isolated without rules admits the host only", nil, Ingress, web, []string{hostIP}},
		{"no standing permission at egress", nil, Egress, web, nil},
		{"peers missing matches nothing", []Rule{in()}, Ingress, web, []string{hostIP}},
		{"ports missing matches nothing", []Rule{on(in(Peer{Kind: PeerAny}))}, Ingress, web, []string{hostIP}},
		{"any peer, any port", []Rule{in(Peer{Kind: PeerAny})}, Ingress, packet{47, 0}, all},
		{"the empty selector is pods, not outside addresses", []Rule{in(Peer{Kind: PeerSelector})}, Ingress, web, []string{back, other, hostIP}},
		{"In", []Rule{in(pods("app", In, "back", "x"))}, Ingress, web, []string{back, hostIP}},
		{"NotIn matches without the key", []Rule{in(pods("absent", NotIn, "x"))}, Ingress, web, []string{back, other, hostIP}},
		{"NotIn", []Rule{in(pods("app", NotIn, "back"))}, Ingress, web, []string{other, hostIP}},
		{"Exists", []Rule{in(pods("absent", Exists))}, Ingress, web, []string{hostIP}},
		{"DoesNotExist", []Rule{in(pods("absent", DoesNotExist))}, Ingress, web, []string{back, other, hostIP}},
		{"peers are ORed", []Rule{in(pods("app", In, "back"), entity(EntityWorld))}, Ingress, web, []string{back, hostIP, world, world6}},
		{"requirements are ANDed", []Rule{in(Peer{Kind: PeerSelector, Selector: append(labels("app", Exists), labels("app", NotIn, "back")...)})}, Ingress, web, []string{other, hostIP}},
		{"any deny beats any allow", []Rule{in(Peer{Kind: PeerAny}), deny(in(cidr("198.0.0.0/8")))}, Ingress, web, []string{back, other, hostIP, remoteIP, unlisted, world6}},
		{"a wide deny beats a narrow allow", []Rule{in(cidr("198.51.100.7/32")), deny(on(in(cidr("198.0.0.0/8")), tcp(1, 100)))}, Ingress, web, []string{hostIP}},
		{"a deny of other ports does not", []Rule{in(cidr("198.51.100.7/32")), deny(on(in(cidr("198.0.0.0/8")), tcp(81, 100)))}, Ingress, web, []string{hostIP, world}},
		{"a deny beats the standing permission", []Rule{deny(in(entity(EntityHost)))}, Ingress, web, nil},
		{"egress to the host needs a rule", []Rule{out(in(entity(EntityHost)))}, Egress, web, []string{hostIP}},
		{"a rule of the other direction", []Rule{out(in(Peer{Kind: PeerAny}))}, Ingress, web, []string{hostIP}},
		{"CIDR is the outside only", []Rule{in(cidr("0.0.0.0/0"))}, Ingress, web, []string{hostIP, world}},
		{"CIDR with pods and nodes", []Rule{out(in(everywhere(cidr("0.0.0.0/0"))))}, Egress, web, []string{back, other, hostIP, remoteIP, unlisted, world}},
		{"CIDR of one pod", []Rule{out(in(everywhere(cidr("10.42.2.10/32"))))}, Egress, web, []string{back}},
		{"CIDR of one pod, pods not meant", []Rule{out(in(cidr("10.42.2.10/32")))}, Egress, web, nil},
		{"CIDR inside a podCIDR", []Rule{out(in(everywhere(cidr("10.42.2.96/28"))))}, Egress, web, []string{unlisted}},
		{"::/0 is not IPv4", []Rule{out(in(everywhere(cidr("::/0"))))}, Egress, web, []string{world6}},
		{"except cuts", []Rule{out(in(everywhere(cidr("0.0.0.0/0", "198.51.100.0/24", "10.42.2.10/32"))))}, Egress, web, []string{other, hostIP, remoteIP, unlisted}},
		{"except cuts its own entry only", []Rule{out(in(cidr("0.0.0.0/0", "198.51.100.0/24"), cidr("198.51.100.7/32")))}, Egress, web, []string{world}},
		{"entity all", []Rule{out(in(entity(EntityAll)))}, Egress, web, all},
		{"entity world", []Rule{out(in(entity(EntityWorld)))}, Egress, web, []string{world, world6}},
		{"entity world-ipv4", []Rule{out(in(entity(EntityWorldIPv4)))}, Egress, web, []string{world}},
		{"entity world-ipv6", []Rule{out(in(entity(EntityWorldIPv6)))}, Egress, web, []string{world6}},
		{"world includes what CIDRs name", []Rule{out(on(in(cidr("198.51.100.0/24")), tcp(1, 1))), out(in(entity(EntityWorld)))}, Egress, web, []string{world, world6}},
		{"entity cluster", []Rule{out(in(entity(EntityCluster)))}, Egress, web, []string{back, other, hostIP, remoteIP, unlisted}},
		{"entity remote-node includes the API server's", []Rule{out(in(entity(EntityRemoteNode)))}, Egress, web, []string{remoteIP}},
		{"entity kube-apiserver", []Rule{out(in(entity(EntityKubeAPIServer)))}, Egress, web, []string{remoteIP}},
		{"entity unmanaged", []Rule{out(in(entity(EntityUnmanaged)))}, Egress, web, []string{unlisted}},
		{"entity none", []Rule{out(in(entity(EntityNone)))}, Egress, web, nil},
		{"port", []Rule{on(in(pods("app", In, "back")), tcp(80, 80))}, Ingress, web, []string{back, hostIP}},
		{"another port", []Rule{on(in(pods("app", In, "back")), tcp(81, 81))}, Ingress, web, []string{hostIP}},
		{"first of a range", []Rule{on(in(pods("app", In, "back")), tcp(80, 90))}, Ingress, web, []string{back, hostIP}},
		{"last of a range", []Rule{on(in(pods("app", In, "back")), tcp(70, 80))}, Ingress, web, []string{back, hostIP}},
		{"another protocol", []Rule{on(in(pods("app", In, "back")), tcp(0, 65535))}, Ingress, packet{UDP, 80}, []string{hostIP}},
		{"ports are ORed", []Rule{on(in(pods("app", In, "back")), tcp(1, 1), PortMatch{Protocol: UDP, First: 80, Last: 80})}, Ingress, packet{UDP, 80}, []string{back, hostIP}},
		{"port 65535", []Rule{on(in(pods("app", In, "back")), tcp(65535, 65535))}, Ingress, packet{TCP, 65535}, []string{back, hostIP}},
		{"all of TCP is not ICMP", []Rule{on(in(pods("app", In, "back")), tcp(0, 65535))}, Ingress, packet{ICMP, 8}, []string{hostIP}},
		{"every protocol is ICMP too", []Rule{in(pods("app", In, "back"))}, Ingress, packet{ICMP, 8}, []string{back, hostIP}},
		{"ICMP by type", []Rule{on(in(pods("app", In, "back")), PortMatch{Protocol: ICMP, First: 8, Last: 8})}, Ingress, packet{ICMP, 8}, []string{back, hostIP}},
		{"ICMP of another type", []Rule{on(in(pods("app", In, "back")), PortMatch{Protocol: ICMP, First: 8, Last: 8})}, Ingress, packet{ICMP, 0}, []string{hostIP}},
		{"a named port is the subject's at ingress", []Rule{on(in(pods("app", Exists)), PortMatch{Protocol: TCP, Name: "HTTP"})}, Ingress, packet{TCP, 8080}, []string{back, other, hostIP}},
		{"a named port begins a range at ingress", []Rule{on(in(pods("app", In, "back")), PortMatch{Protocol: TCP, Name: "http", RangeTo: 8090})}, Ingress, packet{TCP, 8085}, []string{back, hostIP}},
		{"a named port is each peer's at egress", []Rule{on(out(in(Peer{Kind: PeerAny})), PortMatch{Protocol: TCP, Name: "http"})}, Egress, packet{TCP, 9090}, []string{other}},
		{"a named port of another protocol", []Rule{on(out(in(Peer{Kind: PeerAny})), PortMatch{Protocol: UDP, Name: "http"})}, Egress, packet{UDP, 53}, []string{other}},
		{"a range after a name is ignored at egress", []Rule{on(out(in(Peer{Kind: PeerAny})), PortMatch{Protocol: TCP, Name: "http", RangeTo: 9095})}, Egress, packet{TCP, 9091}, nil},
		{"a name that nobody has", []Rule{on(in(Peer{Kind: PeerAny}), PortMatch{Protocol: TCP, Name: "dns"})}, Ingress, packet{TCP, 8080}, []string{hostIP}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := build(t, frontWith(test.rules...))
			front := c.Endpoint("default/front").Identity
			var got []string
			for _, peer := range all {
				if c.Image.Lookup(test.dir, front, c.Address(mustAddr(peer)).Identity, test.packet.protocol, test.packet.port).Allow() {
					got = append(got, peer)
				}
			}
			if !reflect.DeepEqual(got, test.allow) {
				t.Errorf("allowed from %v, want %v", got, test.allow)
			}
		})
	}
}

func TestIsolation(t *testing.T) {
	m := frontWith(Rule{Peers: []Peer{pods("app", In, "back")}, Ports: []PortMatch{tcp(80, 80)}, Action: Deny})
	m.Policies[0].Isolates = [2]bool{}
	lookup := func(dir Direction, peer string, port uint16) Cell {
		c := build(t, m)
		return c.Image.Lookup(dir, c.Endpoint("default/front").Identity, c.Address(mustAddr(peer)).Identity, TCP, port)
	}
	if lookup(Ingress, "10.42.2.10", 80).Allow() || !lookup(Ingress, "10.42.2.10", 81).Allow() || !lookup(Ingress, "10.42.2.11", 80).Allow() {
		t.Error("rules of a policy that isolates nobody: everything not denied is allowed")
	}
	if e := build(t, m).Endpoint("default/front"); e.Policed != [2]bool{true, false} {
		t.Errorf("policed %v", e.Policed)
	}
	m.Policies = append(m.Policies, Policy{Key: "q", Subject: labels("app", Exists), Isolates: [2]bool{true, false}})
	if lookup(Ingress, "10.42.2.11", 80).Allow() {
		t.Error("one policy that isolates is enough")
	}
	if got := lookup(Ingress, "192.0.2.1", 80); got != cell(true, RuleHost) {
		t.Errorf("the host: %#x", got)
	}
	m.Options.HostByRule = true
	if lookup(Ingress, "192.0.2.1", 80).Allow() {
		t.Error("HostByRule leaves the standing permission")
	}
	m.Policies[1].Rules = []Rule{{Path: "r", Peers: []Peer{entity(EntityHost)}, Ports: []PortMatch{AnyPort}}}
	if got := lookup(Ingress, "192.0.2.1", 80); !got.Allow() || got.Rule() <= RuleHost {
		t.Errorf("a rule that admits the host: %#x", got)
	}
	m.Options.HostByRule = false
	if got := lookup(Ingress, "192.0.2.1", 80); got.Rule() <= RuleHost {
		t.Errorf("an explicit rule names itself before the standing permission: %#x", got)
	}
}

func TestAddressTable(t *testing.T) {
	m := smallModel()
	m.Nodes[1].Direct = false
	m.Nodes = append(m.Nodes, Node{Name: "node-3", Underlay: []netip.Addr{mustAddr("192.0.2.3")}, Overlay: []netip.Addr{mustAddr("10.42.3.0")},
		PodCIDRs: []netip.Prefix{mustPrefix("10.42.3.0/24")}, Direct: true, APIServer: true})
	m.Pods = append(m.Pods, smallPod("direct", "10.42.3.10", 3))
	m.Policies = []Policy{{Key: "p", Subject: labels("app", In, "front"), Isolates: [2]bool{true}, Rules: []Rule{{
		Path: "r", Ports: []PortMatch{AnyPort}, Peers: []Peer{everywhere(cidr("10.42.2.64/26")), cidr("10.42.2.32/27"), cidr("198.51.100.0/24")},
	}}}}
	c := build(t, m)
	slot := func(node string) uint16 {
		for _, n := range c.Nodes {
			if n.Name == node {
				return n.Slot
			}
		}
		return 0
	}
	for _, test := range []struct {
		addr, prefix string
		kind         AddressKind
		flags        AddressFlags
		slot         uint16
		identity     string
	}{
		{"192.0.2.1", "192.0.2.1/32", AddressHost, AddressUnderlay, slot("node-1"), "host"},
		{"10.42.1.1", "10.42.1.1/32", AddressHost, 0, slot("node-1"), "host"},
		{"192.0.2.2", "192.0.2.2/32", AddressNode, AddressUnderlay, slot("node-2"), "remote-node"},
		{"10.42.2.0", "10.42.2.0/32", AddressNode, AddressTunnelled, slot("node-2"), "remote-node"},
		{"10.42.3.0", "10.42.3.0/32", AddressNode, 0, slot("node-3"), "kube-apiserver+remote-node"},
		{"10.42.1.10", "10.42.1.10/32", AddressLocalPod, 0, c.Endpoint("default/front").Slot, "pod:app=front,io.kubernetes.pod.namespace=default"},
		{"10.42.2.10", "10.42.2.10/32", AddressRemotePod, AddressTunnelled, slot("node-2"), "pod:app=back,io.kubernetes.pod.namespace=default"},
		{"10.42.3.10", "10.42.3.10/32", AddressRemotePod, 0, slot("node-3"), "pod:app=direct,io.kubernetes.pod.namespace=default"},
		{"10.42.1.99", "10.42.1.0/24", AddressLocalCIDR, 0, slot("node-1"), "unmanaged"},
		{"10.42.2.9", "10.42.2.0/24", AddressRemoteCIDR, AddressTunnelled, slot("node-2"), "unmanaged"},
		{"10.42.2.40", "10.42.2.0/24", AddressRemoteCIDR, AddressTunnelled, slot("node-2"), "unmanaged"},
		{"10.42.2.70", "10.42.2.64/26", AddressRemoteCIDR, AddressTunnelled, slot("node-2"), "unmanaged in [10.42.2.64/26]"},
		{"10.42.3.9", "10.42.3.0/24", AddressRemoteCIDR, 0, slot("node-3"), "unmanaged"},
		{"198.51.100.9", "198.51.100.0/24", AddressNone, 0, 0, "cidr:198.51.100.0/24"},
		{"203.0.113.9", "0.0.0.0/0", AddressNone, 0, 0, "world"},
		{"2001:db8::1", "::/0", AddressNone, 0, 0, "world"},
	} {
		a := c.Address(mustAddr(test.addr))
		if a.Prefix != mustPrefix(test.prefix) || a.Kind != test.kind || a.Flags != test.flags || a.Slot != test.slot || c.Image.IdentityName(a.Identity) != test.identity {
			t.Errorf("%s: %+v %s, want %+v", test.addr, a, c.Image.IdentityName(a.Identity), test)
		}
	}
	for i := 1; i < len(c.Addresses); i++ {
		if comparePrefix(c.Addresses[i-1].Prefix, c.Addresses[i].Prefix) >= 0 {
			t.Errorf("%s before %s", c.Addresses[i-1].Prefix, c.Addresses[i].Prefix)
		}
	}
}

func TestReservedNumbers(t *testing.T) {
	m := smallModel()
	m.Nodes[1].APIServer = true
	m.Nodes = append(m.Nodes, Node{Name: "node-3", Underlay: []netip.Addr{mustAddr("192.0.2.3")}})
	check := func(want map[string]uint32) {
		t.Helper()
		c := build(t, m)
		for addr, number := range want {
			if got := c.Address(mustAddr(addr)).Identity; got != number {
				t.Errorf("%s has identity %d (%s), want %d", addr, got, c.Image.IdentityName(got), number)
			}
		}
	}
	check(map[string]uint32{"192.0.2.1": 1, "203.0.113.1": 2, "2001:db8::1": 2, "10.42.1.99": 3, "192.0.2.3": 6, "192.0.2.2": 7, "10.42.1.10": 257, "10.42.2.10": 256})
	m.Policies = []Policy{{Key: "p", Rules: []Rule{{Path: "r", Peers: []Peer{entity(EntityWorldIPv4), cidr("::/0")}, Ports: []PortMatch{AnyPort}}}}}
	check(map[string]uint32{"203.0.113.1": 9, "2001:db8::1": 10})
	m.Nodes[0].APIServer = true
	m.Policies[0].Rules[0].Peers = []Peer{entity(EntityKubeAPIServer)}
	m.Policies[0].Isolates[0] = true
	c := build(t, m)
	host := c.Address(mustAddr("192.0.2.1")).Identity
	if host < FirstIdentity || c.Image.IdentityName(host) != "host+kube-apiserver" {
		t.Errorf("a host that serves the API is %d %s", host, c.Image.IdentityName(host))
	}
	if got := c.Image.Lookup(Ingress, c.Endpoint("default/front").Identity, host, TCP, 1); got.Rule() <= RuleHost {
		t.Errorf("a rule for kube-apiserver does not name itself for the host: %#x", got)
	}
	m.Policies[0].Rules = nil
	c = build(t, m)
	if got := c.Image.Lookup(Ingress, c.Endpoint("default/front").Identity, c.Address(mustAddr("192.0.2.1")).Identity, TCP, 1); got != cell(true, RuleHost) {
		t.Errorf("a host that serves the API is the host: %#x", got)
	}
}

func TestPerPodLabelsCountOnlyWhenNamed(t *testing.T) {
	m := smallModel()
	twin := smallPod("front", "10.42.1.11", 1)
	twin.Name = "twin"
	m.Pods = append(m.Pods, twin)
	for i, hash := range map[int]string{0: "a", 2: "b"} {
		m.Pods[i].Labels["pod-template-hash"] = hash
		m.Pods[i].Labels["batch.kubernetes.io/job-completion-index"] = hash
	}
	same := func() bool {
		c := build(t, m)
		return c.Endpoint("default/front").Identity == c.Endpoint("default/twin").Identity
	}
	if !same() {
		t.Error("pod-template-hash tells identities apart though no policy names it")
	}
	m.Policies = []Policy{{Key: "p", Subject: labels("pod-template-hash", In, "a"), Isolates: [2]bool{true}}}
	if same() {
		t.Error("a policy names pod-template-hash, and it tells nobody apart")
	}
}

func TestServices(t *testing.T) {
	m := smallModel()
	ap := netip.MustParseAddrPort
	m.Services = []Service{
		{Namespace: "default", Name: "web", Addrs: []netip.Addr{mustAddr("10.43.0.1"), mustAddr("fd00::1")}, NodePorts: true, Ports: []ServicePort{
			{Protocol: TCP, Port: 80, NodePort: 30080, Backends: []netip.AddrPort{ap("10.42.2.10:8080"), ap("10.42.2.10:8080"), ap("10.42.1.10:8080"), ap("192.0.2.1:80"), ap("198.51.100.1:80")}},
			{Protocol: UDP, Port: 53},
		}},
	}
	c := build(t, m)
	front, back := c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity
	want := []Backend{{1, 80, true}, {2, 80, false}, {min(front, back), 8080, false}, {max(front, back), 8080, false}}
	var got []string
	for _, s := range c.Services {
		got = append(got, fmt.Sprintf("%s/%d/%d", s.Addr, s.Protocol, s.Port))
		switch {
		case s.Protocol == UDP || s.Addr.Is6():
			if len(s.Backends) != 0 {
				t.Errorf("%s %d: %+v", s.Addr, s.Port, s.Backends)
			}
		case !reflect.DeepEqual(s.Backends, want):
			t.Errorf("%s %d: %+v, want %+v", s.Addr, s.Port, s.Backends, want)
		}
	}
	if text := strings.Join(got, " "); text != "10.42.1.0/6/30080 10.42.1.1/6/30080 10.43.0.1/6/80 10.43.0.1/17/53 192.0.2.1/6/30080 192.0.2.2/6/30080 fd00::1/6/80 fd00::1/17/53" {
		t.Error(text)
	}
}

func TestModelsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(m *Model){
		`resolve addresses: this node, "gone", is not among the model's nodes`:                              func(m *Model) { m.Node = "gone" },
		`resolve addresses: node node-2 is listed twice`:                                                    func(m *Model) { m.Nodes[0].Name = "node-2" },
		`resolve addresses: pod default/back is listed twice`:                                               func(m *Model) { m.Pods[0].Name = "back" },
		`resolve addresses: 192.0.2.2/32 belongs to both node node-1 and node node-2`:                       func(m *Model) { m.Nodes[0].Underlay = m.Nodes[1].Underlay },
		`resolve addresses: 10.42.1.1/32 belongs to both node node-1 and pod default/back`:                  func(m *Model) { m.Pods[1].Addrs[0] = mustAddr("10.42.1.1") },
		`resolve addresses: 10.42.2.0/24 belongs to both podCIDR of node node-1 and podCIDR of node node-2`: func(m *Model) { m.Nodes[0].PodCIDRs = m.Nodes[1].PodCIDRs },
		`resolve addresses: pod default/back runs on node "node-9", which is not among the model's nodes`:   func(m *Model) { m.Pods[1].Node = "node-9" },
		`resolve addresses: pod default/back has two addresses of one family`:                               func(m *Model) { m.Pods[1].Addrs = append(m.Pods[1].Addrs, mustAddr("10.42.2.12")) },
		`resolve addresses: pod default/back has an invalid address`:                                        func(m *Model) { m.Pods[1].Addrs[0] = netip.Addr{} },
		`compile p: r: unknown entity "worlds"`:                                                             func(m *Model) { m.Policies = refusedPolicy(entity("worlds")) },
		`compile p: r: except 10.0.0.0/8 is not inside 192.0.2.0/24`:                                        func(m *Model) { m.Policies = refusedPolicy(cidr("192.0.2.0/24", "10.0.0.0/8")) },
		`compile p: r: invalid CIDR`:                                                                        func(m *Model) { m.Policies = refusedPolicy(Peer{Kind: PeerCIDR}) },
	} {
		m := smallModel()
		change(m)
		if _, err := Build(m); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func refusedPolicy(p Peer) []Policy {
	return []Policy{{Key: "p", Rules: []Rule{{Path: "r", Peers: []Peer{p}, Ports: []PortMatch{AnyPort}}}}}
}

func TestTooLargeImageNamesTheCostliestNamespaces(t *testing.T) {
	m := Synthetic(50, 200, 100, 1)
	for i := range m.Pods {
		if m.Pods[i].Node != "node-0" || m.Pods[i].Namespace != "ns-1" {
			continue
		}
		for port := range uint16(300) {
			m.Policies = append(m.Policies, Policy{Key: fmt.Sprintf("hog %d %d", i, port), Subject: labels("app", In, m.Pods[i].Labels["app"]), Isolates: [2]bool{true},
				Rules: []Rule{{Path: "r", Peers: []Peer{pods(namespaceLabel, In, "ns-1")}, Ports: []PortMatch{tcp(port*3, port*3+port)}}}})
			m.Policies[len(m.Policies)-1].Subject = append(m.Policies[len(m.Policies)-1].Subject, labels(namespaceLabel, In, "ns-1")...)
		}
	}
	p := NewPlanner()
	p.MaxImage = 200 << 10
	_, err := p.Plan(m)
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "cost most: ns-1 (") {
		t.Errorf("%v", err)
	}
	p.MaxImage = 0
	if _, err := p.Plan(m); err != nil {
		t.Error(err)
	}
}

// Past the last number, rules share it, and their verdicts stay right.
func TestRulesPastTheLastNumber(t *testing.T) {
	m := smallModel()
	p := Policy{Key: "p", Subject: labels("app", In, "front"), Isolates: [2]bool{true}}
	for i := range 20000 {
		p.Rules = append(p.Rules, Rule{Path: fmt.Sprintf("r%05d", i), Peers: []Peer{pods("app", In, "back")}, Ports: []PortMatch{tcp(uint16(i), uint16(i))}})
	}
	m.Policies = []Policy{p}
	c := build(t, m)
	front, back := c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity
	for i, want := range map[uint16]string{0: "r00000", 16380: "r16380", 16381: "rules past the first 16381", 19999: "rules past the first 16381"} {
		got := c.Image.Lookup(Ingress, front, back, TCP, i)
		if _, path, _ := c.Image.RuleName(got.Rule()); !got.Allow() || path != want {
			t.Errorf("port %d: %#x %q, want %q", i, got, path, want)
		}
	}
	if c.Image.Lookup(Ingress, front, back, TCP, 20000).Allow() {
		t.Error("port 20000 is allowed")
	}
}

func TestSyntheticIsWhatItSays(t *testing.T) {
	m := Synthetic(1000, 10000, 250, 1)
	c := build(t, m)
	if len(m.Policies) != 1000 || len(m.Pods) != 10000 || len(c.Endpoints) != 250 || c.Image.Identities() < 10000 {
		t.Errorf("%d policies, %d pods, %d local, %d identities", len(m.Policies), len(m.Pods), len(c.Endpoints), c.Image.Identities())
	}
	if !reflect.DeepEqual(m, Synthetic(1000, 10000, 250, 1)) {
		t.Error("not the same twice")
	}
	policed := 0
	for _, e := range c.Endpoints {
		if e.Policed[Ingress] {
			policed++
		}
	}
	if policed < 100 {
		t.Errorf("only %d local pods have a policy", policed)
	}
	for _, args := range [][3]int{{0, 1, 1}, {1, 5, 10}, {10, 1000, 600}, {5, 300, 0}} {
		m := Synthetic(args[0], args[1], args[2], 7)
		if c := build(t, m); len(c.Endpoints) != min(args[1], args[2]) {
			t.Errorf("%v: %d local pods", args, len(c.Endpoints))
		}
	}
}
