// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"slices"
)

// claim is a PodClaim that the watcher keeps.
type claim struct {
	PodClaim
	number  int64        // counts claims: later ones are newer
	settled bool         // the API has caught up: its word holds
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
	if r := m.records[id]; r != nil && c.of(r.UID) {
		m.recall(r, c)
	}
}

// of says whether a claim is of this pod, and not of another one of the name.
func (c *claim) of(uid string) bool { return c.UID == "" || c.UID == uid }

// recall gives a pod's record another claim, or none, unless the API has spoken.
func (m *podMirror) recall(r *podRecord, c *claim) {
	if r.claim == nil && len(r.Addrs) > 0 {
		if c != nil {
			c.settled = true
		}
		return
	}
	id := podID{r.Namespace, r.Name}
	for _, addr := range r.Addrs {
		m.give(addr, r)
	}
	next := *r
	next.claim, next.Addrs = c, nil
	if c != nil {
		next.Addrs = c.Addrs
	}
	m.records[id] = &next
	for _, addr := range next.Addrs {
		m.take(addr, &next)
	}
	m.dirty[id] = true
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
		if id := (podID{c.Namespace, c.Name}); c.settled && m.claims[id] == c {
			delete(m.claims, id)
		}
	}
}

// claimed lists the claims that the state now holds: those of pods that are known and placed.
func (m *mirror) claimed() (held []*claim) {
	for id, c := range m.pods.claims {
		if r := m.pods.records[id]; len(c.waiters) > 0 && r != nil && c.of(r.UID) && m.placed(r) {
			held = append(held, c)
		}
	}
	return held
}
