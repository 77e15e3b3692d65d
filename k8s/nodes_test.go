// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeDoc is a Node of name n1 with these annotations ("KEY: VALUE" each), podCIDR and InternalIP.
func nodeDoc(annotations ...string) string {
	text := "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  annotations:\n"
	for _, a := range annotations {
		text += "    " + a + "\n"
	}
	return text + "spec: {podCIDR: 10.1.0.0/24}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n"
}

// What each CNI says about a node ends up in the model.
func TestNodeFacts(t *testing.T) {
	const (
		vxlan    = "flannel.alpha.coreos.com/backend-type: vxlan"
		data     = `flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"00:00:5e:00:53:01"}'`
		data6    = `flannel.alpha.coreos.com/backend-v6-data: '{"VNI":1,"VtepMAC":"00:00:5e:00:53:06"}'`
		block    = "apiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {name: %s}\nspec: {cidr: %s, node: %s, state: %s, type: host, deleted: \"%s\"}\n---\n"
		bgp      = "projectcalico.org/IPv4Address: 192.0.2.1/24"
		calicoIP = "projectcalico.org/IPv4VXLANTunnelAddr: 10.9.0.64"
		ciliums  = `apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1}
spec:
  addresses: [{ip: 192.0.2.1, type: InternalIP}, {ip: 10.0.1.77, type: CiliumInternalIP}, {ip: 203.0.113.1, type: ExternalIP}]
  health: {ipv4: 10.0.1.9}
  ipam: {podCIDRs: [10.0.1.0/24]}
status: {ipam: {operator-status: {}}}
`
	)
	for _, c := range []struct{ name, docs, want string }{
		{"nothing said", nodeDoc("a: b"), "[192.0.2.1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 000000000000"},
		{"flannel", nodeDoc(vxlan, data, "flannel.alpha.coreos.com/public-ip: 192.0.2.1"), "[192.0.2.1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 00005e005301"},
		{"flannel, dual stack and overwritten", nodeDoc(vxlan, data, data6, "flannel.alpha.coreos.com/public-ip: 198.51.100.1",
			"flannel.alpha.coreos.com/public-ip-overwrite: 198.51.100.1", "flannel.alpha.coreos.com/public-ipv6: 2001:db8::1",
			"flannel.alpha.coreos.com/node-public-ip: 203.0.113.5"),
			"[192.0.2.1 198.51.100.1 203.0.113.5 2001:db8::1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 00005e005301"},
		{"flannel, IPv6 only", nodeDoc(vxlan, data6), "[192.0.2.1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 00005e005306"},
		{"flannel under another prefix", nodeDoc(`example.com/net-kube-subnet-manager: "true"`, "example.com/net-backend-type: vxlan",
			`example.com/net-backend-data: '{"VNI":7,"VtepMAC":"00:00:5e:00:53:02"}'`, "example.com/net-public-ip: 198.51.100.9"),
			"[192.0.2.1 198.51.100.9] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 00005e005302"},
		{"flannel by wireguard", nodeDoc("flannel.alpha.coreos.com/backend-type: wireguard", `flannel.alpha.coreos.com/backend-data: '{"PublicKey":"x"}'`),
			"[192.0.2.1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 000000000000"},
		{"k3s", nodeDoc(vxlan, data, "k3s.io/internal-ip: 192.0.2.1,2001:db8::1", "k3s.io/hostname: n1"),
			"[192.0.2.1 2001:db8::1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 00005e005301"},
		{"Calico", nodeDoc(bgp, calicoIP) + fmt.Sprintf(block, "a", "10.9.0.64/26", "n1", "confirmed", "false") +
			fmt.Sprintf(block, "b", "10.9.0.0/26", "n2", "confirmed", "false") + fmt.Sprintf(block, "c", "10.9.1.0/26", "n1", "pending", "false") +
			fmt.Sprintf(block, "d", "10.9.2.0/26", "n1", "confirmed", "true") + fmt.Sprintf(block, "e", "10.9.3.0/26", "n1", "pendingDeletion", "false"),
			"[192.0.2.1] [10.9.0.64] [10.9.0.64/26 10.9.3.0/26] " + fmt.Sprintf("%x", calicoMAC("n1"))},
		{"Calico before the first block", nodeDoc(bgp, calicoIP) + fmt.Sprintf(block, "b", "10.9.0.0/26", "n2", "confirmed", "false"),
			"[192.0.2.1] [10.9.0.64] [] " + fmt.Sprintf("%x", calicoMAC("n1"))},
		{"Calico with a MAC of its own", nodeDoc(bgp, calicoIP, "projectcalico.org/VXLANTunnelMACAddr: 00:00:5e:00:53:03"),
			"[192.0.2.1] [10.9.0.64] [10.1.0.0/24] 00005e005303"},
		{"Canal", nodeDoc(vxlan, data, bgp), "[192.0.2.1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 00005e005301"},
		{"Cilium", nodeDoc("a: b") + ciliums, "[192.0.2.1] [10.0.1.77] [10.0.1.0/24] 000000000000"},
		{"our word", nodeDoc(vxlan, data, "weirnet.github.io/vtep-mac: 00:00:5e:00:53:09", "weirnet.github.io/underlay-ips: '198.51.100.1, 198.51.100.2'",
			"weirnet.github.io/overlay-ips: 10.7.0.3", "weirnet.github.io/pod-cidrs: 10.7.0.0/24,2001:db8:7::/64"),
			"[198.51.100.1 198.51.100.2] [10.7.0.3] [10.7.0.0/24 2001:db8:7::/64] 00005e005309"},
		{"our word that nothing is there", nodeDoc(vxlan, data, "weirnet.github.io/vtep-mac: any", "weirnet.github.io/overlay-ips: none"),
			"[192.0.2.1] [] [10.1.0.0/24] 000000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := Decode("nodes.yaml", []byte(c.docs))
			if err != nil {
				t.Fatal(err)
			}
			m, _, err := Translate(o, "n1", Options{})
			if err != nil {
				t.Fatal(err)
			}
			n := m.Nodes[0]
			if got := fmt.Sprintf("%v %v %v %x", n.Underlay, n.Overlay, n.PodCIDRs, n.VTEPMAC); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

// The MAC that Calico gives vxlan.calico on a node of this name: an f, and what sha1sum says first.
func TestCalicoMAC(t *testing.T) {
	if got := fmt.Sprintf("%x", calicoMAC("worker-1")); got != "66937f54d553" {
		t.Errorf("got %s", got)
	}
}

// What cannot be read is named: the object, the field, and what to write. In a cluster the rest of the node holds.
func TestNodeAnnotationsThatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"flannel.alpha.coreos.com/public-ip", "there", `"there" is not an IP address`},
		{"flannel.alpha.coreos.com/backend-data", "{", `{ is not {"VNI":1,"VtepMAC":"..."}`},
		{"flannel.alpha.coreos.com/backend-data", `{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`, `VtepMAC "01:00:5e:00:00:01" is not the MAC of a device`},
		{"k3s.io/internal-ip", "192.0.2.1,x", `"x" is not an IP address; write addresses such as 192.0.2.1`},
		{"projectcalico.org/IPv4Address", "192.0.2.x/24", `"192.0.2.x/24" is not an address such as 192.0.2.1/24`},
		{"projectcalico.org/IPv4VXLANTunnelAddr", "x", `"x" is not an IP address`},
		{"weirnet.github.io/vtep-mac", "00:00", `"00:00" is not the MAC of a device; write one such as`},
		{"weirnet.github.io/underlay-ips", "", `is empty; write addresses such as 192.0.2.1`},
		{"weirnet.github.io/underlay-ips", "192.0.2.0/24", `"192.0.2.0/24" is not an IP address`},
		{"weirnet.github.io/pod-cidrs", "10.0.0.1", `"10.0.0.1" is not a CIDR; write CIDRs such as 10.42.0.0/24`},
	} {
		t.Run(c.key+"="+c.value, func(t *testing.T) {
			_, err := Decode("nodes.yaml", []byte(nodeDoc(fmt.Sprintf("%s: %q", c.key, c.value))))
			want := "Node n1: metadata.annotations[" + c.key + "]: " + c.want
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("manifests: got %v, want %s", err, want)
			}
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{c.key: c.value}},
				Spec:   corev1.NodeSpec{PodCIDR: "10.1.0.0/24"},
				Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}
			m, statuses, err := Translate(&Objects{Nodes: []*corev1.Node{n}}, "n1", Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(statuses, func(s Status) bool {
				return s.Object == "Node n1" && s.Path == "metadata.annotations["+c.key+"]" && s.Reason == ReasonInvalid && strings.Contains(s.Message, c.want)
			}) {
				t.Errorf("cluster: got %+v, want %s", statuses, want)
			}
			if got := m.Nodes[0]; len(got.Underlay) != 1 || len(got.PodCIDRs) != 1 {
				t.Errorf("the rest of the node: %+v", got)
			}
		})
	}
}

// What two nodes of a cluster claim, one has: fields come before annotations, the older node before the younger one.
func TestNodesThatClaimTheSame(t *testing.T) {
	node := func(name string, age int, cidr, ip string, annotations map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, CreationTimestamp: metav1.Unix(int64(1000-age), 0)},
			Spec: corev1.NodeSpec{PodCIDR: cidr}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}}}
	}
	for _, c := range []struct {
		name  string
		nodes []*corev1.Node
		want  string
		paths string
	}{
		{"an address by annotation", []*corev1.Node{
			node("a", 9, "10.1.0.0/24", "192.0.2.1", map[string]string{flannelPrefix + "public-ip": "192.0.2.2"}), node("b", 1, "10.1.1.0/24", "192.0.2.2", nil)},
			"a[192.0.2.1][10.1.0.0/24] b[192.0.2.2][10.1.1.0/24]", "Node a metadata.annotations[flannel.alpha.coreos.com/public-ip]"},
		{"an address by field", []*corev1.Node{node("a", 1, "10.1.0.0/24", "192.0.2.2", nil), node("b", 9, "10.1.1.0/24", "192.0.2.2", nil)},
			"a[][10.1.0.0/24] b[192.0.2.2][10.1.1.0/24]", "Node a status.addresses[0].address"},
		{"a podCIDR", []*corev1.Node{node("a", 1, "10.1.1.0/24", "192.0.2.1", nil), node("b", 9, "10.1.1.0/24", "192.0.2.2", nil)},
			"a[192.0.2.1][] b[192.0.2.2][10.1.1.0/24]", "Node a spec.podCIDRs[0]"},
		{"our own address", []*corev1.Node{node("a", 9, "10.1.0.0/24", "192.0.2.7", nil), node("b", 1, "10.1.1.0/24", "192.0.2.2", nil)},
			"a[][10.1.0.0/24] b[192.0.2.2][10.1.1.0/24]", "Node a status.addresses[0].address"},
		{"a part of another's podCIDR", []*corev1.Node{
			node("a", 9, "10.1.0.0/24", "192.0.2.1", map[string]string{AnnotationPodCIDRs: "10.1.1.128/25"}), node("b", 1, "10.1.1.0/24", "192.0.2.2", nil)},
			"a[192.0.2.1][] b[192.0.2.2][10.1.1.0/24]", "Node a metadata.annotations[weirnet.github.io/pod-cidrs]"},
		{"the address of another", []*corev1.Node{
			node("a", 9, "10.1.0.0/24", "192.0.2.1", map[string]string{AnnotationPodCIDRs: "192.0.2.2/32"}), node("b", 1, "10.1.1.0/24", "192.0.2.2", nil)},
			"a[192.0.2.1][] b[192.0.2.2][10.1.1.0/24]", "Node a metadata.annotations[weirnet.github.io/pod-cidrs]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				self := node("self", 0, "10.1.7.0/24", "192.0.2.7", nil)
				m, statuses, err := Translate(&Objects{Nodes: append([]*corev1.Node{self}, c.nodes...)}, "self", Options{})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, n := range m.Nodes[:2] {
					got = append(got, fmt.Sprintf("%s%v%v", n.Name, n.Underlay, n.PodCIDRs))
					for _, addr := range n.Overlay {
						if !slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
							t.Errorf("%s is said to have %s, and has only %v", n.Name, addr, n.PodCIDRs)
						}
					}
				}
				if strings.Join(got, " ") != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				if len(statuses) != 1 || statuses[0].Object+" "+statuses[0].Path != c.paths || statuses[0].Reason != ReasonInvalid {
					t.Errorf("got %+v, want %s", statuses, c.paths)
				}
				slices.Reverse(c.nodes)
			}
		})
	}
}
