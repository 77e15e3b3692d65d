// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
)

// names says whether a vocabulary has all that a policy names, and as much as it makes of it.
func (v *Vocabulary) names(p *Policy) bool {
	all := true
	p.eachWord(func(label string) {
		_, named := slices.BinarySearch(v.Labels, label)
		all = all && named
	}, func(prefix netip.Prefix, pods, nodes bool) {
		at, named := slices.BinarySearchFunc(v.Prefixes, prefix, func(n NamedPrefix, p netip.Prefix) int { return comparePrefix(n.Prefix, p) })
		all = all && named && (!pods || v.Prefixes[at].Pods) && (!nodes || v.Prefixes[at].Nodes)
	})
	return all
}

// difference lists the policies that are in one of two sorted lists only.
func difference(old, now []Policy) (gone, come []*Policy) {
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case j == len(now) || i < len(old) && old[i].Key < now[j].Key:
			gone = append(gone, &old[i])
			i++
		case i == len(old) || now[j].Key < old[i].Key:
			come = append(come, &now[j])
			j++
		default:
			if !equalPolicy(&old[i], &now[j]) {
				gone, come = append(gone, &old[i]), append(come, &now[j])
			}
			i++
			j++
		}
	}
	return gone, come
}
