// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"reflect"
	"strings"
)

// memo is what a compilation leaves to the next one. It is a cache: results do not depend on it.
type memo struct {
	chunks chunkCache

	defs        map[uint32]*Definition // what all and locals are populations of
	all, locals *population

	policies []Policy
	meanings []*meaning // by policy, for these populations

	sorted     map[uint32]*Definition // what identities and index list
	identities []keyed
	index      map[uint32]*Definition
	tenanted   map[netip.Addr]Tenancy // what tenancies lists
	tenancies  []tenancyKey

	given []Policy // the policies of the last model, in a list of our own
	place []int32  // where each stands when they are sorted; nil: not known
}

// meaning is what a policy says about a population.
type meaning struct {
	subjects []int32     // local identities
	peers    [][]peerSet // by rule; nil if there are no subjects
}

// peerSet is the identities that a peer matches.
type peerSet struct {
	all bool   // and every other address
	key string // equal for equal peers
	set []int32
}

// maxCached bounds the selectors and peers whose sets a population remembers.
const maxCached = 1 << 18

// populations returns those of the definitions.
func (m *memo) populations(defs map[uint32]*Definition) (all, locals *population) {
	if !sameMap(m.defs, defs) || len(m.all.cache)+len(m.locals.cache) > maxCached {
		m.defs, m.all, m.locals = defs, newPopulation(defs, nil), localPopulation(defs)
		m.policies, m.meanings = nil, nil
	}
	return m.all, m.locals
}

// sameMap says whether two maps are the same memory. Maps of definitions are not written to once they are in use.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return a != nil && reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// meaningsOf says what policies, which are sorted, mean for the definitions' populations.
func (m *memo) meaningsOf(policies []Policy, defs map[uint32]*Definition) []*meaning {
	all, locals := m.populations(defs)
	meanings := make([]*meaning, len(policies))
	at := 0
	for i := range policies {
		p := &policies[i]
		for at < len(m.policies) && strings.Compare(m.policies[at].Key, p.Key) < 0 {
			at++
		}
		if at < len(m.policies) && equalPolicy(&m.policies[at], p) {
			meanings[i] = m.meanings[at]
			at++
			continue
		}
		meanings[i] = newMeaning(p, all, locals)
	}
	m.policies, m.meanings = policies, meanings
	return meanings
}

func newMeaning(p *Policy, all, locals *population) *meaning {
	m := &meaning{subjects: locals.selected(p.Subject)}
	if len(m.subjects) == 0 {
		return m
	}
	m.peers = make([][]peerSet, len(p.Rules))
	for i := range p.Rules {
		m.peers[i] = make([]peerSet, len(p.Rules[i].Peers))
		for j := range p.Rules[i].Peers {
			m.peers[i][j] = newPeerSet(&p.Rules[i].Peers[j], all)
		}
	}
	return m
}

func newPeerSet(p *Peer, all *population) peerSet {
	if p.matchesAll() {
		return peerSet{all: true}
	}
	return peerSet{key: peerKey(p), set: all.matching(p)}
}
