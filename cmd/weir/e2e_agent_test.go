// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/weirnet/weir/internal/lab"
)

// Both agents die under traffic and come back: nothing that is allowed is lost, nothing that is denied passes.
func TestE2EKilledAgentLeavesNoGap(t *testing.T) {
	for _, decap := range []string{"inspect", "strip"} {
		t.Run(decap, func(t *testing.T) {
			s := newScene(t, lab.Config{}, "--decap", decap)
			client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
			server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
			s.start()
			s.apply("server.yaml", ingress("server", "client", 9000))
			allowed, denied := collect(t, server, 9000), collect(t, server, 9001)
			s.serve(server, 9000, func(c net.Conn) { io.Copy(c, c) })
			stop := make(chan struct{})
			permitted := sequence(t, client, serverIP+":9000", stop)
			refused := []chan int64{
				sequence(t, client, serverIP+":9001", stop),
				sequence(t, stranger, serverIP+":9001", stop),
				sequence(t, neighbour, serverIP+":9001", stop),
			}
			c := s.dial(client, serverIP+":9000")
			if c == nil {
				t.Fatal("the policy does not admit the client")
			}
			defer c.Close()
			stream := make(chan error, 1)
			go func() { stream <- pingPong(c, stop) }()

			time.Sleep(500 * time.Millisecond)
			for range 2 {
				for _, a := range s.agents {
					if err := a.stop(syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(500 * time.Millisecond)
				s.start()
			}
			time.Sleep(500 * time.Millisecond)
			close(stop)
			sent := <-permitted
			var attempts int64
			for _, r := range refused {
				attempts += <-r
			}
			if err := <-stream; err != nil {
				t.Errorf("the TCP connection broke: %v", err)
			}
			time.Sleep(200 * time.Millisecond)
			lost, passed := sent-allowed.Load(), denied.Load()
			t.Logf("allowed: %d sent, %d lost; denied: %d sent, %d passed", sent, lost, attempts, passed)
			if lost != 0 || passed != 0 || sent < 1000 || attempts < 3000 {
				t.Errorf("lost %d of %d allowed, passed %d of %d denied: want 0 of many, twice", lost, sent, passed, attempts)
			}
		})
	}
}

// pingPong exchanges a message after the other until stop is closed. None may take long enough for a retransmission of a
// lost segment to have happened more than once.
func pingPong(c net.Conn, stop chan struct{}) error {
	buffer := make([]byte, 4)
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buffer); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func TestE2ETermKeepsEnforcementAndCleanupEndsIt(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.echo(server, 8080)
	s.start()
	s.apply("server.yaml", ingress("server", "", 0))
	for _, a := range s.agents {
		start := time.Now()
		if err := a.stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := a.cmd.ProcessState.ExitCode(); code != 0 || time.Since(start) > 5*time.Second {
			t.Errorf("SIGTERM: exit %d after %v\n%s", code, time.Since(start), tail(a.log.String()))
		}
	}
	s.want(client, serverIP+":8080", false)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.lab.Nodes {
		for round := range 2 {
			out, err := n.Run(context.Background(), "env", "WEIR_VERB=agent", self, "agent", "cleanup")
			if err != nil || strings.Contains(strings.ToLower(out), "error") {
				t.Errorf("cleanup, round %d: %v\n%s", round+1, err, out)
			}
		}
		if out, err := n.Run(context.Background(), "find", "/sys/fs/bpf", "-mindepth", "1", "!", "-name", "*.debug"); err != nil || out != "" {
			t.Errorf("%s: left in bpffs: %v\n%s", n.NodeID, err, out)
		}
	}
	s.nothingAttached()
	s.want(client, serverIP+":8080", true)
}

// nothingAttached looks at every interface of both nodes.
func (s *scene) nothingAttached() {
	s.t.Helper()
	s.nothingAttachedTo(s.lab.Nodes[:]...)
}

func (s *scene) nothingAttachedTo(nodes ...*lab.Node) {
	s.t.Helper()
	for _, n := range nodes {
		names := []string{"eth0", "cni0", "flannel.1"}
		for _, p := range s.lab.Pods {
			if p.Node == n {
				names = append(names, p.Veth)
			}
		}
		for _, name := range names {
			device, err := n.Link(name)
			if err != nil {
				s.t.Fatal(err)
			}
			if device.Xdp != nil && device.Xdp.Attached {
				s.t.Errorf("%s: XDP is still attached to %s", n.NodeID, name)
			}
			for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				var result *link.QueryResult
				err := n.Do(func() (err error) {
					result, err = link.QueryPrograms(link.QueryOptions{Target: device.Index, Attach: attach})
					return err
				})
				if err != nil {
					s.t.Fatal(err)
				}
				if len(result.Programs) > 0 {
					s.t.Errorf("%s: %d programs are still at %v of %s", n.NodeID, len(result.Programs), attach, name)
				}
			}
		}
	}
}
