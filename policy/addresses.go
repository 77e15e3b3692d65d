// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// tables writes what stands beside the image.
func tables(m *Model, owners []*owner, n *Numbers, img *Image) (*Compiled, error) {
	c := &Compiled{Image: img, Addresses: make([]Address, 0, len(owners))}
	index := n.index()
	endpoints := map[string]*Endpoint{}
	for _, o := range owners {
		identity, ok := index.of(o)
		if !ok {
			return nil, fmt.Errorf("compile: no number for identity %s of %s", &o.identity, o.prefix)
		}
		a := Address{Prefix: o.prefix, Identity: identity, Kind: o.kind, Flags: o.flags}
		if o.pod != nil {
			a.Tenancy = n.Tenancies[o.prefix.Addr()].Count
		}
		if o.kind == AddressLocalPod {
			e := endpoints[o.pod.Key()]
			if e == nil {
				slot := n.Endpoints[PodName{o.pod.Key(), o.pod.UID}]
				if slot == 0 {
					return nil, fmt.Errorf("compile: no endpoint slot for pod %s", o.pod.Key())
				}
				e = &Endpoint{Slot: slot, Pod: o.pod.Key(), UID: o.pod.UID, Identity: identity}
				e.Policed = [2]bool{img.Policed(Ingress, identity), img.Policed(Egress, identity)}
				endpoints[e.Pod] = e
			}
			e.Addrs = append(e.Addrs, o.prefix.Addr())
			a.Slot = e.Slot
		} else if o.node != "" {
			if a.Slot = n.Nodes[o.node]; a.Slot == 0 {
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
		c.Nodes = append(c.Nodes, NodeEntry{n.Nodes[node.Name], node.Name, node.VTEPMAC})
		if n.Nodes[node.Name] == 0 {
			return nil, fmt.Errorf("compile: no slot for node %s", node.Name)
		}
	}
	slices.SortFunc(c.Nodes, func(a, b NodeEntry) int { return cmp.Compare(a.Slot, b.Slot) })
	c.services(m, c.Address)
	return c, nil
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

type serviceAddr struct {
	addr     netip.Addr
	protocol uint8
	port     uint16
}

// services resolves backends through the address table. Services that claim the same address and port are one.
func (c *Compiled) services(m *Model, lookup func(netip.Addr) Address) {
	c.Services = nil
	backends := map[serviceAddr]map[Backend]bool{}
	add := func(a netip.Addr, p *ServicePort, port uint16) {
		at := serviceAddr{a.Unmap().WithZone(""), p.Protocol, port}
		if backends[at] == nil {
			backends[at] = map[Backend]bool{}
		}
		for _, b := range p.Backends {
			if b.Addr().Unmap().Is4() != at.addr.Is4() {
				continue
			}
			e := lookup(b.Addr())
			backends[at][Backend{e.Identity, b.Port(), e.Kind == AddressHost}] = true
		}
	}
	for i := range m.Services {
		s := &m.Services[i]
		for j := range s.Ports {
			p := &s.Ports[j]
			for _, a := range s.Addrs {
				add(a, p, p.Port)
			}
			if !s.NodePorts || p.NodePort == 0 {
				continue
			}
			for k := range m.Nodes {
				n := &m.Nodes[k]
				addrs := n.Underlay
				if n.Name == m.Node {
					addrs = slices.Concat(n.Underlay, n.Overlay)
				}
				for _, a := range addrs {
					add(a, p, p.NodePort)
				}
			}
		}
	}
	for at, set := range backends {
		e := ServiceEntry{Addr: at.addr, Protocol: at.protocol, Port: at.port}
		for b := range set {
			e.Backends = append(e.Backends, b)
		}
		slices.SortFunc(e.Backends, func(a, b Backend) int {
			host := 0
			if a.Host != b.Host {
				host = 1
				if b.Host {
					host = -1
				}
			}
			return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Port, b.Port), host)
		})
		c.Services = append(c.Services, e)
	}
	slices.SortFunc(c.Services, func(a, b ServiceEntry) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
}
