// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// planning is the state of a plan that looks at everything.
type planning struct {
	*Planner
	model    *Model
	resolver *resolver
	policies []Policy
	charged  map[string]bool
	changed  bool // policies, options or the node
	owners   []owner

	numbers *numbering             // of the final image
	before  map[uint32]*Definition // what the interim image means by numbers that change their meaning with the policies
	fresh   bool                   // the live image lacks a number or rows that addresses will need
	rules   map[RuleName]bool      // rules that select a local pod
}

// attempt is a plan with the policies of some namespaces closed.
func (p *Planner) attempt(m *Model, policies []Policy, charged map[string]Overflow) (*Plan, error) {
	var err error
	g := &planning{Planner: p, model: m, policies: policies, charged: chargedNames(charged)}
	live := p.live
	g.changed = live == nil || live.node != m.Node || live.options != m.Options || !equalPolicies(live.policies, policies)
	words := Vocabulary{}
	switch {
	case live == nil:
		words = vocabularyOf(policies)
	case g.changed:
		words = vocabularyOf(live.policies, policies)
	default:
		words = live.numbers.vocabulary
	}
	g.numbers = newNumbering()
	g.numbers.maxImage, g.numbers.vocabulary, g.numbers.charged = p.MaxImage, words, g.charged
	if g.resolver, g.owners, err = resolve(m, &g.numbers.vocabulary, p.definition); err != nil {
		return nil, err
	}
	if err := g.assign(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return g.compile()
}

func chargedNames(charged map[string]Overflow) map[string]bool {
	names := map[string]bool{}
	for ns := range charged {
		names[ns] = true
	}
	return names
}

// compile makes the images that are needed.
func (g *planning) compile() (*Plan, error) {
	plan := &Plan{Swap: g.changed || len(g.before) > 0, Step: &Step{}}
	var img *Image
	var err error
	if g.live != nil && g.fresh {
		if plan.Interim, err = g.interim(); err != nil {
			return nil, err
		}
		img = plan.Interim
	} else if g.live != nil {
		img = g.live.image
		if !plan.Swap {
			g.numbers.identities, g.numbers.rules = g.live.numbers.identities, g.live.numbers.rules
		}
	}
	if img == nil || plan.Swap {
		g.generation++
		g.numbers.generation = g.generation
		if img, err = compileImage(g.model.Node, g.policies, g.model.Options, g.numbers, &g.memo); err != nil {
			return nil, err
		}
	}
	g.numbers.generation = img.Generation()
	if plan.Final, err = tables(g.model, g.owners, g.numbers, img); err != nil {
		return nil, err
	}
	plan.next = g.next(plan.Final)
	plan.next.step = plan.Step
	return plan, nil
}

// interim compiles the old policies for old and new identities. If policies do not change it is the final image, too.
// Its keys name old and new slots, for an agent that is killed between the two.
func (g *planning) interim() (*Image, error) {
	n := *g.numbers
	g.generation++
	n.generation = g.generation
	if len(g.before) > 0 {
		n.identities = slices.Clone(n.identities)
		for number, d := range g.before {
			n.identities = n.identities.set(number, d)
		}
	}
	n.endpoints = merged(g.live.numbers.endpoints, n.endpoints)
	if !sameMap(g.live.numbers.nodes, n.nodes) {
		n.nodes = merged(g.live.numbers.nodes, n.nodes)
	}
	return compileImage(g.live.node, closing(g.live.policies, g.charged), g.live.options, &n, &g.memo)
}

// next is the planner's state once the plan is carried out.
func (g *planning) next(c *Compiled) *state {
	s := &state{
		image: c.Image, numbers: g.numbers, node: g.model.Node, policies: g.policies, options: g.model.Options,
		identities: identityNames(g.numbers.identities), uses: make([]int32, len(g.numbers.identities)), rulesInUse: g.rules,
		resident: newResident(g, c),
	}
	entries := make([]located, len(g.owners))
	for i := range g.owners {
		entries[i] = located{c.Addresses[i], g.owners[i].pod}
		s.uses[c.Addresses[i].Identity]++
	}
	s.addresses = newAddressList(entries)
	if old := g.live; old != nil {
		s.restingIdentities = old.undefined(g.numbers.identities)
		s.restingRules = released(old.numbers.rules, s.numbers.rules)
		s.restingEndpoints = released(old.numbers.endpoints, s.numbers.endpoints)
		s.restingNodes = released(old.numbers.nodes, s.numbers.nodes)
	}
	return s
}

// undefined lists the numbers that had a meaning and have none among defs.
func (s *state) undefined(defs definitions) map[uint32]bool {
	gone := map[uint32]bool{}
	for number := range s.numbers.identities.all() {
		if defs.get(number) == nil {
			gone[number] = true
		}
	}
	return gone
}

// snapshot is m in lists of its own.
func (m *Model) snapshot() *Model {
	c := *m
	c.Nodes, c.Pods, c.Services = slices.Clone(m.Nodes), slices.Clone(m.Pods), slices.Clone(m.Services)
	for i := range c.Services {
		c.Services[i].Ports = slices.Clone(c.Services[i].Ports)
	}
	return &c
}

// resident is what a planner keeps of the model that is live, so that a change costs no look at what stays. Commits change
// it in place.
type resident struct {
	pods     *podSet
	resolver *resolver            // with all nodes
	single   map[netip.Prefix]int // podCIDRs that are one address, and how many nodes have them
	services *serviceIndex
	slots    map[uint16]bool // of local pods
	departed int             // tenancies of addresses that nobody has

	endpoints []Endpoint
	nodes     []NodeEntry
}

func newResident(g *planning, c *Compiled) *resident {
	r := &resident{
		resolver: g.resolver, pods: newPodSet(len(g.model.Pods)), services: newServiceIndex(g.model.Services),
		slots: make(map[uint16]bool, len(g.numbers.endpoints)), endpoints: c.Endpoints, nodes: c.Nodes, single: map[netip.Prefix]int{},
	}
	r.resolver.known = map[string]*Definition{} // it would hold what nobody has any more
	for i := range g.model.Pods {
		p := &g.model.Pods[i]
		r.pods.put(p)
	}
	for _, n := range r.resolver.nodes {
		r.countSingle(n, 1)
	}
	for _, slot := range g.numbers.endpoints {
		r.slots[slot] = true
	}
	g.numbers.tenancies.each(func(t *tenancyKey) {
		if t.Left != 0 {
			r.departed++
		}
	})
	return r
}

// model is the whole that the news make.
func (r *resident) model(d *news, policies []Policy, options Options) *Model {
	m := &Model{Node: r.resolver.here, Policies: policies, Options: options}
	out := make(map[podID]bool, len(d.pods)+len(d.gonePods))
	for _, id := range d.gonePods {
		out[id] = true
	}
	for _, p := range d.pods {
		out[p.id()] = true
	}
	m.Pods = make([]Pod, 0, r.pods.len()+len(d.pods))
	for p := range r.pods.all() {
		if !out[p.id()] {
			m.Pods = append(m.Pods, *p)
		}
	}
	for _, p := range d.pods {
		m.Pods = append(m.Pods, *p)
	}
	m.Nodes = following(r.resolver.nodes, d.nodes, d.goneNodes, func(n *Node) string { return n.Name })
	m.Services = following(r.services.services, d.services, d.goneServices, (*Service).Key)
	return m
}

// following is what there is, in any order, without what is gone and with what comes.
func following[T any](have map[string]*T, come []*T, gone []string, key func(*T) string) []T {
	rest := maps.Clone(have)
	for _, k := range gone {
		delete(rest, k)
	}
	for _, t := range come {
		delete(rest, key(t))
	}
	all := make([]T, 0, len(rest)+len(come))
	for _, t := range rest {
		all = append(all, *t)
	}
	for _, t := range come {
		all = append(all, *t)
	}
	return all
}
