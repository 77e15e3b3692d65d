// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// errOtherTables is a plan of changes, and the tables are not those that it changes.
var errOtherTables = errors.New("the tables are not those that the plan's changes are about: a whole model must be planned")

// applyDelta is apply for a plan without interim image, whose tables differ from these in its Delta only: the same steps, in
// the same order, for nothing but what changes.
func (t *Tables) applyDelta(plan *policy.Plan) error {
	final, d := plan.Final, plan.Delta
	set, gone := deltaEntries(d)
	var services map[bpf.ServiceKey]bpf.Service
	if d.Services {
		services = newServices(final, t.vxlanPort)
	}
	if err := errors.Join(t.addresses.fitsMore(set), t.services.fits(services)); err != nil {
		return err
	}
	if plan.Swap {
		if err := t.image.fits(final.Image); err != nil {
			return err
		}
	}
	for i := range d.Endpoints {
		if e := &d.Endpoints[i]; int(e.Slot) >= bpf.MaxEndpoints {
			return fmt.Errorf("place pod %s: %w: slot %d of %d", e.Pod, ErrTooLarge, e.Slot, bpf.MaxEndpoints)
		}
	}
	t.step = nil // until all is done
	moves := len(set)+len(gone) > 0
	if moves {
		t.bumpDue = true
		t.shared.bumpAddrGeneration()
	}
	t.succeedBy(set, gone)
	used := make(map[uint16]bpf.Endpoint, len(d.Endpoints))
	for i := range d.Endpoints {
		if e := t.endpoints.get(d.Endpoints[i].Slot); e != (bpf.Endpoint{}) {
			used[d.Endpoints[i].Slot] = e
		}
	}
	next := func(addr uint32) addressEntry {
		if e, ok := set[newPrefix4(addr, 32)]; ok {
			return e
		}
		return t.addresses.entries.match(addr, 32)
	}
	if err := t.writeEndpoints(d.Endpoints, used, next); err != nil {
		return err
	}
	for _, p := range sortedPrefixes(set) {
		if err := t.addresses.set(p, set[p]); err != nil {
			return err
		}
		delete(t.lingering, p) // it is somebody's again
	}
	for _, p := range gone {
		if err := t.addresses.remove(p); err != nil {
			return err
		}
	}
	if moves {
		t.shared.bumpAddrGeneration()
		t.bumpDue = false
	}
	if d.Services {
		if err := t.services.replace(services); err != nil {
			return err
		}
	}
	if plan.Swap {
		if err := t.swap(final.Image); err != nil {
			return err
		}
	}
	if err := t.retireDelta(final, d); err != nil {
		return err
	}
	t.step = plan.Step
	return nil
}

// retireDelta is retire for the endpoints of a delta, and for nodes if a grace of theirs has ended.
func (t *Tables) retireDelta(final *policy.Compiled, d *policy.Delta) error {
	var nodes []uint16
	if t.retireDue {
		nodes = t.nodes.gone(final.Nodes, t.addresses.entries)
	}
	if len(d.GoneSlots)+len(nodes) > 0 {
		if err := t.quiesce(); err != nil {
			return err
		}
	}
	for _, slot := range d.GoneSlots {
		if err := t.endpoints.clear(slot); err != nil {
			return err
		}
	}
	for _, slot := range nodes {
		t.nodes.clear(slot)
	}
	t.retireDue = false
	return nil
}

func deltaEntries(d *policy.Delta) (set map[prefix4]addressEntry, gone []prefix4) {
	set = make(map[prefix4]addressEntry, len(d.Set))
	for _, a := range d.Set {
		if p, ok := prefix4From(a.Prefix); ok {
			set[p] = newAddressEntry(a)
		}
	}
	for _, prefix := range d.Gone {
		if p, ok := prefix4From(prefix); ok {
			gone = append(gone, p)
		}
	}
	return set, gone
}

func sortedPrefixes(set map[prefix4]addressEntry) []prefix4 {
	prefixes := make([]prefix4, 0, len(set))
	for p := range set {
		prefixes = append(prefixes, p)
	}
	slices.SortFunc(prefixes, func(x, y prefix4) int { return cmp.Or(cmp.Compare(y.bits(), x.bits()), cmp.Compare(x, y)) })
	return prefixes
}

// succeedBy notes the nodes that now own what another node owned.
func (t *Tables) succeedBy(set map[prefix4]addressEntry, gone []prefix4) {
	now, have := t.now(), t.addresses.entries
	moved := func(p prefix4, next addressEntry) {
		from, ok1 := have.match(p.addr(), p.bits()).remoteOwner()
		to, ok2 := next.remoteOwner()
		if ok1 && ok2 && from != to {
			t.nodes.succeed(to, from, now)
		}
	}
	for _, p := range sortedPrefixes(set) {
		moved(p, set[p])
	}
	for _, p := range gone {
		moved(p, have.match(p.addr(), p.bits()-1))
	}
}

// fitsMore is fits for entries beside those that are there.
func (a *addressTable) fitsMore(set map[prefix4]addressEntry) error {
	need, more := 0, 0
	for p := range set {
		if !a.entries.has(p) {
			need += a.trie.missing(p)
			more++
		}
	}
	if limit := int(a.cidr4.MaxEntries()); need > a.trie.available() && len(a.overflow.entries)+more > limit {
		return fmt.Errorf("place %d more addresses: %w: the blocks are used up, and cidr4 takes %d", more, ErrTooLarge, limit)
	}
	return nil
}
