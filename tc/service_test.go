// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
	"github.com/weirnet/weir/policy"
)

// A Service address is judged by what stands behind it.
func TestServicesAreJudgedByTheirBackends(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	refused := egress(drop(bpf.ReasonDeniedService))
	datagram := packet.UDP(at(lt.Locked, 1), at(lt.ServiceDB, 80))
	long := with(tcp(lt.Locked, 1, lt.ServiceDB, 80, packet.ACK), func(s *packet.Spec) { s.ID, s.Payload = 5, make([]byte, 100) }).Fragments(64)
	walk(t, c, []step{
		{"all admitted", tx, lt.Locked, syn(lt.Locked, lt.ServiceDB, 80), egress(pass(bpf.ReasonService))},
		{"none admitted", tx, lt.Locked, syn(lt.Locked, lt.ServiceClient, 80), refused},
		{"none admitted, no new connection", tx, lt.Locked, tcp(lt.Locked, 1, lt.ServiceClient, 80, packet.ACK), refused},
		{"some admitted", tx, lt.Locked, syn(lt.Locked, lt.ServiceMixed, 80), egress(pass(bpf.ReasonServiceMixed))},
		{"a port that no Service has", tx, lt.Locked, syn(lt.Locked, lt.ServiceDB, 81), egress(drop(bpf.ReasonDeniedDefault))},
		{"a protocol that no Service has", tx, lt.Locked, datagram, egress(drop(bpf.ReasonDeniedDefault))},
		{"a pod that may go anywhere", tx, lt.Open, syn(lt.Open, lt.ServiceClient, 80), egress(pass(bpf.ReasonNotIsolated))},
		{"the first fragment", tx, lt.Locked, long[0], egress(pass(bpf.ReasonService))},
		{"and what follows it", tx, lt.Locked, long[1], egress(pass(bpf.ReasonService))},
	})
}

// Where nothing takes new connections, what there are go on: the backend that they have is judged after translation.
func TestServiceWithoutBackends(t *testing.T) {
	model := lt.Model()
	model.Services[2].Ports[0].Backends = nil
	knobs := bpf.DefaultKnobs()
	c := lt.New(t, knobs, model)
	refused := egress(drop(bpf.ReasonDeniedService))
	walk(t, c, []step{
		{"a new connection", tx, lt.Locked, syn(lt.Locked, lt.ServiceClient, 80), refused},
		{"an open one", tx, lt.Locked, tcp(lt.Locked, 1, lt.ServiceClient, 80, packet.ACK), egress(pass(bpf.ReasonServiceMixed))},
		{"of a pod that may go anywhere", tx, lt.Open, syn(lt.Open, lt.ServiceClient, 80), egress(pass(bpf.ReasonNotIsolated))},
	})
}

// A backend on the node itself passes no hook after translation: unless it is admitted, a mixed set is refused.
func TestServiceWithBackendOnTheHost(t *testing.T) {
	for _, test := range []struct {
		name  string
		admit bool
		want  bpf.Reason
	}{{"refused", false, bpf.ReasonDeniedService}, {"admitted", true, bpf.ReasonServiceMixed}} {
		t.Run(test.name, func(t *testing.T) {
			model := lt.Model()
			mixed := &model.Services[1].Ports[0]
			mixed.Backends = append(mixed.Backends, at(lt.Node1, 5432))
			if test.admit {
				rules := &model.Policies[1].Rules
				*rules = append(*rules, policy.Rule{Path: "spec.egress[1]", Direction: policy.Egress,
					Peers: []policy.Peer{{Kind: policy.PeerEntity, Entity: policy.EntityHost}}, Ports: []policy.PortMatch{policy.AnyPort}})
			}
			c := lt.New(t, bpf.DefaultKnobs(), model)
			verdict := bpf.VerdictDrop
			if test.admit {
				verdict = bpf.VerdictPass
			}
			expect(t, c, step{hook: tx, pod: lt.Locked, frame: syn(lt.Locked, lt.ServiceMixed, 80), want: egress(lt.Want{Verdict: verdict, Reason: test.want})})
		})
	}
}

// Behind a Service address a node's tunnel port is as much out of reach as at its own; a pod's is not.
func TestServiceIsNoWayIntoTheTunnel(t *testing.T) {
	model := lt.Model()
	service := func(name string, addr netip.Addr, port uint16, backend netip.Addr) policy.Service {
		return policy.Service{Namespace: "test", Name: name, Addrs: []netip.Addr{addr}, Ports: []policy.ServicePort{{
			Protocol: policy.UDP, Port: port, Backends: []netip.AddrPort{at(backend, packet.VXLANPort)}}}}
	}
	addr := netip.MustParseAddr
	model.Services = append(model.Services,
		service("node", addr("203.0.113.210"), 53, lt.Node2), service("here", addr("203.0.113.211"), 53, lt.Bridge1),
		service("pod", addr("203.0.113.212"), packet.VXLANPort, lt.Client), service("mask", lt.Node2, packet.VXLANPort, lt.Client))
	c := lt.New(t, bpf.DefaultKnobs(), model)
	refused := egress(drop(bpf.ReasonTunnelFromPod))
	walk(t, c, []step{
		{"another node's", tx, lt.Open, udp(lt.Open, 1, addr("203.0.113.210"), 53), refused},
		{"its own node's", tx, lt.Open, udp(lt.Open, 1, addr("203.0.113.211"), 53), refused},
		{"an isolated pod's", tx, lt.Locked, udp(lt.Locked, 1, addr("203.0.113.210"), 53), refused},
		{"a pod's", tx, lt.Open, udp(lt.Open, 1, addr("203.0.113.212"), packet.VXLANPort), egress(pass(bpf.ReasonNotIsolated))},
		{"a Service that claims a node's address", tx, lt.Open, udp(lt.Open, 1, lt.Node2, packet.VXLANPort), refused},
		{"a node's after translation", overlay, netip.Addr{}, udp(lt.Open, 1, lt.Node2, packet.VXLANPort), refused},
		{"a pod's after translation", overlay, netip.Addr{}, udp(lt.Open, 1, lt.Client, packet.VXLANPort), egress(pass(bpf.ReasonUntouched))},
		{"the node's own", overlay, netip.Addr{}, udp(lt.Node1, 1, lt.Node2, packet.VXLANPort), egress(pass(bpf.ReasonUntouched))},
	})
}

// A NodePort is what is behind it under the underlay addresses of all nodes and every address of this one, and nothing else.
func TestNodePortsAreServices(t *testing.T) {
	model := lt.Model()
	model.Services = append(model.Services, policy.Service{Namespace: "test", Name: "db-nodes", NodePorts: true, Ports: []policy.ServicePort{{
		Protocol: policy.TCP, Port: 80, NodePort: 30080, Backends: []netip.AddrPort{at(lt.DB, 5432)}}}},
		policy.Service{Namespace: "test", Name: "client-nodes", NodePorts: true, Ports: []policy.ServicePort{{
			Protocol: policy.TCP, Port: 80, NodePort: 30081, Backends: []netip.AddrPort{at(lt.Client, 80)}}}})
	c := lt.New(t, bpf.DefaultKnobs(), model)
	served, refused := egress(pass(bpf.ReasonService)), egress(drop(bpf.ReasonDeniedService))
	nowhere := egress(drop(bpf.ReasonDeniedDefault))
	walk(t, c, []step{
		{"another node's", tx, lt.Locked, syn(lt.Locked, lt.Node2, 30080), served},
		{"its own node's", tx, lt.Locked, syn(lt.Locked, lt.Node1, 30080), served},
		{"its own node's bridge's", tx, lt.Locked, syn(lt.Locked, lt.Bridge1, 30080), served},
		{"another node's, of a backend that no rule admits", tx, lt.Locked, syn(lt.Locked, lt.Node2, 30081), refused},
		{"another node's VTEP's is none", tx, lt.Locked, syn(lt.Locked, lt.VTEP2, 30080), nowhere},
		{"another port is none", tx, lt.Locked, syn(lt.Locked, lt.Node2, 30082), nowhere},
		{"the world's is none", tx, lt.Locked, syn(lt.Locked, lt.World, 30080), nowhere},
		{"no address at all is none", tx, lt.Locked, syn(lt.Locked, netip.IPv4Unspecified(), 30080), nowhere},
	})
}

// What leaves the node and is no pod's, or nothing that can be judged, is none of weir's business there.
func TestOverlayLeavesTheRestAlone(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	untouched := egress(pass(bpf.ReasonUntouched))
	for name, f := range map[string]packet.Spec{
		"the node's": syn(lt.Node1, lt.Node2, 6443), "a pod's": syn(lt.Server, lt.Client, 80), "IPv6": six, "another EtherType": strange,
		"three tags": tagged(syn(lt.Open, lt.World, 80), packet.Tag{}, packet.Tag{}, packet.Tag{}), "half a header": cut(syn(lt.Node1, lt.Node2, 1), 40),
		"ARP": packet.ARP(1, packet.MAC1, lt.Node1, packet.MAC{}, lt.Node2),
	} {
		t.Run(name, func(t *testing.T) { expect(t, c, step{hook: overlay, frame: f, want: untouched}) })
	}
}

// Where only some backends are admitted, the sender's slot travels with the packet to the hook that sees which was chosen.
func TestChosenBackendIsJudgedForTheSender(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	c := lt.New(t, knobs, nil)
	x := newChain(t, c, knobs)
	const choosing = 0xb000 // CHOOSING in pod.c
	slot := func(a netip.Addr) uint16 { return c.Compiled.Address(a).Slot }
	locked, server := choosing|slot(lt.Locked), choosing|slot(lt.Server)

	x.run(t, c, tx, []passage{
		{"a mixed set", lt.Locked, syn(lt.Locked, lt.ServiceMixed, 80), 0, true, locked},
		{"what the pod wrote there goes", lt.Locked, syn(lt.Locked, lt.ServiceMixed, 80), server, true, locked},
		{"and goes where nothing is left to judge", lt.Locked, syn(lt.Locked, lt.ServiceDB, 80), server, true, 0},
	})

	fragments := func(backend netip.Addr, id uint16) []packet.Spec {
		return with(tcp(lt.Locked, 1, backend, 5432, packet.ACK), func(s *packet.Spec) { s.ID, s.Payload = id, make([]byte, 100) }).Fragments(64)
	}
	good, bad := fragments(lt.DB, 5), fragments(lt.Client, 6)
	none := netip.Addr{}
	x.run(t, c, overlay, []passage{
		{"an admitted backend", none, syn(lt.Locked, lt.DB, 5432), locked, true, 0},
		{"another one", none, syn(lt.Locked, lt.Client, 5432), locked, false, 0},
		{"another one, masqueraded", none, syn(lt.Node1, lt.Client, 5432), locked, false, 0},
		{"an admitted backend, masqueraded", none, syn(lt.Node1, lt.DB, 5432), locked, true, 0},
		{"a later fragment alone", none, good[1], locked, false, 0},
		{"an admitted first fragment", none, good[0], locked, true, 0},
		{"and what follows it", none, good[1], locked, true, 0},
		{"another backend's first fragment", none, bad[0], locked, false, 0},
		{"and what would follow it", none, bad[1], locked, false, 0},
		{"a sender that is no longer isolated", none, syn(lt.Locked, lt.Client, 5432), server, true, 0},
		{"somebody else's number", none, syn(lt.Node1, lt.Client, 5432), 5, true, 5},
	})
	// The last but one was for a sender without egress policy, and has left a flow; the refused one has not.
	if got := where(t, c, keyOf(syn(lt.Locked, lt.DB, 5432))); got != fresh {
		t.Errorf("the flow to the chosen backend is %s, want %s", got, fresh)
	}
	if got := where(t, c, keyOf(tcp(lt.Locked, 1, lt.Client, 5432, packet.ACK))); got != unknown {
		t.Errorf("the flow to a refused backend is %s: its answers would pass", got)
	}

	// A local backend's own pod_rx is the first hook that sees which was chosen.
	x.run(t, c, rx, []passage{
		{"a local backend, a sender that may not", lt.Open, syn(lt.Locked, lt.Open, 5432), locked, false, 0},
		{"a local backend, a sender without egress policy", lt.Open, syn(lt.Server, lt.Open, 5432), server, true, 0},
		{"a local backend that is isolated itself", lt.Server, syn(lt.Open, lt.Server, 5432), server, false, 0},
	})
}

// A backend that was refused after translation must not pass as the answer to what never reached it.
func TestRefusedBackendLeavesNoFlow(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	c := lt.New(t, knobs, nil)
	x := newChain(t, c, knobs)
	locked := 0xb000 | c.Compiled.Address(lt.Locked).Slot
	x.run(t, c, overlay, []passage{{"refused", netip.Addr{}, udp(lt.Locked, 1, lt.Client, 5432), locked, false, 0}})
	expect(t, c, step{hook: nic, frame: udp(lt.Client, 5432, lt.Locked, 1), want: drop(bpf.ReasonDeniedDefault)})
}

// The VXLAN socket listens on every address of the host, on those too that nobody has told weir: the kernel is asked.
func TestTunnelPortAtAddressesThatOnlyTheKernelKnows(t *testing.T) {
	knobs := bpf.DefaultKnobs()
	c := lt.New(t, knobs, nil)
	x := newChain(t, c, knobs)
	addr := netip.MustParseAddr
	to := func(name string, dst netip.Addr, port uint16, passes bool) passage {
		return passage{name: name, pod: lt.Open, frame: udp(lt.Open, 40000, dst, port), passes: passes}
	}
	const tunnel = packet.VXLANPort
	x.run(t, c, tx, []passage{
		to("an address beside the node's", addr("169.254.20.10"), tunnel, false),
		to("the same, another port", addr("169.254.20.10"), 53, true),
		to("beside it", addr("169.254.20.11"), tunnel, true),
		to("a network's broadcast address", addr("203.0.113.63"), tunnel, false),
		to("the world", lt.World, tunnel, true),
	}, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		index := 0
		for _, on := range []struct{ link, address string }{{"lo", "169.254.20.10/32"}, {"a", "203.0.113.1/26"}} {
			link, err := netlink.LinkByName(on.link)
			if err != nil {
				return err
			}
			address, err := netlink.ParseAddr(on.address)
			if err != nil {
				return err
			}
			if err := errors.Join(netlink.LinkSetUp(link), netlink.AddrAdd(link, address)); err != nil {
				return err
			}
			index = link.Attrs().Index
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	})
}
