// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// ServiceAddress is what a Service is reached under.
type ServiceAddress struct {
	Addr     netip.Addr
	Protocol uint8
	Port     uint16
}

func (a ServiceAddress) compare(b ServiceAddress) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// At is the entry's address.
func (e *ServiceEntry) At() ServiceAddress { return ServiceAddress{e.Addr, e.Protocol, e.Port} }

// serviceIndex finds the ports of Services by what they are reached under. Services that claim the same address and port
// are one.
type serviceIndex struct {
	services  map[string]*Service
	claims    map[ServiceAddress][]*ServicePort
	nodePorts map[nodePort][]*ServicePort // under the address of any node
	backends  *addrCounts
	twice     bool // a Service is listed twice
}

type nodePort struct {
	protocol uint8
	port     uint16
}

func newServiceIndex(services []Service) *serviceIndex {
	x := &serviceIndex{
		services: make(map[string]*Service, len(services)), claims: map[ServiceAddress][]*ServicePort{}, nodePorts: map[nodePort][]*ServicePort{},
		backends: newAddrCounts(),
	}
	for i := range services {
		s := &services[i]
		x.twice = x.twice || x.services[s.Key()] != nil
		x.add(s)
	}
	return x
}

func (x *serviceIndex) add(s *Service) {
	x.services[s.Key()] = s
	s.eachClaim(func(at ServiceAddress, p *ServicePort) { x.claims[at] = append(x.claims[at], p) },
		func(at nodePort, p *ServicePort) { x.nodePorts[at] = append(x.nodePorts[at], p) })
	s.eachBackend(func(a netip.Addr) { x.backends.add(a, 1) })
}

func (x *serviceIndex) remove(s *Service) {
	delete(x.services, s.Key())
	s.eachClaim(func(at ServiceAddress, p *ServicePort) { unclaim(x.claims, at, p) }, func(at nodePort, p *ServicePort) { unclaim(x.nodePorts, at, p) })
	s.eachBackend(func(a netip.Addr) { x.backends.add(a, -1) })
}

func unclaim[K comparable](claims map[K][]*ServicePort, at K, p *ServicePort) {
	if left := slices.DeleteFunc(claims[at], func(q *ServicePort) bool { return p == q }); len(left) > 0 {
		claims[at] = left
	} else {
		delete(claims, at)
	}
}

// eachClaim calls own for what the Service's own addresses are, and node for its ports at every node.
func (s *Service) eachClaim(own func(ServiceAddress, *ServicePort), node func(nodePort, *ServicePort)) {
	for i := range s.Ports {
		p := &s.Ports[i]
		for _, a := range s.Addrs {
			own(ServiceAddress{a.Unmap().WithZone(""), p.Protocol, p.Port}, p)
		}
		if s.NodePorts && p.NodePort != 0 {
			node(nodePort{p.Protocol, p.NodePort}, p)
		}
	}
}

func (s *Service) eachBackend(yield func(netip.Addr)) {
	for i := range s.Ports {
		for _, b := range s.Ports[i].Backends {
			yield(b.Addr().Unmap().WithZone(""))
		}
	}
}

// eachPortAddress calls yield for the addresses under which a node's ports are reached on node here.
func (n *Node) eachPortAddress(here string, yield func(netip.Addr)) {
	for _, a := range n.Underlay {
		yield(a.Unmap().WithZone(""))
	}
	if n.Name == here {
		for _, a := range n.Overlay {
			yield(a.Unmap().WithZone(""))
		}
	}
}

// entries are all Service addresses, their backends resolved through the address table.
func (x *serviceIndex) entries(m *Model, lookup func(netip.Addr) Address) []ServiceEntry {
	claims := maps.Clone(x.claims)
	for i := range m.Nodes {
		m.Nodes[i].eachPortAddress(m.Node, func(a netip.Addr) {
			for port, ports := range x.nodePorts {
				at := ServiceAddress{a, port.protocol, port.port}
				claims[at] = slices.Concat(claims[at], ports)
			}
		})
	}
	var entries []ServiceEntry
	for at, ports := range claims {
		entries = append(entries, newServiceEntry(at, ports, lookup))
	}
	slices.SortFunc(entries, func(a, b ServiceEntry) int { return a.At().compare(b.At()) })
	return entries
}

// newServiceEntry has the distinct backends that are behind ports, of the address's family.
func newServiceEntry(at ServiceAddress, ports []*ServicePort, lookup func(netip.Addr) Address) ServiceEntry {
	e := ServiceEntry{Addr: at.Addr, Protocol: at.Protocol, Port: at.Port}
	for _, p := range ports {
		for _, b := range p.Backends {
			if b.Addr().Unmap().Is4() == at.Addr.Is4() {
				a := lookup(b.Addr().Unmap().WithZone(""))
				host := a.Kind == AddressHost
				e.Backends = append(e.Backends, Backend{Identity: a.Identity, Port: b.Port(), Host: host, Node: host || a.Kind == AddressNode})
			}
		}
	}
	slices.SortFunc(e.Backends, func(a, b Backend) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Port, b.Port), compareBools(a.Host, b.Host), compareBools(a.Node, b.Node))
	})
	e.Backends = slices.Compact(e.Backends)
	return e
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
