// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// errOtherTables is a plan of changes, and the tables are not those that it changes.
var errOtherTables = errors.New("the tables are not those that the plan's changes are about: a whole model must be planned")

// applyDelta is apply for a plan whose tables differ from these in its Delta only: the same steps, in the same order, for
// nothing but what changes.
func (t *Tables) applyDelta(plan *policy.Plan) error {
	final, d, now := plan.Final, plan.Delta, t.now()
	set, gone := deltaEntries(d)
	services := deltaServices(d, t.vxlanPort)
	if err := errors.Join(t.addresses.fitsMore(set), t.services.fits(services), t.imagesFit(plan), slotsFit(d.Endpoints, d.Nodes)); err != nil {
		return err
	}
	t.step = nil // until all is done
	if plan.Interim != nil {
		if err := t.swap(plan.Interim); err != nil {
			return err
		}
	}
	concerned := t.retireDue || t.nodesConcerned(d, set, gone) // what has ended left a gap that another address may fill
	if err := t.moveAddresses(d, set, gone, now); err != nil {
		return err
	}
	if concerned {
		t.writeUnderlay(final.Nodes, t.addresses.entries)
	}
	if err := t.services.apply(services); err != nil {
		return err
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

// moveAddresses is writeAddresses for a delta, but for the shortcuts to underlay addresses.
func (t *Tables) moveAddresses(d *policy.Delta, set map[prefix4]addressEntry, gone []prefix4, now time.Time) error {
	left := t.takenOver(d)
	lingering := t.lingeringAmong(gone, set, now)
	for p, l := range lingering {
		set[p] = l.entry
	}
	gone = slices.DeleteFunc(gone, func(p prefix4) bool { return lingering[p].entry != 0 })
	moves := len(set)+len(gone)+len(left) > 0
	if moves {
		t.bumpDue = true
		t.shared.bumpAddrGeneration()
	}
	for _, p := range left {
		if err := t.addresses.remove(p); err != nil {
			return err
		}
		delete(t.lingering, p)
		t.retireDue = true
	}
	for i := range d.Nodes {
		t.nodes.set(d.Nodes[i], now)
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
		if l, lingers := lingering[p]; lingers {
			t.lingering[p] = l
		} else if _, lingered := t.lingering[p]; lingered { // it is somebody's again
			delete(t.lingering, p)
			t.retireDue = true
		}
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
	return nil
}

// takenOver lists what lingers of nodes whose slots are another's now.
func (t *Tables) takenOver(d *policy.Delta) (left []prefix4) {
	for i := range d.Nodes {
		n := &d.Nodes[i]
		for p, l := range t.lingering {
			if l.entry.slot() == n.Slot && l.node != "" && l.node != n.Name {
				left = append(left, p)
			}
		}
	}
	slices.Sort(left)
	return slices.Compact(left)
}

// lingeringAmong lists which of a delta's addresses that go stay their node's for a grace period: those that nobody else
// owns then.
func (t *Tables) lingeringAmong(gone []prefix4, set map[prefix4]addressEntry, now time.Time) map[prefix4]linger {
	lingering := make(map[prefix4]linger)
	have := t.addresses.entries
	goes := make(map[prefix4]bool, len(gone))
	for _, p := range gone {
		goes[p] = true
	}
	for _, p := range gone {
		e := have.entries[p]
		slot, owned := e.remoteOwner()
		if !owned || e.kind() == policy.AddressRemotePod {
			continue
		}
		others := false
		for bits := p.bits(); bits >= 0; bits-- {
			q := newPrefix4(p.addr(), bits)
			cover, ok := set[q]
			if _, lingers := t.lingering[q]; !ok && !goes[q] && !lingers {
				cover, ok = have.entries[q]
			}
			if ok {
				others = cover.kind() != policy.AddressNone
				break
			}
		}
		if !others {
			lingering[p] = linger{entry: e.withIdentity(lingeringIdentity(e)), node: t.nodes.names[slot], until: now.Add(Grace)}
		}
	}
	return lingering
}

// nodesConcerned says whether a delta changes nodes, or addresses at which they send overlay packets.
func (t *Tables) nodesConcerned(d *policy.Delta, set map[prefix4]addressEntry, gone []prefix4) bool {
	if len(d.Nodes)+len(d.GoneNodes) > 0 {
		return true
	}
	underlay := func(e addressEntry) bool { return e>>28&bpf.AddressUnderlay != 0 }
	for p, e := range set {
		if underlay(e) || underlay(t.addresses.entries.entries[p]) {
			return true
		}
	}
	return slices.ContainsFunc(gone, func(p prefix4) bool { return underlay(t.addresses.entries.entries[p]) })
}

// retireDelta is retire for the endpoints of a delta, and for nodes if some go or a grace of theirs has ended.
func (t *Tables) retireDelta(final *policy.Compiled, d *policy.Delta) error {
	var nodes []uint16
	if t.retireDue || len(d.GoneNodes) > 0 {
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
	slices.SortFunc(gone, func(x, y prefix4) int { return cmp.Or(cmp.Compare(x.bits(), y.bits()), cmp.Compare(x, y)) })
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
