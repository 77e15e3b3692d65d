// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"math/bits"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// A flow lives as long as its state says, in whichever table; the counts by owner are those of what is left, and the half
// of the filter that is read afterwards knows what is left and nothing else.
func TestSweep(t *testing.T) {
	tables, now := openTables(t, newClock()), uint64(100000e9)
	tables.monotonic = func() uint64 { return now }
	cases := []struct {
		protocol uint8
		flags    uint32
		seconds  uint64
	}{
		{policy.TCP, 0, 60},
		{policy.UDP, 0, 60},
		{policy.TCP, bpf.FlowAssured, 21600},
		{policy.TCP, bpf.FlowAssured | bpf.FlowFINForward, 120},
		{policy.TCP, bpf.FlowAssured | bpf.FlowFINReply, 120},
		{policy.TCP, bpf.FlowAssured | bpf.FlowFINForward | bpf.FlowFINReply, 30},
		{policy.TCP, bpf.FlowAssured | bpf.FlowRST | bpf.FlowFINForward, 10},
		{policy.TCP, bpf.FlowRST, 10},
		{policy.UDP, bpf.FlowAssured, 180},
		{policy.SCTP, bpf.FlowAssured, 180},
		{policy.ICMP, bpf.FlowAssured, 30},
		{policy.ICMP, 0, 30},
	}
	key := func(i, dead int) *bpf.FlowKey {
		return &bpf.FlowKey{Saddr: 0x0a2a0101, Daddr: 0x0a2a0202, Sport: uint16(i), Dport: uint16(dead), Protocol: cases[i].protocol}
	}
	table := func(flags uint32) *ebpf.Map {
		if flags&bpf.FlowAssured != 0 {
			return tables.maps["flows"]
		}
		return tables.maps["flows_new"]
	}
	assured := 0
	for i, c := range cases {
		if c.flags&bpf.FlowAssured != 0 {
			assured++
		}
		for dead, age := range []uint64{c.seconds * 1e9, c.seconds*1e9 + 1} {
			must(t, table(c.flags).Put(key(i, dead), &bpf.Flow{SeenNs: now - age, Owner: 7, Flags: c.flags}))
		}
	}
	must(t, tables.maps["flows"].Put(&bpf.FlowKey{Saddr: 1}, &bpf.Flow{SeenNs: now + 5, Owner: 8})) // stamped while we swept
	for _, name := range []string{"flow_filter", "flow_summary"} {
		for i := range tables.memory[name].word {
			tables.memory[name].word[i] = ^uint64(0)
		}
	}
	tables.memory["flow_counts"].word[9] = 3 // of flows that were evicted

	stats, err := tables.Sweep()
	must(t, err)
	want := FlowStats{Flows: assured + 1, FlowsNew: len(cases) - assured, Expired: len(cases)}
	if stats != want || tables.FlowStats() != want {
		t.Errorf("swept %+v, want %+v", stats, want)
	}
	for i, c := range cases {
		for dead := range 2 {
			var flow bpf.Flow
			err := table(c.flags).Lookup(key(i, dead), &flow)
			if dead == 0 && err != nil || dead == 1 && !errors.Is(err, ebpf.ErrKeyNotExist) {
				t.Errorf("protocol %d flags %#x, dead %d: %v", c.protocol, c.flags, dead, err)
			}
		}
	}
	for slot, n := range map[int]int{7: assured, 8: 1, 9: 0} {
		if got := tables.memory["flow_counts"].word[slot]; got != uint64(n) {
			t.Errorf("slot %d owns %d flows, want %d", slot, got, n)
		}
	}
	if half := tables.shared.readFilter(); half != 1 {
		t.Fatalf("half %d is read after one sweep", half)
	}
	read := tables.filterHalf(1)
	for what, words := range map[string][]uint64{"filter": read.words, "summary": read.summary} {
		set := 0
		for _, w := range words {
			set += bits.OnesCount64(w)
		}
		if set == 0 || set > len(cases)+1 {
			t.Errorf("%d bits of the %s are set for %d flows", set, what, len(cases)+1)
		}
	}
	for i := range cases {
		if !read.has(flowHash(key(i, 0))) {
			t.Errorf("flow %d is not in the filter", i)
		}
	}
	if _, err := tables.Sweep(); err != nil || tables.shared.readFilter() != 0 {
		t.Errorf("after two sweeps half %d is read, %v", tables.shared.readFilter(), err)
	}
}

// Two hundred thousand flows are more than one batch.
func TestSweepReadsAllBatches(t *testing.T) {
	cfg := testConfig(newClock())
	cfg.Sizes.Flows = 1 << 17
	tables, err := Open(cfg)
	must(t, err)
	defer closeTables(t, tables)
	const n = 50000
	keys, flows := make([]bpf.FlowKey, n), make([]bpf.Flow, n)
	for i := range keys {
		keys[i] = bpf.FlowKey{Saddr: uint32(i), Daddr: 1, Protocol: policy.TCP}
		flows[i] = bpf.Flow{SeenNs: tables.monotonic(), Flags: bpf.FlowAssured, Owner: uint16(i % 4)}
	}
	_, err = tables.maps["flows"].BatchUpdate(keys, flows, nil)
	must(t, err)
	stats, err := tables.Sweep()
	must(t, err)
	if stats.Flows != n || tables.memory["flow_counts"].word[3] != n/4 {
		t.Errorf("%+v, slot 3 owns %d", stats, tables.memory["flow_counts"].word[3])
	}
}

// Counters and rule hits are summed over CPUs, under the names that the index stands for.
func TestCounters(t *testing.T) {
	tables := openTables(t, newClock())
	want := CounterKey{bpf.HookPodRx, bpf.DirectionEgress, bpf.VerdictDrop, bpf.ReasonRevoked}
	index := uint32(0)
	for counterKey(index) != want {
		index++
	}
	if at := ((uint32(want.Hook)*2+1)*uint32(bpf.VerdictCount)+1)*uint32(bpf.ReasonCount) + uint32(want.Reason); index != at {
		t.Fatalf("index %d, want %d", index, at)
	}
	cpus := ebpf.MustPossibleCPU()
	counters, hits := make([]bpf.Counter, cpus), make([]bpf.RuleHit, cpus)
	for i := range cpus {
		counters[i] = bpf.Counter{Packets: uint64(i + 1), Bytes: 100}
		hits[i] = bpf.RuleHit{Packets: 2, Bytes: 10}
	}
	must(t, tables.maps["counters"].Put(index, counters))
	must(t, tables.maps["rule_hits"].Put(uint32(777), hits))
	got, err := tables.Counters()
	must(t, err)
	n := uint64(cpus)
	if len(got) != 1 || got[want] != (Count{n * (n + 1) / 2, 100 * n}) {
		t.Errorf("counters %+v", got)
	}
	rules, err := tables.RuleHits()
	must(t, err)
	if len(rules) != 1 || rules[777] != (Count{2 * n, 10 * n}) {
		t.Errorf("rule hits %+v", rules)
	}
}

// Events ends with its context.
func TestEventsEndWithTheContext(t *testing.T) {
	tables := openTables(t, newClock())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := tables.Events(ctx, func(bpf.Event) { t.Error("an event from nowhere") }); err != nil {
		t.Error(err)
	}
}
