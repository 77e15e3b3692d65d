// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// exception is the definition with a Name that an address has, if it fits its new owner.
func (c *change) exception(o *owner) (uint32, bool) {
	if old := c.live.addresses.find(o.prefix); old != nil && o.prefix.IsSingleIP() {
		d := c.live.numbers.identities.get(old.Identity)
		if d != nil && d.Name != "" && d.key() == o.id.key() && slices.Contains(d.Addrs, o.prefix.Addr()) {
			return old.Identity, true
		}
	}
	return 0, false
}

// identity is the number of an owner's identity, once all have one.
func (c *change) identity(o *owner) uint32 {
	if number, ok := c.together[o.prefix]; ok {
		return number
	}
	if number, ok := c.exception(o); ok {
		return number
	}
	if number, ok := c.live.identities[o.id.key()]; ok {
		return number
	}
	return c.numbers[o.id.key()]
}

// numberIdentities gives numbers to the identities that the live image does not know, and finds those whose rows it lacks.
// Pods and nodes that change what they are with each other, or with the policies, get numbers of their own, as in a plan
// that looks at everything.
func (c *change) numberIdentities() bool {
	s := c.live
	wanted, before := map[string]*Definition{}, map[string]*Definition{}
	together := len(c.who) > 1 || len(c.who) > 0 && c.edits
	for prefix, o := range c.now {
		if o == nil {
			continue
		}
		name, local := o.id.key(), o.kind == AddressLocalPod
		was, moves := c.moved[prefix]
		number, known := c.exception(o)
		if moves = moves && together; moves {
			name, known = s.exceptionName(was, name), false
			before[name] = s.numbers.identities[was]
		} else if !known {
			number, known = s.identities[name]
		}
		if known {
			if d := s.numbers.identities.get(number); local && !d.Local && c.defs[number] == nil {
				copied := *d
				copied.Local = true
				c.defs[number] = &copied
				c.fresh = true
			}
			continue
		}
		d := wanted[name]
		if d == nil {
			d = &Definition{Identity: o.id.Identity, cachedKey: o.id.key()}
			wanted[name] = d
		}
		if d.Local = d.Local || local; moves {
			d.Name, d.Addrs = name, append(d.Addrs, prefix.Addr())
		}
	}
	c.leaveExceptions()
	if !c.handOut(wanted) {
		return false
	}
	for name, d := range before {
		copied := *d
		copied.Name, copied.Addrs = name, wanted[name].Addrs
		c.before[c.numbers[name]] = &copied
	}
	for prefix, was := range c.moved {
		if together {
			c.together[prefix] = c.numbers[s.exceptionName(was, c.now[prefix].id.key())]
		}
	}
	return true
}

// handOut gives what is wanted the first numbers that are free.
func (c *change) handOut(wanted map[string]*Definition) bool {
	if len(wanted) == 0 {
		return true
	}
	c.fresh = true
	taken := make(map[uint32]bool, len(c.tried.identities))
	for _, number := range c.tried.identities {
		taken[number] = true
	}
	next := FirstIdentity
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		number := c.tried.identities[name]
		for ; number == 0; next++ {
			if next > MaxIdentity {
				return false
			}
			if c.live.numbers.identities.get(next) == nil && !taken[next] && !c.live.restingIdentities[next] {
				number = next
			}
		}
		slices.SortFunc(wanted[name].Addrs, netip.Addr.Compare)
		c.tried.identity(name, number)
		c.numbers[name], c.defs[number] = number, wanted[name]
	}
	return true
}

// leaveExceptions takes the addresses that change what they are out of definitions that list them.
func (c *change) leaveExceptions() {
	for prefix, o := range c.now {
		old := c.live.addresses.find(prefix)
		if old == nil {
			continue
		}
		d := c.live.numbers.identities.get(old.Identity)
		if d == nil || d.Name == "" {
			continue
		}
		if o != nil {
			if _, stays := c.exception(o); stays {
				continue
			}
		}
		if changed := c.defs[old.Identity]; changed != nil {
			d = changed
		}
		copied := *d
		copied.Addrs = slices.DeleteFunc(slices.Clone(d.Addrs), func(a netip.Addr) bool { return a == prefix.Addr() })
		c.defs[old.Identity] = &copied
	}
}

// images makes the images that are due, with numbers for both.
func (c *change) images(plan *Plan) error {
	s := c.live
	n := *s.numbers
	c.next, c.drop = &n, map[uint32]bool{}
	n.maxImage, n.charged = c.MaxImage, c.charged
	if c.words != nil {
		n.vocabulary = *c.words
	}
	needed := map[uint32]bool{}
	for _, o := range c.now {
		if o != nil {
			needed[c.identity(o)] = true
		}
	}
	n.identities = slices.Clone(s.numbers.identities)
	for number := range s.numbers.identities.all() {
		if number >= FirstIdentity && s.uses[number] == 0 && !needed[number] {
			n.identities[number], c.drop[number] = nil, true
		}
	}
	for number, d := range c.defs {
		if !c.drop[number] {
			n.identities = n.identities.set(number, d)
		}
	}
	n.identities = n.identities.trimmed()
	n.endpoints = maps.Clone(s.numbers.endpoints)
	for name := range c.freed {
		delete(n.endpoints, name)
	}
	maps.Copy(n.endpoints, c.slots)
	n.nodes = c.nodesAfter()
	n.tenancies = tenancyListing().edit(s.numbers.tenancies, c.tenancyEdits())

	g := &planning{Planner: c.Planner, policies: c.policies, charged: c.charged, changed: c.edits, fresh: c.fresh, numbers: &n, before: c.before}
	if err := g.assignRules(); err != nil {
		return err
	}
	c.rules = g.rules
	var err error
	if c.fresh {
		if plan.Interim, err = g.interim(); err != nil {
			return err
		}
		plan.Final.Image = plan.Interim
	}
	if c.edits || len(c.before) > 0 {
		plan.Swap = true
		c.generation++
		n.generation = c.generation
		if plan.Final.Image, err = compileImage(s.node, c.policies, s.options, &n, &c.memo); err != nil {
			return err
		}
	}
	n.generation = plan.Final.Image.Generation()
	return nil
}

func (c *change) tenancyEdits() []edited[tenancyKey] {
	edits := make([]edited[tenancyKey], 0, len(c.tenancy))
	for a, t := range c.tenancy {
		edits = append(edits, edited[tenancyKey]{item: tenancyKey{a, t}})
	}
	return edits
}
