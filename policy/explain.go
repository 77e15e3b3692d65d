// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// Traffic is what a verdict is about: one kind of packet between a pod that policies guard and a peer, by the numbers that
// an image gives their identities.
type Traffic struct {
	Direction     Direction
	Subject, Peer uint32
	Addr          netip.Addr // the peer's, for the wording of a CIDR that does not contain it; may be missing
	Protocol      uint8
	Port          uint16 // destination port, or ICMP type
}

// Explanation says how an image comes to its verdict about one kind of traffic.
type Explanation struct {
	Verdict  Verdict
	Selected []Selection // the policies that have a say, in the image's order
	Matches  []RuleMatch // rules of these that match: those that passed and the one that decided, then those that did not count
	// Misses are rules that do not match, the nearest first: those of which only the port differs, then those of which only
	// the peer does, then both, at last rules of policies that do not select the pod but would match if they did, or if
	// their two sides were exchanged.
	Misses []RuleMatch
}

// Selection is a policy that selects the pod and says something about the direction.
type Selection struct {
	Policy   *Policy
	Isolates bool
}

// RuleMatch compares one rule with the traffic, field by field. What is empty matches.
type RuleMatch struct {
	Policy  *Policy
	Rule    *Rule
	Decides bool

	Subject []Miss // requirements of the policy's subject that the pod does not meet
	Peer    []Miss // of the alternative among the rule's peers that is nearest
	Port    []Miss
	// Passes says that the rule is the first of an ordered tier to match, and that it passes the packet on to the next tier.
	Passes bool
	// Swapped says of a rule whose policy does not select the pod that it would match if subject and peer were exchanged.
	Swapped bool
}

// Name names the rule for ever.
func (m *RuleMatch) Name() RuleName { return RuleName{m.Policy.Key, m.Rule.Path} }

func (m *RuleMatch) matches() bool { return len(m.Subject)+len(m.Peer)+len(m.Port) == 0 }

// distance orders rules that do not match by how little would have to differ.
func (m *RuleMatch) distance() int {
	d := 0
	if len(m.Subject) > 0 {
		d = 1000
	}
	for _, miss := range m.Port {
		switch miss.Field {
		case FieldPort, FieldPortName:
			d++
		case FieldProtocol:
			d += 2
		default:
			d += 100
		}
	}
	for _, miss := range m.Peer {
		if d += 10; miss.Field == FieldPeers {
			d += 100
		}
	}
	return d
}

// Explain compares every rule with t. The verdict is Lookup's, the very cell that the kernel reads; all else explains it.
func (img *Image) Explain(t Traffic) *Explanation {
	e := &Explanation{Verdict: img.verdict(img.Lookup(t.Direction, t.Subject, t.Peer, t.Protocol, t.Port))}
	x := explainer{Traffic: t, subject: img.definition(t.Subject), peer: img.definition(t.Peer)}
	for i := range img.keys.Policies {
		p := &img.keys.Policies[i]
		if p.Audit {
			continue // it enforces nothing, so it explains nothing
		}
		unmet := p.Subject.unmet(x.subject)
		if len(unmet) == 0 && p.concerns(t.Direction) {
			e.Selected = append(e.Selected, Selection{p, p.Isolates[t.Direction]})
		}
		for j := range p.Rules {
			if p.Rules[j].Direction != t.Direction {
				continue
			}
			switch m := x.rule(p, &p.Rules[j]); {
			case len(unmet) == 0 && m.matches():
				m.Decides = m.Name() == e.Verdict.Rule
				e.Matches = append(e.Matches, m)
			case len(unmet) == 0:
				e.Misses = append(e.Misses, m)
			default:
				m.Swapped = x.swapped(p, &m)
				if m.Subject = unmet; m.Swapped || len(unmet) == 1 && len(m.Peer)+len(m.Port) == 0 {
					e.Misses = append(e.Misses, m)
				}
			}
		}
	}
	slices.SortStableFunc(e.Matches, func(a, b RuleMatch) int { return order(&a, &b) })
	for i := range e.Matches {
		m := &e.Matches[i]
		first := i == 0 || e.Matches[i-1].Policy.Tier != m.Policy.Tier
		m.Passes = first && m.Rule.Action == Pass
	}
	slices.SortStableFunc(e.Matches, func(a, b RuleMatch) int { return cmp.Compare(rank(&a, e.Verdict), rank(&b, e.Verdict)) })
	if e.Verdict.Rule.Policy == ownPolicy && e.Verdict.Rule.Path != hostRule {
		// Past the last number rules share one; the first that says so stands for them.
		if i := slices.IndexFunc(e.Matches, func(m RuleMatch) bool { return rank(&m, e.Verdict) == 1 }); i >= 0 {
			e.Matches[i].Decides = true
		}
	}
	slices.SortStableFunc(e.Misses, func(a, b RuleMatch) int { return cmp.Compare(a.distance(), b.distance()) })
	return e
}

// order is that in which rules are asked: tier by tier, in the ordered ones by priority.
func order(a, b *RuleMatch) int {
	turn := func(t Tier) int { return slices.Index([]Tier{TierAdmin, TierNormal, TierBaseline}, t) }
	if c := cmp.Compare(turn(a.Policy.Tier), turn(b.Policy.Tier)); c != 0 || a.Policy.Tier == TierNormal {
		return c
	}
	return cmp.Compare(a.Policy.Priority, b.Policy.Priority)
}

// rank puts the rule that decided first, then those that passed, then those that agree before those that do not.
func rank(m *RuleMatch, v Verdict) int {
	switch {
	case m.Decides || m.Passes:
		return 0
	case m.Rule.Action != Pass && (m.Rule.Action == Allow) == v.Allow:
		return 1
	}
	return 2
}

// concerns says whether a pod that p selects is under p's rule in a direction at all.
func (p *Policy) concerns(dir Direction) bool {
	return p.Isolates[dir] || slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Direction == dir })
}

// definition is what a number means; a number that means nothing is nobody's.
func (img *Image) definition(number uint32) *Definition {
	if d := img.keys.identities.get(number); d != nil {
		return d
	}
	return &Definition{Identity: Identity{Entities: []Entity{"unknown"}}}
}

// explainer compares rules with one kind of traffic.
type explainer struct {
	Traffic
	subject, peer *Definition
}

func (x *explainer) rule(p *Policy, r *Rule) RuleMatch {
	return RuleMatch{Policy: p, Rule: r, Peer: peersUnmet(r.Peers, x.peer, x.Addr), Port: x.portsUnmet(r)}
}

// swapped says whether a policy that does not select the subject selects the peer, with a rule for the subject.
func (x *explainer) swapped(p *Policy, m *RuleMatch) bool {
	return x.peer.Pod() && len(p.Subject) > 0 && len(p.Subject.unmet(x.peer)) == 0 && len(m.Port) == 0 && len(m.Peer) > 0 &&
		len(peersUnmet(m.Rule.Peers, x.subject, netip.Addr{})) == 0
}

// peersUnmet says why none of peers is the identity: of the one that is nearest.
func peersUnmet(peers []Peer, id *Definition, addr netip.Addr) []Miss {
	nearest := []Miss{{Field: FieldPeers, Want: "nobody", Got: peerName(id, addr)}}
	for i := range peers {
		unmet := peers[i].unmet(id, addr)
		if len(unmet) == 0 {
			return nil
		}
		if i == 0 || len(unmet) < len(nearest) || len(unmet) == len(nearest) && farther(nearest[0].Field, unmet[0].Field) {
			nearest = unmet
		}
	}
	return nearest
}

// farther says whether an alternative of another kind gives way to one that speaks of what the peer is.
func farther(a, b Field) bool { return a == FieldKind && b != FieldKind }

func (p *Peer) unmet(id *Definition, addr netip.Addr) []Miss {
	if p.Kind != PeerSelector && id.matches(p) {
		return nil
	}
	switch p.Kind {
	case PeerSelector:
		if !id.Pod() {
			return []Miss{{Field: FieldKind, Want: p.String(), Got: peerName(id, addr)}}
		}
		return p.Selector.unmet(id)
	case PeerCIDR:
		mayMatch := id.Is(EntityWorld) || p.MatchNodes && !id.Pod() || p.MatchPods && (id.Pod() || id.Is(EntityUnmanaged))
		switch {
		case !mayMatch:
			return []Miss{{Field: FieldKind, Want: p.String() + " outside of the cluster", Got: peerName(id, addr)}}
		case !id.within(p.CIDR.Masked()):
			return []Miss{{Field: FieldCIDR, Want: p.CIDR.Masked().String(), Got: peerName(id, addr)}}
		}
		for _, e := range p.Except {
			if id.within(e.Masked()) {
				return []Miss{{Field: FieldExcept, Want: e.Masked().String(), Got: peerName(id, addr)}}
			}
		}
	}
	return []Miss{{Field: FieldEntity, Want: p.String(), Got: peerName(id, addr)}}
}

// unmet lists the requirements that labels do not meet.
func (s Selector) unmet(id *Definition) []Miss {
	var unmet []Miss
	for i := range s {
		r := &s[i]
		if r.matches(id.Labels) {
			continue
		}
		m := Miss{Field: FieldLabel, Key: labelName(r.Key), Want: r.String()}
		if r.Key == namespaceLabel {
			m.Field = FieldNamespace
		}
		m.Got, m.Present = id.Labels[r.Key]
		unmet = append(unmet, m)
	}
	return unmet
}

// portsUnmet says why none of a rule's ports is that of the traffic.
func (x *explainer) portsUnmet(r *Rule) []Miss {
	got := PortRun{x.Protocol, x.Port, x.Port}.String()
	if len(r.Ports) == 0 {
		return []Miss{{Field: FieldPorts, Want: "no port", Got: got}}
	}
	unmet := Miss{Field: FieldProtocol, Got: got}
	var same, others []string
	for i := range r.Ports {
		p := &r.Ports[i]
		switch named, is := x.port(r.Direction, p); {
		case is:
			return nil
		case p.Protocol != x.Protocol:
			others = append(others, p.String())
		case p.Name != "" && !named:
			same = append(same, p.String()+", which is no port of "+having(r.Direction)+"'s")
			if unmet.Field != FieldPort {
				unmet.Field = FieldPortName
			}
		default:
			same = append(same, x.resolvedName(r.Direction, p))
			unmet.Field = FieldPort
		}
	}
	if len(same) == 0 {
		same = others
	}
	unmet.Want = joined(same)
	return []Miss{unmet}
}

// port says whether p is the traffic's port; named, whether a port name means anything here.
func (x *explainer) port(dir Direction, p *PortMatch) (named, is bool) {
	switch {
	case p.Protocol == 0:
		return true, true
	case p.Protocol != x.Protocol:
		return false, false
	case p.Name == "":
		r, ok := newPortRange(p.Protocol, p.First, p.Last)
		return true, ok && (portMask(p.Protocol) == 0 || r.first <= x.Port && x.Port <= r.last)
	}
	ranges := x.named(dir, p)
	return len(ranges) > 0, slices.ContainsFunc(ranges, func(r portRange) bool { return r.first <= x.Port && x.Port <= r.last })
}

// named resolves a port name: by the subject's ports at ingress, by the peer's at egress, where there are no ranges.
func (x *explainer) named(dir Direction, p *PortMatch) []portRange {
	if dir == Ingress {
		return resolvePort(p, x.subject)
	}
	single := *p
	single.RangeTo = 0
	return resolvePort(&single, x.peer)
}

func (x *explainer) resolvedName(dir Direction, p *PortMatch) string {
	name := p.String()
	if p.Name == "" {
		return name
	}
	for _, r := range x.named(dir, p) {
		name += " (here " + PortRun{r.protocol, r.first, r.last}.String() + ")"
	}
	return name
}

func having(dir Direction) string {
	if dir == Egress {
		return "the destination"
	}
	return "the pod"
}
