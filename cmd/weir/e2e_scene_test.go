// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// TestMain lets the test binary be the agent that the end-to-end tests start on the lab's nodes.
func TestMain(m *testing.M) {
	if os.Getenv("WEIR_VERB") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// scene is a lab with an agent on each node.
type scene struct {
	t      *testing.T
	lab    *lab.Lab
	agents [2]*nodeAgent
	flags  []string
}

// Pods of most tests: client and stranger on node1, server on node2.
const (
	clientIP   = "10.42.0.10"
	strangerIP = "10.42.0.20"
	serverIP   = "10.42.1.10"
)

func newScene(t *testing.T, config lab.Config, flags ...string) *scene {
	t.Helper()
	l, err := lab.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, lab: l, flags: append([]string{"--underlay", "eth0"}, flags...)}
	t.Cleanup(func() {
		for _, a := range s.agents {
			if a == nil {
				continue
			}
			if err := a.stop(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("agent of %s:\n%s", a.node.NodeID, tail(a.log.String()))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// pod starts a pod labelled app=NAME on node 1 or 2.
func (s *scene) pod(node int, name, addr string) *lab.Pod {
	s.t.Helper()
	p, err := s.lab.AddPod(s.lab.Nodes[node-1], lab.PodSpec{Name: name, Addr: netip.MustParseAddr(addr),
		Labels: map[string]string{"app": name}})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// start starts the agents that do not run and waits until all are ready.
func (s *scene) start() {
	s.t.Helper()
	for i, n := range s.lab.Nodes {
		a, err := startAgent(s.lab, n, s.flags...)
		if err != nil {
			s.t.Fatal(err)
		}
		s.agents[i] = a
	}
	s.ready()
}

func (s *scene) ready() {
	s.t.Helper()
	for _, a := range s.agents {
		if err := a.ready(context.Background()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// apply writes a manifest and waits until it is enforced.
func (s *scene) apply(name, manifest string) {
	s.t.Helper()
	if err := s.lab.Manifests.Write(name, manifest); err != nil {
		s.t.Fatal(err)
	}
	s.ready()
}

// withdraw removes a manifest and waits until that is enforced.
func (s *scene) withdraw(name string) {
	s.t.Helper()
	if err := s.lab.Manifests.Remove(name); err != nil {
		s.t.Fatal(err)
	}
	s.ready()
}

// count is both nodes' metrics.
func (s *scene) count() [2]samples {
	s.t.Helper()
	var out [2]samples
	for i, a := range s.agents {
		m, err := a.metrics(context.Background())
		if err != nil {
			s.t.Fatal(err)
		}
		out[i] = m
	}
	return out
}

// moved is what both nodes counted since an earlier count.
func (s *scene) moved(since [2]samples) [2]samples {
	now := s.count()
	return [2]samples{now[0].since(since[0]), now[1].since(since[1])}
}

// overlayReceived is how many packets the overlay device of a node has received.
func (s *scene) overlayReceived(node int) uint64 {
	s.t.Helper()
	device, err := s.lab.Nodes[node-1].Link("flannel.1")
	if err != nil {
		s.t.Fatal(err)
	}
	return device.Statistics.RxPackets
}

// ingress is a NetworkPolicy that isolates app=SUBJECT for ingress and admits only app=PEER, on TCP and UDP port, or on
// everything if port is 0. No peer: nobody.
func ingress(subject, peer string, port int) string {
	return networkPolicy("ingress", subject, peer, port)
}

func egress(subject, peer string, port int) string {
	return networkPolicy("egress", subject, peer, port)
}

func networkPolicy(direction, subject, peer string, port int) string {
	word, kind := "from", "Ingress"
	if direction == "egress" {
		word, kind = "to", "Egress"
	}
	rule := " []"
	if peer != "" {
		rule = fmt.Sprintf("\n  - %s:\n    - podSelector:\n        matchLabels:\n          app: %s", word, peer)
	}
	if port != 0 {
		rule += fmt.Sprintf("\n    ports:\n    - protocol: TCP\n      port: %d\n    - protocol: UDP\n      port: %[1]d", port)
	}
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: %s-%s
  namespace: default
spec:
  podSelector:
    matchLabels:
      app: %[1]s
  policyTypes:
  - %[3]s
  %[2]s:%[4]s
`, subject, direction, kind, rule)
}

// echo serves connections on a port of a pod: what comes in goes back.
func (s *scene) echo(p *lab.Pod, port int) {
	s.t.Helper()
	s.serve(p, port, func(c net.Conn) { io.Copy(c, c) })
}

func (s *scene) serve(p *lab.Pod, port int, handle func(net.Conn)) {
	s.t.Helper()
	listener, err := p.Listen(fmt.Sprintf(":%d", port))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

// connects says whether an echo server answers, in full: 100 kB there and back.
func (s *scene) connects(from *lab.Pod, to string) bool {
	s.t.Helper()
	c := s.dial(from, to)
	if c == nil {
		return false
	}
	defer c.Close()
	sent := make([]byte, 100_000)
	rand.Read(sent)
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		s.t.Fatalf("%s connected to %s, and then: %d of %d bytes came back, %v", from.PodSpec.Name, to, len(got), len(sent), err)
	}
	return true
}

// dial is nil if nobody answers. A refusal ends the test: it is not what a dropped packet looks like.
func (s *scene) dial(from *lab.Pod, to string) net.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to)
	if err != nil && !isTimeout(err) {
		s.t.Fatalf("dial %s from %s: %v", to, from.PodSpec.Name, err)
	}
	if err != nil {
		return nil
	}
	return c
}

func (s *scene) want(from *lab.Pod, to string, allowed bool) {
	s.t.Helper()
	if got := s.connects(from, to); got != allowed {
		s.t.Errorf("%s → %s: connected %v, want %v", from.PodSpec.Name, to, got, allowed)
	}
}

type dialer interface {
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// ping says whether an echo request from a pod or a node is answered.
func (s *scene) ping(from dialer, to string) bool {
	s.t.Helper()
	c, err := from.Dial(context.Background(), "ip4:icmp", to)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	request := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
	request[2], request[3] = 0xe5, 0xca // ones' complement of 0x0800 + 0x1234 + 0x0001
	if _, err := c.Write(request); err != nil {
		s.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(700 * time.Millisecond))
	answer := make([]byte, 100)
	for {
		n, _, err := c.(*net.IPConn).ReadFrom(answer) // without the IP header, unlike Read
		if err != nil {
			return false
		}
		if n >= 8 && answer[0] == 0 && answer[4] == 0x12 && answer[5] == 0x34 {
			return true
		}
	}
}
