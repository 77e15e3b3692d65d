// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// A pod becomes isolated while a connection of its runs that is still admitted, and the next packet is the other side's.
func TestE2EConnectionOutlivesIsolationWhilePeerTalks(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	// One connection is a download, the other an answer that takes its time.
	proceed := make(chan struct{})
	const megabytes = 8
	s.serve(server, 8080, func(c net.Conn) {
		chunk := make([]byte, 1<<20)
		for i := range megabytes {
			binary.BigEndian.PutUint64(chunk, uint64(i))
			if _, err := c.Write(chunk); err != nil {
				return
			}
			if i == 0 {
				<-proceed
			}
		}
	})
	s.serve(server, 8081, func(c net.Conn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		<-proceed
		time.Sleep(2 * time.Second)
		io.WriteString(c, "late "+line)
	})
	s.start()
	download, question := s.dial(client, serverIP+":8080"), s.dial(client, serverIP+":8081")
	if download == nil || question == nil {
		t.Fatal("no connection without a policy")
	}
	defer download.Close()
	defer question.Close()
	first := make([]byte, 1<<20)
	if _, err := io.ReadFull(download, first); err != nil {
		t.Fatal(err)
	}
	io.WriteString(question, "answer\n")
	time.Sleep(300 * time.Millisecond) // all is acknowledged: from here on the client has nothing to say

	before := s.count()
	s.apply("client.yaml", ingress("client", "", 0))
	close(proceed)
	deadline := time.Now().Add(15 * time.Second)
	download.SetDeadline(deadline)
	question.SetDeadline(deadline)
	rest, err := io.ReadAll(download)
	if err != nil || len(rest) != (megabytes-1)<<20 {
		t.Errorf("the download ended after %d of %d bytes: %v", len(rest), (megabytes-1)<<20, err)
	}
	if answer, err := io.ReadAll(question); err != nil || string(answer) != "late answer\n" {
		t.Errorf("the late answer is %q, %v", answer, err)
	}
	for i, moved := range s.moved(before) {
		if n := moved.sum("weir_packets_total", "verdict=drop"); n != 0 {
			t.Errorf("node%d dropped %d packets of connections that are still admitted", i+1, n)
		}
	}
	s.echo(client, 8080)
	s.want(server, clientIP+":8080", false) // the grace is for segments of old connections only
}

// talk keeps writing to a connection and counts the bytes that it reads.
func talk(c net.Conn) *atomic.Int64 {
	received := &atomic.Int64{}
	go func() {
		for chunk := make([]byte, 1000); ; time.Sleep(2 * time.Millisecond) {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}()
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			n, err := c.Read(buffer)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	return received
}

func TestE2ERevokedConnectionCarriesNoPayload(t *testing.T) {
	for _, test := range []struct {
		name   string
		server int
		addr   string
	}{{"through the tunnel", 2, serverIP}, {"on one node", 1, "10.42.0.30"}} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, lab.Config{})
			client, server := s.pod(1, "client", clientIP), s.pod(test.server, "server", test.addr)
			accepted := make(chan *atomic.Int64, 1)
			s.serve(server, 8080, func(c net.Conn) {
				accepted <- talk(c)
				select {}
			})
			s.start()
			s.apply("server.yaml", ingress("server", "client", 8080))
			c := s.dial(client, test.addr+":8080")
			if c == nil {
				t.Fatal("no connection that the policy admits")
			}
			defer c.Close()
			atClient, atServer := talk(c), <-accepted
			time.Sleep(300 * time.Millisecond)
			if atClient.Load() == 0 || atServer.Load() == 0 {
				t.Fatal("the connection carries nothing")
			}
			if err := s.lab.Manifests.Write("client.yaml", ingress("client", "", 0)); err != nil {
				t.Fatal(err)
			}
			s.apply("server.yaml", ingress("server", "", 0))
			// What was let in before the swap may still be read from the sockets' buffers: the interfaces tell.
			wire := func() (sum uint64) {
				for _, p := range []*lab.Pod{client, server} {
					device, err := p.Link("eth0")
					if err != nil {
						t.Fatal(err)
					}
					sum += device.Statistics.RxBytes
				}
				return sum
			}
			before := wire()
			time.Sleep(100 * time.Millisecond)
			client0, server0 := atClient.Load(), atServer.Load()
			time.Sleep(2 * time.Second) // several retransmissions
			if got := atClient.Load() - client0; got != 0 {
				t.Errorf("the client read %d bytes after the swap", got)
			}
			if got := atServer.Load() - server0; got != 0 {
				t.Errorf("the server read %d bytes after the swap", got)
			}
			if got := wire() - before; got > 500 { // ARP is allowed
				t.Errorf("the pods received %d bytes after the swap", got)
			}
		})
	}
}

// A new pod gets the address of one that is gone, while a peer still sends to that.
func TestE2EReusedAddressInheritsNothing(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.start()
	for name, policy := range map[string]string{"client": ingress("client", "", 0), "heir": ingress("heir", "", 0),
		"server": ingress("server", "client", 9000)} {
		s.apply(name+".yaml", policy)
	}
	// The server answers the client's datagram, and goes on and on.
	service, err := server.ListenPacket(":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	socket, err := client.ListenPacket(":40000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := socket.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(serverIP), Port: 9000}); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	service.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, from, err := service.ReadFrom(buffer)
	if err != nil || from.String() != clientIP+":40000" {
		t.Fatalf("the server hears %v, %v", from, err)
	}
	sent := &atomic.Int64{}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				service.WriteTo([]byte("stream"), from)
				sent.Add(1)
			}
		}
	}()
	socket.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, _, err := socket.ReadFrom(buffer); err != nil {
		t.Fatalf("the client hears nothing: %v", err)
	}
	socket.Close()

	if err := s.lab.RemovePod(client); err != nil {
		t.Fatal(err)
	}
	heir := s.pod(1, "heir", clientIP)
	inherited, err := heir.ListenPacket(":40000")
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	s.ready()
	before := sent.Load()
	inherited.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
	if n, _, err := inherited.ReadFrom(buffer); err == nil {
		t.Errorf("the heir received %q, which was meant for the pod before it", buffer[:n])
	}
	if sent.Load()-before < 100 {
		t.Error("the peer has stopped sending: the test proves nothing")
	}
	// Nor may it speak in the name of its predecessor.
	if _, err := inherited.WriteTo([]byte("heir"), &net.UDPAddr{IP: net.ParseIP(serverIP), Port: 9000}); err != nil {
		t.Fatal(err)
	}
	service.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	for {
		n, _, err := service.ReadFrom(buffer)
		if err != nil {
			break
		}
		if string(buffer[:n]) == "heir" {
			t.Error("the heir was let in by its predecessor's permission")
		}
	}
}

// sequence sends numbered datagrams, one a millisecond, until stop is closed; the result is how many.
func sequence(t *testing.T, from *lab.Pod, to string, stop chan struct{}) chan uint64 {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan uint64, 1)
	go func() {
		defer c.Close()
		var n uint64
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				sent <- n
				return
			case <-tick.C:
				if _, err := c.Write(fmt.Appendf(nil, "%d", n)); err == nil {
					n++
				}
			}
		}
	}()
	return sent
}

// collect counts datagrams on a port of a pod.
func collect(t *testing.T, p *lab.Pod, port int) *atomic.Uint64 {
	t.Helper()
	c, err := p.ListenPacket(fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.UDPConn).SetReadBuffer(4 << 20)
	t.Cleanup(func() { c.Close() })
	received := &atomic.Uint64{}
	go func() {
		for buffer := make([]byte, 100); ; received.Add(1) {
			if _, _, err := c.ReadFrom(buffer); err != nil {
				return
			}
		}
	}()
	return received
}
