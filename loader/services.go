// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// serviceTable is what stands behind the Service addresses.
type serviceTable struct {
	table  *ebpf.Map
	have   map[bpf.ServiceKey]bpf.Service // what table holds
	shared *sharedState
	writes *writes
}

func newServiceTable(table *ebpf.Map, shared *sharedState, w *writes) (*serviceTable, error) {
	t := &serviceTable{table, make(map[bpf.ServiceKey]bpf.Service), shared, w}
	var key bpf.ServiceKey
	var service bpf.Service
	entries := table.Iterate()
	for entries.Next(&key, &service) {
		t.have[key] = service
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	shared.setServiceEntries(len(t.have))
	return t, nil
}

// newServices turns the IPv4 addresses of Services into table entries.
func newServices(entries []policy.ServiceEntry, vxlanPort uint16) map[bpf.ServiceKey]bpf.Service {
	services := make(map[bpf.ServiceKey]bpf.Service, len(entries))
	for i := range entries {
		if at, ok := serviceKey(entries[i].At()); ok {
			services[at] = newService(&entries[i], vxlanPort)
		}
	}
	return services
}

func serviceKey(at policy.ServiceAddress) (key bpf.ServiceKey, ok bool) {
	if !at.Addr.Is4() {
		return key, false
	}
	return bpf.ServiceKey{Addr4: addr4(at.Addr), Port: at.Port, Protocol: at.Protocol}, true
}

// newService is a table entry. A backend at the tunnel port of a node makes the whole address forbidden to pods.
func newService(s *policy.ServiceEntry, vxlanPort uint16) (service bpf.Service) {
	if s.Tunnel {
		service.Flags |= bpf.ServiceTunnel
	}
	for j, b := range s.Backends {
		if s.Protocol == policy.UDP && b.Port == vxlanPort && (b.Host || b.Node) {
			service.Flags |= bpf.ServiceTunnel
		}
		if j >= bpf.MaxBackends {
			service.Flags |= bpf.ServiceMany
			continue
		}
		backend := bpf.Backend{Identity: b.Identity, Port: b.Port}
		if b.Host {
			backend.Flags |= bpf.BackendHost
		}
		service.Backends[j] = backend
		service.Count++
	}
	return service
}

// serviceChange is a set of entries that are other ones, or no more, afterwards.
type serviceChange struct {
	set  map[bpf.ServiceKey]bpf.Service
	gone []bpf.ServiceKey
}

// replacing is the change that makes want the table's contents.
func (t *serviceTable) replacing(want map[bpf.ServiceKey]bpf.Service) serviceChange {
	c := serviceChange{set: want}
	for key := range t.have {
		if _, ok := want[key]; !ok {
			c.gone = append(c.gone, key)
		}
	}
	return c
}

// deltaServices is the change that a delta says.
func deltaServices(d *policy.Delta, vxlanPort uint16) serviceChange {
	c := serviceChange{set: newServices(d.Services, vxlanPort)}
	for _, at := range d.GoneServices {
		if key, ok := serviceKey(at); ok {
			c.gone = append(c.gone, key)
		}
	}
	return c
}

// fits says whether the table has room for a change.
func (t *serviceTable) fits(c serviceChange) error {
	after := len(t.have)
	for key := range c.set {
		if _, ok := t.have[key]; !ok {
			after++
		}
	}
	for _, key := range c.gone {
		if _, ok := t.have[key]; ok {
			after--
		}
	}
	if limit := int(t.table.MaxEntries()); after > limit {
		return fmt.Errorf("place %d Service addresses: %w: there is room for %d", after, ErrTooLarge, limit)
	}
	return nil
}

// apply makes a change. Each address has its old entry until it has its new one. If old and new do not fit together, what is
// gone goes first.
func (t *serviceTable) apply(c serviceChange) error {
	union := len(t.have)
	for key := range c.set {
		if _, ok := t.have[key]; !ok {
			union++
		}
	}
	put, remove := func() error { return t.put(c.set) }, func() error { return t.remove(c.gone) }
	steps := []func() error{put, remove}
	if union > int(t.table.MaxEntries()) {
		steps = []func() error{remove, put}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (t *serviceTable) put(want map[bpf.ServiceKey]bpf.Service) error {
	for key, service := range want {
		if have, ok := t.have[key]; ok && have == service {
			continue
		}
		t.writes.point()
		if err := t.table.Put(&key, &service); err != nil {
			return fmt.Errorf("put Service address %s: %w", serviceName(key), err)
		}
		t.have[key] = service
		t.shared.setServiceEntries(len(t.have))
	}
	return nil
}

func (t *serviceTable) remove(gone []bpf.ServiceKey) error {
	for _, key := range gone {
		if _, ok := t.have[key]; !ok {
			continue
		}
		t.writes.point()
		if err := t.table.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete Service address %s: %w", serviceName(key), err)
		}
		delete(t.have, key)
		t.shared.setServiceEntries(len(t.have))
	}
	return nil
}

func serviceName(k bpf.ServiceKey) string {
	return fmt.Sprintf("%s port %d protocol %d", newPrefix4(k.Addr4, 32), k.Port, k.Protocol)
}
