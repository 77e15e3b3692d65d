// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// kill ends a node's agent without warning.
func (s *scene) kill(node int) {
	s.t.Helper()
	if err := s.agents[node-1].stop(syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
}

// restart starts a node's agent and waits until it is ready.
func (s *scene) restart(node int) {
	s.t.Helper()
	a, err := startAgent(s.lab, s.lab.Nodes[node-1], s.flags...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.agents[node-1] = a
	s.ready()
}

// What changes while nobody looks holds as soon as the agent is back: policies, and a pod that has taken another's place.
func TestE2EChangesWhileTheAgentIsDown(t *testing.T) {
	s := newScene(t, lab.Config{})
	client, stranger := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP)
	server, neighbour := s.pod(2, "server", serverIP), s.pod(2, "neighbour", "10.42.1.20")
	s.echo(server, 8080)
	s.echo(neighbour, 8080)
	s.start()
	s.apply("server.yaml", ingress("server", "client", 8080))
	s.want(client, serverIP+":8080", true)

	s.kill(2)
	if err := s.lab.Manifests.Write("server.yaml", ingress("server", "stranger", 8080)); err != nil {
		t.Fatal(err)
	}
	s.want(client, serverIP+":8080", true) // what was enforced still is
	s.want(stranger, serverIP+":8080", false)
	s.restart(2)
	s.want(client, serverIP+":8080", false)
	s.want(stranger, serverIP+":8080", true)

	// The heir has the server's address, and other rights: it is open to the client only, on another port, and may send nothing.
	s.kill(2)
	if err := s.lab.RemovePod(server); err != nil {
		t.Fatal(err)
	}
	heir := s.pod(2, "heir", serverIP)
	s.echo(heir, 8080)
	s.echo(heir, 9090)
	for name, policy := range map[string]string{"heir": ingress("heir", "client", 9090), "heirx": egress("heir", "", 0)} {
		if err := s.lab.Manifests.Write(name+".yaml", policy); err != nil {
			t.Fatal(err)
		}
	}
	s.restart(2)
	s.want(stranger, serverIP+":8080", false)
	s.want(client, serverIP+":8080", false)
	s.want(client, serverIP+":9090", true)
	s.want(neighbour, serverIP+":9090", false)
	s.want(heir, "10.42.1.20:8080", false)
	if n := s.count()[1].sum("weir_packets_total", "verdict=drop", "reason=spoofed_source"); n != 0 {
		t.Errorf("%d packets of the heir were taken for forged", n)
	}
}

// revtep gives a node another VTEP MAC, as when flannel makes its device anew, and tells the other node.
func (s *scene) revtep(node int, mac [6]byte) {
	s.t.Helper()
	n, other := s.lab.Nodes[node-1], s.lab.Nodes[2-node]
	old, now := net.HardwareAddr(n.VTEPMAC[:]).String(), net.HardwareAddr(mac[:]).String()
	n.VTEPMAC = mac
	s.run(n, "ip", "link", "set", "dev", "flannel.1", "address", now)
	// A device that changes its address forgets its neighbours.
	s.run(n, "ip", "neigh", "replace", other.PodCIDR.Addr().String(), "lladdr", net.HardwareAddr(other.VTEPMAC[:]).String(), "dev", "flannel.1", "nud", "permanent")
	s.run(other, "ip", "neigh", "replace", n.PodCIDR.Addr().String(), "lladdr", now, "dev", "flannel.1", "nud", "permanent")
	s.run(other, "bridge", "fdb", "del", old, "dev", "flannel.1", "dst", n.IP.String(), "self")
	s.run(other, "bridge", "fdb", "append", now, "dev", "flannel.1", "dst", n.IP.String(), "self")
}

// readdress gives a node another InternalIP.
func (s *scene) readdress(node int, ip netip.Addr) {
	s.t.Helper()
	n, other := s.lab.Nodes[node-1], s.lab.Nodes[2-node]
	old := n.IP
	n.IP = ip
	if err := n.Sysctl("net/ipv4/conf/eth0/promote_secondaries", "1"); err != nil { // or the new address goes with the old one
		s.t.Fatal(err)
	}
	s.run(n, "ip", "address", "add", ip.String()+"/24", "dev", "eth0")
	s.run(n, "ip", "link", "set", "dev", "flannel.1", "type", "vxlan", "id", "1", "dev", "eth0", "local", ip.String())
	s.run(n, "ip", "address", "del", old.String()+"/24", "dev", "eth0")
	mac := net.HardwareAddr(n.VTEPMAC[:]).String()
	s.run(other, "bridge", "fdb", "del", mac, "dev", "flannel.1", "dst", old.String(), "self")
	s.run(other, "bridge", "fdb", "append", mac, "dev", "flannel.1", "dst", ip.String(), "self")
}

func (s *scene) run(n *lab.Node, name string, args ...string) {
	s.t.Helper()
	if out, err := n.Run(context.Background(), name, args...); err != nil {
		s.t.Fatalf("%s on %s: %v\n%s", strings.Join(append([]string{name}, args...), " "), n.NodeID, err, out)
	}
}

// describe writes the Node object of a node as it is now.
func (s *scene) describe(node int) {
	s.t.Helper()
	if err := s.lab.DescribeNode(s.lab.Nodes[node-1]); err != nil {
		s.t.Fatal(err)
	}
}

// A node's VTEP MAC and its InternalIP change, while the agents run and while they do not. Pods on both sides keep talking
// under enforce, and the facts of the past are not forgiven for ever.
func TestE2ENodeFactsChange(t *testing.T) {
	s := newScene(t, lab.Config{}, "--spoof-check", "enforce")
	client, server := s.pod(1, "client", clientIP), s.pod(2, "server", serverIP)
	s.echo(client, 8080)
	s.echo(server, 8080)
	s.start()
	s.apply("server.yaml", ingress("server", "client", 8080))
	both := func(what string) {
		t.Helper()
		before := s.count()
		s.want(client, serverIP+":8080", true)
		s.want(server, clientIP+":8080", true)
		for i, moved := range s.moved(before) {
			if n := moved.sum("weir_packets_total", "verdict=drop"); n != 0 {
				t.Errorf("%s: node%d dropped %d packets: %v", what, i+1, n, moved)
			}
		}
	}
	both("at first")
	s.revtep(1, [6]byte{0, 0, 0x5e, 0, 0x53, 0x41})
	s.describe(1)
	s.ready()
	both("another VTEP MAC of node1")
	s.readdress(1, netip.MustParseAddr("192.0.2.41"))
	s.describe(1)
	s.ready()
	both("another InternalIP of node1")

	s.kill(1)
	s.kill(2)
	s.revtep(1, [6]byte{0, 0, 0x5e, 0, 0x53, 0x51})
	s.readdress(1, netip.MustParseAddr("192.0.2.51"))
	s.revtep(2, [6]byte{0, 0, 0x5e, 0, 0x53, 0x52})
	s.readdress(2, netip.MustParseAddr("192.0.2.52"))
	s.describe(1)
	s.describe(2)
	s.launch()
	s.ready()
	both("all of them while no agent ran")

	// The manifests lag behind: what is not known is dropped, and counted, until they say so.
	s.revtep(2, [6]byte{0, 0, 0x5e, 0, 0x53, 0x62})
	before := s.count()
	s.want(client, serverIP+":8080", false)
	dropped := s.moved(before)
	if dropped[0].sum("weir_packets_total", "verdict=drop", "reason=spoofed_mac")+dropped[1].sum("weir_packets_total", "verdict=drop", "reason=inner_mac") == 0 {
		t.Errorf("nobody dropped for the MAC that no manifest knows: %v", dropped)
	}
	s.describe(2)
	s.ready()
	time.Sleep(100 * time.Millisecond)
	both("the manifests have caught up")
}
