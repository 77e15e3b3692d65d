// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

const endpointWords = uint32(unsafe.Sizeof(bpf.Endpoint{}) / 8)

// endpointTable is the local pods by slot, and the interfaces that lead to them.
type endpointTable struct {
	words      *words
	interfaces *ebpf.Map
	byIndex    map[uint32]uint32 // what interfaces holds: ifindex → slot
	writes     *writes
}

func newEndpointTable(w *words, interfaces *ebpf.Map, writes *writes) (*endpointTable, error) {
	t := &endpointTable{w, interfaces, make(map[uint32]uint32), writes}
	var index, slot uint32
	entries := interfaces.Iterate()
	for entries.Next(&index, &slot) {
		t.byIndex[index] = slot
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read interfaces: %w", err)
	}
	return t, nil
}

type endpointRaw = [endpointWords]uint64

func (t *endpointTable) get(slot uint16) bpf.Endpoint {
	var raw endpointRaw
	for i := range endpointWords {
		raw[i] = t.words.load(uint32(slot)*endpointWords + i)
	}
	return *(*bpf.Endpoint)(unsafe.Pointer(&raw))
}

// put writes what differs, the word with ifindex and identity last: isolation has begun before the identity says so, and
// the MACs are there before the interface.
func (t *endpointTable) put(slot uint16, e bpf.Endpoint) {
	raw := *(*endpointRaw)(unsafe.Pointer(&e))
	for i := endpointWords; i > 0; i-- {
		t.words.change(uint32(slot)*endpointWords+i-1, raw[i-1])
	}
}

// clear forgets the pod in slot: the interface first, so that a packet finds no pod rather than half of one.
func (t *endpointTable) clear(slot uint16) error {
	if err := t.unbind(slot); err != nil {
		return err
	}
	for i := range endpointWords {
		t.words.change(uint32(slot)*endpointWords+i, 0)
	}
	return nil
}

func (t *endpointTable) unbind(slot uint16) error {
	for index, owner := range t.byIndex {
		if owner != uint32(slot) {
			continue
		}
		t.writes.point()
		if err := t.interfaces.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget interface %d of endpoint %d: %w", index, slot, err)
		}
		delete(t.byIndex, index)
	}
	return nil
}

// endGraces forgets when isolation began where connections older than that have had their time, by the programs' clock: a
// denied segment then costs no look at the clock.
func (t *endpointTable) endGraces(now uint64) {
	for slot, e := range t.used() {
		for d, since := range e.IsolatedNs {
			if since != 0 && now > since && now-since > uint64(Grace+time.Second) {
				e.IsolatedNs[d] = 0
			}
		}
		t.put(slot, e)
	}
}

// used returns the slots that hold a pod.
func (t *endpointTable) used() map[uint16]bpf.Endpoint {
	used := make(map[uint16]bpf.Endpoint)
	for slot := range uint16(bpf.MaxEndpoints) {
		if e := t.get(slot); e != (bpf.Endpoint{}) {
			used[slot] = e
		}
	}
	return used
}

// Interface is the host side of a pod's veth.
type Interface struct {
	Index   uint32
	PodMAC  [6]byte
	HostMAC [6]byte
	NetNS   uint32 // id of the pod's network namespace as the host knows it, plus 1; 0: not known
	// Existing says that the pod ran before anything guarded it: its connections get the grace of a pod whose
	// isolation begins now.
	Existing bool
}

// SetInterface says where the pod in slot is. It is idempotent; Existing only counts when the interface is news.
func (t *Tables) SetInterface(slot uint16, i Interface) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.setInterface(slot, i); err != nil {
		return fmt.Errorf("set interface %d of endpoint %d: %w", i.Index, slot, err)
	}
	return nil
}

func (t *Tables) setInterface(slot uint16, i Interface) error {
	if int(slot) >= bpf.MaxEndpoints {
		return fmt.Errorf("%w: there are %d endpoints", ErrTooLarge, bpf.MaxEndpoints)
	}
	table := t.endpoints
	e := table.get(slot)
	if e.Identity == 0 {
		return errors.New("no pod has this slot")
	}
	if e.Ifindex != i.Index {
		if err := table.unbind(slot); err != nil {
			return err
		}
		if i.Existing {
			for d := range e.IsolatedNs {
				if e.IsolatedNs[d] == 0 {
					e.IsolatedNs[d] = t.monotonic()
				}
			}
		}
	}
	e.Ifindex, e.Mac, e.HostMac, e.Netns = i.Index, i.PodMAC, i.HostMAC, i.NetNS
	table.put(slot, e)
	if owner, ok := table.byIndex[i.Index]; !ok || owner != uint32(slot) {
		t.writes.point()
		if err := table.interfaces.Put(i.Index, uint32(slot)); err != nil {
			return err
		}
		table.byIndex[i.Index] = uint32(slot)
	}
	return nil
}

// ClearInterface says that the interface of the pod in slot is gone. It is idempotent.
func (t *Tables) ClearInterface(slot uint16) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(slot) >= bpf.MaxEndpoints {
		return nil
	}
	if err := t.endpoints.unbind(slot); err != nil {
		return err
	}
	e := t.endpoints.get(slot)
	e.Ifindex = 0
	t.endpoints.put(slot, e)
	return nil
}

// Endpoint returns what the programs know about slot.
func (t *Tables) Endpoint(slot uint16) bpf.Endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endpoints.get(slot)
}

// isSame says whether the pod that the table has in slot is want: it has its address, and the address is still in the
// tenancy that points here.
func (t *Tables) isSame(slot uint16, have, want bpf.Endpoint, next func(addr uint32) addressEntry) bool {
	if have.Addr4 != want.Addr4 || have.Addr6 != want.Addr6 {
		return false
	}
	if want.Addr4 == 0 {
		return true
	}
	now := t.addresses.lookup(want.Addr4)
	return now.kind() == policy.AddressLocalPod && now.slot() == slot && now.tenancy() == next(want.Addr4).tenancy()
}

// writeEndpoints writes the pods of want over what is in used slots; next is what the address table will say. A slot that
// another pod had is emptied first, when no address leads to it and no program still reads it.
func (t *Tables) writeEndpoints(want []policy.Endpoint, used map[uint16]bpf.Endpoint, next func(addr uint32) addressEntry) error {
	now := make(map[uint16]bpf.Endpoint, len(want))
	reused := make(map[uint16]bool)
	for i := range want {
		w := &want[i]
		e := newEndpoint(w)
		have, inUse := used[w.Slot]
		switch same := inUse && t.isSame(w.Slot, have, e, next); {
		case same:
			e.Ifindex, e.Mac, e.HostMac, e.Netns, e.IsolatedNs = have.Ifindex, have.Mac, have.HostMac, have.Netns, have.IsolatedNs
			for d := range e.IsolatedNs {
				dir := policy.Direction(d)
				if w.Policed[d] && t.image.live != nil && !t.image.live.Policed(dir, have.Identity) {
					e.IsolatedNs[d] = t.monotonic()
				}
			}
		case inUse:
			reused[w.Slot] = true
		}
		now[w.Slot] = e
	}
	if err := t.empty(reused); err != nil {
		return err
	}
	for slot, e := range now {
		t.endpoints.put(slot, e)
	}
	return nil
}

// empty takes the pods that were there out of slots: their addresses, and, once nobody can be reading, what they were.
func (t *Tables) empty(slots map[uint16]bool) error {
	if len(slots) == 0 {
		return nil
	}
	for p, e := range t.addresses.entries.entries {
		if e.kind() == policy.AddressLocalPod && slots[e.slot()] {
			if err := t.addresses.remove(p); err != nil {
				return err
			}
		}
	}
	if err := t.quiesce(); err != nil {
		return err
	}
	for slot := range slots {
		if err := t.endpoints.clear(slot); err != nil {
			return err
		}
		atomic.StoreUint64(&t.memory["flow_counts"].word[slot], 0)
	}
	return nil
}

// gone lists the slots that no pod of want has.
func (t *endpointTable) gone(want []policy.Endpoint) (slots []uint16) {
	used := t.used()
	for i := range want {
		delete(used, want[i].Slot)
	}
	for slot := range used {
		slots = append(slots, slot)
	}
	return slots
}

func newEndpoint(w *policy.Endpoint) bpf.Endpoint {
	e := bpf.Endpoint{Identity: w.Identity}
	for _, a := range w.Addrs {
		if a.Is4() {
			e.Addr4 = addr4(a)
		} else {
			e.Addr6 = a.As16()
		}
	}
	return e
}
