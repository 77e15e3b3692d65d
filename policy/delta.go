// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// Delta is how the tables of a plan differ from those of the plan before it, where all that else may be due is the final
// image.
type Delta struct {
	After     *Step // the plan whose tables these are changes of
	Set       []Address
	Gone      []netip.Prefix
	Endpoints []Endpoint // new ones, and those that say something else than before
	GoneSlots []uint16
	Services  bool // Final.Services are others than before
}

// Step stands for the tables that a plan leaves behind.
type Step struct{ _ byte }

// podChange is a delta in the making.
type podChange struct {
	*Planner
	now     map[netip.Prefix]*owner // of addresses that change; nil: nobody's
	pods    map[podID]*Pod          // nil: gone
	slots   map[PodName]uint16      // handed out
	freed   map[PodName]uint16
	tenancy map[netip.Addr]Tenancy
	moved   int // pods that stay and change their identity
}

// delta plans a change of pods; nil if it takes more than the changes to do so, or if something is wrong with them.
func (p *Planner) delta(pods []*Pod, gone []podID) *Plan {
	s := p.live
	if len(pods)+len(gone) > maxDelta {
		return nil
	}
	c := &podChange{
		Planner: p, now: map[netip.Prefix]*owner{}, pods: map[podID]*Pod{}, slots: map[PodName]uint16{}, freed: map[PodName]uint16{},
		tenancy: map[netip.Addr]Tenancy{},
	}
	for _, id := range gone {
		if !c.leave(s.resident.pods[id]) {
			return nil
		}
		c.pods[id] = nil
	}
	for _, pod := range pods {
		if _, twice := c.pods[pod.id()]; twice || !c.leave(s.resident.pods[pod.id()]) {
			return nil
		}
		c.pods[pod.id()] = pod
	}
	for _, pod := range pods {
		if !c.come(pod) {
			return nil
		}
	}
	if c.moved > 1 || !c.number(pods) {
		return nil
	}
	return c.plan()
}

// leave takes a pod's addresses away. Not here is decided what an address becomes that a policy or a node names as well.
func (c *podChange) leave(pod *Pod) bool {
	if pod == nil {
		return true
	}
	for _, a := range pod.Addrs {
		p, err := host(a)
		if err != nil || !c.plain(p) {
			return false
		}
		c.now[p] = nil
	}
	if name := (PodName{pod.Key(), pod.UID}); pod.Node == c.live.resident.model.Node {
		c.freed[name] = c.live.numbers.Endpoints[name]
	}
	return true
}

// plain says whether p is a pod's at most: an address of nobody else, and named by no policy.
func (c *podChange) plain(p netip.Prefix) bool {
	r := c.live.resident
	_, named := r.resolver.named.members[p]
	return !named && !r.cidrs[p] && !c.live.exceptions[p.Addr()]
}

func (c *podChange) come(pod *Pod) bool {
	r := c.live.resident
	owners, err := r.resolver.podOwners(pod)
	if err != nil {
		return false
	}
	moved := false
	for _, o := range owners {
		there, changes := c.now[o.prefix]
		if there != nil || !changes && r.resolver.owners[o.prefix] != nil || !c.plain(o.prefix) {
			return false
		}
		o.key = o.identity.key()
		number, known := c.live.identities[o.key]
		if d := c.live.numbers.Identities[number]; !known || o.kind == AddressLocalPod && !d.Local {
			return false
		}
		if old := r.resolver.owners[o.prefix]; old != nil && old.pod.id() == pod.id() && old.pod.UID == pod.UID && old.key != o.key {
			moved = true
		}
		c.now[o.prefix] = o
		c.tenancy[o.prefix.Addr()] = c.next(o)
	}
	if moved {
		c.moved++
	}
	return true
}

// next counts another pod at an address.
func (c *podChange) next(o *owner) Tenancy {
	t := Tenancy{PodName: PodName{o.pod.Key(), o.pod.UID}}
	if old, ok := c.live.numbers.Tenancies[o.prefix.Addr()]; ok {
		if t.Count = old.Count; old.PodName != t.PodName {
			t.Count++
		}
	}
	return t
}

// number gives local pods their slots: what they have, or the first that is free.
func (c *podChange) number(pods []*Pod) bool {
	next := uint16(1)
	taken := map[uint16]bool{}
	for _, slot := range c.tried.endpoints {
		taken[slot] = true
	}
	slices.SortFunc(pods, func(a, b *Pod) int {
		return cmp.Or(cmp.Compare(a.Key(), b.Key()), cmp.Compare(a.UID, b.UID))
	})
	for _, pod := range pods {
		if pod.Node != c.live.resident.model.Node || len(pod.Addrs) == 0 {
			continue
		}
		name := PodName{pod.Key(), pod.UID}
		slot := cmp.Or(c.live.numbers.Endpoints[name], c.tried.endpoints[name])
		for ; slot == 0; next++ {
			if next > MaxEndpoint {
				return false
			}
			if !c.live.resident.slots[next] && !taken[next] && !c.live.restingEndpoints[next] {
				slot = next
			}
		}
		delete(c.freed, name)
		c.slots[name] = slot
	}
	if len(c.slots) > 0 {
		c.tried.endpoints = merged(c.tried.endpoints, c.slots)
	}
	return true
}

// plan says what the tables differ in.
func (c *podChange) plan() *Plan {
	s, r := c.live, c.live.resident
	d := &Delta{After: s.step}
	local := map[string]*Endpoint{} // by pod
	for _, prefix := range slices.SortedFunc(maps.Keys(c.now), comparePrefix) {
		o := c.now[prefix]
		if o == nil {
			d.Gone = append(d.Gone, prefix)
			if t, ok := s.numbers.Tenancies[prefix.Addr()]; ok {
				t.Left = cmp.Or(t.Left, c.generation+1)
				c.tenancy[prefix.Addr()] = t
			}
			continue
		}
		a := Address{Prefix: prefix, Identity: s.identities[o.key], Kind: o.kind, Flags: o.flags, Tenancy: c.tenancy[prefix.Addr()].Count}
		if o.kind == AddressLocalPod {
			e := local[o.pod.Key()]
			if e == nil {
				e = &Endpoint{Slot: c.slots[PodName{o.pod.Key(), o.pod.UID}], Pod: o.pod.Key(), UID: o.pod.UID, Identity: a.Identity}
				e.Policed = [2]bool{s.image.Policed(Ingress, e.Identity), s.image.Policed(Egress, e.Identity)}
				local[e.Pod] = e
			}
			e.Addrs = append(e.Addrs, prefix.Addr())
			a.Slot = e.Slot
		} else {
			a.Slot = s.numbers.Nodes[o.node]
		}
		if s.addresses[prefix] != a {
			d.Set = append(d.Set, a)
		}
	}
	final := &Compiled{Image: s.image, Nodes: r.compiled.Nodes, Services: r.compiled.Services}
	final.Endpoints, d.Endpoints, d.GoneSlots = c.endpoints(local)
	for prefix := range c.now {
		d.Services = d.Services || r.backends[prefix.Addr()]
	}
	if d.Services {
		final.services(r.model, c.cover)
	}
	plan := &Plan{Final: final, Delta: d, Step: &Step{}, Overflow: s.overflow}
	plan.commit = func(p *Planner) { c.commit(plan) }
	return plan
}

// endpoints lists all local pods, those that are new or say something else, and the slots of those that are gone.
func (c *podChange) endpoints(local map[string]*Endpoint) (all, changed []Endpoint, gone []uint16) {
	keep := map[uint16]bool{}
	have := c.live.resident.compiled.Endpoints
	by := map[uint16]*Endpoint{}
	for _, e := range local {
		by[e.Slot] = e
		keep[e.Slot] = true
	}
	freed := map[uint16]bool{}
	for _, slot := range c.freed {
		freed[slot] = slot != 0
	}
	all = slices.Grow(all, len(have)+len(local))
	for i := range have {
		e := &have[i]
		if now := by[e.Slot]; now != nil {
			if !reflect.DeepEqual(now, e) {
				changed = append(changed, *now)
			}
			all = append(all, *now)
			delete(by, e.Slot)
		} else if freed[e.Slot] {
			gone = append(gone, e.Slot)
		} else {
			all = append(all, *e)
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(by)) {
		changed = append(changed, *by[slot])
		at, _ := slices.BinarySearchFunc(all, slot, func(e Endpoint, slot uint16) int { return cmp.Compare(e.Slot, slot) })
		all = slices.Insert(all, at, *by[slot])
	}
	if len(all) == 0 {
		all = nil
	}
	return all, changed, gone
}

// cover is the address table's answer after the change.
func (c *podChange) cover(a netip.Addr) Address {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Address{}
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if o, changes := c.now[p]; !changes {
		if e, ok := c.live.addresses[p]; ok {
			return e
		}
	} else if o != nil {
		return Address{Prefix: p, Identity: c.live.identities[o.key], Kind: o.kind}
	}
	for bits := a.BitLen() - 1; bits >= 0; bits-- {
		p, _ = a.Prefix(bits)
		if e, ok := c.live.addresses[p]; ok {
			return e
		}
	}
	return Address{}
}

// commit makes the change part of what is live.
func (c *podChange) commit(plan *Plan) {
	s, r := c.live, c.live.resident
	for _, a := range plan.Delta.Set {
		s.addresses[a.Prefix] = a
		r.touched[a.Prefix] = true
	}
	for _, prefix := range plan.Delta.Gone {
		delete(s.addresses, prefix)
		r.touched[prefix] = true
	}
	for prefix, o := range c.now {
		if old := r.resolver.owners[prefix]; old != nil {
			if r.uses[old.key]--; r.uses[old.key] == 0 {
				delete(r.uses, old.key)
				delete(s.inUse, old.key)
				s.allInUse = false
			}
		}
		if o == nil {
			delete(r.resolver.owners, prefix)
			continue
		}
		r.resolver.owners[prefix] = o
		r.uses[o.key]++
		s.inUse[o.key] = true
	}
	for id, pod := range c.pods {
		r.changing[id] = true
		if pod == nil {
			delete(r.pods, id)
		} else {
			r.pods[id] = pod
		}
	}
	s.restingIdentities, s.restingRules, s.restingNodes, s.restingEndpoints = nil, nil, nil, map[uint16]bool{}
	for name, slot := range c.freed {
		delete(s.numbers.Endpoints, name)
		delete(r.slots, slot)
		s.restingEndpoints[slot] = true
	}
	for name, slot := range c.slots {
		s.numbers.Endpoints[name] = slot
		r.slots[slot] = true
	}
	if len(c.tenancy) > 0 {
		c.memo.forgetTenancies()
	}
	for a, t := range c.tenancy {
		if s.numbers.Tenancies[a].Left != 0 {
			r.departed--
		}
		if t.Left != 0 {
			r.departed++
		}
		s.numbers.Tenancies[a] = t
	}
	if r.departed > 2*maxDeparted {
		forgetDeparted(s.numbers.Tenancies)
		r.departed = maxDeparted
	}
	compiled := *plan.Final
	if compiled.Addresses == nil {
		compiled.Addresses = r.compiled.Addresses
	} else {
		clear(r.touched)
	}
	r.compiled = &compiled
	s.step = plan.Step
}

// forgetDeparted forgets the tenancies of addresses that have been nobody's longest, all but the last maxDeparted.
func forgetDeparted(tenancies map[netip.Addr]Tenancy) {
	var departed []netip.Addr
	for a, t := range tenancies {
		if t.Left != 0 {
			departed = append(departed, a)
		}
	}
	slices.SortFunc(departed, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(tenancies[b].Left, tenancies[a].Left), a.Compare(b))
	})
	for _, a := range departed[min(maxDeparted, len(departed)):] {
		delete(tenancies, a)
	}
}

// addressesWith is the whole address table with a delta.
func (s *state) addressesWith(d *Delta) []Address {
	r := s.resident
	touched := maps.Clone(r.touched)
	set := make(map[netip.Prefix]Address, len(d.Set))
	for _, a := range d.Set {
		set[a.Prefix], touched[a.Prefix] = a, true
	}
	gone := make(map[netip.Prefix]bool, len(d.Gone))
	for _, p := range d.Gone {
		gone[p], touched[p] = true, true
	}
	have := r.compiled.Addresses
	all := make([]Address, 0, len(have)+len(touched))
	at := 0
	for _, p := range slices.SortedFunc(maps.Keys(touched), comparePrefix) {
		next, found := slices.BinarySearchFunc(have[at:], p, func(a Address, p netip.Prefix) int { return comparePrefix(a.Prefix, p) })
		all = append(all, have[at:at+next]...)
		if at += next; found {
			at++
		}
		if a, ok := set[p]; ok {
			all = append(all, a)
		} else if a, ok := s.addresses[p]; ok && !gone[p] {
			all = append(all, a)
		}
	}
	return append(all, have[at:]...)
}
