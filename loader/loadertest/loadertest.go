// SPDX-License-Identifier: Apache-2.0

// Package loadertest is a small cluster for packet tests: its model, a simulator of one node's datapath, and the three
// assertions that each packet gets.
//
//	       192.0.2.1            192.0.2.2             192.0.2.3           192.0.2.66
//	        node-1 ──── VXLAN ───── node-2               node-3             outsider
//	   198.51.100.0/26         198.51.100.64/26    198.51.100.128/26
//	server open locked        client banned db          direct
//	 .10   .11   .12          .70    .71    .72          .140
//
// The datapath is node-1's. server admits app=client on TCP 8080 and 203.0.113.0/28 on UDP 53, and denies app=banned. locked
// is isolated both ways and may reach app=db on TCP 5432. Our routes reach node-3's pods without the tunnel.
package loadertest

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

// Addresses of the cluster.
var (
	Node1    = netip.MustParseAddr("192.0.2.1")
	Node2    = netip.MustParseAddr("192.0.2.2")
	Node3    = netip.MustParseAddr("192.0.2.3")
	Outsider = netip.MustParseAddr("192.0.2.66")

	VTEP1   = netip.MustParseAddr("198.51.100.0")
	Bridge1 = netip.MustParseAddr("198.51.100.1")
	Server  = netip.MustParseAddr("198.51.100.10")
	Open    = netip.MustParseAddr("198.51.100.11")
	Locked  = netip.MustParseAddr("198.51.100.12")
	Nobody1 = netip.MustParseAddr("198.51.100.20") // node-1's podCIDR, no pod

	VTEP2   = netip.MustParseAddr("198.51.100.64")
	Client  = netip.MustParseAddr("198.51.100.70")
	Banned  = netip.MustParseAddr("198.51.100.71")
	DB      = netip.MustParseAddr("198.51.100.72")
	Nobody2 = netip.MustParseAddr("198.51.100.90")

	Direct = netip.MustParseAddr("198.51.100.140")

	Resolver = netip.MustParseAddr("203.0.113.5") // outside, inside server's UDP rule
	World    = netip.MustParseAddr("203.0.113.99")

	ServiceDB     = netip.MustParseAddr("203.0.113.200") // :80 → db:5432
	ServiceMixed  = netip.MustParseAddr("203.0.113.201") // :80 → db:5432 and client:5432
	ServiceClient = netip.MustParseAddr("203.0.113.202") // :80 → client:5432
)

// VTEP MACs, from the documentation range of RFC 7042.
var (
	MAC1 = [6]byte{0x00, 0x00, 0x5e, 0x00, 0x53, 0xa1}
	MAC2 = [6]byte{0x00, 0x00, 0x5e, 0x00, 0x53, 0xa2}
	MAC3 = [6]byte{0x00, 0x00, 0x5e, 0x00, 0x53, 0xa3}
)

// Rules that decide packets of the cluster, as RuleName gives them.
const (
	AllowClient = "CiliumNetworkPolicy test/server spec.ingress[0]"
	DenyBanned  = "CiliumNetworkPolicy test/server spec.ingressDeny[0]"
	AllowDB     = "CiliumNetworkPolicy test/locked spec.egress[0]"
)

func app(name string) policy.Selector {
	return policy.Selector{{Key: "app", Op: policy.In, Values: []string{name}}}
}

func port(protocol uint8, number uint16) []policy.PortMatch {
	return []policy.PortMatch{{Protocol: protocol, First: number, Last: number}}
}

// Model is the cluster as node-1 sees it.
func Model() *policy.Model {
	pod := func(name, node string, addr netip.Addr) policy.Pod {
		return policy.Pod{Namespace: "test", Name: name, UID: name, Node: node, Addrs: []netip.Addr{addr},
			Labels: map[string]string{"app": name, "io.kubernetes.pod.namespace": "test"}}
	}
	direct := pod("direct", "node-3", Direct)
	direct.Labels["app"] = "client"
	node := func(name string, addr netip.Addr, cidr string, mac [6]byte) policy.Node {
		prefix := netip.MustParsePrefix(cidr)
		return policy.Node{Name: name, Underlay: []netip.Addr{addr}, PodCIDRs: []netip.Prefix{prefix}, VTEPMAC: mac,
			Overlay: []netip.Addr{prefix.Addr(), prefix.Addr().Next()}}
	}
	node3 := node("node-3", Node3, "198.51.100.128/26", MAC3)
	node3.Direct = true
	service := func(name string, addr netip.Addr, backends ...netip.Addr) policy.Service {
		s := policy.Service{Namespace: "test", Name: name, Addrs: []netip.Addr{addr},
			Ports: []policy.ServicePort{{Protocol: policy.TCP, Port: 80}}}
		for _, b := range backends {
			s.Ports[0].Backends = append(s.Ports[0].Backends, netip.AddrPortFrom(b, 5432))
		}
		return s
	}
	selector := func(name string) []policy.Peer {
		return []policy.Peer{{Kind: policy.PeerSelector, Selector: app(name)}}
	}
	return &policy.Model{
		Node: "node-1",
		Nodes: []policy.Node{
			node("node-1", Node1, "198.51.100.0/26", MAC1),
			node("node-2", Node2, "198.51.100.64/26", MAC2),
			node3,
		},
		Pods: []policy.Pod{
			pod("server", "node-1", Server), pod("open", "node-1", Open), pod("locked", "node-1", Locked),
			pod("client", "node-2", Client), pod("banned", "node-2", Banned), pod("db", "node-2", DB), direct,
		},
		Policies: []policy.Policy{
			{Key: "CiliumNetworkPolicy test/server", Subject: app("server"), Isolates: [2]bool{policy.Ingress: true}, Rules: []policy.Rule{
				{Path: "spec.ingress[0]", Direction: policy.Ingress, Peers: selector("client"), Ports: port(policy.TCP, 8080)},
				{Path: "spec.ingress[1]", Direction: policy.Ingress, Ports: port(policy.UDP, 53),
					Peers: []policy.Peer{{Kind: policy.PeerCIDR, CIDR: netip.MustParsePrefix("203.0.113.0/28")}}},
				{Path: "spec.ingressDeny[0]", Direction: policy.Ingress, Action: policy.Deny, Peers: selector("banned"),
					Ports: []policy.PortMatch{policy.AnyPort}},
			}},
			{Key: "CiliumNetworkPolicy test/locked", Subject: app("locked"), Isolates: [2]bool{true, true}, Rules: []policy.Rule{
				{Path: "spec.egress[0]", Direction: policy.Egress, Peers: selector("db"), Ports: port(policy.TCP, 5432)},
			}},
		},
		Services: []policy.Service{
			service("db", ServiceDB, DB), service("mixed", ServiceMixed, DB, Client), service("client", ServiceClient, Client),
		},
	}
}

// Cluster is node-1's datapath under BPF_PROG_TEST_RUN.
type Cluster struct {
	*loader.Simulator
	Compiled *policy.Compiled
}

// New loads model, which may be nil for Model, with knobs. The slot of the host is filled in.
func New(t testing.TB, knobs bpf.Knobs, model *policy.Model) *Cluster {
	t.Helper()
	if model == nil {
		model = Model()
	}
	compiled, err := policy.Build(model)
	if err != nil {
		t.Fatal(err)
	}
	simulator, err := loader.NewSimulator(knobs, compiled)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := simulator.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Cluster{Simulator: simulator, Compiled: compiled}
}

// Want is what a packet must meet.
type Want struct {
	Verdict   bpf.Verdict
	Reason    bpf.Reason
	Direction bpf.Direction
	Rule      string     // policy key and path; empty: none
	Out       []byte     // nil: as it came in
	Observed  bpf.Reason // not none: a violation that observe mode counted before
	// Audited, if not none, is why it would have been dropped if no policy were under audit, and AuditedBy the rule or
	// isolation that says so.
	Audited   bpf.Reason
	AuditedBy string
}

// Actions by which XDP and tc drop.
const (
	xdpDrop = 1
	tcDrop  = 2
)

// Expect passes frame through hook, as sent or received by the pod at slot's interface where that counts, and makes the
// three assertions: verdict and reason, bytes out, and no other counter moved.
func (c *Cluster) Expect(t testing.TB, hook bpf.Hook, pod netip.Addr, frame []byte, want Want) {
	t.Helper()
	if hook != bpf.HookUnderlayRx && pod.IsValid() {
		if err := c.Bind(c.Compiled.Address(pod).Slot); err != nil {
			t.Fatal(err)
		}
	}
	before, hits := c.count(t), c.auditHits(t)
	got, err := c.Run(hook, frame)
	if err != nil {
		t.Fatal(err)
	}
	after := c.count(t)
	c.expectAudit(t, &got, hits, want)

	dropped := got.Action == tcDrop
	if hook == bpf.HookUnderlayRx {
		dropped = got.Action == xdpDrop
	}
	if dropped != (want.Verdict == bpf.VerdictDrop) || bpf.Verdict(got.Event.Verdict) != want.Verdict {
		t.Errorf("action %d, event says %s; want %s", got.Action, bpf.VerdictName(bpf.Verdict(got.Event.Verdict)), bpf.VerdictName(want.Verdict))
	}
	if reason := bpf.Reason(got.Event.Reason); reason != want.Reason {
		t.Errorf("reason %s, want %s", bpf.ReasonName(reason), bpf.ReasonName(want.Reason))
	}
	if rule := c.ruleName(got.Event.Rule); rule != want.Rule {
		t.Errorf("rule %q, want %q", rule, want.Rule)
	}

	out := want.Out
	if out == nil {
		out = frame
	}
	if !bytes.Equal(got.Out, out) {
		t.Errorf("bytes out\n%x, want\n%x", got.Out, out)
	}

	moved := map[loader.CounterKey]loader.Count{
		{Hook: hook, Direction: want.Direction, Verdict: want.Verdict, Reason: want.Reason}: {Packets: 1, Bytes: uint64(len(frame))},
	}
	if want.Observed != bpf.ReasonNone {
		moved[loader.CounterKey{Hook: hook, Direction: want.Direction, Verdict: bpf.VerdictObserve, Reason: want.Observed}] =
			loader.Count{Packets: 1, Bytes: uint64(len(frame))}
	}
	if want.Audited != bpf.ReasonNone {
		moved[loader.CounterKey{Hook: hook, Direction: want.Direction, Verdict: bpf.VerdictAudit, Reason: want.Audited}] =
			loader.Count{Packets: 1, Bytes: uint64(len(frame))}
	}
	for key, n := range after {
		delta := loader.Count{Packets: n.Packets - before[key].Packets, Bytes: n.Bytes - before[key].Bytes}
		if delta != moved[key] {
			t.Errorf("counter %s/%s/%s/%s moved by %+v, want %+v", bpf.HookName(key.Hook), bpf.DirectionName(key.Direction),
				bpf.VerdictName(key.Verdict), bpf.ReasonName(key.Reason), delta, moved[key])
		}
		delete(moved, key)
	}
	for key := range moved {
		t.Errorf("counter %s/%s/%s/%s did not move", bpf.HookName(key.Hook), bpf.DirectionName(key.Direction),
			bpf.VerdictName(key.Verdict), bpf.ReasonName(key.Reason))
	}
}

// expectAudit asserts that the packet's would-be drop was told and counted as wanted, or that there was none.
func (c *Cluster) expectAudit(t testing.TB, got *loader.Result, before map[uint16]loader.Count, want Want) {
	t.Helper()
	reason, by := bpf.ReasonNone, ""
	for i := range got.Events {
		if e := &got.Events[i]; bpf.Verdict(e.Verdict) == bpf.VerdictAudit {
			reason, by = bpf.Reason(e.Reason), c.ruleName(e.Rule)
		}
	}
	if reason != want.Audited || by != want.AuditedBy {
		t.Errorf("audited %s by %q, want %s by %q", bpf.ReasonName(reason), by, bpf.ReasonName(want.Audited), want.AuditedBy)
	}
	for number, n := range c.auditHits(t) {
		expected := uint64(0)
		if name := c.ruleName(number); name == want.AuditedBy && (reason == bpf.ReasonDeniedDefault || reason == bpf.ReasonDeniedRule) {
			expected = 1
		}
		if moved := n.Packets - before[number].Packets; moved != expected {
			t.Errorf("audit hits of %q moved by %d, want %d", c.ruleName(number), moved, expected)
		}
	}
}

func (c *Cluster) auditHits(t testing.TB) map[uint16]loader.Count {
	t.Helper()
	hits, err := c.Tables().AuditHits()
	if err != nil {
		t.Fatal(err)
	}
	return hits
}

// ruleName is a rule's key and path; empty if the number means nothing.
func (c *Cluster) ruleName(number uint16) string {
	key, path, ok := c.Compiled.Image.RuleName(number)
	if !ok {
		return ""
	}
	return key + " " + path
}

func (c *Cluster) count(t testing.TB) map[loader.CounterKey]loader.Count {
	t.Helper()
	counts, err := c.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}
