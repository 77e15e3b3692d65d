// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
)

// addressTable is who an address is: the trie, and cidr4 for what the trie's pool has no room for. A prefix is in one of
// them; the longer match of the two wins.
type addressTable struct {
	entries  *prefixSet // all of it
	trie     *trie
	cidr4    *ebpf.Map
	overflow *prefixSet // what cidr4 holds
	shared   *sharedState
	writes   *writes
	// stale says that the tables were found, not written, by this process: all of them must be written again.
	stale bool
}

func newAddressTable(t *trie, cidr4 *ebpf.Map, shared *sharedState, w *writes) (*addressTable, error) {
	a := &addressTable{entries: newPrefixSet(), trie: t, cidr4: cidr4, overflow: newPrefixSet(), shared: shared, writes: w}
	var key bpf.CIDR4Key
	var entry uint64
	entries := cidr4.Iterate()
	for entries.Next(&key, &entry) {
		a.overflow.set(newPrefix4(binary.BigEndian.Uint32(key.Addr[:]), int(key.PrefixLen)), addressEntry(entry))
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read cidr4: %w", err)
	}
	shared.setCIDR4Entries(len(a.overflow.entries))
	for _, s := range []*prefixSet{t.prefixes, a.overflow} {
		for p, e := range s.entries {
			a.entries.set(p, e)
		}
	}
	a.stale = len(a.entries.entries) > 0
	return a, nil
}

// fits says whether want can be written beside what is there. It changes nothing.
func (a *addressTable) fits(want *prefixSet) error {
	left, planned, overflow := a.trie.available(), make(map[prefix4]bool), len(a.overflow.entries)
	for _, p := range byLength(want, true, func(prefix4) bool { return true }) {
		if a.overflow.has(p) {
			continue
		}
		var need []prefix4
		for _, bits := range []int{16, 24} {
			block := newPrefix4(p.addr(), bits)
			if p.bits() > bits && !planned[block] && a.trie.missing(newPrefix4(p.addr(), bits+1)) > 0 {
				need = append(need, block)
			}
		}
		if len(need) > left {
			overflow++
			continue
		}
		left -= len(need)
		for _, block := range need {
			planned[block] = true
		}
	}
	if limit := int(a.cidr4.MaxEntries()); overflow > limit {
		return fmt.Errorf("place %d addresses: %w: %d do not fit into %d blocks, and cidr4 takes %d",
			len(want.entries), ErrTooLarge, overflow, len(a.trie.inside), limit)
	}
	return nil
}

// replace makes want the table's contents. Every address keeps its old answer until it gets its new one: what is set is
// set from the longest prefix to the shortest, and only then is what is gone removed, from the shortest to the longest.
func (a *addressTable) replace(want *prefixSet) error {
	for _, p := range byLength(want, true, func(p prefix4) bool { return a.stale || a.entries.entries[p] != want.entries[p] }) {
		if err := a.set(p, want.entries[p]); err != nil {
			return err
		}
	}
	for _, p := range byLength(a.entries, false, func(p prefix4) bool { return !want.has(p) }) {
		if err := a.remove(p); err != nil {
			return err
		}
	}
	a.stale = false
	return nil
}

// byLength returns the prefixes of s that chosen picks, in the order of their length.
func byLength(s *prefixSet, longestFirst bool, chosen func(prefix4) bool) []prefix4 {
	var prefixes []prefix4
	for p := range s.entries {
		if chosen(p) {
			prefixes = append(prefixes, p)
		}
	}
	slices.SortFunc(prefixes, func(x, y prefix4) int {
		if longestFirst {
			x, y = y, x
		}
		return cmp.Or(cmp.Compare(x.bits(), y.bits()), cmp.Compare(x, y))
	})
	return prefixes
}

func (a *addressTable) set(p prefix4, e addressEntry) error {
	if !a.overflow.has(p) {
		done, err := a.trie.set(p, e)
		if err != nil {
			return err
		}
		if done {
			a.entries.set(p, e)
			return nil
		}
	}
	a.writes.point()
	key := p.cidr4Key()
	if err := a.cidr4.Put(&key, uint64(e)); err != nil {
		return fmt.Errorf("put %s into cidr4: %w", p, err)
	}
	a.overflow.set(p, e)
	a.entries.set(p, e)
	a.shared.setCIDR4Entries(len(a.overflow.entries))
	return nil
}

func (a *addressTable) remove(p prefix4) error {
	a.entries.remove(p)
	if !a.overflow.has(p) {
		a.trie.remove(p)
		return nil
	}
	a.writes.point()
	key := p.cidr4Key()
	if err := a.cidr4.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete %s from cidr4: %w", p, err)
	}
	a.overflow.remove(p)
	a.shared.setCIDR4Entries(len(a.overflow.entries))
	return nil
}

// lookup is what the programs do.
func (a *addressTable) lookup(addr uint32) addressEntry {
	e := a.trie.lookup(addr)
	if other := a.overflow.match(addr, 32); other.bits() > e.bits() {
		return other
	}
	return e
}
