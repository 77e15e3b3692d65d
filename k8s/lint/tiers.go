// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"slices"

	"github.com/weirnet/weir/policy"
)

// neverAsked finds rules that an earlier one leaves nothing of: in an ordered tier the first rule that matches decides, and
// what the admin tier decides no other tier is asked about.
func (s *scene) neverAsked() {
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		admin, baseline := s.ordered(policy.TierAdmin, d), s.ordered(policy.TierBaseline, d)
		// What matches a rule before the first Pass is decided by it or by one before it, whichever that is.
		final := admin
		if i := slices.IndexFunc(admin, func(r ruleRef) bool { return r.rule().Action == policy.Pass }); i >= 0 {
			final = admin[:i]
		}
		for i, r := range admin {
			s.forestalled(r, admin[:i])
		}
		for i, r := range baseline {
			s.forestalled(r, slices.Concat(final, baseline[:i]))
		}
		for _, a := range []policy.Action{policy.Allow, policy.Deny} {
			for _, r := range s.rulesOf(d, a) {
				if s.forestalled(r, final) {
					r.guard.shadowed = append(r.guard.shadowed, r.index)
				}
			}
		}
	}
}

// ordered lists the rules of an ordered tier in the order in which they are asked.
func (s *scene) ordered(tier policy.Tier, d policy.Direction) []ruleRef {
	var all []ruleRef
	for _, g := range s.policies {
		for i := range g.Rules {
			if r := &g.Rules[i]; g.Tier == tier && r.Direction == d && effective(r) {
				all = append(all, ruleRef{g, i})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b ruleRef) int {
		return cmp.Or(cmp.Compare(a.guard.Priority, b.guard.Priority), cmp.Compare(a.guard.Key, b.guard.Key))
	})
	return all
}

// forestalled tells of a rule that lies within one of those that are asked before.
func (s *scene) forestalled(r ruleRef, before []ruleRef) bool {
	for _, earlier := range before {
		if !s.within(r, earlier) {
			continue
		}
		severity := Warning
		if earlier.rule().Action == r.rule().Action {
			severity = Note
		}
		s.report(neverAsked, severity, r.guard.Key, r.rule().Path, "is never asked, whatever pods there are: %s %s all of it before; narrow that one, or remove this one",
			earlier.name(r.guard), map[policy.Action]string{policy.Allow: "accepts", policy.Deny: "denies", policy.Pass: "passes on"}[earlier.rule().Action])
		return true
	}
	return false
}

// baseline says whether the baseline tier has a rule about the pods.
func (g *group) baseline(d policy.Direction) bool {
	return slices.ContainsFunc(g.guards, func(p *guard) bool {
		return p.Tier == policy.TierBaseline && slices.ContainsFunc(p.Rules, func(r policy.Rule) bool { return r.Direction == d })
	})
}
