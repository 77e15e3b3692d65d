// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// memberKind says what a member is.
type memberKind uint8

const (
	memberPods      memberKind = iota // pods of a workload
	memberHost                        // nodes, as their own pods see them
	memberRemote                      // nodes, as pods of other nodes see them
	memberUnmanaged                   // addresses of podCIDRs that no pod has
	memberWorld                       // addresses outside of the cluster
)

// member is a set of addresses that both models take for one identity, before and after: the least that a comparison tells
// apart.
type member struct {
	kind         memberKind
	name         string // of the workload
	namespace    string
	ns, workload int          // their numbers
	pods         []string     // their keys in the new model
	nodes        []string     // where the pods run; the nodes themselves
	addrs        [][]string   // of each of the nodes
	prefix       netip.Prefix // of what is outside, less the longer prefixes inside
	ids          [2]int32     // identities, by side
	reading      [2]int       // by which policies pods are guarded
	class        [2][]int32   // peer classes, by side and reading
	view         [2]int32     // by Direction
}

// comparer is the state of a comparison for one family of addresses.
type comparer struct {
	family                int
	sides                 [2]*comparedSide
	members               []*member
	ports                 *portSpace
	port                  *portSets
	views                 [2][]*view
	byClass               [2][][][]int32 // side → reading → peer class → members
	parts                 map[partKey][]part
	known                 map[[4]int32][]turnKey
	causes                []knownCause
	causeNumbers          map[knownCause]int32
	turned                map[turnKey]*turning
	all                   census
	here                  census   // scratch
	namespaces, workloads []string // by number
	workloadsOf           [][]int  // by namespace
	others                []int32  // members that are not pods
	outside               []int32  // of these, what is neither pod nor node, by prefix

	appeared, vanished []string
}

// podAt is a pod with its identity on one side.
type podAt struct {
	pod *Pod
	id  int32
}

// enlist finds the members, and which workloads and nodes only one side has.
func (c *comparer) enlist(group Grouping) {
	c.enlistPods(group)
	c.enlistNodes()
	c.enlistOutside()
}

func (c *comparer) enlistPods(group Grouping) {
	var known [2]map[string]int
	var here [2]map[string][]podAt
	for i, s := range c.sides {
		known[i], here[i] = map[string]int{}, map[string][]podAt{}
		for j := range s.model.Pods {
			known[i][group(&s.model.Pods[j])]++
		}
		for j := range s.owners {
			o := &s.owners[j]
			if o.pod != nil && family(o.prefix.Addr()) == c.family {
				w := group(o.pod)
				here[i][w] = append(here[i][w], podAt{o.pod, s.number(o.id.Identity, o.id.key())})
			}
		}
	}
	c.appeared, c.vanished = missing(known[1], known[0], podCount), missing(known[0], known[1], podCount)
	for _, w := range sortedStrings(here[1]) {
		if len(here[0][w]) > 0 {
			c.enlistWorkload(w, here[0][w], here[1][w])
		}
	}
}

func podCount(name string, pods int) string {
	if pods == 1 {
		return name
	}
	return fmt.Sprintf("%s (%d pods)", name, pods)
}

// enlistWorkload pairs the pods of a workload: by name, then as they come; one that has no partner left is compared with
// the first.
func (c *comparer) enlistWorkload(name string, old, now []podAt) {
	byKey := func(a, b podAt) int { return strings.Compare(a.pod.Key(), b.pod.Key()) }
	slices.SortFunc(old, byKey)
	slices.SortFunc(now, byKey)
	find := func(in []podAt, key string) int {
		return slices.IndexFunc(in, func(p podAt) bool { return p.pod.Key() == key })
	}
	if len(old) > 1 || len(now) > 1 {
		index := map[string]bool{}
		for _, p := range now {
			index[p.pod.Key()] = true
		}
		slices.SortStableFunc(old, func(a, b podAt) int { return boolCompare(!index[a.pod.Key()], !index[b.pod.Key()]) })
	}
	partners := map[string]podAt{}
	same := 0
	for ; same < len(old); same++ {
		if find(now, old[same].pod.Key()) < 0 {
			break
		}
		partners[old[same].pod.Key()] = old[same]
	}
	strangers := old[same:]
	used := 0
	type sort struct {
		ids     [2]int32
		reading [2]int
	}
	pairs := map[sort]*member{}
	add := func(before, after podAt) {
		is := sort{[2]int32{before.id, after.id}, [2]int{c.sides[0].ofNode[before.pod.Node], c.sides[1].ofNode[after.pod.Node]}}
		m := pairs[is]
		if m == nil {
			m = &member{kind: memberPods, name: name, namespace: after.pod.Namespace, ids: is.ids, reading: is.reading}
			pairs[is] = m
			c.members = append(c.members, m)
		}
		m.pods = append(m.pods, after.pod.Key())
		if !slices.Contains(m.nodes, after.pod.Node) {
			m.nodes = append(m.nodes, after.pod.Node)
		}
	}
	for _, p := range now {
		partner, ok := partners[p.pod.Key()]
		if !ok {
			partner = old[0]
			if used < len(strangers) {
				partner = strangers[used]
				used++
			}
		}
		add(partner, p)
	}
	for _, p := range strangers[used:] { // fewer pods than there were: who is gone had the rights of who stays
		add(p, now[0])
	}
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (c *comparer) enlistNodes() {
	var known [2]map[string]int
	var at [2]map[string][]*owner
	for i, s := range c.sides {
		known[i], at[i] = map[string]int{}, map[string][]*owner{}
		for j := range s.model.Nodes {
			known[i][s.model.Nodes[j].Name]++
		}
		for j := range s.owners {
			o := &s.owners[j]
			if isNode(o) && family(o.prefix.Addr()) == c.family {
				at[i][o.node] = append(at[i][o.node], o)
			}
		}
	}
	nodeName := func(name string, _ int) string { return "node " + name }
	c.appeared = append(c.appeared, missing(known[1], known[0], nodeName)...)
	c.vanished = append(c.vanished, missing(known[0], known[1], nodeName)...)
	for _, kind := range []memberKind{memberHost, memberRemote} {
		pairs := map[[2]int32]*member{}
		for _, name := range sortedStrings(at[1]) {
			for _, after := range at[1][name] {
				if len(at[0][name]) == 0 {
					continue
				}
				before := at[0][name][0]
				if j := slices.IndexFunc(at[0][name], func(o *owner) bool { return o.prefix == after.prefix }); j >= 0 {
					before = at[0][name][j]
				}
				ids := [2]int32{c.sides[0].nodeNumber(before, kind), c.sides[1].nodeNumber(after, kind)}
				m := pairs[ids]
				if m == nil {
					m = &member{kind: kind, ids: ids}
					pairs[ids] = m
					c.members = append(c.members, m)
				}
				if n := len(m.nodes); n == 0 || m.nodes[n-1] != name {
					m.nodes, m.addrs = append(m.nodes, name), append(m.addrs, nil)
				}
				last := len(m.addrs) - 1
				m.addrs[last] = append(m.addrs[last], after.prefix.Addr().String())
			}
		}
	}
}

func isNode(o *owner) bool { return o.kind == AddressNode || o.kind == AddressHost }

// nodeNumber is the identity of a node's address as pods of the node see it, or all others.
func (s *comparedSide) nodeNumber(o *owner, kind memberKind) int32 {
	id := o.id.Identity
	id.Entities = slices.Clone(id.Entities)
	for i, e := range id.Entities {
		if e == EntityHost || e == EntityRemoteNode {
			id.Entities[i] = EntityRemoteNode
			if kind == memberHost {
				id.Entities[i] = EntityHost
			}
		}
	}
	slices.Sort(id.Entities)
	return s.number(id, id.key())
}

// enlistOutside finds the prefixes of what is neither pod nor node in both models and not all of it in longer ones.
func (c *comparer) enlistOutside() {
	var outside [2]*prefixSet[*owner]
	all, taken := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
	for i, s := range c.sides {
		members := map[netip.Prefix]*owner{}
		for j := range s.owners {
			o := &s.owners[j]
			if family(o.prefix.Addr()) != c.family {
				continue
			}
			all[o.prefix] = true
			if o.pod == nil && !isNode(o) {
				members[o.prefix] = o
			} else {
				taken[o.prefix] = true
			}
		}
		outside[i] = newPrefixSet(members)
	}
	sorted := make([]netip.Prefix, 0, len(all))
	for p := range all {
		sorted = append(sorted, p)
	}
	slices.SortFunc(sorted, comparePrefix)
	for i, p := range sorted {
		end := i + 1
		for end < len(sorted) && p.Overlaps(sorted[end]) {
			end++
		}
		if taken[p] || filled(p, sorted[i+1:end]) {
			continue
		}
		m := &member{kind: memberUnmanaged, prefix: p}
		for side, s := range c.sides {
			var covering *owner
			outside[side].containing(p, func(_ netip.Prefix, o *owner) { covering = o })
			m.ids[side] = s.number(covering.id.Identity, covering.id.key())
			if side == 1 && covering.id.Is(EntityWorld) {
				m.kind = memberWorld
			}
		}
		c.members = append(c.members, m)
	}
}

// filled says whether the prefixes inside of p, which are sorted, leave nothing of it.
func filled(p netip.Prefix, inside []netip.Prefix) bool {
	if len(inside) == 0 {
		return false
	}
	if inside[0] == p {
		return true
	}
	if p.IsSingleIP() {
		return false
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	split, _ := slices.BinarySearchFunc(inside, upperHalf(low), comparePrefix)
	return filled(low, inside[:split]) && filled(upperHalf(low), inside[split:])
}

// upperHalf is the other half of the prefix that low is the first half of.
func upperHalf(low netip.Prefix) netip.Prefix {
	b := low.Addr().AsSlice()
	bit := low.Bits() - 1
	b[bit/8] |= 0x80 >> (bit % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, low.Bits())
}

// missing lists the names that there has and here has not.
func missing(there, here map[string]int, text func(name string, count int) string) []string {
	var names []string
	for _, name := range sortedStrings(there) {
		if here[name] == 0 {
			names = append(names, text(name, there[name]))
		}
	}
	return names
}

func sortedStrings[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}

// meets says whether some packet goes between two different members: pods meet only some of the nodes as their own.
func (m *member) meets(other *member) bool {
	if m.kind != memberPods && other.kind != memberPods {
		return false
	}
	if m.kind != memberPods {
		m, other = other, m
	}
	switch other.kind {
	case memberHost:
		return slices.ContainsFunc(other.nodes, func(n string) bool { return slices.Contains(m.nodes, n) })
	case memberRemote:
		return len(other.nodes) > 1 || len(m.nodes) > 1 || m.nodes[0] != other.nodes[0]
	}
	return m != other || len(m.pods) > 1
}
