// SPDX-License-Identifier: Apache-2.0

package policy

import "strings"

// memo is what a compilation leaves to the next one. It is a cache: results do not depend on it.
type memo struct {
	packed packedKeys

	defs        definitions // what all and locals are populations of
	all, locals *population

	policies []Policy
	meanings []*meaning // by policy, for these populations
	asked    int        // sets that policies meant when the populations were last looked over

	given []Policy // the policies of the last model, in a list of our own
	place []int32  // where each stands when they are sorted; nil: not known
}

// meaning is what a policy says about a population.
type meaning struct {
	subjects *idSet      // of local identities
	peers    [][]peerSet // by rule; nil if there never were subjects
}

// peerSet is the identities that a peer matches; nil: all, and every other address.
type peerSet = *idSet

// manySets is how many more sets populations may remember than twice those that policies meant when they were last looked over.
const manySets = 4096

// populations returns those of the definitions. Those that are the same memory as before are not looked at.
func (m *memo) populations(defs definitions) (all, locals *population) {
	many, changed := max(64, len(defs)/4), 0
	if m.all != nil && !sameList(m.defs, defs) {
		for i := range max(len(defs), len(m.defs)) {
			if defs.get(uint32(i)) != m.defs.get(uint32(i)) {
				changed++
			}
		}
	}
	if m.all == nil || changed > many {
		m.all, m.locals = newPopulation(defs, nil), newPopulation(defs, func(d *Definition) bool { return d.Local && d.Pod() })
		m.policies, m.meanings = nil, nil
	} else if changed > 0 {
		for i := range max(len(defs), len(m.defs)) {
			if n := uint32(i); defs.get(n) != m.defs.get(n) {
				m.all.replace(n, defs.get(n))
				m.locals.replace(n, defs.get(n))
			}
		}
	}
	m.defs = defs
	if sets := len(m.all.sets) + len(m.locals.sets); sets > 2*m.asked+manySets {
		m.forget()
	}
	return m.all, m.locals
}

// forget drops the sets that the last policies do not mean.
func (m *memo) forget() {
	meant := map[*idSet]bool{}
	for _, meaning := range m.meanings {
		meant[meaning.subjects] = true
		for _, peers := range meaning.peers {
			for _, s := range peers {
				meant[s] = true
			}
		}
	}
	m.all.keepSets(meant)
	m.locals.keepSets(meant)
	m.asked = len(meant)
}

// sameList says whether two lists are the same memory.
func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// meaningsOf says what policies, which are sorted, mean for the definitions' populations.
func (m *memo) meaningsOf(policies []Policy, defs definitions) []*meaning {
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
		} else {
			meanings[i] = &meaning{subjects: locals.set(&Peer{Kind: PeerSelector, Selector: p.Subject})}
		}
		meanings[i].complete(p, all)
	}
	m.policies, m.meanings = policies, meanings
	return meanings
}

// complete finds the peers, if there are subjects and it was not done before.
func (m *meaning) complete(p *Policy, all *population) {
	if m.peers != nil || len(m.subjects.members) == 0 {
		return
	}
	m.peers = make([][]peerSet, len(p.Rules))
	for i := range p.Rules {
		m.peers[i] = make([]peerSet, len(p.Rules[i].Peers))
		for j := range p.Rules[i].Peers {
			m.peers[i][j] = newPeerSet(&p.Rules[i].Peers[j], all)
		}
	}
}

func newPeerSet(p *Peer, all *population) peerSet {
	if p.matchesAll() {
		return nil
	}
	return all.set(p)
}
