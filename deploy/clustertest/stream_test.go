// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// echo is a number that a stream sent and got back.
type echo struct {
	number         int
	sent, received time.Time
}

// stream is one connection of a pod's that never falls silent: `app stream`. Clocks of pods are the test's.
type stream struct {
	name string
	mu   sync.Mutex
	back []echo
	end  error
	stop func()
}

// stream connects from the pod to an echo server's port, by TCP or, with the flag -udp, by UDP.
func (p *pod) stream(t *testing.T, c *cluster.Cluster, address string, flags ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	command := append([]string{"--namespace=" + p.Namespace, "exec", p.Name, "--", "/app", "stream"}, flags...)
	cmd := c.KubectlCommand(ctx, c.Kubeconfig, append(command, address)...)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := c.Space.Start(cmd); err != nil {
		t.Fatal(err)
	}
	s := &stream{name: p.Name + " to " + address}
	connected, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if lines.Text() == "connected" {
				close(connected)
				continue
			}
			var e echo
			var sent, received int64
			if _, err := fmt.Sscan(lines.Text(), &e.number, &sent, &received); err != nil {
				continue
			}
			e.sent, e.received = time.Unix(0, sent), time.Unix(0, received)
			s.mu.Lock()
			s.back = append(s.back, e)
			s.mu.Unlock()
		}
		err := cmd.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.end = fmt.Errorf("stream %s is over: %v: %s", s.name, err, complaint.String()); err == nil {
			s.end = nil
		}
	}()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	select {
	case <-connected:
	case <-done:
		t.Fatal(s.end)
	case <-time.After(20 * time.Second):
		t.Fatalf("stream %s does not connect", s.name)
	}
	within(t, 10*time.Second, func(context.Context) error {
		if len(s.echoes()) == 0 {
			return fmt.Errorf("stream %s: no echo yet", s.name)
		}
		return nil
	})
	return s
}

func (s *stream) echoes() []echo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]echo(nil), s.back...)
}

// last is when the last echo came.
func (s *stream) last() time.Time {
	all := s.echoes()
	return all[len(all)-1].received
}

// cut returns when the stream has been silent for a while, and how long after the given time it fell silent.
func (s *stream) cut(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	const silence = time.Second
	within(t, 10*time.Second, func(context.Context) error {
		if quiet := time.Since(s.last()); quiet < silence {
			return fmt.Errorf("stream %s goes on", s.name)
		}
		return nil
	})
	return s.last().Sub(since)
}

// goesOn returns when there is an echo of what was sent after now.
func (s *stream) goesOn(t *testing.T, most time.Duration) {
	t.Helper()
	now := time.Now()
	within(t, most, func(context.Context) error {
		all := s.echoes()
		if len(all) == 0 || all[len(all)-1].received.Before(now) {
			return fmt.Errorf("stream %s is silent", s.name)
		}
		return nil
	})
}

// pause is the longest time between two echoes, the present included, since a moment.
func (s *stream) pause(since time.Time) time.Duration {
	longest, before := time.Duration(0), since
	for _, e := range s.echoes() {
		if e.received.After(since) {
			longest, before = max(longest, e.received.Sub(before)), e.received
		}
	}
	return max(longest, time.Since(before))
}

// lost are the datagrams between the first and the last echo that did not come back; sent, how many there were.
func (s *stream) lost() (lost, sent int) {
	all := s.echoes()
	highest := 0
	seen := map[int]bool{}
	for _, e := range all {
		highest = max(highest, e.number)
		seen[e.number] = true
	}
	return highest + 1 - len(seen), highest + 1
}
