// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weirnet/weir/policy"
)

// Whether one set lies within another, whatever pods there are: yes is proved, no may mean not known.

// selectorWithin says whether every pod that a matches is one that b matches.
func selectorWithin(a, b policy.Selector) bool {
	for i := range b {
		if !implied(a, &b[i]) {
			return false
		}
	}
	return true
}

// sameKey is the key of a requirement, the two names of a pod's namespace being one.
func sameKey(key string) string {
	if key == nameLabel {
		return namespaceKey
	}
	return key
}

// implied says whether whoever meets all of s meets r.
func implied(s policy.Selector, r *policy.Requirement) bool {
	if sameKey(r.Key) == namespaceKey && r.Op == policy.Exists {
		return true // every pod has a namespace
	}
	for i := range s {
		have := &s[i]
		if sameKey(have.Key) != sameKey(r.Key) {
			continue
		}
		outside := func(v string) bool { return !slices.Contains(r.Values, v) }
		var yes bool
		switch r.Op {
		case policy.In:
			yes = have.Op == policy.In && !slices.ContainsFunc(have.Values, outside)
		case policy.NotIn:
			yes = have.Op == policy.DoesNotExist || have.Op == policy.In && !slices.ContainsFunc(have.Values, func(v string) bool { return !outside(v) }) ||
				have.Op == policy.NotIn && !slices.ContainsFunc(r.Values, func(v string) bool { return !slices.Contains(have.Values, v) })
		case policy.Exists:
			yes = have.Op == policy.In || have.Op == policy.Exists
		case policy.DoesNotExist:
			yes = have.Op == policy.DoesNotExist
		}
		if yes {
			return true
		}
	}
	return false
}

// peersWithin says whether each of a lies within one of b.
func peersWithin(a, b []policy.Peer) bool {
	for i := range a {
		if !slices.ContainsFunc(b, func(outer policy.Peer) bool { return peerWithin(&a[i], &outer) }) {
			return false
		}
	}
	return true
}

func peerWithin(a, b *policy.Peer) bool {
	if everyone(b) {
		return true
	}
	switch {
	case b.Kind == policy.PeerSelector && a.Kind == policy.PeerSelector:
		return selectorWithin(a.Selector, b.Selector)
	case b.Kind == policy.PeerCIDR && a.Kind == policy.PeerCIDR:
		return cidrWithin(a, b)
	case b.Kind == policy.PeerEntity && a.Kind == policy.PeerSelector:
		return b.Entity == policy.EntityCluster || b.Entity == policy.EntityClusterMesh
	case b.Kind == policy.PeerEntity && a.Kind == policy.PeerCIDR:
		return b.Entity == policy.EntityWorld && !a.MatchPods && !a.MatchNodes
	case b.Kind == policy.PeerEntity && a.Kind == policy.PeerEntity:
		return entityWithin(a.Entity, b.Entity)
	}
	return false
}

func everyone(p *policy.Peer) bool {
	return p.Kind == policy.PeerAny || p.Kind == policy.PeerEntity && p.Entity == policy.EntityAll
}

func entityWithin(a, b policy.Entity) bool {
	if a == b {
		return true
	}
	switch b {
	case policy.EntityWorld:
		return a == policy.EntityWorldIPv4 || a == policy.EntityWorldIPv6
	case policy.EntityCluster, policy.EntityClusterMesh:
		// The API server may be outside the cluster, where it is world as well.
		return !strings.HasPrefix(string(a), "world") && a != policy.EntityAll && a != policy.EntityKubeAPIServer
	}
	return false
}

func cidrWithin(a, b *policy.Peer) bool {
	if !prefixWithin(a.CIDR, b.CIDR) || a.MatchPods && !b.MatchPods || a.MatchNodes && !b.MatchNodes {
		return false
	}
	for _, hole := range b.Except {
		if hole.Overlaps(a.CIDR) && !slices.ContainsFunc(a.Except, func(own netip.Prefix) bool { return prefixWithin(hole, own) }) {
			return false
		}
	}
	return true
}

func prefixWithin(a, b netip.Prefix) bool { return a.Bits() >= b.Bits() && b.Contains(a.Addr()) }

// portsWithin says whether all of a lies within b taken together.
func portsWithin(a, b []policy.PortMatch) bool {
	for _, p := range a {
		if !portWithin(p, b) {
			return false
		}
	}
	return true
}

func portWithin(a policy.PortMatch, b []policy.PortMatch) bool {
	if slices.ContainsFunc(b, func(p policy.PortMatch) bool { return p.Protocol == 0 }) {
		return true
	}
	if a.Protocol == 0 {
		return false
	}
	var ranges []policy.PortMatch
	for _, p := range b {
		switch {
		case p.Protocol != a.Protocol:
		case p.Name == "":
			ranges = append(ranges, p)
		case a.Name != "" && strings.EqualFold(p.Name, a.Name) && p.RangeTo >= a.RangeTo:
			return true
		}
	}
	first, last := a.First, a.Last
	if a.Name != "" {
		first, last = 1, 65535 // it may resolve to any port
	}
	slices.SortFunc(ranges, func(x, y policy.PortMatch) int { return int(x.First) - int(y.First) })
	next := int(first)
	for _, p := range ranges {
		if int(p.First) <= next {
			next = max(next, int(p.Last)+1)
		}
	}
	return next > int(last)
}

// ruleWithin says whether all that a matches b matches too, for the subjects of b.
func ruleWithin(a, b *policy.Rule) bool {
	return a.Direction == b.Direction && portsWithin(a.Ports, b.Ports) && peersWithin(a.Peers, b.Peers)
}
