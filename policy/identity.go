// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Identity is all that policy can tell apart about an address. Two addresses with equal identities get equal verdicts
// from every policy that names no prefix and no per-pod label beyond those the identity was made with.
type Identity struct {
	// Entities lists the reserved entities that the address is, sorted; a pod is none.
	Entities []Entity          `json:"entities,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	// Ports are the pod's named ports, names in lower case, sorted.
	Ports []NamedPort `json:"ports,omitempty"`
	// Prefixes lists the prefixes named by policies that contain the address, as far as they may match its kind.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
}

// Pod says whether the identity is a pod's.
func (id *Identity) Pod() bool { return len(id.Entities) == 0 }

// Is says whether the identity is one of the entity's own, not whether the entity as a set of several contains it.
func (id *Identity) Is(e Entity) bool { return slices.Contains(id.Entities, e) }

func (id *Identity) within(p netip.Prefix) bool { return slices.Contains(id.Prefixes, p) }

func (id *Identity) hasFamily(is4 bool) bool {
	return slices.ContainsFunc(id.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
}

// matches says whether p, which is not a PeerSelector, covers the identity.
func (id *Identity) matches(p *Peer) bool {
	switch p.Kind {
	case PeerAny:
		return true
	case PeerEntity:
		return id.matchesEntity(p.Entity)
	case PeerCIDR:
		switch {
		case id.Is(EntityWorld):
		case id.Pod(), id.Is(EntityUnmanaged):
			if !p.MatchPods {
				return false
			}
		case !p.MatchNodes:
			return false
		}
		return id.within(p.CIDR.Masked()) && !slices.ContainsFunc(p.Except, func(e netip.Prefix) bool { return id.within(e.Masked()) })
	default:
		return id.Pod() && p.Selector.Matches(id.Labels)
	}
}

func (id *Identity) matchesEntity(e Entity) bool {
	switch e {
	case EntityAll:
		return true
	case EntityNone:
		return false
	case EntityWorldIPv4:
		return id.Is(EntityWorld) && id.hasFamily(true)
	case EntityWorldIPv6:
		return id.Is(EntityWorld) && id.hasFamily(false)
	case EntityCluster, EntityClusterMesh:
		return !id.Is(EntityWorld) || id.Is(EntityKubeAPIServer)
	default:
		return id.Is(e)
	}
}

const namespaceLabel = "io.kubernetes.pod.namespace"

// key is the identity's canonical form; it begins with what neighbours have in common, so that sorting by it is useful.
func (id *Identity) key() string {
	return string(appendKey(nil, id.Entities, id.Labels, nil, id.Ports, id.Prefixes))
}

// appendKey appends the key of the identity with these facts and those labels that vocabulary keeps; nil: all.
func appendKey(b []byte, entities []Entity, labels map[string]string, vocabulary *Vocabulary, ports []NamedPort, prefixes []netip.Prefix) []byte {
	for _, e := range entities {
		b = append(append(b, e...), '+')
	}
	quote := func(s string) {
		b = append(append(strconv.AppendInt(b, int64(len(s)), 10), ':'), s...)
	}
	quote(labels[namespaceLabel])
	var few [16]string
	sorted := few[:0]
	for k := range labels {
		if vocabulary == nil || vocabulary.keeps(k) {
			sorted = append(sorted, k)
		}
	}
	slices.Sort(sorted)
	for _, k := range sorted {
		b = append(b, '|')
		quote(k)
		quote(labels[k])
	}
	for _, p := range ports {
		b = append(b, '@')
		quote(p.Name)
		b = strconv.AppendUint(append(b, '/'), uint64(p.Protocol), 10)
		b = strconv.AppendUint(append(b, '/'), uint64(p.Port), 10)
	}
	for _, p := range prefixes {
		b = p.AppendTo(append(b, '^'))
	}
	return b
}

// String is the identity's name for people.
func (id *Identity) String() string {
	if id.Pod() {
		var b strings.Builder
		for i, k := range slices.Sorted(maps.Keys(id.Labels)) {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(k + "=" + id.Labels[k])
		}
		return "pod:" + b.String()
	}
	if id.Is(EntityWorld) && len(id.Prefixes) > 0 {
		longest := slices.MaxFunc(id.Prefixes, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
		switch {
		case longest.Bits() > 0:
			return "cidr:" + longest.String()
		case longest.Addr().Is4():
			return string(EntityWorldIPv4)
		default:
			return string(EntityWorldIPv6)
		}
	}
	names := make([]string, len(id.Entities))
	for i, e := range id.Entities {
		names[i] = string(e)
	}
	name := strings.Join(names, "+")
	if len(id.Prefixes) > 0 {
		name += fmt.Sprintf(" in %v", id.Prefixes)
	}
	return name
}

// reserved lists what the reserved numbers mean; every image defines them all.
func reserved() map[uint32]Identity {
	one := func(e ...Entity) Identity { return Identity{Entities: e} }
	return map[uint32]Identity{
		IdentityHost:          one(EntityHost),
		IdentityWorld:         one(EntityWorld),
		IdentityUnmanaged:     one(EntityUnmanaged),
		IdentityHealth:        one(EntityHealth),
		IdentityInit:          one(EntityInit),
		IdentityRemoteNode:    one(EntityRemoteNode),
		IdentityKubeAPIServer: one(EntityKubeAPIServer, EntityRemoteNode),
		IdentityIngress:       one(EntityIngress),
		IdentityWorldIPv4:     {Entities: []Entity{EntityWorld}, Prefixes: []netip.Prefix{default4()}},
		IdentityWorldIPv6:     {Entities: []Entity{EntityWorld}, Prefixes: []netip.Prefix{default6()}},
	}
}

func default4() netip.Prefix { return netip.PrefixFrom(netip.IPv4Unspecified(), 0) }
func default6() netip.Prefix { return netip.PrefixFrom(netip.IPv6Unspecified(), 0) }

// Vocabulary is what policies name and identities therefore have to remember.
type Vocabulary struct {
	Prefixes []NamedPrefix `json:"prefixes,omitempty"` // sorted
	Labels   []string      `json:"labels,omitempty"`   // per-pod label keys, sorted; identities have all others anyway
}

// NamedPrefix is a prefix that some policy names, and what it may match besides the outside.
type NamedPrefix struct {
	Prefix netip.Prefix `json:"prefix"`
	Pods   bool         `json:"pods,omitempty"`
	Nodes  bool         `json:"nodes,omitempty"`
}

// eachWord calls label for the per-pod label keys that a policy names, and prefix for the prefixes, masked; some more than once.
func (p *Policy) eachWord(label func(string), prefix func(p netip.Prefix, pods, nodes bool)) {
	selector := func(s Selector) {
		for i := range s {
			if perPod(s[i].Key) {
				label(s[i].Key)
			}
		}
	}
	selector(p.Subject)
	for i := range p.Rules {
		for j := range p.Rules[i].Peers {
			switch p := &p.Rules[i].Peers[j]; {
			case p.Kind == PeerSelector:
				selector(p.Selector)
			case p.Kind == PeerEntity && p.Entity == EntityWorldIPv4:
				prefix(default4(), false, false)
			case p.Kind == PeerEntity && p.Entity == EntityWorldIPv6:
				prefix(default6(), false, false)
			case p.Kind == PeerCIDR:
				prefix(p.CIDR.Masked(), p.MatchPods, p.MatchNodes)
				for _, e := range p.Except {
					prefix(e.Masked(), p.MatchPods, p.MatchNodes)
				}
			}
		}
	}
}

// vocabularyOf collects what any of the policies name.
func vocabularyOf(sets ...[]Policy) Vocabulary {
	prefixes := map[netip.Prefix]NamedPrefix{}
	labels := map[string]bool{}
	for _, policies := range sets {
		for i := range policies {
			policies[i].eachWord(func(label string) { labels[label] = true }, func(p netip.Prefix, pods, nodes bool) {
				n := prefixes[p]
				prefixes[p] = NamedPrefix{p, n.Pods || pods, n.Nodes || nodes}
			})
		}
	}
	v := Vocabulary{Labels: slices.Sorted(maps.Keys(labels))}
	v.Prefixes = slices.SortedFunc(maps.Values(prefixes), func(a, b NamedPrefix) int { return comparePrefix(a.Prefix, b.Prefix) })
	return v
}

// comparePrefix orders by family, address and length, so that what contains comes before what is contained.
func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// perPod says whether the label key is one that tells a pod from others of its kind.
func perPod(key string) bool {
	switch key {
	case "pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
		"apps.kubernetes.io/pod-index", "controller-uid", "job-name":
		return true
	}
	return strings.HasPrefix(key, "batch.kubernetes.io/")
}

// keeps says whether an identity remembers the label key: per-pod keys only if a policy names them.
func (v *Vocabulary) keeps(key string) bool {
	if !perPod(key) {
		return true
	}
	_, named := slices.BinarySearch(v.Labels, key)
	return named
}

// filter is the labels that an identity remembers: the given map, if it is all of them.
func (v *Vocabulary) filter(labels map[string]string) map[string]string {
	dropped := 0
	for k := range labels {
		if !v.keeps(k) {
			dropped++
		}
	}
	if dropped == 0 && labels != nil {
		return labels
	}
	kept := make(map[string]string, len(labels)-dropped)
	for k, value := range labels {
		if v.keeps(k) {
			kept[k] = value
		}
	}
	return kept
}

// prefixSet finds the members that contain a prefix.
type prefixSet[V any] struct {
	members map[netip.Prefix]V
	lengths [2][]int // present prefix lengths by family, ascending
}

func newPrefixSet[V any](members map[netip.Prefix]V) *prefixSet[V] {
	s := &prefixSet[V]{members: members}
	var seen [2][129]bool
	for p := range members {
		seen[family(p.Addr())][p.Bits()] = true
	}
	for f := range seen {
		for bits, present := range seen[f] {
			if present {
				s.lengths[f] = append(s.lengths[f], bits)
			}
		}
	}
	return s
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// containing calls yield for the members that contain p, the shortest first.
func (s *prefixSet[V]) containing(p netip.Prefix, yield func(netip.Prefix, V)) {
	for _, bits := range s.lengths[family(p.Addr())] {
		if bits > p.Bits() {
			return
		}
		c := netip.PrefixFrom(p.Addr(), bits).Masked()
		if v, ok := s.members[c]; ok {
			yield(c, v)
		}
	}
}
