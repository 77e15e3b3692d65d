// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Planner chooses the numbers for one node's models, one after the other, and the order in which their tables replace
// each other. It is not safe for concurrent use.
//
// It remembers the last plan that was carried out; one that was not leaves no trace except that its generations, and what
// its numbers meant, are not used for anything else until the next Commit. Numbers rest for one plan before they are
// reused.
type Planner struct {
	// MaxImage bounds images, in bytes; 0: DefaultMaxImage.
	MaxImage int

	live       *state // nil: nothing is
	generation uint32 // the highest one handed out
	tried      trial
	memo       memo
}

// trial is what plans since the last Commit have handed out.
type trial struct {
	identities map[string]uint32
	endpoints  map[PodName]uint16
	nodes      map[string]uint16
}

// state is what the planner knows about the tables that are live. Only a Delta's Commit changes one in place.
type state struct {
	step     *Step
	resident *resident // nil: the model is not known, but the image
	image    *Image
	numbers  *Numbers // those the live image defines, and all slots
	node     string
	policies []Policy
	options  Options
	asked    []Policy   // policies before any was closed; nil if nobody knows
	overflow []Overflow // why some are

	identities map[string]uint32 // every number the live image defines, by identityName
	inUse      map[string]bool   // those that addresses have
	allInUse   bool              // inUse names every number that is not reserved; false: not known
	rulesInUse map[RuleName]bool
	addresses  map[netip.Prefix]Address
	exceptions map[netip.Addr]bool // addresses with a number of their own

	// What was given back by the last plan, and rests.
	restingIdentities map[uint32]bool
	restingRules      map[uint16]bool
	restingEndpoints  map[uint16]bool
	restingNodes      map[uint16]bool
}

// NewPlanner returns a planner for a node on which nothing is live.
func NewPlanner() *Planner { return &Planner{} }

// Restore makes the planner go on from a live image: after a restart, and after a plan that was only half carried out.
func (p *Planner) Restore(img *Image) {
	k := img.keys
	n := k.numbers(img.Generation())
	s := &state{
		image: img, numbers: n, policies: k.Policies, options: k.Options, node: k.Node,
		identities: identityNames(n.Identities), inUse: map[string]bool{}, rulesInUse: map[RuleName]bool{},
		addresses: map[netip.Prefix]Address{},
	}
	for name := range s.identities {
		s.inUse[name] = true
	}
	for name := range n.Rules {
		s.rulesInUse[name] = true
	}
	p.live, p.tried = s, trial{}
	p.generation = max(p.generation, img.Generation())
}

// RestoreAddresses adds to Restore what the kernel's address table holds. With it, pods that came after the live image was
// made keep their slots and tenancies, and identities that change meanwhile change together with the policies.
func (p *Planner) RestoreAddresses(live []Address) {
	if p.live == nil {
		return
	}
	s, n := *p.live, *p.live.numbers
	s.numbers, n.Tenancies = &n, maps.Clone(n.Tenancies)
	s.addresses = make(map[netip.Prefix]Address, len(live))
	s.restingEndpoints = map[uint16]bool{}
	for _, a := range live {
		s.addresses[a.Prefix] = a
		if a.Kind == AddressLocalPod {
			s.restingEndpoints[a.Slot] = true
		}
		if a.Kind == AddressLocalPod || a.Kind == AddressRemotePod {
			if t, ok := n.Tenancies[a.Prefix.Addr()]; !ok || t.Count != a.Tenancy {
				n.Tenancies[a.Prefix.Addr()] = Tenancy{Count: a.Tenancy} // of whom, nobody wrote down
			}
		}
	}
	p.live = &s
}

// Live is the image that the planner believes to be live; nil if none is.
func (p *Planner) Live() *Image {
	if p.live == nil {
		return nil
	}
	return p.live.image
}

// Commit tells that plan, the last one made, has been carried out.
func (p *Planner) Commit(plan *Plan) {
	if plan.commit != nil {
		plan.commit(p)
	} else {
		p.live = plan.next
	}
	p.tried = trial{}
}

// identityName names a definition in the planner's pool.
func identityName(d *Definition) string {
	if d.Name != "" {
		return d.Name
	}
	return d.key()
}

func identityNames(defs map[uint32]*Definition) map[string]uint32 {
	names := make(map[string]uint32, len(defs))
	for number, d := range defs {
		names[identityName(d)] = number
	}
	return names
}

// planning is the state of one Plan.
type planning struct {
	*Planner
	model    *Model
	resolver *resolver
	policies []Policy
	charged  map[string]Overflow
	changed  bool // policies, options or the node
	owners   []*owner

	numbers *Numbers               // of the final image
	before  map[uint32]*Definition // what the interim image means by numbers that change their meaning with the policies
	fresh   bool                   // the live image lacks a number or rows that addresses will need
	used    map[string]bool        // identities that addresses will have
	rules   map[RuleName]bool      // rules that select a local pod
}

// Plan compiles a model and says how to get there from what is live. It changes nothing that matters if it fails, or if
// the plan is not committed.
//
// Where little changes, little is done; what m shares with a model before it must not have been written to since.
func (p *Planner) Plan(m *Model) (*Plan, error) {
	if p.live != nil && p.live.resident != nil {
		if pods, gone, ok := p.live.resident.changed(m); ok {
			if plan := p.delta(pods, gone); plan != nil {
				plan.Final.Addresses = p.live.addressesWith(plan.Delta)
				return plan, nil
			}
		}
	}
	return p.whole(m)
}

// whole is a plan that looks at everything.
func (p *Planner) whole(m *Model) (*Plan, error) {
	policies, err := p.memo.canonical(m.Policies)
	if err != nil {
		return nil, err
	}
	return p.fitting(policies, func(policies []Policy, charged map[string]Overflow) (*Plan, error) {
		if plan, err := p.edit(m, policies, charged); plan != nil || err != nil {
			return plan, err
		}
		return p.attempt(m.snapshot(), policies, charged)
	})
}

// attempt is a plan with the policies of some namespaces closed.
func (p *Planner) attempt(m *Model, policies []Policy, charged map[string]Overflow) (*Plan, error) {
	var err error
	g := &planning{Planner: p, model: m, policies: policies, charged: charged}
	live := p.live
	g.changed = live == nil || live.node != m.Node || live.options != m.Options || !equalPolicies(live.policies, policies)
	words := Vocabulary{}
	switch {
	case live == nil:
		words = vocabularyOf(policies)
	case g.changed:
		words = vocabularyOf(live.policies, policies)
	default:
		words = live.numbers.Vocabulary
	}
	if g.resolver, g.owners, err = resolve(m, &words); err != nil {
		return nil, err
	}
	g.numbers = NewNumbers()
	g.numbers.MaxImage, g.numbers.Vocabulary, g.numbers.Charged = p.MaxImage, words, map[string]bool{}
	for ns := range charged {
		g.numbers.Charged[ns] = true
	}
	if err := g.assign(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return g.compile()
}

// compile makes the images that are needed.
func (g *planning) compile() (*Plan, error) {
	plan := &Plan{Swap: g.changed || len(g.before) > 0, Step: &Step{}}
	var img *Image
	if g.live != nil && g.fresh {
		var err error
		if plan.Interim, err = g.interim(); err != nil {
			return nil, fmt.Errorf("plan the transition: %w", err)
		}
		img = plan.Interim
	} else if g.live != nil {
		img = g.live.image
		if !plan.Swap {
			g.numbers.Identities, g.numbers.Rules = g.live.numbers.Identities, g.live.numbers.Rules
		}
	}
	if img == nil || plan.Swap {
		g.generation++
		g.numbers.Generation = g.generation
		var err error
		if img, err = compileImage(g.model.Node, g.policies, g.model.Options, g.numbers, &g.memo); err != nil {
			return nil, err
		}
	}
	g.numbers.Generation = img.Generation()
	var err error
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
	n.Generation = g.generation
	if len(g.before) > 0 {
		n.Identities = merged(n.Identities, g.before)
	}
	n.Endpoints = merged(g.live.numbers.Endpoints, n.Endpoints)
	n.Nodes = merged(g.live.numbers.Nodes, n.Nodes)
	return compileImage(g.live.node, closing(g.live.policies, g.charged), g.live.options, &n, &g.memo)
}

// next is the planner's state once the plan is carried out.
func (g *planning) next(c *Compiled) *state {
	s := &state{
		image: c.Image, numbers: g.numbers, node: g.model.Node, policies: g.policies, options: g.model.Options,
		identities: identityNames(g.numbers.Identities), inUse: g.used, rulesInUse: g.rules,
		addresses: make(map[netip.Prefix]Address, len(c.Addresses)), exceptions: map[netip.Addr]bool{},
		resident: newResident(g, c),
	}
	for _, d := range s.numbers.Identities {
		for _, a := range d.Addrs {
			s.exceptions[a] = true
		}
	}
	for _, a := range c.Addresses {
		s.addresses[a.Prefix] = a
	}
	if old := g.live; old != nil {
		s.restingIdentities = released(old.identities, s.identities)
		s.restingRules = released(old.numbers.Rules, s.numbers.Rules)
		s.restingEndpoints = released(old.numbers.Endpoints, s.numbers.Endpoints)
		s.restingNodes = released(old.numbers.Nodes, s.numbers.Nodes)
	}
	return s
}

// released lists the numbers that old hands out and now does not.
func released[K comparable, N comparable](old, now map[K]N) map[N]bool {
	gone := map[N]bool{}
	for _, n := range old {
		gone[n] = true
	}
	for _, n := range now {
		delete(gone, n)
	}
	return gone
}

// sortedNames orders what assign hands numbers to, so that equal models get equal numbers.
func sortedNames[K comparable](set map[K]bool, compare func(a, b K) int) []K {
	return slices.SortedFunc(maps.Keys(set), compare)
}
