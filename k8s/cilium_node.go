// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumNode is cilium.io CiliumNode, as far as weir reads it: where Cilium is the network, the pods' prefixes and the
// node's addresses stand here.
type CiliumNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   CiliumNodeSpec  `json:"spec,omitempty"`
	Status json.RawMessage `json:"status,omitempty"`
}

// CiliumNodeSpec is a node's addresses and what its pods get theirs from.
type CiliumNodeSpec struct {
	Addresses []CiliumNodeAddress `json:"addresses,omitempty"`
	IPAM      CiliumNodeIPAM      `json:"ipam,omitempty"`
}

// CiliumNodeAddress is one address; Type is InternalIP, ExternalIP, CiliumInternalIP and the like.
type CiliumNodeAddress struct {
	Type string `json:"type,omitempty"`
	IP   string `json:"ip,omitempty"`
}

// CiliumNodeIPAM holds prefixes, given out by Cilium's operator or taken over from the Node, or by pools.
type CiliumNodeIPAM struct {
	PodCIDRs []string            `json:"podCIDRs,omitempty"`
	Pools    CiliumNodeIPAMPools `json:"pools,omitempty"`
}

// CiliumNodeIPAMPools are the pools of multi-pool IPAM.
type CiliumNodeIPAMPools struct {
	Allocated []CiliumNodeIPAMPool `json:"allocated,omitempty"`
}

// CiliumNodeIPAMPool is what a node has of one pool.
type CiliumNodeIPAMPool struct {
	Pool  string   `json:"pool"`
	CIDRs []string `json:"cidrs,omitempty"`
}

func (c *checker) ciliumNode(n *CiliumNode) {
	f := &nodeFacts{}
	f.cilium(n)
	for _, p := range f.problems {
		c.bad(strings.TrimPrefix(p.path, "CiliumNode "+n.Name+" "), "%s", p.message)
	}
}

// cilium reads a CiliumNode; nil: there is none. Inner MACs are those of pods, and mean nothing: they are not checked.
func (f *nodeFacts) cilium(n *CiliumNode) {
	if n == nil {
		return
	}
	at := func(path string) string { return "CiliumNode " + n.Name + " " + path }
	for i, a := range n.Spec.Addresses {
		path := fmt.Sprintf("spec.addresses[%d].ip", i)
		var to *[]fact[netip.Addr]
		switch a.Type {
		case "InternalIP":
			to = &f.underlay
		case "CiliumInternalIP":
			to = &f.overlay
		default:
			continue
		}
		addr, err := netip.ParseAddr(a.IP)
		if err != nil {
			f.bad(at(path), "%q is not an IP address", a.IP)
			continue
		}
		addAddr(to, addr.Unmap(), at(path))
	}
	var prefixes []fact[netip.Prefix]
	add := func(text, path string) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			f.bad(at(path), "%q is not a CIDR such as 192.0.2.0/24", text)
			return
		}
		addPrefix(&prefixes, prefix.Masked(), at(path))
	}
	for i, text := range n.Spec.IPAM.PodCIDRs {
		add(text, fmt.Sprintf("spec.ipam.podCIDRs[%d]", i))
	}
	for i, pool := range n.Spec.IPAM.Pools.Allocated {
		for j, text := range pool.CIDRs {
			add(text, fmt.Sprintf("spec.ipam.pools.allocated[%d].cidrs[%d]", i, j))
		}
	}
	if len(prefixes) > 0 {
		f.podCIDRs = prefixes
	}
	f.noGuess, f.mac = true, [6]byte{}
}
