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

// revoke runs a connection that carries payload both ways, applies a change of policy, and returns what still arrives at
// either side after it.
func revoke(t *testing.T, serverNode int, serverAddr string, before, after map[string]string) (atClient, atServer, onWire int64) {
	s := newScene(t, lab.Config{})
	client, server := s.pod(1, "client", clientIP), s.pod(serverNode, "server", serverAddr)
	accepted := make(chan *atomic.Int64, 1)
	s.serve(server, 8080, func(c net.Conn) {
		accepted <- talk(c)
		<-t.Context().Done()
	})
	for name, policy := range before {
		if err := s.lab.Manifests.Write(name, policy); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	c := s.dial(client, serverAddr+":8080")
	if c == nil {
		t.Fatal("no connection, and policy admits it")
	}
	defer c.Close()
	fromServer, fromClient := talk(c), <-accepted
	time.Sleep(300 * time.Millisecond)
	if fromServer.Load() == 0 || fromClient.Load() == 0 {
		t.Fatal("the connection carries nothing")
	}
	for name, policy := range after {
		if err := s.lab.Manifests.Write(name, policy); err != nil {
			t.Fatal(err)
		}
	}
	s.ready()
	// What was let in before the swap may still be read from the sockets' buffers: the interfaces tell.
	wire := func() (sum int64) {
		for _, p := range []*lab.Pod{client, server} {
			device, err := p.Link("eth0")
			if err != nil {
				t.Fatal(err)
			}
			sum += int64(device.Statistics.RxBytes)
		}
		return sum
	}
	onWire -= wire()
	time.Sleep(100 * time.Millisecond)
	atClient, atServer = -fromServer.Load(), -fromClient.Load()
	time.Sleep(1500 * time.Millisecond) // several retransmissions
	return atClient + fromServer.Load(), atServer + fromClient.Load(), onWire + wire()
}

func TestE2ERevokedConnectionCarriesNoPayload(t *testing.T) {
	admitted := map[string]string{"server.yaml": ingress("server", "client", 8080)}
	for _, place := range []struct {
		name string
		node int
		addr string
	}{{"through the tunnel", 2, serverIP}, {"on one node", 1, "10.42.0.30"}} {
		for _, test := range []struct {
			name          string
			before, after map[string]string
			client        bool // nothing reaches the client's program either
			wire          bool // nor any interface: not what the peer's stack repeats unheard, which it may send for all its node knows
		}{
			{"permission withdrawn, both isolated", admitted, map[string]string{
				"client.yaml": ingress("client", "", 0), "server.yaml": ingress("server", "", 0)}, true, place.node == 1},
			{"permission withdrawn, server isolated", admitted, map[string]string{"server.yaml": ingress("server", "", 0)}, false, false},
			{"both become isolated", nil, map[string]string{
				"client.yaml": ingress("client", "", 0), "server.yaml": ingress("server", "", 0)}, true, place.node == 1},
			{"both become isolated both ways", nil, map[string]string{
				"client.yaml": ingress("client", "", 0), "server.yaml": ingress("server", "", 0),
				"clientx.yaml": egress("client", "", 0), "serverx.yaml": egress("server", "", 0)}, true, true},
			{"client's egress withdrawn", map[string]string{"client.yaml": egress("client", "server", 8080)},
				map[string]string{"client.yaml": egress("client", "", 0)}, false, false},
			{"client's egress becomes isolated", nil, map[string]string{"client.yaml": egress("client", "", 0)}, false, false},
		} {
			t.Run(test.name+" "+place.name, func(t *testing.T) {
				atClient, atServer, onWire := revoke(t, place.node, place.addr, test.before, test.after)
				if atServer != 0 {
					t.Errorf("the server read %d bytes after the swap", atServer)
				}
				if test.client && atClient != 0 {
					t.Errorf("the client read %d bytes after the swap", atClient)
				}
				if test.wire && onWire > 500 { // ARP is allowed
					t.Errorf("the pods received %d bytes after the swap", onWire)
				}
			})
		}
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
	heard := received(inherited)
	time.Sleep(50 * time.Millisecond) // what came before the agent knew of the heir may still be read
	before, was := sent.Load(), heard.Load()
	time.Sleep(1500 * time.Millisecond)
	if got := heard.Load() - was; got != 0 {
		t.Errorf("the heir received %d datagrams that were meant for the pod before it", got)
	}
	if sent.Load()-before < 100 {
		t.Error("the peer has stopped sending: the test proves nothing")
	}
	// Nor may it speak in the name of its predecessor. From the same port it could: that answers what the server sends.
	other, err := heir.ListenPacket(":40001")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.WriteTo([]byte("heir"), &net.UDPAddr{IP: net.ParseIP(serverIP), Port: 9000}); err != nil {
		t.Fatal(err)
	}
	service.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, from, err := service.ReadFrom(buffer); err == nil {
		t.Errorf("the server received %q from %v by the predecessor's permission", buffer[:n], from)
	}
}

// received counts the datagrams of a socket.
func received(c net.PacketConn) *atomic.Int64 {
	count := &atomic.Int64{}
	go func() {
		for buffer := make([]byte, 100); ; count.Add(1) {
			if _, _, err := c.ReadFrom(buffer); err != nil {
				return
			}
		}
	}()
	return count
}

// sequence sends numbered datagrams, one a millisecond, until stop is closed; the result is how many.
func sequence(t *testing.T, from *lab.Pod, to string, stop chan struct{}) chan int64 {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan int64, 1)
	go func() {
		defer c.Close()
		var n int64
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
func collect(t *testing.T, p *lab.Pod, port int) *atomic.Int64 {
	t.Helper()
	c, err := p.ListenPacket(fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.UDPConn).SetReadBuffer(4 << 20)
	t.Cleanup(func() { c.Close() })
	return received(c)
}
