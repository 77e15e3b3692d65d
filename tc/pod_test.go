// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
)

const (
	tx      = bpf.HookPodTx
	rx      = bpf.HookPodRx
	overlay = bpf.HookOverlayTx
	nic     = bpf.HookUnderlayRx
)

// A packet as a test table has it: at a hook, sent or received by a pod where the hook is a pod's.
type step struct {
	name  string
	hook  bpf.Hook
	pod   netip.Addr
	frame packet.Spec
	want  lt.Want
}

// walk passes packets through their hooks, one after the other.
func walk(t *testing.T, c *lt.Cluster, steps []step) {
	t.Helper()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) { expect(t, c, s) })
	}
}

func expect(t *testing.T, c *lt.Cluster, s step) {
	t.Helper()
	frame := s.frame.Bytes()
	if s.hook == nic { // all that these tests let arrive there comes from node-2
		frame = packet.VXLAN(packet.Underlay(lt.Node2, lt.Node1), 1, s.frame.Via(lt.MAC2, lt.MAC1).Bytes())
	}
	c.Expect(t, s.hook, s.pod, frame, s.want)
}

func pass(r bpf.Reason) lt.Want { return lt.Want{Verdict: bpf.VerdictPass, Reason: r} }
func drop(r bpf.Reason) lt.Want { return lt.Want{Verdict: bpf.VerdictDrop, Reason: r} }

func egress(w lt.Want) lt.Want {
	w.Direction = bpf.DirectionEgress
	return w
}

func by(rule string, w lt.Want) lt.Want {
	w.Rule = rule
	return w
}

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

func tcp(src netip.Addr, sport uint16, dst netip.Addr, dport uint16, flags uint8) packet.Spec {
	return packet.TCP(at(src, sport), at(dst, dport), flags)
}

func syn(src, dst netip.Addr, port uint16) packet.Spec { return tcp(src, 40000, dst, port, packet.SYN) }

func udp(src netip.Addr, sport uint16, dst netip.Addr, dport uint16) packet.Spec {
	return packet.UDP(at(src, sport), at(dst, dport), make([]byte, 32)...)
}

// with is s with some of its fields changed.
func with(s packet.Spec, change func(*packet.Spec)) packet.Spec {
	change(&s)
	return s
}

func tagged(s packet.Spec, tags ...packet.Tag) packet.Spec {
	s.Tags = tags
	return s
}

// cut is s, of which only so many bytes arrive.
func cut(s packet.Spec, n int) packet.Spec {
	s.Break = func(frame []byte, _ packet.Layout) []byte { return frame[:n] }
	return s
}

var (
	six     = packet.UDP(netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2"), 1, 2, 3, 4)
	strange = packet.Spec{SrcMAC: packet.MAC1, DstMAC: packet.MAC2, EtherType: 0x88b5, Body: make([]byte, 46)} // local experimental
)

// Whatever a pod wants to be taken for, it sends from its own address or not at all.
func TestPodSendsFromItsOwnAddressOnly(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	spoofed, ok := egress(drop(bpf.ReasonSpoofedSource)), egress(pass(bpf.ReasonNotIsolated))
	arp := egress(pass(bpf.ReasonNotIP))
	from := func(src netip.Addr) packet.Spec { return syn(src, lt.Client, 80) }
	claim := func(src netip.Addr) packet.Spec { return packet.ARP(1, packet.MAC1, src, packet.MAC{}, lt.Bridge1) }
	zero := netip.IPv4Unspecified()
	walk(t, c, []step{
		{"its own", tx, lt.Open, from(lt.Open), ok},
		{"its own in a VLAN", tx, lt.Open, tagged(from(lt.Open), packet.Tag{ID: 1}), ok},
		{"its own in two VLANs", tx, lt.Open, tagged(from(lt.Open), packet.Tag{EtherType: packet.EtherQinQ, ID: 1}, packet.Tag{ID: 2}), ok},
		{"another local pod's", tx, lt.Open, from(lt.Server), spoofed},
		{"another local pod's in a VLAN", tx, lt.Open, tagged(from(lt.Server), packet.Tag{ID: 1}), spoofed},
		{"another local pod's behind options", tx, lt.Open, with(from(lt.Server), func(s *packet.Spec) { s.Options = []byte{1, 1, 1, 0} }), spoofed},
		{"another local pod's in a later fragment", tx, lt.Open, with(from(lt.Server), func(s *packet.Spec) { s.Offset, s.Body = 64, make([]byte, 64) }), spoofed},
		{"a remote pod's", tx, lt.Open, from(lt.Client), spoofed},
		{"the bridge's", tx, lt.Open, from(lt.Bridge1), spoofed},
		{"the node's", tx, lt.Open, from(lt.Node1), spoofed},
		{"another node's", tx, lt.Open, from(lt.Node2), spoofed},
		{"an unused one of the podCIDR", tx, lt.Open, from(lt.Nobody1), spoofed},
		{"the world's", tx, lt.Open, from(lt.World), spoofed},
		{"loopback", tx, lt.Open, from(netip.MustParseAddr("127.0.0.1")), spoofed},
		{"none", tx, lt.Open, from(zero), spoofed},
		{"its own, in ARP", tx, lt.Open, claim(lt.Open), arp},
		{"its own, in an ARP reply", tx, lt.Open, packet.ARP(2, packet.MAC1, lt.Open, packet.MAC2, lt.Bridge1), arp},
		{"none, in an ARP probe", tx, lt.Open, claim(zero), arp},
		{"another pod's, in ARP", tx, lt.Open, claim(lt.Server), spoofed},
		{"the bridge's, in ARP", tx, lt.Open, claim(lt.Bridge1), spoofed},
		{"the node's, in an ARP reply in a VLAN", tx, lt.Open, tagged(packet.ARP(2, packet.MAC1, lt.Node1, packet.MAC2, lt.Server), packet.Tag{ID: 1}), spoofed},
		{"a remote pod's, in an ARP announcement", tx, lt.Open, packet.ARP(1, packet.MAC1, lt.Client, packet.MAC{}, lt.Client), spoofed},
		{"its own as an isolated pod, in ARP", tx, lt.Locked, claim(lt.Locked), arp},
	})
}

// What a pod sends to the tunnel port of a node would be taken for that node's neighbour's.
func TestPodCannotSpeakTunnel(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	refused, ok := egress(drop(bpf.ReasonTunnelFromPod)), egress(pass(bpf.ReasonNotIsolated))
	const tunnel = packet.VXLANPort
	to := func(dst netip.Addr) packet.Spec { return udp(lt.Open, 40000, dst, tunnel) }
	addr := netip.MustParseAddr
	options := func(s packet.Spec) packet.Spec {
		s.Options = []byte{7, 39, 4, 39: 0}
		return s
	}
	walk(t, c, []step{
		{"another node", tx, lt.Open, to(lt.Node2), refused},
		{"another node's overlay address", tx, lt.Open, to(lt.VTEP2), refused},
		{"another node's bridge", tx, lt.Open, to(lt.VTEP2.Next()), refused},
		{"an unlisted address of another podCIDR", tx, lt.Open, to(lt.Nobody2), refused},
		{"its own node", tx, lt.Open, to(lt.Node1), refused},
		{"its own node's overlay address", tx, lt.Open, to(lt.VTEP1), refused},
		{"its bridge", tx, lt.Open, to(lt.Bridge1), refused},
		{"an unused address of its podCIDR", tx, lt.Open, to(lt.Nobody1), refused},
		{"its bridge's broadcast address", tx, lt.Open, to(addr("198.51.100.63")), refused},
		{"broadcast", tx, lt.Open, to(addr("255.255.255.255")), refused},
		{"a group", tx, lt.Open, to(addr("224.0.0.1")), refused},
		{"a reserved address", tx, lt.Open, to(addr("240.0.0.1")), refused},
		{"loopback", tx, lt.Open, to(addr("127.0.0.1")), refused},
		{"no address", tx, lt.Open, to(netip.IPv4Unspecified()), refused},
		{"behind options", tx, lt.Open, options(to(lt.Node2)), refused},
		{"in a VLAN", tx, lt.Open, tagged(to(lt.Node1), packet.Tag{ID: 1}), refused},
		{"in two VLANs", tx, lt.Open, tagged(to(lt.Node1), packet.Tag{EtherType: packet.EtherQinQ, ID: 1}, packet.Tag{ID: 2}), refused},
		{"a first fragment", tx, lt.Open, to(lt.Node1).Fragments(24)[0], refused},
		{"a first fragment behind options in a VLAN", tx, lt.Open, tagged(options(to(lt.Node1).Fragments(8)[0]), packet.Tag{ID: 1}), refused},
		{"an isolated pod's", tx, lt.Locked, udp(lt.Locked, 40000, lt.Node1, tunnel), refused},
		{"a pod may have a tunnel of its own", tx, lt.Open, to(lt.Client), ok},
		{"and one to the world", tx, lt.Open, to(lt.World), ok},
		{"the same port of TCP is another", tx, lt.Open, syn(lt.Open, lt.Node2, tunnel), ok},
		{"another port", tx, lt.Open, udp(lt.Open, tunnel, lt.Node2, tunnel+1), ok},
	})
	t.Run("the port is the overlay's", func(t *testing.T) {
		knobs := bpf.DefaultKnobs()
		knobs.VXLANPort = 4789
		c := lt.New(t, knobs, nil)
		walk(t, c, []step{
			{"4789", tx, lt.Open, udp(lt.Open, 1, lt.Node2, 4789), refused},
			{"8472", tx, lt.Open, udp(lt.Open, 1, lt.Node2, 8472), ok},
		})
	})
}

func TestEgressIsJudgedAtTheSender(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	denied := egress(drop(bpf.ReasonDeniedDefault))
	walk(t, c, []step{
		{"what a rule admits", tx, lt.Locked, syn(lt.Locked, lt.DB, 5432), egress(by(lt.AllowDB, pass(bpf.ReasonAllowed)))},
		{"another port", tx, lt.Locked, syn(lt.Locked, lt.DB, 5433), denied},
		{"another protocol", tx, lt.Locked, udp(lt.Locked, 1, lt.DB, 5432), denied},
		{"SCTP", tx, lt.Locked, packet.SCTP(at(lt.Locked, 1), at(lt.DB, 5432)), denied},
		{"an echo request", tx, lt.Locked, packet.Echo(lt.Locked, lt.DB, 1, 1), denied},
		{"a protocol without ports", tx, lt.Locked, packet.IP(lt.Locked, lt.DB, 47, make([]byte, 8)), denied},
		{"another peer", tx, lt.Locked, syn(lt.Locked, lt.Client, 5432), denied},
		{"the world", tx, lt.Locked, syn(lt.Locked, lt.World, 5432), denied},
		{"its own node", tx, lt.Locked, syn(lt.Locked, lt.Bridge1, 5432), denied},
		{"broadcast", tx, lt.Locked, udp(lt.Locked, 68, netip.MustParseAddr("255.255.255.255"), 67), denied},
		{"a segment that answers nothing", tx, lt.Locked, tcp(lt.Locked, 5432, lt.Client, 40000, packet.ACK), denied},
		{"itself", tx, lt.Locked, syn(lt.Locked, lt.Locked, 1), egress(pass(bpf.ReasonSelf))},
		{"itself, a later fragment", tx, lt.Locked, with(udp(lt.Locked, 1, lt.Locked, 2), func(s *packet.Spec) { s.Offset, s.Body = 64, make([]byte, 8) }), egress(pass(bpf.ReasonSelf))},
		{"a pod that no policy selects", tx, lt.Open, syn(lt.Open, lt.World, 1), egress(pass(bpf.ReasonNotIsolated))},
		{"a pod that only ingress policy selects", tx, lt.Server, syn(lt.Server, lt.World, 1), egress(pass(bpf.ReasonNotIsolated))},
	})
}

// The receiver's ingress policy is asked where the packet is still in the sender's interface.
func TestLocalReceiverIsAskedAtTheSender(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), lt.Model())
	walk(t, c, []step{
		{"nobody that its rules admit", tx, lt.Open, syn(lt.Open, lt.Server, 8080), drop(bpf.ReasonDeniedDefault)},
		{"a pod that is closed", tx, lt.Open, syn(lt.Open, lt.Locked, 8080), drop(bpf.ReasonDeniedDefault)},
		{"a pod that is open", tx, lt.Server, syn(lt.Server, lt.Open, 8080), egress(pass(bpf.ReasonNotIsolated))},
	})
	// The same with a client of the server beside it: now the receiver admits what the sender may not send, too.
	model := lt.Model()
	for i := range model.Pods {
		if p := &model.Pods[i]; p.Name == "open" || p.Name == "locked" {
			p.Labels["role"] = "local"
		}
	}
	model.Pods[1].Labels["app"] = "client"
	c = lt.New(t, bpf.DefaultKnobs(), model)
	walk(t, c, []step{
		{"a client, the allow counted as the sender's", tx, lt.Open, syn(lt.Open, lt.Server, 8080), egress(pass(bpf.ReasonNotIsolated))},
		{"a client at another port", tx, lt.Open, syn(lt.Open, lt.Server, 80), drop(bpf.ReasonDeniedDefault)},
		{"what the sender may not send is counted as its denial", tx, lt.Locked, syn(lt.Locked, lt.Server, 8080), egress(drop(bpf.ReasonDeniedDefault))},
		{"the allow at the receiver", rx, lt.Server, syn(lt.Open, lt.Server, 8080), by(lt.AllowClient, pass(bpf.ReasonAllowed))},
	})
	model = lt.Model()
	model.Pods[1].Labels["app"] = "banned"
	c = lt.New(t, bpf.DefaultKnobs(), model)
	walk(t, c, []step{
		{"a rule of the receiver that denies", tx, lt.Open, syn(lt.Open, lt.Server, 8080), by(lt.DenyBanned, drop(bpf.ReasonDeniedRule))},
	})
}

// Whatever is not IPv4 or ARP cannot be judged: it passes where no policy asks, and only there.
func TestWhatCannotBeJudged(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	three := []packet.Tag{{ID: 1}, {ID: 2}, {ID: 3}}
	good := syn(lt.Open, lt.World, 80)
	for _, d := range []struct {
		name                  string
		hook                  bpf.Hook
		isolated, other       netip.Addr // in this hook's direction, and not
		way                   func(lt.Want) lt.Want
		toIsolated, fromOther packet.Spec
	}{
		{name: "sent", hook: tx, isolated: lt.Locked, other: lt.Server, way: egress},
		{name: "received", hook: rx, isolated: lt.Server, other: lt.Open, way: func(w lt.Want) lt.Want { return w }},
	} {
		t.Run(d.name, func(t *testing.T) {
			walk(t, c, []step{
				{"IPv6, isolated", d.hook, d.isolated, six, d.way(drop(bpf.ReasonIPv6))},
				{"IPv6 in a VLAN, isolated", d.hook, d.isolated, tagged(six, packet.Tag{ID: 1}), d.way(drop(bpf.ReasonIPv6))},
				{"IPv6, not isolated", d.hook, d.other, six, d.way(pass(bpf.ReasonNotIsolated))},
				{"another EtherType, isolated", d.hook, d.isolated, strange, d.way(drop(bpf.ReasonNotIPIsolated))},
				{"another EtherType in a VLAN, isolated", d.hook, d.isolated, tagged(strange, packet.Tag{ID: 1}), d.way(drop(bpf.ReasonNotIPIsolated))},
				{"another EtherType, not isolated", d.hook, d.other, strange, d.way(pass(bpf.ReasonNotIsolated))},
				{"three tags, not isolated", d.hook, d.other, tagged(good, three...), d.way(drop(bpf.ReasonPodTags))},
				{"three tags, isolated", d.hook, d.isolated, tagged(good, three...), d.way(drop(bpf.ReasonPodTags))},
				{"half a TCP header", d.hook, d.other, cut(good, 14+20+10), d.way(drop(bpf.ReasonMalformed))},
				{"half a UDP header", d.hook, d.other, cut(udp(lt.Open, 1, lt.World, 2), 14+20+6), d.way(drop(bpf.ReasonMalformed))},
				{"half an SCTP header", d.hook, d.other, cut(packet.SCTP(at(lt.Open, 1), at(lt.World, 2)), 14+20+12), d.way(drop(bpf.ReasonMalformed))},
				{"half an ICMP header", d.hook, d.other, cut(packet.Echo(lt.Open, lt.World, 1, 1), 14+20+4), d.way(drop(bpf.ReasonMalformed))},
				{"half an ARP packet", d.hook, d.other, cut(packet.ARP(1, packet.MAC1, lt.Open, packet.MAC{}, lt.Bridge1), 14+20), d.way(drop(bpf.ReasonMalformed))},
				{"options beyond the end", d.hook, d.other, with(good, func(s *packet.Spec) {
					s.Break = func(b []byte, l packet.Layout) []byte { b[l.IP] = 0x4f; return b }
				}), d.way(drop(bpf.ReasonMalformed))},
				{"a length less than the header's", d.hook, d.other, with(good, func(s *packet.Spec) {
					s.Break = func(b []byte, l packet.Layout) []byte { b[l.IP+2], b[l.IP+3] = 0, 19; return b }
				}), d.way(drop(bpf.ReasonMalformed))},
				{"ports beyond the length", d.hook, d.other, with(good, func(s *packet.Spec) {
					s.Break = func(b []byte, l packet.Layout) []byte { b[l.IP+2], b[l.IP+3] = 0, 24; return b }
				}), d.way(drop(bpf.ReasonMalformed))},
			})
		})
	}
}

// By default what is behind an interface that nobody knows is counted; with the option it is dropped.
func TestUnknownInterfaces(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		knobs := bpf.DefaultKnobs()
		knobs.UnknownEndpointDrop = refuse
		c := lt.New(t, knobs, nil)
		want := pass(bpf.ReasonUnknownEndpoint)
		if refuse {
			want = drop(bpf.ReasonUnknownEndpoint)
		}
		for i := range c.Compiled.Endpoints {
			if err := c.Tables().ClearInterface(c.Compiled.Endpoints[i].Slot); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []packet.Spec{syn(lt.Open, lt.World, 1), six, strange} {
			expect(t, c, step{hook: tx, frame: f, want: egress(want)})
			expect(t, c, step{hook: rx, frame: f, want: want})
		}
	}
}
