// SPDX-License-Identifier: Apache-2.0

package xdp_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/loader/loadertest"
)

// A frame that lies in several buffers is judged, and stripped, like any other; one whose headers promise more than all of
// its buffers hold is malformed.
func TestJumboFramesAreJudged(t *testing.T) {
	payload := func(n int) []byte { return bytes.Repeat([]byte{0xa5}, n) }
	datagram := func(src netip.Addr, port uint16) packet.Spec {
		return packet.UDP(at(src, 40000), at(loadertest.Server, port), payload(8000)...)
	}
	good, bad := vxlan(datagram(loadertest.Resolver, 53)), vxlan(datagram(loadertest.Client, 53))
	stripped := append(bytes.Clone(good[:14]), good[14+20+8+8+14:]...)
	short := bytes.Clone(good[:len(good)-1])
	for _, mode := range []struct {
		name  string
		strip bool
		out   []byte
	}{{"inspect", false, good}, {"strip", true, stripped}} {
		knobs := bpf.DefaultKnobs()
		knobs.Frags, knobs.DecapStrip = true, mode.strip
		c := loadertest.New(t, knobs, nil)
		for _, p := range []struct {
			name       string
			frame, out []byte
			reason     bpf.Reason
		}{
			{"admitted", good, mode.out, bpf.ReasonHandedUp},
			{"denied", bad, bad, bpf.ReasonDeniedDefault},
			{"cut short", short, short, bpf.ReasonVXLANMalformed},
			{"small", vxlan(syn(loadertest.Client, loadertest.Server, 80)), nil, bpf.ReasonDeniedDefault},
		} {
			t.Run(mode.name+" "+p.name, func(t *testing.T) {
				before, err := c.Counters()
				if err != nil {
					t.Fatal(err)
				}
				got, err := c.Run(bpf.HookUnderlayRx, p.frame)
				if err != nil {
					t.Fatal(err)
				}
				after, err := c.Counters()
				if err != nil {
					t.Fatal(err)
				}
				if reason := bpf.Reason(got.Event.Reason); reason != p.reason {
					t.Errorf("reason %s, want %s", bpf.ReasonName(reason), bpf.ReasonName(p.reason))
				}
				if p.out != nil && !bytes.Equal(got.Out, p.out) {
					t.Errorf("%d bytes out, want %d", len(got.Out), len(p.out))
				}
				verdict := bpf.VerdictDrop
				if p.reason == bpf.ReasonHandedUp {
					verdict = bpf.VerdictPass
				}
				for key, n := range after {
					moved := n.Packets - before[key].Packets
					if key == (loader.CounterKey{Hook: bpf.HookUnderlayRx, Direction: bpf.DirectionIngress, Verdict: verdict, Reason: p.reason}) {
						moved--
					}
					if moved != 0 {
						t.Errorf("counter %+v moved by %d", key, n.Packets-before[key].Packets)
					}
				}
			})
		}
	}
}

// Where the identifier is not one network's, as with Cilium, every one is ours.
func TestAnyVNI(t *testing.T) {
	for _, any := range []bool{false, true} {
		knobs := bpf.DefaultKnobs()
		knobs.AnyVNI = any
		c := loadertest.New(t, knobs, nil)
		for id, wants := range map[uint32][2]loadertest.Want{
			vni:     {denied, denied},
			vni + 1: {pass(bpf.ReasonForeignVNI), denied},
			0x3afe0: {pass(bpf.ReasonForeignVNI), denied},
		} {
			want := wants[0]
			if any {
				want = wants[1]
			}
			c.Expect(t, bpf.HookUnderlayRx, netip.Addr{}, packet.VXLAN(outer(), id, inner(syn(loadertest.Client, loadertest.Server, 80))), want)
		}
	}
}
