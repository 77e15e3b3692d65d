// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// standing is the tables as plans leave them, changed by nothing but what deltas say.
type standing struct {
	addresses map[netip.Prefix]Address
	endpoints map[uint16]Endpoint
	nodes     map[uint16]NodeEntry
	services  map[ServiceAddress]ServiceEntry
}

func (k *standing) whole(c *Compiled) {
	*k = standing{entries(c), map[uint16]Endpoint{}, map[uint16]NodeEntry{}, map[ServiceAddress]ServiceEntry{}}
	for _, e := range c.Endpoints {
		k.endpoints[e.Slot] = e
	}
	for _, n := range c.Nodes {
		k.nodes[n.Slot] = n
	}
	for _, s := range c.Services {
		k.services[s.At()] = s
	}
}

func (k *standing) change(t *testing.T, d *Delta) {
	for _, a := range d.Set {
		if k.addresses[a.Prefix] == a {
			t.Fatalf("%s is set to what it is", a.Prefix)
		}
		k.addresses[a.Prefix] = a
	}
	for _, prefix := range d.Gone {
		if _, there := k.addresses[prefix]; !there {
			t.Fatalf("%s goes, and is not there", prefix)
		}
		delete(k.addresses, prefix)
	}
	for _, slot := range d.GoneSlots {
		delete(k.endpoints, slot)
	}
	for _, e := range d.Endpoints {
		k.endpoints[e.Slot] = e
	}
	for _, slot := range d.GoneNodes {
		delete(k.nodes, slot)
	}
	for _, n := range d.Nodes {
		k.nodes[n.Slot] = n
	}
	for _, at := range d.GoneServices {
		delete(k.services, at)
	}
	for _, s := range d.Services {
		k.services[s.At()] = s
	}
}

// checkState holds what the planner keeps beside the tables against them.
func checkState(t *testing.T, p *Planner) {
	t.Helper()
	s := p.live
	uses := make([]int32, len(s.uses))
	s.addresses.each(func(e *located) {
		uses[e.Identity]++
		if d := s.numbers.identities.get(e.Identity); d == nil {
			t.Fatalf("%s has identity %d, which means nothing", e.Prefix, e.Identity)
		}
	})
	if !slices.Equal(uses, s.uses) {
		t.Fatalf("identities are used %v times, counted as %v", uses, s.uses)
	}
	if names := identityNames(s.numbers.identities); !maps.Equal(names, s.identities) {
		t.Fatalf("identities are %v, known as %v", names, s.identities)
	}
	var services []Service
	for _, service := range s.resident.services.services {
		services = append(services, *service)
	}
	x := newServiceIndex(services)
	if len(x.claims) != len(s.resident.services.claims) || len(x.nodePorts) != len(s.resident.services.nodePorts) ||
		!reflect.DeepEqual(x.backends, s.resident.services.backends) {
		t.Fatalf("the index of Services is %+v, want %+v", s.resident.services, x)
	}
	departed := 0
	s.numbers.tenancies.each(func(e *tenancyKey) { departed += min(1, int(e.Left)) })
	if departed != s.resident.departed {
		t.Fatalf("%d tenancies without a pod, counted as %d", departed, s.resident.departed)
	}
	if len(s.resident.slots) != len(s.numbers.endpoints) {
		t.Fatalf("%d slots of %d pods", len(s.resident.slots), len(s.numbers.endpoints))
	}
}
