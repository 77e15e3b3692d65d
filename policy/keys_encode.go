// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// maxKeys bounds what the keys of an image may unpack to.
const maxKeys = 512 << 20

// packer writes parts of the keys.
type packer struct {
	writer *flate.Writer
	out    bytes.Buffer
}

func newPacker() (*packer, error) {
	w, err := flate.NewWriter(io.Discard, flate.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("make a packer: %w", err)
	}
	return &packer{writer: w}, nil
}

// pack writes a part of the keys so that whatever follows does not depend on it. The bytes hold until the next call.
func (p *packer) pack(k *keys) ([]byte, error) {
	p.out.Reset()
	p.writer.Reset(&p.out)
	if err := json.NewEncoder(p.writer).Encode(k); err != nil {
		return nil, err
	}
	if err := p.writer.Flush(); err != nil {
		return nil, err
	}
	return p.out.Bytes(), nil
}

// end is what closes all that has been written.
func (p *packer) end() ([]byte, error) {
	p.out.Reset()
	p.writer.Reset(&p.out)
	if err := p.writer.Close(); err != nil {
		return nil, err
	}
	return p.out.Bytes(), nil
}

func identityListing() *listing[keyed] {
	return &listing[keyed]{
		compare: func(a, b *keyed) int { return cmp.Compare(a.Number, b.Number) },
		name:    func(k *keyed) uint32 { return mixed(k.Number) },
		wrap:    func(l []keyed) *keys { return &keys{Identities: l} },
	}
}

func ruleListing() *listing[ruleKey] {
	return &listing[ruleKey]{
		compare: func(a, b *ruleKey) int {
			return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Policy, b.Policy), strings.Compare(a.Path, b.Path))
		},
		name: func(r *ruleKey) uint32 { return mixed(uint32(r.Number)) },
		wrap: func(l []ruleKey) *keys { return &keys{Rules: l} },
	}
}

func endpointListing() *listing[slotKey] {
	return &listing[slotKey]{
		compare: func(a, b *slotKey) int { return cmp.Compare(a.Slot, b.Slot) },
		name:    func(e *slotKey) uint32 { return mixed(uint32(e.Slot)) },
		wrap:    func(l []slotKey) *keys { return &keys{Endpoints: l} },
	}
}

func nodeListing() *listing[nodeKey] {
	return &listing[nodeKey]{
		compare: func(a, b *nodeKey) int { return cmp.Compare(a.Slot, b.Slot) },
		name:    func(n *nodeKey) uint32 { return mixed(uint32(n.Slot)) },
		wrap:    func(l []nodeKey) *keys { return &keys{Nodes: l} },
	}
}

func tenancyListing() *listing[tenancyKey] {
	return &listing[tenancyKey]{
		compare: func(a, b *tenancyKey) int { return a.Addr.Compare(b.Addr) },
		name: func(t *tenancyKey) uint32 {
			b := t.Addr.As16()
			return fnv32(b[:])
		},
		wrap: func(l []tenancyKey) *keys { return &keys{Tenancies: l} },
	}
}

func policyListing() *listing[Policy] {
	return &listing[Policy]{
		compare: func(a, b *Policy) int { return strings.Compare(a.Key, b.Key) },
		name:    func(p *Policy) uint32 { return fnv32([]byte(p.Key)) },
		wrap:    func(l []Policy) *keys { return &keys{Policies: l} },
	}
}

func prefixListing() *listing[NamedPrefix] {
	return &listing[NamedPrefix]{
		compare: func(a, b *NamedPrefix) int { return comparePrefix(a.Prefix, b.Prefix) },
		name: func(n *NamedPrefix) uint32 {
			b := n.Prefix.Addr().As16()
			return fnv32(b[:])
		},
		wrap: func(l []NamedPrefix) *keys { return &keys{Vocabulary: Vocabulary{Prefixes: l}} },
	}
}

func tenancyAt(a netip.Addr) func(*tenancyKey) int {
	return func(t *tenancyKey) int { return t.Addr.Compare(a) }
}

// fnv32 is the FNV-1a hash of b.
func fnv32(b []byte) uint32 {
	h := uint32(2166136261)
	for i := range b {
		h = (h ^ uint32(b[i])) * 16777619
	}
	return h
}

// mixed is fnv32 of a number's four bytes.
func mixed(n uint32) uint32 {
	return fnv32([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
}

// packedKeys are the lists of the last image's keys; a cache.
type packedKeys struct {
	packer     *packer
	defs       definitions // what identities lists
	identities chunks[keyed]
	rules      chunks[ruleKey]
	endpoints  chunks[slotKey]
	slots      map[string]uint16 // what nodes lists
	nodes      chunks[nodeKey]
	prefixes   chunks[NamedPrefix]
	policies   chunks[Policy]
}

// identitiesOf lists definitions by number. Those that are the same memory as in the last image are not looked at.
func (c *packedKeys) identitiesOf(defs definitions) chunks[keyed] {
	var edits []edited[keyed]
	for i := range max(len(defs), len(c.defs)) {
		n := uint32(i)
		switch d := defs.get(n); {
		case d == c.defs.get(n):
		case d == nil:
			edits = append(edits, edited[keyed]{keyed{Number: n}, true})
		default:
			edits = append(edits, edited[keyed]{item: keyed{n, d}})
		}
	}
	c.defs, c.identities = defs, identityListing().with(c.identities, edits)
	return c.identities
}

// nodesOf lists nodes by slot. A map that is the same memory as in the last image is not looked at.
func (c *packedKeys) nodesOf(slots map[string]uint16) chunks[nodeKey] {
	if sameMap(c.slots, slots) {
		return c.nodes
	}
	list := make([]nodeKey, 0, len(slots))
	for name, slot := range slots {
		list = append(list, nodeKey{slot, name})
	}
	slices.SortFunc(list, func(a, b nodeKey) int { return cmp.Compare(a.Slot, b.Slot) })
	c.slots, c.nodes = slots, nodeListing().following(c.nodes, list, func(a, b *nodeKey) bool { return *a == *b })
	return c.nodes
}

// sameMap says whether two maps are the same memory.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return a != nil && reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// encode is the bytes of the keys, in parts; they do not depend on the cache.
func (k *keys) encode(c *packedKeys) (parts [][]byte, err error) {
	if c.packer == nil {
		if c.packer, err = newPacker(); err != nil {
			return nil, err
		}
	}
	head, err := c.packer.pack(&keys{Node: k.Node, LastRule: k.LastRule, Options: k.Options, Vocabulary: Vocabulary{Labels: k.Vocabulary.Labels}})
	if err != nil {
		return nil, err
	}
	parts = append(parts, bytes.Clone(head))
	c.rules = ruleListing().following(c.rules, k.Rules, func(a, b *ruleKey) bool { return *a == *b })
	c.endpoints = endpointListing().following(c.endpoints, k.Endpoints, func(a, b *slotKey) bool { return *a == *b })
	c.prefixes = prefixListing().following(c.prefixes, k.Vocabulary.Prefixes, func(a, b *NamedPrefix) bool { return *a == *b })
	c.policies = policyListing().following(c.policies, k.Policies, equalPolicy)
	for _, list := range []func() error{
		func() error {
			parts, err = identityListing().pack(parts, c.identitiesOf(k.identities), c.packer)
			return err
		},
		func() error { parts, err = ruleListing().pack(parts, c.rules, c.packer); return err },
		func() error { parts, err = endpointListing().pack(parts, c.endpoints, c.packer); return err },
		func() error { parts, err = nodeListing().pack(parts, c.nodesOf(k.nodes), c.packer); return err },
		func() error { parts, err = prefixListing().pack(parts, c.prefixes, c.packer); return err },
		func() error { parts, err = tenancyListing().pack(parts, k.tenancies, c.packer); return err },
		func() error { parts, err = policyListing().pack(parts, c.policies, c.packer); return err },
	} {
		if err := list(); err != nil {
			return nil, err
		}
	}
	end, err := c.packer.end()
	return append(parts, end), err
}

func decodeKeys(b []byte, identities uint32) (*keys, error) {
	all := &keys{}
	decoder := json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxKeys))
	if err := decoder.Decode(all); err != nil {
		return nil, err
	}
	for {
		k := keys{}
		if err := decoder.Decode(&k); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		all.Identities = append(all.Identities, k.Identities...)
		all.Rules = append(all.Rules, k.Rules...)
		all.Endpoints = append(all.Endpoints, k.Endpoints...)
		all.Nodes = append(all.Nodes, k.Nodes...)
		all.Vocabulary.Prefixes = append(all.Vocabulary.Prefixes, k.Vocabulary.Prefixes...)
		all.Tenancies = append(all.Tenancies, k.Tenancies...)
		all.Policies = append(all.Policies, k.Policies...)
	}
	if err := all.validate(identities); err != nil {
		return nil, err
	}
	all.index()
	return all, nil
}

// tenanciesFrom lists tenancies by address.
func tenanciesFrom(tenancies map[netip.Addr]Tenancy) chunks[tenancyKey] {
	list := make([]tenancyKey, 0, len(tenancies))
	for a, t := range tenancies {
		list = append(list, tenancyKey{a, t})
	}
	slices.SortFunc(list, func(a, b tenancyKey) int { return a.Addr.Compare(b.Addr) })
	return tenancyListing().list(list)
}
