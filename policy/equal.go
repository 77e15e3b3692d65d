// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// equalPolicy says whether two policies say the same. Lists that are the same memory are not read.
func equalPolicy(a, b *Policy) bool {
	return a.Key == b.Key && a.Namespace == b.Namespace && a.Audit == b.Audit && a.Tier == b.Tier && a.Priority == b.Priority && a.Isolates == b.Isolates &&
		a.Closed == b.Closed && equalSelector(a.Subject, b.Subject) && equalLists(a.Rules, b.Rules, equalRule)
}

func equalRule(a, b *Rule) bool {
	return a.Path == b.Path && a.Direction == b.Direction && a.Action == b.Action && equalLists(a.Peers, b.Peers, equalPeer) &&
		slices.Equal(a.Ports, b.Ports) && (a.Ports == nil) == (b.Ports == nil)
}

func equalPeer(a, b *Peer) bool {
	return a.Kind == b.Kind && a.Entity == b.Entity && a.CIDR == b.CIDR && a.MatchPods == b.MatchPods && a.MatchNodes == b.MatchNodes &&
		slices.Equal(a.Except, b.Except) && (a.Except == nil) == (b.Except == nil) && equalSelector(a.Selector, b.Selector)
}

func equalSelector(a, b Selector) bool {
	return equalLists(a, b, func(a, b *Requirement) bool {
		return a.Key == b.Key && a.Op == b.Op && slices.Equal(a.Values, b.Values) && (a.Values == nil) == (b.Values == nil)
	})
}

// equalLists takes nil and empty for different, as a record of policies does.
func equalLists[T any](a, b []T, equal func(a, b *T) bool) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	if len(a) == 0 || &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if !equal(&a[i], &b[i]) {
			return false
		}
	}
	return true
}

// equalPolicies compares policies one by one.
func equalPolicies(a, b []Policy) bool {
	return equalLists(a, b, equalPolicy) || len(a)+len(b) == 0
}
