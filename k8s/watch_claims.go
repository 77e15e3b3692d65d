// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"net/netip"
	"slices"
)

// claim is a PodClaim that the watcher keeps: until the pod or its container is gone, or the API says another address than
// it did when the claim came.
type claim struct {
	PodClaim
	number  int64        // counts claims: later ones are newer
	seen    bool         // the API's word has been held against it
	was     []netip.Addr // which was this, last
	waiters []chan error // of those who want to know when it is enforced
}

// end tells all who wait.
func (c *claim) end(err error) {
	for _, w := range c.waiters {
		w <- err
	}
	c.waiters = nil
}

// claim notes that a pod is about to have addresses; answer gets nil once an Update that holds it is enforced, or an error
// when the pod is gone.
func (m *podMirror) claim(p PodClaim, number int64, answer chan error) {
	id := podID{p.Namespace, p.Name}
	p.Addrs, _ = oneOfEach(p.Addrs)
	c := m.claims[id]
	if c == nil || c.ContainerID != p.ContainerID || c.UID != p.UID || !slices.Equal(c.Addrs, p.Addrs) {
		next := &claim{PodClaim: p, number: number}
		if c != nil {
			next.waiters = c.waiters
		}
		c = next
		m.claims[id] = c
	}
	c.waiters = append(c.waiters, answer)
	m.dirty[id] = true
	if r := m.records[id]; r != nil && c.of(r.UID, r.hash()) {
		m.recall(r, c)
	}
}

// of says whether a claim is of this pod, and not of another one of the name. The kubelet knows a static pod by the hash of
// its configuration, not by the UID that its mirror has in the API.
func (c *claim) of(uid, hash string) bool { return c.UID == "" || c.UID == uid || c.UID == hash }

// holds says whether a claim stands against what the API says now. The API says nothing, or is behind: a sandbox made anew
// has another address than the one before it.
func (c *claim) holds(said []netip.Addr) bool {
	if c.seen && len(said) > 0 && !sameAddrs(said, c.was) && !sameAddrs(said, c.Addrs) {
		return false
	}
	c.seen, c.was = true, said
	return true
}

// addrs are those of a pod that a claim is made for: in the API's words, if it says the same.
func (c *claim) addrs(said []netip.Addr) []netip.Addr {
	if sameAddrs(said, c.Addrs) {
		return said
	}
	return c.Addrs
}

func sameAddrs(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// recall gives a pod's record another claim, or none, unless the API has spoken since.
func (m *podMirror) recall(r *podRecord, c *claim) {
	id, said := podID{r.Namespace, r.Name}, r.said()
	if c != nil && !c.holds(said) {
		m.overrule(id, c)
		c = nil
	}
	next := *r
	next.claim, next.Addrs, next.rare = c, said, newPodRare(said, r.trouble(), r.hash(), c)
	if c != nil {
		next.Addrs = c.addrs(said)
	}
	for _, addr := range r.Addrs {
		m.give(addr, r)
	}
	m.records[id] = &next
	for _, addr := range next.Addrs {
		m.take(addr, &next)
	}
	m.dirty[id] = true
}

// overrule ends a claim that the API has overtaken.
func (m *podMirror) overrule(id podID, c *claim) {
	delete(m.claims, id)
	c.end(fmt.Errorf("container %s of pod %s/%s: %w", c.ContainerID, id.namespace, id.name, ErrOverruled))
}

// unclaim takes back the claims of containers that are gone.
func (m *podMirror) unclaim(gone func(containerID string) bool) {
	for id, c := range m.claims {
		if !gone(c.ContainerID) {
			continue
		}
		delete(m.claims, id)
		c.end(fmt.Errorf("container %s of pod %s/%s: %w", c.ContainerID, id.namespace, id.name, ErrPodGone))
		if r := m.records[id]; r != nil && r.claim == c {
			m.recall(r, nil)
		}
	}
}

// answer tells those who wait for claims that they are enforced.
func (m *podMirror) answer(held []*claim) {
	for _, c := range held {
		c.end(nil)
	}
}

// claimed lists the claims that the state now holds: those of pods that are known and placed.
func (m *mirror) claimed() (held []*claim) {
	for id, c := range m.pods.claims {
		if r := m.pods.records[id]; len(c.waiters) > 0 && r != nil && r.claim == c && m.placed(r) {
			held = append(held, c)
		}
	}
	return held
}
