// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// matching lists the rules that match by the naive reading, and how many rules the policies that select the pod have.
func (n naive) matching(t Traffic, subject *Pod) (matching []RuleName, rules int) {
	who := n.party(t.Addr)
	for _, p := range n.m.Policies {
		if !p.Subject.Matches(subject.Labels) {
			continue
		}
		for _, r := range p.Rules {
			if r.Direction != t.Direction {
				continue
			}
			rules++
			if slices.ContainsFunc(r.Peers, func(x Peer) bool { return n.peer(&x, who) }) &&
				slices.ContainsFunc(r.Ports, func(x PortMatch) bool { return n.port(t.Direction, &x, subject, who, t.Protocol, t.Port) }) {
				matching = append(matching, RuleName{p.Key, r.Path})
			}
		}
	}
	return matching, rules
}

// Explain finds exactly the rules that match, names the one that decided, and says of each other one why it does not match.
func TestExplainAgreesWithModel(t *testing.T) {
	decided, missed := 0, 0
	eachSeed(t, 60, func(t *testing.T, r *rand.Rand) {
		m := randomModel(r)
		c := build(t, m)
		for j := range m.Pods {
			pod := &m.Pods[j]
			if pod.Node != m.Node {
				continue
			}
			for _, peer := range probeAddrs(m) {
				ask := Traffic{Direction: Direction(r.IntN(2)), Subject: c.Endpoint(pod.Key()).Identity, Peer: c.Address(peer).Identity, Addr: peer,
					Protocol: pick(r, probeProtocols), Port: uint16(r.IntN(110))}
				e := c.Image.Explain(ask)
				want, by := naive{enforced(m)}.judge(ask.Direction, pod, peer, ask.Protocol, ask.Port)
				matching, rules := naive{enforced(m)}.matching(ask, pod)
				if e.Verdict.Allow != want || len(by) > 0 && !slices.Contains(by, e.Verdict.Rule) {
					t.Fatalf("%+v: explained %s, model says %v by %v", ask, e.Verdict, want, by)
				}
				var got []RuleName
				only := true // those that passed come before
				for i := range e.Matches {
					got = append(got, e.Matches[i].Name())
					if d := e.Matches[i].Decides; d != (e.Matches[i].Name() == e.Verdict.Rule) || d && !only {
						t.Fatalf("%+v: rule %d of %v decides: %v; the verdict is %s", ask, i, got, d, e.Verdict)
					}
					only = only && e.Matches[i].Passes
				}
				selecting := 0
				for i := range e.Misses {
					miss := &e.Misses[i]
					if i > 0 && miss.distance() < e.Misses[i-1].distance() {
						t.Fatalf("%+v: misses are not sorted", ask)
					}
					if len(miss.Subject) == 0 {
						selecting++
					}
					for _, why := range slices.Concat(miss.Subject, miss.Peer, miss.Port) {
						if missed++; why.String() == "" || why.Want == "" {
							t.Fatalf("%+v: %s misses without a reason: %+v", ask, miss.Name(), why)
						}
					}
				}
				compare := func(a, b RuleName) int { return strings.Compare(a.Policy+a.Path, b.Policy+b.Path) }
				slices.SortFunc(got, compare)
				slices.SortFunc(matching, compare)
				if !slices.Equal(got, matching) || len(got)+selecting != rules {
					t.Fatalf("%+v: %v match and %d do not; model says %v of %d\n%+v", ask, got, selecting, matching, rules, m.Policies)
				}
				if decided += len(by); e.Verdict.Allow != want {
					t.Fatal("the verdict differs")
				}
			}
		}
	})
	if decided == 0 || missed == 0 {
		t.Errorf("%d rules decided, %d fields missed: the generator has lost its variety", decided, missed)
	}
}

// explained asks about front and one peer, and gives back the misses as text, nearest first.
func explained(t *testing.T, m *Model, dir Direction, peer string, protocol uint8, port uint16) []string {
	t.Helper()
	c := build(t, m)
	e := c.Image.Explain(Traffic{dir, c.Endpoint("default/front").Identity, c.Address(mustAddr(peer)).Identity, mustAddr(peer), protocol, port})
	var texts []string
	for i := range e.Misses {
		miss := &e.Misses[i]
		text := miss.Rule.Path
		for _, why := range slices.Concat(miss.Subject, miss.Peer, miss.Port) {
			text += "; " + why.String()
		}
		texts = append(texts, text)
	}
	return texts
}

// Of rules that do not match, the nearest comes first, and the field that differs is named with what is there.
func TestExplainNamesTheFieldThatDiffers(t *testing.T) {
	const back, world, remote = "10.42.2.10", "198.51.100.7", "192.0.2.2"
	any := []PortMatch{AnyPort}
	for _, c := range []struct {
		name, peer string
		protocol   uint8
		port       uint16
		rule       Rule
		want       string
	}{
		{"port", back, TCP, 81, Rule{Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{tcp(80, 80), {Protocol: UDP, Last: 65535}}},
			"port differs: TCP 81 is not TCP 80"},
		{"protocol", back, UDP, 80, Rule{Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{tcp(80, 90)}}, "protocol differs: UDP 80 is not TCP 80-90"},
		{"named port elsewhere", back, TCP, 81, Rule{Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{{Protocol: TCP, Name: "http"}}},
			"port differs: TCP 81 is not TCP named http (here TCP 8080)"},
		{"named port of nobody", back, TCP, 81, Rule{Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{{Protocol: TCP, Name: "sql"}}},
			"port differs: TCP 81 is not TCP named sql, which is no port of the pod's"},
		{"label", back, TCP, 80, Rule{Peers: []Peer{pods("app", In, "front", "x")}, Ports: any}, `app is "back", must be: app in (front, x)`},
		{"absent label", back, TCP, 80, Rule{Peers: []Peer{pods("tier", Exists)}, Ports: any}, `tier is missing, must be: tier exists`},
		{"namespace", back, TCP, 80, Rule{Peers: []Peer{pods(namespaceLabel, In, "prod")}, Ports: any}, `namespace is "default", must be: namespace=prod`},
		{"the nearest alternative", back, TCP, 80, Rule{Peers: []Peer{{Kind: PeerSelector, Selector: append(labels("app", In, "a"), labels("x", Exists)...)},
			pods("app", NotIn, "back")}, Ports: any}, `app is "back", must be: app not in (back)`},
		{"a pod is wanted", world, TCP, 80, Rule{Peers: []Peer{pods("app", In, "back")}, Ports: any}, "198.51.100.7 (world), must be: a pod with app=back"},
		{"entity", remote, TCP, 80, Rule{Peers: []Peer{entity(EntityHost)}, Ports: any}, "192.0.2.2 (kube-apiserver+remote-node), must be: entity host"},
		{"CIDR", world, TCP, 80, Rule{Peers: []Peer{cidr("203.0.113.0/24")}, Ports: any}, "198.51.100.7 (world) is not in 203.0.113.0/24"},
		{"exception", world, TCP, 80, Rule{Peers: []Peer{cidr("198.51.0.0/16", "198.51.100.0/24")}, Ports: any}, "except 198.51.100.0/24 cuts out 198.51.100.7 (world)"},
		{"a CIDR that means no pods", back, TCP, 80, Rule{Peers: []Peer{cidr("10.0.0.0/8")}, Ports: any},
			"10.42.2.10 (a pod), must be: 10.0.0.0/8 outside of the cluster"},
		{"nobody", back, TCP, 80, Rule{Ports: any}, "the rule matches nobody"},
		{"no port", back, TCP, 80, Rule{Peers: []Peer{{Kind: PeerAny}}}, "the rule matches no port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := frontWith(c.rule)
			m.Pods[0].Ports = []NamedPort{{"http", TCP, 8080}}
			if got := explained(t, m, Ingress, c.peer, c.protocol, c.port); len(got) != 1 || got[0] != "rule 0; "+c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	both := Rule{Peers: []Peer{pods("app", In, "a")}, Ports: []PortMatch{tcp(1, 1)}}
	peer := Rule{Peers: []Peer{pods("app", In, "a")}, Ports: any}
	port := Rule{Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{tcp(1, 1)}}
	got := explained(t, frontWith(both, peer, port), Ingress, back, TCP, 80)
	var order []string
	for _, text := range got {
		order = append(order, text[:len("rule 0")])
	}
	if !slices.Equal(order, []string{"rule 2", "rule 1", "rule 0"}) {
		t.Errorf("order %v, want the port's, the peer's, both", order)
	}
}

// A policy that guards the other end of a connection is told from one that has nothing to do with it.
func TestExplainFindsExchangedSides(t *testing.T) {
	m := smallModel()
	m.Policies = []Policy{{Key: "p", Subject: labels("app", In, "back"), Isolates: [2]bool{true, false},
		Rules: []Rule{{Path: "r", Peers: []Peer{pods("app", In, "front")}, Ports: []PortMatch{tcp(80, 80)}}}}}
	c := build(t, m)
	e := c.Image.Explain(Traffic{Ingress, c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity, mustAddr("10.42.2.10"), TCP, 80})
	if !e.Verdict.Allow || len(e.Selected) != 0 || len(e.Misses) != 1 || !e.Misses[0].Swapped {
		t.Errorf("%+v", e)
	}
	e = c.Image.Explain(Traffic{Ingress, c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity, mustAddr("10.42.2.10"), TCP, 81})
	if len(e.Misses) != 0 {
		t.Errorf("on another port: %+v", e.Misses)
	}
}

// Of ordered tiers the first rule that matches counts: one that passes is told before the one that decides.
func TestExplainFollowsTiers(t *testing.T) {
	rule := func(path string, action Action) Rule {
		return Rule{Path: path, Action: action, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{AnyPort}}
	}
	m := smallModel()
	m.Policies = []Policy{
		{Key: "a", Tier: TierAdmin, Priority: 9, Subject: Selector{}, Rules: []Rule{rule("late", Deny)}},
		{Key: "b", Tier: TierAdmin, Priority: 1, Subject: Selector{}, Rules: []Rule{rule("pass", Pass), rule("deny", Deny)}},
		{Key: "c", Tier: TierBaseline, Subject: Selector{}, Rules: []Rule{rule("base", Deny)}},
	}
	c := build(t, m)
	e := c.Image.Explain(Traffic{Ingress, c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity, mustAddr("10.42.2.10"), TCP, 80})
	var got []string
	for i := range e.Matches {
		text := e.Matches[i].Rule.Path
		if e.Matches[i].Decides {
			text += " decides"
		}
		if e.Matches[i].Passes {
			text += " passes"
		}
		got = append(got, text)
	}
	if e.Verdict.Allow || !slices.Equal(got, []string{"pass passes", "base decides", "deny", "late"}) {
		t.Errorf("%v, %s", got, e.Verdict)
	}
}
