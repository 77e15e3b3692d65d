// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// background is traffic that policy admits, and traffic that it does not, through the tunnel and on one node.
type background struct {
	stop            chan struct{}
	allowed, denied *atomic.Int64
	permitted       chan int64
	refused         []chan int64
	stream          chan error
}

// traffic starts it: client may reach the server's port 9000, and nobody may reach 9001.
func (s *scene) traffic(client, stranger, neighbour, server *lab.Pod) *background {
	s.t.Helper()
	b := &background{stop: make(chan struct{}), stream: make(chan error, 1)}
	b.allowed, b.denied = collect(s.t, server, 9000), collect(s.t, server, 9001)
	s.serve(server, 9000, func(c net.Conn) { io.Copy(c, c) })
	c := s.dial(client, serverIP+":9000")
	if c == nil {
		s.t.Fatal("the policy does not admit the client")
	}
	s.t.Cleanup(func() { c.Close() })
	go func() { b.stream <- pingPong(c, b.stop) }()
	b.permitted = sequence(s.t, client, serverIP+":9000", b.stop)
	for _, from := range []*lab.Pod{client, stranger, neighbour} {
		b.refused = append(b.refused, sequence(s.t, from, serverIP+":9001", b.stop))
	}
	return b
}

// end stops the traffic and says what went wrong.
func (b *background) end(t *testing.T) {
	t.Helper()
	close(b.stop)
	sent, attempts := <-b.permitted, int64(0)
	for _, r := range b.refused {
		attempts += <-r
	}
	if err := <-b.stream; err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	}
	time.Sleep(200 * time.Millisecond)
	lost, passed := sent-b.allowed.Load(), b.denied.Load()
	t.Logf("allowed: %d sent, %d lost; denied: %d sent, %d passed", sent, lost, attempts, passed)
	if lost != 0 || passed != 0 || sent < 1000 || attempts < 3000 {
		t.Errorf("lost %d of %d allowed, passed %d of %d denied: want 0 of many, twice", lost, sent, passed, attempts)
	}
}

// fell lists the counters that went back. Rules may go: with them go their counters.
func (s samples) fell(earlier samples) (names []string) {
	for _, moved := range s.since(earlier) {
		if strings.HasSuffix(moved.name, "_total") && strings.HasPrefix(moved.name, "weir_") && moved.value < 0 {
			names = append(names, fmt.Sprintf("%s%v %v", moved.name, moved.labels, moved.value))
		}
	}
	return names
}

// Agents are killed at any moment of their start and of their work, while policies change under traffic.
func TestE2EKilledAtAnyMoment(t *testing.T) {
	seed := setting(t, "WEIR_RANDOM_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WEIR_RANDOM_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newScene(t, lab.Config{})
	client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
	server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
	s.start()
	s.apply("server.yaml", ingress("server", "client", 9000))
	b := s.traffic(client, stranger, neighbour, server)
	before := s.count()
	for round := range 5 {
		s.edit(round)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		for _, a := range s.agents {
			if err := a.stop(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		s.edit(round + 1)
		s.launch()
		time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
	}
	s.ready()
	b.end(t)
	for i, now := range s.count() {
		if names := now.fell(before[i]); len(names) > 0 {
			t.Errorf("node%d: counters fell over kill -9: %v", i+1, names)
		}
	}
}

// edit changes policies without a change for the background traffic.
func (s *scene) edit(n int) {
	s.t.Helper()
	var err error
	switch n % 4 {
	case 0:
		err = s.lab.Manifests.Write("extra.yaml", ingress("neighbour", "client", 1000+n))
	case 1:
		err = s.lab.Manifests.Write("more.yaml", strings.Replace(ingress("server", "client", 9000), "name: server-", "name: again-", 1))
	case 2:
		err = s.lab.Manifests.Write("extra.yaml", egress("stranger", "server", 9001))
	case 3:
		err = s.lab.Manifests.Remove("more.yaml")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
}

// Two hundred changes of policy in as short a time as they can be written.
func TestE2EManyEditsUnderTraffic(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
	server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
	s.start()
	s.apply("server.yaml", ingress("server", "client", 9000))
	b := s.traffic(client, stranger, neighbour, server)
	earlier := s.count()
	for n := range 200 {
		s.edit(n)
		time.Sleep(5 * time.Millisecond)
		if n%8 == 0 {
			time.Sleep(150 * time.Millisecond) // long enough for what came together to be applied
			now := s.count()
			for i := range now {
				if names := now[i].fell(earlier[i]); len(names) > 0 {
					t.Errorf("node%d: counters fell: %v", i+1, names)
				}
			}
			earlier = now
		}
	}
	s.ready()
	b.end(t)
	for i, a := range s.agents {
		if n := strings.Count(a.log.String(), "msg=applied"); n < 15 {
			t.Errorf("node%d applied %d times only: the edits did not meet the traffic", i+1, n)
		}
	}
	s.echo(server, 8080)
	s.withdraw("server.yaml")
	s.want(client, serverIP+":8080", true)
}

// SIGTERM comes at any moment of the start and of an apply: the agent ends in time and without complaint, and what was
// enforced stays.
func TestE2ETermAtAnyMoment(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
	server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
	s.start()
	s.apply("server.yaml", ingress("server", "client", 9000))
	b := s.traffic(client, stranger, neighbour, server)
	for round, wait := range []time.Duration{0, 20 * time.Millisecond, 110 * time.Millisecond, 130 * time.Millisecond, 400 * time.Millisecond, 900 * time.Millisecond} {
		s.edit(round)
		time.Sleep(wait)
		start := time.Now()
		for _, a := range s.agents {
			if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		for i, a := range s.agents {
			if err := a.stop(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			took, state := time.Since(start), a.cmd.ProcessState
			// A process that has said nothing yet has done nothing yet: it may be one that cannot catch signals so far.
			unborn := a.log.String() == "" && state.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM
			if state.ExitCode() != exitFine && !unborn || took > 5*time.Second {
				t.Errorf("node%d, SIGTERM after %v: %v after %v\n%s", i+1, wait, state, took, tail(a.log.String()))
			}
		}
		s.launch()
	}
	s.ready()
	b.end(t)
}

// launch starts both agents and does not wait for them.
func (s *scene) launch() {
	s.t.Helper()
	for i, n := range s.lab.Nodes {
		a, err := startAgent(s.lab, n, s.flags...)
		if err != nil {
			s.t.Fatal(err)
		}
		s.agents[i] = a
	}
}

// An agent that comes back with other options changes what runs, under traffic, without a gap.
func TestE2EOtherOptionsWithoutAGap(t *testing.T) {
	s := newScene(t, lab.Config{}, "--decap", "inspect")
	client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
	server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
	s.start()
	s.apply("server.yaml", ingress("server", "client", 9000))
	b := s.traffic(client, stranger, neighbour, server)
	flags := s.flags
	for round, options := range [][]string{
		{"--decap", "strip", "--spoof-check", "observe", "--unknown-endpoint", "drop"},
		{"--decap", "auto", "--xdp-mode", "generic"},
		{"--decap", "inspect"},
	} {
		for _, a := range s.agents {
			if err := a.stop([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[round%2]); err != nil {
				t.Fatal(err)
			}
		}
		s.flags = append(flags[:len(flags)-2:len(flags)-2], options...)
		s.launch()
		s.ready()
		nic, err := s.lab.Nodes[1].Link("eth0")
		if err != nil {
			t.Fatal(err)
		}
		const generic = 2 // XDP_ATTACHED_SKB of linux/if_link.h
		if got := nic.Xdp != nil && nic.Xdp.AttachMode == generic; got != slices.Contains(options, "generic") {
			t.Errorf("%v: XDP is generic: %v", options, got)
		}
		time.Sleep(200 * time.Millisecond)
	}
	b.end(t)
}
