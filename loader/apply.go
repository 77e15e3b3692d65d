// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// Apply writes a plan into the tables, in the order that policy.Plan demands:
//
//  1. the interim image, if there is one;
//  2. nodes and endpoints, then the addresses that lead to them, then Services;
//  3. the final image;
//  4. out goes what nothing leads to any more.
//
// At every moment, and for ever if the process dies there, each address has its old answer or its new one, and each
// packet meets one whole image. Of a plan with a Delta it writes, and looks at, only what changes. Apply is idempotent, and completes
// what a killed one left. A plan that does not fit is refused with ErrTooLarge before anything is written; after any other error the planner must be restored from LiveImage.
func (t *Tables) Apply(ctx context.Context, plan *policy.Plan) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply plan: %w", err)
	}
	if err := t.apply(plan); err != nil {
		return fmt.Errorf("apply plan: %w", err)
	}
	return nil
}

func (t *Tables) apply(plan *policy.Plan) error {
	if d := plan.Delta; d != nil {
		switch {
		case t.step != nil && t.step == plan.Step:
			return nil // for the second time
		case t.step != nil && t.step == d.After && !t.bumpDue:
			return t.applyDelta(plan)
		case plan.Final.Addresses == nil:
			return errOtherTables
		}
	}
	final, now := plan.Final, t.now()
	entries, ignored := newEntries(final.Addresses)
	services := t.services.replacing(newServices(final.Services, t.vxlanPort))
	if err := t.fits(plan, entries, services); err != nil {
		return err
	}
	t.step = nil // until all is done
	entries = t.withLingering(entries, final.Nodes, now)

	if plan.Interim != nil {
		if err := t.swap(plan.Interim); err != nil {
			return err
		}
	}
	if err := t.writeAddresses(final, entries, now); err != nil {
		return err
	}
	if err := t.services.apply(services); err != nil {
		return err
	}
	if plan.Swap {
		if err := t.swap(final.Image); err != nil {
			return err
		}
	}
	if err := t.retire(final, entries, plan.Swap); err != nil {
		return err
	}
	t.step, t.retireDue = plan.Step, false
	t.log.Debug("applied plan", "generation", t.generation(), "addresses", len(entries.entries), "endpoints",
		len(final.Endpoints), "services", len(t.services.have), "ignored_ipv6", ignored, "overflow", len(t.addresses.overflow.entries))
	return nil
}

// retire clears the endpoints and nodes that no address leads to any more, when no program can still be reading them.
func (t *Tables) retire(final *policy.Compiled, entries *prefixSet, waited bool) error {
	endpoints, nodes := t.endpoints.gone(final.Endpoints), t.nodes.gone(final.Nodes, entries)
	if len(endpoints)+len(nodes) == 0 {
		return nil
	}
	if !waited {
		if err := t.quiesce(); err != nil {
			return err
		}
	}
	for _, slot := range endpoints {
		if err := t.endpoints.clear(slot); err != nil {
			return err
		}
	}
	for _, slot := range nodes {
		t.nodes.clear(slot)
	}
	return nil
}

// writeAddresses writes who the addresses are, and the nodes and endpoints that they lead to. The address generation
// moves before and after: no flow that was judged on the way survives it.
func (t *Tables) writeAddresses(final *policy.Compiled, entries *prefixSet, now time.Time) error {
	have := t.addresses.entries
	moves := t.bumpDue || t.addresses.stale || !equalSets(have, entries)
	if moves {
		t.bumpDue = true
		t.shared.bumpAddrGeneration()
	}
	for i := range final.Nodes {
		t.nodes.set(final.Nodes[i], now)
	}
	for to, from := range predecessors(have, entries) {
		t.nodes.succeed(to, from, now)
	}
	next := func(addr uint32) addressEntry { return entries.match(addr, 32) }
	if err := t.writeEndpoints(final.Endpoints, t.endpoints.used(), next); err != nil {
		return err
	}
	if err := t.addresses.replace(entries); err != nil {
		return err
	}
	if moves {
		t.shared.bumpAddrGeneration()
		t.bumpDue = false
	}
	t.writeUnderlay(final.Nodes, entries)
	return nil
}

// writeUnderlay writes the shortcuts to nodes' underlay addresses; until then they are found in the trie.
func (t *Tables) writeUnderlay(nodes []policy.NodeEntry, entries *prefixSet) {
	bySlot := make(map[uint16][]uint32)
	host, here := uint16(0), false
	for p, e := range entries.entries {
		if e>>28&bpf.AddressUnderlay == 0 || p.bits() != 32 {
			continue
		}
		bySlot[e.slot()] = append(bySlot[e.slot()], p.addr())
		if e.kind() == policy.AddressHost {
			host, here = e.slot(), true
		}
	}
	for _, n := range nodes {
		var addrs [bpf.NodeUnderlay]uint32
		slices.Sort(bySlot[n.Slot])
		copy(addrs[:], bySlot[n.Slot])
		t.nodes.underlay(n.Slot, addrs)
		if here && n.Slot == host {
			t.shared.setVTEP(addrs, n.VTEPMAC)
		}
	}
}

// fits says whether a plan can be applied. It changes nothing.
func (t *Tables) fits(plan *policy.Plan, entries *prefixSet, services serviceChange) error {
	errs := []error{t.addresses.fits(entries), t.services.fits(services)}
	errs = append(errs, t.imagesFit(plan))
	return errors.Join(append(errs, slotsFit(plan.Final.Endpoints, plan.Final.Nodes))...)
}

func (t *Tables) imagesFit(plan *policy.Plan) error {
	var errs []error
	for _, img := range []*policy.Image{plan.Interim, plan.Final.Image} {
		if img != nil {
			errs = append(errs, t.image.fits(img))
		}
	}
	return errors.Join(errs...)
}

// slotsFit says whether the tables have the slots of pods and nodes.
func slotsFit(endpoints []policy.Endpoint, nodes []policy.NodeEntry) error {
	var errs []error
	for i := range endpoints {
		if e := &endpoints[i]; int(e.Slot) >= bpf.MaxEndpoints {
			errs = append(errs, fmt.Errorf("place pod %s: %w: slot %d of %d", e.Pod, ErrTooLarge, e.Slot, bpf.MaxEndpoints))
		}
	}
	for i := range nodes {
		if n := &nodes[i]; int(n.Slot) >= bpf.MaxNodes {
			errs = append(errs, fmt.Errorf("place node %s: %w: slot %d of %d", n.Name, ErrTooLarge, n.Slot, bpf.MaxNodes))
		}
	}
	return errors.Join(errs...)
}

// swap publishes an image; its wait serves everybody.
func (t *Tables) swap(img *policy.Image) error {
	if err := t.image.swap(img); err != nil {
		return err
	}
	t.addresses.trie.reclaimed()
	return nil
}

// quiesce returns when every program that runs now has ended.
func (t *Tables) quiesce() error {
	if err := t.barrier.wait(); err != nil {
		return err
	}
	t.addresses.trie.reclaimed()
	return nil
}

// Tick ends what a change of node facts left behind for a grace period. It is to be called every few seconds.
func (t *Tables) Tick(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes.tick(now)
	t.endpoints.endGraces(t.monotonic())
	for p, l := range t.lingering {
		if now.Before(l.until) {
			continue
		}
		t.bumpDue = true
		t.shared.bumpAddrGeneration()
		t.nodes.forget(l.entry.slot(), p)
		if err := t.addresses.remove(p); err != nil {
			return fmt.Errorf("end the grace of %s: %w", p, err)
		}
		t.shared.bumpAddrGeneration()
		t.bumpDue = false
		delete(t.lingering, p)
		t.retireDue = true
	}
	return nil
}

func (t *Tables) generation() uint32 {
	if t.image.live == nil {
		return 0
	}
	return t.image.live.Generation()
}

// newEntries turns the IPv4 addresses of a model into entries, and counts the others.
func newEntries(addresses []policy.Address) (entries *prefixSet, ignored int) {
	entries = newPrefixSet()
	for i := range addresses {
		p, ok := prefix4From(addresses[i].Prefix)
		if !ok {
			ignored++
			continue
		}
		entries.set(p, newAddressEntry(addresses[i]))
	}
	return entries, ignored
}

func equalSets(a, b *prefixSet) bool {
	if len(a.entries) != len(b.entries) {
		return false
	}
	for p, e := range a.entries {
		if b.entries[p] != e {
			return false
		}
	}
	return true
}
