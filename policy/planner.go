// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
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

func (t *trial) identity(name string, number uint32) {
	if t.identities == nil {
		t.identities = map[string]uint32{}
	}
	t.identities[name] = number
}

// state is what the planner knows about the tables that are live. The Commit of a plan with a Delta changes it in place.
type state struct {
	step     *Step
	resident *resident // nil: the model is not known, but the image
	image    *Image
	numbers  *numbering // those the live image defines, and all slots
	node     string
	policies []Policy
	options  Options
	asked    []Policy   // policies before any was closed; nil if nobody knows
	overflow []Overflow // why some are

	identities map[string]uint32 // every number the live image defines, by identityName
	uses       []int32           // number → addresses that have it
	rulesInUse map[RuleName]bool
	addresses  *addressList

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
	n := k.numbering(img.Generation())
	s := &state{
		image: img, numbers: n, policies: k.Policies, options: k.Options, node: k.Node,
		identities: identityNames(n.identities), uses: make([]int32, len(n.identities)), rulesInUse: map[RuleName]bool{},
		addresses: &addressList{},
	}
	for number := range n.identities.all() {
		s.uses[number] = 1 // for all that is known
	}
	for name := range n.rules {
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
	s.numbers = &n
	s.restingEndpoints = map[uint16]bool{}
	sorted := make([]located, 0, len(live))
	var strangers []edited[tenancyKey]
	for _, a := range live {
		sorted = append(sorted, located{Address: a})
		if a.Kind == AddressLocalPod {
			s.restingEndpoints[a.Slot] = true
		}
		if a.Kind == AddressLocalPod || a.Kind == AddressRemotePod {
			if t, ok := n.tenancy(a.Prefix.Addr()); !ok || t.Count != a.Tenancy { // of whom, nobody wrote down
				strangers = append(strangers, edited[tenancyKey]{item: tenancyKey{a.Prefix.Addr(), Tenancy{Count: a.Tenancy}}})
			}
		}
	}
	slices.SortFunc(sorted, func(a, b located) int { return comparePrefix(a.Prefix, b.Prefix) })
	s.addresses = newAddressList(sorted)
	n.tenancies = tenancyListing().edit(n.tenancies, strangers)
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
		plan.commit()
	} else {
		p.live = plan.next
	}
	p.live.asked, p.live.overflow = plan.asked, plan.Overflow
	p.tried = trial{}
}

// definition finds what the live image defines, by its key; nil if it does not.
func (p *Planner) definition(key []byte) *Definition {
	if p.live == nil {
		return nil
	}
	if number, ok := p.live.identities[string(key)]; ok {
		return p.live.numbers.identities.get(number)
	}
	return nil
}

// identityName names a definition in the planner's pool.
func identityName(d *Definition) string {
	if d.Name != "" {
		return d.Name
	}
	return d.key()
}

func identityNames(defs definitions) map[string]uint32 {
	names := make(map[string]uint32, len(defs))
	for number, d := range defs.all() {
		names[identityName(d)] = number
	}
	return names
}

// Plan compiles a model and says how to get there from what is live. It changes nothing that matters if it fails, or if
// the plan is not committed.
//
// Where little changes, little is done; what m shares with a model before it must not have been written to since.
func (p *Planner) Plan(m *Model) (*Plan, error) {
	policies, err := p.memo.canonical(m.Policies)
	if err != nil {
		return nil, err
	}
	if p.live != nil && p.live.resident != nil && p.live.node == m.Node && p.live.options == m.Options {
		if d, ok := p.live.resident.newsOf(m); ok {
			plan, err := p.least(d, policies, func() *Model { return m.snapshot() })
			if err == nil && plan.Delta != nil {
				plan.Final.Addresses = p.live.addressesWith(plan.Delta)
				plan.Final.Services = newServiceIndex(m.Services).entries(plan.Final.Address)
			}
			return plan, err
		}
	}
	return p.whole(m.snapshot(), policies)
}

// PlanChanges plans for what is live with changes. Where they can be followed one by one, it costs no look at the rest of
// the cluster: the plan then has a Delta, and Final's Addresses and Services are nil. What the changes share with earlier
// ones must not have been written to since.
func (p *Planner) PlanChanges(c Changes) (*Plan, error) {
	if p.live == nil || p.live.resident == nil {
		return nil, ErrNoModel
	}
	s := p.live
	policies := s.asked
	if c.Policies != nil {
		var err error
		if policies, err = p.memo.canonical(c.Policies); err != nil {
			return nil, err
		}
	}
	options := s.options
	if c.Options != nil {
		options = *c.Options
	}
	d := s.resident.told(&c)
	model := func() *Model { return s.resident.model(d, policies, options) }
	if options != s.options {
		return p.whole(model(), policies)
	}
	return p.least(d, policies, model)
}

// least is a plan that looks at as little as the news allow; model is the whole that they make.
func (p *Planner) least(d *news, policies []Policy, model func() *Model) (*Plan, error) {
	s := p.live
	if sameList(policies, s.asked) || equalPolicies(policies, s.asked) {
		plan, err := p.small(d, s.policies, s.numbers.charged)
		if plan == nil || err != nil {
			return p.whole(model(), policies)
		}
		plan.asked, plan.Overflow = s.asked, s.overflow
		return plan, nil
	}
	var m *Model
	return p.fitting(policies, func(policies []Policy, charged map[string]Overflow) (*Plan, error) {
		if m == nil {
			if plan, err := p.small(d, policies, chargedNames(charged)); plan != nil || err != nil {
				return plan, err
			}
			m = model()
		}
		return p.attempt(m, policies, charged)
	})
}

// whole is a plan that looks at everything.
func (p *Planner) whole(m *Model, policies []Policy) (*Plan, error) {
	return p.fitting(policies, func(policies []Policy, charged map[string]Overflow) (*Plan, error) {
		return p.attempt(m, policies, charged)
	})
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
