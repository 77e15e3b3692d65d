// SPDX-License-Identifier: Apache-2.0

package xdp_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader/loadertest"
)

const vni = 1

var (
	drop      = func(r bpf.Reason) loadertest.Want { return loadertest.Want{Verdict: bpf.VerdictDrop, Reason: r} }
	pass      = func(r bpf.Reason) loadertest.Want { return loadertest.Want{Verdict: bpf.VerdictPass, Reason: r} }
	handedUp  = pass(bpf.ReasonHandedUp)
	denied    = drop(bpf.ReasonDeniedDefault)
	untouched = pass(bpf.ReasonUntouched)
)

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

func syn(src, dst netip.Addr, port uint16) packet.Spec {
	return packet.TCP(at(src, 40000), at(dst, port), packet.SYN)
}

// inner is s as node-2's VTEP frames it for ours.
func inner(s packet.Spec) []byte { return s.Via(loadertest.MAC2, loadertest.MAC1).Bytes() }

// outer is what node-2 sends to us.
func outer() packet.Spec { return packet.Underlay(loadertest.Node2, loadertest.Node1) }

func vxlan(s packet.Spec) []byte { return packet.VXLAN(outer(), vni, inner(s)) }

// tampered is vxlan(s) with the VXLAN header, or the frame behind it, changed.
func tampered(s packet.Spec, change func(header []byte)) []byte {
	frame := outer()
	full := packet.Encapsulate(frame, vni, inner(s))
	b := full.Bytes()
	change(b[full.At().Payload:])
	return b
}

func TestOverlayPacketsAreJudgedByTheirInnerHeaders(t *testing.T) {
	c := loadertest.New(t, bpf.DefaultKnobs(), nil)
	ok := syn(loadertest.Client, loadertest.Server, 8080)
	tagged := func(ids ...uint16) []byte {
		o := outer()
		for _, id := range ids {
			o.Tags = append(o.Tags, packet.Tag{ID: id})
		}
		return packet.VXLAN(o, vni, inner(ok))
	}
	withOptions := func(s packet.Spec) packet.Spec { s.Options = []byte{7, 7, 4, 0, 0, 0, 0, 1}; return s }
	denyRule := drop(bpf.ReasonDeniedRule)
	denyRule.Rule = loadertest.DenyBanned
	for _, c2 := range []struct {
		name  string
		frame []byte
		want  loadertest.Want
	}{
		{"what a rule admits goes up", vxlan(ok), handedUp},
		{"another port does not", vxlan(syn(loadertest.Client, loadertest.Server, 80)), denied},
		{"another protocol does not", vxlan(packet.UDP(at(loadertest.Client, 40000), at(loadertest.Server, 8080))), denied},
		{"SCTP does not", vxlan(packet.SCTP(at(loadertest.Client, 40000), at(loadertest.Server, 8080))), denied},
		{"an echo request does not", vxlan(packet.Echo(loadertest.Client, loadertest.Server, 7, 1)), denied},
		{"a protocol without ports does not", vxlan(packet.IP(loadertest.Client, loadertest.Server, 47, make([]byte, 8))), denied},
		{"another peer does not", vxlan(syn(loadertest.DB, loadertest.Server, 8080)), denied},
		{"an unlisted pod address is nobody's peer", vxlan(syn(loadertest.Nobody2, loadertest.Server, 8080)), denied},
		{"a deny rule names itself", vxlan(syn(loadertest.Banned, loadertest.Server, 8080)), denyRule},
		{"a node may speak for itself", vxlan(syn(loadertest.VTEP2, loadertest.Open, 8080)), handedUp},
		{"a LAN behind a node is world", vxlan(packet.UDP(at(loadertest.Resolver, 40000), at(loadertest.Server, 53))), handedUp},
		{"a pod that no policy selects is reached", vxlan(syn(loadertest.Banned, loadertest.Open, 22)), handedUp},
		{"a SYN to a pod without ingress rules is dropped", vxlan(syn(loadertest.DB, loadertest.Locked, 1)), denied},
		{"a segment without a flow is dropped", vxlan(packet.TCP(at(loadertest.DB, 5432), at(loadertest.Locked, 40000), packet.ACK)), denied},
		{"one VLAN tag", tagged(10), handedUp},
		{"two VLAN tags", tagged(10, 20), handedUp},
		{"three VLAN tags cannot be read", tagged(10, 20, 30), drop(bpf.ReasonOuterTags)},
		{"outer IP options", packet.VXLAN(withOptions(outer()), vni, inner(ok)), handedUp},
		{"inner IP options", vxlan(withOptions(ok)), handedUp},
		{"inner IP options do not hide a port", vxlan(withOptions(syn(loadertest.Client, loadertest.Server, 80))), denied},
		{"to this node's bridge", vxlan(syn(loadertest.Client, loadertest.Bridge1, 10250)), pass(bpf.ReasonToHost)},
		{"to an address that is not here", vxlan(syn(loadertest.Client, loadertest.World, 80)), pass(bpf.ReasonTransit)},
		{"to our podCIDR without a pod", vxlan(syn(loadertest.Client, loadertest.Nobody1, 80)), pass(bpf.ReasonUnknownEndpoint)},
	} {
		t.Run(c2.name, func(t *testing.T) { c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, c2.frame, c2.want) })
	}
}

// violations are frames that the overlay check finds fault with, and what observe mode does with each after counting it.
func violations() []struct {
	name   string
	frame  []byte
	reason bpf.Reason
	then   bpf.Reason // none: the packet goes up with the violation as its reason
} {
	ok := syn(loadertest.Client, loadertest.Server, 8080)
	from := func(src netip.Addr) packet.Spec { return packet.Underlay(src, loadertest.Node1) }
	mac := func(src, dst [6]byte) []byte { return packet.VXLAN(outer(), vni, ok.Via(src, dst).Bytes()) }
	to := func(dst netip.Addr) []byte {
		return packet.VXLAN(packet.Underlay(loadertest.Node2, dst), vni, inner(ok))
	}
	fragment := packet.Encapsulate(outer(), vni, inner(ok)).Fragments(64)[0].Bytes()
	arp := packet.ARP(1, loadertest.MAC2, loadertest.Client, packet.MAC{}, loadertest.Server)
	arp.DstMAC = loadertest.MAC1
	six := packet.UDP(netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2"))
	taggedInside := ok.Via(loadertest.MAC2, loadertest.MAC1)
	taggedInside.Tags = []packet.Tag{{ID: 5}}
	shortUDP := outer()
	full := packet.Encapsulate(shortUDP, vni, inner(ok))
	wrongLength := full.Bytes()
	binary.BigEndian.PutUint16(wrongLength[full.At().Transport+4:], 20)
	// Behind options, for the general way: ten bytes of the inner packet stand where the outer one has ended.
	ends := outer()
	ends.Options = []byte{1, 1, 1, 1}
	padded := append(packet.VXLAN(ends, vni, inner(ok)), make([]byte, 10)...)
	binary.BigEndian.PutUint16(padded[14+24+8+8+14+2:], uint16(40+10))
	none := bpf.ReasonNone
	return []struct {
		name   string
		frame  []byte
		reason bpf.Reason
		then   bpf.Reason
	}{
		{"VXLAN from outside the cluster", packet.VXLAN(from(loadertest.Outsider), vni, inner(ok)), bpf.ReasonUnknownVTEP, bpf.ReasonHandedUp},
		{"VXLAN from a pod address", packet.VXLAN(from(loadertest.Client), vni, inner(ok)), bpf.ReasonUnknownVTEP, bpf.ReasonHandedUp},
		{"VXLAN from a node's overlay address", packet.VXLAN(from(loadertest.VTEP2), vni, inner(ok)), bpf.ReasonUnknownVTEP, bpf.ReasonHandedUp},
		{"VXLAN from nowhere", packet.VXLAN(from(netip.IPv4Unspecified()), vni, inner(ok)), bpf.ReasonUnknownVTEP, bpf.ReasonHandedUp},
		{"VXLAN from the broadcast address", packet.VXLAN(from(netip.MustParseAddr("255.255.255.255")), vni, inner(ok)), bpf.ReasonUnknownVTEP, bpf.ReasonHandedUp},
		{"the MAC of another VTEP", mac(loadertest.MAC3, loadertest.MAC1), bpf.ReasonSpoofedMAC, bpf.ReasonHandedUp},
		{"a frame for another VTEP", mac(loadertest.MAC2, loadertest.MAC3), bpf.ReasonInnerMAC, none},
		{"a broadcast frame", mac(loadertest.MAC2, packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), bpf.ReasonInnerMAC, none},
		{"a pod of another node", packet.VXLAN(packet.Underlay(loadertest.Node3, loadertest.Node1), vni,
			ok.Via(loadertest.MAC3, loadertest.MAC1).Bytes()), bpf.ReasonSpoofedInner, bpf.ReasonHandedUp},
		{"another node's own address", vxlan(syn(loadertest.Node3, loadertest.Open, 80)), bpf.ReasonSpoofedInner, bpf.ReasonHandedUp},
		{"another node's unlisted address", vxlan(syn(netip.MustParseAddr("198.51.100.150"), loadertest.Open, 80)), bpf.ReasonSpoofedInner, bpf.ReasonHandedUp},
		{"a plain packet from a tunnelled pod", syn(loadertest.Client, loadertest.Server, 8080).Bytes(), bpf.ReasonUntunnelled, bpf.ReasonHandedUp},
		{"a plain packet from a tunnelled node's VTEP", syn(loadertest.VTEP2, loadertest.Open, 80).Bytes(), bpf.ReasonUntunnelled, bpf.ReasonHandedUp},
		{"a plain packet from a tunnelled pod to the host", syn(loadertest.Client, loadertest.Node1, 22).Bytes(), bpf.ReasonUntunnelled, bpf.ReasonUntouched},
		{"our tunnel port at the bridge's address", to(loadertest.Bridge1), bpf.ReasonTunnelStray, none},
		{"our tunnel port at the overlay address", to(loadertest.VTEP1), bpf.ReasonTunnelStray, none},
		{"our tunnel port at the broadcast address", to(netip.MustParseAddr("255.255.255.255")), bpf.ReasonTunnelStray, none},
		{"our tunnel port at a group", to(netip.MustParseAddr("224.0.0.1")), bpf.ReasonTunnelStray, none},
		{"our tunnel port at a pod", to(loadertest.Open), bpf.ReasonTunnelStray, none},
		{"an outer first fragment", fragment, bpf.ReasonOuterFragment, none},
		{"the I flag missing", tampered(ok, func(h []byte) { h[0] = 0 }), bpf.ReasonVXLANMalformed, none},
		{"a reserved flag", tampered(ok, func(h []byte) { h[0] |= 0x80 }), bpf.ReasonVXLANMalformed, none},
		{"a reserved byte behind the VNI", tampered(ok, func(h []byte) { h[7] = 1 }), bpf.ReasonVXLANMalformed, none},
		{"a UDP length that is not the packet's", wrongLength, bpf.ReasonVXLANMalformed, none},
		{"nothing behind the VXLAN header", packet.VXLAN(outer(), vni, nil), bpf.ReasonInnerMalformed, none},
		{"half an inner IP header", packet.VXLAN(outer(), vni, inner(ok)[:24]), bpf.ReasonInnerMalformed, none},
		{"half an inner TCP header", packet.VXLAN(outer(), vni, inner(ok)[:44]), bpf.ReasonInnerMalformed, none},
		{"an inner header length of four words", tampered(ok, func(h []byte) { h[8+14] = 0x44 }), bpf.ReasonInnerMalformed, none},
		{"an inner version 5", tampered(ok, func(h []byte) { h[8+14] = 0x55 }), bpf.ReasonInnerMalformed, none},
		{"an inner length beyond the frame", tampered(ok, func(h []byte) { h[8+14+2] = 0x10 }), bpf.ReasonInnerMalformed, none},
		{"an inner packet that ends in the frame's padding", padded, bpf.ReasonInnerMalformed, none},
		{"an inner source of zero", vxlan(syn(netip.MustParseAddr("0.0.0.0"), loadertest.Server, 8080)), bpf.ReasonInnerMartian, none},
		{"an inner loopback source", vxlan(syn(netip.MustParseAddr("127.0.0.1"), loadertest.Server, 8080)), bpf.ReasonInnerMartian, none},
		{"an inner group source", vxlan(syn(netip.MustParseAddr("224.1.1.1"), loadertest.Server, 8080)), bpf.ReasonInnerMartian, none},
		{"an inner group destination", vxlan(syn(loadertest.Client, netip.MustParseAddr("224.0.0.1"), 8080)), bpf.ReasonInnerMartian, none},
		{"inner ARP", packet.VXLAN(outer(), vni, arp.Bytes()), bpf.ReasonInnerNotIPv4, none},
		{"inner IPv6", packet.VXLAN(outer(), vni, inner(six)), bpf.ReasonInnerNotIPv4, none},
		{"an inner VLAN tag", packet.VXLAN(outer(), vni, taggedInside.Bytes()), bpf.ReasonInnerTags, none},
	}
}

func TestViolationsAreDroppedUnderEnforce(t *testing.T) {
	c := loadertest.New(t, bpf.DefaultKnobs(), nil)
	for _, v := range violations() {
		t.Run(v.name, func(t *testing.T) { c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, v.frame, drop(v.reason)) })
	}
}

func TestViolationsAreCountedUnderObserve(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	knobs.SpoofEnforce = false
	c := loadertest.New(t, knobs, nil)
	for _, v := range violations() {
		t.Run(v.name, func(t *testing.T) {
			want := loadertest.Want{Verdict: bpf.VerdictObserve, Reason: v.reason}
			if v.then != bpf.ReasonNone {
				want = loadertest.Want{Verdict: bpf.VerdictPass, Reason: v.then, Observed: v.reason}
			}
			c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, v.frame, want)
		})
	}
}

// A violation that observe mode lets go on is still judged by policy.
func TestObserveDoesNotOverrideThePolicy(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	knobs.SpoofEnforce = false
	c := loadertest.New(t, knobs, nil)
	frame := packet.VXLAN(packet.Underlay(loadertest.Outsider, loadertest.Node1), vni, inner(syn(loadertest.DB, loadertest.Server, 8080)))
	want := denied
	want.Observed = bpf.ReasonUnknownVTEP
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, frame, want)
}

func TestWhatIsDroppedInBothModes(t *testing.T) {
	tunnel := packet.UDP(at(loadertest.Client, 40000), at(loadertest.Bridge1, packet.VXLANPort), make([]byte, 60)...)
	broadcast := packet.UDP(at(loadertest.Client, 40000), at(netip.MustParseAddr("198.51.100.63"), packet.VXLANPort), make([]byte, 60)...)
	group := packet.UDP(at(loadertest.Client, 40000), at(netip.MustParseAddr("224.0.0.1"), packet.VXLANPort), make([]byte, 60)...)
	elsewhere := packet.UDP(at(loadertest.Client, 40000), at(netip.MustParseAddr("169.254.20.10"), packet.VXLANPort), make([]byte, 60)...)
	back := packet.UDP(at(loadertest.Client, 40000), at(loadertest.Node3, packet.VXLANPort), make([]byte, 60)...)
	short := syn(loadertest.World, loadertest.Server, 8080).Bytes()
	for _, enforce := range []bool{true, false} {
		knobs := bpf.DefaultKnobs()
		knobs.SpoofEnforce = enforce
		c := loadertest.New(t, knobs, nil)
		for _, c2 := range []struct {
			name   string
			frame  []byte
			reason bpf.Reason
		}{
			{"an inner source that is our pod", vxlan(syn(loadertest.Open, loadertest.Server, 8080)), bpf.ReasonSpoofedLocal},
			{"an inner source that is our bridge", vxlan(syn(loadertest.Bridge1, loadertest.Server, 8080)), bpf.ReasonSpoofedLocal},
			{"an inner source that is our NIC", vxlan(syn(loadertest.Node1, loadertest.Server, 8080)), bpf.ReasonSpoofedLocal},
			{"an inner source in our podCIDR", vxlan(syn(loadertest.Nobody1, loadertest.Server, 8080)), bpf.ReasonSpoofedLocal},
			{"an outer source that is ours", packet.VXLAN(packet.Underlay(loadertest.Node1, loadertest.Node1), vni, inner(syn(loadertest.Client, loadertest.Server, 8080))), bpf.ReasonSpoofedLocal},
			{"a plain packet from our pod", syn(loadertest.Open, loadertest.Server, 8080).Bytes(), bpf.ReasonSpoofedLocal},
			{"a plain packet from our node", syn(loadertest.Node1, loadertest.Server, 8080).Bytes(), bpf.ReasonSpoofedLocal},
			{"a tunnel in the tunnel", vxlan(tunnel), bpf.ReasonNestedTunnel},
			{"a tunnel in the tunnel, to the bridge's broadcast address", vxlan(broadcast), bpf.ReasonNestedTunnel},
			{"a tunnel in the tunnel, to a group", vxlan(group), bpf.ReasonNestedTunnel},
			{"a tunnel in the tunnel, to an address that only the kernel may know", vxlan(elsewhere), bpf.ReasonNestedTunnel},
			{"a tunnel in the tunnel, to another node", vxlan(back), bpf.ReasonNestedTunnel},
			{"half an IP header", short[:30], bpf.ReasonMalformed},
			{"half a TCP header", short[:14+20+10], bpf.ReasonMalformed},
		} {
			t.Run(c2.name, func(t *testing.T) {
				c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, c2.frame, drop(c2.reason))
			})
		}
	}
}

func TestPlainPackets(t *testing.T) {
	c := loadertest.New(t, bpf.DefaultKnobs(), nil)
	tagged := syn(loadertest.World, loadertest.Server, 8080)
	tagged.Tags = []packet.Tag{{EtherType: packet.EtherQinQ, ID: 1}, {ID: 2}}
	six := packet.TCP(netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2"), packet.SYN)
	for _, c2 := range []struct {
		name  string
		frame []byte
		want  loadertest.Want
	}{
		{"a pod that our routes reach directly", syn(loadertest.Direct, loadertest.Server, 8080).Bytes(), handedUp},
		{"the same on another port", syn(loadertest.Direct, loadertest.Server, 80).Bytes(), denied},
		{"the world", syn(loadertest.World, loadertest.Server, 8080).Bytes(), denied},
		{"the world in two VLANs", tagged.Bytes(), denied},
		{"the world, a prefix that a rule names", packet.UDP(at(loadertest.Resolver, 9), at(loadertest.Server, 53)).Bytes(), handedUp},
		{"the world to a pod without policy", syn(loadertest.World, loadertest.Open, 1).Bytes(), handedUp},
		{"to the node itself", syn(loadertest.World, loadertest.Node1, 22).Bytes(), untouched},
		{"from a node to ours", syn(loadertest.Node2, loadertest.Node1, 6443).Bytes(), untouched},
		{"to our podCIDR without a pod", syn(loadertest.World, loadertest.Nobody1, 22).Bytes(), pass(bpf.ReasonUnknownEndpoint)},
		{"another VXLAN network on our port", packet.VXLAN(outer(), 7, inner(syn(loadertest.Open, loadertest.Server, 1))), pass(bpf.ReasonForeignVNI)},
		{"another UDP port", packet.UDP(at(loadertest.Node2, 1), at(loadertest.Node1, 4789), 1, 2, 3).Bytes(), untouched},
		{"an outer later fragment", packet.Encapsulate(outer(), vni, make([]byte, 200)).Fragments(64)[1].Bytes(), untouched},
		{"ARP", packet.ARP(1, packet.MAC1, loadertest.Node2, packet.MAC{}, loadertest.Node1).Bytes(), pass(bpf.ReasonNotIP)},
		{"IPv6", six.Bytes(), pass(bpf.ReasonNotIP)},
	} {
		t.Run(c2.name, func(t *testing.T) { c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, c2.frame, c2.want) })
	}
}

func TestUnknownEndpointsAreDroppedWhenAsked(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	knobs.UnknownEndpointDrop = true
	c := loadertest.New(t, knobs, nil)
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, vxlan(syn(loadertest.Client, loadertest.Nobody1, 80)), drop(bpf.ReasonUnknownEndpoint))
}

func TestPortAndNetworkAreConfigurable(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	knobs.VXLANPort, knobs.VNI = 4789, 4096
	c := loadertest.New(t, knobs, nil)
	o := outer()
	o.DstPort = 4789
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, packet.VXLAN(o, 4096, inner(syn(loadertest.Client, loadertest.Server, 80))), denied)
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, vxlan(syn(loadertest.Client, loadertest.Server, 80)), untouched)
}

// Strip leaves the outer Ethernet header and its tags, and the inner packet from its IP header on.
func TestStripRemovesTheOuterHeaders(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	knobs.DecapStrip = true
	c := loadertest.New(t, knobs, nil)
	ok := syn(loadertest.Client, loadertest.Server, 8080)
	stripped := func(o packet.Spec) []byte {
		frame := packet.VXLAN(o, vni, inner(ok))
		return slices.Concat(frame[:14+4*len(o.Tags)], inner(ok)[14:])
	}
	expect := func(name string, o packet.Spec, want loadertest.Want) {
		t.Run(name, func(t *testing.T) {
			c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, packet.VXLAN(o, vni, inner(ok)), want)
		})
	}
	o := outer()
	expect("plain", o, loadertest.Want{Reason: bpf.ReasonHandedUp, Out: stripped(o)})
	o.Tags = []packet.Tag{{ID: 10}}
	expect("one tag", o, loadertest.Want{Reason: bpf.ReasonHandedUp, Out: stripped(o)})
	o.Tags = []packet.Tag{{ID: 10}, {ID: 20}}
	expect("two tags", o, loadertest.Want{Reason: bpf.ReasonHandedUp, Out: stripped(o)})
	o.Tags, o.Options = nil, []byte{1, 1, 1, 1}
	expect("outer options", o, loadertest.Want{Reason: bpf.ReasonHandedUp, Out: stripped(o)})

	o = outer()
	o.NoChecksum = false
	expect("an outer checksum, as Linux and so flannel send it, keeps nothing from being stripped", o, loadertest.Want{Reason: bpf.ReasonHandedUp, Out: stripped(o)})
	o = outer()
	o.TOS = 3
	expect("congestion experienced outside only is left to the kernel", o, handedUp)
	o.TOS = 0xb8
	expect("a traffic class is not", o, loadertest.Want{Reason: bpf.ReasonHandedUp, Out: stripped(o)})

	t.Run("what is dropped is not changed", func(t *testing.T) {
		c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, vxlan(syn(loadertest.Client, loadertest.Server, 80)), denied)
	})
	t.Run("what is not for a pod is not changed", func(t *testing.T) {
		c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, vxlan(syn(loadertest.Client, loadertest.Bridge1, 80)), pass(bpf.ReasonToHost))
	})
}

// Later fragments take the first one's ports; without it they are dropped where the pod is isolated.
func TestInnerFragmentsAreJudgedByTheFirst(t *testing.T) {
	c := loadertest.New(t, bpf.DefaultKnobs(), nil)
	fragments := func(port uint16, id uint16) (first, later []byte) {
		whole := packet.UDP(at(loadertest.Resolver, 40000), at(loadertest.Server, port), make([]byte, 100)...)
		whole.ID = id
		parts := whole.Fragments(64)
		return vxlan(parts[0]), vxlan(parts[1])
	}
	first, later := fragments(53, 1)
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, later, drop(bpf.ReasonFragment))
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, first, handedUp)
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, later, handedUp)
	first, later = fragments(54, 2)
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, first, denied)
	c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, later, drop(bpf.ReasonFragment))
}
