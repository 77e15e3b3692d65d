// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
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
	nodePorts map[nodePort][]*ServicePort // under the addresses of every node
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
			if !a.IsUnspecified() {
				own(ServiceAddress{a.Unmap().WithZone(""), p.Protocol, p.Port}, p)
			}
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

// everyNode are what NodePorts are reached under in a table of Services: one entry stands for the addresses of all nodes, of
// which there may be thousands. An entry of one of these addresses itself beats it, and has what stands at the NodePort, too.
func everyNode() [2]netip.Addr {
	return [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

// ServesNodePorts says whether NodePorts are reached under an address: under the underlay addresses of other nodes, and all
// addresses of this one.
func (a *Address) ServesNodePorts() bool {
	return a.Kind == AddressHost || a.Kind == AddressNode && a.Flags&AddressUnderlay != 0
}

// entries are all Service addresses, their backends resolved through the address table.
func (x *serviceIndex) entries(lookup func(netip.Addr) Address) []ServiceEntry {
	entries := make([]ServiceEntry, 0, len(x.claims)+2*len(x.nodePorts))
	for at, ports := range x.claims {
		if more := x.nodePorts[nodePort{at.Protocol, at.Port}]; len(more) > 0 {
			if a := lookup(at.Addr); a.ServesNodePorts() {
				ports = slices.Concat(ports, more)
			}
		}
		entries = append(entries, newServiceEntry(at, ports, lookup))
	}
	for port, ports := range x.nodePorts {
		for _, any := range everyNode() {
			entries = append(entries, newServiceEntry(ServiceAddress{any, port.protocol, port.port}, ports, lookup))
		}
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
