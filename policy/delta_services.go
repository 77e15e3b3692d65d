// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
)

func (c *change) servicesChange(d *news) bool {
	for _, key := range d.goneServices {
		c.services[key] = nil
	}
	for _, s := range d.services {
		if _, twice := c.services[s.Key()]; twice {
			return false
		}
		c.services[s.Key()] = s
	}
	return true
}

// serviceEntries lists the Service addresses that the change may change: those of Services that change, those with a backend
// whose address does, and those that nodes bring or take along.
func (c *change) serviceEntries(d *Delta) {
	x := c.live.resident.services
	own, atNodes := map[ServiceAddress]bool{}, map[nodePort]bool{}
	touch := func(s *Service) {
		s.eachClaim(func(at ServiceAddress, _ *ServicePort) { own[at] = true }, func(at nodePort, _ *ServicePort) { atNodes[at] = true })
	}
	was := map[*ServicePort]bool{} // of Services that change
	for key, s := range c.services {
		if old := x.services[key]; old != nil {
			touch(old)
			for i := range old.Ports {
				was[&old.Ports[i]] = true
			}
		}
		if s != nil {
			touch(s)
		}
	}
	c.backendsChange(touch)
	for port := range atNodes {
		for _, any := range everyNode() {
			own[ServiceAddress{any, port.protocol, port.port}] = true
		}
	}
	if len(atNodes) > 0 || len(c.nodes) > 0 { // a Service may claim a node's own address, at a NodePort
		for at := range x.claims {
			port := nodePort{at.Protocol, at.Port}
			own[at] = own[at] || atNodes[port] || len(c.nodes) > 0 && len(x.nodePorts[port]) > 0
		}
		maps.DeleteFunc(own, func(_ ServiceAddress, touched bool) bool { return !touched })
	}
	if len(own) == 0 {
		return
	}
	claims, nodePorts := map[ServiceAddress][]*ServicePort{}, map[nodePort][]*ServicePort{}
	for _, s := range c.services {
		if s != nil {
			s.eachClaim(func(at ServiceAddress, p *ServicePort) { claims[at] = append(claims[at], p) },
				func(at nodePort, p *ServicePort) { nodePorts[at] = append(nodePorts[at], p) })
		}
	}
	left := func(before, now []*ServicePort) []*ServicePort {
		return append(slices.DeleteFunc(slices.Clone(before), func(p *ServicePort) bool { return was[p] }), now...)
	}
	for _, at := range slices.SortedFunc(maps.Keys(own), ServiceAddress.compare) {
		port := nodePort{at.Protocol, at.Port}
		ports := left(x.claims[at], claims[at])
		if at.Addr.IsUnspecified() || len(ports) > 0 && c.servesPorts(at.Addr) {
			ports = append(ports, left(x.nodePorts[port], nodePorts[port])...)
		}
		if len(ports) > 0 {
			d.Services = append(d.Services, newServiceEntry(at, ports, c.cover))
		} else {
			d.GoneServices = append(d.GoneServices, at)
		}
	}
}

// backendsChange calls touch for the Services that have a backend whose address changes.
func (c *change) backendsChange(touch func(*Service)) {
	x := c.live.resident.services
	changing := false
	for prefix := range c.now {
		if !prefix.IsSingleIP() || x.backends.of(prefix.Addr()) > 0 {
			changing = true
			break
		}
	}
	if !changing {
		return
	}
	var cidrs []netip.Prefix
	for prefix := range c.now {
		if !prefix.IsSingleIP() {
			cidrs = append(cidrs, prefix)
		}
	}
	for key, s := range x.services {
		if _, changes := c.services[key]; changes {
			continue
		}
		found := false
		s.eachBackend(func(a netip.Addr) {
			if found || !a.IsValid() {
				return
			}
			_, found = c.now[netip.PrefixFrom(a, a.BitLen())]
			found = found || slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(a) })
		})
		if found {
			touch(s)
		}
	}
}

// servesPorts says whether a is, after the change, an address under which a node's ports are reached.
func (c *change) servesPorts(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	p := netip.PrefixFrom(a, a.BitLen())
	e := Address{}
	if o, changes := c.now[p]; o != nil {
		e = Address{Kind: o.kind, Flags: o.flags}
	} else if there := c.live.addresses.find(p); there != nil && !changes {
		e = there.Address
	}
	return e.ServesNodePorts()
}
