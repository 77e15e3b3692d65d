// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

const sweepBatch = 4096

// FlowStats is what the last sweep found and did.
type FlowStats struct {
	Flows, FlowsNew int // entries left
	Expired         int // entries removed
}

// Sweep removes flows that have outlived their idle time, counts those that are left by owner, and rebuilds the filter
// from them, so that bits of flows that are gone do not stay. It is to be called every ten seconds or so.
//
// The programs go on meanwhile. An entry that is used again between the moment it is read as expired and its removal is
// lost, as if that packet had come a moment later; it is read once more to keep that moment short. A count may miss
// the flows of one sweep's duration until the next one.
func (t *Tables) Sweep() (FlowStats, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stats, err := t.sweep()
	if err != nil {
		return stats, fmt.Errorf("sweep flows: %w", err)
	}
	return stats, nil
}

func (t *Tables) sweep() (FlowStats, error) {
	var stats FlowStats
	half := 1 - t.shared.readFilter()
	unread := t.filterHalf(half)
	unread.clear()
	// A program that set its bits before they were wiped out here has its flow in the table when this returns.
	if err := t.barrier.wait(); err != nil {
		return stats, err
	}
	counts := t.memory["flow_counts"]
	before, owned := make([]uint64, bpf.MaxEndpoints), make([]uint64, bpf.MaxEndpoints)
	for i := range before {
		before[i] = counts.load(uint32(i))
	}
	now := t.monotonic()
	// flows_new first: a flow that becomes assured meanwhile is met in one of the two.
	for _, table := range []string{"flows_new", "flows"} {
		assured := table == "flows"
		left, expired, err := sweepTable(t.maps[table], now, func(key *bpf.FlowKey, flow *bpf.Flow) {
			unread.set(flowHash(key))
			if assured && int(flow.Owner) < len(owned) {
				owned[flow.Owner]++
			}
		})
		if err != nil {
			return stats, fmt.Errorf("%s: %w", table, err)
		}
		if stats.Expired += expired; assured {
			stats.Flows = left
		} else {
			stats.FlowsNew = left
		}
	}
	for i := range owned {
		if owned[i] != before[i] {
			atomic.AddUint64(&counts.word[i], owned[i]-before[i])
		}
	}
	t.shared.setReadFilter(half)
	t.flowStats = stats
	return stats, nil
}

// FlowStats returns what the last sweep found.
func (t *Tables) FlowStats() FlowStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flowStats
}

// sweepTable removes what is expired from table and shows keep the rest.
func sweepTable(table *ebpf.Map, now uint64, keep func(*bpf.FlowKey, *bpf.Flow)) (left, expired int, err error) {
	err = eachFlow(table, func(key *bpf.FlowKey, flow *bpf.Flow) error {
		if isExpired(key, flow, now) {
			var again bpf.Flow
			if err := table.Lookup(key, &again); errors.Is(err, ebpf.ErrKeyNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			if isExpired(key, &again, now) {
				expired++
				if err := table.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
					return err
				}
				return nil
			}
		}
		left++
		keep(key, flow)
		return nil
	})
	return left, expired, err
}

// eachFlow shows visit every entry of a flow table. Entries that come or go meanwhile may be missed.
func eachFlow(table *ebpf.Map, visit func(*bpf.FlowKey, *bpf.Flow) error) error {
	keys, flows := make([]bpf.FlowKey, sweepBatch), make([]bpf.Flow, sweepBatch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := table.BatchLookup(&cursor, keys, flows, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read entries: %w", err)
		}
		for i := range n {
			if err := visit(&keys[i], &flows[i]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // the last batch
		}
	}
}

// isExpired says whether a flow has been idle for longer than its state allows. It is no business of the table it is in:
// an assured flow may have to stay with the new ones.
func isExpired(key *bpf.FlowKey, flow *bpf.Flow, now uint64) bool {
	return int64(now-flow.SeenNs) > flowSeconds(key.Protocol, flow.Flags)*1e9
}

// flowSeconds is flow_lifetime_ns of bpf/conntrack.h, which does not let such a flow answer any more.
func flowSeconds(protocol uint8, flags uint32) int64 {
	const bothFINs = bpf.FlowFINForward | bpf.FlowFINReply
	switch {
	case flags&bpf.FlowRST != 0:
		return bpf.FlowRSTSeconds
	case flags&bothFINs == bothFINs:
		return bpf.FlowClosedSeconds
	case flags&bothFINs != 0:
		return bpf.FlowFINSeconds
	case protocol == policy.ICMP:
		return bpf.FlowICMPSeconds
	case flags&bpf.FlowAssured == 0:
		return bpf.FlowNewSeconds
	case protocol == policy.TCP:
		return bpf.FlowTCPSeconds
	}
	return bpf.FlowDatagramSeconds
}
