// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/internal/packet"
)

// The machine on the LAN forges packets towards the server. Each of them arrives as long as nobody checks.
func TestE2EForgedPacketsStopAtTheNIC(t *testing.T) {
	s := newScene(t, lab.Config{}, "--spoof-check", "enforce")
	s.pod(1, "client", clientIP)
	server := s.pod(2, "server", serverIP)
	s.pod(2, "neighbour", "10.42.1.20")
	received := collect(t, server, 9000)
	node1, node2 := s.lab.Nodes[0], s.lab.Nodes[1]
	// node3 does not exist: the attacker has taken its place, and may speak for its own pods but for nobody else.
	insider := netip.MustParseAddr("192.0.2.103")
	node3MAC := packet.MAC{0, 0, 0x5e, 0, 0x53, 0x13}
	if err := s.lab.DescribeNode(&lab.Node{NodeID: "node3", IP: insider, PodCIDR: netip.MustParsePrefix("10.42.2.0/24"),
		VTEPMAC: node3MAC}); err != nil {
		t.Fatal(err)
	}
	attacker, err := s.lab.LAN.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	nic, err := node2.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	from, to := packet.MAC(attacker.HardwareAddr), packet.MAC(nic.HardwareAddr)
	target := netip.MustParseAddrPort(serverIP + ":9000")
	inner := func(source string, mac packet.MAC) packet.Spec {
		return packet.UDP(netip.MustParseAddrPort(source+":1234"), target, []byte("forged")...).Via(mac, node2.VTEPMAC)
	}
	tunnel := func(outer netip.Addr, inside packet.Spec) packet.Spec {
		return packet.Encapsulate(packet.Underlay(outer, node2.IP).Via(from, to), lab.VNI, inside.Bytes())
	}
	stray := tunnel(insider, inner("10.42.2.5", node3MAC))
	stray.Dst = node2.Gateway()
	attacks := []struct {
		name, reason string
		frames       []packet.Spec
	}{
		{"tunnel packet from a machine that is no node", "unknown_vtep", []packet.Spec{tunnel(netip.MustParseAddr(lab.LANIP), inner(clientIP, node1.VTEPMAC))}},
		{"tunnel packet of a node with another MAC", "spoofed_mac", []packet.Spec{tunnel(insider, inner("10.42.2.5", node1.VTEPMAC))}},
		{"a node speaks for a pod of another one", "spoofed_inner", []packet.Spec{tunnel(insider, inner(clientIP, node3MAC))}},
		{"a node speaks for a pod of the receiver", "spoofed_local", []packet.Spec{tunnel(insider, inner("10.42.1.20", node3MAC))}},
		{"a node speaks for the receiver itself", "spoofed_local", []packet.Spec{tunnel(insider, inner("10.42.1.1", node3MAC))}},
		{"plain packet in the name of a remote pod", "untunnelled", []packet.Spec{inner(clientIP, from).Via(from, to)}},
		{"tunnel packet to the bridge's address", "tunnel_stray", []packet.Spec{stray}},
		{"tunnel packet in fragments", "outer_fragment", tunnel(netip.MustParseAddr(lab.LANIP), inner(clientIP, node1.VTEPMAC)).Fragments(24)},
	}
	send := func(frames []packet.Spec) (arrived int64) {
		t.Helper()
		was := received.Load()
		for _, f := range frames {
			f.ID = 77
			if err := s.lab.LAN.Inject("eth0", f.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			if time.Sleep(10 * time.Millisecond); received.Load() > was {
				break
			}
		}
		return received.Load() - was
	}
	for _, a := range attacks {
		if send(a.frames) != 1 && a.name != "a node speaks for the receiver itself" { // a martian to the kernel as well
			t.Errorf("without weir: %s: did not arrive, the attack is none", a.name)
		}
	}
	s.start()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			before := s.count()
			if got := send(a.frames); got != 0 {
				t.Errorf("%d forged packets arrived", got)
			}
			moved := s.moved(before)[1]
			if n := moved.sum("weir_packets_total", "hook=underlay_rx", "verdict=drop", "reason="+a.reason); n != 1 {
				t.Errorf("%d drops with reason %s, want 1: %v", n, a.reason, moved)
			}
		})
	}
	if got := send([]packet.Spec{tunnel(insider, inner("10.42.2.5", node3MAC))}); got != 1 {
		t.Errorf("what node3 may send: %d arrived, want 1", got)
	}
}
