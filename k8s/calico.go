// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"crypto/sha1"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// calicoPrefix is where Calico writes what it decides about a node (libcalico-go/lib/backend/k8s/resources/node.go).
const calicoPrefix = "projectcalico.org/"

// BlockAffinity is crd.projectcalico.org BlockAffinity: a block of pod addresses and the node that hands them out. Calico's
// own IPAM does not use the podCIDRs of Nodes.
type BlockAffinity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec BlockAffinitySpec `json:"spec"`
}

// BlockAffinitySpec is whose a block is, and since when.
type BlockAffinitySpec struct {
	CIDR  string `json:"cidr"`
	Node  string `json:"node"`
	State string `json:"state,omitempty"`
	Type  string `json:"type,omitempty"` // host; virtual: a load balancer's, no node's
	// Deleted is a string in crd.projectcalico.org and a boolean in projectcalico.org.
	Deleted any `json:"deleted,omitempty"`
}

// counts says whether the block is some node's. One whose release has begun still is: pods may have addresses of it.
func (b *BlockAffinity) counts() bool {
	return b.Spec.Deleted != "true" && b.Spec.Deleted != true && (b.Spec.Type == "" || b.Spec.Type == "host") && b.Spec.State != "pending"
}

func (c *checker) blockAffinity(b *BlockAffinity) {
	c.prefix(b.Spec.CIDR, "spec.cidr")
	if b.Spec.Node == "" && (b.Spec.Type == "" || b.Spec.Type == "host") {
		c.bad("spec.node", "missing, a block of pod addresses belongs to a node")
	}
}

// calico reads what Calico says: the address and the tunnel's address in annotations, the blocks in objects of its own, the
// MAC of vxlan.calico by its rule. Port 4789 and VNI 4096 are read from the device.
func (f *nodeFacts) calico(n *corev1.Node, o nodeObjects) {
	said := false
	for _, key := range []string{"IPv4Address", "IPv6Address"} {
		text, ok := n.Annotations[calicoPrefix+key]
		if !ok || text == "" {
			continue
		}
		said = true
		bare, _, _ := strings.Cut(text, "/") // an address with the length of its network's prefix
		addr, err := netip.ParseAddr(bare)
		if err != nil {
			f.bad(annotation(calicoPrefix+key), "%q is not an address such as 192.0.2.1/24", text)
			continue
		}
		addAddr(&f.underlay, addr.Unmap(), annotation(calicoPrefix+key))
	}
	vxlan := false
	for _, key := range []string{"IPv4VXLANTunnelAddr", "IPv6VXLANTunnelAddr", "IPv4IPIPTunnelAddr", "IPv4WireguardInterfaceAddr", "IPv6WireguardInterfaceAddr"} {
		text, ok := n.Annotations[calicoPrefix+key]
		if !ok || text == "" {
			continue
		}
		said = true
		addr, err := netip.ParseAddr(text)
		if err != nil {
			f.bad(annotation(calicoPrefix+key), "%q is not an IP address", text)
			continue
		}
		addAddr(&f.overlay, addr.Unmap(), annotation(calicoPrefix+key))
		vxlan = vxlan || key == "IPv4VXLANTunnelAddr"
	}
	if isFlannels(n) { // Canal: Calico's policies, flannel's network
		return
	}
	if said {
		f.noGuess = true
	}
	if vxlan {
		f.mac = calicoMAC(n.Name)
		if text := n.Annotations[calicoPrefix+"VXLANTunnelMACAddr"]; text != "" {
			mac, ok := parseMAC(text)
			if !ok {
				f.bad(annotation(calicoPrefix+"VXLANTunnelMACAddr"), "%q is not the MAC of a device", text)
			}
			f.mac = mac
		}
	}
	blocks := o.blocks[n.Name]
	if len(blocks) == 0 && !(said && len(o.blocks) > 0) {
		return
	}
	f.podCIDRs, f.noGuess = nil, true
	for _, b := range blocks {
		if prefix, err := netip.ParsePrefix(b.Spec.CIDR); err == nil {
			addPrefix(&f.podCIDRs, prefix.Masked(), "BlockAffinity "+b.Name+" spec.cidr")
		}
	}
}

// calicoMAC is the MAC that Calico gives vxlan.calico on a node: an f, then the hash of the node's name
// (felix/calc/vxlan_resolver.go, vtepMACForHost).
func calicoMAC(node string) [6]byte {
	sum := sha1.Sum([]byte(node))
	return [6]byte(append([]byte{'f'}, sum[:5]...))
}
