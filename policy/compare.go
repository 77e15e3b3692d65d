// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Comparison is what becomes of who may reach whom in a whole cluster when one model takes the place of another.
type Comparison struct {
	Relations []Relation // that turn, sorted
	// Appeared and Vanished are the workloads and nodes that only the one model has; what they may is not compared.
	Appeared, Vanished []string
}

// Same says that nothing changes.
func (c *Comparison) Same() bool {
	return len(c.Relations)+len(c.Appeared)+len(c.Vanished) == 0
}

// Relation is a set of verdicts that turn alike: from each of Sources to each of Destinations on each of Ports. A packet
// needs the sender's and the receiver's permission; of nobody is it asked that a pod reaches itself.
type Relation struct {
	Allowed      bool     // from now on; else it was until now
	Sources      []string // workloads, nodes, prefixes, and names of larger sets: "everyone", "all pods of namespace a"
	Destinations []string
	Ports        []string // "TCP 1-79,81-65535", "ICMP type 8"; "all ports"
	Because      []Cause  // one for each side whose verdict turned
	Family       string   // "IPv4" or "IPv6" if the other one, which there is, stays
}

// Cause is a side's new verdict, which makes a relation turn.
type Cause struct {
	Direction Direction
	Rule      RuleName // zero: no rule
	Was       RuleName // if no rule admits, the one that denied before; zero: isolation did
	// Isolating are the policies that isolate the pods of the side, if no rule decided.
	Isolating []string
}

func (c Cause) String() string {
	switch {
	case c.Rule != (RuleName{}):
		return "by " + c.Rule.Policy + " " + c.Rule.Path
	case len(c.Isolating) > 0:
		return c.Direction.String() + " isolated by " + joined(c.Isolating)
	}
	if c.Was != (RuleName{}) {
		return c.Direction.String() + " no longer denied by " + c.Was.Policy + " " + c.Was.Path
	}
	return c.Direction.String() + " no longer isolated"
}

func (r *Relation) String() string {
	sign := "- denied: "
	if r.Allowed {
		sign = "+ allowed: "
	}
	causes := make([]string, len(r.Because))
	for i, c := range r.Because {
		causes[i] = c.String()
	}
	text := sign + strings.Join(r.Sources, ", ") + " -> " + strings.Join(r.Destinations, ", ") + " " + strings.Join(r.Ports, ", ")
	if r.Family != "" {
		text += " over " + r.Family
	}
	return text + " (" + strings.Join(causes, "; ") + ")"
}

// Grouping names the workload that a pod is of. Pods of one workload in both models are taken for the same ones, whatever
// their names; nil: every pod is a workload of its own.
type Grouping func(*Pod) string

// Differences compares, for all pods, peers and ports, what two models of a cluster allow. It is exact: what is not listed
// does not turn. The models' Node does not matter.
func Differences(old, now *Model, group Grouping) (*Comparison, error) {
	return DifferencesByNode([]*Model{old}, []*Model{now}, group)
}

// DifferencesByNode is Differences where policies mean something else on each node, as those do that speak of other nodes: old
// and now each hold models of the same cluster, one for each node; where one is missing, the first stands for it.
func DifferencesByNode(old, now []*Model, group Grouping) (*Comparison, error) {
	if group == nil {
		group = func(p *Pod) string { return p.Key() }
	}
	var sides [2]*comparedSide
	var policies [2][][]Policy
	var all [][]Policy
	for i, models := range [][]*Model{old, now} {
		for _, m := range models {
			p, err := canonical(m)
			if err != nil {
				return nil, err
			}
			policies[i], all = append(policies[i], p), append(all, p)
		}
	}
	words := vocabularyOf(all...)
	for i, models := range [][]*Model{old, now} {
		var err error
		if sides[i], err = newComparedSide(models, policies[i], &words); err != nil {
			return nil, err
		}
	}
	out := &Comparison{}
	var byFamily [][]Relation
	families := []string{}
	for f, name := range []string{"IPv4", "IPv6"} {
		c := &comparer{family: f, sides: sides, port: newPortSets()}
		c.enlist(group)
		if f == 0 {
			out.Appeared, out.Vanished = c.appeared, c.vanished
		}
		if !slices.ContainsFunc(c.members, func(m *member) bool { return m.kind == memberPods }) {
			continue
		}
		relations, err := c.relations()
		if err != nil {
			return nil, fmt.Errorf("compare policies: %w", err)
		}
		byFamily, families = append(byFamily, relations), append(families, name)
		for i := range sides {
			sides[i].forget()
		}
	}
	out.Relations = mergeFamilies(byFamily, families)
	return out, nil
}

// mergeFamilies marks what only one of two families has. Between two pods of one workload, either way has the same name.
func mergeFamilies(by [][]Relation, names []string) []Relation {
	type place struct{ families, at int }
	var merged []Relation
	seen := map[string]*place{}
	for f, relations := range by {
		for _, r := range relations {
			text := r.String()
			if seen[text] == nil {
				seen[text] = &place{at: len(merged)}
				r.Family = names[f]
				merged = append(merged, r)
			}
			seen[text].families |= 1 << f
		}
	}
	for _, p := range seen {
		if p.families == 1<<len(by)-1 {
			merged[p.at].Family = ""
		}
	}
	sortRelations(merged)
	return merged
}

func sortRelations(relations []Relation) {
	slices.SortFunc(relations, func(a, b Relation) int {
		allowed := boolCompare(!a.Allowed, !b.Allowed)
		if c := cmp.Or(slices.Compare(a.Destinations, b.Destinations), slices.Compare(a.Sources, b.Sources), allowed, slices.Compare(a.Ports, b.Ports)); c != 0 {
			return c
		}
		return cmp.Compare(a.String(), b.String())
	})
}
