// SPDX-License-Identifier: Apache-2.0

package xdp_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader/loadertest"
)

// What is accepted on the fast way is accepted on the general one, and nothing becomes of a packet there that would not here:
// a frame and the same frame in a VLAN, which only the general way reads, meet one fate. Frames are good ones with a byte or
// two changed, cut, or padded.
func TestFastWayAgreesWithGeneralWay(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d", seed)
	for _, mode := range []struct {
		name           string
		enforce, strip bool
	}{{"enforce and strip", true, true}, {"observe and inspect", false, false}, {"observe and strip", false, true}} {
		t.Run(mode.name, func(t *testing.T) {
			knobs := bpf.DefaultKnobs()
			knobs.SpoofEnforce, knobs.DecapStrip = mode.enforce, mode.strip
			a := &agreement{t: t, c: loadertest.New(t, knobs, nil), r: rand.New(rand.NewPCG(seed, 1)), met: make(map[bpf.Reason]int)}
			for range 4000 {
				a.try()
				if t.Failed() {
					return
				}
			}
			for _, r := range []bpf.Reason{bpf.ReasonHandedUp, bpf.ReasonDeniedDefault, bpf.ReasonDeniedRule, bpf.ReasonTransit} {
				if a.met[r] == 0 {
					t.Errorf("no packet was %s", bpf.ReasonName(r))
				}
			}
			if mode.strip && a.stripped == 0 {
				t.Error("no packet was stripped")
			}
		})
	}
}

type agreement struct {
	t        *testing.T
	c        *loadertest.Cluster
	r        *rand.Rand
	met      map[bpf.Reason]int
	stripped int
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// frame is what a node, or somebody who would like to be one, may send; mostly node-2.
func (a *agreement) frame() []byte {
	r := a.r
	client := loadertest.Client
	src := pick(r, client, client, client, loadertest.Banned, loadertest.DB, loadertest.Nobody2, loadertest.VTEP2, loadertest.Direct, loadertest.World,
		loadertest.Resolver, loadertest.Open, loadertest.Node2, loadertest.Node3)
	dst := pick(r, loadertest.Server, loadertest.Server, loadertest.Open, loadertest.Locked, loadertest.Locked, loadertest.Nobody1,
		loadertest.Bridge1, loadertest.World)
	port := pick[uint16](r, 8080, 8080, 53, 40000, packet.VXLANPort)
	s := packet.TCP(at(src, pick[uint16](r, 40000, 5432)), at(dst, port), pick[uint8](r, packet.SYN, packet.ACK, packet.SYN|packet.ACK, packet.RST))
	if r.IntN(3) == 0 {
		s = packet.UDP(at(src, 40000), at(dst, port), make([]byte, r.IntN(20))...)
	}
	s.TOS = pick[uint8](r, 0, 0, 1, 3, 0xb8, 0xbb)
	if r.IntN(8) == 0 {
		s.MF = true
	}
	outside := packet.Underlay(pick(r, loadertest.Node2, loadertest.Node2, loadertest.Node2, loadertest.Node3, loadertest.Outsider, loadertest.Node1,
		netip.IPv4Unspecified()), loadertest.Node1)
	outside.TOS = pick[uint8](r, 0, 0, 1, 3, 0xb8)
	outside.NoChecksum = r.IntN(4) != 0
	mac := pick(r, loadertest.MAC2, loadertest.MAC2, loadertest.MAC2, loadertest.MAC3)
	frame := packet.VXLAN(outside, vni, s.Via(mac, pick(r, loadertest.MAC1, loadertest.MAC1, loadertest.MAC1, loadertest.MAC2)).Bytes())

	switch r.IntN(6) {
	case 0:
		frame[14+r.IntN(len(frame)-14)] ^= 1 << r.IntN(8)
	case 1: // in the headers, where it matters
		for range 1 + r.IntN(2) {
			frame[14+r.IntN(min(len(frame), 14+20+8+8+14+20+20)-14)] = byte(r.Uint32())
		}
	case 2:
		frame = append(frame, make([]byte, 1+r.IntN(8))...)
	case 3:
		frame = frame[:34+r.IntN(len(frame)-34)]
	}
	return frame
}

// run is a packet's fate, with the flow of a pod that has asked db before.
func (a *agreement) run(frame []byte) (action uint32, events []bpf.Event, out []byte) {
	a.t.Helper()
	if err := a.c.ResetFlows(); err != nil {
		a.t.Fatal(err)
	}
	if err := a.c.Bind(a.c.Compiled.Address(loadertest.Locked).Slot); err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.c.Run(bpf.HookPodTx, packet.TCP(at(loadertest.Locked, 40000), at(loadertest.DB, 5432), packet.SYN).Bytes()); err != nil {
		a.t.Fatal(err)
	}
	result, err := a.c.Run(bpf.HookUnderlayRx, frame)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, e := range result.Events {
		e.TimeNs, e.Length, e.Captured, e.Data = 0, 0, 0, [bpf.EventBytes]uint8{}
		events = append(events, e)
	}
	return result.Action, events, bytes.Clone(result.Out)
}

func (a *agreement) try() {
	a.t.Helper()
	frame := a.frame()
	inVLAN := append(append(bytes.Clone(frame[:12]), 0x81, 0, 0, 9), frame[12:]...)
	action, events, out := a.run(frame)
	action2, events2, out2 := a.run(inVLAN)
	same := action == action2 && len(events) == len(events2) && len(out)+4 == len(out2) && bytes.Equal(out[14:], out2[18:])
	for i := range events {
		same = same && events[i] == events2[i]
	}
	if !same {
		a.t.Errorf("frame %x\nbecomes %d %+v %x\nin a VLAN %d %+v %x", frame, action, events, out, action2, events2, out2)
	}
	a.met[bpf.Reason(events[len(events)-1].Reason)]++
	if len(out) < len(frame) {
		a.stripped++
	}
}
