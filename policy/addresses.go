// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// tables writes what stands beside the image.
func tables(m *Model, owners []owner, n *numbering, img *Image) (*Compiled, error) {
	c := &Compiled{Image: img, Addresses: make([]Address, 0, len(owners))}
	index := n.identities.index()
	endpoints := map[*Pod]*Endpoint{}
	for i := range owners {
		o := &owners[i]
		identity, ok := index.of(o)
		if !ok {
			return nil, fmt.Errorf("compile: no number for identity %s of %s", &o.id.Identity, o.prefix)
		}
		a := Address{Prefix: o.prefix, Identity: identity, Kind: o.kind, Flags: o.flags}
		if o.pod != nil {
			t, _ := n.tenancy(o.prefix.Addr())
			a.Tenancy = t.Count
		}
		if o.kind == AddressLocalPod {
			e := endpoints[o.pod]
			if e == nil {
				slot := n.endpoints[o.pod.podName()]
				if slot == 0 {
					return nil, fmt.Errorf("compile: no endpoint slot for pod %s", o.pod.Key())
				}
				e = newEndpoint(o.pod, slot, identity, img)
				endpoints[o.pod] = e
			}
			e.Addrs = append(e.Addrs, o.prefix.Addr())
			a.Slot = e.Slot
		} else if o.node != "" {
			if a.Slot = n.nodes[o.node]; a.Slot == 0 {
				return nil, fmt.Errorf("compile: no slot for node %s", o.node)
			}
		}
		c.Addresses = append(c.Addresses, a)
	}
	for _, e := range endpoints {
		c.Endpoints = append(c.Endpoints, *e)
	}
	slices.SortFunc(c.Endpoints, func(a, b Endpoint) int { return cmp.Compare(a.Slot, b.Slot) })
	for i := range m.Nodes {
		node := &m.Nodes[i]
		c.Nodes = append(c.Nodes, NodeEntry{n.nodes[node.Name], node.Name, node.VTEPMAC})
		if n.nodes[node.Name] == 0 {
			return nil, fmt.Errorf("compile: no slot for node %s", node.Name)
		}
	}
	slices.SortFunc(c.Nodes, func(a, b NodeEntry) int { return cmp.Compare(a.Slot, b.Slot) })
	c.Services = newServiceIndex(m.Services).entries(c.Address)
	return c, nil
}

// newEndpoint is a local pod without its addresses.
func newEndpoint(pod *Pod, slot uint16, identity uint32, img *Image) *Endpoint {
	return &Endpoint{
		Slot: slot, Pod: pod.Key(), UID: pod.UID, Identity: identity,
		Policed: [2]bool{img.Policed(Ingress, identity), img.Policed(Egress, identity)},
	}
}

// Address is the entry that decides about an address: that of the longest prefix. What no entry contains is nobody's.
func (c *Compiled) Address(a netip.Addr) Address {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Address{}
	}
	return c.covering(netip.PrefixFrom(a, a.BitLen()))
}

// covering is the entry of the longest prefix that contains p.
func (c *Compiled) covering(p netip.Prefix) Address {
	for bits := p.Bits(); bits >= 0; bits-- {
		p = netip.PrefixFrom(p.Addr(), bits).Masked()
		if i, ok := slices.BinarySearchFunc(c.Addresses, p, func(e Address, p netip.Prefix) int { return comparePrefix(e.Prefix, p) }); ok {
			return c.Addresses[i]
		}
	}
	return Address{}
}

// Endpoint finds a local pod by its key; nil if there is none.
func (c *Compiled) Endpoint(pod string) *Endpoint {
	i := slices.IndexFunc(c.Endpoints, func(e Endpoint) bool { return e.Pod == pod })
	if i < 0 {
		return nil
	}
	return &c.Endpoints[i]
}
