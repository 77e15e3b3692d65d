// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// runtimeDelay is less than what a container runtime takes from a pod's interface to its first instruction.
const runtimeDelay = 20 * time.Millisecond

// A pod that nobody has told of yet, on an interface that has just come: with drop nothing passes to or from it, not even
// ARP; with pass all does, and is counted. Once the pod is known, its policy decides.
func TestE2EAPodThatIsNotKnownYet(t *testing.T) {
	for mode, passes := range map[string]bool{"pass": true, "drop": false} {
		t.Run(mode, func(t *testing.T) {
			s := newScene(t, lab.Config{}, "--unknown-endpoint", mode)
			neighbour, server := s.pod(1, "neighbour", strangerIP), s.pod(2, "server", serverIP)
			near, far := collect(t, neighbour, 9000), collect(t, server, 9000)
			s.start()
			s.apply("client.yaml", egress("client", "server", 9000)) // nothing to its neighbour
			before := s.count()
			client, err := s.lab.AddPod(s.lab.Nodes[0], lab.PodSpec{Name: "client", Addr: netip.MustParseAddr(clientIP), Silent: true,
				Labels: map[string]string{"app": "client"}})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(runtimeDelay)
			shout(t, client, strangerIP+":9000")
			shout(t, client, serverIP+":9000")
			if got := s.ping(s.lab.Nodes[0], clientIP); got != passes {
				t.Errorf("the node reaches the pod: %v, want %v", got, passes)
			}
			time.Sleep(100 * time.Millisecond)
			if n, f := near.Load(), far.Load(); (n > 0) != passes || (f > 0) != passes {
				t.Errorf("received from a pod that is not known: %d by its neighbour, %d elsewhere", n, f)
			}
			verdict := map[bool]string{true: "verdict=pass", false: "verdict=drop"}[passes]
			moved := s.moved(before)[0]
			for _, hook := range []string{"pod_tx", "pod_rx"} {
				if moved.sum("weir_packets_total", "hook="+hook, "reason=unknown_endpoint", verdict) == 0 {
					t.Errorf("%s counts no unknown_endpoint with %s: %v", hook, verdict, moved)
				}
			}
			if err := s.lab.Describe(client); err != nil {
				t.Fatal(err)
			}
			s.ready()
			near.Store(0)
			far.Store(0)
			o := &oneAgent{T: t, lab: s.lab, node: s.lab.Nodes[0], agent: s.agents[0]}
			o.eventually("what the policy admits", func() bool { shout(t, client, serverIP+":9000"); return far.Load() > 0 })
			shout(t, client, strangerIP+":9000")
			time.Sleep(50 * time.Millisecond)
			if n := near.Load(); n != 0 {
				t.Errorf("%d packets to the neighbour, which the policy forbids", n)
			}
		})
	}
}

// shout sends a few datagrams and does not ask what becomes of them.
func shout(t *testing.T, from *lab.Pod, to string) {
	t.Helper()
	c, err := from.Dial(context.Background(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 5 {
		c.Write([]byte("hello")) // an unreachable neighbour comes back as an error
	}
}
