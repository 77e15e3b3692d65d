// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"reflect"
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
