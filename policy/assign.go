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
	for i := range g.owners {
		o := &g.owners[i]
		name := o.id.key()
		d := defs[name]
		if was, ok := moved[o]; ok {
			name = g.live.exceptionName(was, o.id.key())
			if d = defs[name]; d == nil {
				d = &Definition{Identity: o.id.Identity, Name: name, cachedKey: o.id.key()}
				defs[name] = d
				before[name] = g.live.numbers.identities[was]
			}
			d.Addrs = append(d.Addrs, o.prefix.Addr())
		} else if old := kept[o.prefix.Addr()]; old != nil && old.key() == o.id.key() && o.prefix.IsSingleIP() {
			name = old.Name
			if d = defs[name]; d == nil {
				copied := *old
				copied.Addrs = nil
				d = &copied
				defs[name] = d
			}
			d.Addrs = append(d.Addrs, o.prefix.Addr())
		} else if d == nil {
			if d = o.id; g.live != nil && g.live.numbers.identities.get(g.live.identities[name]) == d {
				copied := *d
				d = &copied
			}
			defs[name] = d
		}
		d.Local = d.Local || o.kind == AddressLocalPod
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
func (s *state) exceptionName(was uint32, key string) string {
	name := fmt.Sprintf("%d→%s", was, key)
	for s.identities[name] != 0 {
		name = "→" + name
	}
	return name
}

// numberIdentities adds the definitions that addresses will have, and those they have now, to the numbers.
func (g *planning) numberIdentities(defs map[string]*Definition) (map[string]uint32, error) {
	ids := pool[string, uint32]{what: "identities", first: FirstIdentity, last: MaxIdentity, tried: g.tried.identities}
	fixed := g.numbers.identities // the reserved ones
	ids.held = identityNames(fixed)
	if g.live != nil {
		ids.held, ids.resting = g.live.identities, g.live.restingIdentities
	}
	numbers, err := ids.assign(slices.Sorted(maps.Keys(defs)), 0)
	if err != nil {
		return nil, err
	}
	for name, number := range numbers {
		if _, held := ids.held[name]; !held {
			g.tried.identity(name, number)
		}
		d := defs[name]
		if g.live != nil {
			old := g.live.numbers.identities.get(number)
			if old == nil || d.Local && !old.Local {
				g.fresh = true
			}
			if d.Local = d.Local || old != nil && old.Local; old != nil && old.same(d) {
				d = old
			}
		}
		fixed = fixed.set(number, d)
	}
	if g.live != nil {
		for number, d := range g.live.numbers.identities.all() {
			if g.live.uses[number] == 0 || fixed.get(number) != nil {
				continue
			}
			if len(d.Addrs) > 0 {
				retiring := *d
				retiring.Addrs = nil
				d = &retiring
			}
			fixed = fixed.set(number, d)
		}
	}
	g.numbers.identities = fixed
	return numbers, nil
}

// exceptions are the definitions with a Name by the addresses that have them.
func (g *planning) exceptions() map[netip.Addr]*Definition {
	kept := map[netip.Addr]*Definition{}
	if g.live != nil {
		for _, d := range g.live.numbers.identities.all() {
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
	for i := range g.owners {
		o := &g.owners[i]
		a := g.live.addresses.find(o.prefix)
		if a == nil {
			continue
		}
		old := g.live.numbers.identities.get(a.Identity)
		if old == nil || old.key() == o.id.key() || !differ(&old.Identity, &o.id.Identity, &g.live.numbers.vocabulary, &g.numbers.vocabulary) {
			continue
		}
		if o.pod != nil {
			if t, _ := g.live.numbers.tenancy(o.prefix.Addr()); t.Left != 0 || !o.pod.is(t.PodName) {
				continue
			}
		} else if a.Kind != o.kind || o.kind != AddressNode && o.kind != AddressHost {
			continue
		}
		moved[o] = a.Identity
		who[o.String()] = true
	}
	if len(who) > 1 || g.changed {
		return moved
	}
	return nil
}

// differ compares what both identities remember, by their vocabularies; named prefixes are as old as the policies that name
// them.
func differ(old, now *Identity, oldWords, nowWords *Vocabulary) bool {
	common := func(a, b map[string]string, v *Vocabulary) bool {
		for k, value := range a {
			if other, ok := b[k]; v.keeps(k) && (!ok || other != value) {
				return true
			}
		}
		return false
	}
	return !slices.Equal(old.Entities, now.Entities) || !slices.Equal(old.Ports, now.Ports) ||
		common(old.Labels, now.Labels, nowWords) || common(now.Labels, old.Labels, oldWords)
}

// assignRules numbers the rules that select a local pod, by the old policies and by the new, and keeps the names of those
// that did until now.
func (g *planning) assignRules() error {
	rules := pool[RuleName, uint16]{what: "rules", first: RuleHost + 1, last: MaxRule - 1, cursor: &g.numbers.lastRule}
	g.rules = map[RuleName]bool{}
	collect := func(policies []Policy, into map[RuleName]bool) {
		for i, m := range g.memo.meaningsOf(policies, g.numbers.identities) {
			if len(m.subjects.members) > 0 {
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
		rules.held, rules.resting = g.live.numbers.rules, g.live.restingRules
		g.numbers.lastRule = g.live.numbers.lastRule
		maps.Copy(all, g.live.rulesInUse)
		if g.changed && g.fresh {
			collect(g.live.policies, all)
		}
	}
	var err error
	g.numbers.rules, err = rules.assign(sortedNames(all, func(a, b RuleName) int {
		return cmp.Or(strings.Compare(a.Policy, b.Policy), strings.Compare(a.Path, b.Path))
	}), MaxRule)
	return err
}

func (g *planning) assignSlots() error {
	endpoints := pool[PodName, uint16]{what: "local pods", first: 1, last: MaxEndpoint, tried: g.tried.endpoints}
	nodes := pool[string, uint16]{what: "nodes", first: 1, last: MaxNode, tried: g.tried.nodes}
	if g.live != nil {
		endpoints.held, endpoints.resting = g.live.numbers.endpoints, g.live.restingEndpoints
		nodes.held, nodes.resting = g.live.numbers.nodes, g.live.restingNodes
	}
	pods, names := map[PodName]bool{}, map[string]bool{}
	for i := range g.owners {
		if o := &g.owners[i]; o.kind == AddressLocalPod {
			pods[o.pod.podName()] = true
		}
	}
	endpoints.held = g.keptSlots(endpoints.held)
	for i := range g.model.Nodes {
		names[g.model.Nodes[i].Name] = true
	}
	var err error
	if g.numbers.endpoints, err = endpoints.assign(sortedNames(pods, comparePodNames), 0); err != nil {
		return err
	}
	if g.numbers.nodes, err = nodes.assign(sortedNames(names, strings.Compare), 0); err != nil {
		return err
	}
	g.tried.endpoints = merged(g.tried.endpoints, g.numbers.endpoints)
	g.tried.nodes = merged(g.tried.nodes, g.numbers.nodes)
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
	for i := range g.owners {
		o := &g.owners[i]
		if o.kind != AddressLocalPod {
			continue
		}
		a := g.live.addresses.find(o.prefix)
		if a == nil || a.Kind != AddressLocalPod || taken[a.Slot] {
			continue
		}
		if name := o.pod.podName(); held[name] == 0 {
			held[name], taken[a.Slot] = a.Slot, true
		}
	}
	return held
}

// assignTenancies counts another pod at an address. The last pod of an address is remembered when it is gone; of too many
// such, the latest.
func (g *planning) assignTenancies() {
	var have chunks[tenancyKey]
	if g.live != nil {
		have = g.live.numbers.tenancies
	}
	list := make([]tenancyKey, 0, len(g.owners))
	at := 0
	come := func(before func(*owner) bool) { // pods at addresses that had none
		for ; at < len(g.owners) && before(&g.owners[at]); at++ {
			if o := &g.owners[at]; o.pod != nil {
				list = append(list, tenancyKey{o.prefix.Addr(), Tenancy{PodName: o.pod.podName()}})
			}
		}
	}
	have.each(func(old *tenancyKey) {
		come(func(o *owner) bool { return o.pod == nil || o.prefix.Addr().Less(old.Addr) })
		next := *old
		if at < len(g.owners) && g.owners[at].prefix.Addr() == old.Addr {
			o := &g.owners[at]
			at++
			next.Left = 0
			if !g.sameTenant(o, &old.Tenancy) {
				next.Count++
			}
			if !o.pod.is(next.PodName) {
				next.PodName = o.pod.podName()
			}
		} else {
			next.Left = cmp.Or(next.Left, g.generation+1)
		}
		list = append(list, next)
	})
	come(func(*owner) bool { return true })
	list = forgetDeparted(list)
	g.numbers.tenancies = tenancyListing().following(have, list, func(a, b *tenancyKey) bool { return *a == *b })
}

// sameTenant says whether an owner is the pod that had its address. Where only the kernel knows the last one, equal
// identities are taken for the same pod.
func (g *planning) sameTenant(o *owner, old *Tenancy) bool {
	if old.PodName != (PodName{}) {
		return o.pod.is(old.PodName)
	}
	a := g.live.addresses.find(o.prefix)
	if a == nil {
		return false
	}
	d := g.live.numbers.identities.get(a.Identity)
	return d != nil && d.key() == o.id.key()
}

// forgetDeparted is the list without the tenancies of addresses that have been nobody's longest: all but the last
// maxDeparted of them.
func forgetDeparted(list []tenancyKey) []tenancyKey {
	var departed []*tenancyKey
	for i := range list {
		if list[i].Left != 0 {
			departed = append(departed, &list[i])
		}
	}
	if len(departed) <= maxDeparted {
		return list
	}
	slices.SortFunc(departed, func(a, b *tenancyKey) int {
		return cmp.Or(cmp.Compare(b.Left, a.Left), a.Addr.Compare(b.Addr))
	})
	forgotten := make(map[netip.Addr]bool, len(departed)-maxDeparted)
	for _, t := range departed[maxDeparted:] {
		forgotten[t.Addr] = true
	}
	return slices.DeleteFunc(list, func(t tenancyKey) bool { return forgotten[t.Addr] })
}

// is says whether the pod has this name, without writing it.
func (p *Pod) is(n PodName) bool {
	ns := len(p.Namespace)
	return p.UID == n.UID && len(n.Pod) == ns+1+len(p.Name) && n.Pod[:ns] == p.Namespace && n.Pod[ns] == '/' && n.Pod[ns+1:] == p.Name
}

func (p *Pod) podName() PodName { return PodName{p.Key(), p.UID} }

func comparePodNames(a, b PodName) int {
	return cmp.Or(strings.Compare(a.Pod, b.Pod), strings.Compare(a.UID, b.UID))
}

func merged[K comparable, N any](a, b map[K]N) map[K]N {
	all := make(map[K]N, len(a)+len(b))
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}
