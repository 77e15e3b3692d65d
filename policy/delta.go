// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// Delta is how the tables of a plan differ from those of the plan before it.
type Delta struct {
	After        *Step // the plan whose tables these are changes of
	Set          []Address
	Gone         []netip.Prefix
	Endpoints    []Endpoint // new ones, and those that say something else than before
	GoneSlots    []uint16
	Nodes        []NodeEntry // new ones, and those that say something else than before
	GoneNodes    []uint16
	Services     []ServiceEntry // those that may say something else than before
	GoneServices []ServiceAddress
}

// Step stands for the tables that a plan leaves behind.
type Step struct{ _ byte }

// change is a plan in the making that looks at what changes, and at nothing else.
type change struct {
	*Planner
	policies []Policy
	charged  map[string]bool
	edits    bool // policies change
	resolver *resolver
	words    *Vocabulary // what policies name, if it is more than before

	now      map[netip.Prefix]*owner // of addresses that change; nil: nobody's
	pods     map[podID]*Pod          // nil: gone
	nodes    map[string]*Node        // nil: gone
	services map[string]*Service     // nil: gone

	slots, freed map[PodName]uint16 // of local pods: handed out, given back
	nodeSlots    map[string]uint16  // of new nodes
	tenancy      map[netip.Addr]Tenancy
	newIdentities
	outcome
}

// newIdentities are those that the live image does not know, or not so.
type newIdentities struct {
	moved    map[netip.Prefix]uint32 // of pods and nodes that stay and change their identity: the number they have
	who      map[string]bool         // those pods and nodes
	numbers  map[string]uint32       // handed out
	defs     map[uint32]*Definition  // what they mean, and what else is not as the live image has it
	together map[netip.Prefix]uint32 // of those that change at once, with the image
	before   map[uint32]*Definition  // what these mean until then
	fresh    bool                    // the live image lacks a number, or rows
}

// outcome is what images bring along: the numbers once the plan is carried out, the rules in use, and what means nothing then.
type outcome struct {
	next  *numbering // nil: no image is due
	rules map[RuleName]bool
	drop  map[uint32]bool
}

// small plans news and other policies by looking at nothing else; nil if it takes more to do so, or if something is
// wrong with them. An error says that it does not fit.
func (p *Planner) small(d *news, policies []Policy, charged map[string]bool) (*Plan, error) {
	s := p.live
	if !d.few() || s.resident.services.twice && len(d.services)+len(d.goneServices) > 0 {
		return nil, nil
	}
	c := &change{
		Planner: p, policies: policies, charged: charged, resolver: s.resident.resolver,
		now: map[netip.Prefix]*owner{}, pods: map[podID]*Pod{}, nodes: map[string]*Node{}, services: map[string]*Service{},
		slots: map[PodName]uint16{}, freed: map[PodName]uint16{}, nodeSlots: map[string]uint16{}, tenancy: map[netip.Addr]Tenancy{},
		newIdentities: newIdentities{
			moved: map[netip.Prefix]uint32{}, who: map[string]bool{}, numbers: map[string]uint32{}, defs: map[uint32]*Definition{},
			together: map[netip.Prefix]uint32{}, before: map[uint32]*Definition{},
		},
	}
	c.edits = !sameList(policies, s.policies) && !equalPolicies(policies, s.policies)
	clear(c.resolver.known) // else it would grow for ever
	if c.edits && !c.learn() || !c.nodesChange(d) || !c.podsChange(d) || !c.servicesChange(d) {
		return nil, nil
	}
	c.fallBack()
	if !c.numberIdentities() || !c.numberPods() || !c.numberNodes() {
		return nil, nil
	}
	return c.plan()
}

// podsChange takes the addresses of what changes away, and gives out those of what is there.
func (c *change) podsChange(d *news) bool {
	r := c.live.resident
	for _, id := range d.gonePods {
		if !c.leave(r.pods.get(id)) {
			return false
		}
		c.pods[id] = nil
	}
	for _, pod := range d.pods {
		if _, twice := c.pods[pod.id()]; twice || !c.leave(r.pods.get(pod.id())) {
			return false
		}
		c.pods[pod.id()] = pod
	}
	if !c.flagsChange() {
		return false
	}
	for _, pod := range c.pods {
		if pod != nil && !c.come(pod) {
			return false
		}
	}
	return true
}

// leave takes a pod's addresses away.
func (c *change) leave(pod *Pod) bool {
	if pod == nil {
		return true
	}
	for _, a := range pod.Addrs {
		p, err := host(a)
		if err != nil || c.live.resident.single[p] > 0 {
			return false // not here is decided what becomes of a podCIDR
		}
		c.now[p] = nil
	}
	if name := pod.podName(); pod.Node == c.live.node {
		c.freed[name] = c.live.numbers.endpoints[name]
	}
	return true
}

func (c *change) come(pod *Pod) bool {
	node, ok := c.nodes[pod.Node]
	if !ok {
		node = c.resolver.nodes[pod.Node]
	}
	ok = node != nil
	return ok && c.resolver.podOwners(pod, node, func(o owner) error {
		old := c.live.addresses.find(o.prefix)
		if !c.take(o) {
			return errNotPlain
		}
		if old != nil && old.pod != nil && old.pod.id() == pod.id() && old.pod.UID == pod.UID {
			c.moves(old, &o)
		}
		c.tenancy[o.prefix.Addr()] = c.tenant(&o)
		return nil
	}) == nil
}

// take gives an address to an owner; false if it is somebody's.
func (c *change) take(o owner) bool {
	there, changes := c.now[o.prefix]
	if there != nil || c.live.resident.single[o.prefix] > 0 {
		return false
	}
	if old := c.live.addresses.find(o.prefix); old != nil && !changes && !c.onlyNamed(old) {
		return false
	}
	c.now[o.prefix] = &o
	return true
}

// moves notes that an owner stays, and becomes something else that policies could tell.
func (c *change) moves(old *located, o *owner) {
	d, words := c.live.numbers.identities.get(old.Identity), &c.live.numbers.vocabulary
	if d != nil && d.key() != o.id.key() && differ(&d.Identity, &o.id.Identity, words, words) {
		c.moved[o.prefix] = old.Identity
		c.who[o.String()] = true
	}
}

// tenant counts another pod at an address.
func (c *change) tenant(o *owner) Tenancy {
	t := Tenancy{PodName: o.pod.podName()}
	if old, ok := c.live.numbers.tenancy(o.prefix.Addr()); ok {
		if t.Count = old.Count; old.PodName != t.PodName {
			t.Count++
		}
	}
	return t
}

// numberPods gives local pods their slots: what they have, or the first that is free.
func (c *change) numberPods() bool {
	next := uint16(1)
	taken := map[uint16]bool{}
	for _, slot := range c.tried.endpoints {
		taken[slot] = true
	}
	var local []*Pod
	for _, pod := range c.pods {
		if pod != nil && pod.Node == c.live.node && len(pod.Addrs) > 0 {
			local = append(local, pod)
		}
	}
	slices.SortFunc(local, func(a, b *Pod) int {
		return cmp.Or(cmp.Compare(a.Key(), b.Key()), cmp.Compare(a.UID, b.UID))
	})
	for _, pod := range local {
		name := pod.podName()
		slot := cmp.Or(c.live.numbers.endpoints[name], c.tried.endpoints[name])
		for ; slot == 0; next++ {
			if next > MaxEndpoint {
				return false
			}
			if !c.live.resident.slots[next] && !taken[next] && !c.live.restingEndpoints[next] {
				slot = next
				taken[next] = true
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

// plan says what the tables differ in, and makes the images that are due.
func (c *change) plan() (*Plan, error) {
	s := c.live
	plan := &Plan{Delta: &Delta{After: s.step}, Step: &Step{}, Final: &Compiled{Image: s.image}}
	for prefix, o := range c.now {
		if o != nil && o.pod != nil || !prefix.IsSingleIP() {
			continue
		}
		if t, ok := s.numbers.tenancy(prefix.Addr()); ok { // no pod has it any more
			t.Left = cmp.Or(t.Left, c.generation+1)
			c.tenancy[prefix.Addr()] = t
		}
	}
	if c.fresh || c.edits {
		if err := c.images(plan); err != nil {
			return nil, err
		}
	}
	d := plan.Delta
	local := map[*Pod]*Endpoint{}
	for _, prefix := range slices.SortedFunc(maps.Keys(c.now), comparePrefix) {
		o := c.now[prefix]
		if o == nil {
			if s.addresses.find(prefix) != nil {
				d.Gone = append(d.Gone, prefix)
			}
			continue
		}
		a := c.address(o)
		if o.kind == AddressLocalPod {
			e := local[o.pod]
			if e == nil {
				e = newEndpoint(o.pod, a.Slot, a.Identity, plan.Final.Image)
				local[o.pod] = e
			}
			e.Addrs = append(e.Addrs, prefix.Addr())
		}
		if old := s.addresses.find(prefix); old == nil || old.Address != a {
			d.Set = append(d.Set, a)
		}
	}
	c.endpoints(plan, local)
	c.nodeEntries(plan)
	c.serviceEntries(d)
	plan.commit = func() { c.commit(plan) }
	return plan, nil
}

// address is the entry of an owner.
func (c *change) address(o *owner) Address {
	a := Address{Prefix: o.prefix, Identity: c.identity(o), Kind: o.kind, Flags: o.flags}
	if o.pod != nil {
		a.Tenancy = c.tenancy[o.prefix.Addr()].Count
	}
	switch {
	case o.kind == AddressLocalPod:
		a.Slot = c.slots[o.pod.podName()]
	case o.node != "":
		a.Slot = cmp.Or(c.live.numbers.nodes[o.node], c.nodeSlots[o.node])
	}
	return a
}

// endpoints lists all local pods, those that are new or say something else, and the slots of those that are gone.
func (c *change) endpoints(plan *Plan, local map[*Pod]*Endpoint) {
	have := c.live.resident.endpoints
	d, img := plan.Delta, plan.Final.Image
	if plan.Final.Endpoints = have; len(local) == 0 && len(c.freed) == 0 && !c.edits {
		return
	}
	by := make(map[uint16]*Endpoint, len(local))
	for _, e := range local {
		by[e.Slot] = e
	}
	freed := map[uint16]bool{}
	for _, slot := range c.freed {
		freed[slot] = slot != 0
	}
	all := make([]Endpoint, 0, len(have)+len(local))
	for i := range have {
		e := have[i]
		if c.edits {
			e.Policed = [2]bool{img.Policed(Ingress, e.Identity), img.Policed(Egress, e.Identity)}
		}
		if now := by[e.Slot]; now != nil {
			if c.edits || !reflect.DeepEqual(now, &e) {
				d.Endpoints = append(d.Endpoints, *now)
			}
			all = append(all, *now)
			delete(by, e.Slot)
		} else if freed[e.Slot] {
			d.GoneSlots = append(d.GoneSlots, e.Slot)
		} else {
			if c.edits {
				d.Endpoints = append(d.Endpoints, e)
			}
			all = append(all, e)
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(by)) {
		d.Endpoints = append(d.Endpoints, *by[slot])
		at, _ := slices.BinarySearchFunc(all, slot, func(e Endpoint, slot uint16) int { return cmp.Compare(e.Slot, slot) })
		all = slices.Insert(all, at, *by[slot])
	}
	if plan.Final.Endpoints = all; len(all) == 0 {
		plan.Final.Endpoints = nil
	}
}

// cover is the address table's answer after the change.
func (c *change) cover(a netip.Addr) Address {
	if !a.IsValid() {
		return Address{}
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			break
		}
		if o, changes := c.now[p]; o != nil {
			return c.address(o)
		} else if changes {
			continue
		}
		if e := c.live.addresses.find(p); e != nil {
			return e.Address
		}
	}
	return Address{}
}

// addressesWith is the whole address table with a delta.
func (s *state) addressesWith(d *Delta) []Address {
	set := slices.Clone(d.Set)
	slices.SortFunc(set, func(a, b Address) int { return comparePrefix(a.Prefix, b.Prefix) })
	gone := make(map[netip.Prefix]bool, len(d.Gone))
	for _, p := range d.Gone {
		gone[p] = true
	}
	all := make([]Address, 0, s.addresses.count+len(set))
	s.addresses.each(func(e *located) {
		for len(set) > 0 && comparePrefix(set[0].Prefix, e.Prefix) < 0 {
			all, set = append(all, set[0]), set[1:]
		}
		switch {
		case len(set) > 0 && set[0].Prefix == e.Prefix:
			all, set = append(all, set[0]), set[1:]
		case !gone[e.Prefix]:
			all = append(all, e.Address)
		}
	})
	return append(all, set...)
}
