// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	lt "github.com/weirnet/weir/loader/loadertest"
)

// A flow is assured when the other side has answered, or the pod's own stack has sent what only a connection has.
func TestWhatAssuresAFlow(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), ruled("locked", admitAll))
	local := func(flags uint8) step {
		return step{hook: tx, pod: lt.Server, frame: tcp(lt.Server, 40000, lt.World, 80, flags), want: anywhere}
	}
	world := func(flags uint8) step {
		return step{hook: rx, pod: lt.Server, frame: tcp(lt.World, 80, lt.Server, 40000, flags), want: reply}
	}
	nicWorld := func(f packet.Spec) step { return step{hook: nic, frame: f, want: handedUp} }
	echo := packet.Echo(lt.Server, lt.World, 7, 1)
	in := by(admitted, pass(bpf.ReasonAllowed))
	asked := func(flags uint8) step {
		return step{hook: rx, pod: lt.Locked, frame: tcp(lt.Client, 40000, lt.Locked, 80, flags), want: in}
	}
	answers := func(flags uint8) step {
		return step{hook: tx, pod: lt.Locked, frame: tcp(lt.Locked, 80, lt.Client, 40000, flags), want: egress(reply)}
	}
	const syn, ack, rst, fin = packet.SYN, packet.ACK, packet.RST, packet.FIN
	for _, test := range []struct {
		name  string
		steps []step
		want  place
	}{
		{"the pod's SYN", []step{local(syn)}, fresh},
		{"the pod's SYN twice", []step{local(syn), local(syn)}, fresh},
		{"the peer's handshake", []step{local(syn), world(syn | ack)}, assured},
		{"the peer's refusal", []step{local(syn), world(rst | ack)}, fresh},
		{"the pod's next segment", []step{local(syn), local(ack)}, assured},
		{"the pod's reset", []step{local(syn), local(rst)}, fresh},
		{"a datagram's answer", []step{
			{hook: tx, pod: lt.Server, frame: udp(lt.Server, 40000, lt.World, 80), want: anywhere},
			{hook: rx, pod: lt.Server, frame: udp(lt.World, 80, lt.Server, 40000), want: reply}}, assured},
		{"a datagram, and one more", []step{
			{hook: tx, pod: lt.Server, frame: udp(lt.Server, 40000, lt.World, 80), want: anywhere},
			{hook: tx, pod: lt.Server, frame: udp(lt.Server, 40000, lt.World, 80), want: anywhere}}, fresh},
		{"an echo's answer", []step{
			{hook: tx, pod: lt.Server, frame: echo, want: anywhere}, {hook: rx, pod: lt.Server, frame: echo.Mirror(), want: reply}}, assured},
		{"the answer at the NIC", []step{
			{hook: tx, pod: lt.Server, frame: tcp(lt.Server, 40000, lt.Client, 80, syn), want: anywhere},
			nicWorld(tcp(lt.Client, 80, lt.Server, 40000, syn|ack))}, assured},

		{"a peer's SYN", []step{asked(syn)}, fresh},
		{"a peer's SYN, the pod's handshake", []step{asked(syn), answers(syn | ack)}, fresh},
		{"the peer's own next segment is no proof", []step{asked(syn), answers(syn | ack), asked(ack)}, fresh},
		{"the pod's answer past the handshake", []step{asked(syn), answers(syn | ack), asked(ack), answers(ack)}, assured},
		{"the pod's refusal", []step{asked(syn), answers(rst | ack)}, fresh},
		{"a peer's datagram that the pod answers", []step{
			{hook: rx, pod: lt.Locked, frame: udp(lt.Client, 40000, lt.Locked, 80), want: in},
			{hook: tx, pod: lt.Locked, frame: udp(lt.Locked, 80, lt.Client, 40000), want: egress(reply)}}, fresh},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := c.ResetFlows(); err != nil {
				t.Fatal(err)
			}
			for _, s := range test.steps {
				expect(t, c, s)
			}
			if got := where(t, c, keyOf(test.steps[0].frame)); got != test.want {
				t.Errorf("the flow is %s, want %s", got, test.want)
			}
			if n := flowCount(t, c); n != 1 {
				t.Errorf("%d flows, want 1", n)
			}
		})
	}
}

// A scan of answers must not fill the table of assured flows: a pod's share of it is bounded.
func TestPodOwnsItsShareOfFlowsOnly(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	slot := c.Compiled.Address(lt.Server).Slot
	counts := c.Tables().Maps()["flow_counts"]
	raw := make([]byte, counts.ValueSize())
	owned := func() uint64 {
		t.Helper()
		if err := counts.Lookup(uint32(0), &raw); err != nil {
			t.Fatal(err)
		}
		return binary.NativeEndian.Uint64(raw[8*slot:])
	}
	share := uint64(c.Tables().FlowCapacity() / 8)
	round := func(port uint16) place {
		expect(t, c, step{hook: tx, pod: lt.Server, frame: tcp(lt.Server, port, lt.World, 80, packet.SYN), want: anywhere})
		expect(t, c, step{hook: rx, pod: lt.Server, frame: tcp(lt.World, 80, lt.Server, port, packet.SYN|packet.ACK), want: reply})
		return where(t, c, keyOf(tcp(lt.Server, port, lt.World, 80, 0)))
	}
	if got := round(1000); got != assured || owned() != 1 {
		t.Errorf("the first flow is %s, the pod owns %d", got, owned())
	}
	binary.NativeEndian.PutUint64(raw[8*slot:], share-1)
	if err := counts.Put(uint32(0), raw); err != nil {
		t.Fatal(err)
	}
	if got := round(1001); got != assured || owned() != share {
		t.Errorf("the last flow of its share is %s, the pod owns %d of %d", got, owned(), share)
	}
	if got := round(1002); got != fresh || owned() != share {
		t.Errorf("the flow past its share is %s, the pod owns %d of %d", got, owned(), share)
	}
	expect(t, c, step{hook: tx, pod: lt.Locked, frame: syn(lt.Locked, lt.DB, 5432), want: toDB})
	expect(t, c, step{hook: rx, pod: lt.Locked, frame: syn(lt.Locked, lt.DB, 5432).Mirror(), want: reply})
	if got := where(t, c, keyOf(syn(lt.Locked, lt.DB, 5432))); got != assured {
		t.Errorf("another pod's flow is %s", got)
	}
}

// How long a flow lives that nobody hears of depends on what has been seen of it.
func TestFlowsEnd(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	const synack, ack, rst, fin = packet.SYN | packet.ACK, packet.ACK, packet.RST | packet.ACK, packet.FIN | packet.ACK
	out := func(flags uint8) step {
		return step{hook: tx, pod: lt.Server, frame: tcp(lt.Server, 40000, lt.World, 80, flags), want: anywhere}
	}
	back := func(flags uint8) step {
		return step{hook: rx, pod: lt.Server, frame: tcp(lt.World, 80, lt.Server, 40000, flags), want: reply}
	}
	datagram := udp(lt.Server, 40000, lt.World, 80)
	echo := packet.Echo(lt.Server, lt.World, 7, 1)
	sent := func(f packet.Spec) step { return step{hook: tx, pod: lt.Server, frame: f, want: anywhere} }
	got := func(f packet.Spec) step { return step{hook: rx, pod: lt.Server, frame: f, want: reply} }
	for _, test := range []struct {
		name    string
		steps   []step
		seconds uint64
		answer  packet.Spec
	}{
		{"unanswered", []step{out(packet.SYN)}, bpf.FlowNewSeconds, back(ack).frame},
		{"established", []step{out(packet.SYN), back(synack)}, bpf.FlowTCPSeconds, back(ack).frame},
		{"closed by the pod", []step{out(packet.SYN), back(synack), out(fin)}, bpf.FlowFINSeconds, back(ack).frame},
		{"closed by the peer", []step{out(packet.SYN), back(synack), back(fin)}, bpf.FlowFINSeconds, back(ack).frame},
		{"closed by both", []step{out(packet.SYN), back(synack), out(fin), back(fin)}, bpf.FlowClosedSeconds, back(ack).frame},
		{"reset by the pod", []step{out(packet.SYN), back(synack), out(rst)}, bpf.FlowRSTSeconds, back(ack).frame},
		{"reset by the peer", []step{out(packet.SYN), back(synack), back(rst)}, bpf.FlowRSTSeconds, back(ack).frame},
		{"reset and opened again", []step{out(packet.SYN), back(synack), back(rst), out(packet.SYN)}, bpf.FlowTCPSeconds, back(ack).frame},
		{"a datagram", []step{sent(datagram)}, bpf.FlowNewSeconds, datagram.Mirror()},
		{"a datagram that was answered", []step{sent(datagram), got(datagram.Mirror())}, bpf.FlowDatagramSeconds, datagram.Mirror()},
		{"an echo request", []step{sent(echo)}, bpf.FlowICMPSeconds, echo.Mirror()},
		{"an echo request that was answered", []step{sent(echo), got(echo.Mirror())}, bpf.FlowICMPSeconds, echo.Mirror()},
	} {
		t.Run(test.name, func(t *testing.T) {
			key := keyOf(test.steps[0].frame)
			for _, late := range []bool{false, true} {
				if err := c.ResetFlows(); err != nil {
					t.Fatal(err)
				}
				for _, s := range test.steps {
					expect(t, c, s)
				}
				seconds, want := test.seconds-2, reply
				if late {
					seconds, want = test.seconds+2, denied
				}
				age(t, c, key, seconds)
				expect(t, c, step{hook: rx, pod: lt.Server, frame: test.answer, want: want})
			}
		})
	}
}

// Traffic in either direction keeps a flow alive; a store a second is enough for that.
func TestTrafficKeepsFlowsAlive(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	out := step{hook: tx, pod: lt.Server, frame: udp(lt.Server, 40000, lt.World, 80), want: anywhere}
	back := step{hook: rx, pod: lt.Server, frame: out.frame.Mirror(), want: reply}
	key := keyOf(out.frame)
	expect(t, c, out)
	for _, s := range []step{out, back, back, out, back} {
		age(t, c, key, 50)
		expect(t, c, s)
	}
}

// A dead flow is no obstacle to a new one of the same tuple, not even among the assured ones.
func TestDeadFlowIsReplaced(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	out := step{hook: tx, pod: lt.Server, frame: syn(lt.Server, lt.World, 80), want: anywhere}
	back := step{hook: rx, pod: lt.Server, frame: out.frame.Mirror(), want: reply}
	key := keyOf(out.frame)
	expect(t, c, out)
	expect(t, c, back)
	age(t, c, key, bpf.FlowTCPSeconds+1)
	expect(t, c, out)
	if got := where(t, c, key); got != fresh {
		t.Errorf("the flow is %s, want %s", got, fresh)
	}
	expect(t, c, back)
}

// A server streams datagrams to a client that stays silent. When that is no longer admitted, they have not become a flow of
// the server's own, which the client might answer.
func TestAnswersThatGoOnStayAnswers(t *testing.T) {
	model := lt.Model()
	w := newWorld(t, model)
	ask := udp(lt.Resolver, 40000, lt.Server, 53)
	rule := "CiliumNetworkPolicy test/server spec.ingress[1]"
	expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: ask, want: by(rule, pass(bpf.ReasonAllowed))})
	for range 4 {
		age(t, w.Cluster, keyOf(ask), 50)
		expect(t, w.Cluster, step{hook: tx, pod: lt.Server, frame: ask.Mirror(), want: anywhere})
	}
	if got := where(t, w.Cluster, keyOf(ask.Mirror())); got != unknown {
		t.Errorf("the answers are a flow of their own: %s", got)
	}
	w.become(t, without1("server", 1))
	expect(t, w.Cluster, step{hook: tx, pod: lt.Server, frame: ask.Mirror(), want: anywhere})
	expect(t, w.Cluster, step{hook: rx, pod: lt.Server, frame: ask, want: denied})
}

// The filter in front of the flow tables may lie in one direction only: each half of it knows every flow.
func TestEachFilterHalfKnowsEveryFlow(t *testing.T) {
	c := lt.New(t, bpf.DefaultKnobs(), nil)
	expect(t, c, step{hook: tx, pod: lt.Locked, frame: syn(lt.Locked, lt.DB, 5432), want: toDB})
	for range 2 {
		expect(t, c, step{hook: nic, frame: syn(lt.Locked, lt.DB, 5432).Mirror(), want: handedUp})
		if _, err := c.Tables().Sweep(); err != nil { // it reads the other one from here on
			t.Fatal(err)
		}
	}
	if err := c.Tables().Maps()["flows"].Delete(keyOf(syn(lt.Locked, lt.DB, 5432))); err != nil && err != ebpf.ErrKeyNotExist {
		t.Fatal(err)
	}
	expect(t, c, step{hook: nic, pod: netip.Addr{}, frame: syn(lt.Locked, lt.DB, 5432).Mirror(), want: denied})
}
