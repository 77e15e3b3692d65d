// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// The names in Go are those of the enums in C, in lower case and in the same order.
func TestNamesAreThoseOfTheEnums(t *testing.T) {
	spec, err := loadMaps()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		enum, prefix string
		names        []string
	}{
		{"hook", "HOOK_", hookNames[:]},
		{"direction", "DIRECTION_", directionNames[:]},
		{"verdict", "VERDICT_", verdictNames[:]},
		{"reason", "REASON_", reasonNames[:]},
	} {
		var enum *btf.Enum
		if err := spec.Types.TypeByName(c.enum, &enum); err != nil {
			t.Fatalf("enum %s: %v", c.enum, err)
		}
		if len(enum.Values) != len(c.names)+1 { // and the count
			t.Errorf("enum %s has %d values, Go has %d names", c.enum, len(enum.Values)-1, len(c.names))
			continue
		}
		for i, name := range c.names {
			want := strings.ToLower(strings.TrimPrefix(enum.Values[i].Name, c.prefix))
			if name != want || enum.Values[i].Value != uint64(i) {
				t.Errorf("enum %s: value %d is %s=%d in C, %s in Go", c.enum, i, enum.Values[i].Name, enum.Values[i].Value, name)
			}
		}
	}
}

// The limits in Go are the sizes in C.
func TestLimitsAreThoseOfTheMaps(t *testing.T) {
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		"endpoints": MaxEndpoints, "nodes": MaxNodes, "rule_hits": MaxRules, "counters": CounterSlots,
		"flow_filter": 2 * FlowFilterWords, "addr4": Addr4Root, "flow_counts": MaxEndpoints,
	} {
		if got := spec.Maps[name].MaxEntries; got != want {
			t.Errorf("map %s has %d entries in C, %d in Go", name, got, want)
		}
	}
	if n := len(Service{}.Backends); n != MaxBackends {
		t.Errorf("a service holds %d backends in C, %d in Go", n, MaxBackends)
	}
	if n := len(Event{}.Data); n != EventBytes {
		t.Errorf("an event holds %d bytes in C, %d in Go", n, EventBytes)
	}
}
