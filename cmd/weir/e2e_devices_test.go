// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/internal/packet"
)

// eventually waits for something that the agents do in their own time.
func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", within, what)
		}
	}
}

// nicProgram is the program on a node's interface, 0 if none.
func nicProgram(t *testing.T, n *lab.Node, name string) ebpf.ProgramID {
	t.Helper()
	var id uint32
	if err := n.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil && l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached {
			id = l.Attrs().Xdp.ProgId
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return ebpf.ProgramID(id)
}

// detach takes the link that runs a program off its interface.
func detach(t *testing.T, program ebpf.ProgramID) {
	t.Helper()
	var links link.Iterator
	defer links.Close()
	for links.Next() {
		if info, err := links.Link.Info(); err == nil && info.Program == program {
			if err := links.Link.Detach(); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no link runs program %d: %v", program, links.Err())
}

// The overlay and its NICs are found again after whatever happens to them, without a restart, and what policy forbids stays
// forbidden.
func TestE2EDevicesComeAndGo(t *testing.T) {
	s := newScene(t, lab.Config{})
	s.flags = nil // all is to be found
	client, stranger, server := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP), s.pod(2, "server", serverIP)
	s.echo(server, 8080)
	if err := s.lab.Manifests.Write("server.yaml", ingress("server", "client", 8080)); err != nil {
		t.Fatal(err)
	}
	s.start()
	node := s.lab.Nodes[1]
	forged := func(vni uint32, port uint16) uint64 {
		t.Helper()
		nic, err := node.Link("eth0")
		if err != nil {
			t.Fatal(err)
		}
		lan, err := s.lab.LAN.Link("eth0")
		if err != nil {
			t.Fatal(err)
		}
		before := s.count()
		inner := packet.TCP(netip.MustParseAddrPort(clientIP+":40000"), netip.MustParseAddrPort(serverIP+":8080"), packet.SYN)
		inner.SrcMAC, inner.DstMAC = s.lab.Nodes[0].VTEPMAC, node.VTEPMAC
		outer := packet.Underlay(netip.MustParseAddr(lab.LANIP), node.IP).Via(packet.MAC(lan.HardwareAddr), packet.MAC(nic.HardwareAddr))
		full := packet.Encapsulate(outer, vni, inner.Bytes())
		full.DstPort = port
		if err := s.lab.LAN.Inject("eth0", full.Bytes()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		return s.moved(before)[1].sum("weir_packets_total", "hook=underlay_rx", "verdict=drop", "reason=unknown_vtep")
	}
	works := func(what string, vni uint32, port uint16) {
		t.Helper()
		t.Log(what)
		eventually(t, 15*time.Second, "the client to reach the server after "+what, func() bool { return s.connects(client, serverIP+":8080") })
		s.want(stranger, serverIP+":8080", false)
		eventually(t, 10*time.Second, "forged packets to be dropped after "+what, func() bool { return forged(vni, port) == 1 })
		s.ready()
	}
	works("the start", lab.VNI, lab.VXLANPort)

	if err := s.lab.RemakeOverlay(7, lab.VXLANPort, [2]string{}); err != nil {
		t.Fatal(err)
	}
	works("flanneld's restart with another VNI", 7, lab.VXLANPort)

	if err := s.lab.RemakeOverlay(4096, 4789, [2]string{}); err != nil {
		t.Fatal(err)
	}
	works("flanneld's restart with another port", 4096, 4789)

	before := nicProgram(t, node, "eth0")
	if err := node.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		return errors.Join(err, netlink.LinkSetDown(l), netlink.LinkSetUp(l))
	}); err != nil {
		t.Fatal(err)
	}
	works("its NIC was down", 4096, 4789)
	if now := nicProgram(t, node, "eth0"); now != before {
		t.Errorf("program %d became %d though the NIC was only down", before, now)
	}

	detach(t, before)
	lost := time.Now()
	eventually(t, lossInterval+2*time.Second, "the program to be back on the NIC", func() bool { return nicProgram(t, node, "eth0") != 0 })
	t.Logf("a link that was detached was missed after %v", time.Since(lost).Round(time.Millisecond))
	works("a link was detached", 4096, 4789)

	// A NIC is plugged in while all runs, and the overlay moves to it.
	if err := errors.Join(s.lab.PlugNIC(node, "eth1", true), s.lab.RemakeOverlay(4096, 4789, [2]string{"", "eth1"})); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the program to be on the new NIC and off the old one", func() bool {
		return nicProgram(t, node, "eth1") != 0 && nicProgram(t, node, "eth0") == 0
	})

	// It gets another name.
	if err := node.Do(func() error {
		l, err := netlink.LinkByName("eth1")
		return errors.Join(err, netlink.LinkSetDown(l), netlink.LinkSetName(l, "lan0"), netlink.LinkSetUp(l))
	}); err != nil {
		t.Fatal(err)
	}
	if nicProgram(t, node, "lan0") == 0 {
		t.Error("a NIC lost its program with its name")
	}
	eventually(t, 10*time.Second, "the client to reach the server by the renamed NIC", func() bool { return s.connects(client, serverIP+":8080") })
	s.want(stranger, serverIP+":8080", false)
	s.ready()
}

// A NIC with jumbo frames gets a program that can do with them; the pods' traffic, whole jumbo packets, passes and is judged.
func TestE2EJumboFrames(t *testing.T) {
	s := newScene(t, lab.Config{MTU: 9000})
	client, stranger, server := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP), s.pod(2, "server", serverIP)
	s.echo(server, 8080)
	if err := s.lab.Manifests.Write("server.yaml", ingress("server", "client", 8080)); err != nil {
		t.Fatal(err)
	}
	s.start()
	before := s.count()
	s.want(client, serverIP+":8080", true)
	s.want(stranger, serverIP+":8080", false)
	moved := s.moved(before)[1]
	if n := moved.sum("weir_packets_total", "hook=underlay_rx", "reason=handed_up"); n == 0 || n > 60 {
		t.Errorf("%d packets for 200 kB of payload: they should be few and large", n)
	}
	if n := moved.sum("weir_packets_total", "hook=underlay_rx", "reason=vxlan_malformed") + moved.sum("weir_packets_total", "hook=underlay_rx", "reason=inner_malformed"); n != 0 {
		t.Errorf("%d packets of several buffers were taken for malformed", n)
	}
}
