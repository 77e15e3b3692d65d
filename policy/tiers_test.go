// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
	"testing"
)

// first is what an ordered tier makes of a packet; Pass if it leaves it to the others.
func (n naive) first(tier Tier, q *question) (Action, []RuleName) {
	policies := slices.Clone(n.m.Policies)
	slices.SortFunc(policies, func(a, b Policy) int { return cmp.Or(int(a.Priority)-int(b.Priority), strings.Compare(a.Key, b.Key)) })
	for _, p := range policies {
		if p.Tier != tier || !p.Subject.Matches(q.subject.Labels) {
			continue
		}
		for _, r := range p.Rules {
			if n.matches(&r, q) {
				if r.Action == Pass {
					return Pass, nil
				}
				return r.Action, []RuleName{{p.Key, r.Path}}
			}
		}
	}
	return Pass, nil
}

// tiered is front, which ordered and other policies select, and which nothing isolates but what a policy says.
func tiered(policies ...Policy) *Model {
	m := smallModel()
	for i := range policies {
		policies[i].Subject = labels("app", In, "front")
	}
	m.Policies = policies
	return m
}

// ruled is a policy with one rule for each action, about everybody on TCP 80.
func ruled(key string, tier Tier, priority int32, actions ...Action) Policy {
	p := Policy{Key: key, Tier: tier, Priority: priority}
	for i, a := range actions {
		p.Rules = append(p.Rules, Rule{Path: string(rune('a' + i)), Action: a, Peers: []Peer{{Kind: PeerAny}}, Ports: []PortMatch{tcp(80, 80)}})
	}
	return p
}

func TestTiers(t *testing.T) {
	isolating := func(p Policy) Policy { p.Isolates[Ingress] = true; return p }
	admin := func(priority int32, actions ...Action) Policy { return ruled("admin", TierAdmin, priority, actions...) }
	baseline := func(priority int32, actions ...Action) Policy {
		return ruled("baseline", TierBaseline, priority, actions...)
	}
	normal := func(actions ...Action) Policy { return ruled("normal", TierNormal, 0, actions...) }
	for _, test := range []struct {
		name     string
		policies []Policy
		want     string
	}{
		{"no policy", nil, "allow by default"},
		{"admin allows", []Policy{admin(5, Allow)}, "allow by admin a"},
		{"admin denies", []Policy{admin(5, Deny)}, "deny by admin a"},
		{"admin passes, and nobody else says anything", []Policy{admin(5, Pass)}, "allow by default"},
		{"the first rule decides: allow", []Policy{admin(5, Allow, Deny)}, "allow by admin a"},
		{"the first rule decides: deny", []Policy{admin(5, Deny, Allow)}, "deny by admin a"},
		{"the first rule decides: pass", []Policy{admin(5, Pass, Deny)}, "allow by default"},
		{"the lower priority goes first", []Policy{admin(6, Deny), ruled("urgent", TierAdmin, 5, Allow)}, "allow by urgent a"},
		{"priority 0 goes before the last", []Policy{admin(MaxPriority, Deny), ruled("urgent", TierAdmin, 0, Allow)}, "allow by urgent a"},
		{"pass skips the later policies of its tier", []Policy{admin(5, Deny), ruled("urgent", TierAdmin, 4, Pass)}, "allow by default"},
		{"equal priorities go by name", []Policy{admin(5, Deny), ruled("aaa", TierAdmin, 5, Allow)}, "allow by aaa a"},
		{"an admin allow beats isolation", []Policy{admin(5, Allow), isolating(normal())}, "allow by admin a"},
		{"an admin allow beats a deny of the normal tier", []Policy{admin(5, Allow), isolating(normal(Deny))}, "allow by admin a"},
		{"an admin deny beats an allow of the normal tier", []Policy{admin(5, Deny), isolating(normal(Allow))}, "deny by admin a"},
		{"pass leaves it to isolation", []Policy{admin(5, Pass, Allow), isolating(normal())}, "deny by default"},
		{"pass leaves it to a deny of the normal tier", []Policy{admin(5, Pass, Allow), normal(Deny, Allow)}, "deny by normal a"},
		{"pass leaves it to an allow of the normal tier", []Policy{admin(5, Pass, Deny), isolating(normal(Allow))}, "allow by normal a"},
		{"pass leaves it to the baseline", []Policy{admin(5, Pass), baseline(5, Deny)}, "deny by baseline a"},
		{"baseline denies", []Policy{baseline(5, Deny)}, "deny by baseline a"},
		{"baseline allows", []Policy{baseline(5, Allow)}, "allow by baseline a"},
		{"baseline passes", []Policy{baseline(5, Pass, Deny)}, "allow by default"},
		{"the baseline has an order, too", []Policy{baseline(5, Allow), ruled("urgent", TierBaseline, 4, Deny)}, "deny by urgent a"},
		{"isolation ends the way to the baseline", []Policy{baseline(5, Allow), isolating(normal())}, "deny by default"},
		{"an allow of the normal tier beats a baseline deny", []Policy{baseline(5, Deny), normal(Allow)}, "allow by normal a"},
		{"a deny of the normal tier beats a baseline allow", []Policy{baseline(5, Allow), normal(Deny)}, "deny by normal a"},
		{"a policy that does not isolate leaves it to the baseline", []Policy{baseline(5, Deny), normal()}, "deny by baseline a"},
		{"admin goes before baseline whatever the priority", []Policy{baseline(0, Deny), admin(MaxPriority, Allow)}, "allow by admin a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := build(t, tiered(test.policies...))
			img, err := Decode(c.Image.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			front, back := c.Endpoint("default/front").Identity, c.Address(mustAddr("10.42.2.10")).Identity
			if got := img.verdict(img.Lookup(Ingress, front, back, TCP, 80)).String(); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestHostPassesAfterAllTiers(t *testing.T) {
	host := func(policies ...Policy) string {
		c := build(t, tiered(policies...))
		return c.Image.verdict(c.Image.Lookup(Ingress, c.Endpoint("default/front").Identity, IdentityHost, TCP, 80)).String()
	}
	isolated := Policy{Key: "normal", Isolates: [2]bool{true}}
	if got := host(isolated, ruled("admin", TierAdmin, 0, Pass)); got != "allow by weir host reaches its pods" {
		t.Error(got)
	}
	if got := host(isolated, ruled("admin", TierAdmin, 0, Deny)); got != "deny by admin a" {
		t.Error(got)
	}
}

// A restarted planner goes on with tiers and priorities; a change of either is a change of policy.
func TestTierAndPriorityOutliveThePlanner(t *testing.T) {
	m := tiered(ruled("first", TierAdmin, 1, Allow), ruled("second", TierAdmin, 2, Deny))
	img, err := Decode(build(t, m).Image.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	next := func(change func(p *Policy)) bool {
		p := NewPlanner()
		p.Restore(img)
		changed := tiered(ruled("first", TierAdmin, 1, Allow), ruled("second", TierAdmin, 2, Deny))
		change(&changed.Policies[1])
		plan, err := p.Plan(changed)
		if err != nil {
			t.Fatal(err)
		}
		return plan.Swap
	}
	if next(func(*Policy) {}) {
		t.Error("a swap though nothing changed")
	}
	if !next(func(p *Policy) { p.Priority = 0 }) || !next(func(p *Policy) { p.Tier = TierBaseline }) {
		t.Error("no swap though the order changed")
	}
}

func TestTextShowsTheOrderOfRules(t *testing.T) {
	var b strings.Builder
	if err := build(t, tiered(ruled("first", TierAdmin, 7, Pass), ruled("last", TierBaseline, 9, Deny))).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if want := "  2 first a (tier admin, priority 7, pass)\n  3 last a (tier baseline, priority 9, deny)\n"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, b.String())
	}
}
