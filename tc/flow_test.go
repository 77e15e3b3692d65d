// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
)

var (
	denied   = drop(bpf.ReasonDeniedDefault)
	reply    = pass(bpf.ReasonReply)
	handedUp = pass(bpf.ReasonHandedUp)
	toDB     = egress(by(lt.AllowDB, pass(bpf.ReasonAllowed)))
	anywhere = egress(pass(bpf.ReasonNotIsolated))
)

// What comes back to a pod that is closed to everybody passes at the NIC and at the pod if the pod asked for it.
func TestAnswersReachAnIsolatedPod(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	request := syn(lt.Locked, lt.DB, 5432)
	answer := tcp(lt.DB, 5432, lt.Locked, 40000, packet.ACK)
	walk(t, c, []step{
		{"not before it asked, at the NIC", nic, netip.Addr{}, answer, denied},
		{"not before it asked, at the pod", rx, lt.Locked, answer, denied},
		{"it asks", tx, lt.Locked, request, toDB},
		{"the handshake at the NIC", nic, netip.Addr{}, request.Mirror(), handedUp},
		{"the handshake at the pod", rx, lt.Locked, request.Mirror(), reply},
		{"data at the NIC", nic, netip.Addr{}, answer, handedUp},
		{"data at the pod", rx, lt.Locked, answer, reply},
		{"a later fragment of data without its first", nic, netip.Addr{}, with(answer, func(s *packet.Spec) { s.Offset, s.Body, s.ID = 64, make([]byte, 8), 3 }), drop(bpf.ReasonFragment)},
		{"a first fragment of data", nic, netip.Addr{}, with(answer, func(s *packet.Spec) { s.MF, s.ID = true, 3 }), handedUp},
		{"and now what follows it", nic, netip.Addr{}, with(answer, func(s *packet.Spec) { s.Offset, s.Body, s.ID = 64, make([]byte, 8), 3 }), handedUp},
		{"a new connection from the same port, at the NIC", nic, netip.Addr{}, tcp(lt.DB, 5432, lt.Locked, 40000, packet.SYN), denied},
		{"a new connection from the same port, at the pod", rx, lt.Locked, tcp(lt.DB, 5432, lt.Locked, 40000, packet.SYN), denied},
		{"a SYN with other flags is one", rx, lt.Locked, tcp(lt.DB, 5432, lt.Locked, 40000, packet.SYN|packet.FIN|packet.RST), denied},
		{"another port of the peer", nic, netip.Addr{}, tcp(lt.DB, 5433, lt.Locked, 40000, packet.ACK), denied},
		{"another port of the pod", nic, netip.Addr{}, tcp(lt.DB, 5432, lt.Locked, 40001, packet.ACK), denied},
		{"another peer", nic, netip.Addr{}, tcp(lt.Client, 5432, lt.Locked, 40000, packet.ACK), denied},
		{"another protocol", nic, netip.Addr{}, udp(lt.DB, 5432, lt.Locked, 40000), denied},
	})
}

func TestAnswersOfEveryProtocol(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	sctp := packet.SCTP(at(lt.Server, 40000), at(lt.World, 9))
	ack := with(sctp.Mirror(), func(s *packet.Spec) { s.Payload = append([]byte{2}, s.Payload[1:]...) })
	init := sctp.Mirror()
	echo := packet.Echo(lt.Server, lt.World, 7, 1)
	gre := packet.IP(lt.Server, lt.World, 47, make([]byte, 8))
	walk(t, c, []step{
		{"UDP: asked", tx, lt.Server, udp(lt.Server, 40000, lt.World, 53), anywhere},
		{"UDP: answered", rx, lt.Server, udp(lt.World, 53, lt.Server, 40000), reply},
		{"UDP: another port", rx, lt.Server, udp(lt.World, 54, lt.Server, 40000), denied},
		{"SCTP: asked", tx, lt.Server, sctp, anywhere},
		{"SCTP: answered", rx, lt.Server, ack, reply},
		{"SCTP: INIT answers nothing", rx, lt.Server, init, denied},
		{"echo: asked", tx, lt.Server, echo, anywhere},
		{"echo: answered", rx, lt.Server, echo.Mirror(), reply},
		{"echo: another id", rx, lt.Server, packet.Echo(lt.Server, lt.World, 8, 1).Mirror(), denied},
		{"echo: another host", rx, lt.Server, packet.Echo(lt.Server, lt.Client, 7, 1).Mirror(), denied},
		{"echo: a request is no answer", rx, lt.Server, packet.Echo(lt.World, lt.Server, 7, 1), denied},
		{"timestamp requests get no answer", tx, lt.Server, packet.ICMP(lt.Server, lt.World, 13, 0, 7<<16|1, make([]byte, 12)), anywhere},
		{"a timestamp reply", rx, lt.Server, packet.ICMP(lt.World, lt.Server, 14, 0, 7<<16|1, make([]byte, 12)), denied},
		{"GRE: asked", tx, lt.Server, gre, anywhere},
		{"GRE: answered", rx, lt.Server, gre.Mirror(), reply},
		{"GRE: another host", rx, lt.Server, packet.IP(lt.Client, lt.Server, 47, make([]byte, 8)), denied},
	})
}

// A pod that may not send answers what it was asked, and nothing else.
func TestIsolatedPodAnswers(t *testing.T) {
	// locked admits client now, and may still send to nobody but db.
	w := newWorld(t, ruled("locked", admitAll))
	request := syn(lt.Client, lt.Locked, 80)
	walk(t, w.Cluster, []step{
		{"not before it was asked", tx, lt.Locked, tcp(lt.Locked, 80, lt.Client, 40000, packet.ACK), egress(denied)},
		{"asked", rx, lt.Locked, request, by(admitted, pass(bpf.ReasonAllowed))},
		{"the handshake", tx, lt.Locked, request.Mirror(), egress(reply)},
		{"data", tx, lt.Locked, tcp(lt.Locked, 80, lt.Client, 40000, packet.ACK|packet.PSH), egress(reply)},
		{"a connection of its own", tx, lt.Locked, tcp(lt.Locked, 80, lt.Client, 40000, packet.SYN), egress(denied)},
		{"from another port", tx, lt.Locked, tcp(lt.Locked, 81, lt.Client, 40000, packet.ACK), egress(denied)},
		{"UDP: asked", rx, lt.Locked, udp(lt.Client, 40000, lt.Locked, 53), by(admitted, pass(bpf.ReasonAllowed))},
		{"UDP: answer", tx, lt.Locked, udp(lt.Locked, 53, lt.Client, 40000), egress(reply)},
		{"UDP: to another port", tx, lt.Locked, udp(lt.Locked, 53, lt.Client, 40001), egress(denied)},
		{"echo: asked", rx, lt.Locked, packet.Echo(lt.Client, lt.Locked, 7, 1), by(admitted, pass(bpf.ReasonAllowed))},
		{"echo: answer", tx, lt.Locked, packet.Echo(lt.Client, lt.Locked, 7, 1).Mirror(), egress(reply)},
		{"echo: another id", tx, lt.Locked, packet.Echo(lt.Client, lt.Locked, 8, 1).Mirror(), egress(denied)},
		{"the node asks", rx, lt.Locked, syn(lt.Bridge1, lt.Locked, 80), by(admitted, pass(bpf.ReasonAllowed))},
		{"the node is answered", tx, lt.Locked, syn(lt.Bridge1, lt.Locked, 80).Mirror(), egress(reply)},
	})
}

// Between two pods of one node the same flow answers at both.
func TestAnswersBetweenLocalPods(t *testing.T) {
	model := ruled("locked", admitAll)
	model.Pods[0].Labels["app"] = "db" // server is what locked may reach, and no policy selects it
	c := lt.New(t, bpf.DefaultKnobs(), model)
	request := syn(lt.Locked, lt.Server, 5432)
	back := request.Mirror()
	walk(t, c, []step{
		{"asked", tx, lt.Locked, request, toDB},
		{"received", rx, lt.Server, request, pass(bpf.ReasonNotIsolated)},
		{"the answer leaves, and its receiver admits it", tx, lt.Server, back, egress(pass(bpf.ReasonNotIsolated))},
	})
	c = lt.New(t, bpf.DefaultKnobs(), func() *policyModel {
		m := lt.Model()
		m.Pods[0].Labels["app"] = "db"
		return m
	}())
	walk(t, c, []step{
		{"unasked", tx, lt.Server, back, denied},
		{"asked", tx, lt.Locked, request, toDB},
		{"the answer leaves", tx, lt.Server, back, egress(pass(bpf.ReasonNotIsolated))},
		{"and arrives", rx, lt.Locked, back, reply},
		{"a new connection does not leave", tx, lt.Server, syn(lt.Server, lt.Locked, 40000), denied},
	})
}

// Behind a Service the peer's own address appears after translation only, where overlay_tx sees it.
func TestTranslatedFlowsAreRemembered(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	translated := syn(lt.Locked, lt.DB, 5432)
	walk(t, c, []step{
		{"the Service is asked", tx, lt.Locked, syn(lt.Locked, lt.ServiceDB, 80), egress(pass(bpf.ReasonService))},
		{"its backend is not known yet", nic, netip.Addr{}, translated.Mirror(), denied},
		{"it leaves translated", overlay, netip.Addr{}, translated, egress(pass(bpf.ReasonUntouched))},
		{"the backend answers at the NIC", nic, netip.Addr{}, translated.Mirror(), handedUp},
		{"and is translated back at the pod", rx, lt.Locked, syn(lt.Locked, lt.ServiceDB, 80).Mirror(), reply},
		{"what is not isolated for ingress leaves nothing", overlay, netip.Addr{}, syn(lt.Open, lt.DB, 5432), egress(pass(bpf.ReasonUntouched))},
	})
	if got := where(t, c, keyOf(syn(lt.Open, lt.DB, 5432))); got != unknown {
		t.Errorf("a flow of a pod that is open is %s", got)
	}
	// A local backend: the receiver's hook sees the translated packet first.
	expect(t, c, step{hook: rx, pod: lt.Open, frame: syn(lt.Locked, lt.Open, 5432), want: pass(bpf.ReasonNotIsolated)})
	expect(t, c, step{hook: rx, pod: lt.Locked, frame: syn(lt.Locked, lt.Open, 5432).Mirror(), want: reply})
}

// What needs no memory leaves none, least of all what is denied.
func TestStateIsKeptOnlyWhereItIsNeeded(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	for _, s := range []step{
		{"a denied connection", rx, lt.Server, syn(lt.DB, lt.Server, 8080), denied},
		{"a denied datagram", rx, lt.Server, udp(lt.DB, 1, lt.Server, 8080), denied},
		{"a denied segment", rx, lt.Server, tcp(lt.DB, 1, lt.Server, 8080, packet.ACK), denied},
		{"a denied connection at the NIC", nic, netip.Addr{}, syn(lt.DB, lt.Server, 8080), denied},
		{"an admitted one at the NIC", nic, netip.Addr{}, syn(lt.Client, lt.Server, 8080), handedUp},
		{"an admitted one to a pod that may answer anyway", rx, lt.Server, syn(lt.Client, lt.Server, 8080), by(lt.AllowClient, pass(bpf.ReasonAllowed))},
		{"its answer", tx, lt.Server, syn(lt.Client, lt.Server, 8080).Mirror(), anywhere},
		{"a later segment of its answer", tx, lt.Server, tcp(lt.Server, 8080, lt.Client, 40000, packet.ACK), anywhere},
		{"a denied connection of a pod's", tx, lt.Locked, syn(lt.Locked, lt.DB, 1), egress(denied)},
		{"a spoofed one", tx, lt.Server, syn(lt.Open, lt.World, 1), egress(drop(bpf.ReasonSpoofedSource))},
		{"a connection to a local pod that refuses", tx, lt.Server, syn(lt.Server, lt.Locked, 1), denied},
		{"pods without policy", tx, lt.Open, syn(lt.Open, lt.World, 1), anywhere},
		{"pods without policy, received", rx, lt.Open, udp(lt.World, 1, lt.Open, 1), pass(bpf.ReasonNotIsolated)},
		{"an ICMP error", tx, lt.Server, packet.ICMPError(lt.Server, lt.World, 3, 1, udp(lt.World, 1, lt.Server, 2), 8), anywhere},
	} {
		expect(t, c, s)
		if n := flowCount(t, c); n != 0 {
			t.Fatalf("%s leaves %d flows", s.name, n)
		}
	}
}
