// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/policy"
)

func newTestSimulator(t testing.TB, m *policy.Model) (*Simulator, *policy.Planner) {
	t.Helper()
	p := policy.NewPlanner()
	plan, err := p.Plan(m)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSimulator(bpf.DefaultKnobs(), plan.Final)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(plan)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, p
}

func syn(f flow) []byte {
	return packet.TCP(netip.AddrPortFrom(f.src, 40000), netip.AddrPortFrom(f.dst, f.port), packet.SYN).Bytes()
}

// tcShot is TC_ACT_SHOT.
const tcShot = 2

// passes says whether the programs let a first packet from src to dst through, at every hook here that it crosses.
func (s *Simulator) passes(t *testing.T, f flow) bool {
	t.Helper()
	for hook, addr := range map[bpf.Hook]netip.Addr{bpf.HookPodTx: f.src, bpf.HookPodRx: f.dst} {
		e := s.tables.addresses.trie.lookup(addr4(addr))
		if e.kind() != policy.AddressLocalPod {
			continue
		}
		pod, host := PodMACs(e.slot())
		if err := s.tables.setInterface(e.slot(), Interface{Index: loopback, PodMAC: pod, HostMAC: host}); err != nil {
			t.Fatal(err)
		}
		r, err := s.Run(hook, syn(f))
		if err != nil {
			t.Fatal(err)
		}
		if r.Action == tcShot {
			return false
		}
	}
	return true
}

// At each write of Apply, the programs themselves give every flow between pods that stay its old verdict or its new one, and
// the new one when Apply is done.
func TestProgramsSeeOldOrNew(t *testing.T) {
	r, writes := newRand(t), 0
	for range 6 {
		tr := newTransition(t, r)
		s, p := newTestSimulator(t, tr.from)
		plan, err := p.Plan(tr.to)
		must(t, err)
		local := func(a netip.Addr) bool {
			return s.tables.addresses.trie.lookup(addr4(a)).kind() == policy.AddressLocalPod
		}
		check := func(f flow, want ...bool) {
			t.Helper()
			got := s.passes(t, f)
			for _, w := range want {
				if got == w {
					return
				}
			}
			t.Fatalf("write %d: %s → %s port %d passes: %v, want %v", writes, f.src, f.dst, f.port, got, want)
		}
		at := 0
		var hook func()
		hook = func() {
			s.tables.writes.before = nil
			writes++
			for range 150 {
				at = (at + 1) % len(tr.flows)
				if f := tr.flows[at]; tr.settled[f] && (local(f.src) || local(f.dst)) {
					check(f, tr.old[f], tr.new[f])
				}
			}
			s.tables.writes.before = hook
		}
		s.tables.writes.before = hook
		must(t, s.tables.Apply(context.Background(), plan))
		s.tables.writes.before = nil
		for _, f := range tr.flows {
			if local(f.src) || local(f.dst) {
				check(f, tr.new[f])
			}
		}
	}
	if writes < 20 {
		t.Errorf("only %d writes were seen", writes)
	}
}

// A flow leaves its mark in the filter where flowHash says; ResetFlows makes the tables forget it, and a reply that passed
// does not pass any more.
func TestFlowsAndTheirReset(t *testing.T) {
	m := twoNodes()
	m.Policies = []policy.Policy{{Key: "NetworkPolicy test/out", Isolates: [2]bool{true, true}, Rules: []policy.Rule{{
		Path: "spec.egress[0]", Direction: policy.Egress, Peers: []policy.Peer{{Kind: policy.PeerAny}}, Ports: []policy.PortMatch{policy.AnyPort},
	}}}}
	s, _ := newTestSimulator(t, m)
	pod, far := netip.MustParseAddr("10.42.1.10"), netip.MustParseAddr("10.42.2.20")
	request := packet.TCP(netip.AddrPortFrom(pod, 40000), netip.AddrPortFrom(far, 80), packet.SYN)
	reply := packet.TCP(netip.AddrPortFrom(far, 80), netip.AddrPortFrom(pod, 40000), packet.SYN|packet.ACK)
	key := &bpf.FlowKey{Saddr: addr4(pod), Daddr: addr4(far), Sport: 40000, Dport: 80, Protocol: policy.TCP}
	marked := func() bool {
		h := flowHash(key)
		first, second := s.tables.filterHalf(0).has(h), s.tables.filterHalf(1).has(h)
		if first != second {
			t.Error("the halves of the filter differ")
		}
		return first
	}
	expect := func(hook bpf.Hook, frame []byte, want bpf.Reason) {
		t.Helper()
		r, err := s.Run(hook, frame)
		must(t, err)
		if got := bpf.Reason(r.Event.Reason); got != want {
			t.Errorf("reason %s, want %s", bpf.ReasonName(got), bpf.ReasonName(want))
		}
	}
	expect(bpf.HookPodRx, reply.Bytes(), bpf.ReasonDeniedDefault)
	if marked() {
		t.Error("a refused packet left a mark")
	}
	expect(bpf.HookPodTx, request.Bytes(), bpf.ReasonAllowed)
	if !marked() {
		t.Error("the flow is not where flowHash says")
	}
	expect(bpf.HookPodRx, reply.Bytes(), bpf.ReasonReply)
	stats, err := s.tables.Sweep()
	must(t, err)
	if stats.Flows != 1 || stats.Expired != 0 {
		t.Errorf("swept %+v, want the answered flow to stay", stats)
	}
	expect(bpf.HookPodRx, reply.Bytes(), bpf.ReasonReply) // found through the rebuilt half

	must(t, s.ResetFlows())
	if marked() {
		t.Error("the mark is still there")
	}
	expect(bpf.HookPodRx, reply.Bytes(), bpf.ReasonDeniedDefault)
	stats, err = s.tables.Sweep()
	must(t, err)
	if stats != (FlowStats{}) {
		t.Errorf("after the reset: %+v", stats)
	}
}

// Results name the identities and the rule, count once, and hand out the packet's bytes.
func TestSimulatorResult(t *testing.T) {
	m := twoNodes()
	m.Policies = isolateIngress
	s, _ := newTestSimulator(t, m)
	f := flow{netip.MustParseAddr("10.42.2.20"), netip.MustParseAddr("10.42.1.10"), 80}
	r, err := s.Run(bpf.HookPodRx, syn(f))
	must(t, err)
	e := r.Event
	if r.Action != tcShot || bpf.Reason(e.Reason) != bpf.ReasonDeniedDefault || bpf.Direction(e.Direction) != bpf.DirectionIngress || e.Rule != 0 ||
		e.SourceIdentity != policy.IdentityUnmanaged || e.Saddr != addr4(f.src) || e.Dport != 80 || len(r.Events) != 1 {
		t.Errorf("%+v", r)
	}
	if string(r.Out) != string(syn(f)) {
		t.Errorf("bytes out %x", r.Out)
	}
	counts, err := s.Counters()
	must(t, err)
	key := CounterKey{bpf.HookPodRx, bpf.DirectionIngress, bpf.VerdictDrop, bpf.ReasonDeniedDefault}
	if len(counts) != 1 || counts[key] != (Count{1, uint64(len(syn(f)))}) {
		t.Errorf("counters %+v", counts)
	}
}

// A probe is a packet through two hooks, met by empty tables.
func BenchmarkSimulator(b *testing.B) {
	m := twoNodes()
	m.Policies = isolateIngress
	s, _ := newTestSimulator(b, m)
	frame := syn(flow{netip.MustParseAddr("10.42.2.20"), netip.MustParseAddr("10.42.1.10"), 80})
	for b.Loop() {
		if err := s.ResetFlows(); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Run(bpf.HookPodRx, frame); err != nil {
			b.Fatal(err)
		}
	}
}
