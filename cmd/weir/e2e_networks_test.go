// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha1"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/internal/packet"
)

// network makes the lab's overlay that of another CNI: objects and devices, as it has them.
type network struct {
	port, vni int
	object    func(n *lab.Node) string
	commands  func(n, other *lab.Node) []string // of iproute2
	mac       func(n *lab.Node) [6]byte         // that the receiver's device has
}

func (s *scene) become(w network) {
	s.t.Helper()
	for i, n := range s.lab.Nodes {
		if err := s.lab.Manifests.Write(n.NodeID+".yaml", w.object(n)); err != nil {
			s.t.Fatal(err)
		}
		for _, command := range w.commands(n, s.lab.Nodes[1-i]) {
			words := strings.Fields(command)
			if out, err := n.Run(s.t.Context(), words[0], words[1:]...); err != nil {
				s.t.Fatalf("%s: %v: %s", command, err, out)
			}
		}
	}
}

// calico is Calico's VXLAN: blocks of addresses in objects of their own, a MAC by rule.
func calico() network {
	mac := func(n *lab.Node) [6]byte {
		sum := sha1.Sum([]byte(n.NodeID))
		return [6]byte{'f', sum[0], sum[1], sum[2], sum[3], sum[4]}
	}
	tunnel := func(n *lab.Node) netip.Addr {
		a := n.PodCIDR.Addr().As4()
		a[3] = 192
		return netip.AddrFrom4(a)
	}
	text := func(n *lab.Node) string { m := mac(n); return net.HardwareAddr(m[:]).String() }
	return network{port: 4789, vni: 4096, mac: mac,
		object: func(n *lab.Node) string {
			return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: %s, annotations: {projectcalico.org/IPv4Address: %s/24, projectcalico.org/IPv4VXLANTunnelAddr: %s}}
spec: {podCIDR: 10.99.%d.0/24}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: %[1]s-block}
spec: {cidr: %[5]s, node: %[1]s, state: confirmed, deleted: "false"}
`, n.NodeID, n.IP, tunnel(n), n.Number, n.PodCIDR)
		},
		commands: func(n, other *lab.Node) []string {
			return []string{
				"ip link del flannel.1",
				fmt.Sprintf("ip link add vxlan.calico address %s mtu 1450 type vxlan id 4096 dstport 4789 local %s dev eth0 nolearning", text(n), n.IP),
				"ip link set vxlan.calico up",
				fmt.Sprintf("ip address add %s/32 dev vxlan.calico", tunnel(n)),
				fmt.Sprintf("ip neighbour add %s lladdr %s dev vxlan.calico nud permanent", tunnel(other), text(other)),
				fmt.Sprintf("bridge fdb append %s dev vxlan.calico dst %s", text(other), other.IP),
				fmt.Sprintf("ip route add %s via %s dev vxlan.calico onlink", other.PodCIDR, tunnel(other)),
				fmt.Sprintf("ip route add %s/32 dev vxlan.calico", tunnel(other)),
			}
		}}
}

// cilium is Cilium's VXLAN: each packet brings a VNI that says who sends, the inner MACs say nothing.
func cilium() network {
	mac := func(n *lab.Node) [6]byte { return [6]byte{2, 0, 0, 0, 0, byte(n.Number)} }
	text := func(n *lab.Node) string { m := mac(n); return net.HardwareAddr(m[:]).String() }
	return network{port: 8472, vni: 0x1234, mac: mac,
		object: func(n *lab.Node) string {
			return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: %s}
status: {addresses: [{type: InternalIP, address: %s}]}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: %[1]s}
spec: {addresses: [{type: InternalIP, ip: %[2]s}, {type: CiliumInternalIP, ip: %[3]s}], ipam: {podCIDRs: [%[4]s]}, health: {}}
`, n.NodeID, n.IP, n.Gateway(), n.PodCIDR)
		},
		commands: func(n, other *lab.Node) []string {
			return []string{
				"ip link del flannel.1",
				fmt.Sprintf("ip link add cilium_vxlan address %s mtu 1450 type vxlan external dstport 8472", text(n)),
				"ip link set cilium_vxlan up",
				fmt.Sprintf("ip neighbour add %s lladdr %s dev cilium_vxlan nud permanent", other.Gateway(), text(other)),
				fmt.Sprintf("ip route add %s encap ip id %d dst %s via %s dev cilium_vxlan onlink", other.PodCIDR, 1000+n.Number, other.IP, other.Gateway()),
			}
		}}
}

// Where another CNI has made the overlay, policy is enforced at the NIC all the same, and nobody forges a pod.
func TestE2EOtherNetworks(t *testing.T) {
	for name, w := range map[string]network{"Calico": calico(), "Cilium": cilium()} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, lab.Config{})
			s.flags = nil
			s.become(w)
			client, stranger, server := s.pod(1, "client", clientIP), s.pod(1, "stranger", strangerIP), s.pod(2, "server", serverIP)
			s.echo(server, 8080)
			s.echo(client, 8080)
			if err := s.lab.Manifests.Write("server.yaml", ingress("server", "client", 8080)); err != nil {
				t.Fatal(err)
			}
			s.start()
			before := s.count()
			s.want(client, serverIP+":8080", true)
			s.want(stranger, serverIP+":8080", false)
			s.want(server, clientIP+":8080", true)
			moved := s.moved(before)[1]
			if n := moved.sum("weir_packets_total", "hook=underlay_rx", "reason=denied_default"); n == 0 {
				t.Error("what policy forbids was not dropped at the NIC")
			}
			for _, violation := range []string{"unknown_vtep", "spoofed_mac", "spoofed_inner", "inner_mac", "untunnelled", "tunnel_stray", "inner_martian"} {
				if n := moved.sum("weir_packets_total", "reason="+violation); n != 0 {
					t.Errorf("%d packets of an honest node were %s", n, violation)
				}
			}

			node := s.lab.Nodes[1]
			nic, err := node.Link("eth0")
			if err != nil {
				t.Fatal(err)
			}
			lan, err := s.lab.LAN.Link("eth0")
			if err != nil {
				t.Fatal(err)
			}
			forged := func(from netip.Addr, inner packet.Spec, source [6]byte) []byte {
				inner.SrcMAC, inner.DstMAC = source, w.mac(node)
				full := packet.Encapsulate(packet.Underlay(from, node.IP).Via(packet.MAC(lan.HardwareAddr), packet.MAC(nic.HardwareAddr)), uint32(w.vni), inner.Bytes())
				full.DstPort = uint16(w.port)
				return full.Bytes()
			}
			syn := func(from string) packet.Spec {
				return packet.TCP(netip.MustParseAddrPort(from+":40000"), netip.MustParseAddrPort(serverIP+":8080"), packet.SYN)
			}
			first := s.lab.Nodes[0]
			attacks := map[string][]byte{
				"unknown_vtep":  forged(netip.MustParseAddr(lab.LANIP), syn(clientIP), w.mac(first)),
				"spoofed_local": forged(first.IP, syn("10.42.1.77"), w.mac(first)),
			}
			if name == "Calico" {
				attacks["spoofed_mac"] = forged(first.IP, syn(clientIP), [6]byte{2, 0, 0, 0, 0, 9})
			}
			plain := syn(clientIP)
			plain.SrcMAC, plain.DstMAC = packet.MAC(lan.HardwareAddr), packet.MAC(nic.HardwareAddr)
			attacks["untunnelled"] = plain.Bytes()
			for reason, frame := range attacks {
				before := s.count()
				if err := s.lab.LAN.Inject("eth0", frame); err != nil {
					t.Fatal(err)
				}
				eventually(t, 3*time.Second, "a packet to be dropped as "+reason, func() bool {
					return s.moved(before)[1].sum("weir_packets_total", "hook=underlay_rx", "verdict=drop", "reason="+reason) == 1
				})
			}
		})
	}
}
