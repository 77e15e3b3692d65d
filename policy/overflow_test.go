// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// hogs adds to a synthetic cluster a namespace's policies that take many times what all others do.
func hogs(m *Model, namespace string) *Model {
	c := *m
	c.Policies = slices.Clone(m.Policies)
	for i := range m.Pods {
		if m.Pods[i].Node != m.Node || m.Pods[i].Namespace != namespace {
			continue
		}
		for port := range uint16(300) {
			in := Requirement{Key: namespaceLabel, Op: In, Values: []string{namespace}}
			c.Policies = append(c.Policies, Policy{
				Key: fmt.Sprintf("NetworkPolicy %s/hog-%d-%d", namespace, i, port), Namespace: namespace,
				Subject: Selector{in, {Key: "app", Op: In, Values: []string{m.Pods[i].Labels["app"]}}}, Isolates: [2]bool{true},
				Rules: []Rule{{Path: "r", Peers: []Peer{{Kind: PeerSelector, Selector: Selector{in}}}, Ports: []PortMatch{tcp(port*3, port*3+port)}}},
			})
		}
	}
	return &c
}

// sameVerdicts compares what two compiled models say to the pods that chosen picks, and returns the first difference.
func sameVerdicts(a, b *Compiled, chosen func(pod string) bool) string {
	for i := range a.Endpoints {
		e := &a.Endpoints[i]
		other := b.Endpoint(e.Pod)
		if !chosen(e.Pod) {
			continue
		}
		for _, dir := range []Direction{Ingress, Egress} {
			for _, at := range a.Addresses {
				for _, port := range []uint16{0, 80, 443, 8080, 8081, 9090, 10500, 30100} {
					x := a.Image.verdict(a.Image.Lookup(dir, e.Identity, at.Identity, TCP, port))
					y := b.Image.verdict(b.Image.Lookup(dir, other.Identity, b.covering(at.Prefix).Identity, TCP, port))
					if x != y {
						return fmt.Sprintf("%s %s %s port %d: %s, and %s", e.Pod, dir, at.Prefix, port, x, y)
					}
				}
			}
		}
	}
	return ""
}

// isolated says how a pod of a closed namespace is not isolated at ingress, if it is not.
func isolated(c *Compiled, e *Endpoint) string {
	for _, at := range c.Addresses {
		for _, port := range []uint16{0, 2, 80, 8080} {
			v := c.Image.verdict(c.Image.Lookup(Ingress, e.Identity, at.Identity, TCP, port))
			if want := at.Kind == AddressHost; v.Allow != want {
				return fmt.Sprintf("%s from %s port %d: %s", e.Pod, at.Prefix, port, v)
			}
		}
	}
	return ""
}

func TestWhatIsTooLargeIsChargedToItsNamespace(t *testing.T) {
	good := Synthetic(300, 200, 100, 1)
	bad := hogs(good, "ns-1")
	p := NewPlanner()
	p.MaxImage = build(t, good).Image.Size() + 60<<10
	want := step(t, p, good)
	if len(want.Overflow) != 0 {
		t.Fatalf("without the namespace: %v", want.Overflow)
	}
	got := step(t, p, bad)
	if len(got.Overflow) != 1 || got.Overflow[0].Namespace != "ns-1" || got.Overflow[0].Limit != p.MaxImage || got.Overflow[0].Cost == 0 || got.Overflow[0].Size <= p.MaxImage {
		t.Fatalf("overflow: %+v", got.Overflow)
	}
	for _, key := range got.Overflow[0].Policies {
		if !strings.HasPrefix(key, "NetworkPolicy ns-1/") {
			t.Errorf("%s is charged", key)
		}
	}
	if n := len(got.Overflow[0].Policies); n < 300 {
		t.Errorf("%d policies are charged", n)
	}
	if size := got.Final.Image.Size(); size > p.MaxImage {
		t.Errorf("the image has %d bytes", size)
	}
	if diff := sameVerdicts(want.Final, got.Final, func(pod string) bool { return !strings.HasPrefix(pod, "ns-1/") }); diff != "" {
		t.Errorf("another namespace's verdict turned: %s", diff)
	}
	closed := 0
	for i := range got.Final.Endpoints {
		e := &got.Final.Endpoints[i]
		if strings.HasPrefix(e.Pod, "ns-1/") {
			closed++
			if why := isolated(got.Final, e); why != "" {
				t.Errorf("not isolated: %s", why)
			}
		}
	}
	if closed == 0 {
		t.Error("no pod of ns-1 is here")
	}

	t.Run("equal models give equal images", func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 7))
		other := *bad
		other.Policies = slices.Clone(bad.Policies)
		r.Shuffle(len(other.Policies), func(i, j int) { other.Policies[i], other.Policies[j] = other.Policies[j], other.Policies[i] })
		one, two := NewPlanner(), NewPlanner()
		one.MaxImage, two.MaxImage = p.MaxImage, p.MaxImage
		if a, b := step(t, one, bad), step(t, two, &other); !bytes.Equal(a.Final.Image.Bytes(), b.Final.Image.Bytes()) || !reflect.DeepEqual(a.Overflow, b.Overflow) {
			t.Error("the order of policies matters")
		}
	})
	t.Run("nothing changes", func(t *testing.T) {
		if again := step(t, p, bad); again.Swap || again.Interim != nil || !reflect.DeepEqual(again.Overflow, got.Overflow) {
			t.Errorf("swap %v, interim %v, overflow %+v", again.Swap, again.Interim != nil, again.Overflow)
		}
	})
	t.Run("a restart", func(t *testing.T) {
		img, err := Decode(got.Final.Image.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		q := NewPlanner()
		q.MaxImage = p.MaxImage
		q.Restore(img)
		if again := step(t, q, bad); again.Swap || again.Interim != nil || len(again.Overflow) != 1 || !slices.Equal(again.Overflow[0].Policies, got.Overflow[0].Policies) {
			t.Errorf("swap %v, interim %v, overflow %+v", again.Swap, again.Interim != nil, again.Overflow)
		}
	})
	t.Run("another namespace's edit", func(t *testing.T) {
		next := *bad
		next.Policies = slices.Clone(bad.Policies)
		next.Policies[0].Rules = nil
		if again := step(t, p, &next); !again.Swap || len(again.Overflow) != 1 || again.Overflow[0].Namespace != "ns-1" {
			t.Errorf("swap %v, overflow %+v", again.Swap, again.Overflow)
		}
	})
	t.Run("a smaller set", func(t *testing.T) {
		again := step(t, p, good)
		if len(again.Overflow) != 0 {
			t.Fatalf("overflow %+v", again.Overflow)
		}
		if diff := sameVerdicts(want.Final, again.Final, func(string) bool { return true }); diff != "" {
			t.Error(diff)
		}
	})
}

// The transition to and from a closed namespace keeps every verdict the old one or the new one, as any other does.
func TestTransitionsThatCloseANamespace(t *testing.T) {
	good := Synthetic(100, 200, 100, 1)
	bad := hogs(good, "ns-1")
	bad.Pods = slices.Clone(bad.Pods)
	newcomer := bad.Pods[0]
	newcomer.Name, newcomer.UID, newcomer.Addrs = "newcomer", "newcomer", []netip.Addr{mustAddr("10.32.9.9")}
	newcomer.Labels = map[string]string{namespaceLabel: "ns-0", "app": "newcomer"}
	bad.Pods = append(bad.Pods, newcomer)
	p := NewPlanner()
	p.MaxImage = build(t, good).Image.Size() + 60<<10
	from := step(t, p, good)
	to := step(t, p, bad)
	if to.Interim == nil || len(to.Overflow) != 1 {
		t.Fatalf("interim %v, overflow %v", to.Interim != nil, to.Overflow)
	}
	interim := &Compiled{Image: to.Interim, Addresses: from.Final.Addresses, Endpoints: from.Final.Endpoints}
	if diff := sameVerdicts(interim, from.Final, func(pod string) bool { return !strings.HasPrefix(pod, "ns-1/") }); diff != "" {
		t.Errorf("the interim image: %s", diff)
	}
	for i := range from.Final.Endpoints {
		e := &from.Final.Endpoints[i]
		for _, at := range from.Final.Addresses {
			old, now := from.Final.Image.Lookup(Ingress, e.Identity, at.Identity, TCP, 8080), to.Final.Image.Lookup(Ingress, e.Identity, at.Identity, TCP, 8080)
			if between := to.Interim.Lookup(Ingress, e.Identity, at.Identity, TCP, 8080); between.Allow() != old.Allow() && between.Allow() != now.Allow() {
				t.Fatalf("%s from %s: %v in between, %v before, %v after", e.Pod, at.Prefix, between.Allow(), old.Allow(), now.Allow())
			}
		}
	}
}

func TestClusterWidePoliciesAreChargedTogether(t *testing.T) {
	m := Synthetic(200, 200, 100, 1)
	c := *m
	c.Policies = slices.Clone(m.Policies)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		c.Policies = append(c.Policies, Policy{
			Key: fmt.Sprintf("CiliumClusterwideNetworkPolicy p%d", i), Subject: labels("tier", In, "web"), Isolates: [2]bool{true},
			Rules: []Rule{{Path: "spec.ingress[0]", Ports: []PortMatch{tcp(uint16(100+20*i), uint16(2000+40*i))},
				Peers: []Peer{pods("app", In, fmt.Sprint("app-", r.IntN(40)), fmt.Sprint("app-", r.IntN(40)), fmt.Sprint("app-", r.IntN(40)))}}},
		})
	}
	before := build(t, m)
	p := NewPlanner()
	p.MaxImage = before.Image.Size() + 60<<10
	if plan := step(t, p, m); len(plan.Overflow) != 0 {
		t.Fatalf("%+v", plan.Overflow)
	}
	plan := step(t, p, &c)
	if len(plan.Overflow) != 1 || plan.Overflow[0].Namespace != "" || len(plan.Overflow[0].Policies) != 60 {
		t.Fatalf("%+v", plan.Overflow)
	}
	tier := map[string]string{}
	for _, pod := range m.Pods {
		tier[pod.Key()] = pod.Labels["tier"]
	}
	if diff := sameVerdicts(before, plan.Final, func(pod string) bool { return tier[pod] != "web" }); diff != "" {
		t.Error(diff)
	}
	for i := range plan.Final.Endpoints {
		if e := &plan.Final.Endpoints[i]; tier[e.Pod] == "web" {
			if why := isolated(plan.Final, e); why != "" {
				t.Errorf("not isolated: %s", why)
			}
		}
	}
}

// What a policy closes stays closed whatever another admits, and the host too where a rule that went denied it.
func TestClosedPoliciesAdmitNothing(t *testing.T) {
	m := smallModel()
	m.Pods = append(m.Pods, smallPod("other", "10.42.2.11", 2))
	allow := Policy{Key: "CiliumClusterwideNetworkPolicy all", Subject: Selector{}, Isolates: [2]bool{true, true}, Rules: []Rule{
		{Path: "spec.ingress[0]", Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{AnyPort}},
		{Path: "spec.egress[0]", Direction: Egress, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{AnyPort}},
	}}
	for name, test := range map[string]struct {
		rule          Rule
		ingress, host bool // a peer may still come in; the host may
		egress        bool
	}{
		"allow at ingress":  {Rule{Path: "r", Peers: []Peer{pods("app", In, "back")}, Ports: []PortMatch{AnyPort}}, false, true, true},
		"deny of pods":      {Rule{Path: "r", Action: Deny, Peers: []Peer{pods("app", In, "back")}, Ports: []PortMatch{AnyPort}}, false, true, true},
		"deny of all":       {Rule{Path: "r", Action: Deny, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{tcp(1, 9)}}, false, false, true},
		"deny of a CIDR":    {Rule{Path: "r", Action: Deny, Peers: []Peer{everywhere(cidr("192.0.2.0/24"))}, Ports: []PortMatch{AnyPort}}, false, false, true},
		"egress":            {Rule{Path: "r", Direction: Egress, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{AnyPort}}, true, true, false},
		"deny of the world": {Rule{Path: "r", Action: Deny, Peers: []Peer{entity(EntityWorld)}, Ports: []PortMatch{AnyPort}}, false, true, true},
	} {
		p := Policy{Key: "CiliumNetworkPolicy default/p", Namespace: "default", Subject: labels("app", In, "front"), Rules: []Rule{test.rule}}
		closed := clonePods(m)
		closed.Policies = closing([]Policy{p, allow}, map[string]bool{"default": true})
		c := build(t, closed)
		front := c.Endpoint("default/front").Identity
		for addr, want := range map[string][2]bool{
			"10.42.2.10": {test.ingress, test.egress}, "10.42.2.11": {test.ingress, test.egress}, "198.51.100.1": {test.ingress, test.egress},
			"192.0.2.1": {test.host, test.egress}, "192.0.2.2": {test.ingress, test.egress},
		} {
			for _, dir := range []Direction{Ingress, Egress} {
				if got := c.Image.Lookup(dir, front, c.Address(mustAddr(addr)).Identity, TCP, 80); got.Allow() != want[dir] {
					t.Errorf("%s: %s %s: %v", name, dir, addr, got.Allow())
				}
			}
		}
	}
}

func TestTooManyClassesAreCharged(t *testing.T) {
	m := guarded()
	m.Policies[0].Namespace = "default"
	m.Pods = append(m.Pods, smallPod("bad", "10.42.1.11", 1))
	m.Pods[2].Namespace, m.Pods[2].Labels = "bad", map[string]string{namespaceLabel: "bad"}
	bad := Policy{Key: "NetworkPolicy bad/p", Namespace: "bad", Subject: labels(namespaceLabel, In, "bad"), Isolates: [2]bool{true}}
	every := func(protocol uint8) (ports []PortMatch) {
		for i := range 40000 {
			ports = append(ports, PortMatch{Protocol: protocol, First: uint16(i), Last: uint16(i)})
		}
		return ports
	}
	var blocks []Peer
	for i := range 66000 {
		blocks = append(blocks, Peer{Kind: PeerCIDR, CIDR: netip.PrefixFrom(addrIn(11, i>>8, i&0xff, 0), 24)})
	}
	for what, rule := range map[string]Rule{
		"classes of ports": {Path: "r", Peers: []Peer{{Kind: PeerAny}}, Ports: slices.Concat(every(TCP), every(UDP))},
		"classes of peers": {Path: "r", Peers: blocks, Ports: []PortMatch{AnyPort}},
	} {
		bad.Rules = []Rule{rule}
		next := clonePods(m)
		next.Policies = append(slices.Clone(m.Policies), bad)
		p := NewPlanner()
		plan := step(t, p, next)
		if len(plan.Overflow) != 1 || plan.Overflow[0].Namespace != "bad" || plan.Overflow[0].What != what || plan.Overflow[0].Size <= maxClasses {
			t.Errorf("%s: %+v", what, plan.Overflow)
		}
		if why := isolated(plan.Final, plan.Final.Endpoint("bad/bad")); why != "" {
			t.Errorf("%s: not isolated: %s", what, why)
		}
		if diff := sameVerdicts(build(t, m), plan.Final, func(pod string) bool { return pod == "default/front" }); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
}

func TestWhatDoesNotFitEvenClosedIsRefused(t *testing.T) {
	p := NewPlanner()
	p.MaxImage = 1000
	_, err := p.Plan(guarded())
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// A policy under audit that is too large goes on enforcing nothing.
func TestClosedPolicyUnderAuditEnforcesNothing(t *testing.T) {
	m := guarded()
	m.Policies[0].Namespace, m.Policies[0].Audit = "default", true
	m.Policies = closing(m.Policies, map[string]bool{"default": true})
	c := build(t, m)
	front := c.Endpoint("default/front").Identity
	for _, at := range c.Addresses {
		if got := c.Image.Lookup(Ingress, front, at.Identity, TCP, 80); !got.Allow() {
			t.Errorf("from %s: %v", at.Prefix, c.Image.verdict(got))
		}
	}
}
