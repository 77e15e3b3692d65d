// SPDX-License-Identifier: Apache-2.0

package policy

// commit makes the change part of what is live.
func (c *change) commit(plan *Plan) {
	s, r := c.live, c.live.resident
	r.resolver = c.resolver
	c.commitAddresses(plan)
	for id, pod := range c.pods {
		if pod == nil {
			r.pods.remove(id)
		} else {
			r.pods.put(pod)
		}
	}
	for key, service := range c.services {
		if old := r.services.services[key]; old != nil {
			r.services.remove(old)
		}
		if service != nil {
			r.services.add(service)
		}
	}
	s.restingIdentities, s.restingRules, s.restingNodes, s.restingEndpoints = c.drop, nil, map[uint16]bool{}, map[uint16]bool{}
	for name, n := range c.nodes {
		if old := r.resolver.nodes[name]; old != nil {
			r.countSingle(old, -1)
		}
		if n == nil {
			delete(r.resolver.nodes, name)
			s.restingNodes[s.numbers.nodes[name]] = true
		} else {
			r.resolver.nodes[name] = n
			r.countSingle(n, 1)
		}
	}
	for _, slot := range c.freed {
		delete(r.slots, slot)
		s.restingEndpoints[slot] = true
	}
	for _, slot := range c.slots {
		r.slots[slot] = true
	}
	r.endpoints, r.nodes = plan.Final.Endpoints, plan.Final.Nodes
	c.commitNumbers(plan)
	if c.edits {
		s.policies = c.policies
	}
	s.image, s.step = plan.Final.Image, plan.Step
}

func (c *change) commitAddresses(plan *Plan) {
	s := c.live
	use := func(number uint32, n int32) {
		for int(number) >= len(s.uses) {
			s.uses = append(s.uses, 0)
		}
		s.uses[number] += n
	}
	for _, prefix := range plan.Delta.Gone {
		use(s.addresses.find(prefix).Identity, -1)
		s.addresses.remove(prefix)
	}
	entries := make([]located, 0, len(c.now)) // identities are read from what was there
	for prefix, o := range c.now {
		if o == nil {
			continue
		}
		if old := s.addresses.find(prefix); old != nil {
			use(old.Identity, -1)
		}
		a := c.address(o)
		use(a.Identity, 1)
		entries = append(entries, located{a, o.pod})
	}
	for _, e := range entries {
		s.addresses.set(e)
	}
}

// commitNumbers takes over the numbers of the plan's images, or changes those that are live.
func (c *change) commitNumbers(plan *Plan) {
	s, r := c.live, c.live.resident
	for a, t := range c.tenancy {
		if old, ok := s.numbers.tenancy(a); ok && old.Left != 0 {
			r.departed--
		}
		if t.Left != 0 {
			r.departed++
		}
	}
	if c.next != nil {
		for number := range c.drop {
			delete(s.identities, identityName(s.numbers.identities[number]))
		}
		for name, number := range c.numbers {
			s.identities[name] = number
		}
		s.restingRules = released(s.numbers.rules, c.next.rules)
		s.rulesInUse, s.numbers = c.rules, c.next
	} else {
		n := s.numbers
		for name := range c.freed {
			delete(n.endpoints, name)
		}
		for name, slot := range c.slots {
			n.endpoints[name] = slot
		}
		n.nodes = c.nodesAfter()
		n.tenancies = tenancyListing().edit(n.tenancies, c.tenancyEdits())
		if len(c.defs) > 0 {
			n.identities = append(definitions(nil), n.identities...)
			for number, d := range c.defs {
				n.identities[number] = d
			}
		}
	}
	if r.departed > 2*maxDeparted {
		var all []tenancyKey
		s.numbers.tenancies.each(func(t *tenancyKey) { all = append(all, *t) })
		all = forgetDeparted(all)
		s.numbers.tenancies = tenancyListing().following(s.numbers.tenancies, all, func(a, b *tenancyKey) bool { return *a == *b })
		r.departed = maxDeparted
	}
}

// countSingle counts the podCIDRs of a node that are one address.
func (r *resident) countSingle(n *Node, by int) {
	for _, p := range n.PodCIDRs {
		if p = p.Masked(); p.IsSingleIP() {
			if r.single[p] += by; r.single[p] == 0 {
				delete(r.single, p)
			}
		}
	}
}
