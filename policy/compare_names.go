// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Names of sets of members that have one.
const (
	nameEveryone  = "everyone"
	nameAllPods   = "all pods"
	nameOwnNode   = "own node"
	nameOthers    = "other nodes"
	nameUnmanaged = "pod addresses without a pod"
	nameWorld     = "world"
)

// census counts members, to tell whole sets from parts.
type census struct {
	kinds      [memberWorld + 1]int
	namespaces []int // by number
	workloads  []int
}

func (n *census) add(m *member, by int) {
	n.kinds[m.kind] += by
	if m.kind == memberPods {
		n.namespaces[m.ns] += by
		n.workloads[m.workload] += by
	}
}

// count numbers namespaces and workloads and counts all members.
func (c *comparer) count() {
	namespaces, workloads := map[string]int{}, map[string]int{}
	number := func(numbers map[string]int, name string, names *[]string) int {
		n, ok := numbers[name]
		if !ok {
			n = len(*names)
			numbers[name] = n
			*names = append(*names, name)
		}
		return n
	}
	for i, m := range c.members {
		if m.kind != memberPods {
			c.others = append(c.others, int32(i))
			continue
		}
		m.ns, m.workload = number(namespaces, m.namespace, &c.namespaces), number(workloads, m.name, &c.workloads)
	}
	c.outside = slices.DeleteFunc(slices.Clone(c.others), func(i int32) bool { return c.members[i].kind < memberUnmanaged })
	slices.SortFunc(c.outside, func(a, b int32) int { return comparePrefix(c.members[a].prefix, c.members[b].prefix) })
	c.all = census{namespaces: make([]int, len(c.namespaces)), workloads: make([]int, len(c.workloads))}
	c.here = census{namespaces: make([]int, len(c.namespaces)), workloads: make([]int, len(c.workloads))}
	c.workloadsOf = make([][]int, len(c.namespaces))
	for _, m := range c.members {
		if c.all.add(m, 1); m.kind == memberPods && c.all.workloads[m.workload] == 1 {
			c.workloadsOf[m.ns] = append(c.workloadsOf[m.ns], m.workload)
		}
	}
}

// names are those of a set, as large ones as there are: that of everyone, of namespaces, of workloads. What meets nobody of
// others does not keep a set from being called whole.
func (c *comparer) names(set, others memberSet) []string {
	free := c.nowhere(set, others)
	names := c.listed(set, free)
	if present := c.kinds(set); !present[memberPods] || !present[memberWorld] {
		return names
	}
	rest := c.set()
	for m := range int32(len(c.members)) {
		if !set.has(m) && !free.has(m) {
			rest.add(m)
		}
	}
	switch but := c.listed(rest, free); {
	case len(but) == 0:
		return []string{nameEveryone}
	case len(but) <= mostExceptions && len(but) < len(names) && !slices.ContainsFunc(but, hasExceptions):
		return []string{nameEveryone + " but " + strings.Join(but, " and ")}
	}
	return names
}

// mostExceptions bounds what a name excepts.
const mostExceptions = 2

// hasExceptions says that a name must not be an exception itself: nobody could tell whose are whose.
func hasExceptions(name string) bool {
	return strings.Contains(name, " but ") || strings.Contains(name, " except ")
}

// kinds says which kinds of members a set has.
func (c *comparer) kinds(set memberSet) (present [memberWorld + 1]bool) {
	for i, word := range set {
		for ; word != 0; word &= word - 1 {
			present[c.members[64*i+bits.TrailingZeros64(word)].kind] = true
		}
	}
	return present
}

// listed names the members of set kind by kind; those of free count as if they were in it where that makes a kind whole.
func (c *comparer) listed(set, free memberSet) []string {
	list, present := set.list(), c.kinds(set)
	counted := slices.Concat(list, free.list())
	for _, m := range counted {
		c.here.add(c.members[m], 1)
	}
	defer func() {
		for _, m := range counted {
			c.here.add(c.members[m], -1)
		}
	}()
	var names []string
	if present[memberPods] {
		names = c.podNames(list)
	}
	for kind, name := range []string{memberHost: nameOwnNode, memberRemote: nameOthers, memberUnmanaged: nameUnmanaged, memberWorld: nameWorld} {
		switch kind := memberKind(kind); {
		case !present[kind] || kind == memberPods:
		case c.here.kinds[kind] == c.all.kinds[kind]:
			names = append(names, name)
		case kind == memberHost || kind == memberRemote:
			names = append(names, c.nodeNames(list, kind)...)
		}
	}
	return append(names, c.prefixNames(func(m int32) bool { return set.has(m) || free.has(m) }, present)...)
}

// nowhere lists the members outside of set that meet nobody of others. Of pods that is only the one that others is; between
// two single ones of a workload it does not count, or either direction would have the name of both.
func (c *comparer) nowhere(set, others memberSet) memberSet {
	list, free := others.list(), c.set()
	candidates := c.others
	if len(list) == 1 && set.count() > 1 {
		candidates = append(slices.Clone(c.others), list[0])
	}
	for _, m := range candidates {
		if !set.has(m) && !slices.ContainsFunc(list, func(o int32) bool { return c.members[m].meets(c.members[o]) }) {
			free.add(m)
		}
	}
	return free
}

func (c *comparer) podNames(list []int32) []string {
	several := slices.ContainsFunc(list, func(i int32) bool {
		return c.members[i].kind == memberPods && c.members[i].workload != c.members[list[0]].workload
	})
	if c.here.kinds[memberPods] == c.all.kinds[memberPods] && several { // pods come first in a list
		return []string{nameAllPods}
	}
	present := map[int][]int32{} // namespace → members
	var order []int
	for _, i := range list {
		if m := c.members[i]; m.kind == memberPods {
			if present[m.ns] == nil {
				order = append(order, m.ns)
			}
			present[m.ns] = append(present[m.ns], i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(c.namespaces[a], c.namespaces[b]) })
	var names []string
	for _, ns := range order {
		names = append(names, c.namespaceNames(ns, present[ns])...)
	}
	return names
}

// namespaceNames names members of one namespace.
func (c *comparer) namespaceNames(ns int, list []int32) []string {
	var workloads []int
	for _, i := range list {
		if w := c.members[i].workload; len(workloads) == 0 || workloads[len(workloads)-1] != w { // members of one are neighbours
			workloads = append(workloads, w)
		}
	}
	if len(workloads) > 1 {
		var but []string
		partly := false
		for _, w := range c.workloadsOf[ns] {
			if c.here.workloads[w] < c.all.workloads[w] {
				but = append(but, c.workloads[w])
				partly = partly || c.here.workloads[w] > 0
			}
		}
		switch whole := nameAllPods + " of namespace " + c.namespaces[ns]; {
		case len(but) == 0:
			return []string{whole}
		case len(but) <= mostExceptions && len(but) < len(workloads) && !partly:
			slices.Sort(but)
			return []string{whole + " but " + strings.Join(but, " and ")}
		}
	}
	var names []string
	for _, w := range workloads {
		name := c.workloads[w]
		if c.here.workloads[w] < c.all.workloads[w] {
			var pods []string
			for _, i := range list {
				if c.members[i].workload == w {
					pods = append(pods, c.members[i].pods...)
				}
			}
			slices.Sort(pods)
			name += " (" + strings.Join(slices.Compact(pods), ", ") + ")"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// nodeNames names nodes, and of those with addresses of several sorts the addresses.
func (c *comparer) nodeNames(list []int32, kind memberKind) []string {
	prefix := "node "
	if kind == memberHost {
		prefix = nameOwnNode + " "
	}
	total, present := map[string]int{}, map[string][]string{} // by node: sorts; addresses
	for _, i := range c.others {
		if m := c.members[i]; m.kind == kind {
			for _, n := range m.nodes {
				total[n]++
			}
		}
	}
	sorts := map[string]int{}
	for _, i := range list {
		m := c.members[i]
		if m.kind != kind {
			continue
		}
		for n, node := range m.nodes {
			sorts[node]++
			present[node] = append(present[node], m.addrs[n]...)
		}
	}
	var names []string
	for _, node := range sortedStrings(present) {
		name := prefix + node
		if sorts[node] < total[node] {
			slices.Sort(present[node])
			name += " (" + strings.Join(present[node], ", ") + ")"
		}
		names = append(names, name)
	}
	return names
}

// prefixNames names those kinds of what is outside, of the kinds present, that are not whole: by prefixes, and by what is cut
// from them. A prefix stands for all of it that is no pod and no node; "world" leaves out what is of podCIDRs.
func (c *comparer) prefixNames(in func(int32) bool, present [memberWorld + 1]bool) []string {
	needed := func(kind memberKind) bool { return present[kind] && c.here.kinds[kind] != c.all.kinds[kind] }
	if !needed(memberUnmanaged) && !needed(memberWorld) {
		return nil
	}
	type link struct {
		prefix netip.Prefix
		entry  int // of names, that covers it; -1: none
		world  bool
	}
	var names []string
	var chain []link
	for _, i := range c.outside {
		m := c.members[i]
		for len(chain) > 0 && !chain[len(chain)-1].prefix.Overlaps(m.prefix) {
			chain = chain[:len(chain)-1]
		}
		at := link{prefix: m.prefix, entry: -1}
		var above link
		covered := false
		if len(chain) > 0 {
			above = chain[len(chain)-1]
			covered = above.entry >= 0 && (!above.world || m.kind == memberWorld)
		}
		switch {
		case in(i) && covered:
			at.entry, at.world = above.entry, above.world
		case in(i) && needed(m.kind):
			at.entry, at.world = len(names), m.kind == memberWorld && m.prefix.Bits() == 0
			names = append(names, outsideName(m.prefix, m.kind))
		case !in(i) && covered:
			n := &names[above.entry]
			if strings.Contains(*n, " except ") {
				*n += ", " + m.prefix.String()
			} else {
				*n += " except " + m.prefix.String()
			}
		}
		chain = append(chain, at)
	}
	return names
}

func outsideName(p netip.Prefix, kind memberKind) string {
	if kind == memberWorld && p.Bits() == 0 {
		return nameWorld
	}
	return p.String()
}
