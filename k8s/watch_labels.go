// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"hash/maphash"
	"iter"
)

// labelSet is the labels of all pods that have the same: pods of a workload are many.
type labelSet struct {
	hash      uint64
	next      *labelSet // of the same hash
	namespace string
	labels    map[string]string
	own       int // how many of them are the pods' own
	pods      int
}

// is says whether a pod's labels are those of the set.
func (s *labelSet) is(p *podObject) bool {
	if s.namespace != p.Namespace || s.own != len(p.own) || s.labels[labelServiceAccount] != p.account {
		return false
	}
	for k, v := range p.own {
		if has, ok := s.labels[k]; !ok || has != v {
			return false
		}
	}
	return true
}

// labelSet is the set that a pod's labels are, which counts it from now on.
func (m *podMirror) labelSet(p *podObject) *labelSet {
	hash := maphash.String(m.seed, p.Namespace) ^ maphash.String(m.seed, p.account)*3
	for k, v := range p.own { // in any order
		hash += maphash.String(m.seed, k) * (maphash.String(m.seed, v) | 1)
	}
	set := m.sets[hash]
	for set != nil && !set.is(p) {
		set = set.next
	}
	if set == nil {
		set = &labelSet{hash: hash, next: m.sets[hash], namespace: p.Namespace, own: len(p.own),
			labels: allLabels(p.own, p.account, p.Namespace, m.labelsOf[p.Namespace])}
		m.sets[hash] = set
	}
	set.pods++
	return set
}

func (m *podMirror) release(set *labelSet) {
	if set.pods--; set.pods > 0 {
		return
	}
	first := m.sets[set.hash]
	if first == set {
		first = set.next
	} else {
		for before := first; before != nil; before = before.next {
			if before.next == set {
				before.next = set.next
				break
			}
		}
	}
	if m.sets[set.hash] = first; first == nil {
		delete(m.sets, set.hash)
	}
}

// relabel gives the pods of a namespace its labels.
func (m *podMirror) relabel(namespace string, labels map[string]string) {
	if labels == nil {
		delete(m.labelsOf, namespace)
	} else {
		m.labelsOf[namespace] = labels
	}
	fresh := map[*labelSet]bool{}
	for set := range m.allSets() {
		if set.namespace != namespace {
			continue
		}
		own := map[string]string{}
		for k, v := range set.labels {
			if !isDerived(k) {
				own[k] = v
			}
		}
		set.labels = allLabels(own, set.labels[labelServiceAccount], namespace, labels)
		fresh[set] = true
	}
	if len(fresh) == 0 {
		return
	}
	for id, r := range m.records {
		if fresh[r.set] {
			r.Labels = r.set.labels
			m.dirty[id] = true
		}
	}
}

func (m *podMirror) allSets() iter.Seq[*labelSet] {
	return func(yield func(*labelSet) bool) {
		for _, set := range m.sets {
			for ; set != nil; set = set.next {
				if !yield(set) {
					return
				}
			}
		}
	}
}
