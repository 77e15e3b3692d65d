// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// RuleName names a rule for ever: counters keep their meaning as long as it stays.
type RuleName struct {
	Policy string `json:"policy"` // Policy.Key
	Path   string `json:"path"`   // Rule.Path
}

// What is not a rule of any object has a name all the same.
const (
	ownPolicy = "weir"
	hostRule  = "host reaches its pods"
)

// PodName names a pod and tells it from an earlier one of the same key.
type PodName struct {
	Pod string `json:"pod"` // Pod.Key
	UID string `json:"uid,omitempty"`
}

func (n PodName) String() string { return n.Pod }

// keys is the part of an image that names its numbers. All lists are sorted, so equal facts are equal bytes.
type keys struct {
	Node       string       `json:"node,omitempty"`
	Identities []keyed      `json:"identities,omitempty"`
	Rules      []ruleKey    `json:"rules,omitempty"`
	LastRule   uint16       `json:"lastRule,omitempty"`
	Endpoints  []slotKey    `json:"endpoints,omitempty"`
	Nodes      []nodeKey    `json:"nodes,omitempty"`
	Tenancies  []tenancyKey `json:"tenancies,omitempty"`
	Vocabulary Vocabulary   `json:"vocabulary,omitzero"`
	Policies   []Policy     `json:"policies,omitempty"`
	Options    Options      `json:"options,omitzero"`

	// What is not written as it stands here: what the numbers mean, and what of an image that was not read stands for the
	// lists above.
	ruleIndex  map[uint16]RuleName
	identities definitions
	nodes      map[string]uint16
	tenancies  chunks[tenancyKey]
}

type keyed struct {
	Number uint32 `json:"number"`
	*Definition
}

type ruleKey struct {
	Number uint16 `json:"number"`
	RuleName
}

type slotKey struct {
	Slot uint16 `json:"slot"`
	PodName
}

type nodeKey struct {
	Slot uint16 `json:"slot"`
	Name string `json:"name"`
}

type tenancyKey struct {
	Addr netip.Addr `json:"addr"`
	Tenancy
}

func newKeys(node string, policies []Policy, options Options, n *numbering) *keys {
	k := &keys{
		Node: node, Vocabulary: n.vocabulary, Policies: policies, Options: options, LastRule: n.lastRule,
		identities: n.identities, nodes: n.nodes, tenancies: n.tenancies,
	}
	for name, number := range n.rules {
		k.Rules = append(k.Rules, ruleKey{number, name})
	}
	for pod, slot := range n.endpoints {
		k.Endpoints = append(k.Endpoints, slotKey{slot, pod})
	}
	slices.SortFunc(k.Rules, func(a, b ruleKey) int { return ruleListing().compare(&a, &b) })
	slices.SortFunc(k.Endpoints, func(a, b slotKey) int { return cmp.Compare(a.Slot, b.Slot) })
	k.indexRules()
	return k
}

// index is what a decoder does after it has read the lists.
func (k *keys) index() {
	k.indexRules()
	for i := range k.Identities {
		d := k.Identities[i].Definition
		d.cachedKey = d.Identity.key()
		k.identities = k.identities.set(k.Identities[i].Number, d)
	}
	k.nodes = make(map[string]uint16, len(k.Nodes))
	for _, n := range k.Nodes {
		k.nodes[n.Name] = n.Slot
	}
	k.tenancies = tenancyListing().list(k.Tenancies)
	k.Identities, k.Nodes, k.Tenancies = nil, nil, nil
}

func (k *keys) indexRules() {
	k.ruleIndex = map[uint16]RuleName{RuleHost: {ownPolicy, hostRule}}
	for _, r := range k.Rules {
		if r.Number == MaxRule {
			r.RuleName = RuleName{ownPolicy, "rules past the first 16381"}
		}
		k.ruleIndex[r.Number] = r.RuleName
	}
}

// validate refuses keys that no Compile writes and that a Planner could not go on from. The image has a table of so many
// identities.
func (k *keys) validate(identities uint32) error {
	numbers, endpoints, nodes := map[uint32]bool{}, map[uint16]bool{0: true}, map[uint16]bool{0: true}
	for i := range k.Identities {
		d := &k.Identities[i]
		if d.Definition == nil {
			return fmt.Errorf("identity number %d means nothing", d.Number)
		}
		if d.Number == 0 || d.Number > MaxIdentity || d.Number >= identities || numbers[d.Number] {
			return fmt.Errorf("identity number %d is out of range or listed twice", d.Number)
		}
		numbers[d.Number] = true
		for _, p := range d.Prefixes {
			if !p.IsValid() {
				return fmt.Errorf("identity %d has an invalid prefix", d.Number)
			}
		}
	}
	for number := range reserved() {
		if !numbers[number] {
			return fmt.Errorf("reserved identity %d is missing", number)
		}
	}
	for _, e := range k.Endpoints {
		if e.Slot > MaxEndpoint || endpoints[e.Slot] {
			return fmt.Errorf("endpoint slot %d is out of range or listed twice", e.Slot)
		}
		endpoints[e.Slot] = true
	}
	for _, n := range k.Nodes {
		if n.Slot > MaxNode || nodes[n.Slot] {
			return fmt.Errorf("node slot %d is out of range or listed twice", n.Slot)
		}
		nodes[n.Slot] = true
	}
	for _, r := range k.Rules {
		if r.Number <= RuleHost || r.Number > MaxRule {
			return fmt.Errorf("rule number %d is out of range", r.Number)
		}
	}
	for _, p := range k.Vocabulary.Prefixes {
		if !p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked() {
			return fmt.Errorf("named prefix %s", p.Prefix)
		}
	}
	for i := range k.Policies {
		if err := k.Policies[i].validate(); err != nil {
			return fmt.Errorf("%s: %w", k.Policies[i].Key, err)
		}
	}
	return nil
}

// numbering rebuilds the numbers the image was compiled with.
func (k *keys) numbering(generation uint32) *numbering {
	n := newNumbering()
	n.generation, n.vocabulary, n.lastRule = generation, k.Vocabulary, k.LastRule
	n.identities, n.nodes, n.tenancies = k.identities, k.nodes, k.tenancies
	for _, r := range k.Rules {
		n.rules[r.RuleName] = r.Number
	}
	for _, e := range k.Endpoints {
		n.endpoints[e.PodName] = e.Slot
	}
	return n
}

// RuleName names the rule that a cell's rule number stands for; false if the number means nothing.
func (img *Image) RuleName(rule uint16) (policyKey, path string, ok bool) {
	r, ok := img.keys.ruleIndex[rule]
	return r.Policy, r.Path, ok
}

// Rules maps every rule number that has a meaning to its name. The caller must not write to it.
func (img *Image) Rules() map[uint16]RuleName { return img.keys.ruleIndex }

// IdentityName is an identity's name for people; "unknown" if the number means nothing.
func (img *Image) IdentityName(number uint32) string {
	if d := img.keys.identities.get(number); d != nil {
		return d.String()
	}
	return "unknown"
}

// Node is the name of the node that the image was compiled for.
func (img *Image) Node() string { return img.keys.Node }
