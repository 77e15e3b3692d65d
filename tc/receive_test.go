// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
)

// Every packet that a pod receives is judged by the interface it is about to enter, whatever way it came.
func TestIngressIsJudgedAtTheReceiver(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	denied := drop(bpf.ReasonDeniedDefault)
	open := pass(bpf.ReasonNotIsolated)
	broadcast, group := netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("224.0.0.1")
	walk(t, c, []step{
		{"what a rule admits", rx, lt.Server, syn(lt.Client, lt.Server, 8080), by(lt.AllowClient, pass(bpf.ReasonAllowed))},
		{"what a rule denies", rx, lt.Server, syn(lt.Banned, lt.Server, 8080), by(lt.DenyBanned, drop(bpf.ReasonDeniedRule))},
		{"another port", rx, lt.Server, syn(lt.Client, lt.Server, 80), denied},
		{"another peer", rx, lt.Server, syn(lt.DB, lt.Server, 8080), denied},
		{"a local peer", rx, lt.Server, syn(lt.Open, lt.Server, 8080), denied},
		{"an echo request", rx, lt.Server, packet.Echo(lt.Client, lt.Server, 1, 1), denied},
		{"the world by a prefix", rx, lt.Server, udp(lt.Resolver, 5353, lt.Server, 53), by("CiliumNetworkPolicy test/server spec.ingress[1]", pass(bpf.ReasonAllowed))},
		{"the world outside of it", rx, lt.Server, udp(lt.World, 5353, lt.Server, 53), denied},
		{"broadcast", rx, lt.Server, udp(lt.Client, 68, broadcast, 67), denied},
		{"a group", rx, lt.Server, udp(lt.Client, 1, group, 2), denied},
		{"broadcast that a rule admits", rx, lt.Server, udp(lt.Resolver, 5353, broadcast, 53), by("CiliumNetworkPolicy test/server spec.ingress[1]", pass(bpf.ReasonAllowed))},
		{"broadcast to a pod that no policy selects", rx, lt.Open, udp(lt.Client, 68, broadcast, 67), open},
		{"what is addressed to another pod", rx, lt.Server, syn(lt.DB, lt.Open, 8080), denied},
		{"a pod that no policy selects", rx, lt.Open, syn(lt.World, lt.Open, 1), open},
		{"itself", rx, lt.Locked, syn(lt.Locked, lt.Locked, 1), pass(bpf.ReasonSelf)},
		{"ARP", rx, lt.Locked, packet.ARP(1, packet.MAC1, lt.Bridge1, packet.MAC{}, lt.Locked), pass(bpf.ReasonNotIP)},
	})
}

// The node reaches its pods: kubelet's probes must succeed. Other nodes do not.
func TestOwnNodeReachesIsolatedPods(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	for _, host := range []netip.Addr{lt.Bridge1, lt.Node1, lt.VTEP1} {
		if err := c.Bind(c.Compiled.Address(lt.Locked).Slot); err != nil {
			t.Fatal(err)
		}
		for _, f := range []packet.Spec{syn(host, lt.Locked, 8080), packet.Echo(host, lt.Locked, 1, 1)} {
			r, err := c.Run(rx, f.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if bpf.Verdict(r.Event.Verdict) != bpf.VerdictPass {
				t.Errorf("%s to its pod: %s", host, bpf.ReasonName(bpf.Reason(r.Event.Reason)))
			}
		}
	}
	walk(t, c, []step{
		{"another node", rx, lt.Locked, syn(lt.Node2, lt.Locked, 8080), drop(bpf.ReasonDeniedDefault)},
		{"another node's overlay address", rx, lt.Locked, syn(lt.VTEP2, lt.Locked, 8080), drop(bpf.ReasonDeniedDefault)},
	})
}

// Later fragments take the first one's ports, at every hook, and a later one alone says nothing.
func TestFragmentsAreJudgedByTheFirst(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	rule := "CiliumNetworkPolicy test/server spec.ingress[1]"
	parts := func(dst uint16, id uint16) []packet.Spec {
		return with(packet.UDP(at(lt.Resolver, 40000), at(lt.Server, dst), make([]byte, 100)...), func(s *packet.Spec) { s.ID = id }).Fragments(64)
	}
	out := with(packet.UDP(at(lt.Locked, 40000), at(lt.DB, 5432), make([]byte, 100)...), func(s *packet.Spec) { s.ID = 9 }).Fragments(64)
	segments := func(dport, id uint16) []packet.Spec {
		return with(tcp(lt.Locked, 40000, lt.DB, dport, packet.ACK), func(s *packet.Spec) { s.ID, s.Payload = id, make([]byte, 100) }).Fragments(64)
	}
	good, bad, sent, refused := parts(53, 1), parts(54, 2), segments(5432, 3), segments(5433, 4)
	walk(t, c, []step{
		{"a later fragment alone, received", rx, lt.Server, good[1], drop(bpf.ReasonFragment)},
		{"an admitted first fragment", rx, lt.Server, good[0], by(rule, pass(bpf.ReasonAllowed))},
		{"and what follows it", rx, lt.Server, good[1], by(rule, pass(bpf.ReasonAllowed))},
		{"the same number from another host is another packet", rx, lt.Server, with(good[1], func(s *packet.Spec) { s.Src = lt.World }), drop(bpf.ReasonFragment)},
		{"the same number of another protocol, too", rx, lt.Server, with(good[1], func(s *packet.Spec) { s.Protocol = packet.ProtocolTCP }), drop(bpf.ReasonFragment)},
		{"a first fragment that is denied", rx, lt.Server, bad[0], drop(bpf.ReasonDeniedDefault)},
		{"leaves nothing for what follows", rx, lt.Server, bad[1], drop(bpf.ReasonFragment)},
		{"a first fragment without its ports", rx, lt.Server, cut(good[0], 14+20+4), drop(bpf.ReasonMalformed)},
		{"where no policy asks, fragments pass", rx, lt.Open, with(good[1], func(s *packet.Spec) { s.Dst = lt.Open }), pass(bpf.ReasonNotIsolated)},

		{"a later fragment alone, sent", tx, lt.Locked, sent[1], egress(drop(bpf.ReasonFragment))},
		{"an admitted first fragment, sent", tx, lt.Locked, sent[0], egress(by(lt.AllowDB, pass(bpf.ReasonAllowed)))},
		{"and what follows it, sent", tx, lt.Locked, sent[1], egress(by(lt.AllowDB, pass(bpf.ReasonAllowed)))},
		{"a denied first fragment, sent", tx, lt.Locked, refused[0], egress(drop(bpf.ReasonDeniedDefault))},
		{"leaves nothing for what follows, sent", tx, lt.Locked, refused[1], egress(drop(bpf.ReasonFragment))},
		{"a denied datagram's first fragment, sent", tx, lt.Locked, out[0], egress(drop(bpf.ReasonDeniedDefault))},

		{"a later fragment to a local receiver", tx, lt.Open, with(good[1], func(s *packet.Spec) { s.Src = lt.Open }), drop(bpf.ReasonFragment)},
		{"a later fragment on its way out of the node", overlay, netip.Addr{}, out[1], egress(pass(bpf.ReasonUntouched))},
	})
}

// A flood of first fragments that policy denies must not push out those of somebody else.
func TestDeniedFragmentsLeaveNothing(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	for _, hook := range []bpf.Hook{nic, rx} {
		first := with(udp(lt.DB, 1, lt.Server, 9), func(s *packet.Spec) { s.ID, s.MF = 7, true })
		expect(t, c, step{hook: hook, pod: lt.Server, frame: first, want: drop(bpf.ReasonDeniedDefault)})
		var key bpf.FragmentKey
		if err := c.Tables().Maps()["fragments"].NextKey(nil, &key); err == nil {
			t.Errorf("%s: a denied first fragment is remembered: %+v", bpf.HookName(hook), key)
		}
	}
}
