// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// String is the kind's name for people.
func (k AddressKind) String() string {
	names := []string{"outside", "local pod", "remote pod", "node", "host", "local podCIDR", "remote podCIDR"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// String is the direction's name for people.
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// String is the tier's name for people.
func (t Tier) String() string {
	switch t {
	case TierAdmin:
		return "admin"
	case TierBaseline:
		return "baseline"
	}
	return "normal"
}

// String is the action's name for people.
func (a Action) String() string {
	switch a {
	case Deny:
		return "deny"
	case Pass:
		return "pass"
	}
	return "allow"
}

// WriteText writes all that was compiled in a form for people. Equal tables are equal text.
func (c *Compiled) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	img := c.Image
	fmt.Fprintf(b, "image of %s: generation %d, %d bytes, %d rows, checksum %08x\n", img.Node(), img.Generation(), img.Size(), img.Rows(), img.u32(offChecksum))
	fmt.Fprintf(b, "\nnodes\n")
	for _, n := range c.Nodes {
		fmt.Fprintf(b, "  %d %s mac %x\n", n.Slot, n.Name, n.VTEPMAC)
	}
	fmt.Fprintf(b, "\nidentities\n")
	for number, d := range img.keys.identities.all() {
		local := ""
		if d.Local {
			local = " (local)"
		}
		fmt.Fprintf(b, "  %d %s%s\n", number, img.fullName(number), local)
	}
	fmt.Fprintf(b, "\naddresses\n")
	for _, a := range c.Addresses {
		fmt.Fprintf(b, "  %s %s, identity %d, slot %d, tenancy %d%s\n", a.Prefix, a.Kind, a.Identity, a.Slot, a.Tenancy, flagNames(a.Flags))
	}
	fmt.Fprintf(b, "\nservices\n")
	for _, s := range c.Services {
		fmt.Fprintf(b, "  %s %s %d →", s.Addr, ProtocolName(s.Protocol), s.Port)
		for _, backend := range s.Backends {
			host := ""
			if backend.Host {
				host = " (host)"
			}
			fmt.Fprintf(b, " identity %d port %d%s;", backend.Identity, backend.Port, host)
		}
		fmt.Fprintf(b, "\n")
	}
	fmt.Fprintf(b, "\nrules\n")
	order := img.keys.order()
	for _, n := range slices.Sorted(maps.Keys(img.keys.ruleIndex)) {
		r := img.keys.ruleIndex[n]
		fmt.Fprintf(b, "  %d %s %s%s\n", n, r.Policy, r.Path, order[r])
	}
	if audited := img.AuditedPolicies(); len(audited) > 0 {
		fmt.Fprintf(b, "\nunder audit\n")
		for _, key := range audited {
			fmt.Fprintf(b, "  %s\n", key)
		}
	}
	runs := portRuns(img)
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		fmt.Fprintf(b, "\npod %s: slot %d, identity %d\n", e.Pod, e.Slot, e.Identity)
		for _, dir := range []Direction{Ingress, Egress} {
			switch {
			case !e.Policed[dir]:
				fmt.Fprintf(b, "  %s: no policy\n", dir)
			case img.Enforced(dir, e.Identity):
				fmt.Fprintf(b, "  %s:\n", dir)
				img.writeRow(b, img.Lookup, dir, e.Identity, runs)
			default:
				fmt.Fprintf(b, "  %s: only under audit\n", dir)
			}
			if img.planesDiffer(dir, e.Identity) {
				fmt.Fprintf(b, "  %s, as if no policy were under audit:\n", dir)
				img.writeRow(b, img.LookupAudited, dir, e.Identity, runs)
			}
		}
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write policy as text: %w", err)
	}
	return nil
}

// order says where the rules of ordered tiers stand.
func (k *keys) order() map[RuleName]string {
	order := map[RuleName]string{}
	for i := range k.Policies {
		if p := &k.Policies[i]; p.Tier != TierNormal {
			for j := range p.Rules {
				r := &p.Rules[j]
				order[RuleName{p.Key, r.Path}] = fmt.Sprintf(" (tier %s, priority %d, %s)", p.Tier, p.Priority, r.Action)
			}
		}
	}
	return order
}

func portNames(ports []NamedPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, " %s=%s/%d", p.Name, ProtocolName(p.Protocol), p.Port)
	}
	return b.String()
}

func prefixNames(id *Identity) string {
	if !id.Pod() || len(id.Prefixes) == 0 {
		return ""
	}
	return fmt.Sprintf(" in %v", id.Prefixes)
}

func flagNames(f AddressFlags) string {
	s := ""
	if f&AddressUnderlay != 0 {
		s += ", underlay"
	}
	if f&AddressTunnelled != 0 {
		s += ", tunnelled"
	}
	return s
}

// lookupFunc is Image.Lookup or Image.LookupAudited.
type lookupFunc func(dir Direction, subject, peer uint32, protocol uint8, port uint16) Cell

// writeRow writes one line for every set of peers that a row treats alike.
func (img *Image) writeRow(w io.Writer, lookup lookupFunc, dir Direction, subject uint32, runs []PortRun) {
	type group struct {
		peers []uint32
		text  string
	}
	byClass := map[uint16]*group{}
	byText := map[string]*group{}
	for peer := range img.keys.identities.all() {
		class := img.peerClass(peer)
		g := byClass[class]
		if g == nil {
			text := img.cellText(lookup, dir, subject, peer, runs)
			if g = byText[text]; g == nil {
				g = &group{text: text}
				byText[text] = g
			}
			byClass[class] = g
		}
		g.peers = append(g.peers, peer)
	}
	groups := slices.SortedFunc(maps.Values(byText), func(a, b *group) int { return cmp.Compare(a.peers[0], b.peers[0]) })
	for _, g := range groups {
		names := make([]string, len(g.peers))
		for i, p := range g.peers {
			names[i] = fmt.Sprint(p)
		}
		fmt.Fprintf(w, "    %s: %s\n", strings.Join(names, " "), g.text)
	}
}

// cellText says what a row makes of one peer, ports with the same cell put together.
func (img *Image) cellText(lookup lookupFunc, dir Direction, subject, peer uint32, runs []PortRun) string {
	at := func(run PortRun) Cell { return lookup(dir, subject, peer, img.protocolOf(run), run.First) }
	var parts []string
	for i := 0; i < len(runs); {
		run, c := runs[i], at(runs[i])
		for i++; i < len(runs) && runs[i].Protocol == run.Protocol && at(runs[i]) == c; i++ {
			run.Last = runs[i].Last
		}
		parts = append(parts, fmt.Sprintf("%s %s", run, img.verdict(c)))
	}
	return strings.Join(parts, "; ")
}
