// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// maxDeparted bounds the addresses whose last pod is remembered though it is gone.
const maxDeparted = 16384

// assign fills g.numbers.
func (g *planning) assign() error {
	if err := g.assignIdentities(); err != nil {
		return err
	}
	if err := g.assignRules(); err != nil {
		return err
	}
	if err := g.assignSlots(); err != nil {
		return err
	}
	g.assignTenancies()
	return nil
}

// assignIdentities numbers every owner's identity. Pods and nodes that stay, but change what they are together with the
// policies or with each other, get a number of their own, which means the old identity until the new policies come: so
// no pair of them meets a policy that was never meant for it.
func (g *planning) assignIdentities() error {
	defs := map[string]*Definition{}
	before := map[string]*Definition{}
	moved, kept := g.moved(), g.exceptions()
	for _, o := range g.owners {
		name := o.key
		d := defs[name]
		if was, ok := moved[o]; ok {
			name = g.exceptionName(was, o.key)
			if d = defs[name]; d == nil {
				d = &Definition{Identity: o.identity, Name: name, cachedKey: o.key}
				defs[name] = d
				before[name] = g.live.numbers.Identities[was]
			}
			d.Addrs = append(d.Addrs, o.prefix.Addr())
		} else if old := kept[o.prefix.Addr()]; old != nil && old.key() == o.key && o.prefix.IsSingleIP() {
			name = old.Name
			if d = defs[name]; d == nil {
				copied := *old
				copied.Addrs = nil
				d = &copied
				defs[name] = d
			}
			d.Addrs = append(d.Addrs, o.prefix.Addr())
		} else if d == nil {
			d = &Definition{Identity: o.identity, cachedKey: o.key}
			defs[name] = d
		}
		d.Local = d.Local || o.kind == AddressLocalPod
	}
	g.used = make(map[string]bool, len(defs))
	for name := range defs {
		g.used[name] = true
	}
	numbers, err := g.numberIdentities(defs)
	if err != nil {
		return err
	}
	g.before = make(map[uint32]*Definition, len(before))
	for name, d := range before {
		copied := *d
		copied.Name, copied.Addrs = name, defs[name].Addrs
		g.before[numbers[name]] = &copied
	}
	return nil
}

// exceptionName names the number of owners that change from what was means to key together with the policies. Who changed
// so before has a number of that name, which must not change its meaning again.
func (g *planning) exceptionName(was uint32, key string) string {
	name := fmt.Sprintf("%d→%s", was, key)
	for g.live.identities[name] != 0 {
		name = "→" + name
	}
	return name
}

// numberIdentities adds the definitions that addresses will have, and those they have now, to the numbers.
func (g *planning) numberIdentities(defs map[string]*Definition) (map[string]uint32, error) {
	ids := pool[string, uint32]{what: "identities", first: FirstIdentity, last: MaxIdentity, tried: g.tried.identities}
	fixed := g.numbers.Identities // the reserved ones
	ids.held = identityNames(fixed)
	if g.live != nil {
		ids.held, ids.resting = g.live.identities, g.live.restingIdentities
	}
	numbers, err := ids.assign(sortedNames(g.used, strings.Compare), 0)
	if err != nil {
		return nil, err
	}
	g.tried.identities = merged(g.tried.identities, numbers)
	for name, number := range numbers {
		d := defs[name]
		if g.live != nil {
			old := g.live.numbers.Identities[number]
			if old == nil || d.Local && !old.Local {
				g.fresh = true
			}
			d.Local = d.Local || old != nil && old.Local
		}
		fixed[number] = d
	}
	if g.live != nil {
		for name := range g.live.inUse {
			if number := g.live.identities[name]; fixed[number] == nil {
				retiring := *g.live.numbers.Identities[number]
				retiring.Addrs = nil
				fixed[number] = &retiring
			}
		}
	}
	return numbers, nil
}

// exceptions are the definitions with a Name by the addresses that have them.
func (g *planning) exceptions() map[netip.Addr]*Definition {
	kept := map[netip.Addr]*Definition{}
	if g.live != nil {
		for _, d := range g.live.numbers.Identities {
			for _, a := range d.Addrs {
				kept[a] = d
			}
		}
	}
	return kept
}

// moved lists the pods' and nodes' addresses that keep their owner but change their identity in a way that policies could
// tell, with their present numbers; nothing if it is a single owner's and the policies stay, for then one step does it.
func (g *planning) moved() map[*owner]uint32 {
	if g.live == nil {
		return nil
	}
	moved := map[*owner]uint32{}
	who := map[string]bool{}
	for _, o := range g.owners {
		a, ok := g.live.addresses[o.prefix]
		switch {
		case !ok:
			continue
		case o.pod != nil:
			if t := g.live.numbers.Tenancies[o.prefix.Addr()]; t.Left != 0 || t.PodName != (PodName{o.pod.Key(), o.pod.UID}) {
				continue
			}
		case a.Kind != o.kind || o.kind != AddressNode && o.kind != AddressHost:
			continue
		}
		old := g.live.numbers.Identities[a.Identity]
		if old != nil && old.key() != o.key && g.differ(&old.Identity, &o.identity) {
			moved[o] = a.Identity
			who[o.String()] = true
		}
	}
	if len(who) > 1 || g.changed {
		return moved
	}
	return nil
}

// differ compares what both identities remember; named prefixes are as old as the policies that name them.
func (g *planning) differ(old, now *Identity) bool {
	common := func(a, b map[string]string, v *Vocabulary) bool {
		for k, value := range a {
			if other, ok := b[k]; v.keeps(k) && (!ok || other != value) {
				return true
			}
		}
		return false
	}
	return !slices.Equal(old.Entities, now.Entities) || !slices.Equal(old.Ports, now.Ports) ||
		common(old.Labels, now.Labels, &g.numbers.Vocabulary) || common(now.Labels, old.Labels, &g.live.numbers.Vocabulary)
}

// assignRules numbers the rules that select a local pod, by the old policies and by the new, and keeps the names of those
// that did until now.
func (g *planning) assignRules() error {
	rules := pool[RuleName, uint16]{what: "rules", first: RuleHost + 1, last: MaxRule - 1, cursor: &g.numbers.LastRule}
	g.rules = map[RuleName]bool{}
	collect := func(policies []Policy, into map[RuleName]bool) {
		for i, m := range g.memo.meaningsOf(policies, g.numbers.Identities) {
			if len(m.subjects) > 0 {
				for _, r := range policies[i].Rules {
					into[RuleName{policies[i].Key, r.Path}] = true
				}
				for _, name := range policies[i].auditedIsolations() {
					into[name] = true
				}
			}
		}
	}
	collect(g.policies, g.rules)
	all := maps.Clone(g.rules)
	if g.live != nil {
		rules.held, rules.resting = g.live.numbers.Rules, g.live.restingRules
		g.numbers.LastRule = g.live.numbers.LastRule
		maps.Copy(all, g.live.rulesInUse)
		if g.changed && g.fresh {
			collect(g.live.policies, all)
		}
	}
	var err error
	g.numbers.Rules, err = rules.assign(sortedNames(all, func(a, b RuleName) int {
		return cmp.Or(strings.Compare(a.Policy, b.Policy), strings.Compare(a.Path, b.Path))
	}), MaxRule)
	return err
}

func (g *planning) assignSlots() error {
	endpoints := pool[PodName, uint16]{what: "local pods", first: 1, last: MaxEndpoint, tried: g.tried.endpoints}
	nodes := pool[string, uint16]{what: "nodes", first: 1, last: MaxNode, tried: g.tried.nodes}
	if g.live != nil {
		endpoints.held, endpoints.resting = g.live.numbers.Endpoints, g.live.restingEndpoints
		nodes.held, nodes.resting = g.live.numbers.Nodes, g.live.restingNodes
	}
	pods, names := map[PodName]bool{}, map[string]bool{}
	for _, o := range g.owners {
		if o.kind == AddressLocalPod {
			pods[PodName{o.pod.Key(), o.pod.UID}] = true
		}
	}
	endpoints.held = g.keptSlots(endpoints.held)
	for i := range g.model.Nodes {
		names[g.model.Nodes[i].Name] = true
	}
	var err error
	if g.numbers.Endpoints, err = endpoints.assign(sortedNames(pods, func(a, b PodName) int {
		return cmp.Or(strings.Compare(a.Pod, b.Pod), strings.Compare(a.UID, b.UID))
	}), 0); err != nil {
		return err
	}
	if g.numbers.Nodes, err = nodes.assign(sortedNames(names, strings.Compare), 0); err != nil {
		return err
	}
	g.tried.endpoints = merged(g.tried.endpoints, g.numbers.Endpoints)
	g.tried.nodes = merged(g.tried.nodes, g.numbers.Nodes)
	return nil
}

// keptSlots adds to held the slots that the kernel's addresses name and held does not.
func (g *planning) keptSlots(held map[PodName]uint16) map[PodName]uint16 {
	if g.live == nil {
		return held
	}
	held = maps.Clone(held)
	taken := map[uint16]bool{}
	for _, slot := range held {
		taken[slot] = true
	}
	for _, o := range g.owners {
		a := g.live.addresses[o.prefix]
		if o.kind != AddressLocalPod || a.Kind != AddressLocalPod || taken[a.Slot] {
			continue
		}
		if name := (PodName{o.pod.Key(), o.pod.UID}); held[name] == 0 {
			held[name], taken[a.Slot] = a.Slot, true
		}
	}
	return held
}

// assignTenancies counts another pod at an address. The last pod of an address is remembered when it is gone; of too many
// such, the latest.
func (g *planning) assignTenancies() {
	tenancies := g.numbers.Tenancies
	for _, o := range g.owners {
		if o.pod == nil {
			continue
		}
		t := Tenancy{PodName: PodName{o.pod.Key(), o.pod.UID}}
		if g.live != nil {
			if old, ok := g.live.numbers.Tenancies[o.prefix.Addr()]; ok {
				t.Count = old.Count
				if !g.sameTenant(o, old, t) {
					t.Count++
				}
			}
		}
		tenancies[o.prefix.Addr()] = t
	}
	if g.live == nil {
		return
	}
	for a, t := range g.live.numbers.Tenancies {
		if _, ok := tenancies[a]; !ok {
			t.Left = cmp.Or(t.Left, g.generation+1)
			tenancies[a] = t
		}
	}
	forgetDeparted(tenancies)
}

// sameTenant says whether t is the pod that had the address. Where only the kernel knows the last one, equal identities are
// taken for the same pod.
func (g *planning) sameTenant(o *owner, old, t Tenancy) bool {
	if old.PodName != (PodName{}) {
		return old.PodName == t.PodName
	}
	d := g.live.numbers.Identities[g.live.addresses[o.prefix].Identity]
	return d != nil && d.key() == o.key
}

func merged[K comparable, N any](a, b map[K]N) map[K]N {
	all := make(map[K]N, len(a)+len(b))
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}
