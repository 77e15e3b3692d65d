// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"net/netip"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// Service addresses are written, replaced and removed; more backends than fit, and a node's tunnel port, are flagged.
func TestServices(t *testing.T) {
	tables := openTables(t, newClock())
	c, err := policy.Build(twoNodes())
	must(t, err)
	var node uint32
	for _, a := range c.Addresses {
		if a.Kind == policy.AddressNode {
			node = a.Identity
		}
	}
	addr := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, n}) }
	many := make([]policy.Backend, bpf.MaxBackends+1)
	for i := range many {
		many[i] = policy.Backend{Identity: 256, Port: uint16(i + 1)}
	}
	write := func(services ...policy.ServiceEntry) map[byte]bpf.Service {
		t.Helper()
		next := *c
		next.Services = services
		must(t, tables.Apply(context.Background(), &policy.Plan{Final: &next, Swap: true}))
		got := make(map[byte]bpf.Service)
		var key bpf.ServiceKey
		var service bpf.Service
		for entries := tables.maps["services"].Iterate(); entries.Next(&key, &service); {
			if key.Port != 80 && key.Port != 53 {
				t.Errorf("key %+v", key)
			}
			got[byte(key.Addr4)] = service
		}
		if n := *tables.shared.serviceEntries(); int(n) != len(got) {
			t.Errorf("state says %d entries, there are %d", n, len(got))
		}
		return got
	}
	got := write(
		policy.ServiceEntry{Addr: addr(1), Protocol: policy.TCP, Port: 80, Backends: []policy.Backend{{Identity: 256, Port: 8080}, {Identity: 1, Port: 81, Host: true}}},
		policy.ServiceEntry{Addr: addr(2), Protocol: policy.TCP, Port: 80, Backends: many},
		policy.ServiceEntry{Addr: addr(3), Protocol: policy.UDP, Port: 53, Backends: []policy.Backend{{Identity: node, Port: 8472, Node: true}}},
		policy.ServiceEntry{Addr: addr(4), Protocol: policy.UDP, Port: 53, Backends: []policy.Backend{{Identity: 256, Port: 8472}}},
		policy.ServiceEntry{Addr: addr(5), Protocol: policy.TCP, Port: 80, Backends: []policy.Backend{{Identity: node, Port: 8472, Node: true}}},
		policy.ServiceEntry{Addr: netip.MustParseAddr("2001:db8::1"), Protocol: policy.TCP, Port: 80},
	)
	want := bpf.Service{Count: 2}
	want.Backends[0] = bpf.Backend{Identity: 256, Port: 8080}
	want.Backends[1] = bpf.Backend{Identity: 1, Port: 81, Flags: bpf.BackendHost}
	if len(got) != 5 || got[1] != want {
		t.Errorf("%d Services, the first %+v, want %+v", len(got), got[1], want)
	}
	for n, flags := range map[byte]uint32{2: bpf.ServiceMany, 3: bpf.ServiceTunnel, 4: 0, 5: 0} {
		if got[n].Flags != flags {
			t.Errorf("Service %d has flags %d, want %d", n, got[n].Flags, flags)
		}
	}
	if got[2].Count != bpf.MaxBackends {
		t.Errorf("%d backends of many", got[2].Count)
	}
	got = write(policy.ServiceEntry{Addr: addr(1), Protocol: policy.TCP, Port: 80})
	if len(got) != 1 || got[1] != (bpf.Service{}) {
		t.Errorf("after the change: %+v", got)
	}
}

// When old and new Services do not fit beside each other, the old ones go first.
func TestServicesMakeRoom(t *testing.T) {
	tables := openTables(t, newClock())
	limit := int(tables.maps["services"].MaxEntries())
	services := manyServices(limit + 1000)
	c, err := policy.Build(twoNodes())
	must(t, err)
	for _, part := range [][]policy.ServiceEntry{services[:limit], services[1000:]} {
		next := *c
		next.Services = part
		must(t, tables.Apply(context.Background(), &policy.Plan{Final: &next, Swap: true}))
		if n := *tables.shared.serviceEntries(); int(n) != limit {
			t.Errorf("%d of %d Services", n, limit)
		}
	}
}
