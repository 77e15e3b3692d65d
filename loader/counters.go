// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/weirnet/weir/bpf"
)

// CounterKey is what packets are counted by.
type CounterKey struct {
	Hook      bpf.Hook
	Direction bpf.Direction
	Verdict   bpf.Verdict
	Reason    bpf.Reason
}

// Count is packets and their bytes, over all CPUs.
type Count struct{ Packets, Bytes uint64 }

// Counters returns the counters that are not zero.
func (t *Tables) Counters() (map[CounterKey]Count, error) {
	values, cpus, err := readPerCPU[bpf.Counter](t.maps["counters"])
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	counts := make(map[CounterKey]Count)
	for i, v := range values {
		if v.Packets == 0 {
			continue
		}
		key := counterKey(uint32(i / cpus))
		c := counts[key]
		counts[key] = Count{c.Packets + v.Packets, c.Bytes + v.Bytes}
	}
	return counts, nil
}

// counterKey undoes the index of bpf/maps.h.
func counterKey(i uint32) CounterKey {
	const reasons, verdicts, directions = uint32(bpf.ReasonCount), uint32(bpf.VerdictCount), uint32(bpf.DirectionCount)
	return CounterKey{
		Reason:    bpf.Reason(i % reasons),
		Verdict:   bpf.Verdict(i / reasons % verdicts),
		Direction: bpf.Direction(i / reasons / verdicts % directions),
		Hook:      bpf.Hook(i / reasons / verdicts / directions),
	}
}

// RuleHits returns the packets that each rule decided, by the rule's number, without those that decided none.
func (t *Tables) RuleHits() (map[uint16]Count, error) {
	values, cpus, err := readPerCPU[bpf.RuleHit](t.maps["rule_hits"])
	if err != nil {
		return nil, fmt.Errorf("read rule hits: %w", err)
	}
	counts := make(map[uint16]Count)
	for i, v := range values {
		if v.Packets == 0 {
			continue
		}
		c := counts[uint16(i/cpus)]
		counts[uint16(i/cpus)] = Count{c.Packets + v.Packets, c.Bytes + v.Bytes}
	}
	return counts, nil
}

// AuditHits returns the packets that each rule or isolation under audit would have dropped, by its number.
func (t *Tables) AuditHits() (map[uint16]Count, error) {
	counts := make(map[uint16]Count)
	var number uint32
	var values []bpf.RuleHit
	entries := t.maps["audit_hits"].Iterate()
	for entries.Next(&number, &values) {
		var c Count
		for _, v := range values {
			c = Count{c.Packets + v.Packets, c.Bytes + v.Bytes}
		}
		counts[uint16(number)] = c
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read audit hits: %w", err)
	}
	return counts, nil
}

// readPerCPU reads a whole per-CPU array: the values of an element's CPUs lie together.
func readPerCPU[T any](m *ebpf.Map) (values []T, cpus int, err error) {
	if cpus, err = ebpf.PossibleCPU(); err != nil {
		return nil, 0, err
	}
	n := int(m.MaxEntries())
	keys, values := make([]uint32, n), make([]T, n*cpus)
	var cursor ebpf.MapBatchCursor
	got, err := m.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, 0, err
	}
	if got != n {
		return nil, 0, fmt.Errorf("%d of %d elements", got, n)
	}
	return values, cpus, nil
}

// Events calls visit with each sampled verdict until ctx is done, and then returns nil. There can be one reader.
func (t *Tables) Events(ctx context.Context, visit func(bpf.Event)) error {
	reader, err := ringbuf.NewReader(t.maps["events"])
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = reader.Close() })
	defer func() {
		if stop() {
			_ = reader.Close()
		}
	}()
	var record ringbuf.Record
	for {
		switch err := reader.ReadInto(&record); {
		case errors.Is(err, os.ErrClosed) && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		event, err := decodeEvent(record.RawSample)
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		visit(event)
	}
}

func decodeEvent(raw []byte) (event bpf.Event, err error) {
	if len(raw) != int(unsafe.Sizeof(event)) {
		return event, fmt.Errorf("an event of %d bytes, not %d", len(raw), unsafe.Sizeof(event))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&event)), len(raw)), raw)
	return event, nil
}
