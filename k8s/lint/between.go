// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/policy"
)

// What rules and policies are to each other.

// ruleRef is a rule of a policy.
type ruleRef struct {
	guard *guard
	index int
}

func (r ruleRef) rule() *policy.Rule { return &r.guard.Rules[r.index] }

// name is what a finding about another rule calls this one.
func (r ruleRef) name(from *guard) string {
	if r.guard.Key == from.Key {
		return r.rule().Path
	}
	return r.rule().Path + " of " + r.guard.Key
}

// effective says whether a rule matches anything at all.
func effective(r *policy.Rule) bool { return len(r.Peers) > 0 && len(r.Ports) > 0 }

// rulesOf lists the rules of a direction and an action in the tier that has no order.
func (s *scene) rulesOf(d policy.Direction, a policy.Action) []ruleRef {
	var all []ruleRef
	for _, g := range s.policies {
		if g.Tier != policy.TierNormal {
			continue
		}
		for i := range g.Rules {
			if r := &g.Rules[i]; r.Direction == d && r.Action == a && effective(r) {
				all = append(all, ruleRef{g, i})
			}
		}
	}
	return all
}

// byNamespace sorts rules by the one namespace whose pods their policies guard; those that guard more are under "".
func byNamespace(rules []ruleRef) map[string][]ruleRef {
	sorted := map[string][]ruleRef{}
	for _, r := range rules {
		key := ""
		if names := pinned(r.guard.Subject); len(names) == 1 {
			key = names[0]
		}
		sorted[key] = append(sorted[key], r)
	}
	return sorted
}

// contained finds rules that add nothing to another one of the same action, whatever pods there are. Of two equal rules the
// later one is told.
func (s *scene) contained() {
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		for _, a := range []policy.Action{policy.Allow, policy.Deny} {
			rules := s.rulesOf(d, a)
			sorted := byNamespace(rules)
			order := map[ruleRef]int{}
			for i, r := range rules {
				order[r] = i
			}
			for i, inner := range rules {
				if slices.Contains(inner.guard.shadowed, inner.index) || s.unsupported(inner.guard.Key, inner.rule().Path) {
					continue
				}
				wider := sorted[""]
				if names := pinned(inner.guard.Subject); len(names) == 1 {
					wider = slices.Concat(sorted[names[0]], wider)
				}
				for _, outer := range wider {
					if outer == inner || !s.within(inner, outer) || s.equal(inner.guard, outer.guard) || order[outer] > i && s.within(outer, inner) {
						continue
					}
					verb := "admits"
					if a == policy.Deny {
						verb = "denies"
					}
					s.report(containedInRule, Note, inner.guard.Key, inner.rule().Path,
						"%s nothing that %s does not, whatever pods there are; remove it, or narrow the other", verb, outer.name(inner.guard))
					break
				}
			}
		}
	}
}

// within says whether all that a rule matches another one matches too, and decides, on every node. A policy under audit
// decides nothing for those that are not.
func (s *scene) within(inner, outer ruleRef) bool {
	return (inner.guard.audited || !outer.guard.audited) && !s.varies[outer.guard.Key+" "+outer.rule().Path] && selectorWithin(inner.guard.Subject, outer.guard.Subject) && ruleWithin(inner.rule(), outer.rule())
}

// shadowed finds rules that admit nothing since a deny rule matches all of it: whatever pods there are, or with the pods of
// the set.
func (s *scene) shadowed() {
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		denies := s.rulesOf(d, policy.Deny)
		if len(denies) == 0 {
			continue
		}
		for _, allow := range s.rulesOf(d, policy.Allow) {
			for _, deny := range denies {
				when := ""
				switch {
				case s.within(allow, deny):
					when = "whatever pods there are"
				case s.withinHere(allow, deny):
					when = "with the pods of this set"
				default:
					continue
				}
				allow.guard.shadowed = append(allow.guard.shadowed, allow.index)
				s.report(shadowedByDeny, Warning, allow.guard.Key, allow.rule().Path,
					"admits nothing, %s: %s denies all of it, and a deny beats every rule that admits; narrow the deny or remove this rule", when, deny.name(allow.guard))
				break
			}
		}
	}
}

// withinHere is within for the pods that there are. It does not conclude anything about pods that there are not.
func (s *scene) withinHere(inner, outer ruleRef) bool {
	if s.partial || outer.guard.audited && !inner.guard.audited || s.varies[outer.guard.Key+" "+outer.rule().Path] || len(inner.guard.subjects) == 0 || !podsWithin(inner.guard.subjects, outer.guard.subjects) {
		return false
	}
	a, b := inner.rule(), outer.rule()
	if !portsWithin(a.Ports, b.Ports) {
		return false
	}
	peers := inner.guard.peers[inner.index]
	onlyPods := !slices.ContainsFunc(a.Peers, func(p policy.Peer) bool { return p.Kind != policy.PeerSelector })
	return peersWithin(a.Peers, b.Peers) || onlyPods && len(peers) > 0 && podsWithin(peers, outer.guard.peers[outer.index])
}

func podsWithin(a, b []*group) bool {
	return !slices.ContainsFunc(a, func(g *group) bool { return !slices.Contains(b, g) })
}

// equal says whether two policies say the same about the same pods.
func (s *scene) equal(a, b *guard) bool {
	return a != b && a.content == b.content && a.audited == b.audited
}

// contentOf is all that a policy says, without its name. Of a policy with something that is not enforced, the model does
// not have all that it says: it is equal to no other.
func (s *scene) contentOf(p *policy.Policy) string {
	stripped := *p
	stripped.Key = ""
	stripped.Rules = slices.Clone(p.Rules)
	for i := range stripped.Rules {
		if s.unsupported(p.Key, p.Rules[i].Path) {
			return p.Key + " " + p.Rules[i].Path
		}
		stripped.Rules[i].Path = ""
	}
	data, err := json.Marshal(stripped)
	if err != nil {
		return p.Key
	}
	return string(data)
}

// unsupported says whether something of a rule is not enforced as written.
func (s *scene) unsupported(object, path string) bool {
	return slices.ContainsFunc(s.statusOf[object], func(status k8s.Status) bool {
		return status.Reason == k8s.ReasonUnsupported && below(status.Path, path)
	})
}

// told says whether there is any status about a rule.
func (s *scene) told(object, path string) bool {
	return slices.ContainsFunc(s.statusOf[object], func(status k8s.Status) bool { return below(status.Path, path) })
}

// below says whether a path is path or leads to a field below it.
func below(longer, path string) bool {
	return longer == path || strings.HasPrefix(longer, path+".")
}

// duplicates finds policies that say what an earlier one says.
func (s *scene) duplicates() {
	first := map[string]*guard{}
	for _, g := range s.policies {
		if earlier, twice := first[g.content]; twice && earlier.audited == g.audited {
			s.report(duplicatePolicy, Warning, g.Key, g.root, "says the same as %s of %s; remove one of them", earlier.root, earlier.Key)
			continue
		}
		first[g.content] = g
	}
}
