// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader"
	lt "github.com/weirnet/weir/loader/loadertest"
	"github.com/weirnet/weir/policy"
)

// Packets that needed a permission, and answers that rested on it, stop with the first packet after the swap.
func TestRevokedPermission(t *testing.T) {
	w := newWorld(t, lt.Model())
	request, segment := syn(lt.Locked, lt.DB, 5432), tcp(lt.Locked, 40000, lt.DB, 5432, packet.ACK)
	answer := tcp(lt.DB, 5432, lt.Locked, 40000, packet.ACK)
	revoked := drop(bpf.ReasonRevoked)
	walk(t, w.Cluster, []step{
		{"asked", tx, lt.Locked, request, toDB},
		{"answered", nic, netip.Addr{}, request.Mirror(), handedUp},
	})
	w.become(t, without("server"))
	walk(t, w.Cluster, []step{
		{"another policy went: at the NIC", nic, netip.Addr{}, answer, handedUp},
		{"another policy went: at the pod", rx, lt.Locked, answer, reply},
		{"another policy went: the pod goes on", tx, lt.Locked, segment, toDB},
	})
	w.become(t, without1("locked", 0))
	walk(t, w.Cluster, []step{
		{"the permission went: at the NIC", nic, netip.Addr{}, answer, revoked},
		{"the permission went: at the pod", rx, lt.Locked, answer, revoked},
		{"the permission went: the pod itself", tx, lt.Locked, segment, egress(denied)},
		{"the permission went: no error about it either", rx, lt.Locked, packet.ICMPError(lt.World, lt.Locked, 3, 4, segment, 8), denied},
	})
	w.become(t, lt.Model())
	walk(t, w.Cluster, []step{
		{"it is back: at the NIC", nic, netip.Addr{}, answer, handedUp},
		{"it is back: the pod itself", tx, lt.Locked, segment, toDB},
	})
}

// A client's permission to reach a server goes. Neither has a flow: it needed none, and what the server still sends, which
// it may, must not make one that its client could answer.
func TestRevokedClientDoesNotAnswerItsServer(t *testing.T) {
	w := newWorld(t, lt.Model())
	request := syn(lt.Client, lt.Server, 8080)
	in := by(lt.AllowClient, pass(bpf.ReasonAllowed))
	ack := tcp(lt.Client, 40000, lt.Server, 8080, packet.ACK)
	served := tcp(lt.Server, 8080, lt.Client, 40000, packet.ACK|packet.PSH)
	ask := udp(lt.Resolver, 40000, lt.Server, 53)
	walk(t, w.Cluster, []step{
		{"asked", rx, lt.Server, request, in},
		{"handshake", tx, lt.Server, request.Mirror(), anywhere},
		{"acknowledged", rx, lt.Server, ack, in},
		{"served", tx, lt.Server, served, anywhere},
		{"asked a datagram", rx, lt.Server, ask, by("CiliumNetworkPolicy test/server spec.ingress[1]", pass(bpf.ReasonAllowed))},
		{"answered it", tx, lt.Server, ask.Mirror(), anywhere},
	})
	w.become(t, ruled("server", func(p *policy.Policy) { p.Rules = p.Rules[2:] }))
	for range 2 {
		walk(t, w.Cluster, []step{
			{"the client at the NIC", nic, netip.Addr{}, ack, denied},
			{"the client at the pod", rx, lt.Server, ack, denied},
			{"the resolver at the pod", rx, lt.Server, ask, denied},
			{"the server may go on", tx, lt.Server, served, anywhere},
			{"with datagrams, too", tx, lt.Server, ask.Mirror(), anywhere},
		})
	}
}

// The same the other way round: a pod may no longer send, and the peer, who may, goes on.
func TestRevokedPodDoesNotAnswerItsServer(t *testing.T) {
	open := func(p *policy.Policy) { p.Isolates[policy.Ingress] = false }
	w := newWorld(t, ruled("locked", open))
	in := pass(bpf.ReasonNotIsolated)
	walk(t, w.Cluster, []step{
		{"asked", tx, lt.Locked, syn(lt.Locked, lt.DB, 5432), toDB},
		{"handshake", rx, lt.Locked, syn(lt.Locked, lt.DB, 5432).Mirror(), in},
		{"served", rx, lt.Locked, tcp(lt.DB, 5432, lt.Locked, 40000, packet.ACK), in},
	})
	w.become(t, ruled("locked", func(p *policy.Policy) { open(p); p.Rules = nil }))
	for range 2 {
		walk(t, w.Cluster, []step{
			{"the pod", tx, lt.Locked, tcp(lt.Locked, 40000, lt.DB, 5432, packet.ACK), egress(denied)},
			{"the server may go on", rx, lt.Locked, tcp(lt.DB, 5432, lt.Locked, 40000, packet.ACK), in},
		})
	}
}

// A pod that gets the address of another inherits nothing from it, wherever either of them lives.
func TestReusedAddressInheritsNothing(t *testing.T) {
	heir := func(name string) *policy.Model {
		model := lt.Model()
		for i := range model.Pods {
			if p := &model.Pods[i]; p.Name == name {
				p.Name, p.UID = name+"-2", name+"-2"
			}
		}
		return model
	}
	gone := func(name string) *policy.Model {
		model := lt.Model()
		var left []policy.Pod
		for _, p := range model.Pods {
			if p.Name != name {
				left = append(left, p)
			}
		}
		model.Pods = left
		return model
	}
	datagram := udp(lt.Server, 40000, lt.Client, 80)
	for _, test := range []struct {
		name   string
		models []*policy.Model
	}{
		{"of the local pod", []*policy.Model{heir("server")}},
		{"of the remote pod", []*policy.Model{heir("client")}},
		{"of the local pod, a while later", []*policy.Model{gone("server"), heir("server")}},
		{"of the remote pod, a while later", []*policy.Model{gone("client"), heir("client")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, lt.Model())
			expect(t, w.Cluster, step{hook: tx, pod: lt.Server, frame: datagram, want: anywhere})
			expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: datagram.Mirror(), want: reply})
			for _, m := range test.models {
				w.become(t, m)
			}
			walk(t, w.Cluster, []step{
				{"at the NIC", nic, netip.Addr{}, datagram.Mirror(), denied},
				{"at the pod", rx, lt.Server, datagram.Mirror(), denied},
				{"until it asks itself", tx, lt.Server, datagram, anywhere},
				{"and is answered", rx, lt.Server, datagram.Mirror(), reply},
			})
		})
	}
	t.Run("nobody's at present", func(t *testing.T) {
		w := newWorld(t, lt.Model())
		expect(t, w.Cluster, step{hook: tx, pod: lt.Server, frame: datagram, want: anywhere})
		w.become(t, gone("client"))
		expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: datagram.Mirror(), want: denied})
	})
}

// isolatedFor makes a pod's isolation look as old as that.
func isolatedFor(t *testing.T, c *lt.Cluster, pod netip.Addr, direction bpf.Direction, seconds uint64) {
	t.Helper()
	endpoints := c.Tables().Maps()["endpoints"]
	raw := make([]byte, endpoints.ValueSize())
	if err := endpoints.Lookup(uint32(0), &raw); err != nil {
		t.Fatal(err)
	}
	var e bpf.Endpoint
	at := int(c.Compiled.Address(pod).Slot)*int(unsafe.Sizeof(e)) + int(unsafe.Offsetof(e.IsolatedNs)) + 8*int(direction)
	since := binary.NativeEndian.Uint64(raw[at:])
	if since == 0 {
		t.Fatalf("the isolation of %s is as old as the pod", pod)
	}
	binary.NativeEndian.PutUint64(raw[at:], since-seconds*1e9)
	if err := endpoints.Put(uint32(0), raw); err != nil {
		t.Fatal(err)
	}
}

// For a minute, a segment may belong to a connection that is older than the pod's isolation, of which nothing is known.
func TestConnectionsOlderThanIsolation(t *testing.T) {
	grace := pass(bpf.ReasonGrace)
	answer := tcp(lt.World, 80, lt.Server, 40000, packet.ACK)
	t.Run("received", func(t *testing.T) {
		w := newWorld(t, without("server"))
		w.become(t, lt.Model())
		walk(t, w.Cluster, []step{
			{"a segment at the NIC", nic, netip.Addr{}, answer, handedUp},
			{"the NIC leaves it to the pod's hook to remember", rx, lt.Server, answer, grace},
			{"then it is known", rx, lt.Server, answer, reply},
			{"a SYN is new", rx, lt.Server, tcp(lt.World, 80, lt.Server, 40001, packet.SYN), denied},
			{"a datagram says nothing of its age", rx, lt.Server, udp(lt.World, 80, lt.Server, 40001), denied},
			{"an echo reply neither", rx, lt.Server, packet.Echo(lt.Server, lt.World, 1, 1).Mirror(), denied},
			{"a later fragment neither", rx, lt.Server, with(answer, func(s *packet.Spec) { s.Offset, s.Body = 64, make([]byte, 8) }), drop(bpf.ReasonFragment)},
		})
		isolatedFor(t, w.Cluster, lt.Server, bpf.DirectionIngress, 61)
		walk(t, w.Cluster, []step{
			{"after a minute", rx, lt.Server, tcp(lt.World, 80, lt.Server, 40002, packet.ACK), denied},
			{"after a minute, at the NIC", nic, netip.Addr{}, tcp(lt.World, 80, lt.Server, 40002, packet.ACK), denied},
			{"what is known goes on", rx, lt.Server, answer, reply},
		})
	})
	t.Run("received, what the pod could not have asked for", func(t *testing.T) {
		w := newWorld(t, ruled("locked", func(p *policy.Policy) { p.Isolates[policy.Ingress] = false }))
		w.become(t, lt.Model())
		walk(t, w.Cluster, []step{
			{"from whom it may ask", rx, lt.Locked, tcp(lt.DB, 5432, lt.Locked, 40000, packet.ACK), grace},
			{"from anybody else", rx, lt.Locked, answerTo(lt.Locked, lt.World), denied},
		})
	})
	t.Run("sent", func(t *testing.T) {
		w := newWorld(t, without("locked"))
		w.become(t, ruled("locked", admitAll))
		segment := tcp(lt.Locked, 80, lt.World, 40000, packet.ACK)
		walk(t, w.Cluster, []step{
			{"a segment", tx, lt.Locked, segment, egress(grace)},
			{"then it is known", tx, lt.Locked, segment, egress(reply)},
			{"a SYN is new", tx, lt.Locked, tcp(lt.Locked, 80, lt.World, 40001, packet.SYN), egress(denied)},
			{"a datagram", tx, lt.Locked, udp(lt.Locked, 80, lt.World, 40001), egress(denied)},
		})
		isolatedFor(t, w.Cluster, lt.Locked, bpf.DirectionEgress, 61)
		expect(t, w.Cluster, step{hook: tx, pod: lt.Locked, frame: tcp(lt.Locked, 80, lt.World, 40002, packet.ACK), want: egress(denied)})
	})
	t.Run("a pod that was born isolated", func(t *testing.T) {
		c := lt.New(t, bpf.DefaultKnobs(), nil)
		expect(t, c, step{hook: rx, pod: lt.Server, frame: answer, want: denied})
	})
	t.Run("a pod whose policy changes has been isolated before", func(t *testing.T) {
		w := newWorld(t, lt.Model())
		w.become(t, ruled("server", func(p *policy.Policy) { p.Rules = nil }))
		expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: answer, want: denied})
	})
}

func answerTo(pod, peer netip.Addr) packet.Spec { return tcp(peer, 80, pod, 40000, packet.ACK) }

// Where the pod listens, the peer opened the connection: its segments need a permission, however young isolation is.
func TestListenersTellWhoOpenedAConnection(t *testing.T) {
	w := newWorld(t, without("server"))
	w.become(t, lt.Model())
	slot := w.Compiled.Address(lt.Server).Slot
	id := listenElsewhere(t, 8080)
	pod, host := loader.PodMACs(slot)
	// Not by expect, which binds the pod anew: it would forget the namespace.
	through := func(name string, hook bpf.Hook, f packet.Spec, want bpf.Reason) {
		t.Helper()
		if err := w.Tables().SetInterface(slot, loader.Interface{Index: 1, PodMAC: pod, HostMAC: host, NetNS: id}); err != nil {
			t.Fatal(err)
		}
		frame := f.Bytes()
		if hook == nic {
			frame = packet.VXLAN(packet.Underlay(lt.Node2, lt.Node1), 1, f.Via(lt.MAC2, lt.MAC1).Bytes())
		}
		r, err := w.Run(hook, frame)
		if err != nil {
			t.Fatal(err)
		}
		if got := bpf.Reason(r.Event.Reason); got != want {
			t.Errorf("%s: %s, want %s", name, bpf.ReasonName(got), bpf.ReasonName(want))
		}
	}
	old := tcp(lt.DB, 40000, lt.Server, 8080, packet.ACK)
	through("a client's segment at the NIC", nic, old, bpf.ReasonDeniedDefault)
	through("a client's segment at the pod", rx, old, bpf.ReasonDeniedDefault)
	through("what the server sends", tx, old.Mirror(), bpf.ReasonNotIsolated)
	through("makes no flow of its own", rx, old, bpf.ReasonDeniedDefault)
	through("a connection of the pod's, between high ports", nic, tcp(lt.DB, 50051, lt.Server, 40000, packet.ACK), bpf.ReasonHandedUp)
	through("and at the pod", rx, tcp(lt.DB, 50051, lt.Server, 40000, packet.ACK), bpf.ReasonGrace)
	through("another one, by what the pod sends", tx, tcp(lt.Server, 40001, lt.DB, 50051, packet.ACK), bpf.ReasonNotIsolated)
	through("is known from then on", rx, tcp(lt.DB, 50051, lt.Server, 40001, packet.ACK), bpf.ReasonReply)
	through("a client of a server that has closed its listener", nic, tcp(lt.DB, 40000, lt.Server, 9090, packet.ACK), bpf.ReasonDeniedDefault)
	through("the same at the pod", rx, tcp(lt.DB, 40000, lt.Server, 9090, packet.ACK), bpf.ReasonDeniedDefault)

	// A connection that was idle for as long as there was a grace, and an entry that was pushed out, come back to life.
	isolatedFor(t, w.Cluster, lt.Server, bpf.DirectionIngress, 3600)
	late := tcp(lt.Server, 40002, lt.DB, 80, packet.ACK)
	through("the peer cannot revive it", rx, late.Mirror(), bpf.ReasonDeniedDefault)
	through("the pod speaks", tx, late, bpf.ReasonNotIsolated)
	through("and is answered", rx, late.Mirror(), bpf.ReasonReply)
	through("a server speaks", tx, old.Mirror(), bpf.ReasonNotIsolated)
	through("and its client has still no permission", rx, old, bpf.ReasonDeniedDefault)
}

// listenElsewhere listens in a network namespace of its own and returns that one's id, as the tables want it.
func listenElsewhere(t *testing.T, port uint16) (id uint32) {
	t.Helper()
	type place struct {
		ns       *os.File
		listener net.Listener
		err      error
	}
	made := make(chan place)
	go func() {
		runtime.LockOSThread() // and never unlocks
		var p place
		if p.err = unix.Unshare(unix.CLONE_NEWNET); p.err == nil {
			if p.listener, p.err = net.ListenTCP("tcp4", &net.TCPAddr{Port: int(port)}); p.err == nil {
				p.ns, p.err = os.Open("/proc/thread-self/ns/net")
			}
		}
		made <- p
	}()
	p := <-made
	if p.err != nil {
		t.Fatal(p.err)
	}
	t.Cleanup(func() { p.ns.Close(); p.listener.Close() })
	if err := netlink.SetNetNsIdByFd(int(p.ns.Fd()), int(os.Getpid()&0xffff)); err != nil {
		t.Fatal(err)
	}
	n, err := netlink.GetNetNsIdByFd(int(p.ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n + 1)
}
