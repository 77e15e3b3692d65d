// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Verdict is a cell with its rule named.
type Verdict struct {
	Allow bool
	Rule  RuleName // zero: no rule decided
}

func (v Verdict) String() string {
	s := "deny"
	if v.Allow {
		s = "allow"
	}
	if v.Rule == (RuleName{}) {
		return s + " by default"
	}
	return s + " by " + v.Rule.Policy + " " + v.Rule.Path
}

// Change is a set of verdicts that turned.
type Change struct {
	Pod       string // the local pod whose policy it is
	Direction Direction
	Peers     []string // identities in full, sorted; "old → new" where the peer's identity changed as well
	Ports     PortRun
	Before    Verdict
	After     Verdict
}

func (c Change) String() string {
	way := "from"
	if c.Direction == Egress {
		way = "to"
	}
	return fmt.Sprintf("%s %s %s %s: %s → %s", c.Pod, way, strings.Join(c.Peers, ", "), c.Ports, c.Before, c.After)
}

// PortRun is a run of ports, or ICMP types, of one protocol. Protocol 0 stands for every protocol that no rule names.
type PortRun struct {
	Protocol    uint8
	First, Last uint16
}

func (r PortRun) String() string {
	name := ProtocolName(r.Protocol)
	switch {
	case r.Protocol == 0:
		return "other protocols"
	case portMask(r.Protocol) == 0 || r.First == 0 && r.Last == portMask(r.Protocol):
		return name
	case r.First == r.Last:
		return fmt.Sprintf("%s %d", name, r.First)
	}
	return fmt.Sprintf("%s %d-%d", name, r.First, r.Last)
}

// ProtocolName is the usual name of an IP protocol number.
func ProtocolName(protocol uint8) string {
	switch protocol {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	case ICMP:
		return "ICMP"
	case ICMPv6:
		return "ICMPv6"
	}
	return fmt.Sprintf("protocol %d", protocol)
}

// portClass is the image's class of a port.
func (img *Image) portClass(protocol uint8, port uint16) uint16 {
	at := img.u32(offProtocols) + uint32(protocol)*imageProtocolSize
	return img.u16(img.u32(offClasses) + 2*(img.u32(at)+(uint32(port)&img.u32(at+4))))
}

// portRuns divides all ports into runs within which no image makes a difference.
func portRuns(images ...*Image) []PortRun {
	var runs []PortRun
	others := false
	for protocol := range 256 {
		p := uint8(protocol)
		named := slices.ContainsFunc(images, func(img *Image) bool {
			return img.portClass(p, 0) != 0 || img.u32(img.u32(offProtocols)+uint32(p)*imageProtocolSize+4) != 0
		})
		if !named {
			others = true
			continue
		}
		run := PortRun{Protocol: p}
		for port := 1; port <= int(portMask(p)); port++ {
			if slices.ContainsFunc(images, func(img *Image) bool { return img.portClass(p, uint16(port)) != img.portClass(p, uint16(port-1)) }) {
				runs = append(runs, run)
				run.First = uint16(port)
			}
			run.Last = uint16(port)
		}
		runs = append(runs, run)
	}
	if others {
		runs = append(runs, PortRun{})
	}
	return runs
}

// protocolOf is a protocol of the run: if it stands for several, one that this image does not name.
func (img *Image) protocolOf(run PortRun) uint8 {
	if run.Protocol == 0 {
		for p := range 256 {
			if img.portClass(uint8(p), 0) == 0 && portMask(uint8(p)) == 0 {
				return uint8(p)
			}
		}
	}
	return run.Protocol
}

// lookup is Lookup for any port of a run.
func (img *Image) lookup(dir Direction, subject, peer uint32, run PortRun) Cell {
	return img.Lookup(dir, subject, peer, img.protocolOf(run), run.First)
}

func (img *Image) verdict(c Cell) Verdict {
	v := Verdict{Allow: c.Allow()}
	v.Rule = img.keys.ruleIndex[c.Rule()]
	return v
}

// pair is an identity before and after.
type pair struct{ old, now uint32 }

// Diff lists the verdicts that differ between two compiled models of one node, for pods that both have, sorted. Verdicts
// that stay but are owed to another rule are not listed.
func Diff(old, now *Compiled) []Change {
	runs := portRuns(old.Image, now.Image)
	peers := peerPairs(old, now)
	var changes []Change
	for i := range now.Endpoints {
		after := &now.Endpoints[i]
		before := old.Endpoint(after.Pod)
		if before == nil {
			continue
		}
		subject := pair{before.Identity, after.Identity}
		for _, dir := range []Direction{Ingress, Egress} {
			if old.Image.Policed(dir, subject.old) || now.Image.Policed(dir, subject.now) {
				changes = append(changes, diffRow(old.Image, now.Image, after.Pod, dir, subject, peers, runs)...)
			}
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Ports.Protocol, b.Ports.Protocol),
			cmp.Compare(a.Ports.First, b.Ports.First), slices.Compare(a.Peers, b.Peers))
	})
	return changes
}

// peerPairs lists what peers are in the one model and the other, by the peer classes of both. Within any entry's prefix,
// apart from longer ones inside it, each model has one identity.
func peerPairs(old, now *Compiled) map[[2]uint16][]pair {
	seen := map[pair]bool{}
	pairs := map[[2]uint16][]pair{}
	visit := func(prefix netip.Prefix) {
		p := pair{old.covering(prefix).Identity, now.covering(prefix).Identity}
		if !seen[p] {
			seen[p] = true
			class := [2]uint16{old.Image.peerClass(p.old), now.Image.peerClass(p.now)}
			pairs[class] = append(pairs[class], p)
		}
	}
	for _, c := range []*Compiled{old, now} {
		for i := range c.Addresses {
			visit(c.Addresses[i].Prefix)
		}
	}
	return pairs
}

func diffRow(old, now *Image, pod string, dir Direction, subject pair, peers map[[2]uint16][]pair, runs []PortRun) []Change {
	type turn struct {
		ports         PortRun
		before, after Cell
	}
	turned := map[turn][]string{}
	for _, pairs := range peers {
		var names []string
		var last *turn
		add := func() {
			if last != nil {
				turned[*last] = append(turned[*last], names...)
				last = nil
			}
		}
		for _, run := range runs {
			t := turn{run, old.lookup(dir, subject.old, pairs[0].old, run), now.lookup(dir, subject.now, pairs[0].now, run)}
			if t.before.Allow() == t.after.Allow() {
				add()
				continue
			}
			if names == nil {
				names = pairNames(old, now, pairs)
			}
			if last != nil && last.before == t.before && last.after == t.after && last.ports.Protocol == run.Protocol && run.Protocol != 0 {
				last.ports.Last = run.Last
				continue
			}
			add()
			last = &t
		}
		add()
	}
	changes := make([]Change, 0, len(turned))
	for t, names := range turned {
		slices.Sort(names)
		changes = append(changes, Change{pod, dir, slices.Compact(names), t.ports, old.verdict(t.before), now.verdict(t.after)})
	}
	return changes
}

func pairNames(old, now *Image, pairs []pair) []string {
	names := make([]string, len(pairs))
	for i, p := range pairs {
		names[i] = now.fullName(p.now)
		if before := old.fullName(p.old); before != names[i] {
			names[i] = before + " → " + names[i]
		}
	}
	return names
}

// fullName is IdentityName with all that tells identities apart.
func (img *Image) fullName(number uint32) string {
	name := img.IdentityName(number)
	if d := img.keys.identities.get(number); d != nil {
		name += portNames(d.Ports) + prefixNames(&d.Identity)
	}
	return name
}
