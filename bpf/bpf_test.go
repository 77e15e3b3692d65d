// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"

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
		"rule_hits": MaxRules, "counters": CounterSlots,
	} {
		if got := spec.Maps[name].MaxEntries; got != want {
			t.Errorf("map %s has %d entries in C, %d in Go", name, got, want)
		}
	}
	for name, want := range map[string]uintptr{
		"endpoints": MaxEndpoints * unsafe.Sizeof(Endpoint{}), "nodes": MaxNodes * unsafe.Sizeof(Node{}),
		"state": unsafe.Sizeof(State{}), "flow_filter": 2 * FlowFilterWords * 8, "flow_summary": 2 * FlowSummaryWords * 8,
		"addr4": Addr4Root * 8, "flow_counts": MaxEndpoints * 8,
	} {
		if m := spec.Maps[name]; uintptr(m.ValueSize) != want || m.MaxEntries != 1 {
			t.Errorf("map %s has %d elements of %d bytes in C, one of %d in Go", name, m.MaxEntries, m.ValueSize, want)
		}
	}
	if n := len(Service{}.Backends); n != MaxBackends {
		t.Errorf("a service holds %d backends in C, %d in Go", n, MaxBackends)
	}
	if n := len(Event{}.Data); n != EventBytes {
		t.Errorf("an event holds %d bytes in C, %d in Go", n, EventBytes)
	}
}

// ARCHITECTURE.md has one row for each reason and each map, in order of the enum for reasons, and no other.
func TestArchitectureHasEveryReasonAndMap(t *testing.T) {
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	if got := rows(t, string(text), "## Reasons"); !slices.Equal(got, reasonNames[:]) {
		t.Errorf("reasons in ARCHITECTURE.md:\n%v\nin the enum:\n%v", got, reasonNames)
	}
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	var maps []string
	for name := range spec.Maps {
		maps = append(maps, name)
	}
	got := rows(t, string(text), "## Maps")
	slices.Sort(got)
	slices.Sort(maps)
	if !slices.Equal(got, maps) {
		t.Errorf("maps in ARCHITECTURE.md:\n%v\nin the object:\n%v", got, maps)
	}
}

// rows returns the first cells, those in back quotes, of the tables in a section.
func rows(t *testing.T, text, heading string) []string {
	t.Helper()
	_, section, ok := strings.Cut(text, heading+"\n")
	if !ok {
		t.Fatalf("ARCHITECTURE.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var names []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|").FindAllStringSubmatch(section, -1) {
		names = append(names, match[1])
	}
	return names
}
