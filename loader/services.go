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

// newServices turns the IPv4 addresses of Services into table entries. A backend at the tunnel port of a node makes the
// whole address forbidden to pods.
func newServices(c *policy.Compiled, vxlanPort uint16) map[bpf.ServiceKey]bpf.Service {
	nodes := make(map[uint32]bool) // identities that nodes' own addresses have
	for i := range c.Addresses {
		if a := &c.Addresses[i]; a.Kind == policy.AddressNode || a.Kind == policy.AddressHost {
			nodes[a.Identity] = true
		}
	}
	services := make(map[bpf.ServiceKey]bpf.Service)
	for i := range c.Services {
		s := &c.Services[i]
		if !s.Addr.Is4() {
			continue
		}
		var service bpf.Service
		if s.Tunnel {
			service.Flags |= bpf.ServiceTunnel
		}
		for j, b := range s.Backends {
			if s.Protocol == policy.UDP && b.Port == vxlanPort && (b.Host || nodes[b.Identity]) {
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
		services[bpf.ServiceKey{Addr4: addr4(s.Addr), Port: s.Port, Protocol: s.Protocol}] = service
	}
	return services
}

func (t *serviceTable) fits(want map[bpf.ServiceKey]bpf.Service) error {
	if limit := int(t.table.MaxEntries()); len(want) > limit {
		return fmt.Errorf("place %d Service addresses: %w: there is room for %d", len(want), ErrTooLarge, limit)
	}
	return nil
}

// replace makes want the table's contents. Each address has its old entry until it has its new one. If old and new do not
// fit together, what is gone goes first.
func (t *serviceTable) replace(want map[bpf.ServiceKey]bpf.Service) error {
	union := len(t.have)
	for key := range want {
		if _, ok := t.have[key]; !ok {
			union++
		}
	}
	steps := []func(map[bpf.ServiceKey]bpf.Service) error{t.put, t.prune}
	if union > int(t.table.MaxEntries()) {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		if err := step(want); err != nil {
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

func (t *serviceTable) prune(want map[bpf.ServiceKey]bpf.Service) error {
	for key := range t.have {
		if _, ok := want[key]; ok {
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
