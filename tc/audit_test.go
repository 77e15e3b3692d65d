// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
	"github.com/weirnet/weir/policy"
)

const (
	serverIsolation = "CiliumNetworkPolicy test/server ingress isolation"
	lockedIngress   = "CiliumNetworkPolicy test/locked ingress isolation"
	lockedEgress    = "CiliumNetworkPolicy test/locked egress isolation"
)

// underAudit is the model with some of its policies under audit; none named: all.
func underAudit(names ...string) *policy.Model {
	model := lt.Model()
	for i := range model.Policies {
		p := &model.Policies[i]
		p.Audit = len(names) == 0
		for _, name := range names {
			p.Audit = p.Audit || p.Key == "CiliumNetworkPolicy test/"+name
		}
	}
	return model
}

func would(reason bpf.Reason, by string, w lt.Want) lt.Want {
	w.Audited, w.AuditedBy = reason, by
	return w
}

// What a policy under audit denies passes, and is counted and told, once for each direction, where an allow is.
func TestPolicyUnderAuditDropsNothing(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), underAudit("server"))
	in := pass(bpf.ReasonNotIsolated)
	byDefault, byRule := would(bpf.ReasonDeniedDefault, serverIsolation, in), would(bpf.ReasonDeniedRule, lt.DenyBanned, in)
	fragments := with(tcp(lt.Client, 1, lt.Server, 8080, packet.ACK), func(s *packet.Spec) { s.ID, s.Payload = 5, make([]byte, 100) }).Fragments(64)
	denied := with(udp(lt.World, 1, lt.Server, 9), func(s *packet.Spec) { s.ID = 6 }).Fragments(24)
	walk(t, c, []step{
		{"what its rules admit", rx, lt.Server, syn(lt.Client, lt.Server, 8080), in},
		{"what no rule admits", rx, lt.Server, syn(lt.Client, lt.Server, 80), byDefault},
		{"the same at the NIC", nic, netip.Addr{}, syn(lt.Client, lt.Server, 80), handedUp},
		{"the same in the middle of a connection", rx, lt.Server, tcp(lt.Client, 1, lt.Server, 80, packet.ACK), byDefault},
		{"what a rule denies", rx, lt.Server, syn(lt.Banned, lt.Server, 8080), byRule},
		{"the same at the NIC", nic, netip.Addr{}, syn(lt.Banned, lt.Server, 8080), handedUp},
		{"a datagram", rx, lt.Server, udp(lt.World, 1, lt.Server, 53), byDefault},
		{"an admitted one", rx, lt.Server, udp(lt.Resolver, 1, lt.Server, 53), in},
		{"another protocol", rx, lt.Server, packet.IP(lt.World, lt.Server, 47, make([]byte, 8)), byDefault},
		{"the pod itself", rx, lt.Server, syn(lt.Server, lt.Server, 80), in},
		{"the node", rx, lt.Server, syn(lt.Node1, lt.Server, 80), in},
		{"a local sender, at its own hook", tx, lt.Open, syn(lt.Open, lt.Server, 80), anywhere},
		{"a local sender, at the pod", rx, lt.Server, syn(lt.Open, lt.Server, 80), byDefault},
		{"what the pod sends", tx, lt.Server, syn(lt.Server, lt.World, 80), anywhere},
		{"a pod without policy", rx, lt.Open, syn(lt.World, lt.Open, 80), in},
		{"IPv6", rx, lt.Server, six, would(bpf.ReasonIPv6, "", in)},
		{"IPv6 from the pod", tx, lt.Server, six, anywhere},
		{"another EtherType", rx, lt.Server, strange, would(bpf.ReasonNotIPIsolated, "", in)},
		{"a later fragment alone", rx, lt.Server, fragments[1], would(bpf.ReasonFragment, "", in)},
		{"the same at the NIC", nic, netip.Addr{}, fragments[1], handedUp},
		{"a first fragment that is admitted", rx, lt.Server, fragments[0], in},
		{"and what follows it", rx, lt.Server, fragments[1], in},
		{"a first fragment that is not", rx, lt.Server, denied[0], byDefault},
		{"and what follows it", rx, lt.Server, denied[1], byDefault},
	})
}

// Policies that are not under audit go on enforcing, on the same pod too, and what they drop is no business of an audit.
func TestOtherPoliciesGoOnEnforcing(t *testing.T) {
	model := underAudit("locked")
	model.Policies = append(model.Policies, policy.Policy{Key: "CiliumNetworkPolicy test/trial", Audit: true,
		Subject: model.Policies[0].Subject, Rules: []policy.Rule{
			{Path: "spec.ingressDeny[0]", Direction: policy.Ingress, Action: policy.Deny, Ports: []policy.PortMatch{policy.AnyPort},
				Peers: []policy.Peer{{Kind: policy.PeerSelector, Selector: policy.Selector{{Key: "app", Op: policy.In, Values: []string{"client"}}}}}},
			{Path: "spec.ingress[0]", Direction: policy.Ingress, Peers: []policy.Peer{{Kind: policy.PeerAny}}, Ports: []policy.PortMatch{policy.AnyPort}},
		}})
	c := lt.New(t, bpf.DefaultKnobs(), model)
	const trial = "CiliumNetworkPolicy test/trial spec.ingressDeny[0]"
	walk(t, c, []step{
		{"denied by rule", rx, lt.Server, syn(lt.Banned, lt.Server, 8080), by(lt.DenyBanned, drop(bpf.ReasonDeniedRule))},
		{"denied by default, though a rule under audit admits it", rx, lt.Server, syn(lt.World, lt.Server, 80), denied},
		{"admitted, and denied under audit", rx, lt.Server, syn(lt.Client, lt.Server, 8080),
			would(bpf.ReasonDeniedRule, trial, by(lt.AllowClient, pass(bpf.ReasonAllowed)))},
		{"neither admitted nor known to the audit", nic, netip.Addr{}, syn(lt.Client, lt.Server, 80), denied},
		{"a pod that only audit isolates", rx, lt.Locked, syn(lt.Client, lt.Locked, 80),
			would(bpf.ReasonDeniedDefault, lockedIngress, pass(bpf.ReasonNotIsolated))},
		{"a local receiver that enforces, from a sender that would not reach it", tx, lt.Locked, syn(lt.Locked, lt.Server, 80), denied},
	})
	hits, err := c.Tables().RuleHits()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]uint64{}
	for number, n := range hits {
		key, path, _ := c.Compiled.Image.RuleName(number)
		named[key+" "+path] = n.Packets
	}
	if named[trial] != 0 || named[lt.AllowClient] != 1 || named[lt.DenyBanned] != 1 {
		t.Errorf("rule hits %v: those of an audit are counted apart", named)
	}
}

// Services mean under audit what they mean: nothing admitted would be a drop at once, a mixed set one at the chosen backend.
func TestServicesUnderAudit(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	c := lt.New(t, knobs, underAudit())
	out := anywhere
	none := would(bpf.ReasonDeniedService, "", out)
	walk(t, c, []step{
		{"all admitted", tx, lt.Locked, syn(lt.Locked, lt.ServiceDB, 80), out},
		{"none admitted", tx, lt.Locked, syn(lt.Locked, lt.ServiceClient, 80), none},
		{"some admitted", tx, lt.Locked, syn(lt.Locked, lt.ServiceMixed, 80), out},
		{"no Service", tx, lt.Locked, syn(lt.Locked, lt.ServiceDB, 81), would(bpf.ReasonDeniedDefault, lockedEgress, out)},
		{"a pod that may go anywhere", tx, lt.Open, syn(lt.Open, lt.ServiceClient, 80), out},
	})
	x := newChain(t, c, knobs)
	slot := c.Compiled.Address(lt.Locked).Slot
	audited := 0xa000 | slot // CHOOSING | CHOOSING_AUDITED
	no := netip.Addr{}
	x.run(t, c, tx, []passage{
		{"a set that is mixed under audit", lt.Locked, syn(lt.Locked, lt.ServiceMixed, 80), 0, true, audited},
		{"nothing left to choose", lt.Locked, syn(lt.Locked, lt.ServiceClient, 80), 0, true, 0},
	})
	for _, hook := range []bpf.Hook{overlay, rx} {
		backend, pod := lt.Client, no
		if hook == rx {
			backend, pod = lt.Open, lt.Open
		}
		before := auditCount(t, c, hook)
		x.run(t, c, hook, []passage{{"a backend that would be refused", pod, syn(lt.Locked, backend, 5432), audited, true, 0}})
		if got := auditCount(t, c, hook) - before; got != 1 {
			t.Errorf("%s counted %d would-be drops of a chosen backend, want 1", bpf.HookName(hook), got)
		}
	}
	before := auditCount(t, c, overlay)
	x.run(t, c, overlay, []passage{
		{"a backend that would not", no, syn(lt.Locked, lt.DB, 5432), audited, true, 0},
		{"one that is judged already", no, syn(lt.Locked, lt.Client, 5432), 0x9000 | slot, true, 0},
	})
	if got := auditCount(t, c, overlay) - before; got != 0 {
		t.Errorf("%d would-be drops, want none", got)
	}
}

// A set that enforced policy admits in part stays mixed, whatever an audit says of it.
func TestServiceThatIsMixedInBothPlanes(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	model := lt.Model()
	model.Policies = append(model.Policies, policy.Policy{Key: "CiliumNetworkPolicy test/trial", Audit: true, Subject: model.Policies[1].Subject,
		Rules: []policy.Rule{{Path: "spec.egressDeny[0]", Direction: policy.Egress, Action: policy.Deny, Peers: []policy.Peer{{Kind: policy.PeerAny}},
			Ports: []policy.PortMatch{policy.AnyPort}}}})
	c := lt.New(t, knobs, model)
	expect(t, c, step{hook: tx, pod: lt.Locked, frame: syn(lt.Locked, lt.ServiceMixed, 80),
		want: would(bpf.ReasonDeniedService, "", egress(pass(bpf.ReasonServiceMixed)))})
	x := newChain(t, c, knobs)
	enforced := 0x9000 | c.Compiled.Address(lt.Locked).Slot // it has been counted
	x.run(t, c, tx, []passage{{"mixed", lt.Locked, syn(lt.Locked, lt.ServiceMixed, 80), 0, true, enforced}})
	before := auditCount(t, c, overlay)
	x.run(t, c, overlay, []passage{
		{"an admitted backend", netip.Addr{}, syn(lt.Locked, lt.DB, 5432), enforced, true, 0},
		{"another one", netip.Addr{}, syn(lt.Locked, lt.Client, 5432), enforced, false, 0},
	})
	if got := auditCount(t, c, overlay) - before; got != 0 {
		t.Errorf("a packet was counted %d times more", got)
	}
}

// auditCount counts what senders would have lost at a hook.
func auditCount(t *testing.T, c *lt.Cluster, hook bpf.Hook) (n uint64) {
	t.Helper()
	counts, err := c.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for key, count := range counts {
		if key.Hook == hook && key.Verdict == bpf.VerdictAudit && key.Direction == bpf.DirectionEgress {
			n += count.Packets
		}
	}
	return n
}

// What would be excused is no would-be drop; and when the audit ends, it is excused.
func TestFlowsOutliveTheAudit(t *testing.T) {
	w := newWorld(t, underAudit())
	in, out := pass(bpf.ReasonNotIsolated), anywhere
	request, datagram := syn(lt.Server, lt.World, 80), udp(lt.Server, 40001, lt.World, 53)
	answer := tcp(lt.World, 80, lt.Server, 40000, packet.ACK)
	unasked := tcp(lt.World, 81, lt.Server, 40000, packet.ACK)
	hidden := syn(lt.World, lt.Server, 80)
	walk(t, w.Cluster, []step{
		{"an answer to nothing", rx, lt.Server, unasked, would(bpf.ReasonDeniedDefault, serverIsolation, in)},
		{"the pod opens a connection", tx, lt.Server, request, out},
		{"its handshake", rx, lt.Server, request.Mirror(), in},
		{"its data", rx, lt.Server, answer, in},
		{"an error about it", rx, lt.Server, packet.ICMPError(lt.Resolver, lt.Server, 3, 4, tcp(lt.Server, 40000, lt.World, 80, packet.ACK), 8), in},
		{"the pod asks", tx, lt.Server, datagram, out},
		{"and is answered", rx, lt.Server, datagram.Mirror(), in},
		{"a connection that would not begin", rx, lt.Server, hidden, would(bpf.ReasonDeniedDefault, serverIsolation, in)},
		{"one that the pod may not open", tx, lt.Locked, syn(lt.Locked, lt.World, 80), would(bpf.ReasonDeniedDefault, lockedEgress, out)},
		{"its handshake", rx, lt.Locked, syn(lt.Locked, lt.World, 80).Mirror(), would(bpf.ReasonDeniedDefault, lockedIngress, in)},
	})
	if got := where(t, w.Cluster, keyOf(request)); got != assured {
		t.Errorf("the flow of an answered connection is %s", got)
	}
	for _, f := range []packet.Spec{hidden, syn(lt.Locked, lt.World, 80)} {
		if got := where(t, w.Cluster, keyOf(f)); got != unknown {
			t.Errorf("the flow of a connection that would not begin is %s", got)
		}
	}
	before := w.Tables().Endpoint(w.Compiled.Address(lt.Server).Slot).IsolatedNs
	w.become(t, lt.Model())
	if after := w.Tables().Endpoint(w.Compiled.Address(lt.Server).Slot).IsolatedNs; after != before {
		t.Errorf("isolation began at %v, and anew at %v when the audit ended", before, after)
	}
	walk(t, w.Cluster, []step{
		{"data at the pod", rx, lt.Server, answer, reply},
		{"a datagram at the pod", rx, lt.Server, datagram.Mirror(), reply},
		{"what was never asked for", rx, lt.Server, unasked, denied},
		{"the connection that would not have begun", rx, lt.Server, tcp(lt.World, 40000, lt.Server, 80, packet.ACK), denied},
	})
}

// A flow excuses its answers only for as long as the audited plane admits it: what enforcement would revoke is revoked there.
func TestRevocationUnderAudit(t *testing.T) {
	w := newWorld(t, underAudit())
	request, answer := syn(lt.Locked, lt.DB, 5432), tcp(lt.DB, 5432, lt.Locked, 40000, packet.ACK)
	in := pass(bpf.ReasonNotIsolated)
	walk(t, w.Cluster, []step{
		{"asked", tx, lt.Locked, request, anywhere},
		{"answered", rx, lt.Locked, request.Mirror(), in},
	})
	model := underAudit()
	model.Policies[1].Rules = nil
	w.become(t, model)
	for range 2 {
		walk(t, w.Cluster, []step{
			{"an answer, after the permission went", rx, lt.Locked, answer, would(bpf.ReasonRevoked, lockedIngress, in)},
			{"an error about it", rx, lt.Locked, packet.ICMPError(lt.World, lt.Locked, 3, 4, tcp(lt.Locked, 40000, lt.DB, 5432, packet.ACK), 8),
				would(bpf.ReasonDeniedDefault, lockedIngress, in)},
		})
	}
	w.become(t, underAudit())
	expect(t, w.Cluster, step{hook: rx, pod: lt.Locked, frame: answer, want: in})
}

// Becoming isolated by an audit is becoming isolated: what is older has a minute in the audited plane, and only then.
func TestGraceBeginsWithTheAudit(t *testing.T) {
	w := newWorld(t, unguarded())
	w.become(t, underAudit())
	slot := w.Compiled.Address(lt.Server).Slot
	begun := w.Tables().Endpoint(slot).IsolatedNs
	if begun[policy.Ingress] == 0 || begun[policy.Egress] != 0 {
		t.Fatalf("isolation began at %v, want ingress only", begun)
	}
	segment := tcp(lt.World, 80, lt.Server, 40000, packet.ACK)
	expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: segment, want: pass(bpf.ReasonNotIsolated)})
	if got := where(t, w.Cluster, keyOf(segment.Mirror())); got != fresh {
		t.Errorf("the flow that grace found is %s, as real isolation would not leave it", got)
	}
	w.become(t, lt.Model())
	if got := w.Tables().Endpoint(slot).IsolatedNs; got != begun {
		t.Errorf("the end of the audit changed the beginning of isolation from %v to %v", begun, got)
	}
	expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: segment, want: reply})
}
