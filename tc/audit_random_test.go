// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
	"github.com/weirnet/weir/policy"
)

// Two worlds see the same traffic, one under policies and one under the same policies in audit. Whatever the former drops the
// latter must pass and report, and nothing else; both must remember the same flows; and when the audit ends, they must not be
// told apart any more. WEIR_SEED repeats a run.
func TestAuditTellsWhatEnforcementDrops(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	kinds := map[string]int{}
	for round := range 2 {
		model, other, before := lt.Model(), underAudit(), lt.Model()
		if round%2 == 0 { // isolation begins with the first packets
			before = unguarded()
		}
		real, audit := newWorld(t, before), newWorld(t, before)
		real.become(t, model)
		audit.become(t, other)
		pair := twins{t: t, r: r, real: real, audit: audit, kinds: kinds}
		for range 1000 {
			pair.packet(true)
		}
		pair.sameFlows()
		audit.become(t, model)
		real.become(t, other) // the same number of changes
		real.become(t, model)
		for range 500 {
			pair.packet(false)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%v", kinds)
	for _, kind := range []string{"drop denied_default", "drop denied_rule", "pass reply", "pass allowed", "pass related"} {
		if kinds[kind] == 0 && os.Getenv("WEIR_SEED") == "" {
			t.Errorf("no packet was %s: the traffic has lost its variety", kind)
		}
	}
}

// unguarded is the cluster before it has policies, but for rules that isolate nobody: the simulator's image has room for as
// many ports as its first model names, and some to spare.
func unguarded() *policy.Model {
	model := lt.Model()
	rules := slices.Clone(model.Policies[0].Rules[:2])
	model.Policies = []policy.Policy{{Key: "CiliumNetworkPolicy test/ports", Rules: rules,
		Subject: policy.Selector{{Key: "app", Op: policy.In, Values: []string{"open"}}}}}
	return model
}

type twins struct {
	t           *testing.T
	r           *rand.Rand
	real, audit *world
	kinds       map[string]int
	sent        []packet.Spec
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// spec makes up a packet, or an answer to, or an error about, or one more like an earlier one.
func (w *twins) spec() packet.Spec {
	r := w.r
	if len(w.sent) > 0 && r.IntN(3) > 0 {
		s := w.sent[max(0, len(w.sent)-1-r.IntN(30))]
		if s.Protocol == packet.ProtocolICMP && s.Type != 8 {
			return s
		}
		switch r.IntN(6) {
		case 0:
			return packet.ICMPError(s.Dst, s.Src, 3, 4, s, 8)
		case 1:
			return s
		}
		s = s.Mirror()
		if s.Protocol == packet.ProtocolTCP {
			s.Flags = pick[uint8](r, packet.ACK, packet.SYN|packet.ACK, packet.ACK|packet.FIN, packet.RST)
		}
		return s
	}
	if r.IntN(4) == 0 { // what the policies admit
		sport, flags := uint16(41000+r.IntN(3000)), pick[uint8](r, packet.SYN, packet.ACK)
		return pick(r, tcp(lt.Client, sport, lt.Server, 8080, flags), tcp(lt.Locked, sport, lt.DB, 5432, flags), udp(lt.Resolver, sport, lt.Server, 53))
	}
	locals := []netip.Addr{lt.Server, lt.Open, lt.Locked}
	own, peer := pick(r, locals...), pick(r, lt.Client, lt.Banned, lt.DB, lt.World, lt.Resolver, lt.Server, lt.Open, lt.Locked, lt.ServiceDB, lt.ServiceClient)
	if r.IntN(2) == 0 && peer != lt.ServiceDB && peer != lt.ServiceClient {
		own, peer = peer, own
	}
	sport, dport := uint16(40000+r.IntN(3)), pick[uint16](r, 80, 8080, 5432, 53)
	switch r.IntN(5) {
	case 0:
		return udp(own, sport, peer, dport)
	case 1:
		return packet.Echo(own, peer, sport, 1)
	}
	return tcp(own, sport, peer, dport, pick[uint8](r, packet.SYN, packet.SYN, packet.ACK))
}

// packet lets both worlds see one packet, at each hook that it passes; audited: the one world only reports.
func (w *twins) packet(audited bool) {
	s := w.spec()
	w.sent = append(w.sent, s)
	local := func(a netip.Addr) bool { return w.real.Compiled.Address(a).Kind == policy.AddressLocalPod }
	dropped := false
	for _, at := range []struct {
		hook bpf.Hook
		pod  netip.Addr
	}{{tx, s.Src}, {overlay, s.Src}, {rx, s.Dst}} {
		if !local(at.pod) || at.hook == overlay && local(s.Dst) {
			continue
		}
		a, would := w.run(w.audit, at.hook, at.pod, s)
		if dropped {
			continue // in the other world it is gone
		}
		e, _ := w.run(w.real, at.hook, at.pod, s)
		if dropped = bpf.Verdict(e.Verdict) == bpf.VerdictDrop; at.hook != overlay {
			w.kinds[bpf.VerdictName(bpf.Verdict(e.Verdict))+" "+bpf.ReasonName(bpf.Reason(e.Reason))]++
		}
		// At the sender's hook the one drops for the receiver's sake, too; the other says so at the receiver's.
		later := at.hook == tx && dropped && bpf.Direction(e.Direction) == bpf.DirectionIngress
		switch {
		case !audited && (a.Verdict != e.Verdict || a.Reason != e.Reason):
			w.t.Errorf("%s after the audit: %s, enforced from the start: %s\n%s", describe(s), text(a), text(e), at.pod)
		case audited && bpf.Verdict(a.Verdict) == bpf.VerdictDrop:
			w.t.Errorf("%s: under audit %s", describe(s), text(a))
		case audited && !later && dropped != (would != bpf.ReasonNone):
			w.t.Errorf("%s: enforced %s, under audit %s, would be dropped for %s", describe(s), text(e), text(a), bpf.ReasonName(would))
		case audited && dropped && !later && would != bpf.Reason(e.Reason) && would != bpf.ReasonRevoked:
			w.t.Errorf("%s: enforced %s, would be dropped for %s", describe(s), text(e), bpf.ReasonName(would))
		}
		if dropped && !audited {
			return
		}
		if later {
			if _, would := w.run(w.audit, rx, s.Dst, s); would == bpf.ReasonNone {
				w.t.Errorf("%s: enforced %s, under audit it would reach the receiver", describe(s), text(e))
			}
			return
		}
	}
}

func (w *twins) run(in *world, hook bpf.Hook, pod netip.Addr, s packet.Spec) (verdict bpf.Event, would bpf.Reason) {
	w.t.Helper()
	if hook != overlay {
		if err := in.Bind(in.Compiled.Address(pod).Slot); err != nil {
			w.t.Fatal(err)
		}
	}
	got, err := in.Run(hook, s.Bytes())
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range got.Events {
		if bpf.Verdict(got.Events[i].Verdict) == bpf.VerdictAudit {
			would = bpf.Reason(got.Events[i].Reason)
		}
	}
	return got.Event, would
}

// sameFlows compares what both worlds remember.
func (w *twins) sameFlows() {
	w.t.Helper()
	for _, table := range []string{"flows", "flows_new"} {
		real, audit := keys(w.t, w.real, table), keys(w.t, w.audit, table)
		if !slices.Equal(real, audit) {
			w.t.Errorf("%s: enforcement remembers\n%q\naudit\n%q", table, real, audit)
		}
	}
}

func keys(t *testing.T, w *world, table string) (all []string) {
	t.Helper()
	var key bpf.FlowKey
	var flow bpf.Flow
	entries := w.Tables().Maps()[table].Iterate()
	for entries.Next(&key, &flow) {
		all = append(all, fmt.Sprintf("%x:%d %x:%d %d", key.Saddr, key.Sport, key.Daddr, key.Dport, key.Protocol))
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func describe(s packet.Spec) string {
	return fmt.Sprintf("%s:%d > %s:%d protocol %d flags %#x type %d", s.Src, s.SrcPort, s.Dst, s.DstPort, s.Protocol, s.Flags, s.Type)
}

func text(e bpf.Event) string {
	return fmt.Sprintf("%s %s %s", bpf.VerdictName(bpf.Verdict(e.Verdict)), bpf.ReasonName(bpf.Reason(e.Reason)), bpf.DirectionName(bpf.Direction(e.Direction)))
}
