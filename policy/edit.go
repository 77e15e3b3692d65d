// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// words counts who names the words of a vocabulary.
type words struct {
	labels   map[string]int
	prefixes map[netip.Prefix]prefixUses
}

type prefixUses struct{ all, pods, nodes int }

func newWords(policies []Policy) *words {
	w := &words{map[string]int{}, map[netip.Prefix]prefixUses{}}
	for i := range policies {
		w.count(&policies[i], 1)
	}
	return w
}

// count adds n times what a policy names, and says whether every word is still named by somebody.
func (w *words) count(p *Policy, n int) bool {
	left := true
	one := func(b bool) int {
		if b {
			return n
		}
		return 0
	}
	p.eachWord(func(label string) {
		w.labels[label] += n
		left = left && w.labels[label] > 0
	}, func(prefix netip.Prefix, pods, nodes bool) {
		u := w.prefixes[prefix]
		u = prefixUses{u.all + n, u.pods + one(pods), u.nodes + one(nodes)}
		w.prefixes[prefix] = u
		left = left && u.all > 0 && (!pods || u.pods > 0) && (!nodes || u.nodes > 0)
	})
	return left
}

// names says whether all that p names is named already, by as much as p makes of it.
func (w *words) names(p *Policy) bool {
	all := true
	p.eachWord(func(label string) { all = all && w.labels[label] > 0 }, func(prefix netip.Prefix, pods, nodes bool) {
		u := w.prefixes[prefix]
		all = all && u.all > 0 && (!pods || u.pods > 0) && (!nodes || u.nodes > 0)
	})
	return all
}

// difference lists the policies that are in one of two sorted lists only.
func difference(old, now []Policy) (gone, come []*Policy) {
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case j == len(now) || i < len(old) && old[i].Key < now[j].Key:
			gone = append(gone, &old[i])
			i++
		case i == len(old) || now[j].Key < old[i].Key:
			come = append(come, &now[j])
			j++
		default:
			if !equalPolicy(&old[i], &now[j]) {
				gone, come = append(gone, &old[i]), append(come, &now[j])
			}
			i++
			j++
		}
	}
	return gone, come
}

// edit plans a change of nothing but policies, who name nothing that nobody named before: then every address keeps its
// owner and its identity, and one image is all it takes. Nil if it takes more.
func (p *Planner) edit(m *Model, policies []Policy, charged map[string]Overflow) (*Plan, error) {
	s := p.live
	if s == nil || s.resident == nil || s.resident.stale || !s.resident.pure(m) {
		return nil, nil
	}
	r := s.resident
	gone, come := difference(s.policies, policies)
	for _, policy := range come {
		if !r.words.names(policy) {
			return nil, nil
		}
	}
	g := &planning{Planner: p, model: r.model, policies: policies, charged: charged, changed: true, used: s.inUse}
	n := *s.numbers
	g.numbers = &n
	n.MaxImage, n.Charged = p.MaxImage, map[string]bool{}
	for ns := range charged {
		n.Charged[ns] = true
	}
	n.Identities = s.inUseOnly()
	if err := g.assignRules(); err != nil {
		return nil, err
	}
	p.generation++
	n.Generation = p.generation
	img, err := compileImage(m.Node, policies, m.Options, &n, &p.memo)
	if err != nil {
		return nil, err
	}
	final := &Compiled{Image: img, Addresses: r.compiled.Addresses, Nodes: r.compiled.Nodes, Services: r.compiled.Services}
	if len(r.touched) > 0 {
		final.Addresses = s.addressesWith(&Delta{})
	}
	given := p.memo.given
	final.Endpoints = slices.Clone(r.compiled.Endpoints)
	for i := range final.Endpoints {
		e := &final.Endpoints[i]
		e.Policed = [2]bool{img.Policed(Ingress, e.Identity), img.Policed(Egress, e.Identity)}
	}
	next := *s
	next.image, next.numbers, next.policies, next.rulesInUse = img, &n, policies, g.rules
	next.allInUse, next.restingIdentities = true, nil
	if !sameMap(n.Identities, s.numbers.Identities) {
		next.identities = identityNames(n.Identities)
		next.restingIdentities = released(s.identities, next.identities)
	}
	next.restingRules, next.restingEndpoints, next.restingNodes = released(s.numbers.Rules, n.Rules), nil, nil
	plan := &Plan{Final: final, Swap: true, Step: &Step{}, next: &next, Delta: &Delta{After: s.step, Endpoints: final.Endpoints}}
	next.step = plan.Step
	plan.commit = func(p *Planner) {
		p.live = &next
		r.compiled = final
		clear(r.touched)
		model := *r.model
		model.Policies = given
		r.model = &model
		for _, policy := range come {
			r.words.count(policy, 1)
		}
		for _, policy := range gone {
			r.stale = !r.words.count(policy, -1) || r.stale
		}
	}
	return plan, nil
}

// pure says whether m differs from what is live in its policies at most.
func (r *resident) pure(m *Model) bool {
	pods, gone, ok := r.changedPods(m)
	return ok && len(pods)+len(gone) == 0
}

// inUseOnly are the definitions that addresses have, and the reserved ones.
func (s *state) inUseOnly() map[uint32]*Definition {
	if s.allInUse {
		return s.numbers.Identities
	}
	keep := func(number uint32, d *Definition) bool { return number < FirstIdentity || s.inUse[identityName(d)] }
	for number, d := range s.numbers.Identities {
		if !keep(number, d) {
			used := maps.Clone(s.numbers.Identities)
			maps.DeleteFunc(used, func(number uint32, d *Definition) bool { return !keep(number, d) })
			return used
		}
	}
	return s.numbers.Identities
}
